"""Stories in which something is worked out: a treasure hunt through town, a small mystery, a new face at school."""

from .grammar import Person, listing, number
from .scenes import introduce, opening, outside, set_scene, sights, when_plain
from .things import PORTABLE, grown_ups, hero_and_thing, other_gender, others
from .world import CHILDREN, adult_of


def clue(d, adult):
    """A line that points to where a grown-up works, by a fact of the world that holds for that place alone."""
    return d.rng.pick((
        f"Go to the place where {adult.detail}.",
        f"Look for the one who says: {adult.saying}",
        f"Somebody on {adult.street} sells {adult.goods[0]}, {adult.goods[1]} and {adult.goods[2]}. Ask there." if adult.street != "Gorse Hill" else f"Somebody on the hill sells {adult.goods[0]}, {adult.goods[1]} and {adult.goods[2]}. Ask there.",
    ))


def treasure_hunt(d):
    hero, thing = hero_and_thing(d, PORTABLE)
    friend = others(d, 1, (hero,), other_gender(hero))[0]
    stops = grown_ups(d, 3, (hero.parent, friend.parent))
    opening(d, hero)
    d.s(f"under the door lay a folded paper.", f"in {hero.his} shoe {hero} found a slip of paper.", f"{friend} came running with a letter that had no name on it.", f"{hero.animal} the {hero.pet} was sitting on a piece of paper.")
    d.s(f"it said: {clue(d, stops[0])} There you will find the next word.", f"on it somebody had written: {clue(d, stops[0])}")
    d.say(friend, d.rng.pick(("What can that mean?", "A treasure hunt!", "Who wrote that?")), mood="glad")
    d.say(hero, f"<I know!|That is easy.|Wait, I have it.>", f"It must be {stops[0].place}.")
    d.para()
    for n, adult in enumerate(stops):
        d.s(f"they ran to {adult.place} on {adult.street}. {adult}, who was {d.rng.pick(adult.works)}, <winked|did not look surprised at all>.",
            f"soon they stood in front of {adult}, who was {d.rng.pick(adult.works)}.",
            f"{adult} had been waiting for them at {adult.place}.")
        if n < 2:
            d.s(f"there was another note<, tied to a~ {d.rng.pick(('hook', 'basket', 'nail', 'ladder'))}|, under a flower pot|>: {clue(d, stops[n + 1])}", f"{adult} handed them the next note. {clue(d, stops[n + 1])}")
            d.say((friend, hero)[n % 2], d.rng.pick((f"{stops[n + 1].full}!", f"That is {stops[n + 1].place}.", f"I know who that is. It is {stops[n + 1]}.")), d.rng.pick(("Come on!", "", "Quick!")), "glad")
            d.maybe(0.35, *sights(d, stops + [hero.parent]))
            d.para()
    who = d.rng.pick((hero.parent, friend.parent))
    owner = hero if who is hero.parent else friend
    d.s(f"in the last note there was only one word: home.", f"{stops[2]} said only one word: home.")
    d.s(f"so they ran back to {owner.street}. There stood {owner.parent} with <both hands behind the back|a big smile>.", f"and at home, on {owner.street}, the table was laid.")
    d.s(f"the treasure was a~ {thing.full}{', and it was for ' + hero.name if owner is hero else ', and ' + friend.name + ' gave it to ' + hero.name + ' that very day'}.")
    d.say(hero, d.rng.pick(("This is the best day of the year!", "You planned all this?", "And the whole town knew?")), mood="glad")
    d.s(f"they had been to {listing([adult.place for adult in stops])}, and they had run all the way.", f"the treasure was fine, but the hunt was finer.", f"the next hunt, {friend} decided, would be even longer.")


REWARDS = {"plum cake": "a slice of cake", "big cheese": "a slice of cheese", "pot of honey": "a spoonful of honey",
           "string of smoked fish": "a smoked fish", "basket of pears": "three pears"}


