"""Letters, diaries and lists: the same town, seen by those who live in it."""

from .grammar import conjugate, listing, number
from .scenes import SKY, set_scene
from .things import grown_ups, hero_and_thing, others
from .world import PLACES_OUT

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = {"spring": ("March", "April", "May"), "summer": ("June", "July", "August"), "autumn": ("September", "October", "November"), "winter": ("December", "January", "February")}

# what a child may do in a day: base verb phrases that fit any child
DEEDS = (
    "climb the old lime tree", "help at the ferry landing", "feed the ducks on the lake", "draw a map of the street", "learn a new song", "pick a basket of berries",
    "read a whole book", "walk to the windmill and back", "sweep the yard", "catch a fish and let it go", "make a crown of daisies", "write a poem", "find a bird's nest",
    "build a dam in the stream", "visit the bell tower", "bake biscuits", "wash the windows", "play hide and seek in the orchard", "carry letters for Miss Finch", "sit in the tea house",
    "mend a torn sleeve", "count the boats in the harbour", "watch the smith at work", "plant beans along the fence", "stack firewood", "skip stones across the water",
    "fly a kite on Gorse Hill", "polish the brass lamp", "practise the flute", "knit half a sock", "look for chestnuts", "paint a picture of the bridge", "ride to the mill on the flour cart",
    "listen to a story at the library", "buy a bun at the bakery", "swim to the first post", "help to pick pears", "clean the hen house", "take a parcel to the doctor", "lie in the grass and look at the clouds",
)
WINTER_ONLY = ("skate on the frozen pond", "build a snowman with two noses", "slide down Gorse Hill on a tray", "hang up straw stars", "dig a path through the snow", "roast apples on the stove")
SUMMER_ONLY = ("swim to the first post", "pick a basket of berries", "make a crown of daisies", "catch a fish and let it go", "lie in the grass and look at the clouds", "plant beans along the fence", "skip stones across the water", "build a dam in the stream", "help to pick pears", "look for chestnuts", "find a bird's nest", "play hide and seek in the orchard", "feed the ducks on the lake")


def deeds(d, k):
    pool = [deed for deed in DEEDS if deed not in SUMMER_ONLY] + list(WINTER_ONLY) if d.season == "winter" else list(DEEDS)
    if d.season in ("spring", "autumn"):
        pool = [deed for deed in pool if deed not in ("swim to the first post",)]
    if d.season == "spring":
        pool = [deed for deed in pool if deed not in ("pick a basket of berries",)]
    if d.season != "autumn":
        pool = [deed for deed in pool if deed not in ("look for chestnuts", "help to pick pears")]
    return d.rng.sample(pool, k)


