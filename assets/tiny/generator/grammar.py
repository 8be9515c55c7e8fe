"""English by rule: random choice, alternatives, articles, plurals, verb forms, speech, joined clauses.

Everything a document says goes through `Doc`. Two marks are understood in its
text: `<a|b|c>` picks one alternative (nesting is allowed) and `a~ word` becomes
"a word" or "an word's" right form once the alternatives are settled.
"""

import random
import re

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen").split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


class Rng:
    """Choices that depend only on the key. `random()` is the one method whose sequence Python promises to keep."""

    def __init__(self, *key):
        self._source = random.Random("/".join(str(part) for part in key))

    def below(self, n):
        return int(self._source.random() * n)

    def between(self, low, high):
        """An integer from low to high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, p):
        return self._source.random() < p

    def pick(self, items):
        return items[self.below(len(items))]

    def shuffled(self, items):
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, k):
        return self.shuffled(items)[:k]

    def weighted(self, pairs):
        """One item of [(item, weight), ...]."""
        mark = self._source.random() * sum(weight for _, weight in pairs)
        for item, weight in pairs:
            mark -= weight
            if mark < 0:
                return item
        return pairs[-1][0]


# ---------------------------------------------------------------- words

def number(n):
    """Words for 0 to 999."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + ("-" + ONES[n % 10] if n % 10 else "")
    rest = " and " + number(n % 100) if n % 100 else ""
    return ONES[n // 100] + " hundred" + rest


AN_ANYWAY = ("hour", "honest", "honour", "heir")
A_ANYWAY = ("uni", "use", "usu", "one", "once", "euro", "ewe")


def article(word):
    """'a' or 'an' by the sound that opens the word."""
    bare = word.lower().lstrip("\"'(")
    if bare.startswith(AN_ANYWAY):
        return "an"
    if bare.startswith(A_ANYWAY):
        return "a"
    if bare[:1].isdigit():
        return "an" if bare[0] == "8" or re.match(r"1[18]\b", bare) else "a"
    return "an" if bare[:1] in "aeiou" else "a"


IRREGULAR_PLURALS = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "child": "children", "loaf": "loaves",
    "leaf": "leaves", "knife": "knives", "penknife": "penknives", "shelf": "shelves", "calf": "calves",
    "tomato": "tomatoes", "potato": "potatoes", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "trout": "trout", "perch": "perch",
    "scarf": "scarves", "deer": "deer", "penny": "pennies", "cherry": "cherries", "half": "halves", "paint box": "paint boxes",
}


def plural(noun):
    """The plural of a noun or of a phrase that ends in one ('jar of honey' is pluralised at 'jar')."""
    if " of " in noun:
        head, tail = noun.split(" of ", 1)
        return plural(head) + " of " + tail
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if " " in noun:
        head, last = noun.rsplit(" ", 1)
        return head + " " + plural(last)
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def count(n, noun):
    """'one apple', 'three apples'."""
    return f"{number(n)} {noun if n == 1 else plural(noun)}"


def listing(items, last="and"):
    """'a', 'a and b', 'a, b and c'."""
    items = [str(item) for item in items]
    if len(items) == 1:
        return items[0]
    return ", ".join(items[:-1]) + f" {last} " + items[-1]


def possessive(name):
    return str(name) + "'s"


def upper_first(text):
    """Capital on the first letter, past an opening quotation mark."""
    for i, letter in enumerate(text):
        if letter.isalpha():
            return text[:i] + letter.upper() + text[i + 1:]
        if letter not in "\"'":
            break
    return text


