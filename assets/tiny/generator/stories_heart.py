"""Stories of the children of Pellmere, second part: building, a stranger, a rescue, the dark, a gift, learning, owning up."""

from .grammar import Person, listing, number
from .scenes import feel, go_to, introduce, opening, outside
from .things import PORTABLE, grown_ups, hero_and_thing, other_gender, others
from .world import adult_of


def building(d):
    hero, thing = hero_and_thing(d, ("rope", "blanket", "bucket", "wagon", "kite", "jar", "mirror", "bell", "umbrella"))
    friend = others(d, 1, (hero,), other_gender(hero))[0]
    what, parts, use, flaw, mend = d.rng.pick((
        ("a tree house", ("planks", "nails", "a ladder"), "see as far as Heron Island", "the floor tilted like the deck of a ship", "put a wedge under the low side"),
        ("a raft", ("barrels", "planks", "a pole"), "float down to the Stone Bridge", "it sank on one side as soon as anyone stood on it", "tied one more barrel to that side"),
        ("a bird table", ("a post", "a board", "a small roof"), "feed the birds in winter", "the squirrels ate everything first", "nailed a smooth tin collar round the post"),
        ("a cart", ("two wheels", "a box", "a long handle"), "carry apples to the market", "one wheel fell off at every corner", "put a pin through the axle"),
        ("a little bridge over the stream", ("flat stones", "a log", "some sand"), "cross without getting wet feet", "the middle bent down to the water", "set a big stone under the middle"),
        ("a snow fort" , ("snow bricks", "a board for the door", "two buckets"), "hold off the whole school", "the wall leaned out and fell", "built the next wall thicker at the bottom"),
        ("a puppet theatre", ("an old crate", "a curtain", "four hinges"), "put on plays for the street", "the curtain stuck halfway", "rubbed the rod with candle wax"),
    ))
    opening(d, hero)
    if what == "a snow fort" and d.season != "winter":
        what, parts, use, flaw, mend = ("a sand castle with a moat", ("two buckets", "a board", "flat shells"), "stand up to the waves of the lake", "the tower slid down into the moat", "mixed the sand with a little more water")
    noun = what.split(" ", 1)[1].split(" over")[0].split(" with")[0]
    adult = grown_ups(d, 1, (hero.parent,))[0]
    d.say(hero, f"<Let us build {what}.|I want to build {what}.|What if we built {what}?>", f"<Then we could|With it we could> {use}.", "glad")
    d.say(friend, d.rng.pick(("How do we begin?", "What do we need?", "That sounds like a lot of work.")))
    d.s(f"they made a list: {listing(parts)}, and {hero.his} {thing.short}.", f"they needed {listing(parts)}. {hero} also <brought|fetched> {hero.his} {thing.full}, because one never knows.")
    d.para()
    go_to(d, hero, adult, False)
    d.say(hero, f"<Do you have any old wood?|May we have what you do not need any more?|Could you help us with something?>", f"We are building {what}.")
    d.say(adult, d.rng.pick(("Look behind the house, and take what you like.", "If you sweep the yard first, it is yours.", "I have a little, and I know who has more.")), adult.saying if d.rng.chance(0.5) else "")
    d.s(f"they <swept the yard|carried water|stacked firewood> for an hour and went home with {parts[0]} and {parts[1]}.", f"soon everything lay on a heap: {listing(parts)}.")
    d.did(hero, d.rng.sample(("measure everything twice", "draw a plan in the sand", "roll up both sleeves", "clear a flat place", "sort the pieces by size", "borrow a hammer"), 2))
    d.s(f"{friend} held, and {hero} hammered.", f"they worked until the sun went down, and again the next day.", f"when it got dark, they put a cloth over it and went on in the morning.", f"{friend} hit a thumb only once.", f"it took them {number(d.rng.between(2, 5))} afternoons.", f"{hero.animal} the {hero.pet} watched it all and was no help.")
    d.para()
    d.s(f"but when they tried it for the first time, {flaw}.", f"at last it was finished. It looked splendid. There was only one trouble: {flaw}.", f"the first trial did not go well: {flaw}.", f"they stood back and looked at it proudly. That was before they noticed that {flaw}." if flaw[:4] in ("the ", "it s", "one ") else f"then came the first trial, and {flaw}.")
    if d.rng.chance(0.5):
        feel(d, hero, "sad")
        d.say(friend, d.rng.pick(("Then it is not finished yet.", "My uncle says that the first one is always for learning.", "Let us look at it again after lunch.")), mood="soft")
    else:
        d.say(friend, d.rng.pick(("It was all for nothing!", "I told you that it would not work.")), mood="cross")
        d.say(hero, d.rng.pick(("No, it was for finding out.", "It almost works, and almost is a good start.")), mood="brave")
    d.s(f"they <looked at it from all sides|thought hard|tried this and that>. In the end they {mend}, and {d.rng.pick(THING_HELP[thing.noun]).format(t=thing)}.",
        f"{hero} had an idea. They {mend}. Then {d.rng.pick(THING_HELP[thing.noun]).format(t=thing)}.")
    d.s(f"and this time the {noun} <worked|held>.", f"they tried again. It <worked|held>!")
    d.para()
    feel(d, hero, "proud", 0.6, False)
    d.s(f"<now they could|from then on they could> {use}<, and they did it every day|>.", f"{adult} came by to look, walked round it once and said that it was good work.",
        f"half of {hero.street} came to see the {noun}.")
    d.maybe(0.5, f"they painted their names on it: {hero} and {friend}.", f"over it hung a sign: built by {hero} and {friend}.")


