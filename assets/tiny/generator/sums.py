"""Word problems with small numbers, worked out step by step; every answer is computed."""

from .grammar import count, number, plural
from .things import others
from .world import adult_of

FRUIT = ("apple", "pear", "plum", "walnut", "chestnut", "cherry", "bun", "egg", "button", "marble", "shell", "candle", "stamp", "acorn", "pebble", "feather", "nail", "bowl")


def add(d, rng, a, b):
    item = rng.pick(FRUIT)
    x, y = rng.between(2, 20), rng.between(2, 20)
    return (rng.pick((f"{a} has {count(x, item)}. {b} gives {a.him} {number(y)} more. How many {plural(item)} does {a} have now?",
                      f"{a} found {count(x, item)} in the morning and {number(y)} in the afternoon. How many {plural(item)} did {a} find that day?",
                      f"there are {count(x, item)} in one basket and {number(y)} in another. How many {plural(item)} are there in both baskets?")),
            f"{number(x)} and {number(y)} make {number(x + y)}.", count(x + y, item))


def take(d, rng, a, b):
    item = rng.pick(FRUIT)
    x = rng.between(6, 30)
    y = rng.between(2, x - 2)
    return (rng.pick((f"{a} had {count(x, item)} and gave {number(y)} of them to {b}. How many {plural(item)} were left?",
                      f"of {count(x, item)} on the table, {a} and {b} took away {number(y)}. How many stayed on the table?",
                      f"{a} carried {count(x, item)} home, but {number(y)} fell out of the bag. How many {plural(item)} came home?")),
            f"{number(x)} take away {number(y)} is {number(x - y)}.", count(x - y, item))


def times(d, rng, a, b):
    item = rng.pick(FRUIT)
    box = rng.pick(("box", "basket", "bag", "jar", "crate"))
    x, y = rng.between(2, 10), rng.between(2, 10)
    return (rng.pick((f"{a} has {count(x, box)} with {count(y, item)} in each. How many {plural(item)} are there altogether?",
                      f"in each of {count(x, box)} there are {count(y, item)}. {b} counts them all. What is the number?",
                      f"every day {a} fills one {box} with {count(y, item)}. How many {plural(item)} are there after {number(x)} days?")),
            f"{number(x)} times {number(y)} is {number(x * y)}.", count(x * y, item))


def share(d, rng, a, b):
    item = rng.pick(FRUIT)
    x, y = rng.between(2, 6), rng.between(2, 9)
    return (rng.pick((f"{a} shares {count(x * y, item)} equally among {number(x)} friends. How many does each friend get?",
                      f"{count(x * y, item)} are put into {number(x)} equal heaps. How many are there in each heap?")),
            f"{number(x * y)} divided by {number(x)} is {number(y)}.", count(y, item))


def money(d, rng, a, b):
    item = rng.pick(("apple", "pear", "bun", "egg", "button", "candle", "stamp", "nail", "bowl"))
    price, n = rng.between(2, 6), rng.between(2, 6)
    have = price * n + rng.between(1, 15)
    return (f"{a} goes to the market with {count(have, 'penny')} and buys {count(n, item)} for {count(price, 'penny')} each. How many pennies does {a} have left?",
            f"{number(n)} times {number(price)} is {number(n * price)}, and {number(have)} take away {number(n * price)} is {number(have - n * price)}.", count(have - n * price, "penny"))


def compare(d, rng, a, b):
    item = rng.pick(FRUIT)
    x = rng.between(5, 25)
    y = rng.between(2, x - 2)
    return (rng.pick((f"{a} has {count(x, item)}, and {b} has {number(y)}. How many more does {a} have than {b}?", f"{b} picked {count(y, item)}, but {a} picked {number(x)}. How many fewer did {b} pick?")),
            f"{number(x)} take away {number(y)} is {number(x - y)}.", count(x - y, item))


def ages(d, rng, a, b):
    if a.age == b.age:
        return (f"{a} is {number(a.age)} and {b} is {number(b.age)}. Who is older?", f"{number(a.age)} and {number(b.age)} are the same.", "neither of them")
    old, young = (a, b) if a.age > b.age else (b, a)
    return (f"{a} is {number(a.age)} years old, and {b} is {number(b.age)}. Who is older, and by how many years?", f"{number(old.age)} take away {number(young.age)} is {number(old.age - young.age)}.",
            f"{old}, by {count(old.age - young.age, 'year')}")


def clock(d, rng, a, b):
    start, hours = rng.between(1, 7), rng.between(1, 4)
    return (f"{a} leaves home at {number(start)} o'clock and comes back {count(hours, 'hour')} later. What time is it then?", f"{number(start)} and {number(hours)} make {number(start + hours)}.", f"{number(start + hours)} o'clock")


SHAPES = (add, add, take, take, times, share, money, compare, ages, clock)


def problems(d):
    """A page of exercises with answers."""
    rng = d.rng
    d.s("Miss Ansel wrote some sums on the board.", "these are the sums for today.", "here are some sums from the school in Pellmere, with their answers.", "who can work these out?", "in the sum book of the school one finds the following.")
    style = rng.below(2)
    for n, shape in enumerate(rng.sample(SHAPES, rng.between(3, 4))):
        a, b = others(d, 2)
        question, way, answer = shape(d, rng, a, b)
        if style == 0:
            d.line(f"{('first', 'second', 'third', 'fourth')[n]} sum: {question}").line(f"{way} The answer is {answer}.")
        else:
            d.line(f"Question: {question}").line(f"Answer: {way} So the answer is {answer}.")


def lesson(d):
    """A sum talked over."""
    rng = d.rng
    a, b = others(d, 2)
    teacher = adult_of("the school")
    question, way, answer = rng.pick((add, take, times, share, money))(d, rng, *others(d, 2, (a, b)))
    d.s(f"it was <quiet|warm|noisy> in the school on Willow Walk, and Miss Ansel held up a piece of chalk.", f"after the <song|break> Miss Ansel wrote a sum on the board.")
    d.say(teacher, f"Listen well.", question)
    d.s(f"{a} counted on all ten fingers. {b} looked out of the window.", f"{a} raised a hand. So did {b}.", f"{b} whispered something to {a}.")
    wrong = rng.chance(0.4)
    if wrong:
        d.say(a, "Is it a hundred?", mood="soft")
        d.say(teacher, "Not quite.", "<Do it step by step.|What do we know?>", "soft")
    d.say(b if wrong else a, f"{way}", f"So the answer is {answer}.")
    d.say(teacher, "<That is right.|Very good.|Exactly.>", "<Write it down.|How did you know?|And now the next one.>", "glad")
    question, way, answer = rng.pick((add, take, compare, clock))(d, rng, *others(d, 2, (a, b)))
    d.para()
    d.say(teacher, question)
    d.s("there was a silence.", "the chalk squeaked.", f"somebody dropped a pencil.")
    d.say(a if wrong else b, f"I have it!", f"{way} It is {answer}.", "glad")
    d.say(teacher, teacher.saying if rng.chance(0.3) else "Right again.", "<You may go out and play.|Tomorrow we shall do harder ones.|Well done, both of you.>")
