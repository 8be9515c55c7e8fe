"""The one world that every document lives in: the town of Pellmere, its people, places, children and habits.

Nothing here is drawn by chance: a fact stated in one document holds in all of
them, so that a model can learn it.
"""

from .grammar import Person

TOWN, RIVER, LAKE, HILL, WOOD, ISLAND = "Pellmere", "Ouzel", "Lake Mirrow", "Gorse Hill", "Hollin Wood", "Heron Island"

TOWN_FACTS = (
    ("Where does the town of Pellmere lie?", "Pellmere lies on the river Ouzel, between Gorse Hill and Hollin Wood."),
    ("Where does the river Ouzel end?", "The river Ouzel flows into Lake Mirrow."),
    ("How many arches does the Stone Bridge have?", "The Stone Bridge has three arches."),
    ("Which day is market day in Pellmere?", "Market day is Saturday."),
    ("Where is the market held?", "The market is held in Bell Square."),
    ("What is special about the clock in the bell tower?", "The clock in the bell tower is four minutes slow."),
    ("What is the name of the ferry?", "The ferry is called the Marigold."),
    ("Where does the ferry go?", "The ferry goes to Heron Island."),
    ("When does the ferry leave?", "The ferry leaves at nine in the morning and at four in the afternoon."),
    ("How much does the ferry cost?", "A trip on the ferry costs two pennies."),
    ("What stands on top of Gorse Hill?", "A white windmill stands on top of Gorse Hill."),
    ("What grows in the middle of Bell Square?", "An old lime tree grows in the middle of Bell Square."),
    ("When is the Lantern Feast?", "The Lantern Feast is on the first night of winter."),
    ("When is the Apple Fair?", "The Apple Fair is on the last day of September."),
    ("Who is the mayor of Pellmere?", "The mayor of Pellmere is Beatrice Stone."),
    ("How many pupils go to the school?", "Thirty-one pupils go to the school."),
    ("Which birds nest on Heron Island?", "Herons and grey geese nest on Heron Island."),
    ("What is the oldest tree in Hollin Wood?", "The oldest tree in Hollin Wood is an oak called the Grandfather."),
    ("What colour are the roofs of Pellmere?", "The roofs of Pellmere are red."),
    ("How many people live in Pellmere?", "About nine hundred people live in Pellmere."),
    ("Who winds the clock in the bell tower?", "Silas Penn, the clockmaker, winds the clock in the bell tower."),
    ("What does the town eat at the Lantern Feast?", "At the Lantern Feast the town eats onion soup and honey cake."),
)

STREETS = {
    "Mill Lane": "Mill Lane runs along the river, where the old water wheel still turns",
    "Lantern Street": "Lantern Street has a lamp beside every door",
    "Plum Street": "Plum Street is named after the plum trees on both its sides",
    "Copper Lane": "Copper Lane is short and steep and full of hammering",
    "Bell Square": "Bell Square is the middle of the town, under the bell tower",
    "Willow Walk": "Willow Walk is quiet and leads to the school",
    "Harbour Row": "Harbour Row looks out over Lake Mirrow",
    "Orchard Road": "Orchard Road climbs out of the town between the farms",
}


class Adult(Person):
    """A grown-up of Pellmere: a job, a place of work and its street, what is made or sold there, and habits."""

    def __init__(self, name, gender, title, job, place, street, goods, door, opens, closed, detail, works, saying,
                 gift):
        super().__init__(f"{title} {name.split()[-1]}", gender, full=name, job=job, place=place, street=street,
                         goods=goods, door=door, opens=opens, closed=closed, detail=detail, works=works,
                         saying=saying, gift=gift)

    @property
    def at(self):
        """Where to meet them: 'at the bakery'."""
        return f"at {self.place}"


