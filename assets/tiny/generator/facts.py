"""Descriptions of the invented town, its people and animals, and questions about them. True in every document."""

from .grammar import listing, number
from .scenes import kin
from .things import others
from .world import ADULTS, CHILDREN, STREETS, TOWN_FACTS

# name, young, home, eats, active, look, special, sound
ANIMALS = (
    ("hedgehog", "hoglet", "in hedges and heaps of leaves", "beetles, worms and slugs", "at night", "small and brown, with a coat of spines", "it rolls itself into a ball when it is afraid", "sleeps all winter"),
    ("fox", "cub", "in a den under the roots of trees", "mice, berries and beetles", "at dusk", "red, with a white tip to its tail", "it can hear a mouse under the snow", "stays awake all winter"),
    ("owl", "owlet", "in hollow trees and old barns", "mice and voles", "at night", "brown, with big round eyes", "its soft feathers make no sound in flight", "stays awake all winter"),
    ("otter", "pup", "in a hole in the river bank", "fish and frogs", "in the morning and the evening", "long and sleek, with webbed feet", "it slides down muddy banks for fun", "stays awake all winter"),
    ("beaver", "kit", "in a lodge built of sticks", "bark, leaves and roots", "at night", "heavy and brown, with a flat tail", "it fells trees with its teeth", "stays in its lodge all winter"),
    ("squirrel", "kitten", "in a round nest high in a tree", "nuts and seeds", "by day", "small and red, with a bushy tail", "it buries nuts and forgets some of them", "sleeps a great deal in winter"),
    ("badger", "cub", "in a burrow with many rooms", "worms, roots and berries", "at night", "grey, with a striped face", "it carries fresh bedding into its burrow", "rests in winter"),
    ("frog", "tadpole", "near ponds and in wet grass", "flies and slugs", "in the evening", "green and smooth, with long back legs", "it begins its life in the water with a tail and without legs", "sleeps in the mud all winter"),
    ("bat", "pup", "in towers and hollow trees", "moths and gnats", "at night", "tiny, with wings of thin skin", "it finds its way by listening to its own voice", "sleeps hanging upside down all winter"),
    ("heron", "chick", "in large nests in the tops of trees", "fish and frogs", "by day", "tall and grey, with long thin legs", "it can stand still in the water for an hour", "stays near open water in winter"),
    ("mole", "pup", "in tunnels under the meadow", "worms and grubs", "by day and by night", "small and black, with hands like shovels", "it is almost blind but feels the smallest tremble", "digs deeper in winter"),
    ("swallow", "chick", "in a cup of mud under the roof", "flies, caught in the air", "by day", "blue-black, with a forked tail", "it flies thousands of miles each year", "flies to warm countries in autumn"),
    ("hare", "leveret", "in a hollow in the grass", "grass, herbs and bark", "at dusk", "long-legged and brown, with black tips to its ears", "for a short while it can run as fast as a horse", "stays awake all winter"),
    ("bee", "grub", "in a hive with thousands of others", "nectar and pollen", "by day", "small and striped, with four wings", "it tells the others by a dance where flowers are", "keeps warm in a cluster in winter"),
    ("deer", "fawn", "at the edge of the wood", "leaves, grass and buds", "at dawn and at dusk", "brown and slender, with a white spot under its tail", "its young have white spots in their first summer", "grows a thick grey coat in winter"),
    ("snail", "young snail", "under stones and leaves", "leaves and soft fruit", "in wet weather", "soft and slow, with a house on its back", "it can pull in its eyes", "closes its house with a lid in winter"),
    ("pike", "jack", "among the weeds of Lake Mirrow", "smaller fish", "by day", "long and green, with a mouth full of teeth", "it waits without moving and then shoots forward", "stays deep down in winter"),
    ("goose", "gosling", "in the reeds of Heron Island", "grass and water plants", "by day", "large and grey, with an orange beak", "it flies in a line shaped like the letter V", "flies south in autumn"),
)
LEGS = {"heron": 2, "swallow": 2, "goose": 2, "owl": 2, "bat": 2, "bee": 6, "snail": 0, "pike": 0}


