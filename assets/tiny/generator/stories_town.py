"""Stories of the children of Pellmere, first part: lost and found, a quarrel mended, a storm, a race, market day."""

from .grammar import count, listing, number
from .scenes import evening, feel, look_for, opening, outside, thank, when_plain
from .things import PORTABLE, SMALL, grown_ups, hero_and_thing, other_gender, others
from .world import adult_of


def lost_and_found(d):
    hero, thing = hero_and_thing(d, PORTABLE)
    friend = others(d, 1, (hero,), other_gender(hero))[0]
    lost_at, = outside(d)
    opening(d, hero)
    d.s(f"of all {hero.his} things, {hero.he} loved {hero.his} {thing.short} best<, and every day {hero.he} spent an hour {thing.use}|>.",
        f"{hero.his} <greatest treasure|dearest thing> was a~ {thing.full}. <Nothing was better than {thing.use}.|>",
        f"for {hero.his} birthday {hero.he} had been given a~ {thing.full}.",
        f"{hero.he} had a~ {thing.full}, and {hero.he} liked {thing.use}.")
    d.para()
    d.s(f"but {when_plain(d) if d.rng.chance(0.3) else 'that day'}, the {thing} was gone.", f"then, one day, {hero.he} could not find it.",
        f"one {d.part} {hero} reached for the {thing}, and it was not in its place.", f"when {hero} came home, {hero.his} {thing} was missing.")
    look_for(d, hero, thing, d.rng.between(1, 2))
    feel(d, hero, "sad", 0.6)
    if d.rng.chance(0.5):
        d.say(friend, f"<What is wrong|Why do you look so sad>, {hero}?")
        d.s(f"it was {friend} from {friend.street}.", f"{friend}, who was passing by, had stopped at the gate.", "")
        d.say(hero, f"I have lost my {thing.short}.", "<I have looked everywhere.|I cannot find it anywhere.|>", "sad")
        d.say(friend, "Think back.", f"<Where did you have it last?|When did you see it last?>", "soft")
    else:
        d.say(hero.parent, "<Where did you have it last?|Now, when did you last see it?|What were you doing when you last had it?|Have you looked with your head, and not only with your eyes?>")
    d.s(f"{hero} shut {hero.his} eyes and thought. {hero.he.capitalize()} had gone past {lost_at} <yesterday|that morning>.",
        f"{hero} thought and thought. There had been a game near {lost_at}.",
        f"{hero} remembered the day before: the sun, the running, and {lost_at}.")
    d.para()
    finder = d.rng.pick((0, 1, 2, 3) if thing.noun in SMALL else (0, 1, 3))
    if finder == 0:
        d.s(f"{'together they' if friend.name in ' '.join(d.paragraphs) else hero.he} <ran|went> straight to {lost_at}.")
        d.s(f"there, <half hidden in the leaves|between two stones|under a bush|in the grass>, something {thing.look} <shone|peeped out>.",
            f"at first there was nothing to see. Then {hero.animal} the {hero.pet}, who had come along, began to make a great noise<.| beside a stone.>")
        d.s(f"it was the {thing}!", f"it was {hero.his} {thing}, <wet but whole|dusty but safe|just as it had always been>.")
    elif finder == 1:
        adult = grown_ups(d, 1, (hero.parent,))[0]
        d.s(f"near {lost_at}, {hero.he} <met|came upon> {adult}, the {adult.job}.")
        d.say(hero, f"Have you seen a~ {thing.short}?", "<It is mine.|I lost it.|>")
        d.say(adult, f"<Is it|Does it look like> a~ {thing.full}?", "<I found it this morning.|Somebody left it here.|>")
        d.s(f"{adult.he} <reached into a bag|looked behind a crate|opened a chest> and there it was.")
        thank(d, hero, adult)
    elif finder == 2:
        d.s(f"but the {thing} was not at {lost_at}. In its place {hero.he} found a line of small <muddy|wet> footprints.")
        thief = d.rng.pick((("magpie", "nest", "an egg-shaped pebble"), ("young fox", "den", "an old shoe"), ("squirrel", "hole in a tree", "a heap of nuts"), ("jackdaw", "nest on the roof", "a bent spoon")))
        d.s(f"{hero.he} followed them to the {thief[1]} of a~ {thief[0]}. And what lay there, beside {thief[2]}? The {thing.short}!",
            f"they led to the {thief[1]} of a~ {thief[0]}, and in it, next to {thief[2]}, was the {thing.short}.")
        d.s(f"{hero} took the {thing} and left {d.rng.pick(('a shiny nail', 'a piece of bread', 'a bit of red ribbon', 'a walnut'))} in its place, because <a swap is fairer than a theft|even a~ {thief[0]} likes to own something>.")
    else:
        other = others(d, 1, (hero, friend))[0]
        d.s(f"when {hero.he} got there, {other} was already <sitting there|standing there>, <holding|looking at> the {thing}.")
        d.say(other, f"I found this.", f"<I was waiting for whoever had lost it.|I did not know whose it was, so I waited.>")
        d.say(hero, "You waited all this time?", "", "glad")
        d.say(other, d.rng.pick(("It looked like something that somebody would miss.", "I would be sad if it were mine.", "The sun was warm, and I had an apple.")))
        d.s(f"{hero} let {other} <hold|keep> the {thing} until {'supper' if d.part != 'morning' else 'noon'}. It was the least {hero.he} could do.")
    d.para()
    feel(d, hero, "glad", 0.5, False)
    d.s(f"from then on {hero} kept the {thing} <on a hook beside the door|on the shelf over the bed|in a box with a lid>, and {hero.he} never lost it again.",
        f"{hero} <tied a ribbon|wrote a name> on the {thing} that same evening, so that it would always find its way home.",
        f"{hero} learned to think back before {hero.he} began to cry.",
        "")
    evening(d, hero)


