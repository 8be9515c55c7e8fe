"""Does reading twice help? Recall of key and value after one to four readings (`repeat_context`).

    python benches/recall.py --recast target/release/recast [--pairs 4,16,64] [--items 100] -- MODEL... [arguments of `recast serve`]

Each item lists people and their two-digit numbers, then begins the sentence about one of them. Right where the
greedy continuation begins with that number; chance is one in ninety, or one in the number of pairs for a model
that knows which words are answers. Needs nothing beside Python; starts the server itself. Prints JSON lines
and a table.
"""

import argparse
import json
import math
import random
import statistics
import time

from served import Served

parser = argparse.ArgumentParser()
parser.add_argument("--recast", required=True)
parser.add_argument("--pairs", default="4,16,64")
parser.add_argument("--items", type=int, default=100)
parser.add_argument("--readings", default="1,2,3,4")
parser.add_argument("serve", nargs="+", help="what `recast serve` is given")
args = parser.parse_args()

FIRST = "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nick Olivia Paul Rosa Sam Tina Victor".split()
LAST = "Adams Baker Carter Davis Evans Fisher Green Harris Jones King Lewis Moore Nelson Parker Smith Taylor".split()


def item(seed, pairs):
    chance = random.Random(seed)
    people = chance.sample([f"{first} {last}" for first in FIRST for last in LAST], pairs)
    numbers = chance.sample(range(10, 100), min(pairs, 90))
    asked = chance.randrange(pairs)
    lines = [f"The number of {person} is {numbers[i]}." for i, person in enumerate(people)]
    return " ".join(lines) + f" The number of {people[asked]} is", str(numbers[asked])


with Served(args.recast, [*args.serve, "--prefix-mib", "0"]) as server:
    models = [m["id"] for m in server.ask("/v1/models")["data"]]
    rows = []
    for model in models:
        for pairs in map(int, args.pairs.split(",")):
            for readings in map(int, args.readings.split(",")):
                right, speeds, lengths = 0, [], []
                for seed in range(args.items):
                    prompt, answer = item(seed, pairs)
                    start = time.perf_counter()
                    got = server.ask("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0, "repeat_context": readings})
                    seconds = time.perf_counter() - start
                    right += got["choices"][0]["text"].strip().startswith(answer)
                    lengths.append(got["usage"]["prompt_tokens"])
                    speeds.append(got["usage"]["total_tokens"] / seconds)
                p = right / args.items
                rows.append((model, pairs, readings, p, math.sqrt(p * (1 - p) / args.items), statistics.median(lengths), statistics.median(speeds)))
                print(json.dumps(dict(zip(("model", "pairs", "readings", "recall", "error", "prompt_tokens", "tokens_per_second"), rows[-1]))), flush=True)

print("| model | pairs | readings | tokens read | recall | tokens/s |\n|---|---:|---:|---:|---:|---:|")
for model, pairs, readings, p, error, length, speed in rows:
    print(f"| {model} | {pairs} | {readings} | {length:.0f} | {p:.2f} ± {error:.2f} | {speed:.0f} |")
