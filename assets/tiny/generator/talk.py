"""Dialogues and riddles: two voices, with little told between them."""

from .facts import shop_facts
from .grammar import Person, count, expand, number, settle, upper_first
from .scenes import introduce, set_scene, when, when_plain
from .stories_town import SOLD
from .things import PORTABLE, grown_ups, hero_and_thing, others
from .world import ADULTS, PLACES_OUT, TOWN_FACTS


def voices(d, one, two, lines, named):
    """Lines in turn: as speech with tags that thin out, or as a play with names before each line."""
    for n, line in enumerate(lines):
        who = (one, two)[n % 2]
        if named:
            d.line(f"{who}: {line}")
        elif n < 2 or d.rng.chance(0.4):
            first, _, rest = split_first(line)
            d.say(who, first, rest, pronoun=False)
            if d.rng.chance(0.7):
                d.para()
        else:
            d.para()
            d.current.append(f'"{upper_first(line)}"')
            d.last_speaker = who.name
            d.para()


def split_first(line):
    for i, letter in enumerate(line[:-1]):
        if letter in ".?!" and line[i + 1] == " ":
            return line[:i + 1], " ", line[i + 2:]
    return line, "", ""


def p(d, *options):
    return upper_first(settle(expand(d.rng, d.rng.pick(options))))


def asking_the_way(d):
    set_scene(d)
    stranger = d.rng.pick((("Traveller", "m"), ("Visitor", "f"), ("Painter", "m"), ("Singer", "f"), ("Pedlar", "m")))
    guest = Person(f"the {stranger[0].lower()}", stranger[1])
    child = others(d, 1)[0]
    goal, by = grown_ups(d, 2)
    named = d.rng.chance(0.4)
    if named:
        guest = Person(f"The {stranger[0].lower()}", stranger[1])
    d.s(f"{when(d)}, {guest.name.lower()} {d.rng.pick(('came over the Stone Bridge', 'got off the ferry', 'stopped in Bell Square', 'came down the road from Gorse Hill'))} and met {child}.")
    d.para()
    street = goal.street if goal.street != "Gorse Hill" else "Gorse Hill"
    lines = [
        p(d, f"Excuse me. How do I get to {goal.place}?", f"Good day. I am looking for {goal.place}.", f"Hello! Can you tell me the way to {goal.place}?"),
        p(d, f"{upper_first(goal.place)}? That is on {street}.", f"You have to go to {street}.", f"That is easy. It is on {street}."),
        p(d, "And how do I know that I am there?", "How shall I know the house?", "What does it look like?"),
        p(d, f"Look for the {goal.door} door.", f"The door is {goal.door}.") + " " + p(d, f"And {goal.detail}.", f"Besides, {goal.detail}."),
        p(d, "Is it open today?", "When does it open?", "When is it open?") if d.rng.chance(0.7) else p(d, f"And who works there?"),
    ]
    if "who works" in lines[-1]:
        lines.append(p(d, f"{goal.full}, the {goal.job}.", f"That is {goal.full}. {upper_first(goal.he)} is the {goal.job}."))
    else:
        lines.append(p(d, f"It opens at {goal.opens} in the morning, and it is closed on {goal.closed}.", f"Every day but {goal.closed}, from {goal.opens} in the morning."))
    lines += [
        p(d, "You know everything!", "Thank you. You are very kind.", "What a helpful child you are."),
        p(d, f"I live here, on {child.street}.", f"If you get lost, ask {by} {by.at}.", "It is a small town.", f"Tell {goal.him} greetings from {child}."),
    ]
    voices(d, guest, child, lines, named)
    d.para()
    d.s(f"and so {guest.name.lower()} found {goal.place} without any trouble.", f"{guest.name.lower()} <bowed|waved> and walked off towards {street}.", f"{child} looked after {guest.name.lower()} for a while and then went on.")


