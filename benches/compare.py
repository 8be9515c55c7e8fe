"""Recast against PyTorch on this machine: runs both alternately and prints ratios.

    python benches/compare.py --recast target/release/recast --teacher SmolLM2-135M-Instruct.Q4_1.gguf
        [--python PYTHON_WITH_TORCH] [--rounds 3] [--only step|align|distil|recurrence] [--context 512]
        [--batch N] [--device cuda [--fla]]

Nothing else should be running. A round starts both programs afresh; each times 7 steps after 2. On a GPU the
recurrences alone are not compared (`recast bench ops`), nor is memory; --fla gives PyTorch the recurrence of
flash-linear-attention.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("--recast", required=True)
parser.add_argument("--teacher", help="needed for align and distil")
parser.add_argument("--python", default=sys.executable)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--context", type=int, default=512)
parser.add_argument("--batch", type=int, help="sequences a step; default as many as make 1024 tokens")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--fla", action="store_true")
parser.add_argument("--only", choices=["step", "align", "distil", "recurrence"])
parser.add_argument("--precision", choices=["f32", "bf16"], help="default both")
parser.add_argument("--json", action="store_true")
args = parser.parse_args()
if args.only == "recurrence" and args.device != "cpu":
    parser.error("recurrences alone are compared on the processor only")
size = ["--batch", str(args.batch or max(1, 1024 // args.context)), "--context", str(args.context), "--repeats", str(args.repeats)]


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr}")
    return json.loads(done.stdout)


def ours(what, precision):
    command = [args.recast, "bench", "step", "--json", "--precision", precision, "--device", args.device, *size]
    if what != "step":
        recipe = here.parent / "recipes" / "smollm2-rwkv7.toml"
        command += ["--recipe", recipe, "--stage", what, "--set", f"teacher.path={args.teacher}"]
    done = run(command)
    # Said at once: the rival may fail, or the time end, before there is anything to compare with.
    print(f"{what:7} {precision:4} recast {done['step']['median']:.3f} s", file=sys.stderr, flush=True)
    return done


def theirs(what, precision):
    name = "next-token" if what == "step" else what
    command = [args.python, here / "rivals" / "torch_step.py", name, precision, "--device", args.device, *size]
    if args.device == "cuda":
        command += ["--fused", *(["--fla"] if args.fla else [])]
    return run(command)


def recurrences():
    """Microseconds a token, forward and backward, at every length; the median of the rounds."""
    pairs = []
    for _ in range(args.rounds):
        ours = []
        for name in ("decayed sum", "delta rule"):
            command = [args.recast, "bench", "ops", "--only", name, "--repeats", str(args.repeats), "--json"]
            ours += run(command)["operators"]
        pairs.append((ours, run([args.python, here / "rivals" / "torch_recurrence.py", "--repeats", str(args.repeats)])))
    for row in pairs[0][1]:
        same = lambda rows: next(r for r in rows if (r["name"], r["tokens"]) == (row["name"], row["tokens"]))
        a_token = lambda side, pick: 1e6 * statistics.median(pick(same(pair[side])) for pair in pairs) / row["tokens"]
        # Both sides run two sequences.
        length = row["tokens"] // 2
        ours = [a_token(0, lambda r: r[part]["median"]) for part in ("forward", "both")]
        theirs = [a_token(1, lambda r: r[part]) for part in ("forward", "both")]
        share = statistics.median(same(pair[0])["share"] for pair in pairs)
        print(
            f"{row['name']:11} T {length:5}: recast {ours[0]:.2f} / {ours[1]:.2f} us a token forward / and backward "
            f"({share:.0%} of the peak), torch {theirs[0]:.2f} / {theirs[1]:.2f} (chunks of {row['chunk']}): "
            f"{theirs[0] / ours[0]:.1f} / {theirs[1] / ours[1]:.1f} times its speed",
            file=sys.stderr,
            flush=True,
        )
        rows.append({
            "what": row["name"], "context": length, "recast_us": ours, "torch_us": theirs, "share_of_peak": share,
            "speedup": [t / o for t, o in zip(theirs, ours)],
        })


rows = []
for what in [args.only] if args.only else ["step", "align", "distil", *(["recurrence"] if args.device == "cpu" else [])]:
    if what == "recurrence":
        recurrences()
        continue
    if what != "step" and not args.teacher:
        print(f"{what}: left out, no --teacher", file=sys.stderr)
        continue
    for precision in [args.precision] if args.precision else ["f32", "bf16"]:
        pairs = [(ours(what, precision), theirs(what, precision)) for _ in range(args.rounds)]
        median = lambda side, pick: statistics.median(pick(pair[side]) for pair in pairs)
        seconds = [median(side, lambda r: r["step"]["median"]) for side in (0, 1)]
        memory = [median(side, lambda r: r["peak_bytes"]) for side in (0, 1)]
        row = {
            "what": what,
            "precision": precision,
            "context": args.context,
            "recast_seconds": seconds[0],
            "torch_seconds": seconds[1],
            "time_ratio": seconds[0] / seconds[1],
            "speedup": seconds[1] / seconds[0],
        }
        # Ours is of the process, which says nothing of a GPU's memory.
        told = ""
        if args.device == "cpu":
            row |= {"recast_bytes": memory[0], "torch_bytes": memory[1], "memory_ratio": memory[0] / memory[1]}
            told = f"; memory {row['memory_ratio']:.2f} of its"
        rows.append(row)
        print(
            "{what:7} {precision:4} context {context}: recast {recast_seconds:.3f} s, torch {torch_seconds:.3f} s, "
            "{time_ratio:.2f} of its time ({speedup:.2f} times its speed)".format(**row) + told,
            file=sys.stderr,
            flush=True,
        )
if args.json:
    print(json.dumps(rows, indent=1))
