"""What LLaDA's published sampler costs in plain PyTorch: low-confidence remasking at a fixed number of
forward passes over the whole sequence, temperature 0, blocks from left to right (arXiv 2502.09992,
appendix B). A random model of the given sizes: the cost does not depend on the weights.

    python benches/rivals/torch_denoise.py smollm2|tiny f32|bf16 [--tokens 128] [--steps 128] [--block 32]
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

import torch_model as m

parser = argparse.ArgumentParser()
parser.add_argument("size", choices=["smollm2", "tiny"])
parser.add_argument("precision", choices=["f32", "bf16"])
parser.add_argument("--prompt", type=int, default=64)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--steps", type=int)
parser.add_argument("--block", type=int, default=32)
parser.add_argument("--repeats", type=int, default=7)
args = parser.parse_args()
steps = args.steps or args.tokens

layers = 30
if args.size == "tiny":
    # The embedded teacher's sizes.
    m.HIDDEN, m.INNER, m.HEADS, m.GROUPS, m.HEAD, m.VOCABULARY, layers = 192, 512, 6, 2, 32, 2048, 4


class Bidirectional(m.Softmax):
    def forward(self, x, table, shared):
        q, k, v = (self.heads(p(x)) for p in (self.q, self.k, self.v))
        q, k = m.rotate(q, table).to(v.dtype), m.rotate(k, table).to(v.dtype)
        k, v = (z.repeat_interleave(m.HEADS // m.GROUPS, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


torch.manual_seed(1)
model = m.Model(layers, lambda layer: Bidirectional()).eval()
if args.precision == "bf16":
    model = model.to(torch.bfloat16)
mask = m.VOCABULARY - 1


@torch.inference_mode()
def generate(prompt):
    x = torch.full((1, args.prompt + args.tokens), mask)
    x[0, : args.prompt] = prompt
    blocks = -(-args.tokens // args.block)
    forwards = 0
    for block in range(blocks):
        start = args.prompt + block * args.block
        end = min(start + args.block, x.shape[1])
        passes = max(1, steps // blocks)
        masked = int((x[:, start:end] == mask).sum())
        shares = [masked // passes + (1 if i < masked % passes else 0) for i in range(passes)]
        for share in shares:
            logits = model(x)
            forwards += 1
            chosen = logits.argmax(-1)
            confidence = F.softmax(logits, -1).gather(-1, chosen[..., None])[..., 0].float()
            open_ = x == mask
            confidence[:, end:] = -torch.inf
            confidence[~open_] = -torch.inf
            where = confidence[0].topk(share).indices
            x[0, where] = chosen[0, where]
    return forwards


prompt = (torch.arange(args.prompt) * 7919 + 11) % mask
seconds = []
for text in range(args.repeats + 1):
    began = time.perf_counter()
    forwards = generate(prompt)
    if text > 0:
        seconds.append(time.perf_counter() - began)
median = statistics.median(seconds)
print(
    json.dumps(
        {
            "size": args.size,
            "precision": args.precision,
            "tokens": args.tokens,
            "forwards": forwards,
            "seconds": median,
            "tokens_per_second": args.tokens / median,
            "milliseconds_per_forward": 1e3 * median / forwards,
            "threads": torch.get_num_threads(),
        }
    )
)