def at_the_shop(d):
    set_scene(d)
    child = others(d, 1)[0]
    adult = d.rng.pick([a for a in ADULTS if a.job in SOLD and a is not child.parent])
    item = d.rng.pick(SOLD[adult.job])
    n, price = d.rng.between(2, 6), d.rng.between(2, 5)
    pay = n * price + d.rng.pick((0, 1, 2, 3, 5))
    named = d.rng.chance(0.4)
    d.s(f"{child} came into {adult.place}. {adult} was {d.rng.pick(adult.works)}." if adult.place not in ("the orchard", "Clover Farm", "the bee garden", "the boatyard") else f"{child} came to {adult.place}. {adult} was {d.rng.pick(adult.works)}.")
    d.para()
    lines = [
        p(d, f"Good {'morning' if d.part == 'morning' else 'afternoon' if d.part == 'afternoon' else 'evening'}, {adult}.", f"Hello, {adult}! What a lovely smell."  if adult.job in ("baker", "cook", "florist", "candlemaker", "beekeeper") else f"Hello, {adult}!"),
        p(d, f"Good day, {child}. What can I do for you?", f"Ah, {child}! What will it be today?", f"Hello, {child}. How is your {child.pet}?"),
    ]
    if "pet" in lines[-1] or lines[-1].endswith(f"{child.pet}?"):
        lines.append(p(d, f"{child.animal} is very well, thank you. I need {count(n, item)}.", f"{child.animal} is fast asleep. My {child.relation} wants {count(n, item)}."))
    else:
        lines.append(p(d, f"I should like {count(n, item)}, please.", f"My {child.relation} needs {count(n, item)}.", f"{upper_first(count(n, item))}, please."))
    lines.append(p(d, f"They are {number(price)} pennies each, so that makes {number(n * price)}.", f"{upper_first(number(n))} times {number(price)} is {number(n * price)}. That makes {number(n * price)} pennies."))
    lines.append(p(d, f"Here are {number(pay)} pennies.", f"I have {number(pay)}."))
    lines.append(p(d, f"Then you get {number(pay - n * price)} back." if pay - n * price > 1 else "Then you get one penny back.") + " " + adult.saying if pay > n * price else p(d, "That is just right.", "Exactly right. You can count!") + " " + adult.saying)
    lines.append(p(d, "Thank you, and goodbye!", "Thank you! Until next time.", "Goodbye, and thank you."))
    lines.append(p(d, f"Greetings to your {child.relation}.", "Come again soon.", f"Wait, here is {adult.gift}, because it is {d.rng.pick(('raining', 'you', 'Saturday'))}." if adult.closed != "Saturday" else "Come again soon."))
    voices(d, child, adult, lines, named)
    d.para()
    d.s(f"{child} went home with {count(n, item)}{' and ' + number(pay - n * price) + (' pennies' if pay - n * price > 1 else ' penny') if pay > n * price else ''}.", f"outside, {child} counted once more: {count(n, item)}. It was right.")


def quiz(d):
    """Two children ask each other about the town."""
    one, two = others(d, 2)
    named = d.rng.chance(0.5)
    d.s(f"it was raining, and {one} and {two} were playing a game: one asks, and the other answers.", f"{one} and {two} sat on the steps and asked each other questions about Pellmere.", f"on the way home {one} wanted to know how much {two} knew about the town.")
    d.para()
    lines = []
    pool = list(TOWN_FACTS) + [(q, a) for adult in d.rng.sample(ADULTS, 3) for q, a, _ in shop_facts(adult)[:6]]
    for question, answer in d.rng.sample(pool, d.rng.between(4, 6)):
        lines += [question, p(d, answer, f"I know that. {answer}", answer, answer)]
    voices(d, one, two, lines, named)
    d.para()
    d.s(f"{two} knew every answer.", f"after that it was {two}'s turn to ask.", f"{one} could not think of a question that {two} could not answer.", f"then the sun came out, and the game was over.")


