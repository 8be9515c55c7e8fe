"""Scenes that any story may use: weather, how a hero is introduced, a walk through town, a visit, an ending."""

from .grammar import number
from .things import SMALL
from .world import ADULTS, PLACES_OUT

SEASONS = ("spring", "summer", "autumn", "winter")

SKY = {
    "spring": ("the first swallows were back", "a soft rain had washed the streets", "the plum trees were in blossom",
               "the wind smelled of wet earth", "the river was high and brown", "lambs were calling on the hill"),
    "summer": ("the sun was already hot", "the lake lay as flat as a plate", "bees hummed in every garden",
               "the stones of the square were warm", "not one cloud stood in the sky", "swifts screamed above the roofs"),
    "autumn": ("mist hung over the river", "the leaves in Hollin Wood had turned to gold", "the wind rattled the shutters",
               "the whole town smelled of apples", "wild geese flew over in a long line", "chestnuts lay in the grass"),
    "winter": ("snow lay on every roof", "the puddles were covered with thin ice", "smoke rose straight from the chimneys",
               "the air was so cold that it stung", "icicles hung from the bell tower", "the lake had begun to freeze"),
}


def set_scene(d, seasons=SEASONS, parts=("morning", "afternoon", "evening")):
    d.season = d.rng.pick(seasons)
    d.part = d.rng.pick([part for part in parts if part != "evening" or d.season == "summer"])
    d.sky = d.rng.pick([sky for sky in SKY[d.season] if d.part == "morning" or "already" not in sky])
    d.quality = d.rng.pick([word for word in QUALITY[d.season] if word[:4] not in d.sky and not (word == "rainy" and "high" in d.sky)])
    return d


def when(d):
    """An opening of time, ready to be followed by a comma."""
    return d.rng.pick((f"one {d.part} in {d.season}", f"one {d.season} {d.part}", f"on a~ {d.quality} {d.part}",
                       f"one day in {d.season}", f"early one {d.season} {d.part}"))


QUALITY = {"spring": ("fresh", "bright", "rainy", "windy"), "summer": ("hot", "lazy", "golden", "still"),
           "autumn": ("windy", "misty", "grey", "cool"), "winter": ("cold", "snowy", "frosty", "dark")}


def introduce(d, hero, known=False):
    """Who the hero is, from the facts of the world. One who is `known` was named before, so nothing starts afresh."""
    pet = hero.animal
    job = hero.parent.job
    child = "girl" if hero.gender == "f" else "boy"
    # each sentence with the facts that it tells, so that no fact is told twice
    first = (
        ("parent", f"{hero} lived on {hero.street} with {hero.his} {hero.relation}, <the {job}|who was the {job} of Pellmere>."),
        ("age", f"{hero} was {number(hero.age)} years old and lived on {hero.street} in the town of Pellmere."),
        ("trait", f"in the town of Pellmere, <on|in a house on> {hero.street}, lived a~ {hero.trait} {child} <named|called> {hero}."),
        ("trait", f"there was once a~ {hero.trait} {child} called {hero}, who lived on {hero.street}."),
        ("parent pet", f"{hero}, the {job}'s {kin(hero)}, had a~ {hero.pet} <called|named> {pet}."),
        ("pet", f"everyone on {hero.street} knew {hero} and {hero.his} {hero.pet}, {pet}."),
        ("likes", f"{hero} liked {hero.likes} more than anything else."),
        ("trait parent", f"nobody in Pellmere was as {hero.trait} as {hero}, the {job}'s {kin(hero)}."),
        ("age pet", f"{hero} was {number(hero.age)}, and {hero.his} best friend was a~ {hero.pet} <called|named> {pet}."),
        ("likes parent", f"{hero}, whose {hero.relation} was the {job} of Pellmere, liked {hero.likes}."),
    )
    if known:
        first = [row for row in first if "there was once" not in row[1] and "lived a~" not in row[1] and "of Pellmere" not in row[1]]
        first.append(("trait", f"{hero} was a~ {hero.trait} {child} and lived on {hero.street}."))
        first.append(("pet", f"with {hero.him}, as always, was {pet}, {hero.his} {hero.pet}."))
    told, sentence = d.rng.pick(first)
    d.s(sentence)
    he = hero.he
    more = [text for fact, text in (
        ("pet", f"{he} had a~ {hero.pet} called {pet}<, and where one went, the other went too|>."),
        ("trait", f"{he} was a~ {hero.trait} {child}."),
        ("likes", f"most of all {he} liked {hero.likes}."),
        ("likes", f"{he} could spend whole days {hero.likes}."),
        ("parent", f"{hero.his} {hero.relation}, {hero.parent}, <worked at {hero.parent.place}|was the {job} of the town>."),
    ) if fact not in told.split()]
    if d.rng.chance(0.45):
        d.s(d.rng.pick(more))


