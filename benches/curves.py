"""The loss of one stage in two runs, one over the other, and their difference, as an SVG.

    python benches/curves.py RUN_A RUN_B --stage distil --names f32 bf16 --out docs/concepts/precision.svg
"""

import argparse
import json
import math
import pathlib
import statistics

from picture import opening, text, write

parser = argparse.ArgumentParser()
parser.add_argument("runs", nargs=2, type=pathlib.Path)
parser.add_argument("--stage", default="distil")
parser.add_argument("--names", nargs=2, default=["f32", "bf16"])
parser.add_argument("--out", required=True, type=pathlib.Path)
args = parser.parse_args()


def losses(run):
    rows = map(json.loads, (run / "metrics.jsonl").open())
    return [row["loss"] for row in rows if row.get("stage") == args.stage and "step" in row and "loss" in row]


a, b = map(losses, args.runs)
steps = min(len(a), len(b))
gaps = [100 * (y / x - 1) for x, y in zip(a, b)]
left, right, width = 56, 16, 640
x_of = lambda step: left + (width - left - right) * step / (steps - 1)
low, high = math.log(min(a + b)), math.log(max(a + b))
loss_y = lambda loss: 30 + 190 * (high - math.log(loss)) / (high - low)
most = max(map(abs, gaps))
gap_y = lambda gap: 290 - 40 * gap / most
line = lambda ys: " ".join(f"{x_of(i):.1f},{y:.1f}" for i, y in enumerate(ys))
ticks = [t for t in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02) if low <= math.log(t) <= high]
svg = [
    *opening(width, 370, f"Loss of {steps} steps of {args.stage} in {args.names[0]} and {args.names[1]}"),
    text(left, 18, f"loss of {args.stage} (log): {args.names[0]} grey, {args.names[1]} dashed"),
    *[f'<line class="g" x1="{left}" x2="{width - right}" y1="{loss_y(t):.1f}" y2="{loss_y(t):.1f}"/>' for t in ticks],
    *[text(left - 6, loss_y(t) + 4, t, "end") for t in ticks],
    f'<polyline stroke="#999" stroke-width="3" points="{line(map(loss_y, a[:steps]))}"/>',
    f'<polyline stroke="#c33" stroke-dasharray="4 3" points="{line(map(loss_y, b[:steps]))}"/>',
    text(left, 244, f"{args.names[1]} above {args.names[0]}, %"),
    *[f'<line class="g" x1="{left}" x2="{width - right}" y1="{gap_y(g):.1f}" y2="{gap_y(g):.1f}"/>' for g in (-most, 0, most)],
    *[text(left - 6, gap_y(g) + 4, f"{g:+.1f}", "end") for g in (-most, 0, most)],
    f'<polyline stroke="#c33" points="{line(map(gap_y, gaps[:steps]))}"/>',
    *[text(x_of(s - 1 if s else 0), 360, s, "middle") for s in range(0, steps + 1, 100)],
]
write(args.out, svg)
noise = [100 * abs(y / x - 1) for x, y in zip(a, a[1:])]
print(
    f"{steps} steps: {args.names[1]} differs by {statistics.mean(map(abs, gaps)):.2f} % on average, "
    f"{most:.2f} % at most, {statistics.mean(gaps):+.3f} % in the mean; neighbouring steps of one run by "
    f"{statistics.mean(noise):.1f} %"
)