RIDDLES = (
    ("I have teeth, but I never bite. I go through your hair in the morning. What am I?", "a comb", ("a dog", "a saw")),
    ("I have hands and a face, but I cannot smile. I run all day and never leave my place. What am I?", "a clock", ("a king", "a mill")),
    ("The more you take away from me, the bigger I become. What am I?", "a hole", ("a cake", "a heap")),
    ("I fall all day in winter, and I never hurt myself. I am white, and I make no sound. What am I?", "the snow", ("a feather", "the milk")),
    ("I have a neck, but no head. I hold what you drink. What am I?", "a bottle", ("a goose", "a shirt")),
    ("I run, but I have no legs. I have a bed, but I never sleep. What am I?", "a river", ("a cat", "a wagon")),
    ("I have a back and four legs, but I cannot walk. What am I?", "a chair", ("a pony", "a tortoise")),
    ("I am full of holes, and still I hold water. What am I?", "a sponge", ("a net", "a boat")),
    ("I follow you when the sun shines. I am long in the evening and short at noon. What am I?", "your shadow", ("a dog", "a thief")),
    ("I have leaves, but I am not a tree. I tell stories, but I cannot speak. What am I?", "a book", ("a cabbage", "a bush")),
    ("I get wet while I make you dry. What am I?", "a towel", ("an umbrella", "the rain")),
    ("I have an eye, but I cannot see. I carry a thread behind me. What am I?", "a needle", ("a potato", "a spider")),
    ("I go up the hill and down the hill, but I never move. What am I?", "a path", ("a goat", "the moon")),
    ("I am light as a feather, but nobody can hold me for long. What am I?", "your breath", ("a bubble", "a secret")),
    ("I speak every language, but only after you. I live between the hills. What am I?", "an echo", ("a parrot", "a teacher")),
    ("I grow when I eat and die when I drink. What am I?", "a fire", ("a plant", "a giant")),
    ("You break me before you use me. I am white outside and yellow inside. What am I?", "an egg", ("a cup", "a promise")),
    ("I have no lungs, but I need air. I have four sails, but I am not a ship. What am I?", "a windmill", ("a kite", "a ferry")),
    ("I belong to you, but others use me more than you do. What am I?", "your name", ("your ball", "your bed")),
    ("I hang above the door and light the street, and Mr Wick visits me each evening. What am I?", "a lamp", ("the moon", "a sign")),
    ("I am born in the water, I lose my tail, and I sing in the evening. What am I?", "a frog", ("a fish", "a swan")),
    ("I have a lid, but I am not a pot. I close at night without a sound. What am I?", "an eye", ("a box", "a shop")),
    ("I have keys, but no locks, and I sing when you press me. What am I?", "a piano", ("a jailer", "a bird")),
    ("I stand on one leg and wear a hat in the wood, and I come after the rain. What am I?", "a mushroom", ("a heron", "a post")),
    ("I am the brother of the hammer. I have a head, but no hair, and I like to be hit on it. What am I?", "a nail", ("a drum", "a pin")),
    ("I come down, but I never go up. The gardens like me, and the washing does not. What am I?", "the rain", ("the night", "a leaf")),
)


def riddles(d):
    one, two = others(d, 2)
    d.s(f"{one} and {two} <sat|were sitting> {d.rng.pick(('on the steps of the bell tower', 'under the lime tree', 'on the Stone Bridge', 'by the stove', 'in the hay at Clover Farm', 'at the ferry landing'))} and <had nothing to do|were telling each other riddles|waited for the rain to stop>.",
        f"Etta is the best at riddles in the whole school, but today {one} and {two} wanted to try it without her." if "Etta" not in (one.name, two.name) else f"{one} knew a new riddle and could not keep it to {one.himself}.")
    for n, (riddle, answer, wrong) in enumerate(d.rng.sample(RIDDLES, d.rng.between(2, 4))):
        d.para()
        asker, guesser = (one, two) if n % 2 == 0 else (two, one)
        d.say(asker, riddle)
        way = d.rng.below(4)
        if way == 0:
            d.say(guesser, f"Is it {wrong[0]}?", mood="plain")
            d.say(asker, "No.", "<Guess again.|Think about it.|Not even close.>")
            d.say(guesser, f"Then it is {answer}!", mood="glad")
        elif way == 1:
            d.say(guesser, f"{upper_first(wrong[0])}?")
            d.say(asker, "No.")
            d.say(guesser, f"{upper_first(wrong[1])}?")
            d.say(asker, "No, and that was your last try.", f"It is {answer}.")
            d.maybe(0.5, f"{guesser} groaned.", f"{guesser} could have thought of that.")
        elif way == 2:
            d.s(f"{guesser} did not have to think for long.", f"{guesser} looked up at the sky and thought.", f"{guesser} counted on the fingers of one hand.")
            d.say(guesser, f"It is {answer}.", "<Mine is harder.|I knew that one.|>")
        else:
            d.say(guesser, "I give up.", "What is it?")
            d.say(asker, f"It is {answer}!", mood="glad")
    d.para()
    d.s("and so it went on until supper.", f"who had won? Nobody had counted.", f"{two} went home and tried all of them out on {two.his} {two.relation}.", f"{one} laughed. Tomorrow there would be new ones.", "")


