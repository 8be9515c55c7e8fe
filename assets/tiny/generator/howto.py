"""How things are done: recipes, the garden, small crafts. Amounts and order vary, and are asked for again."""

from .grammar import count, listing, plural
from .world import CHILDREN, adult_of

# name, who knows it, what is needed as (noun, low, high) or plain text, steps in order, how long, the sign that it is done
GUIDES = (
    ("plum cake", "the bakery", (("plum", 8, 15), ("egg", 2, 4), ("cup of flour", 2, 4), "a little butter", "a spoonful of honey"),
     ("wash the plums and take out the stones", "beat the eggs with the honey until they are pale", "stir in the flour, a little at a time", "rub the tin with butter and pour in the dough", "lay the plums on top, close together", "bake it in a hot oven"), ("an hour", "forty minutes"), "a straw comes out clean"),
    ("onion soup", "the tea house", (("onion", 4, 9), ("slice of bread", 2, 6), "a lump of butter", "salt", "a pot of water"),
     ("cut the onions into thin rings", "let the butter melt in the pot", "cook the onions until they are golden", "pour in the water and add salt", "let it simmer and stir now and then", "put the bread in the bowls and pour the soup over it"), ("half an hour", "an hour"), "the onions are soft and sweet"),
    ("pancakes", "the tea house", (("egg", 2, 5), ("cup of milk", 1, 3), ("cup of flour", 1, 3), "a pinch of salt"),
     ("mix the flour and the salt in a bowl", "make a hole in the middle and break the eggs into it", "pour in the milk slowly, stirring all the time", "let the batter rest", "heat a little butter in the pan", "pour in enough batter to cover the bottom", "turn the pancake when the edge is brown"), ("a quarter of an hour", "twenty minutes"), "both sides are golden"),
    ("honey cake", "the bee garden", (("cup of honey", 1, 2), ("egg", 2, 4), ("cup of flour", 3, 5), "some ginger", "a handful of walnuts"),
     ("warm the honey until it runs easily", "stir in the eggs, one after the other", "add the flour and the ginger", "chop the walnuts and fold them in", "pour everything into a flat tin", "bake it slowly"), ("an hour", "fifty minutes"), "the whole house smells of honey"),
    ("apple sauce", "the orchard", (("apple", 6, 14), "a cup of water", "a spoonful of honey", "the peel of a lemon"),
     ("peel the apples and cut out the cores", "chop them into small pieces", "put them into a pot with the water", "cook them with the lid on, and stir often", "mash them with a wooden spoon", "sweeten the sauce with honey"), ("twenty minutes", "half an hour"), "no lumps are left"),
    ("butter", "Clover Farm", (("jug of cream", 1, 3), "a clean jar with a lid", "cold water", "salt"),
     ("let the cream stand until it is as warm as the room", "pour it into the jar and close the lid tightly", "shake the jar without stopping", "pour off the thin milk", "wash the lump in cold water", "press it with a spoon and add a little salt"), ("ten minutes", "a quarter of an hour"), "a yellow lump has formed"),
    ("a bed of peas", "the flower shop", (("pea", 20, 60), ("stick", 6, 12), "a rake", "string", "a can of water"),
     ("dig the earth over and pick out the stones", "rake it until it is fine", "draw a straight line with a stick", "lay the peas in the line, a thumb apart", "cover them with earth and press it down", "water them gently", "push the sticks into the ground, so that the peas can climb"), ("ten days", "two weeks"), "the first green tips can be seen"),
    ("a sunflower", "the flower shop", (("seed", 2, 6), "a clay pot", "good earth", "a long pole"),
     ("fill the pot with earth", "push the seed in as deep as a finger joint", "put the pot on a sunny window sill", "keep the earth damp but not wet", "plant it in the garden when the nights are warm", "tie the stem to the pole when it is as tall as a child"), ("eight days", "ten days"), "two thick leaves have opened"),
    ("an apple tree", "the orchard", ("a young tree", "a spade", "a post", "a bucket of water", ("shovelful of compost", 2, 5)),
     ("dig a hole twice as wide as the roots", "drive the post into the ground beside it", "set the tree in the hole and spread out the roots", "fill the hole with earth and compost", "tread the earth down with your foot", "tie the tree to the post, but not too tightly", "pour a whole bucket of water over the roots"), ("three years", "four years"), "the first apples are hanging on it"),
    ("a kite", "the toy shop", (("thin stick", 2, 2), "strong paper", "glue", "a ball of string", ("bow of paper", 5, 12)),
     ("tie the two sticks together in the shape of a cross", "stretch a string round the four ends", "lay the frame on the paper and cut around it", "fold the edge over the string and glue it down", "tie the long string to the middle", "make a tail out of the bows"), ("an hour", "a whole evening"), "the glue is dry"),
    ("a paper boat", "the boatyard", ("a sheet of strong paper", "a candle stub", "a flat table"),
     ("fold the sheet in half", "fold the two upper corners to the middle", "bend up the edge on both sides", "open it like a hat and press it flat the other way", "fold up both points and press again", "pull the two tips apart", "rub the bottom with the candle, so that it stays dry"), ("five minutes", "ten minutes"), "it stands by itself"),
    ("a candle", "the candle shop", (("lump of beeswax", 2, 5), "a wick", "a tall tin", "a pot of hot water"),
     ("stand the tin in the hot water and let the wax melt", "hold the wick by one end", "dip it into the wax and pull it out again", "let it cool for as long as it takes to count to thirty", "dip it again and again", "roll it straight on a smooth board", "hang it up by the wick"), ("two hours", "half a day"), "it is hard all the way through"),
    ("a clay bowl", "the pottery", (("lump of clay", 1, 2), "a wet sponge", "a wooden stick", "a smooth board"),
     ("knead the clay until there is no air in it", "roll it into a ball", "push your thumb into the middle", "press the wall between thumb and fingers, turning the bowl all the time", "smooth it with the wet sponge", "scratch a pattern into it with the stick", "let it dry in the shade"), ("three days", "a week"), "it feels warm and light"),
    ("a letter", "the post office", ("a sheet of paper", "a pen", "an envelope", ("stamp", 1, 2)),
     ("write the place and the day in the upper corner", "begin with a greeting", "tell what has happened, one thing after the other", "ask at least one question, so that an answer will come", "sign it with your name", "fold it twice and put it into the envelope", "write the address clearly and stick on the stamp"), ("two days", "three days"), "the answer lies in the box"),
    ("a bird box", "the toy shop", (("board", 5, 6), ("nail", 12, 24), "a saw", "a hammer"),
     ("saw the boards to the right length", "cut a round hole in the front, as wide as a walnut", "nail the sides to the back", "put in the bottom and nail on the front", "lay the roof on top, a little aslant", "hang it up on the side that is away from the wind"), ("a few weeks", "a month"), "the first birds move in"),
    ("a lantern for the feast", "the lamp house", ("a large jar", "thin coloured paper", "glue", "wire", ("small candle", 1, 2)),
     ("wash the jar and dry it well", "tear the paper into small pieces", "glue the pieces all over the jar", "bend the wire into a handle", "let it dry overnight", "put the candle inside and light it with the help of a grown-up"), ("one night", "a day"), "the paper no longer feels sticky"),
    ("a rope swing", "the boatyard", ("a long rope", "a smooth board", "a drill", ("iron ring", 2, 4)),
     ("find a strong branch that is alive", "drill a hole in each end of the board", "throw the rope over the branch", "thread the ends through the holes", "tie them to the rings under the board", "pull on it with all your weight before you sit down"), ("half an hour", "an hour"), "it hangs straight"),
    ("dried apples", "the orchard", (("apple", 5, 12), "a sharp knife", "a clean string", "a warm place"),
     ("wash the apples and cut out the cores", "slice them into rings as thick as a finger", "thread the rings on the string", "hang the string up near the stove", "turn the rings every day"), ("five days", "a week"), "they bend like leather"),
)


