"""Recast against llama.cpp on one sequence of the same GGUF files: alternately, medians of the rounds.

    python benches/compare_decode.py --recast target/release/recast [--python PYTHON_WITH_LLAMA_CPP]
        [--contexts 16,512,1024] [--steps 64] [--rounds 3] FILE.gguf...

`pip install llama-cpp-python` brings the rival; build it with CMAKE_ARGS=-DGGML_NATIVE=ON for this machine's
instructions. Nothing else should be running.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser()
parser.add_argument("files", nargs="+")
parser.add_argument("--recast", required=True)
parser.add_argument("--python", default=sys.executable)
parser.add_argument("--contexts", default="16,512,1024")
parser.add_argument("--steps", default="64")
parser.add_argument("--threads", default="2")
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr}")
    return json.loads(done.stdout)["decode"]


for file in args.files:
    same = ["--contexts", args.contexts, "--steps", args.steps, "--threads", args.threads]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(run([args.recast, "bench", "decode", file, "--json", *same]))
        theirs.append(run([args.python, here / "rivals" / "llama_decode.py", file, *same]))
    print(pathlib.Path(file).name)
    for at, row in enumerate(ours[0]):
        line = f"  context {row['context']:6}:"
        for key, name in (("tokens_per_second", "decode"), ("prefill_tokens_per_second", "prefill")):
            a, b = (statistics.median(rows[at][key] for rows in side) for side in (ours, theirs))
            line += f"  {name} {a:7.1f} against {b:7.1f} tokens/s ({a / b:.2f})"
        print(line, flush=True)