def disagreement(d):
    """Two ways to see a small thing, and an end to it."""
    one, thing = hero_and_thing(d, PORTABLE)
    two = others(d, 1, (one,))[0]
    place = d.rng.pick(PLACES_OUT)
    named = d.rng.chance(0.3)
    topic = d.rng.below(8)
    if topic == 4:
        place = d.rng.pick(("the Stone Bridge", "the water wheel on Mill Lane", "the stepping stones in the river"))
    set_scene(d)
    introduce(d, one)
    d.s(f"{when_plain(d)} {one} and {two} met near {place}.", f"that {d.part} {two} came to see {one}, and they went for a walk to {place}.", f"{one} and {two} were walking home past {place}, and {d.sky}.", f"{two} <waited for|met> {one} near {place}, and {d.sky}.")
    d.para()
    if topic == 0:
        lines = [f"Look what I have found! It is a~ {thing.full}.", "Then you must give it back.", "But nobody was there.", p(d, "Somebody is looking for it at this moment.", "It did not fall from the sky.", "Somebody is sad because of it."), p(d, "How do you know that?", "Maybe nobody wants it."),
                 f"When I lost my {d.rng.pick(('cap', 'coin', 'ball', 'mitten'))}, I cried for two days.", p(d, "You are right. Where shall we ask first?", "All right. Let us ask at the post office."), p(d, "Let us hang a note on the lime tree.", "Miss Finch knows everyone. We shall ask her.")]
        end = (f"before the evening the {thing} was back with its owner, who gave them {d.rng.pick(('a bag of cherries', 'a penny each', 'a hug'))}.", f"they wrote the note together: Found, a~ {thing.short}. Ask for {one}.")
    elif topic == 1:
        lines = ["The sun is bigger than the moon.", "But they look the same.", p(d, "That is because the sun is much farther away.", "The sun is far, and the moon is near."), p(d, "How can you know? Have you been there?", "Who says so?"), p(d, "Mr Fenn showed me a book about it.", "It is in a book at the library."), p(d, "Then a small thing that is near looks like a big thing that is far.", "So the Stone Bridge looks small from Gorse Hill, and it is not small at all."),
                 "Yes, that is it exactly!", p(d, "Now I want to read that book too.", "And what about the stars?")]
        end = ("they went to the library to find out more.", "that evening both of them looked at the moon for a long time.")
    elif topic == 2:
        lines = [f"When I am grown up, I shall be a~ {d.rng.pick(ADULTS).job}.", p(d, "Yesterday you wanted to be a sailor.", "And who will look after your " + one.pet + "?"), p(d, "One can change one's mind.", "I think about it every day."), f"I want to be like {grown_ups(d, 1)[0].full}.",
                 p(d, "Why?", "What is so good about that?"), p(d, "Because everyone who goes there comes out smiling.", "Because the work is different every day.", "Because I like to make things with my hands."), p(d, "That is a good reason.", "I had not thought of that."), p(d, "And if not, I shall simply stay a child.", "We still have time.")]
        end = ("there was a lot of time left to decide.", f"{one} thought about it until {one.he} fell asleep.")
    elif topic == 3:
        lines = [f"May I borrow your {thing.short}?", p(d, "What do you need it for?", "For how long?"), p(d, "It is a surprise. I shall bring it back on Sunday.", "Only until Sunday. I promise."), p(d, "Last time you forgot.", "You said that the last time, too."), p(d, "That is true, and I am sorry. This time I have tied a knot in my sleeve.", "I know. So I shall leave you my cap until then."),
                 p(d, "All right. But take good care of it.", "Good. On Sunday, then."), p(d, "I will. You will not be sorry.", "You are a good friend."), "I hope that it is a good surprise."]
        one, two = two, one
        end = (f"on Sunday {one} stood at the door with the {thing}, and with a plum cake in the other hand.", f"on Saturday already, one day early, the {thing} was back.")
    elif topic == 4:
        lines = [p(d, "Where does all the water of the river go?", "Look how fast the river is today. Where is it going?"), "It flows into Lake Mirrow.", p(d, "And why is the lake never full?", "Then the lake must run over one day."), p(d, "I think that the sun drinks some of it.", "Some of it goes up into the clouds. Miss Ansel told us."),
                 p(d, "And the clouds carry it back?", "So the rain is old lake water?"), p(d, "Yes, they rain on the hills, and it runs down again.", "Exactly, and it comes down on Gorse Hill, and begins from the start."), p(d, "So this water has been here before?", "Then I may have washed my hands with it already."), p(d, "Maybe a hundred times.", "You, and your grandmother before you.")]
        end = ("they threw in a leaf and said goodbye to it until next year.", f"{one} looked at the river quite differently after that.", "a duck came by and did not care where the water went.")
    elif topic == 5:
        late = d.rng.between(2, 9)
        lines = ["You are late!", p(d, f"I am not. The clock in the tower shows {number(late)}.", f"No, look at the tower. It is {number(late)} o'clock."), "The clock in the tower is four minutes slow. Everybody knows that.", p(d, "Why does nobody put it right?", "Then why does Mr Penn not mend it?"),
                 p(d, "Mr Penn says that the town likes it that way.", "The mayor once put it to a vote, and most people were against it."), p(d, "But then everyone is four minutes late.", "So all of us are late together?"), p(d, "And so nobody is.", "That is why nobody minds."), p(d, "Then I was not late at all.", "In that case, good morning."), p(d, "You were four minutes late, and six more.", "Let us go, before it strikes.")]
        end = ("behind them the clock struck, four minutes late, as it should.", f"they had to laugh, and then they ran.")
    elif topic == 6:
        lines = [p(d, f"{one.animal} can understand every word that I say.", f"{one.animal} knows what I think."), p(d, f"A~ {one.pet} cannot do that.".replace("A ", "A~ "), f"Nonsense. {one.animal} is a~ {one.pet}."), "Then watch.", p(d, "What am I to see?", "I am watching."), f"{one.animal}, if you understand me, do nothing at all.", p(d, "But nothing happened.", f"{one.animal} is only sitting there."), p(d, "Exactly! That is what I asked for.", "You see? Not a move."), p(d, f"Now ask {one.animal.him} to dance.", "That is a trick."),
                 p(d, f"{one.animal.he} does not like to dance on {d.rng.pick(('Mondays', 'Fridays', 'Sundays'))}.", f"{one.animal.he} only dances when nobody is looking.")]
        end = (f"{one.animal} yawned.", f"{two} went home and tried it with {two.animal} the {two.pet}.", f"whether {one.animal} had understood it, nobody knows but {one.animal}.")
    else:
        lines = [p(d, "It is going to rain.", "I think that a storm is coming."), p(d, "How do you know? The sky is blue.", "Nonsense, the sun is shining."), p(d, "I can smell it.", "The cows at Clover Farm are lying down.", *(("The swallows are flying low.", "The bees have all gone home.") if d.season == "summer" else ("The gulls have come inland.",))), p(d, "I do not believe in signs.", "That means nothing."), p(d, "Shall we bet? The loser carries the bags.", "Wait and see."), p(d, "Agreed.", "I am waiting."),
                 "There! Did you feel that?", p(d, "That was one drop.", "It was only a bird.")]
        end = ("ten minutes later they were both wet to the skin, and laughing.", "then it poured. They ran for the nearest roof.")
    voices(d, one, two, lines, named)
    d.para()
    d.s(*end)