def animal(d):
    name, young, home, eats, active, look, special, winter = d.rng.pick(ANIMALS)
    lines = [
        (f"the {name} lives {home}.", f"you will find it {home}." if d.rng.chance(0.5) else f"its home is to be found {home}."),
        (f"it eats {eats}.", f"its food is {eats}.", f"what does it eat? It eats {eats}."),
        (f"it is awake {active}." if name != "snail" else "it comes out in wet weather.", f"the best time to see it is {active}."),
        (f"a young {name} is called a~ {young}." if name != "snail" else "a young snail has a house from the day it is born.",) if young != "young snail" else ("a young snail has a house from the day it is born.",),
        (f"one remarkable thing about it is this: {special}.", f"{special}.", f"people who watch it know that {special}."),
        (f"in the cold months it {winter}." if "winter" not in winter and "autumn" not in winter else f"the {name} {winter}.",),
    ]
    legs = LEGS.get(name, 4)
    lines.append((f"it has {number(legs)} legs." if legs else "it has no legs at all.",))
    d.s(f"the {name} is {look}.", f"a~ {name} is {look}. <Everyone in Pellmere has seen one.|>" if name not in ("owl", "otter") else f"an {name} is {look}.")
    order = d.rng.shuffled(lines)
    for options in order[:4]:
        d.s(*options)
    d.para()
    child = d.rng.pick(CHILDREN)
    sight = d.rng.pick(("on the way to school", "behind the orchard wall", "at the edge of Hollin Wood", "from the Stone Bridge")) if name not in ("pike", "heron", "otter", "beaver", "frog", "goose") else d.rng.pick(("near the water wheel", "from the Stone Bridge", "from the ferry", "by the reeds", "at the ferry landing"))
    d.s(f"{child}, who is {number(child.age)}, once saw {d.rng.pick(('two', 'three', 'four'))} of them {sight}.", f"{child} from {child.street} once watched one for a whole hour {sight}.", f"Miss Ansel tells the pupils about it every year, and then they draw it.")
    for options in order[4:]:
        d.s(*options)
    d.para()
    asked = d.rng.sample(((f"What does the {name} eat?", f"It eats {eats}."), (f"Where does the {name} live?", f"It lives {home}."), (f"How many legs does the {name} have?", f"It has {number(legs)} legs." if legs else "It has none."),
                          (f"What does the {name} look like?", f"It is {look}."), (f"What is special about the {name}?", f"{special[0].upper()}{special[1:]}.")), 2)
    for question, answer in asked:
        d.line(f"Question: {question}").line(f"Answer: {answer}")


def shop_facts(adult):
    """Everything the world says about a grown-up, as (question, answer, sentence)."""
    a, place = adult, adult.place
    return (
        (f"Who works at {place}?", f"{a.full} works at {place}.", f"{a.full}, the {a.job}, works at {place}."),
        (f"Where is {place}?", f"It is on {a.street}.", f"it is on {a.street}."),
        (f"What colour is the door of {place}?", f"It is {a.door}.", f"its door is {a.door}."),
        (f"When does {place} open?", f"It opens at {a.opens} in the morning.", f"it opens at {a.opens} o'clock in the morning."),
        (f"On which day is {place} closed?", f"It is closed on {a.closed}.", f"on {a.closed} it is closed."),
        (f"What can you get at {place}?", f"You can get {listing(a.goods)} there.", f"people come for {listing(a.goods)}."),
        (f"What does {a} like to say?", f'{a} likes to say, "{a.saying}"', f'{a} likes to say, "{a.saying}"'),
        (f"What is special about {place}?", f"This: {a.detail}.", f"you will know it at once, because {a.detail}."),
        (f"What is the job of {a.full}?", f"{a.full} is the {a.job} of Pellmere.", f"{a.full} has been the {a.job} for many years."),
    )


def place(d):
    adult = d.rng.pick(ADULTS)
    facts = d.rng.shuffled(shop_facts(adult))
    opener = next(f for f in facts if f[0].startswith("Where is"))
    rest = [f for f in facts if f is not opener]
    d.s(f"if you walk along {adult.street}, you come to {adult.place}.", f"{adult.place} in Pellmere is on {adult.street}.", f"everyone in Pellmere knows {adult.place} on {adult.street}.") if adult.street != "Gorse Hill" else d.s(f"on Gorse Hill, above the town, is {adult.place}.")
    for question, answer, sentence in rest[:4]:
        d.s(sentence)
    d.para()
    d.s(f"{STREETS[adult.street]}." if adult.street in STREETS else "From Gorse Hill you can see the whole town and the lake.")
    works = adult.works
    d.s(f"on most days you will find {adult} {works[0]} or {works[1]}.", f"{adult} is always busy, {works[0]} or {works[1]}.")
    family = [child for child in CHILDREN if child.parent is adult]
    for child in family:
        d.s(f"{adult.his} {kin(child)} {child} is {number(child.age)} and likes {child.likes}.", f"{child}, {adult.his} {kin(child)}, often comes by with {child.animal} the {child.pet}.")
    for question, answer, sentence in rest[4:6]:
        d.s(sentence)
    d.maybe(0.5, f"{d.rng.pick(('children', 'visitors', 'neighbours'))} who help a little may get {adult.gift}.")
    d.para()
    for question, answer, _ in d.rng.sample(facts, 2):
        d.line(f"Question: {question}").line(f"Answer: {answer}")