ADULTS = [Adult(*row) for row in (
    ("Hannah Rye", "f", "Mrs", "baker", "the bakery", "Mill Lane", ("bread", "buns", "plum cakes"), "yellow", "six",
     "Sunday", "its stone oven was built by her grandfather", ("kneading dough", "taking buns out of the oven"),
     "Good bread takes its time.", "a warm bun"),
    ("Osric Fenn", "m", "Mr", "librarian", "the library", "Lantern Street", ("stories", "maps", "picture books"),
     "green", "ten", "Monday", "a cat named Comma sleeps on the desk", ("putting books back on their shelves",
     "reading behind the desk"), "It is all written down somewhere.", "a book about the stars"),
    ("Greta Ironside", "f", "Mrs", "smith", "the smithy", "Copper Lane", ("nails", "hinges", "iron gates"), "black",
     "seven", "Sunday", "a horseshoe hangs over the door", ("hammering a glowing hinge", "pumping the bellows"),
     "Strike while the iron is hot.", "a small iron hook"),
    ("Felix Larch", "m", "Mr", "toymaker", "the toy shop", "Plum Street", ("tops", "puppets", "wooden animals"), "red",
     "nine", "Wednesday", "a wooden giraffe stands in the window", ("carving a wooden duck", "painting a top"),
     "A toy is for playing, not for looking at.", "a little wooden duck"),
    ("Ivy Moss", "f", "Miss", "florist", "the flower shop", "Plum Street", ("roses", "seeds", "garlands"), "white",
     "eight", "Tuesday", "a blue parrot named Captain greets every visitor", ("watering the roses",
     "tying a garland"), "Every seed is a promise.", "a packet of seeds"),
    ("Clara Ansel", "f", "Miss", "teacher", "the school", "Willow Walk", ("reading", "sums", "songs"), "blue", "eight",
     "Sunday", "the pupils have painted a whale on the wall", ("writing sums on the board",
     "sharpening pencils"), "There are no silly questions.", "a new pencil"),
    ("Silas Penn", "m", "Mr", "clockmaker", "the clock shop", "Bell Square", ("clocks", "watches", "music boxes"),
     "brown", "nine", "Thursday", "forty-two clocks hang on its walls", ("winding the clocks",
     "peering into a tiny watch"), "All in good time.", "a shiny brass wheel"),
    ("Odette Quill", "f", "Mrs", "cook", "the tea house", "Bell Square", ("ginger tea", "pancakes", "soup"), "orange",
     "eight", "Monday", "a copper kettle hangs above the door", ("stirring a pot of soup", "pouring ginger tea"),
     "Nothing looks so bad after soup.", "a bowl of soup"),
    ("Jonas Pike", "m", "Mr", "fisherman", "the fish shop", "Harbour Row", ("trout", "perch", "smoked eel"), "grey",
     "five", "Monday", "a stuffed pike smiles down from the wall", ("mending a net", "laying out the trout"),
     "The lake gives and the lake takes.", "a smoked fish"),
    ("Bram Alder", "m", "Mr", "boatbuilder", "the boatyard", "Harbour Row", ("rowing boats", "oars", "rafts"), "blue",
     "seven", "Sunday", "a boat without a bottom hangs from the roof", ("planing a plank", "painting a boat with tar"),
     "Measure twice, cut once.", "a piece of good rope"),
    ("Ruth Tern", "f", "Captain", "ferry captain", "the ferry landing", "Harbour Row", ("tickets", "lake maps",
     "hot cocoa"), "white", "eight", "Tuesday", "a brass bell hangs from a post", ("coiling a rope",
     "polishing the brass bell"), "Hold on to your hats.", "a ride on the ferry"),
    ("Tobias Grist", "m", "Mr", "miller", "the windmill", "Gorse Hill", ("flour", "oats", "bran"), "red", "six",
     "Friday", "its four sails can be seen from everywhere", ("filling sacks with flour",
     "oiling the mill wheel"), "The wind does the work, and I do the worrying.", "a little bag of flour"),
    ("Edda Marsh", "f", "Mrs", "farmer", "Clover Farm", "Orchard Road", ("milk", "butter", "cheese"), "green", "five",
     "Sunday", "twelve brown cows live there", ("milking a brown cow", "turning the cheeses"),
     "Cows know more than they say.", "a cup of fresh milk"),
    ("Amos Pell", "m", "Mr", "fruit grower", "the orchard", "Orchard Road", ("apples", "pears", "plums"), "brown",
     "seven", "Sunday", "two hundred trees stand there in straight rows", ("picking pears from a ladder",
     "pruning the apple trees"), "One apple at a time fills the basket.", "a big red apple"),
    ("Nora Finch", "f", "Miss", "postmistress", "the post office", "Lantern Street", ("stamps", "envelopes", "string"),
     "silver", "eight", "Sunday", "every letter has its own small box", ("sorting letters", "weighing a parcel"),
     "A letter is a visit on paper.", "a pretty stamp"),
    ("Emil Weaver", "m", "Mr", "tailor", "the tailor's shop", "Copper Lane", ("coats", "caps", "curtains"), "pink",
     "nine", "Wednesday", "a mirror taller than the tailor stands in the corner", ("sewing a sleeve",
     "cutting blue cloth"), "A stitch in time saves nine.", "a bright button"),
    ("Wilma Tallow", "f", "Mrs", "candlemaker", "the candle shop", "Lantern Street", ("candles", "lamps", "soap"),
     "purple", "ten", "Thursday", "the air smells of honey and smoke", ("dipping candles", "trimming a wick"),
     "One small light is enough to begin with.", "a beeswax candle"),
    ("Agnes Holm", "f", "Doctor", "doctor", "the doctor's house", "Willow Walk", ("syrup", "bandages", "good advice"),
     "white", "nine", "Sunday", "a jar of peppermints stands on the table", ("rolling bandages",
     "mixing a cough syrup"), "Rest first, worry later.", "a peppermint"),
    ("Linus Comb", "m", "Mr", "beekeeper", "the bee garden", "Gorse Hill", ("honey", "wax", "honey cakes"), "yellow",
     "eight", "Friday", "nineteen hives stand there in a half circle", ("looking into a hive",
     "filling jars with honey"), "Move slowly and nothing will sting.", "a spoonful of honey"),
    ("Anton Reed", "m", "Mr", "music teacher", "the music room", "Willow Walk", ("flutes", "fiddles", "drums"), "green",
     "ten", "Saturday", "a harp as tall as a door stands by the window", ("tuning a fiddle", "polishing a flute"),
     "Play it once slowly and it will come fast.", "a set of new strings"),
    ("Tamar Clay", "f", "Mrs", "potter", "the pottery", "Copper Lane", ("bowls", "jugs", "flower pots"), "orange",
     "nine", "Monday", "a crooked chimney rises from its roof", ("shaping a jug on the wheel",
     "painting fish on a bowl"), "Clay forgives everything.", "a small round bowl"),
    ("Hugo Barrel", "m", "Mr", "innkeeper", "the Sleeping Otter inn", "Harbour Row", ("beds", "stew", "apple juice"),
     "blue", "seven", "Tuesday", "an otter carved from oak lies above the door", ("airing the blankets",
     "wiping the tables"), "There is always room for one more.", "a glass of apple juice"),
    ("Beatrice Stone", "f", "Mayor", "mayor", "the town hall", "Bell Square", ("papers", "plans", "speeches"), "black",
     "nine", "Saturday", "a map of the town covers one whole wall", ("reading a long letter", "signing papers"),
     "We shall put it to a vote.", "a ribbon in the colours of the town"),
    ("Jory Wick", "m", "Mr", "lamplighter", "the lamp house", "Lantern Street", ("oil", "wicks", "matches"), "black",
     "five", "Sunday", "one hundred and six lamps are lit from there", ("filling a can with oil",
     "cleaning the glass of a lamp"), "The dark is only the day with its eyes shut.", "a little lantern"),
)]