def mystery(d):
    """Something has vanished; three who might have done it; marks that fit only one."""
    hero, thing = hero_and_thing(d, PORTABLE)
    suspects = others(d, 3, (hero,))
    opening(d, hero)
    lost, at = d.rng.pick((("a plum cake", "the bakery"), ("the big cheese", "Clover Farm"), ("a pot of honey", "the bee garden"), ("a string of smoked fish", "the fish shop"), ("the last pancake", "the tea house"), ("a basket of pears", "the orchard")))
    adult = adult_of(at)
    bare = lost.split(" ", 1)[1]
    d.s(f"there was a great noise {adult.at}. {lost} was gone!", f"{adult}, the {adult.job}, came out into the street. {lost} had been stolen!", f"{when_plain(d)} {lost} disappeared from {adult.place}.")
    d.say(adult, f"It was here a moment ago!", "<Who has taken it?|I only turned round once.|>")
    feet = d.rng.shuffled(("muddy boots", "bare feet", "new shoes"))
    colours = d.rng.shuffled(("red", "blue", "green", "yellow", "white"))[:3]
    d.s(f"three children had been seen nearby: {listing(suspects)}.", f"{listing(suspects)} had all been near the door.")
    for s, f, c in zip(suspects, feet, colours):
        if f == "bare feet":
            d.s(f"{s} had bare feet and a~ {c} scarf.", f"{s}, in a~ {c} scarf, had bare feet.")
        else:
            d.s(f"{s} wore {f} and a~ {c} scarf.", f"{s} had a~ {c} scarf and wore {f}.", f"{s}, in {f}, had a~ {c} scarf.")
    d.para()
    d.s(f"{hero} took out {hero.his} {thing.short}, which always helped {hero.him} to think, and looked around.", f"{hero} wanted to find out, and nobody could stop {hero.him}.", f"{hero} said nothing. {hero.he} looked at the floor and at the door, and then at the floor again.")
    guilty = d.rng.below(4)
    if guilty < 3:
        s = suspects[guilty]
        print_of = {"muddy boots": "there was mud on the step", "bare feet": "in the flour dust were the marks of ten toes", "new shoes": "the dust showed the clean mark of a heel that had hardly been worn"}[feet[guilty]]
        d.s(f"{print_of}. And on a nail hung a~ {colours[guilty]} thread.", f"on the door frame {hero} found a~ {colours[guilty]} thread, and {print_of}.")
        d.s(f"only one of the three had {feet[guilty]} and a~ {colours[guilty]} scarf.", f"{hero} looked from one to the next. Then {hero.he} knew.")
        d.say(hero, f"It was you, {s}.", "<Was it not?|Why did you do it?|>", "soft")
        d.s(f"{s} turned red.")
        reason = d.rng.pick(("I was so hungry, and I forgot to ask", "I wanted to surprise my " + s.relation, "it smelled so good, and I could not stop"))
        d.say(s, f"I am sorry.", f"{reason[0].upper()}{reason[1:]}.", "sad")
        d.say(adult, d.rng.pick(("You only had to ask.", "Tomorrow you will help me, and then we are even.", "Next time, knock.")), "", "soft")
        d.s(f"the next day {s} worked {adult.at} for two hours and got {REWARDS[bare]} for it." if bare not in ("last pancake",) else f"the next day {s} washed up {adult.at} for two hours and got a whole plate of pancakes for it.")
    else:
        thief = d.rng.pick([c for c in CHILDREN if c.pet in ("dog", "goat", "donkey", "gull", "otter", "goose") and c not in suspects and c is not hero])
        track = {"dog": "four small pads and a few short hairs", "goat": "two rows of little hooves", "donkey": "four round hooves", "gull": "three thin toes and a white feather", "otter": "webbed feet and a wet trail", "goose": "broad webbed feet and a grey feather"}[thief.pet]
        d.s(f"but the marks on the floor were not made by boots, nor by shoes, nor by bare feet: {track}.", f"then {hero} saw the marks by the back door: {track}.")
        d.say(hero, "It was none of the three.", f"Who knows where {thief.animal} is?", "brave")
        d.s(f"they followed the trail to {outside(d)[0]}. There sat {thief.animal}, {thief}'s {thief.pet}, very full and very content.")
        d.say(adult, d.rng.pick(("And I was about to blame a child!", "At least somebody liked it.", f"{thief.animal}, you rascal!")), mood="plain")
        d.s(f"{thief} paid for it with an hour of sweeping, and {thief.animal} had to watch.", f"{listing(suspects)} were allowed to share {'what was left' if bare != 'last pancake' else 'the next three pancakes'}.")
    d.s(f"after that, when anything was missing in Pellmere, people sent for {hero}.", f"{hero} went home, content. Looking closely is half of knowing.", "first look, then think, and only then speak.", f"a thread, a footprint and a little patience had been enough.")