def person(d):
    child = d.rng.pick(CHILDREN)
    a = child.parent
    his = child.his
    kid = "girl" if child.gender == "f" else "boy"
    facts = d.rng.shuffled((
        (f"How old is {child}?", f"{child} is {number(child.age)} years old.", f"{child} is {number(child.age)} years old."),
        (f"Where does {child} live?", f"{child} lives on {child.street}." , f"{child.his} home is on {child.street}."),
        (f"What is the name of {child}'s {child.pet}?", f"The {child.pet} is called {child.animal}.", f"{child.he} has a~ {child.pet} called {child.animal}."),
        (f"What does {child} like most?", f"{child} likes {child.likes} most.", f"{child.he} likes {child.likes} more than anything else."),
        (f"Who does {child} live with?", f"{child} lives with {his} {child.relation}, {a.full}.", f"{child.he} lives with {his} {child.relation}, {a.full}, the {a.job}."),
        (f"What kind of {kid} is {child}?", f"{child} is a~ {child.trait} {kid}." , f"{child.he} is a~ {child.trait} {kid}."),
        (f"Where does {child}'s {child.relation} work?", f"At {a.place}, on {a.street}.", f"{his} {child.relation} works at {a.place}."),
    ))
    d.s(f"this is {child}.", f"let me tell you about {child}.", f"{child} is one of the children of Pellmere.", f"do you know {child}?")
    for _, _, sentence in facts[:5]:
        d.s(sentence)
    d.para()
    friend, other = others(d, 2, (child,))
    d.s(f"<after school|on Sundays|in the holidays> {child} likes to meet {friend}, who lives on {friend.street}, and {other}, who has a~ {other.pet}.",
        f"on most days you can see {child} with {friend} and {other}. {friend} is {number(friend.age)}, and {other} is {number(other.age)}.")
    d.s(f"{friend} is a~ {friend.trait} {'girl' if friend.gender == 'f' else 'boy'} and likes {friend.likes}.", f"{other} likes {other.likes}, and {friend} likes {friend.likes}.")
    older = [c for c in (child, friend, other) if c.age == max(x.age for x in (child, friend, other))]
    if len(older) == 1:
        d.s(f"of the three, {older[0]} is the oldest.")
    d.s(f"<{child.animal}|the {child.pet}> <comes along|waits at the gate> <on dry days|whenever there is something to eat>.")
    d.para()
    for question, answer, _ in d.rng.sample(facts, 2) + [(f"What does {friend} like?", f"{friend} likes {friend.likes}.", "")]:
        d.line(f"Question: {question}").line(f"Answer: {answer}")


def town(d):
    """A walk through the town, or what everyone should know about it."""
    facts = d.rng.sample(TOWN_FACTS, 6)
    d.s("what should a visitor know about Pellmere?", "Pellmere is a small town, but there is much to tell about it.", "a letter to all who come to Pellmere for the first time.", "here is what every child in Pellmere learns.")
    for _, answer in facts[:4]:
        d.s(answer)
    d.para()
    streets = d.rng.sample(list(STREETS), 3)
    openers = d.rng.pick((("begin your walk on", "go on to", "end your walk on"), ("take a look at", "then cross over to", "last of all, visit"), ("start on", "turn into", "finish on")))
    for opener, street in zip(openers, streets):
        on = [adult for adult in ADULTS if adult.street == street]
        one = d.rng.pick(on)
        d.s(f"{opener} {street}. {STREETS[street]}, and there you will find {one.place}, where {one.detail}." if False else f"{opener} {street}. {STREETS[street]}. There you will find {one.place} with {one.full}, the {one.job}.",
            f"{opener} {street}, where {one.full} sells {listing(one.goods)}." if one.job not in ("teacher", "doctor", "mayor", "innkeeper", "music teacher", "librarian", "ferry captain", "lamplighter") else f"{opener} {street}, where {one.full} works as the {one.job}.")
    d.s(f"<if you get lost, ask anyone.|and do not be in a hurry.|>" + " " + facts[4][1])
    d.para()
    for question, answer in d.rng.sample(facts[:5], 3):
        d.line(f"Question: {question}").line(f"Answer: {answer}")