def letter(d):
    set_scene(d)
    writer, thing = hero_and_thing(d)
    kind = d.rng.below(4)
    friend = others(d, 1, (writer,))[0]
    relation = d.rng.pick(("Aunt", "Uncle", "Cousin", "Grandmother"))
    far = d.rng.pick(("Rosalind", "Clemens", "Judith", "Bertram", "Sybil", "Konrad", "Paulina", "Edwin"))
    girl = far in ("Rosalind", "Judith", "Sybil", "Paulina")
    if relation in ("Aunt", "Grandmother") and not girl or relation == "Uncle" and girl:
        relation = "Cousin"
    to = f"{relation} {far}" if relation != "Cousin" else far
    d.line(f"Pellmere, {writer.street}, the {ordinal(d.rng.between(1, 28))} of {d.rng.pick(MONTHS[d.season])}")
    d.paragraphs[-1] += "."
    if kind == 0:      # news
        d.line(f"Dear {to},")
        d.s("how are you? I am well.", "thank you for your letter. I read it three times.", "it is a long time since I wrote to you.", f"today {d.sky}, so I have time to write.")
        d.s(f"a great deal has happened here.", f"{writer.animal} the {writer.pet} sends you greetings.", f"{writer.relation} says that you never heard about our {d.season}.".replace(f"{writer.relation} says", f"my {writer.relation} says"))
        d.para()
        for n, deed in enumerate(deeds(d, d.rng.between(3, 4))):
            day = DAYS[(n * 2 + 1) % 7]
            d.s(f"on {day} I {conjugate(deed, 'past')}.", f"on {day} {friend} and I {conjugate(deed, 'past')}." if "half a sock" not in deed else f"on {day} I {conjugate(deed, 'past')}.", f"I {conjugate(deed, 'past')} on {day}<, and it was great fun|, all by myself|>.")
            d.maybe(0.4, "you should have seen it!", f"{friend} laughed so much that we had to sit down.", f"afterwards I was very tired.", f"my {writer.relation} said that I had earned {writer.parent.gift}.", "I wish that you had been there.")
        d.s(f"and I have a new treasure: a~ {thing.full}. I spend every free hour {thing.use.replace(' the neck', ' my neck')}.", f"just think, I have been given a~ {thing.full}!")
        d.para()
        d.s("what is new with you? Please write soon.", "when will you come and visit us? The ferry leaves at nine and at four.", "do you still have the little dog? Tell me everything.", f"will you come to the {'Apple Fair' if d.season in ('summer', 'autumn') else 'Lantern Feast'} this year?")
        d.line(d.rng.pick(("With love,", "Many greetings,", "Yours,")))
        d.line(f"{writer}.")
    elif kind == 1:    # invitation
        day, hour = d.rng.pick(DAYS), d.rng.between(2, 5)
        what = d.rng.pick(("my birthday party", "our puppet play", "a supper in the garden", f"the birthday of my {writer.pet} {writer.animal}", "a treasure hunt"))
        place = d.rng.pick(PLACES_OUT)
        bring = d.rng.pick(("a spoon", "warm socks", "a lantern", "something to sit on", "a song", "a good riddle"))
        d.line(f"Dear {friend},")
        d.s(f"I should like to invite you to {what}.", f"please come to {what}!", f"this is an invitation to {what}.")
        d.s(f"it is on {day} at {number(hour)} o'clock, near {place}.", f"we meet on {day}, at {number(hour)} o'clock, near {place}.")
        d.s(f"there will be {d.rng.pick(('plum cake', 'honey cake', 'pancakes', 'apple juice and buns'))} and <games|music|a surprise>. Please bring {bring}.", f"bring {bring}, if you have it. I shall bring my {thing.short}.")
        guests = others(d, 2, (writer, friend))
        d.s(f"{guests[0]} and {guests[1]} are coming too.", f"I have also asked {guests[0]} and {guests[1]}.")
        d.s(f"if it rains, we shall be at my house on {writer.street}.")
        d.s(f"you can find the place easily: it is not far from {d.rng.pick(PLACES_OUT)}, and I shall hang my {thing.short} in a tree.", f"my {writer.relation} knows about it and has promised to help.", f"do not tell {others(d, 1, (writer, friend, guests[0], guests[1]))[0]} yet, for it is a surprise.")
        d.line("Your friend,").line(f"{writer}.")
        d.line(f"Dear {writer},")
        d.s("thank you for the invitation.", "what a lovely letter!", "your letter came this morning.")
        if d.rng.chance(0.6):
            d.s(f"I shall be there on {day} at {number(hour)} o'clock, and I shall bring {bring}.", f"of course I am coming! {day} is my favourite day, and I have {bring} already.")
            d.s(f"may {friend.animal} the {friend.pet} come too?", f"near {place} I know a good place to hide.", f"I am looking forward to seeing {guests[0]}.")
        else:
            d.s(f"I am so sorry, but on {day} I cannot come. My {friend.relation} needs me {friend.parent.at}.")
            d.s(f"please keep a piece of cake for me.", f"give my greetings to {guests[0]} and {guests[1]}.")
        d.line("Your friend,").line(f"{friend}.")
    elif kind == 2:    # thanks
        adult = grown_ups(d, 1, (writer.parent,))[0]
        d.line(f"Dear {adult},")
        d.s(f"thank you very much for the {thing.short}.", f"I want to thank you for the {thing.short} that you gave me.", f"I do not know how to thank you for the {thing.full}.")
        d.s(f"I had wanted one for a long time.", f"it is just right for me.", f"my {writer.relation} says that it is the finest in the whole street.")
        one, two = deeds(d, 2)
        d.s(f"the first thing that I did with it was to show it to {friend}.", f"{friend} would like to have one too.", f"{writer.animal} the {writer.pet} has already sniffed at it.")
        d.s(f"since I saw you I have been busy. I {conjugate(one, 'past')}, and I {conjugate(two, 'past')}.", f"yesterday I wanted to visit you, but I {conjugate(one, 'past')} instead.")
        d.s(f"I often think of what you always say: {adult.saying}", f"I hope that all is well at {adult.place}.", f"may I come to {adult.place} again and watch you?")
        d.s(f"I have drawn a picture for you. It shows you, {d.rng.pick(adult.works)}.")
        d.s(f"this morning {d.sky}, and now it is time for supper.", f"{others(d, 1, (writer, friend))[0]} sends greetings too.", f"on {d.rng.pick([day for day in DAYS if day != adult.closed])} I shall pass by and say it once more in person.")
        d.line("With many thanks,").line(f"{writer} from {writer.street}.")
    else:              # asking for help, with an answer
        adult = grown_ups(d, 1, (writer.parent,))[0]
        d.line(f"Dear {adult},")
        d.s(f"I am writing to you because I need your help.", f"you are the {adult.job}, and so you will surely know what to do.", "I hope that you are not too busy to read this.")
        trouble, advice = d.rng.pick(TROUBLES)
        d.s(trouble.format(pet=writer.animal, kind=writer.pet, thing=thing.short, friend=friend))
        d.s(f"I have asked my {writer.relation}, who said that I should ask you.", f"{friend} says that it does not matter, but it does.", f"I have thought about it for {number(d.rng.between(2, 6))} days.", f"even {writer.animal} the {writer.pet} looks worried.")
        d.s("what should I do?", "do you know what to do?", "can you help me?")
        d.line(d.rng.pick(("Yours,", "Yours truly,", "With greetings,"))).line(f"{writer}.")
        d.line(f"Dear {writer},")
        d.s("thank you for your letter.", "I was glad to hear from you.", "I sat down at once to answer you.", "your question is a good one.")
        d.s(advice.format(pet=writer.animal, kind=writer.pet, thing=thing.short, friend=friend))
        d.s(f"as I always say: {adult.saying}", f"if that does not help, come to {adult.place}.", f"come and see me at {adult.place}, and we shall talk about it.")
        d.s(f"here at {adult.place} all is well. Today I was {d.rng.pick(adult.works)} when your letter came.", f"I was just {d.rng.pick(adult.works)} when Miss Finch brought it." if adult.job != "postmistress" else f"I was just {d.rng.pick(adult.works)} when I found it among the others.", f"when I was {number(writer.age)}, I had the very same trouble.")
        d.maybe(0.5, f"in the envelope you will find {adult.gift}." if adult.gift in ("a packet of seeds", "a peppermint", "a bright button", "a pretty stamp", "a set of new strings", "a ribbon in the colours of the town", "a small iron hook") else f"I have {adult.gift} for you when you come.")
        d.line("Yours,")
        d.line(f"{adult}.")