def quarrel(d):
    hero, thing = hero_and_thing(d, PORTABLE)
    friend = others(d, 1, (hero,))[0]
    opening(d, hero)
    d.s(f"{hero} and {friend} were <best friends|the best of friends>. <They met every day after school.|They did everything together.|Where one was, the other was not far away.>",
        f"{hero.his} best friend was {friend}, who lived on {friend.street} and liked {friend.likes}.")
    d.para()
    cause = d.rng.below(3)
    if cause == 0:
        d.s(f"{when_plain(d)} {hero} brought along a~ {thing.full}.", f"that {d.part} {hero} had something new: a~ {thing.full}.")
        d.say(friend, "<Can I|May I> <try it|have a turn>?")
        d.say(hero, "<Not yet.|Later.|No, it is mine.>", "<You will break it.|I have only just got it.|>", "cross")
        d.s(f"{friend} <reached for it|took hold of it> all the same. They pulled, one this way and one that way, until there was an ugly crack.",
            f"{friend} waited and waited. At last {friend} snatched the {thing}, and it fell to the ground.")
        hurt = f"the {thing}"
    elif cause == 1:
        place, = outside(d)
        d.s(f"they had agreed to meet at {place} at {number(d.rng.between(2, 5))} o'clock. {hero} waited <for an hour|until the bell rang again>. {friend} did not come.",
            f"{friend} had promised to come to {place} to see {hero.his} new {thing.noun}. But nobody came, and {hero} stood there alone in the wind.")
        d.say(hero, f"You forgot me!", "<I waited so long.|I will never wait for you again!>", "cross")
        d.say(friend, "I did not forget.", "<I had to help at home.|You never let me explain!>", "cross")
        hurt = "the promise"
    else:
        d.s(f"they were <building a hut|making a raft|painting a sign> together, and each of them had a plan. {hero} wanted it {d.rng.pick(('big', 'red', 'round'))}. {friend} wanted it {d.rng.pick(('small', 'blue', 'square'))}.")
        d.say(hero, "My plan is better.", "", "cross")
        d.say(friend, "You always want to decide everything!", "", "cross")
        hurt = "the plan"
    d.s(f"one word led to another.", f"nobody remembers who shouted first.", f"things were said that could not be unsaid.", f"then they both said things that they did not mean.", f"for a moment nobody said a word. Then they both shouted at once.", f"it was the worst quarrel that they had ever had.")
    feel(d, hero, "cross", 0.5, False)
    d.s(f"{hero} went home one way, and {friend} went home the other way.", f"they walked home on different sides of the street.", f"{friend} ran off without looking back.")
    d.para()
    d.s(f"the next day was long. {hero} tried {hero.likes} alone, but it was no fun.", f"{hero} had nobody to talk to but {hero.animal} the {hero.pet}.",
        f"the house was too quiet. Even {hero.animal} the {hero.pet} seemed to be waiting for somebody.")
    adult = hero.parent if d.rng.chance(0.5) else grown_ups(d, 1, (friend.parent,))[0]
    d.say(adult, d.rng.pick(("You look like rain.", "You are very quiet today.", "Where is your friend today?", f"I have not seen {friend} today.")))
    d.say(hero, d.rng.pick((f"We had a quarrel about {hurt}.", f"{friend} and I are not talking.", "We are not friends any more.")), mood="sad")
    d.say(adult, d.rng.pick(("And what matters more, being right or having a friend?", "Somebody has to take the first step.",
                             "A quarrel is like a knot. Pulling only makes it tighter.", "Sorry is a small word, but it opens big doors.")), mood="soft")
    d.s(f"{hero} thought about that <for a long time|all through supper|until the candle was short>.", "")
    d.para()
    gift = d.rng.pick(("the half of a honey cake", "a drawing of the two of them", "three ripe pears", f"the {thing}" if cause == 1 else "a bag of walnuts"))
    d.s(f"<so|in the end> {hero} <took|packed> {gift} and <walked|went> to {friend.street}. Halfway there, <on the corner|by the old lime tree|on the bridge>, {hero.he} met {friend}, who was coming the other way.",
        f"the next morning there was a knock at the door. {friend} stood outside{' with red ears' if d.rng.chance(0.5) else ''}. {hero} ran to fetch {gift}, to share it.",
        f"{hero} stood in front of the house on {friend.street} with {gift} for a long while. Then {hero.he} knocked.")
    both = d.rng.chance(0.5)
    d.say(hero, "I am sorry.", "<I should have shared.|I should have let you explain.|I was not fair.>" if not both else "", "soft")
    d.say(friend, "<I am sorry too.|No, I am sorry.>", d.rng.pick(("I missed you.", "It was my fault as well.", "Yesterday was the longest day of my life.")), "soft")
    if cause == 0:
        d.s(f"together they mended the {thing} with <glue and thread|a little wax|a bit of wire>. It was not as good as new, but they both liked the <crack|patch>, because it was theirs.")
    elif cause == 1:
        d.s(f"{friend} explained: <the hen had run away, and everyone had to catch it|there had been a sick baby to look after|the clock at home had stopped>. {hero} had never asked. Now {hero.he} did.")
    else:
        d.s("in the end they used both plans, one after the other, and it was better than either.", "they laid one plan over the other and found that they almost matched.")
    d.s("they never found out who had been right, and they never asked.", f"after that, when they began to quarrel, one of them would say, {chr(34)}Knot!{chr(34)} and they would both laugh." if "knot" in " ".join(d.paragraphs).lower() else "they still quarrelled now and then, but never for longer than an hour.",
        f"and they shared {gift} on the steps.", "a friend is worth more than the last word.")