def kin(hero):
    """What the hero is to the grown-up at home."""
    girl = hero.gender == "f"
    if hero.relation in ("mother", "father"):
        return "daughter" if girl else "son"
    if hero.relation in ("aunt", "uncle"):
        return "niece" if girl else "nephew"
    return "granddaughter" if girl else "grandson"


def opening(d, hero, seasons=SEASONS, parts=("morning", "afternoon", "evening")):
    """Hero and day, in either order."""
    set_scene(d, seasons, parts)
    if d.rng.chance(0.6):
        introduce(d, hero)
        d.maybe(0.35, f"it was a~ {d.quality} {d.part}, and {d.sky}.",
                f"that {d.part} {d.sky}.")
    else:
        d.s(f"it was a~ {d.quality} {d.part} in {d.season}<, and {d.sky}|>.",
            f"{when_plain(d)}, when {d.sky}, {hero} {d.rng.pick(('woke up with a plan' if d.part == 'morning' else 'came home with a plan', 'sat on the front steps', 'looked out of the window', 'came running down the stairs', 'put on ' + hero.his + ' boots'))}.",
            f"{d.sky}. It was {d.season} in Pellmere.")
        introduce(d, hero, hero.name in d.current[-1])


def when_plain(d):
    return d.rng.pick((f"one {d.part} in {d.season}", f"one {d.season} {d.part}", f"early one {d.part} in {d.season}"))


def go_to(d, hero, adult, pronoun=True):
    """A walk to where a grown-up works, and finding them at it."""
    he = hero.he if pronoun else hero.name
    doing = d.rng.pick(adult.works)
    d.s(
        f"{he} <ran|walked|hurried> <down|along> {street_path(adult)} to {adult.place}, where {adult} was {doing}.",
        f"so {he} went to {adult.place}. {adult}, the {adult.job}, was {doing}.",
        f"{he} <pushed open the {adult.door} door of|knocked on the {adult.door} door of> {adult.place}. Inside, {adult} was {doing}." if adult.place not in NO_DOOR else
        f"{he} found {adult} {adult.at}, {doing}.",
        f"at {adult.place} {he} found {adult}, who was {doing}.",
    )


    d.maybe(0.3, *sights(d, (hero.parent, adult)))


def sights(d, besides):
    """Something of the town seen in passing: true of the world, and of no weight for the story."""
    one = d.rng.pick([adult for adult in ADULTS if adult not in besides])
    hour = number(d.rng.between(2, 11))
    return (
        f"on the way there was {one}, {d.rng.pick(one.works)}.", f"{one} waved from {one.place}.", f"a cart with {one.goods[0]} rattled by.",
        f"the clock in the bell tower struck {hour}.", f"it was four minutes past {hour}, so the clock in the tower began to strike." ,
        f"somewhere <a dog barked|a baby cried|somebody was singing|a door slammed>.", f"two <cats|pigeons|sparrows> looked on.", f"from {one.place} came the smell of {d.rng.pick(('smoke', 'fresh wood', 'soap', 'soup', 'wet stone'))}.",
    )


NO_DOOR = ("the orchard", "the ferry landing", "the bee garden", "Clover Farm", "the boatyard")


def street_path(adult):
    return "the path up Gorse Hill" if adult.street == "Gorse Hill" else adult.street