TROUBLES = (
    ("{pet}, my {kind}, will not eat. For two days the bowl has been full.", "Perhaps {pet} has found something better elsewhere. Follow {pet} for one day, and you will see. If not, a warm place and a little patience will help."),
    ("{friend} does not talk to me any more, and I do not know why.", "The best thing is to ask. Do not begin with what you did not do. Begin with what you miss."),
    ("I have promised to lend my {thing} to two people on the same day.", "Tell both of them the truth today, not tomorrow. Let them decide together who has it in the morning and who has it in the afternoon."),
    ("I cannot sleep when the moon is full, and then I am tired at school.", "Hang a dark cloth over the window, and think of the most boring thing you know. I think of counting spoons."),
    ("I want to give {friend} a present, but I have no money at all.", "Give something that only you can give. Write a story in which {friend} is the hero, or offer to help for a whole day."),
    ("at night I hear steps above my room, and nobody lives there.", "Put a little flour on the floor up there, and look for tracks in the morning. I believe that they will be very small ones."),
    ("I have to sing in front of the whole school, and I am afraid.", "Everyone is. Pick one kind face in the room, and sing for that person alone. It will be over before you know it."),
    ("my {thing} is broken, and I do not want to throw it away.", "Never throw away what can be mended. Keep all the pieces together in a box and bring them to me, even the small ones."),
)


