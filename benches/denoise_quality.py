"""Quality of what a model that denoises writes, against forward passes: every rule and setting, as table and SVG.

    python benches/denoise_quality.py --recast target/release/recast --model runs/llada-tiny/model --judge embedded
        --text assets/tiny/held_out.jsonl.zst [--tokens 64] [--items 40] [--block 0] [--keep prefix --keep around]
        [--out picture.svg]

The judge, a next-token model of the same vocabulary, says how surprising each text is behind its prompt (nats a
token), and how many of its pairs of neighbouring words are new says whether it repeats itself: a text of one
repeated sentence does not surprise, so both are needed. The same two figures for the text that really follows,
and for the judge's own samples, say what can be reached. Prompts are the first words of held-out documents.
Needs `zstd` for .zst files and nothing beside Python; starts the server itself.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess
import time

from picture import opening, text, write
from served import Served

parser = argparse.ArgumentParser()
parser.add_argument("--recast", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--judge", required=True)
parser.add_argument("--text", required=True, type=pathlib.Path)
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--items", type=int, default=40)
parser.add_argument("--prompt-words", type=int, default=24)
parser.add_argument("--block", type=int, default=0, help="positions settled before the next; 0: as the model has it")
parser.add_argument("--keep", action="append", default=[], choices=["prefix", "around"], help="also with this kept (whole sequences)")
parser.add_argument("--temperature", type=float, default=0)
parser.add_argument("--precision", default="f32")
parser.add_argument("--title", default="")
parser.add_argument("--out", type=pathlib.Path)
args = parser.parse_args()

raw = subprocess.run(["zstd", "-dc", args.text], stdout=subprocess.PIPE, check=True).stdout if args.text.suffix == ".zst" else args.text.read_bytes()
documents = [json.loads(line)["text"] for line in raw.decode().splitlines() if line.strip()]
items = []
for text in documents:
    words = text.split(" ")
    if len(words) >= args.prompt_words + args.tokens:
        items.append((" ".join(words[: args.prompt_words]), " " + " ".join(words[args.prompt_words :])))
items = items[:: max(1, len(items) // args.items)][: args.items]

server = Served(args.recast, [f"model={args.model}", f"judge={args.judge}", "--precision", args.precision])


def surprise(prompt, text):
    """The judge's nats a token of `text` behind `prompt`, over at most `tokens` tokens."""
    done = server.ask("/v1/completions", {"model": "judge", "prompt": prompt + text, "max_tokens": 0, "echo": True, "logprobs": 0})
    found = done["choices"][0]["logprobs"]
    scores = [s for at, s in zip(found["text_offset"], found["token_logprobs"]) if at >= len(prompt) and s is not None]
    return -statistics.mean(scores[: args.tokens]) if scores else None


def variety(text):
    words = text.split()
    pairs = list(zip(words, words[1:]))
    return len(set(pairs)) / len(pairs) if pairs else None


def mean(values):
    values = [v for v in values if v is not None]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), error


def judged(name, texts, passes=None, speed=None):
    nats, error = mean([surprise(prompt, text) for (prompt, _), text in zip(items, texts)])
    row = {"setting": name, "tokens_a_pass": passes, "nats": nats, "error": error, "new_pairs": mean(list(map(variety, texts)))[0], "tokens_per_second": speed}
    print(json.dumps(row), flush=True)
    return row


def written(name, denoising, **more):
    texts, tokens, passes, seconds = [], 0, 0, 0.0
    for seed, (prompt, _) in enumerate(items):
        body = {"model": "model", "prompt": prompt, "max_tokens": args.tokens, "seed": seed, "temperature": args.temperature, "denoising": denoising}
        if args.block:
            body["denoising"] = {**denoising, "block": args.block}
        start = time.perf_counter()
        done = server.ask("/v1/completions", {**body, **more})
        seconds += time.perf_counter() - start
        texts.append(done["choices"][0]["text"])
        tokens += done["usage"]["completion_tokens"]
        passes += done["recast"]["denoising"]["forwards"]
    return {**judged(name, texts, tokens / passes, tokens / seconds), "sample": texts[0]}


