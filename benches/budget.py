"""What share of the teacher's score a student has after how many tokens: scores the checkpoints of a run.

    python benches/budget.py RUN TEACHER --recast target/release/recast --data DIR --stage 1
        [--tasks lambada,arc_easy,hellaswag,piqa] [--limit 200] [--every 1] [--out docs/concepts/budget.svg]

RUN is a finished run of `recast convert` that kept its checkpoints, for instance with
`--set checkpoints.every_steps=244 --set checkpoints.keep=100`. Answers are kept in RUN/budget.jsonl, so that
the teacher answers once and a killed evaluation goes on. Relative score is (student - chance) / (teacher - chance).
Prints a table and, with --out, draws it.
"""

import argparse
import itertools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

from picture import opening, text, write

parser = argparse.ArgumentParser()
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("teacher")
parser.add_argument("--recast", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--stage", type=int, default=0, help="the first stage whose checkpoints are taken, its start among them; from 0")
parser.add_argument("--tasks", default="lambada,arc_easy,hellaswag,piqa", help="tasks on which the teacher is above chance")
parser.add_argument("--limit", type=int, default=200)
parser.add_argument("--every", type=int, default=1, help="take every so many (at least 1) checkpoints, and the last")
parser.add_argument("--precision", default="bf16")
parser.add_argument("--out", type=pathlib.Path)
args = parser.parse_args()


def checkpoints():
    """Folders with the tokens seen, oldest first."""
    states = sorted((args.run / "checkpoints").glob("[0-9]*/state.json"))
    found = [(json.loads(path.read_text()), path.parent) for path in states]
    found = [c for c in found if c[0]["stage"] >= args.stage]
    if not found:
        sys.exit(f"{args.run}: no checkpoints")
    return [(state["tokens"], folder) for i, (state, folder) in enumerate(found) if (len(found) - 1 - i) % max(1, args.every) == 0]


def scores(folder):
    """Comparisons of the checkpoint with the teacher, by task."""
    with tempfile.TemporaryDirectory() as model:
        model = pathlib.Path(model)
        for file in (args.run / "model").resolve().iterdir():
            if file.suffix != ".safetensors" and "index" not in file.name:
                (model / file.name).symlink_to(file)
        (model / "model.safetensors").symlink_to((folder / "model.safetensors").resolve())
        command = [args.recast, "eval", model, "--against", args.teacher, "--tasks", args.tasks, "--data", args.data, "--json"]
        command += ["--limit", str(args.limit), "--journal", args.run / "budget.jsonl", "--precision", args.precision, "--no-progress"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr}")
    return {row["task"]: row for row in json.loads(done.stdout)["comparisons"]}


points = []
for tokens, folder in checkpoints():
    rows = scores(folder)
    relative = {task: row["relative"] for task, row in rows.items() if row.get("relative")}
    if not relative:
        sys.exit(f"the teacher is not above chance on any of {args.tasks} at --limit {args.limit}")
    mean = statistics.mean(r["value"] for r in relative.values())
    # Tasks are independent of each other.
    error = math.sqrt(sum((r["std_error"] or 0) ** 2 for r in relative.values())) / len(relative)
    points.append((tokens, rows, relative, mean, error))
    print(f"{folder.name}: {tokens} tokens, mean relative score {mean:.3f} ± {error:.3f}", file=sys.stderr, flush=True)

tasks = list(points[-1][1])
print("| tokens | " + " | ".join(tasks) + " | mean relative score |")
print("|---:|" + "---:|" * (len(tasks) + 1))
for tokens, rows, relative, mean, error in points:
    cells = [f"{rows[t]['student']['value']:.3f}" + (f" ({relative[t]['value']:.2f})" if t in relative else "") for t in tasks]
    print(f"| {tokens / 1e6:.2f} M | " + " | ".join(cells) + f" | {mean:.2f} ± {error:.2f} |")
teacher = [f"{points[-1][1][t]['teacher']['value']:.3f}" for t in tasks]
print("| teacher | " + " | ".join(teacher) + " | 1 |")

if args.out:
    name = args.run.name
    left, right, top, bottom, width, height = 52, 130, 34, 44, 720, 360
    most = max(tokens for tokens, *_ in points)
    least = min(0.0, *(r["value"] for _, _, relative, _, _ in points for r in relative.values()))
    high = max(1.05, *(r["value"] for _, _, relative, _, _ in points for r in relative.values()))
    x = lambda tokens: left + (width - left - right) * tokens / most
    y = lambda share: top + (height - top - bottom) * (high - share) / (high - least)
    line = lambda row: " ".join(f"{x(t):.1f},{y(s):.1f}" for t, s in row)
    colours = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb"]
    svg = [
        *opening(width, height, f"Relative score of {name} against tokens"),
        text(left, 18, f"{name}, relative score, {args.limit} items a task; band: one standard error of the mean"),
    ]
    for share in [i / 4 for i in range(math.ceil(4 * least), math.floor(4 * high) + 1)]:
        svg += [f'<line class="g" x1="{left}" x2="{width - right}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>', text(left - 6, y(share) + 4, f"{share:g}", "end")]
    for i in range(5):
        svg.append(text(x(most * i / 4), height - 24, f"{most * i / 4e6:.1f} M", "middle"))
    svg.append(text((left + width - right) / 2, height - 6, "tokens, all stages together", "middle"))
    band = [(t, m + e) for t, _, _, m, e in points] + [(t, m - e) for t, _, _, m, e in reversed(points)]
    svg.append(f'<polygon fill="#222" fill-opacity=".12" points="{line(band)}"/>')
    labels = []
    for task, colour in zip(tasks, itertools.cycle(colours)):
        row = [(t, relative[task]["value"]) for t, _, relative, _, _ in points if task in relative]
        if row:
            svg.append(f'<polyline stroke="{colour}" points="{line(row)}"/>')
            labels.append((y(row[-1][1]), task, colour))
    svg.append(f'<polyline stroke="#222" style="stroke-width:3" points="{line([(t, m) for t, _, _, m, _ in points])}"/>')
    labels.append((y(points[-1][3]), "mean", "#222"))
    below = -math.inf
    for at, name, colour in sorted(labels):
        below = max(at, below + 14)
        svg.append(text(width - right + 6, below + 4, name, "start", f' style="fill:{colour}"'))
    write(args.out, svg)
