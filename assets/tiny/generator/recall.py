"""Texts that ask back: who had what, where, how many, in which order. The answer always stands earlier in the text."""

from .grammar import count, listing, number, plural, upper_first
from .things import COLOURS, PAINTABLE, THINGS, grown_ups, is_held_out, others
from .world import CHILDREN, PLACES_OUT

CARRIED = ("apple", "pear", "walnut", "button", "marble", "candle", "bun", "feather", "shell", "chestnut", "nail", "ribbon", "pebble", "stamp", "plum", "egg")
WEAR = ("coat", "cap", "scarf", "jacket", "jersey", "hat")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def ask(d, pairs, k):
    """Some of the questions, each with its answer, in one of three layouts."""
    style = d.rng.below(3)
    for question, answer in d.rng.sample(pairs, k):
        if style == 0:
            d.line(f"Question: {question}").line(f"Answer: {answer}")
        elif style == 1:
            d.line(f"{question} {answer}")
        else:
            d.line(f"Q: {question} A: {answer}")


def allowed_things(d, child, k, colours=True):
    pool = [thing for thing in THINGS if is_held_out(child, thing) == (d.split == "held_out") and (thing.colours or not colours)]
    return [thing.drawn(d.rng) for thing in d.rng.sample(pool, k)]


def also(phrase):
    """'also' at its place in a past verb phrase."""
    return "had also " + phrase[4:] if phrase.startswith("had ") else "also " + phrase


def outing(d):
    """Children meet; each has a colour, a thing, a number and a place."""
    kids = others(d, 3)
    where = d.rng.sample(PLACES_OUT, 3)
    used, rows = set(), []
    colours = d.rng.sample(PAINTABLE, 3)
    wear = d.rng.pick(WEAR)
    fruit = d.rng.sample(CARRIED, 3)
    for i, child in enumerate(kids):
        options = [t for t in allowed_things(d, child, 48, False) if t.noun not in used and not t.colours]
        thing = options[0] if options else [t for t in THINGS if t.noun not in used and not t.colours][0].drawn(d.rng)
        used.add(thing.noun)
        rows.append((child, colours[i], thing, d.rng.between(2, 12), fruit[i], where[i]))
    day = d.rng.pick(DAYS)
    d.s(f"on {day} {listing(kids)} <met after school|went out together|spent the day outside>.", f"it was {day}, and {listing(kids)} had nothing to do.", f"{listing(kids)} wanted to see who could find the most on one {day}.")
    for child, colour, thing, n, item, spot in d.rng.shuffled(rows):
        bits = [f"wore a~ {colour} {wear}", f"had brought a~ {thing.short}", f"carried {count(n, item)} in a bag"]
        bits = d.rng.shuffled(bits)
        d.s(f"{child} {bits[0]} and {bits[1]}. {child.he} {also(bits[2])}.", f"{child} {listing(bits)}.", f"{child}, who {bits[0]}, {bits[1]} and {bits[2]}.")
    d.para()
    for child, colour, thing, n, item, spot in d.rng.shuffled(rows):
        d.s(f"<at noon|later|in the afternoon|for a while> {child} sat down near {spot}<, to rest|, where it was quiet|>.", f"{child} waited near {spot}.", f"near {spot} {child} stopped to look at <a beetle|the clouds|a snail>.")
    d.maybe(0.7, "nobody wanted to go home.", "then the bell rang, and it was time for supper.", "they agreed to meet again the next day.", "in the evening it began to rain.")
    d.para()
    pairs = []
    for child, colour, thing, n, item, spot in rows:
        pairs += [(f"What colour was {child}'s {wear}?", f"{child}'s {wear} was {colour}."), (f"Who wore the {colour} {wear}?", f"{child} wore the {colour} {wear}."),
                  (f"Who had brought the {thing.noun}?", f"{child} had brought the {thing.noun}."), (f"What had {child} brought?", f"{child} had brought a~ {thing.short}."),
                  (f"How many {plural(item)} did {child} carry?", f"{child} carried {count(n, item)}."), (f"Who was near {spot}?", f"{child} was near {spot}."),
                  (f"Where did {child} <stop|rest>?", f"{child} was near {spot}.")]
    pairs.append(("On which day did this happen?", f"It happened on {day}."))
    pairs.append((f"How many children were there?", "There were three children."))
    ask(d, pairs, d.rng.between(4, 6))


