"""Animals of Hollin Wood: a clever trick, a boast that goes wrong, a small helper, a riddle at a bridge, sharing."""

from .grammar import Person, number
from .scenes import set_scene

BEASTS = [Person(name, gender, beast=beast, size=size, trait=trait, likes=likes, home=home) for name, gender, beast, size, trait, likes, home in (
    ("Rufus", "m", "fox", 3, "sly", "cheese", "a den under the Grandfather oak"), ("Tilda", "f", "hare", 3, "quick", "clover", "a hollow in the long grass"),
    ("Gruff", "m", "badger", 4, "grumpy", "mushrooms", "a burrow with three doors"), ("Pim", "m", "mouse", 1, "clever", "barley", "a hole between two roots"),
    ("Olga", "f", "owl", 3, "wise", "silence", "a hollow beech"), ("Bruno", "m", "bear", 6, "slow", "honey", "a cave behind the waterfall"),
    ("Kit", "f", "squirrel", 2, "busy", "hazelnuts", "a nest in the tall pine"), ("Corvin", "m", "crow", 2, "vain", "shiny things", "the top of a dead elm"),
    ("Hazel", "f", "hedgehog", 2, "shy", "pears", "a heap of leaves"), ("Fergus", "m", "frog", 1, "loud", "flies", "a pond full of lilies"),
    ("Lupa", "f", "wolf", 5, "hungry", "everything", "the dark side of the wood"), ("Nan", "f", "goose", 3, "bossy", "fresh grass", "the reeds by the river"),
    ("Slow Ambrose", "m", "snail", 1, "patient", "lettuce", "the underside of a cabbage leaf"), ("Wilkin", "m", "wren", 1, "bold", "spiders", "the ivy on an old wall"),
    ("Marta", "f", "mole", 1, "hard-working", "worms", "a long dark tunnel"), ("Dapple", "f", "deer", 5, "gentle", "young leaves", "a clearing full of ferns"),
)]


def cast(d, small=None, big=None):
    set_scene(d)
    little = [b for b in BEASTS if b.size <= 2]
    large = [b for b in BEASTS if b.size >= 3]
    # the held-out text keeps one pair in seven to itself
    pairs = [(a, b) for a in little for b in large if ((BEASTS.index(a) * 3 + BEASTS.index(b)) % 7 == 0) == (d.split == "held_out")]
    return d.rng.pick([p for p in pairs if big is None or p[1].beast in big] or pairs)


def meet(d, one, two):
    d.s(f"{one}, a~ {one.trait} {one.beast}, lived in {one.home}<, deep in Hollin Wood|>.", f"in Hollin Wood there lived a~ {one.beast} named {one}, who was known to be {one.trait}.",
        f"once there was a~ {one.trait} {one.beast} called {one}. {one.his.capitalize()} home was {one.home}.")
    d.s(f"not far away, in {two.home}, lived {two} the {two.beast}.", f"{one.his} neighbour was {two}, a~ {two.trait} {two.beast}.", f"everyone in the wood also knew {two} the {two.beast}, who liked {two.likes} best of all.")