def feel(d, who, mood, p=1.0, pronoun=True):
    """A feeling, told or shown."""
    if not d.rng.chance(p):
        return
    he = who.he if pronoun else who.name
    his = who.his
    d.s(*{
        "sad": (f"{he} felt a lump in {his} throat.", f"{he} was so sad that {he} could not eat.", f"tears came to {his} eyes.",
                f"{he} sat down and put {his} head in {his} hands.", f"{he} felt very small."),
        "glad": (f"{he} was so happy that {he} hopped on one leg.", f"{he} could not stop smiling.", f"{his} heart felt as light as a feather.",
                 f"{he} laughed out loud.", f"{he} felt warm from head to toe."),
        "afraid": (f"{his} heart beat fast.", f"{his} knees felt weak.", f"{he} wanted to run away, but {he} stayed.", f"{he} held {his} breath."),
        "cross": (f"{he} was so cross that {his} ears turned red.", f"{he} kicked a stone all the way down the street."),
        "proud": (f"{he} felt <as tall as the bell tower|ten feet tall>.", f"{he} stood very straight and tried not to grin.", f"{he} thought that this was the best day of the year."),
        "tired": (f"{he} was tired, but it was a good kind of tired.", f"{he} yawned all the way home.", f"{his} legs ached, and {his} eyes kept closing."),
    }[mood])


def thank(d, hero, adult):
    """Thanks, and the grown-up's own saying and small gift."""
    d.say(hero, d.rng.pick(("Thank you!", "Thank you so much!", f"Thank you, {adult}!", "I do not know how to thank you.")), mood="glad")
    if d.rng.chance(0.5):
        d.say(adult, d.rng.pick(("You are welcome.", "It was nothing.", "I am glad that I could help.")), adult.saying if d.rng.chance(0.6) else "")
    d.maybe(0.35, f"and {adult.he} gave {hero.him} {adult.gift} for the way.", f"before {hero} left, {adult} gave {hero.him} {adult.gift}.")


def evening(d, hero):
    """Going home: an ending that any day can have."""
    pet = hero.animal
    d.s(
        f"that evening {hero} told {hero.his} {hero.relation} the whole story.",
        f"when the lamps were lit, {hero} went home to {hero.street}, <tired and happy|humming a tune>.",
        f"at supper {hero} could talk of nothing else.",
        f"that night {hero} fell asleep with a smile, and {pet} <slept|lay> at the foot of the bed." if hero.pet in ("dog", "cat", "rabbit", "hen") else
        f"before going to bed, {hero} told {pet} the {hero.pet} all about it.",
        f"{hero} slept well that night.",
        f"it was dark when {hero} got home, but {hero.his} {hero.relation} had kept the soup warm.",
    )


def moral(d, *lines):
    """A last line, in one of the ways that tales have."""
    line = d.rng.pick(lines)
    d.s(f"{line}", f"from that day on, everyone in Pellmere knew: {line}" if d.rng.chance(0.3) else f"{line}")


def look_for(d, hero, thing, k):
    """Places searched in vain, told in different shapes."""
    rooms = ("under the bed", "behind the stove", "in the woodshed", "under the stairs", "in the garden", "behind the curtain",
             "on top of the cupboard", "under the kitchen table", "in the laundry basket", "behind the water barrel", "in the attic")
    if thing.noun in SMALL:
        rooms += ("in every pocket", "between the cushions", "in both boots", "under the rug")
    rooms = d.rng.sample(rooms, k + 1)
    d.s(
        f"{hero.he} looked {rooms[0]} and {rooms[1]}, but the {thing} was not there.",
        f"{hero.he} looked {rooms[0]}. Nothing. {hero.he} looked {rooms[1]}. Nothing again.",
        f"it was not {rooms[0]}, and it was not {rooms[1]} either.",
        f"{hero.he} searched everywhere: {', '.join(rooms[:-1])} and {rooms[-1]}.",
        f"was it {rooms[0]}? No. Was it {rooms[1]}? No, it was not there either.",
    )


def outside(d, k=1):
    return d.rng.sample(PLACES_OUT, k)