THING_HELP = {
    "rope": ("they tied everything together with the {t}", "the {t} held it all fast"), "blanket": ("the {t} became a roof", "the {t} kept out the wind"),
    "bucket": ("they hung up the {t} for small tools", "the {t} carried the last of the sand"), "wagon": ("they fetched the heavy pieces in the {t}", "the {t} brought one more load"),
    "kite": ("they put the {t} on top as a flag", "the {t} became its flag"), "jar": ("they kept the spare nails in the {t}", "the {t} held a candle for the evenings"),
    "mirror": ("they fixed the {t} to it, to see who was coming", "the {t} showed them the crooked place"), "bell": ("they hung the {t} at the side, so that guests could ring", "the {t} was the last piece of all"),
    "umbrella": ("they opened the {t} over it against the rain", "the {t} kept it dry for the night"),
}


def stranger(d):
    hero, thing = hero_and_thing(d, PORTABLE)
    opening(d, hero)
    place, = outside(d)
    who, need, gender = d.rng.pick((("an old woman with a heavy sack", "the way to the ferry", "f"), ("a man with a broken wheel on his cart", "a smith", "m"),
                            ("a girl in a torn coat", "a place to get dry", "f"), ("a tall man who spoke another language", "something to eat", "m"),
                            ("an old man with a fiddle case", "a bed for the night", "m"), ("a woman with a baby on her back", "some milk", "f")))
    he, him, his = ("she", "her", "her") if gender == "f" else ("he", "him", "his")
    kind = who.split(" ", 1)[1].split(" with")[0].split(" in ")[0].split(" who")[0]
    d.s(f"{hero} was <on the way home|on the way to school|out for a walk> when {hero.he} saw {who} near {place}.", f"near {place} stood {who}. <Nobody knew {him}.|People hurried past.>")
    d.s(f"most people looked away.", f"two men went by and pretended not to see.", f"{hero} had never seen {him} before.", "")
    d.say(hero, "<Can I help you?|Are you lost?|Do you need something?>", mood="soft")
    if "language" in who:
        d.s(f"the stranger did not understand, but {he} pointed to {his} mouth and {his} empty hands. That was easy to read: {he} needed {need}.")
    else:
        d.s(f"the {kind} <looked up|smiled> and said that {he} needed {need}.")
    d.para()
    adult = adult_of({"the way to the ferry": "the ferry landing", "a smith": "the smithy", "a place to get dry": "the tailor's shop", "something to eat": "the tea house", "a bed for the night": "the Sleeping Otter inn", "some milk": "Clover Farm"}[need])
    d.s(f"{hero} knew just the place: {adult.place}, <in|over in|down in> {adult.street}.".replace("<in|over in|down in> " + adult.street, f"on {adult.street}"),
        f"{hero} did not have to think long. {hero.his.capitalize()} friend {adult}, the {adult.job}, would help." if adult is not hero.parent else f"{hero} did not have to think long. At {adult.place}, with {hero.his} own {hero.relation}, there was help.")
    d.say(hero, "Come with me.", "<It is not far.|I know the way.|I will show you.>")
    d.s(f"they walked slowly, and {hero} carried <the bag|what there was to carry>. On the way {hero.he} showed the stranger {hero.his} {thing.full}.")
    if "language" in who:
        d.s(f"the man laughed and said a word that surely meant {thing.noun}. {hero} said it after him, and they laughed again.")
    else:
        d.say(Person(f"the {kind}", gender), d.rng.pick(("What a fine thing.", "I had one like it, long ago.", "You must take good care of it.")))
    works = d.rng.pick(adult.works)
    d.s(f"at {adult.place}, {adult} was {works}, but {adult.he} put everything down at once.", f"{adult} was {works} and looked up in surprise.")
    d.say(adult, adult.saying if d.rng.chance(0.5) else "Come in, come in.", "<Guests are good luck.|We will see to that.>")
    d.s({"the way to the ferry": "there was still a seat on the Marigold, and the ferry waited four minutes longer than it should have.",
         "a smith": "the hammer rang, sparks flew, and before the hour was over the wheel turned again.",
         "a place to get dry": "soon the coat hung by the stove, with a new patch on it, and the girl had a cup of tea in her hands.",
         "something to eat": "there was soup, and bread, and more soup. The stranger ate three bowls.",
         "a bed for the night": "there was a small room under the roof, with a round window and a warm blanket.",
         "some milk": "the baby drank, hiccupped, and fell asleep, and the woman sat down for the first time that day."}[need])
    d.para()
    d.s(f"when {hero} came back the next day, the stranger was gone.", f"in the morning the stranger had to travel on.", f"a week went by. {hero} had almost forgotten the stranger.")
    d.s(f"but for {hero} there was a small parcel with {d.rng.pick(('a carved bird', 'a shell from the sea', 'a song written on one page', 'a knitted cap', 'a bag of strange sweet nuts'))} in it, and a note: <For the one who stopped.|Thank you for your kindness.|I shall not forget Pellmere.>",
        f"years later a letter came from far away. It began like this: You will not remember me, but I remember you and your {thing.short}.",
        f"{he} left behind only a few words, but {hero} kept them: a town is as good as the person you meet first.")