# verb: (past, participle); regular verbs are not listed
IRREGULAR_VERBS = {
    "be": ("was", "been"), "begin": ("began", "begun"), "bend": ("bent", "bent"), "bind": ("bound", "bound"),
    "bite": ("bit", "bitten"), "blow": ("blew", "blown"), "break": ("broke", "broken"),
    "beat": ("beat", "beaten"), "bring": ("brought", "brought"), "build": ("built", "built"), "buy": ("bought", "bought"),
    "catch": ("caught", "caught"), "choose": ("chose", "chosen"), "climb": ("climbed", "climbed"),
    "come": ("came", "come"), "cut": ("cut", "cut"), "dig": ("dug", "dug"), "do": ("did", "done"),
    "draw": ("drew", "drawn"), "drink": ("drank", "drunk"), "drive": ("drove", "driven"), "eat": ("ate", "eaten"),
    "fall": ("fell", "fallen"), "feed": ("fed", "fed"), "feel": ("felt", "felt"), "find": ("found", "found"),
    "fly": ("flew", "flown"), "forget": ("forgot", "forgotten"), "get": ("got", "got"), "give": ("gave", "given"),
    "go": ("went", "gone"), "grow": ("grew", "grown"), "hang": ("hung", "hung"), "have": ("had", "had"),
    "hear": ("heard", "heard"), "hide": ("hid", "hidden"), "hold": ("held", "held"), "keep": ("kept", "kept"),
    "kneel": ("knelt", "knelt"), "know": ("knew", "known"), "lay": ("laid", "laid"), "learn": ("learned", "learned"), "leave": ("left", "left"),
    "lend": ("lent", "lent"), "let": ("let", "let"), "lie": ("lay", "lain"), "light": ("lit", "lit"),
    "lose": ("lost", "lost"), "make": ("made", "made"), "meet": ("met", "met"), "pay": ("paid", "paid"),
    "put": ("put", "put"), "read": ("read", "read"), "ride": ("rode", "ridden"), "ring": ("rang", "rung"),
    "run": ("ran", "run"), "say": ("said", "said"), "see": ("saw", "seen"), "sell": ("sold", "sold"),
    "set": ("set", "set"), "sew": ("sewed", "sewn"), "shake": ("shook", "shaken"), "show": ("showed", "shown"),
    "sing": ("sang", "sung"), "slide": ("slid", "slid"), "tear": ("tore", "torn"), "tread": ("trod", "trodden"), "sit": ("sat", "sat"), "sleep": ("slept", "slept"), "speak": ("spoke", "spoken"),
    "spend": ("spent", "spent"), "stand": ("stood", "stood"), "spread": ("spread", "spread"), "stick": ("stuck", "stuck"), "sweep": ("swept", "swept"),
    "swim": ("swam", "swum"), "take": ("took", "taken"), "teach": ("taught", "taught"), "tell": ("told", "told"),
    "think": ("thought", "thought"), "throw": ("threw", "thrown"), "wake": ("woke", "woken"),
    "wear": ("wore", "worn"), "win": ("won", "won"), "wind": ("wound", "wound"), "write": ("wrote", "written"),
}
DOUBLED = set("beg chat chop clap dip drag drop grab hop hug knit mop nod pat plan plod rub shop skip slip spin stir "
              "scrub stop swap tap trip trot wag whip wrap dig cut get hit let put run set sit swim win begin forget".split())


# regular verbs that may stand after "and" in a verb phrase ("lie down and look up")
ALSO_VERBS = set("look stir pour close add turn press open nail rake glue dry pick wash fold pull tie fill help".split())


def conjugate(phrase, form):
    """A verb phrase given in its base form ('sweep the floor and light the stove') in another: past, part, ing, s."""
    first, joint, second = phrase.partition(" and ")
    if joint and second.split()[0] in ALSO_VERBS | set(IRREGULAR_VERBS):
        return conjugate(first, form) + joint + conjugate(second, form)
    verb, _, rest = phrase.partition(" ")
    rest = " " + rest if rest else ""
    if form == "base":
        return phrase
    if form in ("past", "part") and verb in IRREGULAR_VERBS:
        return IRREGULAR_VERBS[verb][0 if form == "past" else 1] + rest
    if form in ("past", "part"):
        if verb in DOUBLED:
            return verb + verb[-1] + "ed" + rest
        if verb.endswith("e"):
            return verb + "d" + rest
        if verb.endswith("y") and verb[-2] not in "aeiou":
            return verb[:-1] + "ied" + rest
        return verb + "ed" + rest
    if form == "ing":
        if verb in DOUBLED:
            return verb + verb[-1] + "ing" + rest
        if verb in ("lie", "tie", "die"):
            return verb[:-2] + "ying" + rest
        if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
            return verb[:-1] + "ing" + rest
        return verb + "ing" + rest
    if verb in ("have", "be"):
        return {"have": "has", "be": "is"}[verb] + rest
    if verb.endswith(("s", "x", "ch", "sh", "o")):
        return verb + "es" + rest
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies" + rest
    return verb + "s" + rest