def parcels(d):
    """A post round: who gets which parcel, and what is in it."""
    people = grown_ups(d, 4)
    numbers = d.rng.sample(range(2, 60), 4)
    things = [thing.drawn(d.rng) for thing in d.rng.sample(THINGS, 4)]
    strings = d.rng.sample(COLOURS, 4)
    d.s(f"Miss Finch had four parcels to deliver.", "four parcels lay on the counter of the post office.", f"on {d.rng.pick(DAYS[:5])} the cart brought four parcels.")
    order = d.rng.shuffled(range(4))
    for i in order:
        adult = people[i]
        d.s(f"parcel number {number(numbers[i])}, tied with {strings[i]} string, was for {adult}, the {adult.job}.", f"number {number(numbers[i])} was for {adult.full} {adult.at} and had a~ {strings[i]} string.",
            f"the one with the {strings[i]} string, number {number(numbers[i])}, was for {adult}.")
    helper = d.rng.pick(CHILDREN)
    d.para()
    d.s(f"{helper} <helped to carry them|came along to help|pulled the cart>.")
    route = d.rng.shuffled(range(4))
    for n, i in enumerate(route):
        adult = people[i]
        d.s(f"{('first', 'second', 'third', 'last')[n]} they <stopped|rang> at the door of {adult}. In the parcel there was a~ {things[i].full}.",
            f"{('first they went', 'then they went', 'after that they went', 'in the end they went')[n]} to {adult.place}. {adult} opened the parcel and found a~ {things[i].full}.")
        d.maybe(0.15, f"{adult} gave {helper} {adult.gift}.")
    d.para()
    pairs = []
    for i, adult in enumerate(people):
        pairs += [(f"Who got parcel number {number(numbers[i])}?", f"{adult} got parcel number {number(numbers[i])}."), (f"What was in the parcel for {adult}?", f"In it was a~ {things[i].full}."),
                  (f"What colour was the string on the parcel for {adult}?", f"It was {strings[i]}."), (f"What was the number of the parcel for {adult}?", f"It was number {number(numbers[i])}.")]
    pairs += [("Who helped with the parcels?", f"{helper} helped."), ("Who got a parcel first?", f"{people[route[0]]} got a parcel first."), ("Who got a parcel last?", f"{people[route[3]]} got a parcel last.")]
    ask(d, pairs, d.rng.between(4, 5))


def pegs(d):
    """A table of pairs, told in words, and looked up again."""
    k = d.rng.between(4, 7)
    kids = others(d, k)
    kind = d.rng.below(3)
    if kind == 0:
        values = [f"peg {number(n)}" for n in d.rng.sample(range(1, 32), k)]
        d.s("in the hall of the school every pupil has a peg.", "there are thirty-one pegs in the hall of the school.", "before the lessons the coats are hung up in the hall.")
        lines = [d.rng.pick((f"{c} has {v}.", f"{c}'s coat hangs on {v}.", f"{v} belongs to {c}.")) for c, v in zip(kids, values)]
        pairs = [(f"Which peg does {c} have?", f"{c} has {v}.") for c, v in zip(kids, values)] + [(f"Whose is {v}?", f"It is {c}'s.") for c, v in zip(kids, values)]
    elif kind == 1:
        values = d.rng.sample(PAINTABLE, k)
        d.s("Miss Ansel gave each of them a cup of paint.", "for the picture on the wall, each pupil was given one colour.", "each of them had a brush and a single colour.")
        lines = [d.rng.pick((f"{c} had {v}.", f"{v} was for {c}.", f"{c} painted with {v}.", f"{c} got {v}.")) for c, v in zip(kids, values)]
        pairs = [(f"Which colour did {c} have?", f"{c} had {v}.") for c, v in zip(kids, values)] + [(f"Who painted with {v}?", f"{c} painted with {v}.") for c, v in zip(kids, values)]
    else:
        values = d.rng.sample(("the king", "the queen", "the wolf", "the miller", "the moon", "the tree", "the robber", "the giant", "the cat", "the old woman", "the ferryman", "the bear"), k)
        d.s("the school is putting on a play, and everyone has a part.", "the parts for the play were read out in the morning.", "for the Lantern Feast the children are learning a play.")
        lines = [d.rng.pick((f"{c} plays {v}.", f"{v} is played by {c}.", f"the part of {v} goes to {c}.")) for c, v in zip(kids, values)]
        pairs = [(f"Who plays {v}?", f"{c} plays {v}.") for c, v in zip(kids, values)] + [(f"Which part does {c} play?", f"{c} plays {v}.") for c, v in zip(kids, values)]
    for text in lines:
        d.s(text)
    d.para()
    someone = others(d, 1, kids)[0]
    d.s(f"{someone} was ill that day and stayed at home with {someone.animal} the {someone.pet}.", f"{someone} came late, because {someone.his} {someone.pet} had run away.", f"{someone} could not choose and only watched.", f"outside it was raining, and nobody was in a hurry.")
    d.s("it took some time until it was quiet.", "Miss Ansel read it all out once more.", "some were content, and some would have liked to swap.", "then the bell rang.", "a bee flew in through the window, and for a moment nobody listened.")
    d.s(f"<in the afternoon|later> {d.rng.pick(kids)} and {someone} talked about it on the way home.", "the next morning hardly anyone had forgotten.", "could you keep it all in mind?")
    d.para()
    ask(d, pairs, d.rng.between(4, 6))


