"""All kinds of documents, each with its share of the corpus. A new kind is a function of a `Doc` and a line here."""

from . import fables, facts, howto, letters, recall, stories_clues, stories_heart, stories_town, sums, talk
from .grammar import Doc, Rng

KINDS = (
    # name, function, weight
    ("story-lost", stories_town.lost_and_found, 6), ("story-quarrel", stories_town.quarrel, 5), ("story-storm", stories_town.storm, 4),
    ("story-race", stories_town.race, 5), ("story-market", stories_town.market, 6), ("story-building", stories_heart.building, 5),
    ("story-stranger", stories_heart.stranger, 4), ("story-rescue", stories_heart.rescue, 5), ("story-night", stories_heart.night, 3),
    ("story-gift", stories_heart.gift, 5), ("story-learning", stories_heart.learning, 4), ("story-owning-up", stories_heart.owning_up, 4),
    ("story-treasure", stories_clues.treasure_hunt, 4), ("story-mystery", stories_clues.mystery, 5), ("story-school", stories_clues.first_day, 4),
    ("fable-trick", fables.trick, 3), ("fable-boast", fables.boast, 3), ("fable-helper", fables.small_helper, 3), ("fable-sharing", fables.sharing, 2),
    ("facts-animal", facts.animal, 3), ("facts-place", facts.place, 4), ("facts-person", facts.person, 4), ("facts-town", facts.town, 3),
    ("recall-outing", recall.outing, 5), ("recall-parcels", recall.parcels, 3), ("recall-pegs", recall.pegs, 3), ("recall-secret", recall.secret, 3),
    ("recall-order", recall.order, 3), ("sums-page", sums.problems, 4), ("sums-lesson", sums.lesson, 3),
    ("letter", letters.letter, 6), ("diary", letters.diary, 4), ("list", letters.lists, 3), ("how-to", howto.guide, 6),
    ("talk-way", talk.asking_the_way, 3), ("talk-shop", talk.at_the_shop, 3), ("talk-quiz", talk.quiz, 3), ("talk-two", talk.disagreement, 4),
    ("riddles", talk.riddles, 4),
)


def write(split, index, only=None):
    """Document number `index` of a split: its kind and its text, from the split and the number alone."""
    rng = Rng("pellmere", split, index)
    name, function, _ = rng.weighted([(kind, kind[2]) for kind in KINDS if only is None or kind[0].startswith(only)])
    for attempt in range(20):
        doc = Doc(Rng("pellmere", split, index, name, attempt), split)
        function(doc)
        text = doc.text()
        if 80 <= len(text.split()) <= 400:
            return name, text
    raise ValueError(f"{name}: document {index} of {split} does not come out between 80 and 400 words")