with server:
    real = judged("the text that follows", [" ".join(after.split(" ")[: args.tokens]) for _, after in items])
    own, tokens, start = [], 0, time.perf_counter()
    for seed, (prompt, _) in enumerate(items):
        done = server.ask("/v1/completions", {"model": "judge", "prompt": prompt, "max_tokens": args.tokens, "seed": seed, "temperature": 0.7})
        own.append(done["choices"][0]["text"])
        tokens += done["usage"]["completion_tokens"]
    own = judged("the judge at temperature 0.7", own, speed=tokens / (time.perf_counter() - start))
    rows = []
    for k in (1, 2, 4, 8):
        rows.append(written(f"fixed, {k} a pass", {"rule": {"name": "fixed", "steps": math.ceil(args.tokens / k)}}))
    for at in (0.95, 0.9, 0.8, 0.7, 0.5):
        rows.append(written(f"threshold {at}", {"rule": {"name": "threshold", "at": at}}))
    for at in (0.5, 1.0, 2.0):
        rows.append(written(f"factor {at}", {"rule": {"name": "factor", "at": at}}))
    for at in (0.1, 0.5, 1.0):
        rows.append(written(f"entropy {at}", {"rule": {"name": "entropy", "at": at}}))
    for keep in args.keep:
        for at in (2, 0.9):
            rows.append(written(f"threshold {at}, {keep} kept", {"rule": {"name": "threshold", "at": at}, "keep": keep}))

print("\n| setting | tokens a pass | judge's nats a token | new pairs of words | tokens/s |\n|---|---:|---:|---:|---:|")
for row in [real, own, *rows]:
    passes, speed = (f"{row[key]:.2f}" if row[key] else "" for key in ("tokens_a_pass", "tokens_per_second"))
    print(f"| {row['setting']} | {passes} | {row['nats']:.2f} ± {row['error']:.2f} | {row['new_pairs']:.2f} | {speed and round(float(speed))} |")
for k, row in zip((1, 2, 4, 8), rows):
    print(f"\n{k} a pass: {items[0][0]} **{row['sample']}**")

if args.out:
    width, height, left, right, top, bottom = 640, 340, 52, 150, 40, 44
    most = max(r["tokens_a_pass"] for r in rows) * 1.05
    high = max(r["nats"] + r["error"] for r in [real, own, *rows]) * 1.05
    x_of = lambda passes: left + (width - left - right) * math.log2(max(passes, 1)) / math.log2(most)
    y_of = lambda nats: top + (height - top - bottom) * (1 - nats / high)
    families = {"fixed": "#c33", "threshold": "#27b", "factor": "#283", "entropy": "#a5a"}
    svg = [
        *opening(width, height, f"Quality against tokens a forward pass {args.title}"),
        text(left, 18, f"judge's nats a token (lower is better) against tokens a forward pass {args.title}"),
    ]
    for passes in (1, 2, 4, 8):
        if passes <= most:
            svg += [f'<line class="g" x1="{x_of(passes):.1f}" x2="{x_of(passes):.1f}" y1="{top}" y2="{height - bottom}"/>', text(x_of(passes), height - bottom + 18, passes, "middle")]
    for nats in range(0, math.ceil(high)):
        svg += [f'<line class="g" x1="{left}" x2="{width - right}" y1="{y_of(nats):.1f}" y2="{y_of(nats):.1f}"/>', text(left - 6, y_of(nats) + 4, nats, "end")]
    for row, name in ((real, "the real text"), (own, "the judge's own")):
        svg += [f'<line stroke="#999" stroke-dasharray="4 3" x1="{left}" x2="{width - right}" y1="{y_of(row["nats"]):.1f}" y2="{y_of(row["nats"]):.1f}"/>', text(width - right + 6, y_of(row["nats"]) + (14 if row is own else 0), name)]
    for place, (family, colour) in enumerate(families.items()):
        points = [r for r in rows if r["setting"].startswith(family)]
        points.sort(key=lambda r: r["tokens_a_pass"])
        svg.append(f'<polyline stroke="{colour}" points="' + " ".join(f'{x_of(r["tokens_a_pass"]):.1f},{y_of(r["nats"]):.1f}' for r in points) + '"/>')
        for r in points:
            x, y = x_of(r["tokens_a_pass"]), y_of(r["nats"])
            svg.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            svg.append(f'<line stroke="{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{y_of(r["nats"] - r["error"]):.1f}" y2="{y_of(r["nats"] + r["error"]):.1f}"/>')
        svg += [f'<circle cx="{width - right + 12}" cy="{top + 16 * place + 4}" r="3" fill="{colour}"/>', text(width - right + 20, top + 16 * place + 8, family)]
    write(args.out, svg)