def rescue(d):
    """An animal in need."""
    hero, thing = hero_and_thing(d, ("basket", "scarf", "blanket", "cap", "bucket", "hat", "wagon", "jar"))
    opening(d, hero)
    place, = outside(d)
    animal, sound, food, trouble = d.rng.pick([row for row in (
        ("kitten", "mewed", "milk", "was sitting on a branch and did not dare to come down"), ("young hedgehog", "sniffed", "chopped egg", "lay curled up in the cold, too thin for the time of year"),
        ("duckling", "peeped", "oats in water", "had lost its mother and ran in circles"), ("young owl", "snapped its beak", "bits of meat", "had fallen from its nest"),
        ("lamb", "bleated", "warm milk", "was stuck between two stones"), ("swift", "was silent", "flies", "lay on the ground and could not take off"),
        ("puppy", "whimpered", "bread and broth", "was tied to a post, and nobody was near"), ("toad", "said nothing", "worms", "sat in the middle of the path, where people walk"),
    ) if d.season in {"duckling": ("spring", "summer"), "young owl": ("spring", "summer"), "swift": ("summer",), "lamb": ("spring",), "toad": ("spring", "summer", "autumn"), "young hedgehog": ("autumn",)}.get(row[0], (d.season,))
        and not (thing.noun in ("cap", "hat", "jar") and row[0] in ("puppy", "lamb"))])
    small = animal.split()[-1]
    d.s(f"near {place} {hero.he} heard something.", f"{hero} was walking past {place} when {hero.he} stopped. What was that?", f"{hero.animal} the {hero.pet} noticed it first, near {place}.")
    d.s(f"it was a~ {animal}. It {trouble}.", f"there was a~ {animal}! It {trouble}.")
    d.s(f"it {sound} <and looked at {hero}|when {hero} came closer>.", "")
    d.say(hero, d.rng.pick(("Do not be afraid.", "Poor little thing!", "I will help you.", "Who left you here?")), mood="soft")
    d.did(hero, [d.rng.pick(("kneel down", "come closer, one small step at a time", "sit quite still for a while", "put both hands around it")), f"lift it into {hero.his} {thing.short}"])
    d.para()
    adult = d.rng.pick([adult_of("the doctor's house"), adult_of("Clover Farm"), adult_of("the library"), hero.parent])
    if adult is hero.parent:
        d.s(f"at home {hero.his} {hero.relation} looked into the {thing} and raised both eyebrows.")
    else:
        go_to(d, hero, adult, False)
    d.say(adult, f"<That is|So you have found> a~ {animal}.", f"<It needs warmth, and it needs {food}.|Give it {food}, but only a little at a time.|Keep it warm and quiet.>")
    question, answers = d.rng.pick((
        ("Will it live?", ("We shall know in a few days.", "If you are patient, it will.", "It has a strong heart. I think so.")),
        ("Can I keep it?", ("That depends on you.", "First let us find out who is missing it.") if small in ("kitten", "puppy", "lamb") else
         ("Only until it is strong. Wild things belong outside.", "For a while. Then it must go home.")),
        ("What shall I call it?", ("Look at it, and a name will come.", "You found it, so you must choose.")),
    ))
    d.say(hero, question, mood="soft")
    d.say(adult, d.rng.pick(answers))
    name = d.rng.pick(("Pebble", "Button", "Mouse", "Acorn", "Star", "Patch", "Whisper", "Bean"))
    d.s(f"{hero} called it {name}. Every {d.rng.pick(('two', 'three', 'four'))} hours it was given {food}, even in the middle of the night.",
        f"because it was so small, {hero} called it {name}. It slept in the {thing} beside the stove.", f"{hero} named it {name}, and {hero.animal} the {hero.pet} pretended not to care.")
    d.s(f"on the first day {name} would not eat. On the second day it ate a little. On the third day it wanted more.", f"after a week {name} was twice as heavy.", f"day by day {name} grew stronger.")
    d.para()
    if small in ("kitten", "puppy", "lamb"):
        other = others(d, 1, (hero,))[0]
        d.s(f"then {other} came along {hero.street}, calling and calling. It was the {small} of {other.his} cousin, lost for days!", f"nobody came to ask for {name}, though there was a note on the lime tree for a whole month.") 
        if other.name in d.current[-1]:
            feel(d, hero, "sad", 0.5, False)
            d.say(other, "You saved it!", f"<Please come and see it as often as you like.|You may visit {name} every day.>", "glad")
            d.s(f"and so {hero} lost a pet and won a friend.", f"{hero} did visit, <every Sunday|twice a week>, and {name} always knew {hero.him}.")
        else:
            d.say(hero.parent, "<Well, then it is ours.|Then it stays.|I think that it has chosen you.>", mood="soft")
            feel(d, hero, "glad", 1, False)
    else:
        d.s(f"<one warm evening|at last> {hero} took {name} back to {place} and opened {hero.his} hands. For a moment {name} did not move. Then it was gone.",
            f"when the time came, {hero} set the {thing} down near {place} and waited. {name} looked out, looked back once, and went.")
        feel(d, hero, "sad", 0.4, False)
        d.say(hero.parent, d.rng.pick(("You can love something and let it go.", f"It will remember you, in the way that a~ {small} remembers.", "That is what helping means.")), mood="soft")
        d.maybe(0.6, f"sometimes, when {hero} passes {place}, something {d.rng.pick(('rustles', 'calls', 'stirs'))} there, and {hero.he} <waves|says good evening to {name}>.")