def told(step, child):
    """A step as something that happened: what stands in the present goes into the past."""
    for now, then in ((" are ", " were "), (" is ", " was "), (" has ", " had "), (" can ", " could "), (" will ", " would "), (" your ", f" {child.his} "), (" runs ", " ran "), (" stays ", " stayed "), (" you sit", f" {child.he} sat")):
        step = (step + " ").replace(now, then).strip()
    return step


def guide(d):
    name, place, needs, steps, times, sign = d.rng.pick(GUIDES)
    adult = adult_of(place)
    amounts = []
    for need in needs:
        amounts.append(need if isinstance(need, str) else count(d.rng.between(need[1], need[2]), need[0]))
    amounts = d.rng.shuffled(amounts)
    time = d.rng.pick(times)
    plain = name[2:] if name.startswith("a ") else name[3:] if name.startswith("an ") else name
    growing = plain in ("bed of peas", "sunflower", "apple tree")
    verb = "grow" if growing else "write" if plain == "letter" else "make"
    title = f"How to {'grow' if growing else 'write' if plain == 'letter' else 'make'} {name}."
    d.line(title)
    style = d.rng.below(4)
    child = d.rng.pick(CHILDREN)
    d.s(f"this is the way {adult}, the {adult.job} of Pellmere, does it.", f"{adult} {adult.at} showed it to {child}, and {child} wrote it down.",
        f"anyone can {verb} {name}, if there is time and patience.", f"in Pellmere, nobody can do this better than {adult}, the {adult.job}.", f"{child} asked {adult}, the {adult.job}, how it is done.")
    d.s(f"you need {listing(amounts)}.", f"get these things ready: {listing(amounts)}.", f"before you begin, look for {listing(amounts)}.")
    d.para()
    if style == 0:
        for n, step in enumerate(steps):
            d.line(f"{n + 1}. {step[0].upper()}{step[1:]}.")
    elif style == 1:
        for n, step in enumerate(steps):
            lead = "first" if n == 0 else d.rng.pick(("then", "next", "after that", "now")) if n < len(steps) - 1 else d.rng.pick(("finally", "at last", "at the end"))
            d.s(f"{lead}{',' if lead in ('finally', 'at last', 'at the end', 'after that') else ''} {step}.")
    elif style == 2:
        d.did(child, [told(step, child) for step in steps])
        d.s(f"{adult} looked on and helped only once.")
    else:
        rest = list(steps)
        while rest:
            if len(rest) > 1 and d.rng.chance(0.6):
                one, two = rest.pop(0), rest.pop(0)
                d.s(f"{one}, and then {two}.", f"{one}. When that is done, {two}.", f"before you {two}, {one}." if " it" not in two and " them" not in two else f"{one}, then {two}.", f"{one}. Now {two}.")
            else:
                d.s(f"{rest.pop(0)}.")
    d.para()
    d.s(f"after {time} {sign}.", f"now wait. It takes {time} until {sign}.", f"it is ready when {sign}, and that takes about {time}.")
    tips = {"plum cake": "Use ripe plums, or it will be sour.", "onion soup": "If your eyes burn, breathe through your mouth.", "pancakes": "The first one never comes out well. Give it to the dog.",
            "a sunflower": "Birds love the seeds in autumn, so leave them a few.", "a kite": "Never fly it in a thunderstorm.", "butter": "Sing a song while you shake, and it will go faster.",
            "a candle": "Never leave hot wax alone.", "a clay bowl": "If it cracks, wet it and begin again.", "an apple tree": "Talk to it now and then, for it does no harm."}
    if name in tips and d.rng.chance(0.6):
        d.s(tips[name])
    d.maybe(0.6, f'{adult} says, "{adult.saying}"', f"{adult} gave {child} {adult.gift} to go with it.", f"the first time it may not be perfect, but the second time will be better.")
    d.para()
    pairs = [(f"What do you do first?", f"First you {steps[0]}."), (f"What is the last step?", f"Last you {steps[-1]}."), ("How long does it take?", f"It takes {time}."), ("How do you know that it is ready?", f"It is ready when {sign}."), ("Who knows how to do it?", f"{adult}, the {adult.job}, knows.")]
    pairs += [(f"How many {plural(need[0])} do you need?", f"You need {amount}.") for need in needs if not isinstance(need, str) for amount in amounts if amount.endswith(need[0]) or plural(need[0]) in amount]
    if d.rng.chance(0.6):
        for question, answer in d.rng.sample(pairs, 2):
            d.line(f"Question: {question}").line(f"Answer: {answer}")