def trick(d):
    """The small one is caught and talks its way out."""
    one, two = cast(d, big=("fox", "wolf", "owl", "bear", "badger"))
    meet(d, one, two)
    d.para()
    d.s(f"one {d.part} in {d.season}, when {d.sky}, {one} went out to look for {one.likes}.", f"one day {one} was so busy with {one.likes} that {one.he} did not look round.")
    d.s(f"<suddenly a shadow fell on {one.him}|a twig snapped|there was a rustle in the ferns|everything went quiet, as it does when danger is near>. <A heavy paw came down, and {one} could not move.|Before {one} could hide, a paw held {one.him} fast.|Then {one.he} lay under a big paw.>" if two.beast != "owl" else f"without a sound two claws closed around {one.him}, and {one} could not move.")
    d.say(two, d.rng.pick(("I have not had breakfast yet!", "Now I have you!", "What a nice little bite.")), mood="glad")
    plan = d.rng.below(4)
    if plan == 0:
        d.say(one, "<How lucky!|What luck!>", f"I was on my way to bring you to a place where there is far more {'to eat' if two.likes in ('everything', 'silence') else two.likes}. But I can show it only if I walk in front.", "brave")
        d.s(f"{two} was greedy, and {two.he} let go. {one} led the way through thorns, each gap narrower than the last, until {two} was stuck like a cork in a bottle.")
    elif plan == 1:
        d.say(one, "You may eat me, of course.", f"But they say that nobody in the wood can <count to a hundred with both eyes shut|sing three songs in one breath|stand on one leg until noon>. I did not believe it of you.")
        d.say(two, "I can do that!", mood="brave")
        d.s(f"and {two} began. When {two.he} had finished, very proud of {two.himself}, there was nobody left to praise {two.him}.")
    elif plan == 2:
        d.say(one, "Please wait.", f"I have been rolling in bitter herbs all day. You will have to wash me first.")
        d.s(f"{two} carried {one} to the stream. <The water was fast and cold.|The stones were slippery.> As soon as the paw opened a little, {one} dived under a root and was gone." if two.beast != "owl" else f"{two} carried {one} to the stream. As soon as the claws opened a little, {one} dived under a root and was gone.")
    else:
        d.say(one, "There is another one of you down there, and he says that he is stronger.", f"He lives in the old well.")
        d.s(f"{two} ran to the well with {one} and looked down. Indeed, a~ fierce {two.beast} looked up. {two} roared, and the other one roared back. When {two} jumped at {two.his} own face, there was a great splash." if two.beast != "owl" else
            f"{two} flew to the well with {one} and looked down. Indeed, an angry owl looked up. {two} opened {two.his} claws to fight, and struck nothing but water.")
    d.para()
    d.s(f"{one} did not stop until {one.he} reached {one.home}.", f"from a safe place {one} looked on and caught {one.his} breath.", f"by the time {two} understood, {one} was far away.")
    d.say(two, d.rng.pick(("You tricked me!", "That was not fair!", "Next time I will not listen to a word!")), mood="cross")
    d.say(one, d.rng.pick(("You listened to what you wanted to hear.", "My legs are short, but my thoughts are long.", "I only talked. You did the rest.")), mood="brave")
    d.s("a good head is better than strong jaws.", "whoever is small must be clever.", f"since then {two} eats first and listens afterwards, or so they say.", "the strong are quick to believe that they are also wise.")


def boast(d):
    one, two = cast(d)
    meet(d, two, one)
    contest = d.rng.pick((("who could stay awake the longest", "By midnight {big}'s head was nodding. {small} had found a patch of nettles to sit beside, and each time {small_he} nodded, {small_he} was stung awake."),
                          ("who could reach the other side of the wood first", "{big} ran so fast that {big_he} lay down for a nap halfway. {small} climbed onto the cart of Mr Grist the miller, who was going the same way, and was carried there asleep."),
                          ("who could fetch the last pear from the tall tree", "{big} shook the tree, kicked it and jumped, and the pear stayed where it was. {small} waited until the evening wind came up, and the pear fell right in front of {small_him}."),
                          ("who could carry water to the old stump", "{big} carried a bucketful and spilled it all, for {big_he} ran. {small} carried one drop in a leaf, and then another, and by evening the stump was wet."),
                          ("who could be silent the longest", "{big} lasted for as long as it takes to boil an egg. Then {big_he} had to tell everybody how well it was going. {small} said nothing, and had won.")))
    d.s(f"{two} liked to boast. <There was nothing, it seemed, that {two.he} could not do.|Every day it was something new.>")
    d.say(two, d.rng.pick(("Nobody in this wood is better than I am!", "I am the best at everything!", "Has anyone here ever beaten me?")), mood="brave")
    d.say(one, d.rng.pick(("At everything?", "Shall we see?", "I should like to try.")), mood="plain")
    d.s(f"the others laughed, for {one} was only a~ {one.beast}. But it was settled: they would find out {contest[0]}. {d.rng.pick([b for b in BEASTS if b not in (one, two)])} was to be the judge.")
    d.para()
    d.s(f"on the day of the contest {d.sky}, and everyone came to watch.", f"they began when the sun stood over the Grandfather oak.", f"nobody wanted to miss it, not even those who sleep by day.", f"some had brought nuts to eat while they looked on.")
    d.s(contest[1].format(big=two, small=one, big_he=two.he, small_he=one.he, small_him=one.him))
    d.s(f"{two} could not believe it.", f"for once {two} had nothing to say.", f"there was a long silence, and then the whole wood cheered.")
    d.para()
    d.say(two, d.rng.pick(("How did you do that?", "Once more, and I will win!", "It seems that I was wrong.")), mood="plain")
    d.say(one, d.rng.pick(("I did not hurry, and I did not shout.", "I did what I could and let you do what you wanted.", "I only thought about it beforehand.")), mood="soft")
    d.s(f"{two} boasts a little less now, at least on Mondays.", f"after that, {two} asked {one} for advice more than once.", "loud is not the same as strong.", "it is better to do a thing than to have done it already in words.")


