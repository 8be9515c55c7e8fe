"""The products of `recast bench ops --only linear` in PyTorch: weights in f32, operands in bf16; prints a table.

    python torch_linear.py [--batch 2] [--device cpu|cuda] [--repeats 7]
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, default=2, help="sequences of 512 tokens")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--repeats", type=int, default=7)
args = parser.parse_args()
torch.manual_seed(1)
rows = args.batch * 512


def median(work):
    """Seconds, after two that do not count."""
    seconds = []
    for _ in range(args.repeats + 2):
        began = time.perf_counter()
        work()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


print("operator            tokens  forward, ms  and backward, ms  GFLOP/s")
for inputs, outputs in [(576, 576), (576, 1536), (1536, 576)]:
    x = torch.randn(rows, inputs, device=args.device, requires_grad=True)
    weight = torch.randn(outputs, inputs, device=args.device, requires_grad=True)

    def forward():
        with torch.autocast(args.device, dtype=torch.bfloat16):
            return F.linear(x, weight)

    def both():
        x.grad = weight.grad = None
        forward().sum().backward()

    with torch.no_grad():
        alone = median(forward)
    together = median(both)
    name, work = f"linear {inputs} x {outputs}", 6e-9 * rows * inputs * outputs
    print(f"{name:18}  {rows:6}  {1e3 * alone:11.3f}  {1e3 * together:16.3f}  {work / together:7.0f}")