def storm(d):
    hero, thing = hero_and_thing(d, ("lantern", "rope", "bell", "whistle", "drum", "umbrella", "blanket", "compass", "mirror"))
    friend = others(d, 1, (hero,), other_gender(hero))[0]
    adult = d.rng.pick([adult_of(p) for p in ("the ferry landing", "the windmill", "the orchard", "the bee garden", "Clover Farm", "the boatyard")])
    opening(d, hero, ("spring", "summer", "autumn"))
    d.s(f"in {hero.his} <bag|pack> {hero.he} carried a~ {thing.full}, <as always|for no special reason|which had once belonged to {hero.his} {hero.relation}>.",
        f"{hero.his} {hero.relation} had told {hero.him} to take along the {thing.full}. {hero} did not know what for.")
    if adult is hero.parent:
        d.s(f"{hero.he} was <on the way|going> to {adult.place}, to bring {hero.his} {hero.relation} some lunch.")
    else:
        d.s(f"{hero.he} was <on the way|going> to {adult.place} to fetch something for {hero.his} {hero.relation}.")
    d.para()
    d.s("then the wind dropped. <The birds fell silent.|Not a leaf moved.> Over Lake Mirrow the sky turned <black|as dark as slate|a strange yellow>.",
        "first there was one drop, then ten, then too many to count.", f"<far away|over the hill> the thunder began to roll, like {d.rng.pick(('barrels on a wooden floor', 'a wagon on the bridge', 'a giant clearing its throat'))}.")
    d.say(friend, "<Run|Quick>!", "<A storm is coming!|Get under a roof!>") if d.rng.chance(0.5) else d.s(f"the wind tore at {hero.his} <coat|hair|sleeves>, and the rain came down in ropes.")
    feel(d, hero, "afraid", 0.5)
    trouble = {
        "ferry captain": ("the ferry was still out on the lake, and the captain could not see the landing", "the Marigold came slowly round and found the landing"),
        "miller": ("the sails of the windmill were turning faster and faster, and the brake was stuck", "the great sails groaned, slowed down, and stood still"),
        "fruit grower": ("a branch had fallen across the orchard path, and somebody was calling from the other side", "the branch rolled aside, and Mr Pell limped out, muddy but whole"),
        "beekeeper": ("two of the nineteen hives had been blown over, and the bees were getting wet", "the hives stood upright again, warm and dry"),
        "farmer": ("the gate had blown open, and the twelve cows were running towards the river", "the cows stopped, turned their heads, and walked home one behind the other"),
        "boatbuilder": ("a new boat had torn loose and was drifting out from the boatyard", "the boat bumped against the wall, and they tied it fast"),
    }[adult.job]
    d.para()
    d.s(f"when {hero} reached {adult.place}, {hero.he} saw at once that something was wrong: {trouble[0]}.", f"and at {adult.place} there was trouble: {trouble[0]}.")
    d.say(adult if adult.job not in ("ferry captain", "fruit grower") else friend, "<I cannot do this alone|We need help>!", "<Who is there?|Is anybody there?>" if adult.job not in ("ferry captain", "fruit grower") else "What can we do?")
    uses = {
        "lantern": f"{hero} lit the {thing} and swung it in wide circles, so that everyone could see where to go",
        "rope": f"{hero} threw one end of the {thing} and held the other as tightly as {hero.he} could",
        "bell": f"{hero} rang the {thing} until {hero.his} arm ached, and the clear sound cut through the wind",
        "whistle": f"{hero} blew the {thing}, three long notes and three short ones, again and again",
        "drum": f"{hero} beat the {thing} as hard as {hero.he} could, louder than the thunder",
        "umbrella": f"{hero} opened the {thing} against the wind and kept the one dry spot in which to work",
        "blanket": f"{hero} spread the {thing} over the worst of it and held it down with both arms",
        "compass": f"{hero} looked at the {thing}, pointed, and called out the way, step by step",
        "mirror": f"{hero} held up the {thing}, and each time the lightning flashed, it threw a bright spot far out, like a lamp",
    }
    d.s(f"<then {hero} remembered the {thing}|all at once {hero} knew what the {thing} was for>. {uses[thing.noun]}.")
    d.s("people came running <from every house|with ropes and poles>. They pulled, they pushed, they shouted, and little by little it worked.",
        f"{friend} came running too, and together they held on, wet to the skin.", f"<minute after minute|for a long, long time> {hero.he} did not stop.")
    d.s(f"at last {trouble[1]}.", f"and slowly, slowly, it helped: {trouble[1]}.")
    d.para()
    d.s("by evening the storm had passed, and <a rainbow stood over the lake|the first stars came out>.", "the thunder grumbled a little longer and went away over the hill.",
        "half an hour later the sun was shining, as if nothing had happened.")
    d.say(adult, d.rng.pick((f"Without you and that {thing}, I do not know what would have become of us.", "You kept your head when others lost theirs.",
                            "I have seen grown men do less.")), adult.saying if d.rng.chance(0.5) else "")
    feel(d, hero, "proud", 0.5, False)
    d.s(f"the {thing} hangs <over the door on {hero.street}|in the hall on {hero.street}> to this day.", f"{hero} never again asked why {hero.he} should take the {thing} along.",
        f"and {hero} had {adult.gift}, dry socks and a great deal to tell.")