def small_helper(d):
    one, two = cast(d)
    meet(d, two, one)
    d.s(f"one {d.part} {one} fell into <a deep puddle|a hole|the stream>, and it was {two} who pulled {one.him} out.", f"one {d.season}, when food was scarce, {two} gave {one} the last of {two.his} {two.likes if two.likes not in ('silence', 'everything') else 'supper'}.")
    d.say(one, "<I will help you too, one day.|Call me when you are in need.|I shall not forget that, and one day I shall pay you back.>", mood="brave")
    d.s(f"{two} laughed. How could a~ {one.beast} ever help a~ {two.beast}?", f"{two} smiled at that, for {one} was so very small.")
    d.para()
    d.s("weeks went by.", "the moon grew full and thin again.", f"{d.season} passed.")
    trouble = d.rng.below(3)
    if trouble == 0:
        d.s(f"then {two} was caught in a hunter's net. The more {two.he} pulled, the tighter it became." , f"then {two} stepped into a net, and there {two.he} hung between two trees.")
        d.s(f"{one} heard {two.his} cries. Other animals were stronger, but they only stood around. {one} <bit|picked> at one knot, and then at the next, and <by sunrise|before the hunter came> the net fell apart." if one.beast not in ("snail", "frog", "wren", "crow", "hedgehog") else
            f"{one} heard {two.his} cries. {one.he.capitalize()} could not break the net, but {one.he} knew who could: {one.he} went to every mouse in the wood, one after the other. By sunrise forty mice had gnawed through the knots.")
    elif trouble == 1:
        d.s(f"then came a fog so thick that nobody could see their own feet. {two} was lost<, close to the edge of the cliff|>.")
        d.s(f"{one} lived so close to the ground that {one.he} knew every root. {one.he.capitalize()} called, and {two} followed the little voice, step by step, all the way home.")
    else:
        d.s(f"then {two} fell ill and could not get up. The only thing that helped was a white flower that grew in a crack of the rock, <too narrow for any paw|much too narrow for anyone big>.")
        d.s(f"but it was not too narrow for {one}. {one.he.capitalize()} crept in, and came back with the flower, tired and covered in dust.")
    d.say(two, d.rng.pick(("I laughed at you, and now I am ashamed.", "You are the biggest friend I have.", "How can I thank you?")), mood="soft")
    d.say(one, d.rng.pick(("You already have.", "You helped me first.", "Now we are even, and we can start again.")), mood="glad")
    d.s("no friend is too small.", f"ever since, {two} looks where {two.he} steps.", "kindness comes back, though it may take its time.", f"from that day on nobody in the wood laughed at a~ {one.beast}.")


def sharing(d):
    one, two = cast(d)
    third = d.rng.pick([b for b in BEASTS if b not in (one, two)])
    meet(d, one, two)
    food, n = d.rng.pick((("pears", d.rng.between(7, 15)), ("walnuts", d.rng.between(11, 23)), ("mushrooms", d.rng.between(7, 13)), ("turnips", d.rng.between(7, 11))))
    if n % 2 == 0:
        n += 1
    d.s(f"one {d.season} day the two of them found {number(n)} {food} under a bush.", f"in the {d.season} {one} and {two} gathered {food} together, and in the end there were {number(n)}.")
    half = n // 2
    d.s(f"they shared them out, one for you and one for me, until each had {number(half)}. One was left over.")
    d.say(one, "<It is mine, because I saw them first.|I carried more of them, so it belongs to me.|I shall have it, for I am so small and need to grow.>", mood="cross")
    d.say(two, "<It is mine, because I am bigger.|I need more than you do.|Who shook the branch? I did.>", mood="cross")
    d.s(f"<they argued until the sun went down.|neither of them would give in.|their voices grew louder and louder.|it went back and forth like a saw.> Then {third} the {third.beast} came by<, who had heard the noise|>.")
    d.para()
    end = d.rng.below(3)
    if end == 0:
        d.say(third, "Let me judge.", f"This one is too big, so I must bite off a piece. Now it is too small.")
        d.s(f"and {third} ate a little here and a little there, until nothing was left of it.")
        d.say(third, "Now you are both equal.", mood="glad")
        d.s(f"{one} looked at {two}. Then they both began to laugh, for there was nothing else to do.", f"after that {one} and {two} settled their quarrels themselves.")
    elif end == 1:
        d.say(third, f"Plant the last one, and wait.", mood="soft")
        d.s(f"they did not like to wait. But they planted it <by the stream|at the edge of the clearing>, and when some years had passed, there was more than {number(n)} for each of them.".replace("there was more than", "there were more than"))
        d.s("what is shared grows.", "since then there is a place in Hollin Wood where nobody argues.")
    else:
        d.s(f"{third} had found nothing that day and looked very thin. {one} saw it, and {two} saw it too. Neither said a word, but both gave {third} two of their {food}, and the odd one as well.")
        left = half - 2
        d.s(f"now {one} had {number(left)}, {two} had {number(left)}, and {third} had {number(n - 2 * left)}.")
        d.s("nobody argued about the last one any more.", "and they found that it tasted better with three at the table.")