def first_day(d):
    """Somebody new at school."""
    hero, thing = hero_and_thing(d, PORTABLE)
    set_scene(d, parts=("morning",))
    new, gender = d.rng.pick((("Alma", "f"), ("Piet", "m"), ("Sanna", "f"), ("Joris", "m"), ("Yara", "f"), ("Emre", "m"), ("Lotte", "f"), ("Anders", "m")))
    fresh = Person(new, gender)
    origin = d.rng.pick(("from the mountains", "from a town by the sea", "from the other side of the lake", "from a house on wheels", "from far in the north"))
    talent = d.rng.pick((("whistle with two fingers", "whistled so loudly that the windows rang"), ("walk on both hands", "walked across the yard upside down"), ("tie eleven kinds of knots", "untied the knot that nobody had been able to open"),
                         ("call birds", "called softly, and a thrush came down and sat on the fence"), ("tell what the weather will do", "looked up and said that it would rain in ten minutes, and it did"), ("draw faces", "drew everyone in the room with ten lines each")))
    d.s(f"{when_plain(d)} Miss Ansel brought somebody new into the school on Willow Walk.", f"there was a new face in the school on Willow Walk.", f"on Monday a new chair stood in the classroom.")
    if "chair" in d.current[-1]:
        d.s(f"it was for {new}, who had come {origin}.")
    else:
        d.s(f"{'her' if gender == 'f' else 'his'} name was {new}, and {fresh.he} came {origin}.", f"{new} had come {origin}.")
    d.s(f"{new} did not say a word.", f"nobody knew what to say, and so nobody said anything.", f"{fresh.he} looked at {fresh.his} shoes the whole morning.")
    d.para()
    introduce(d, hero)
    d.s(f"in the break {hero} saw {new} standing alone by the <well|wall|fence>.", f"when the others ran out to play, {new} stayed behind. {hero} saw it.")
    d.s(f"what would it be like, {hero} thought, to know nobody at all?", f"{hero} remembered {hero.his} own first day.", f"{hero} was {'shy too, but' if hero.trait in ('shy', 'quiet', 'dreamy') else 'on the way to the others, but'} {hero.he} stopped.")
    d.say(hero, f"<Hello.|I am {hero}.|Would you like to see something?>", f"<Look, this is my {thing.short}.|I have a~ {hero.pet}. Do you like animals?|Shall I show you the town?>", "soft")
    d.s(f"{new} looked up for the first time.", f"{new} nodded, very slightly.", f"a small smile came and went.")
    d.say(fresh, d.rng.pick(("It is nice.", "We had one like that at home.", "May I hold it?")) if "my " in d.current[-2] else d.rng.pick(("I would like that.", "Yes, please.")), mood="soft")
    a, b = others(d, 2, (hero,))
    if d.rng.chance(0.5):
        d.say(a, f"Why are you talking to {fresh.him}?", mood="cross")
        d.say(hero, d.rng.pick((f"Because {fresh.he} is here.", "Why are you not?", "Come and find out.")), mood="brave")
    else:
        d.s(f"{a} and {b} came closer to see what was going on.")
    d.para()
    d.say(b, "What can you do?")
    d.say(fresh, f"I can {talent[0]}.", mood="soft")
    d.s(f"and {new} {talent[1]}.")
    d.s("for a moment it was quite still. Then everyone talked at once.", f"{a} stood there with an open mouth.", f"after that nobody asked where {new} came from. They asked how it was done.")
    d.say(b, "<Do it again!|Can you teach me?|Show us!>", mood="glad")
    d.s(f"on the way home {hero} showed {new} {listing([adult.place for adult in grown_ups(d, 2)])}.", f"that afternoon there were {number(d.rng.between(5, 9))} of them under the lime tree, and {new} was in the middle.", f"since then {new} has a place on the bench, right next to {hero}.")
    d.maybe(0.7, "it takes one hello to make a friend.", f"and it had begun with a single word.", f"sometimes {new} still misses home, but less on {d.rng.pick(('Mondays', 'Fridays', 'market days'))}.")