def ordinal(n):
    return f"{n}{'th' if 10 < n < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def diary(d):
    set_scene(d)
    writer, thing = hero_and_thing(d)
    friend = others(d, 1, (writer,))[0]
    adult = grown_ups(d, 1, (writer.parent,))[0]
    d.line(f"The diary of {writer}, {writer.street}, Pellmere. <Private!|Please do not read.|>")
    thread = d.rng.below(4)
    days = [DAYS[i] for i in sorted(d.rng.sample(range(7), d.rng.between(3, 4)))]
    plans = deeds(d, 2 * len(days))
    seed = d.rng.pick(("bean", "sunflower seed", "pea", "acorn"))
    for n, day in enumerate(days):
        d.s(f"{day}. <{SKY[d.season][n]}.|{SKY[d.season][(n + 2) % 6]}.|Nothing much happened.|A good day.|Up early today.|Rain in the morning, sun in the afternoon.>" if d.season != "winter" else f"{day}. <{SKY[d.season][n]}.|{SKY[d.season][(n + 2) % 6]}.|A good day.|Up early today.>")
        one, two = plans[2 * n], plans[2 * n + 1]
        d.s(f"I {conjugate(one, 'past')}, and later I {conjugate(two, 'past')}.", f"after school {friend} and I {conjugate(one, 'past')}.", f"in the morning I {conjugate(one, 'past')}. In the evening <I was too tired to do anything|we had guests and sat together for a long time|my {writer.relation} read to me>.",
            f"{friend} came by in the afternoon, and we {conjugate(one, 'past')}. It was already dark when {friend} had to go.", f"I {conjugate(one, 'past')}, all by myself. Nobody believed me when I told them.",
            f"my plan was to {one} and to {two}. I managed only the first, but it was worth it.", f"{others(d, 1, (writer, friend))[0]} asked me to {one}, and I did. It was easier than I had thought.", f"I wanted to {one}, but there was no time. So I {conjugate(two, 'past')} instead.",
            f"before {conjugate(one, 'ing')}, I had to help my {writer.relation} {writer.parent.at}.")
        last = n == len(days) - 1
        if thread == 0:
            d.s(*((f"I lost my {thing.short} today. I have looked everywhere.",) if n == 0 else ("still no sign of it.", f"asked {adult} about the {thing}. No luck.", f"{friend} helped me to look for the {thing}.") if not last else (f"found it! The {thing} was {d.rng.pick(('in my other coat', 'under ' + writer.animal.name, 'behind the bread box', 'exactly where I had put it'))}.",)))
        elif thread == 1:
            d.s(*((f"put a~ {seed} into a pot and gave it some water.",) if n == 0 else ("the pot looks just the same. I watered it all the same.", "still nothing to be seen in the pot.", f"my {writer.relation} says that I should not dig it up to look.") if not last else ("there is a green tip in the pot, as small as a pin! I have called everyone in to see it.",)))
        elif thread == 2:
            d.s(*((f"had a quarrel with {friend} about my {thing.short}. I do not want to write about it.",) if n == 0 else (f"{friend} did not look at me.", f"saw {friend} across the street. Neither of us said a word.") if not last else (f"{friend} stood at the door and said sorry, and so did I. We shared a bun. Now all is well.",)))
        else:
            d.s(*((f"there is a secret in our house, and nobody will tell me what it is.",) if n == 0 else (f"my {writer.relation} hid something when I came in.", "they stopped talking when I entered the room.", f"even {friend} knows, and says nothing.") if not last else (f"now I know! It was a~ {thing.full}, and it is for me.",)))
        d.maybe(0.3, f"{writer.animal} the {writer.pet} <slept all day|was very naughty|ate my pencil|is well>.", f"for supper there was <soup|stew|bread and cheese|pancakes>.")
        d.para()


