"""The recurrences of `recast bench ops --only sum|rule` in PyTorch, chunked, two sequences at a time; prints one JSON array.

    python torch_recurrence.py [--tokens 512 2048 8192 32768] [--repeats 7] [--threads 2]

Chunks of 16, 32 and 64 are timed at the first length, and the fastest (forward and backward together)
is taken for all.
"""

import argparse
import json
import statistics
import time

import torch

from torch_model import HEAD, HEADS, decayed_sum, delta_rule

parser = argparse.ArgumentParser()
parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 8192, 32768])
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)


def median(work):
    seconds = []
    for repeat in range(1 + args.repeats):
        began = time.perf_counter()
        work()
        if repeat:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(name, f, arrays, tokens, chunk):
    # As many sequences as ours.
    batch = 2
    inputs = [torch.randn(batch, HEADS, tokens, HEAD).mul_(0.3).requires_grad_() for _ in range(arrays)]

    def run():
        x = list(inputs)
        x[1] = -x[1].abs()
        if arrays == 5:
            direction = x[4] * 0.4
            x[4:] = [-direction, direction * 0.5]
        return f(*x, chunk=chunk)

    def both():
        run().sum().backward()
        for x in inputs:
            x.grad = None

    with torch.no_grad():
        forward = median(run)
    return {"name": name, "tokens": batch * tokens, "chunk": chunk, "forward": forward, "both": median(both)}


rows = []
for name, f, arrays in [("decayed sum", decayed_sum, 4), ("delta rule", delta_rule, 5)]:
    tried = [measure(name, f, arrays, args.tokens[0], chunk) for chunk in (16, 32, 64)]
    rows.append(min(tried, key=lambda row: row["both"]))
    rows += [measure(name, f, arrays, tokens, rows[-1]["chunk"]) for tokens in args.tokens[1:]]
print(json.dumps(rows))
