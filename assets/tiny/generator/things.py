"""Things that can be owned, lost, given and counted, and how a story's cast is drawn from the world.

The training text never joins certain heroes with certain things: those pairs
are kept for the held-out text, so that it asks for more than memory.
"""

from .world import ADULTS, CHILDREN

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "purple", "pink", "silver")
PAINTABLE = COLOURS[:11]


class Thing:
    """A thing with a look of its own: 'a blue kite with a long tail'."""

    def __init__(self, noun, use, details, adjectives=(), colours=PAINTABLE):
        self.noun, self.use, self.details, self.adjectives, self.colours = noun, use, details, adjectives, colours
        self.colour = self.detail = self.adjective = ""

    def drawn(self, rng):
        """A copy with its colour, adjective and detail settled."""
        one = Thing(self.noun, self.use, self.details, self.adjectives, self.colours)
        one.colour = rng.pick(self.colours) if self.colours else ""
        one.adjective = rng.pick(self.adjectives) if self.adjectives else ""
        one.detail = rng.pick(self.details)
        return one

    @property
    def look(self):
        """The adjective that tells this one from others: its colour, or what it has instead."""
        return self.colour or self.adjective

    @property
    def full(self):
        return f"{self.look} {self.noun} {self.detail}".strip()

    @property
    def short(self):
        return f"{self.look} {self.noun}".strip()

    def __str__(self):
        return self.noun

    def __format__(self, spec):
        return self.noun


THINGS = [Thing(*row) for row in (
    ("kite", "flying it on Gorse Hill", ("with a long tail", "with two ribbons", "shaped like a fish")),
    ("scarf", "wearing it on windy days", ("with white fringes", "that smelled of lavender", "with a pattern of leaves")),
    ("whistle", "playing tunes on it", ("with five holes", "on a leather string", "with a dent in one side"),
     ("tin", "wooden", "brass"), ()),
    ("lantern", "carrying it through the evening streets", ("with a round handle", "with a star cut into its side")),
    ("toy boat", "sailing it on the river", ("with a paper sail", "with a tiny anchor", "with a number on its side")),
    ("drum", "beating it on the front steps", ("with a leather strap", "with gold stars on it")),
    ("marble", "rolling it down the hall", ("with a swirl inside", "as big as a plum", "with a tiny bubble in it")),
    ("key", "wearing it round the neck", ("with a heart on its handle", "with three teeth", "on a long ribbon"),
     ("brass", "iron", "copper"), ()),
    ("hat", "wearing it to the market", ("with a feather in it", "with a wide brim", "with a bell on top")),
    ("button", "looking at it in the sunlight", ("with four holes", "shaped like a flower")),
    ("music box", "listening to it at bedtime", ("with a dancing bear inside", "that played a slow waltz",
     "with a tiny crank"), ("wooden", "painted", "round"), ()),
    ("compass", "finding the way with it", ("with a cracked glass", "in a leather case"), ("brass", "small", "old"), ()),
    ("watch", "telling everyone the time", ("on a thin chain", "that ticked very loudly"), ("silver", "round", "old"), ()),
    ("notebook", "writing small secrets in it", ("with a ribbon to mark the page", "with squared paper",
     "with a lock on it")),
    ("paint box", "painting the boats on the lake", ("with twelve colours", "with a broken lid"), ("wooden", "flat", "tin"), ()),
    ("umbrella", "jumping over puddles with it", ("with a duck's head for a handle", "with white spots")),
    ("basket", "gathering berries in it", ("with a lid", "with two handles", "lined with blue cloth"),
     ("round", "willow", "little"), ()),
    ("ball", "bouncing it against the wall", ("with white stripes", "that bounced very high")),
    ("top", "spinning it on the kitchen table", ("that hummed like a bee", "with a ring of dots")),
    ("wooden horse", "galloping it along the window sill", ("with a woollen mane", "on four small wheels"), ("spotted", "little", "painted"), ()),
    ("doll", "taking it along everywhere", ("with yarn for hair", "with an apron", "with button eyes"), ("rag", "little", "wooden"), ()),
    ("puppet", "putting on little plays", ("with a long nose", "with a crown", "with red cheeks"), ("wooden", "funny", "little"), ()),
    ("flute", "playing it by the river", ("in a soft bag", "with silver rings"), ("wooden", "slim", "bamboo"), ()),
    ("bracelet", "wearing it on feast days", ("made of beads", "with a tiny fish on it")),
    ("ring", "turning it round and round", ("with a small stone", "with a wavy line around it"), ("silver", "copper", "thin"), ()),
    ("feather", "using it as a pen", ("as long as an arm", "with a white tip")),
    ("shell", "listening to the lake in it", ("with pink edges", "curled like a horn"), ("white", "speckled", "smooth"), ()),
    ("spoon", "stirring porridge with it", ("with a bird on its handle", "with a long handle"), ("wooden", "silver", "little"), ()),
    ("teapot", "making tea in it for guests", ("with a crooked spout", "with painted cherries")),
    ("blanket", "sleeping under it in winter", ("with a hole in one corner", "made of soft wool")),
    ("cap", "wearing it back to front", ("with a shiny button", "with ear flaps")),
    ("bell", "ringing it at supper time", ("with a wooden handle", "with a clear high sound"), ("brass", "little", "silver"), ()),
    ("magnifying glass", "looking at beetles with it", ("with a horn handle", "in a velvet bag"), ("round", "heavy", "little"), ()),
    ("map", "planning long journeys on it", ("with a coffee stain", "drawn by hand", "with a golden edge"), ("old", "folded", "faded"), ()),
    ("fishing rod", "catching perch from the landing", ("with a cork handle", "with a bent tip"), ("long", "willow", "light"), ()),
    ("sledge", "racing down Gorse Hill in the snow", ("with iron runners", "with room for two")),
    ("wagon", "pulling it up and down the street", ("with one squeaky wheel", "with high sides")),
    ("bucket", "fetching water in it", ("with a rope handle", "with a fish painted on it")),
    ("mirror", "sending spots of sunlight across the room", ("with a carved frame", "no bigger than a hand"), ("round", "little", "oval"), ()),
    ("purse", "keeping pennies in it", ("with a brass clasp", "with a long strap")),
    ("coin", "turning it over between two fingers", ("with a hole in the middle", "with a ship on one side"), ("silver", "gold", "copper"), ()),
    ("book", "reading it under the lime tree", ("about the sea", "about a fox", "full of maps", "with no last page")),
    ("jar", "keeping treasures in it", ("with a cork lid", "with a label"), ("glass", "clay", "round"), ()),
    ("pillow", "building castles with it", ("stuffed with feathers", "with a tassel at each corner")),
    ("rope", "skipping with it in the yard", ("with wooden handles", "with a knot in the middle"), ("long", "thick", "yellow"), ()),
    ("mug", "drinking cocoa from it", ("with a chipped rim", "with a bear on it")),
    ("stamp", "showing it to visitors", ("with a whale on it", "from a far country"), ("blue", "rare", "square"), ()),
    ("penknife", "carving little boats with it", ("with two blades", "with a bone handle"), ("small", "sharp", "old"), ()),
)]