def race(d):
    hero, thing = hero_and_thing(d, ("scarf", "cap", "feather", "button", "bracelet", "coin", "hat", "whistle", "marble"))
    rival, second = others(d, 2, (hero,))
    prize = d.rng.pick(("a honey cake as big as a wheel", "a ribbon in the colours of the town", "a silver cup", "a basket of pears", "a ride in the mayor's boat"))
    opening(d, hero)
    kind = d.rng.pick((("foot race", "run", "round Bell Square, over the Stone Bridge and back"), ("cart race", "roll", "from the windmill down Gorse Hill to the first house"),
                       ("kite race", "fly", "from one end of the meadow to the other"), ("rowing race", "row", "from the ferry landing to Heron Island and back"),
                       ("raft race", "paddle", "down the Ouzel from the water wheel to the Stone Bridge"))[:3 if d.season == "winter" else 5])
    d.s(f"every year {'at the Apple Fair' if d.season == 'autumn' else 'in the first week of ' + d.season} there was a~ {kind[0]} {kind[2]}. The prize was {prize}.",
        f"a sign hung on the lime tree in Bell Square: Great {kind[0]}, {kind[2]}! The winner gets {prize}.")
    d.s(f"{number(d.rng.between(6, 14))} children <put down their names|wanted to take part>. Among them were {hero}, {rival} and {second}.",
        f"{hero} wanted to win, but so did {rival}, who had won the year before.")
    if thing.noun in ("scarf", "cap", "hat"):
        d.s(f"for luck {hero} wore a~ {thing.full}.", f"{hero} had put on {hero.his} {thing.short}, which had always brought {hero.him} luck.")
    else:
        d.s(f"for luck {hero} <carried|had> a~ {thing.full} in {hero.his} pocket.", f"in {hero.his} pocket {hero} had a~ {thing.full}, for luck.")
    d.para()
    d.say(rival, d.rng.pick(("I shall be first again.", "You will only see my back!", "Nobody is faster than I am.")), mood="brave")
    d.say(hero, d.rng.pick(("We shall see.", "I only want to try my best.", "The race is not over before it has begun.")))
    d.s("the mayor raised a flag. <One, two, three, and off they went!|When it fell, they were off.>", "Mayor Stone rang a bell, and the race began.", "everyone counted down from ten, and at zero the crowd roared.",
        f"somebody dropped a handkerchief, and {number(d.rng.between(10, 40))} people shouted at once.", "then it was quiet for the space of a breath, and then they were gone.", "Mayor Stone made a short speech. Nobody heard a word of it, for all of them were looking at the line.")
    d.s(f"at first {rival} was far ahead. {second} came next, and {hero} was <fifth|fourth|sixth>.", f"{rival} <shot|flew> away like an arrow. {hero} kept a steady pace and saved {hero.his} strength.",
        f"everyone pushed and splashed and shouted. {hero} was stuck in the middle, behind {second}." if kind[0] in ("rowing race", "raft race") else f"everyone pushed and shouted. {hero} was stuck in the middle, behind {second}.")
    d.s(f"halfway there, {hero} had passed all but two.", f"little by little {hero} caught up.", f"one after the other the rest grew tired, but {hero} did not.")
    d.para()
    end = d.rng.below(4)
    if end == 0:
        d.s(f"then there was a cry. {second} had <fallen|gone down> and was holding one knee. {rival} went straight on. {hero} could have done the same.",
            f"near the end, {second} <stumbled|got into trouble> and could not go on. {hero} saw it. {hero} also saw the finish, so close.")
        d.s(f"{hero.he} thought for as long as it takes to blink. Then {hero.he} <turned back|stopped>.")
        d.say(hero, "<Lean on me.|Hold on to me.|Come, we will finish together.>", mood="soft")
        d.s(f"{rival} won {prize}. {hero} and {second} came in last, arm in arm, and the whole square clapped louder than it had for the winner.")
        d.say(rival, d.rng.pick(("I won, but I think you did better.", f"Here, take half of the prize.", "Next year I will look behind me.")), mood="soft")
        d.s(f"{second} never forgot it.", f"{hero} gave {second} the {thing} to keep, for better luck.", "there are things that no prize can show.")
    elif end == 1:
        d.s(f"<at the last bend|near the end> {rival} turned round to see how far behind the others were. That was a mistake: {rival} <bumped into a barrel|missed the turn|ran into the reeds>." if kind[0] != "kite race" else
            f"near the end {rival} turned round to see how far behind the others were, and the kite dived into a tree.")
        d.s(f"{hero} <looked neither left nor right|did not look round at all> and was first by <an arm's length|a nose|three steps>!")
        d.say(rival, "That was fair.", "<Next year I will not look back.|You were better today.>")
        d.s(f"{hero} touched the {thing} and smiled. Then {hero.he} shared {prize} with everyone." if "cake" in prize or "pears" in prize else f"{hero} took the prize and shook hands with {rival}.")
    elif end == 2:
        d.s(f"{hero} and {rival} came to the last stretch side by side. Neither was faster. Neither gave up.")
        d.s(f"the mayor looked, blinked, and looked again. It was a tie! <That had never happened before.|Nobody knew what to do.>")
        d.say(hero, "Then we share it.", "", "glad")
        d.s(f"so {prize} was shared by two, and two enemies became friends." if prize.startswith("a basket") or "cake" in prize else f"so they kept the prize in turns, one week on {hero.street} and the next on {rival.street}." if prize in ("a silver cup", "a ribbon in the colours of the town") else "so they rode in the mayor's boat together, one in the front and one in the back.")
    else:
        d.s(f"but {rival} was simply faster, and {hero} came in {d.rng.pick(('second', 'third'))}.")
        feel(d, hero, "sad", 0.6)
        d.say(hero.parent, d.rng.pick(("Last year you were ninth. Count that.", "You ran your own race, and you ran it well." if kind[1] == "run" else "You did your best, and I saw it.", "Losing is how legs learn.")), mood="soft")
        d.s(f"the next day {hero} began to practise again: <every morning before school|an hour every day>. There would be another race next year, and the {thing} would be there too.")
    d.maybe(0.4, f"the {kind[0]} of that year is still talked about on {hero.street}.")