def night(d):
    """Afraid of the dark."""
    hero, thing = hero_and_thing(d, ("lantern", "blanket", "doll", "bell", "music box", "wooden horse", "whistle", "shell"))
    introduce(d, hero)
    d.s(f"{hero} was not afraid of <dogs|high walls|thunder|deep water>. But there was one thing that {hero.he} did not like, and that was the dark.", f"{hero} had a secret: {hero.he} was afraid of the dark.")
    d.s(f"every evening {hero.he} took {hero.his} {thing.short} to bed, pulled the covers up to {hero.his} nose and listened.") 
    d.para()
    noise, cause = d.rng.pick((("scratch, scratch, scratch", "a branch of the plum tree, which rubbed against the shutter"), ("tap, tap, tap", "a drop of water that fell into a bucket under the roof"),
                               ("whoo, whoo", "the wind in the neck of an empty bottle on the window sill"), ("creak, creak", "the old gate, which nobody had closed"),
                               ("rattle, rattle", f"{hero.animal} the {hero.pet}, who was looking for supper"), ("thump, thump", "the shutter of the house next door, which had come loose")))
    d.s(f"one night there was a noise: {noise}.", f"then, one night, something went {noise}.")
    feel(d, hero, "afraid", 0.8)
    d.s(f"{hero.he} thought of <ghosts|wolves|robbers>, and each thought was bigger than the last.", f"{hero.he} wanted to call out, but no sound came.", "")
    helper = d.rng.below(3)
    if helper == 0:
        wick = adult_of("the lamp house")
        d.s(f"down in the street somebody was humming. It was {wick}, the lamplighter, on {wick.his} last round.")
        d.say(wick, "Still awake?", wick.saying)
        d.say(hero, "Something is out there.", mood="soft")
        d.say(wick, d.rng.pick(("Then let us ask it its name.", "I walk in the dark every night, and all I have ever met is cats.")))
    elif helper == 1:
        d.s(f"then {hero.he} thought: not knowing is the worst of it.", f"{hero.he} counted to twenty. Then {hero.he} counted again. Then {hero.he} got up.")
    else:
        d.say(hero.parent, "You cannot sleep?", f"<Come, we will look together.|Shall we go and see?>", "soft")
        d.s(f"{hero} took {hero.his} {hero.relation}'s hand.")
    d.para()
    if thing.noun == "lantern":
        d.s(f"{hero} lit the {thing}, and the shadows jumped back into their corners.")
    else:
        d.s(f"{hero} held the {thing} tightly and <opened the door|went to the window|put one bare foot on the floor>.", f"with the {thing} under one arm, {hero} went step by step along the hall.")
    d.s(f"{noise}. It was louder now. And then {hero} saw it. It was {cause}!", f"and what was it? It was nothing but {cause}.")
    d.s(f"{hero} laughed until {hero.his} sides hurt.", f"{hero} let out a long breath.", f"{hero} felt rather silly, and very much relieved.")
    d.s("above the roofs stood more stars than anyone could count.", "the moon had laid a white path across the lake.", "far off the clock in the tower struck, four minutes late, as always.")
    d.s(f"in the dark, {hero} found, everything was still there, only quieter.", f"since then {hero} likes the night, a little.", f"the dark had not changed. {hero} had.")
    d.s(f"and the {thing}? It sleeps on the shelf now<, and it is not afraid either|>.", "")