# ---------------------------------------------------------------- marks in text

INNERMOST = re.compile(r"<([^<>]*)>")


def expand(rng, text):
    """Settle every `<a|b>`, innermost first."""
    while True:
        found = INNERMOST.search(text)
        if not found:
            return text
        text = text[:found.start()] + rng.pick(found.group(1).split("|")) + text[found.end():]


def settle(text):
    """Articles, spaces and sentence capitals of a finished piece of text."""
    text = re.sub(r" +", " ", text).strip()
    text = re.sub(r" ([,.;:?!])", r"\1", text)
    text = re.sub(r"\b([aA])~ (\S+)",
                  lambda m: ("A" if m[1] == "A" else "a") + article(m[2])[1:] + " " + m[2], text)
    text = re.sub(r"\b((?:Question|Answer|sum|Q|A): )([a-z])", lambda m: m[1] + m[2].upper(), text)
    text = re.sub(r"([.?!] |\.\" |^)([\"']?[a-z])", lambda m: m[1] + upper_first(m[2]), text)
    return text


# ---------------------------------------------------------------- people and speech

PRONOUNS = {"f": ("she", "her", "her", "herself"), "m": ("he", "him", "his", "himself"),
            "n": ("it", "it", "its", "itself"), "p": ("they", "them", "their", "themselves")}


class Person:
    """Someone who can be named, pronounced and heard."""

    def __init__(self, name, gender, **facts):
        self.name, self.gender = name, gender
        self.he, self.him, self.his, self.himself = PRONOUNS[gender]
        for key, value in facts.items():
            setattr(self, key, value)

    def __str__(self):
        return self.name

    def __format__(self, spec):
        return self.name


# mood: (tag verbs, tails after "said", beats before the words); {n} is the name, {his} the possessive
MOODS = {
    "plain": (("said", "said", "said", "answered", "replied"), ("", "", "", " with a nod"),
              ("{n} thought for a moment.", "{n} looked up.", "{n} turned round.")),
    "glad": (("said", "cried", "laughed", "said"), (" with a smile", " happily", " with shining eyes", ""),
             ("{n} smiled.", "{n} laughed out loud.", "{n} beamed.")),
    "sad": (("said", "sighed", "said", "whispered"), (" sadly", " in a small voice", ", looking at the ground", ""),
            ("{n} sighed.", "{n} looked at the ground.", "{n} swallowed hard.")),
    "cross": (("said", "snapped", "grumbled", "said"), (" crossly", " with a frown", " in a loud voice", ""),
              ("{n} frowned.", "{n} was not pleased.", "{n} turned away.")),
    "soft": (("said", "whispered", "murmured", "said"), (" softly", " in a low voice", " gently", ""),
             ("{n} smiled.", "{n} spoke softly.", "{n} leaned a little closer.")),
    "brave": (("said", "said", "declared"), (" firmly", " at once", " in a steady voice"),
              ("{n} stood up straight.", "{n} took a deep breath.", "{n} did not blink.")),
}
ASKED = ("asked", "asked", "asked", "said", "wanted to know")
CALLED = ("cried", "called", "shouted", "said")


