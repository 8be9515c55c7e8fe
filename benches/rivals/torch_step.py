"""One training step in PyTorch, the same work as `recast bench step`; prints one JSON object.

    python torch_step.py next-token|align|distil f32|bf16 [--layers 6] [--batch 2] [--context 512]
        [--repeats 7] [--threads 2] [--fused] [--device cpu|cuda] [--fla]

--fla takes the recurrence of flash-linear-attention (a GPU's; `pip install fla-core`, 0.6 or later) in place of
torch_model's. On a GPU the peak is of its memory, else the process's.
"""

import argparse
import functools
import json
import resource
import statistics
import time

import torch
import torch.nn.functional as F

import torch_model
from torch_model import VOCABULARY, Model, Rwkv7, Softmax, rope_table

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["next-token", "align", "distil"])
parser.add_argument("precision", choices=["f32", "bf16"])
parser.add_argument("--layers", type=int, default=None)
parser.add_argument("--batch", type=int, default=2)
parser.add_argument("--context", type=int, default=512)
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--fused", action="store_true")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--fla", action="store_true")
args = parser.parse_args()
torch.set_num_threads(args.threads)
if args.device != "cpu":
    torch.set_default_device(args.device)
if args.fla:
    kind = torch.bfloat16 if args.precision == "bf16" else torch.float32
    torch_model.delta_rule = functools.partial(torch_model.fla_delta_rule, kind=kind)
torch.manual_seed(1)

layers = args.layers or (6 if args.what == "next-token" else 30)
tokens = torch.randint(0, VOCABULARY, (args.batch, args.context))
targets = torch.randint(0, VOCABULARY, (args.batch, args.context))
autocast = lambda: torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16")

if args.what == "next-token":
    student, teacher = Model(layers, lambda _: Softmax()), None
else:
    teacher = Model(layers, lambda _: Softmax()).requires_grad_(False)
    student = Model(layers, Rwkv7)
    student.load_state_dict(teacher.state_dict(), strict=False)
trained = [p for b in student.blocks for p in b.mixer.parameters()] if args.what == "align" else list(student.parameters())
optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=args.fused or None)


def next_token():
    with autocast():
        loss = F.cross_entropy(student(tokens).flatten(0, 1), targets.flatten())
    loss.backward()
    return loss


def distil():
    with torch.no_grad(), autocast():
        wanted = F.log_softmax(teacher(tokens).float(), -1)
    with autocast():
        given = F.log_softmax(student(tokens).float(), -1)
    loss = F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1).mean()
    loss.backward()
    return loss


def align():
    """Every mixer on the teacher's hidden states, back-propagated layer by layer; the gradient of
    the first values is carried to layer 0 at the end."""
    table = rope_table(args.context)
    total, first, first_leaf, first_loss = 0.0, None, None, None
    with autocast():
        x = teacher.embedding(tokens)
        for t, s in zip(teacher.blocks, student.blocks):
            with torch.no_grad():
                u = t.n1(x)
                wanted = t.mixer(u, table, {})
            shared = {} if first is None else {"first": first_leaf}
            error = s.mixer(u, table, shared) - wanted
            loss = error.float().norm(dim=-1).mean() / (layers * x.shape[-1] ** 0.5)
            total += loss.detach()
            if first is None:
                first, first_loss = shared["first"], loss
                first_leaf = first.detach().requires_grad_()
            else:
                loss.backward()
            with torch.no_grad():
                x = t.after(x, wanted)
    (first_loss + (first * first_leaf.grad).sum()).backward()
    return total


work = {"next-token": next_token, "align": align, "distil": distil}[args.what]
seconds, parts = [], {"gradients": [], "optimizer": []}


def now():
    """The time once the device has done what it was given."""
    if args.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


for step in range(2 + args.repeats):
    began = now()
    loss = work()
    middle = now()
    if args.what != "next-token":
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    end = now()
    if step >= 2:
        seconds.append(end - began)
        parts["gradients"].append(middle - began)
        parts["optimizer"].append(end - middle)
median = statistics.median(seconds)
print(json.dumps({
    "what": args.what,
    "precision": args.precision,
    "torch": torch.__version__,
    "step": {"median": median, "best": min(seconds), "repeats": args.repeats},
    **{name: statistics.median(values) for name, values in parts.items()},
    "tokens_per_second": args.batch * args.context / median,
    "peak_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "loss": float(loss),
}))