class Child(Person):
    """A child of Pellmere: age, street, the grown-up at home and what they are to the child, a pet, a liking."""

    def __init__(self, name, gender, age, street, parent, relation, pet, pet_name, pet_gender, likes, trait):
        super().__init__(name, gender, age=age, street=street, relation=relation, pet=pet, pet_name=pet_name,
                         likes=likes, trait=trait)
        self.parent = next(adult for adult in ADULTS if adult.full == parent)
        self.animal = Person(pet_name, pet_gender)


CHILDREN = [Child(*row) for row in (
    ("Nell", "f", 8, "Mill Lane", "Hannah Rye", "mother", "dog", "Crumb", "m", "baking", "curious"),
    ("Tom", "m", 9, "Harbour Row", "Jonas Pike", "father", "duck", "Admiral", "m", "fishing", "patient"),
    ("Mira", "f", 7, "Lantern Street", "Osric Fenn", "father", "cat", "Comma", "f", "reading", "quiet"),
    ("Finn", "m", 8, "Copper Lane", "Greta Ironside", "mother", "donkey", "Anvil", "m", "climbing", "strong"),
    ("Ada", "f", 10, "Plum Street", "Felix Larch", "uncle", "mouse", "Pip", "m", "inventing things", "clever"),
    ("Otis", "m", 6, "Plum Street", "Ivy Moss", "aunt", "parrot", "Captain", "m", "singing", "cheerful"),
    ("Lila", "f", 9, "Bell Square", "Silas Penn", "grandfather", "tortoise", "Minute", "f", "counting", "careful"),
    ("Jasper", "m", 10, "Bell Square", "Odette Quill", "mother", "hen", "Pepper", "f", "cooking", "hungry"),
    ("Wren", "f", 7, "Harbour Row", "Bram Alder", "father", "otter", "Slip", "m", "swimming", "bold"),
    ("Sam", "m", 8, "Harbour Row", "Ruth Tern", "mother", "gull", "Biscuit", "m", "sailing", "adventurous"),
    ("Pia", "f", 6, "Gorse Hill", "Tobias Grist", "father", "goat", "Thistle", "f", "flying kites", "merry"),
    ("Leo", "m", 9, "Orchard Road", "Edda Marsh", "grandmother", "calf", "Daisy", "f", "drawing", "gentle"),
    ("Rosa", "f", 8, "Orchard Road", "Amos Pell", "father", "pony", "Russet", "f", "riding", "brave"),
    ("Ned", "m", 7, "Lantern Street", "Nora Finch", "aunt", "pigeon", "Stamp", "m", "collecting stamps", "tidy"),
    ("Ivo", "m", 10, "Copper Lane", "Emil Weaver", "father", "rabbit", "Velvet", "f", "sewing", "proud"),
    ("Tess", "f", 9, "Lantern Street", "Wilma Tallow", "mother", "bat", "Flicker", "m", "telling stories", "dreamy"),
    ("Max", "m", 6, "Willow Walk", "Agnes Holm", "grandmother", "hedgehog", "Needle", "m", "asking questions", "shy"),
    ("Dora", "f", 10, "Gorse Hill", "Linus Comb", "father", "goose", "Duchess", "f", "gardening", "calm"),
    ("Theo", "m", 8, "Willow Walk", "Anton Reed", "father", "canary", "Trill", "m", "playing the flute", "dreamy"),
    ("Una", "f", 7, "Copper Lane", "Tamar Clay", "mother", "frog", "Puddle", "m", "painting", "messy"),
    ("Ben", "m", 9, "Harbour Row", "Hugo Barrel", "father", "dog", "Bramble", "f", "running", "restless"),
    ("Cleo", "f", 10, "Bell Square", "Beatrice Stone", "mother", "owl", "Vote", "m", "making plans", "serious"),
    ("Abel", "m", 7, "Lantern Street", "Jory Wick", "grandfather", "cat", "Smoke", "f", "watching the stars",
     "thoughtful"),
    ("Etta", "f", 8, "Willow Walk", "Clara Ansel", "aunt", "squirrel", "Chestnut", "m", "asking riddles", "quick"),
)]

# outdoor places of the town: where things are lost, found and met
PLACES_OUT = (
    "the old lime tree in Bell Square", "the Stone Bridge", "the reeds by Lake Mirrow", "the windmill on Gorse Hill",
    "the first trees of Hollin Wood", "the orchard wall", "the ferry landing", "the steps of the bell tower",
    "the water wheel on Mill Lane", "the meadow behind Clover Farm", "the well in Willow Walk",
    "the stepping stones in the river",
)


def adult_of(place):
    return next(adult for adult in ADULTS if adult.place == place)