def quote(rng, who, first, rest="", mood="plain", pronoun=False, reply=False):
    """Direct speech: `first` (and `rest`) are whole sentences; the tag's place, verb and manner vary.

    Only a `reply` may be "answered".
    """
    verbs, tails, beats = MOODS[mood]
    name = who.he if pronoun else who.name
    tail = rng.pick(tails)
    if first.endswith("?"):
        verb = rng.pick(ASKED)
        tail = rng.pick(("", "", tail if mood != "plain" else ""))
    elif first.endswith("!") and mood in ("plain", "glad", "brave"):
        verb = rng.pick(CALLED)
        tail = ""
    else:
        verb = rng.pick(verbs)
        if verb in ("answered", "replied") and not reply:
            verb = "said"
        if verb != "said" or mood == "plain" and not reply:
            tail = ""
    shown = first[:-1] + "," if first.endswith(".") else first
    after = f' "{rest}"' if rest else ""
    inverted = not pronoun and verb != "wanted to know" and rng.chance(0.6)
    style = rng.below(10)
    if style < 6:
        tag = f"{verb} {name}{tail}" if inverted else f"{name} {verb}{tail}"
        return f'"{shown}" {tag}.{after}'
    whole = first + (" " + rest if rest else "")
    if style < 8 or who.gender == "p":
        if first.endswith("?") and verb != "asked":
            verb = "asked"
        elif verb not in ("said", "cried", "called", "whispered", "asked"):
            verb = "said"
        return f'{upper_first(name)} {verb}, "{whole}"'
    return f'{upper_first(rng.pick(beats).format(n=name, his=who.his))} "{whole}"'


# ---------------------------------------------------------------- documents

class Doc:
    """A document being written: paragraphs of settled text, and the chances that shaped them."""

    def __init__(self, rng, split):
        self.rng, self.split = rng, split
        self.paragraphs, self.current = [], []
        self.last_speaker = None

    def s(self, *texts):
        """Add sentences; with several texts given, one of them."""
        text = self.rng.pick(texts) if len(texts) > 1 else texts[0]
        text = settle(expand(self.rng, text))
        if text:
            self.current.append(upper_first(text))
            self.last_speaker = None
        return self

    def maybe(self, p, *texts):
        if self.rng.chance(p):
            self.s(*texts)
        return self

    def say(self, who, first, rest="", mood="plain", pronoun=False):
        """Add direct speech."""
        first, rest = settle(expand(self.rng, first)), settle(expand(self.rng, rest))
        # `first` may expand to several sentences: only its first one stands before the tag
        found = re.match(r"(.+?[.?!]) (.+)", first)
        if found:
            first, rest = found[1], (found[2] + " " + rest).strip()
        reply = self.last_speaker not in (None, who.name)
        self.current.append(settle(quote(self.rng, who, first, rest, mood, pronoun, reply)))
        self.last_speaker = who.name
        return self

    def para(self):
        if self.current:
            self.paragraphs.append(" ".join(self.current))
            self.current = []
        return self

    def line(self, *texts):
        """A paragraph of its own."""
        return self.para().s(*texts).para()

    def text(self):
        self.para()
        return "\n".join(self.paragraphs)

    def did(self, who, phrases):
        """Tell in the past tense what someone did, in order, from base verb phrases, as joined clauses."""
        phrases, opened = [expand(self.rng, phrase) for phrase in phrases], False
        while phrases:
            name = who.he if opened else who.name
            opened = True
            if len(phrases) >= 2 and self.rng.chance(0.8):
                one, two = phrases.pop(0), phrases.pop(0)
                self.s(*two_clauses(name, who.he, one, two))
            else:
                lead = self.rng.pick(("", "", "then ", "next, ", "after that, ")) if name == who.he else ""
                self.s(f"{lead}{name} {conjugate(phrases.pop(0), 'past')}.")
        return self


def two_clauses(name, he, one, two):
    """Ways to tell two actions of one person, in the order they happened."""
    past = conjugate
    return (
        f"{name} {past(one, 'past')} and {past(two, 'past')}.",
        f"{name} {past(one, 'past')}, and then {he} {past(two, 'past')}.",
        f"after {past(one, 'ing')}, {name} {past(two, 'past')}.",
        f"{name} {past(one, 'past')} before {past(two, 'ing')}.",
        f"when {name} had {past(one, 'part')}, {he} {past(two, 'past')}.",
        f"first {name} {past(one, 'past')}. Then {he} {past(two, 'past')}.",
        f"as soon as {name} had {past(one, 'part')}, {he} {past(two, 'past')}.",
    )