def lists(d):
    """A list, and what it was good for."""
    set_scene(d)
    owner, thing = hero_and_thing(d)
    friend = others(d, 1, (owner,))[0]
    kind = d.rng.below(3)
    if kind == 0:
        goal = d.rng.pick(("a night on Heron Island", "a walk through Hollin Wood", "three days with Aunt Judith", "a picnic by Lake Mirrow"))
        pool = ["two pairs of socks", "a comb", "six sandwiches", "a bottle of water", "a blanket", "matches", "a good book", "a piece of soap", "four apples", "a ball of string", "a warm coat", "a whistle", "bread and cheese", "a map", "a pencil"]
        items = d.rng.sample([p for p in pool if thing.noun not in p], d.rng.between(4, 6))
        items.insert(d.rng.below(len(items)), f"my {thing.short}")
        d.line(f"{owner}'s list for {goal}:")
        for n, item in enumerate(items):
            d.line(f"{n + 1}. {item[0].upper()}{item[1:]}.")
        missing = d.rng.pick(items)
        shown = missing.replace("my ", f"{owner.his} ")
        d.s(f"{owner} read the list twice and ticked off one thing after the other.", f"everything had to fit into one small bag, and in the end it did.")
        d.say(friend, "<Have you got everything?|Are you ready?|Is your bag packed?>")
        d.say(owner, f"I have {number(len(items))} things on my list, and {number(len(items) - 1)} of them are in the bag.", f"Only one is missing: {missing}.")
        d.s(f"{friend} laughed, ran home and came back with {missing}." if not missing.startswith("my ") else f"{friend} looked under the bed, and there lay the {thing}.", f"they looked for it together and found it on the chair by the door.")
        d.s(f"then they <set out|were ready to go>, and {d.sky}.")
        d.s(f"on the way {owner} was glad about {shown}." , f"of all the things in the bag, {shown} turned out to be the most useful.")
        d.line("What was missing at first?").line(f"{shown}.")
    elif kind == 1:
        k = d.rng.between(4, 6)
        plans = deeds(d, k)
        d.line(f"Things that {owner} wants to do this {d.season}:")
        for n, deed in enumerate(plans):
            d.line(f"{n + 1}. {deed[0].upper()}{deed[1:]}.")
        done = d.rng.sample(range(k), 3)
        d.s(f"the list hung over {owner.his} bed, next to the {thing.short}.", f"{owner} wrote it with a new pencil and hung it on the wall.")
        d.s(f"by the end of the {d.season} {owner.he} had done three of them: number {listing([number(i + 1) for i in sorted(done)])}.")
        d.did(owner, [plans[i] for i in sorted(done)])
        d.s("the others will have to wait for another year.", f"{friend} had a list too, but it was still empty, for {friend} had been too busy playing.")
        left = [plans[i] for i in range(k) if i not in done]
        d.line(f"What is left to do? {owner} still wants to {listing(left)}.")
    else:
        rows = d.rng.sample(("the lamps", "the tables", "the music", "the soup", "the cake", "the benches", "the sweeping", "the games", "the apples", "the flowers"), 5)
        people = others(d, 5)
        feast = d.rng.pick(("Lantern Feast", "Apple Fair", "school play", "boat race"))
        d.line(f"Who does what at the {feast}:")
        pairs = list(zip(rows, people))
        for n, (row, who) in enumerate(pairs):
            d.line(f"{row[0].upper()}{row[1:]}: {who}.")
        d.s(f"Mayor Stone hung up the list in Bell Square{' a week before' if d.rng.chance(0.5) else ''}, and everyone came to read it.")
        d.s(f"{people[0]} was content, but {people[1]} would rather have had {rows[2]}.")
        d.say(people[1], f"Shall we swap?", f"You take {rows[1]}, and I take {rows[2]}.")
        d.say(people[2], "<Why not?|I do not mind.|That is fine with me.>", "<Then it is settled.|>")
        d.s(f"so in the end {people[1]} saw to {rows[2]}, and {people[2]} saw to {rows[1]}. The others did what stood on the list.")
        for row, who in d.rng.sample([(rows[0], people[0]), (rows[1], people[2]), (rows[2], people[1]), (rows[3], people[3]), (rows[4], people[4])], 3):
            d.line(f"Who saw to {row} in the end? {who} did.")