def market(d):
    """An errand: a list to keep in mind, things bought one by one, and something that comes between."""
    hero, thing = hero_and_thing(d, ("basket", "purse", "wagon", "bucket", "jar", "cap", "hat"))
    sellers = grown_ups(d, 3, (hero.parent, adult_of("the town hall"), adult_of("the doctor's house"), adult_of("the school"),
                               adult_of("the ferry landing"), adult_of("the Sleeping Otter inn"), adult_of("the lamp house"), adult_of("the music room"), adult_of("the library")))
    items = []
    for adult in sellers:
        items.append(d.rng.pick(SOLD[adult.job]))
    amounts = [d.rng.between(2, 9) for _ in items]
    wanted = [count(n, item) for n, item in zip(amounts, items)]
    opening(d, hero, parts=("morning",))
    d.s("it was Saturday, market day, and Bell Square was full of stalls.", "on market day, which is Saturday, nobody in Pellmere stays at home.", "it was Saturday, and since sunrise carts had been rolling into Bell Square.", "Saturday had come at last, and with it the market. "
        "Awnings were going up all round the lime tree.", "every Saturday there is a market in Bell Square, and this was a Saturday.")
    d.say(hero.parent, f"Please bring me {listing(wanted)}.", "<Can you remember that?|Do not forget anything.|>")
    d.say(hero, f"{listing(wanted)}.".capitalize(), "I will not forget.")
    d.s(f"{hero} took {hero.his} {thing.short} and <set off|went out into the crowd>, <saying the words over and over|counting on {hero.his} fingers>.")
    d.para()
    order = d.rng.shuffled(range(3))
    for n, i in enumerate(order):
        adult = sellers[i]
        opener = ("first", "then", "last of all")[n]
        d.s(f"{opener} {hero.he} went to the stall of {adult}, the {adult.job}, and <asked for|bought> {wanted[i]}.",
            f"{opener} came the stall of {adult}, the {adult.job}. {hero} <paid for|chose> {wanted[i]} <with care|>.",
            f"{opener} {hero.he} bought {wanted[i]} from {adult}, the {adult.job}.")
        if d.rng.chance(0.3):
            d.say(adult, adult.saying)
        if n == 1:
            d.para()
            event = d.rng.below(4)
            if event == 0:
                d.s("<suddenly|just then> a goose got loose and ran between the stalls, and half the market ran after it. <A tower of pots came down.|Cabbages rolled everywhere.>",
                    "then a band began to play, and for a while everyone danced.")
                d.s(f"when it was quiet again, {hero} had forgotten the last thing. {hero.he.capitalize()} closed {hero.his} eyes and said the list from the start: {listing(wanted)}.")
            elif event == 1:
                baby = others(d, 1, (hero,))[0]
                d.s(f"beside the lime tree {baby} was crying, lost in the crowd. {hero} took {baby} by the hand and asked from stall to stall until {baby.his} {baby.relation} came running.")
                d.say(hero, "What was I about to buy?", f"Oh yes, {wanted[order[2]]}!")
            elif event == 2:
                d.s(f"an old man offered {hero} a~ {d.rng.pick(('magic bean', 'talking stone', 'map of the moon'))} for all the money that was left. It was hard to say no, but {hero} shook {hero.his} head.")
                d.say(hero, f"I still need {wanted[order[2]]}.", mood="brave")
            else:
                d.s(f"it began to rain, and the canvas roofs drummed. {hero} waited under one of them and whispered the list: {listing(wanted)}.")
    d.para()
    d.s(f"at home {hero.his} {hero.relation} unpacked the {thing} and counted: {listing([wanted[i] for i in order])}." if thing.noun in ("basket", "wagon", "bucket") else
        f"at home {hero} laid everything on the table: {listing([wanted[i] for i in order])}.")
    d.say(hero.parent, "<Nothing is missing.|All there, to the last one.|That is just right.>", f"<You have a good head.|For that you may choose what we cook.|Well done, {hero}.>", "glad")
    feel(d, hero, "proud", 0.5, False)
    d.maybe(0.4, f"that was {number(sum(amounts))} things altogether, and not one was broken.")


SOLD = {
    "baker": ("bun", "loaf", "plum cake"), "smith": ("nail", "hinge", "iron hook"), "toymaker": ("top", "puppet", "wooden duck"),
    "florist": ("rose", "packet of seeds", "garland"), "clockmaker": ("watch key", "brass wheel"), "cook": ("pancake", "dumpling"),
    "fisherman": ("trout", "perch"), "boatbuilder": ("peg", "wooden hook"), "miller": ("bag of flour", "bag of oats"),
    "farmer": ("jug of milk", "round cheese"), "fruit grower": ("apple", "pear", "plum"), "postmistress": ("stamp", "envelope", "ball of string"),
    "tailor": ("button", "cap", "ribbon"), "candlemaker": ("candle", "bar of soap"), "beekeeper": ("jar of honey", "honey cake"),
    "potter": ("bowl", "jug", "flower pot"),
}
