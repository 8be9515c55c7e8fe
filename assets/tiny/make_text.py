"""Write the text that Recast's embedded tiny teacher is trained and distilled on.

    python3 make_text.py              text.jsonl and held_out.jsonl (.zst beside them where zstd is installed)
    python3 make_text.py --full       full.jsonl, the larger text for training the teacher
    python3 make_text.py --check      scan what the above would write, and count it
    python3 make_text.py --sample story-race 3

Every document depends on its split and number alone, so the output is the same
on every machine, byte for byte, and text.jsonl is the beginning of full.jsonl.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

from generator.checks import report
from generator.kinds import KINDS, write

SIZES = {"text": ("train", 4_800), "held_out": ("held_out", 240), "full": ("train", 16_000)}


def documents(size):
    """(kind, text) of every document of a size; a text that already came is left out."""
    split, n = SIZES[size]
    seen = set()
    for index in range(n):
        kind, text = write(split, index)
        if text not in seen:
            seen.add(text)
            yield kind, text


def lines(texts):
    """The bytes of a .jsonl file."""
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for _, text in texts).encode()


def save(size, folder):
    path = folder / f"{size}.jsonl"
    path.write_bytes(lines(documents(size)))
    print(f"{path.name}: {path.stat().st_size} bytes")
    if size != "full" and shutil.which("zstd"):
        packed = path.with_suffix(".jsonl.zst")
        subprocess.run(["zstd", "-19", "-q", "-f", "--no-progress", str(path), "-o", str(packed)], check=True)
        print(f"{packed.name}: {packed.stat().st_size} bytes")


def stale(texts, folder):
    """How many of the packed files are not what the generator writes now."""
    old = 0
    for size in texts:
        packed = folder / f"{size}.jsonl.zst"
        if packed.exists() and shutil.which("zstd"):
            held = subprocess.run(["zstd", "-dcq", str(packed)], check=True, capture_output=True).stdout
            same = held == lines(texts[size])
            print(f"{packed.name} {'is what the generator writes' if same else 'is out of date: run make_text.py'}")
            old += not same
    return old


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="write full.jsonl instead of the committed sizes")
    parser.add_argument("--out", type=pathlib.Path, default=here, help="folder to write to (default: beside this script)")
    parser.add_argument("--check", action="store_true", help="scan the texts for faults, count them, and compare the packed files; writes nothing")
    parser.add_argument("--sample", nargs=2, metavar=("KIND", "COUNT"), help="print some documents whose kind begins so")
    args = parser.parse_args()
    if args.sample:
        kind, n = args.sample
        if not any(name.startswith(kind) for name, _, _ in KINDS):
            parser.error(f"no kind begins with '{kind}'; the kinds are: {', '.join(name for name, _, _ in KINDS)}")
        for index in range(int(n)):
            print("--- {}\n{}\n".format(*write("train", index, kind)))
        return 0
    sizes = ["full"] if args.full else ["text", "held_out"]
    if args.check:
        texts = {size: list(documents(size)) for size in sizes}
        return 1 if report(texts) + stale(texts, args.out) else 0
    args.out.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        save(size, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