def gift(d):
    hero, thing = hero_and_thing(d)
    friend = others(d, 1, (hero,), other_gender(hero))[0]
    elder = hero.parent
    opening(d, hero)
    d.s(f"in {number(d.rng.between(2, 6))} days it would be the birthday of {hero.his} friend {friend}.", f"{friend}, {hero.his} friend from {friend.street}, would soon be {number(friend.age + 1)}.")
    have, wages = d.rng.between(2, 9), (d.rng.between(2, 6), d.rng.between(2, 6))
    price = have + sum(wages)
    shop = d.rng.pick(("Plum Street", "Copper Lane", "Bell Square"))
    d.s(f"{hero} knew what {friend} wanted: a~ {thing.full}. It stood in a window on {shop} and cost {number(price)} pennies.",
        f"in a window on {shop} stood a~ {thing.full}, for {number(price)} pennies, and {friend} stopped in front of it every day.")
    d.s(f"but {hero} had only {number(have)} pennies.", f"{hero} emptied {hero.his} jar on the table and counted {number(have)} pennies. That was not enough.",
        f"{hero} had {number(have)} pennies, which left {number(price - have)} to be found somewhere.")
    d.para()
    jobs = grown_ups(d, 2, (elder,))
    for n, (adult, pay) in enumerate(zip(jobs, wages)):
        task = d.rng.pick(TASKS[adult.job])
        d.s(f"{'so' if n == 0 else 'the next day'} {hero.he} helped {adult}, the {adult.job}, to {task}, and got {number(pay)} pennies for it.",
            f"{'first' if n == 0 else 'then'} {hero.he} went to {adult.place} to {task}. {adult} gave {hero.him} {number(pay)} pennies.",
            f"{adult} paid {number(pay)} pennies to anyone who would {task}, and {hero} did it.")
        have += pay
        d.maybe(0.3, f"now {hero} had {number(have)} pennies.", f"that made {number(have)} pennies.")
    d.para()
    turn = d.rng.below(3)
    if turn == 0:
        d.s(f"with {number(have)} pennies in {hero.his} pocket, {hero} ran to the shop. The window was empty. Somebody had bought the {thing}!")
        feel(d, hero, "sad", 0.8)
        d.s(f"so {hero} made one. It took {'three evenings' if d.rng.chance(0.5) else 'two whole days'} and a great deal of <paper and glue|patience|string>. One side was crooked.")
        d.say(friend, f"You made this?", "<Then there is only one like it in the world!|It is better than the one in the window.>", "glad")
    elif turn == 1:
        other = grown_ups(d, 1, tuple(jobs) + (elder,))[0]
        d.s(f"on the way to the shop {hero} met {other}, who <had lost a purse|looked worried>. {other.he} <had to send medicine to a sick sister and could not pay for it|needed {number(have - 1)} pennies by noon to pay the rent>. {hero} looked at the pennies for a long time and gave them away.")
        d.s(f"there was no {thing} for {friend} on that birthday. There was only {hero}, with empty hands, telling what had happened.")
        d.say(friend, d.rng.pick(("That is the best present that nobody ever gave me.", "I would have done the same.", "A friend like that is better than anything in a window.")), mood="soft")
        d.s(f"and who stood at the door that evening? {other}, with a parcel under one arm. In it was the {thing.short}.")
    else:
        d.s(f"on the last day {hero.he} counted once more and had just enough. {hero.his} hands shook a little as {hero.he} paid.")
        d.s(f"{friend} opened the paper slowly<, fold by fold|>. <Then came a shout that the whole street could hear.|For a moment there was no sound at all.|The paper fell to the floor, and nobody picked it up.>")
        d.say(friend, "How did you know?", mood="glad")
        d.say(hero, "I saw you looking at it.", "<Every day, on the way to school.|>", "soft")
    d.s("a present is a thing, but the giving lasts longer.", f"{friend} still has it.", f"they ate cake with {friend.animal} the {friend.pet} and talked until the lamps were lit.",
        f"{hero} walked home in the dusk, {'without a penny' if turn == 2 else 'tired'} and very happy.")