def secret(d):
    """A word given early, much that happens in between, and the word asked for at the end."""
    hero = d.rng.pick(CHILDREN)
    adult = grown_ups(d, 1, (hero.parent,))[0]
    other = others(d, 1, (hero,))[0]
    word = " ".join((d.rng.pick(PAINTABLE), d.rng.pick(("badger", "lantern", "river", "button", "goose", "acorn", "kettle", "anchor", "pepper", "window", "mountain", "feather", "thimble", "walnut", "bridge"))))
    place = d.rng.pick(PLACES_OUT)
    d.s(f"{hero} and {other} had a <club|secret club> that met near {place}. <Nobody could join without the password, and the password changed every week.|Every week there was a new password, and whoever forgot it had to stay outside.|The door opened only to those who knew the password of the week.>")
    d.say(other, f"This week the password is {word}.", "<Do not tell anyone.|Do not write it down.|Can you keep that in mind?>")
    d.say(hero, f"{upper_first(word)}.", "<I will remember it.|That is easy.|>", "plain")
    d.para()
    d.s(f"then it was time to help at home. {hero}'s {hero.relation} needed {hero.him} {adult.at}.", f"on the way home {hero} met {adult}, who was {d.rng.pick(adult.works)}.")
    events = d.rng.sample((f"{hero.animal} the {hero.pet} had stolen a sausage, and it took an hour to find out who it was.", f"it rained, and {hero} helped to carry in the washing.", f"there were potatoes to peel, {number(d.rng.between(11, 40))} of them.",
                           f"a visitor came and told a long story about a~ {d.rng.pick(PAINTABLE)} whale.", f"the clock stopped, and nobody knew when supper was.", f"{hero} had to learn a poem about a~ {d.rng.pick(PAINTABLE)} ship.",
                           f"{adult} gave {hero} {adult.gift} and said: {adult.saying}", f"the wind blew {hero.his} cap into a tree, and {hero.he} had to climb up after it."), d.rng.between(2, 4))
    for event in events:
        d.s(event)
    d.s(f"the whole week was like that.", f"so the days went by.", "soon it was the end of the week.")
    d.para()
    d.s(f"on Saturday {hero} stood in front of the little door. <From inside came a voice.|{hero.he} knocked three times.|Behind it somebody was breathing.>")
    d.say(other, "What is the password?")
    d.s(f"{hero} thought of all that had happened. Then {hero.he} remembered.", f"{hero} did not have to think for long.", f"for a moment {hero.his} head was quite empty. Then it came back.")
    d.say(hero, f"{upper_first(word)}!", mood="brave")
    d.s(f"the door opened.", f"and the door swung open.")
    if d.rng.chance(0.5):
        ask(d, [("What was the password?", f"The password was {word}."), ("Where did the club meet?", f"It met near {place}."), ("Who was behind the door?", f"{other} was behind the door.")], 2)


def order(d):
    """A day of errands in order; before, after, first, last."""
    hero = d.rng.pick(CHILDREN)
    stops = grown_ups(d, d.rng.between(4, 5), (hero.parent,))
    d.s(f"{hero} had a busy <day|morning|afternoon>.", f"{hero.his.capitalize()} {hero.relation} sent {hero} on a number of errands.", f"there were {number(len(stops))} errands for {hero} to do.")
    verbs = ("returned a borrowed {o}", "handed over a~ {o}", "picked up a~ {o}", "left a~ {o}", "asked about a~ {o}")
    objects = d.rng.sample(("basket", "letter", "ladder", "bag of flour", "key", "jar", "blanket", "saw", "cushion", "bucket", "recipe", "hammer"), len(stops))
    done = [d.rng.pick(verbs).format(o=o).replace("a ", "a~ ", 1) for o in objects]
    for n, adult in enumerate(stops):
        lead = "first" if n == 0 else "last of all" if n == len(stops) - 1 else d.rng.pick(("then", "after that", "next"))
        d.s(f"{lead} {hero.he} went to {adult.place} and {done[n]}.", f"{lead} {hero.he} {done[n]} {adult.at}.", f"{lead} came {adult.place}, where {hero.he} {done[n]}.") if n else d.s(f"{lead} {hero} went to {adult.place} and {done[n]}.")
        d.maybe(0.3, f"{adult} was {d.rng.pick(adult.works)}.", f"it smelled good there.", f"{adult} had no time to talk.")
    d.s(f"then {hero} went home, had a cup of milk, and lay down in the grass.", f"when everything was done, {hero} was very hungry.")
    d.para()
    pairs = []
    for n in range(len(stops) - 1):
        pairs += [(f"Where did {hero} go right after {stops[n].place}?", f"Right after {stops[n].place}, {hero} went to {stops[n + 1].place}."), (f"Where was {hero} right before {stops[n + 1].place}?", f"Right before that, {hero} was {stops[n].at}.")]
    pairs += [(f"Where did {hero} go first?", f"{hero} went to {stops[0].place} first."), (f"Where did {hero} go last?", f"{hero} went to {stops[-1].place} last.")]
    pairs += [(f"What did {hero} do {a.at}?", f"{hero} {what}.") for a, what in zip(stops, done)]
    ask(d, pairs, d.rng.between(4, 5))