# fits into a pocket, a nest or a hole in a tree
SMALL = ("whistle", "marble", "key", "button", "watch", "bracelet", "ring", "feather", "shell", "bell", "coin", "stamp", "penknife", "compass")
# what nobody would carry through the town for fun
AT_HOME = ("teapot", "blanket", "pillow", "mug", "mirror", "wagon", "sledge", "bucket", "spoon", "jar")
PORTABLE = tuple(thing.noun for thing in THINGS if thing.noun not in AT_HOME)

for _i, _thing in enumerate(THINGS):
    _thing.index = _i
for _i, _child in enumerate(CHILDREN):
    _child.index = _i


def is_held_out(child, thing):
    """One pair of hero and thing in thirteen belongs to the held-out text alone."""
    return (child.index * 5 + thing.index * 7) % 13 == 0


def hero_and_thing(doc, allowed=None):
    """A hero and a thing of the kind that this split may join. `allowed` limits the nouns."""
    things = [thing for thing in THINGS if allowed is None or thing.noun in allowed]
    pairs = [(child, thing) for child in CHILDREN for thing in things
             if is_held_out(child, thing) == (doc.split == "held_out")]
    child, thing = doc.rng.pick(pairs)
    return child, thing.drawn(doc.rng)


def others(doc, k, besides=(), gender=None):
    """Children other than those given."""
    pool = [child for child in CHILDREN if child not in besides and (gender is None or child.gender == gender)]
    return doc.rng.sample(pool, k)


def grown_ups(doc, k, besides=()):
    return doc.rng.sample([adult for adult in ADULTS if adult not in besides], k)


def other_gender(person):
    return "m" if person.gender == "f" else "f"