TASKS = {
    "baker": ("carry flour", "brush the crumbs off the shelves"), "librarian": ("dust the books", "sort the cards"), "smith": ("work the bellows", "pick up old nails"),
    "florist": ("water the flowers", "tie bunches of lavender"), "farmer": ("feed the hens", "carry milk cans"), "fruit grower": ("pick up fallen apples", "stack the crates"),
    "beekeeper": ("wash the honey jars",), "potter": ("knead the clay",), "fisherman": ("untangle a net",), "tailor": ("find pins on the floor with a magnet",),
    "clockmaker": ("polish the brass wheels",), "candlemaker": ("cut wicks",), "innkeeper": ("beat the carpets", "peel potatoes"), "lamplighter": ("clean the lamp glasses",),
    "ferry captain": ("scrub the deck",), "postmistress": ("deliver three letters",), "miller": ("tie up the sacks",), "boatbuilder": ("sweep up the shavings",),
    "toymaker": ("sand a row of wooden blocks",), "cook": ("shell peas",), "doctor": ("roll bandages",), "music teacher": ("put the notes in order",), "mayor": ("fold two hundred letters",), "teacher": ("wash the board",),
}


def learning(d):
    hero, thing = hero_and_thing(d, ("flute", "whistle", "drum", "kite", "fishing rod", "top", "rope", "penknife", "paint box", "notebook"))
    skill, first, sign = {
        "flute": ("play the flute", "a sound like a sick duck", "a tune, thin but true"), "whistle": ("play a song on the whistle", "one long squeak", "three notes in a row, and they were the right ones"),
        "drum": ("keep time on the drum", "a noise like falling pots", "a beat that made people's feet move"), "kite": ("fly a kite", "a dive straight into the mud", "a tug on the string, and the kite stood high over the hill"),
        "fishing rod": ("fish", "an old boot", "a perch as long as a hand"), "top": ("spin a top for a whole minute", "three turns and a fall", "a hum that went on and on"),
        "rope": ("skip on one leg", "a knot around both ankles", "ten, twenty, thirty skips without a fault"), "penknife": ("carve a bird", "something like a potato with a nose", "a bird that seemed ready to fly"),
        "paint box": ("paint the lake", "a blue puddle", "a lake with light on it"), "notebook": ("write a poem", "two lines that did not rhyme", "eight lines, and the last one made people quiet"),
    }[thing.noun]
    opening(d, hero)
    teacher = grown_ups(d, 1, (hero.parent,))[0]
    d.s(f"{hero} wanted to learn to {skill}.", f"there was one thing that {hero} wanted more than anything: to {skill}.", f"{hero} had seen {teacher} {skill}, and now {hero.he} wanted to do it too.")
    d.s(f"{hero.he} had a~ {thing.full}, and {hero.he} had time.", f"{hero.his} {hero.relation} had given {hero.him} a~ {thing.full}.")
    d.s(f"the first try brought {first}.", f"but all that came of it was {first}.")
    d.maybe(0.6, f"{hero.animal} the {hero.pet} left the room.", f"somebody across the street closed a window.", "two boys laughed.")
    d.say(hero, "<I will never learn it.|It is too hard.|I am no good at this.>", mood="sad")
    d.para()
    go_to(d, hero, teacher, False)
    d.say(teacher, d.rng.pick(("How often have you tried?", "How many times did you try?", "And how often did you try it?")))
    tries = d.rng.between(2, 9)
    d.say(hero, d.rng.pick((f"{number(tries)} times.", f"{number(tries)} times, I think.")))
    d.say(teacher, d.rng.pick((f"When I was your age, I tried a hundred times.", f"Then you have {number(100 - tries)} more to go before you may complain.", "Do it a little worse on purpose, and see what happens.", "Do only the first bit, and do it slowly.")), teacher.saying if d.rng.chance(0.5) else "")
    d.s(f"so {hero} practised, <every day after school|in the mornings, before anyone was up|behind the house, where nobody could hear>.")
    d.s("on Monday it was no better. On Tuesday it was worse. On Wednesday there was a moment, no longer than a blink, when it was right.", "a week went by, and then another.", f"sometimes {hero.he} wanted to throw the {thing} into the lake. {hero.he.capitalize()} did not do it.")
    d.para()
    d.s(f"and then, <one evening|on the {d.rng.pick(('ninth', 'tenth', 'twelfth'))} day>, there it was: {sign}.", f"then one morning {hero} tried once more, hardly thinking of it. And there was {sign}.")
    feel(d, hero, "proud", 0.6, False)
    d.say(hero.parent, "<Was that you?|Do that again!|I would not have believed it.>", mood="glad")
    d.s(f"{hero} ran to {teacher.place} to show {teacher}, who only nodded. But it was a very good nod.",
        f"at the <Apple Fair|Lantern Feast> {hero} did it in front of the whole town.", f"later {others(d, 1, (hero,))[0]} asked {hero} whether it was hard. It was very hard, said {hero}, and then it was easy.")


