"""The scan behind `make_text.py --check`: faults that a reader would see, and counts that tell how rich the text is."""

import collections
import re

from .grammar import article

FINE_TWICE = {"had", "that", "slowly", "thought", "step"}


def faults(text):
    """Every fault found in one document, as short messages."""
    found = []
    for word, following in re.findall(r"\b([Aa]n?) ([\"']?[A-Za-z0-9][\w'-]*)", text):
        if word.lower() != article(following):
            found.append(f"article: {word} {following}")
    for word in re.findall(r"\b([A-Za-z]+) \1\b", text):
        if word.lower() not in FINE_TWICE:
            found.append(f"doubled word: {word} {word}")
    for mark in re.findall(r"[<>|~{}_\[\]\\]|None|Person|object at", text):
        found.append(f"unreplaced mark: {mark}")
    for paragraph in text.split("\n"):
        if paragraph.count('"') % 2:
            found.append(f"unbalanced quotes: {paragraph[:60]}")
        if not paragraph or paragraph != paragraph.strip() or "  " in paragraph:
            found.append(f"spaces: {paragraph[:60]!r}")
        if re.match(r"[\"']?[a-z]", paragraph):
            found.append(f"small letter opens a paragraph: {paragraph[:60]}")
        if paragraph and paragraph[-1] not in ".?!\":,":
            found.append(f"paragraph without an end: {paragraph[-60:]}")
    for start in re.findall(r"[^.][.] [\"']?[a-z]\w*", text):
        found.append(f"small letter after a full stop: {start}")
    for odd in re.findall(r"[,;:][,;:.]|\.\.|[?!][.,?!]| [,.;:?!]|\"\"|\b[A-Z][a-z]+'s's", text):
        found.append(f"punctuation: {odd}")
    if not text.isascii():
        found.append("a character outside ASCII")
    return found


def report(sizes):
    """Print faults and counts of {name: [(kind, text), ...]}; the number of faults."""
    total, everything = 0, collections.Counter()
    for name, documents in sizes.items():
        kinds, words, distinct, grams = collections.Counter(), 0, set(), {}
        for number, (kind, text) in enumerate(documents):
            for fault in faults(text):
                total += 1
                if total <= 40:
                    print(f"fault in {name} document {number} ({kind}): {fault}")
            kinds[kind] += 1
            tokens = re.findall(r"[a-z0-9'-]+", text.lower())
            words += len(tokens)
            distinct.update(tokens)
            for gram in set(zip(*(tokens[i:] for i in range(5)))):
                grams[gram] = grams.get(gram, 0) + 1
            everything[text] += 1
        repeated = sum(1 for n in grams.values() if n > 1)
        print(f"{name}: {len(documents)} documents, {sum(len(text) for _, text in documents)} bytes, {words} words "
              f"({words // len(documents)} a document), {len(distinct)} distinct words, {len(grams)} distinct 5-grams, "
              f"{100 * repeated / len(grams):.1f} % of them in more than one document")
        print("  " + ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())))
    copies = sum(n - 1 for n in everything.values())
    if copies:
        print(f"{copies} documents come more than once")
    print(f"{total + copies} faults")
    return total + copies