def owning_up(d):
    """Something is broken, and who did it is known to one only."""
    hero, thing = hero_and_thing(d, ("teapot", "mirror", "mug", "jar", "music box", "watch", "bell", "umbrella", "magnifying glass", "wooden horse"))
    owner = hero.parent if d.rng.chance(0.4) else grown_ups(d, 1, (hero.parent,))[0]
    opening(d, hero)
    d.s(f"{owner} had a~ {thing.full} and was very fond of it.", f"on a shelf at {owner.place} stood a~ {thing.full}. It belonged to {owner}, and nobody was allowed to touch it." if thing.noun != "umbrella" else f"{owner} owned a~ {thing.full}, and nobody else was allowed to open it.")
    d.s(f"{hero} only wanted to look at it.", f"{hero} was alone with it for no more than a minute.", f"{hero} had been told to keep {hero.his} hands in {hero.his} pockets.")
    d.s(f"but it slipped, and there was a crack.", f"it happened so fast. There was a crash, and then it was very quiet.", f"something went snap.")
    feel(d, hero, "afraid", 0.7)
    d.s(f"{hero.he} <put the pieces together as well as {hero.he} could|turned the broken side to the wall> and <tiptoed out|ran home>.", f"nobody had seen it. Nobody but {hero.animal} the {hero.pet}." if hero.pet not in ("calf", "pony", "donkey", "otter") else "nobody had seen it.")
    d.para()
    d.say(owner, f"<Who has broken my {thing}?|What has happened to the {thing}?>", mood="cross") if d.rng.chance(0.5) else d.s(f"the next day the {thing} was the talk of the street. Some said that it had been <the wind|a cat|a mouse>.")
    d.s(f"{hero} said nothing. <The bread tasted of nothing.|The day was grey.|The words sat in {hero.his} throat like a crumb.>", f"{hero} could not eat, and {hero.he} could not sleep.", f"every time somebody said {thing}, {hero} looked at {hero.his} shoes.")
    if d.rng.chance(0.5):
        blamed = others(d, 1, (hero,), other_gender(hero))[0]
        d.s(f"then people began to say that it had been {blamed}.")
        d.say(blamed, "It was not me!", mood="sad")
        d.s(f"that was too much for {hero}.")
    d.para()
    d.did(hero, ["take a deep breath", f"walk <straight|slowly> to {owner.place}"])
    d.say(hero, f"It was me.", f"I broke the {thing}. <I am so sorry.|It was an accident, and I was afraid to say so.>", "soft")
    d.s(f"{owner} was silent for a moment.", f"{owner} looked at {hero} for a long time.", f"the clock ticked.")
    d.say(owner, d.rng.pick(("That was harder than breaking it, was it not?", f"A~ {thing.noun} can be mended. I am glad that you told me." if thing.noun[0] not in "aeiou" else f"It can be mended. I am glad that you told me.", "I have waited for you to come.", "Thank you for the truth.")), owner.saying if d.rng.chance(0.3) else "", "soft")
    d.s(f"together they mended it with <glue and patience|a steady hand>, and a thin line remained. {owner} said that it was the best part of it.", f"for three Saturdays {hero} helped {owner} at {owner.place}, and then they were even.",
        f"{hero} offered all {hero.his} pennies. {owner} took one, and gave back the rest.")
    d.s(f"that night {hero} slept like a stone.", "a broken thing weighs less than a lie.", f"and the bread tasted of bread again.", f"{hero} walked home and felt as light as a feather.")
