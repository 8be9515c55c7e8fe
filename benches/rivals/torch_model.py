"""The models of `recast bench step` in plain PyTorch: a SmolLM2-shaped transformer, and its student
with RAD-RWKV7 mixers whose recurrence is chunked and batched over all chunks at once.

Written as PyTorch users write for speed on a CPU: fused attention, RMSNorm of the library, no
Python loop over tokens, one over chunks for the state alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

HIDDEN, INNER, HEADS, GROUPS, HEAD, VOCABULARY = 576, 1536, 9, 3, 64, 49152


def rope_table(tokens):
    inverse = 1.0 / (10000.0 ** (torch.arange(0, HEAD, 2) / HEAD))
    angles = torch.outer(torch.arange(tokens).float(), inverse)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def rotate(x, table):
    """x is [B, H, T, N]."""
    cos, sin = table
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Projections(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(HIDDEN, HEADS * HEAD, bias=False)
        self.k = nn.Linear(HIDDEN, GROUPS * HEAD, bias=False)
        self.v = nn.Linear(HIDDEN, GROUPS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, HIDDEN, bias=False)

    def heads(self, x):
        b, t, _ = x.shape
        return x.view(b, t, -1, HEAD).transpose(1, 2)


class Softmax(Projections):
    def forward(self, x, table, shared):
        q, k, v = (self.heads(p(x)) for p in (self.q, self.k, self.v))
        q, k = rotate(q, table).to(v.dtype), rotate(k, table).to(v.dtype)
        k, v = (z.repeat_interleave(HEADS // GROUPS, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).flatten(2))


class LowRank(nn.Module):
    def __init__(self, rank, base):
        super().__init__()
        self.base = nn.Parameter(torch.full((HEADS * HEAD,), base))
        self.m1 = nn.Parameter(torch.zeros(HIDDEN, rank))
        self.m2 = nn.Parameter(torch.randn(rank, HEADS * HEAD) * 0.1 / math.sqrt(rank))

    def forward(self, x, inner=lambda z: z):
        return self.base + inner(x @ self.m1) @ self.m2


def delta_rule(r, logw, k, v, a, b, chunk=32):
    """S_t = diag(e^logw) S + b (a^T S) + k v^T, o = S^T r; all [B, H, T, N], f32, T a multiple of
    the chunk, decays moderate (as RWKV-7's are)."""
    batch, heads, tokens, n = r.shape
    split = lambda x: x.reshape(batch, heads, tokens // chunk, chunk, n)
    r, logw, k, v, a, b = map(split, (r, logw, k, v, a, b))
    g = logw.cumsum(3)
    middle = 0.5 * g[..., -1:, :]
    up, down, before = (g - middle).exp(), (middle - g).exp(), (g - logw - middle).exp()
    rl, al, kr, br = r * up, a * before, k * down, b * down
    inclusive = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    strict = inclusive.tril(-1)
    score = lambda x, y, mask: (x @ y.transpose(-1, -2)).masked_fill(~mask, 0.0)
    aqk, aqb = score(rl, kr, inclusive), score(rl, br, inclusive)
    aak, aab = score(al, kr, strict), score(al, br, strict)
    inverse = torch.linalg.solve_triangular(
        torch.eye(chunk) - aab, torch.eye(chunk).expand_as(aab), upper=False, unitriangular=True
    )
    from_values = inverse @ (aak @ v)
    from_state = inverse @ al
    scale = middle.exp()
    state = torch.zeros(batch, heads, n, n)
    outputs = []
    added = kr.transpose(-1, -2) @ v
    # Taken apart at once: the gradient of an index would be an array of all chunks, for each chunk.
    chunks = (x.unbind(2) for x in (scale.transpose(-1, -2), from_values, from_state, rl, aqk @ v, aqb, added, br))
    for scale, from_values, from_state, rl, within, aqb, added, br in zip(*chunks):
        s = state * scale
        u = from_values + from_state @ s
        outputs.append(rl @ s + within + aqb @ u)
        state = (s + added + br.transpose(-1, -2) @ u) * scale
    return torch.stack(outputs, 2).reshape(batch, heads, tokens, n)


def fla_delta_rule(r, logw, k, v, a, b, kind):
    """`delta_rule` by flash-linear-attention's kernels, which want [B, T, H, N]; all but the decay are of `kind`."""
    from fla.ops.rwkv7 import chunk_rwkv7

    r, k, v, a, b = (x.transpose(1, 2).to(kind).contiguous() for x in (r, k, v, a, b))
    # As its own RWKV-7 layer calls it: a log decay here is no lower than -e^(-1/2) either.
    y, _ = chunk_rwkv7(
        r, logw.transpose(1, 2).contiguous(), k, v, a, b, safe_gate=True, lower_bound=-0.6065306597126334, chunk_size=64
    )
    return y.transpose(1, 2).float()


def decayed_sum(r, logw, k, v, chunk=32):
    """S_t = diag(e^logw) S + k v^T, o = S^T r; all [B, H, T, N], as above."""
    batch, heads, tokens, n = r.shape
    split = lambda x: x.reshape(batch, heads, tokens // chunk, chunk, n)
    r, logw, k, v = map(split, (r, logw, k, v))
    g = logw.cumsum(3)
    middle = 0.5 * g[..., -1:, :]
    rl, kr = r * (g - middle).exp(), k * (middle - g).exp()
    inside = torch.ones(chunk, chunk, dtype=torch.bool).tril()
    within = (rl @ kr.transpose(-1, -2)).masked_fill(~inside, 0.0) @ v
    added = kr.transpose(-1, -2) @ v
    scale = middle.exp().transpose(-1, -2)
    state = torch.zeros(batch, heads, n, n)
    states = []
    for scale, added in zip(scale.unbind(2), added.unbind(2)):
        scaled = state * scale
        states.append(scaled)
        state = (scaled + added) * scale
    return (within + rl @ torch.stack(states, 2)).reshape(batch, heads, tokens, n)


class Rwkv7(Projections):
    def __init__(self, layer):
        super().__init__()
        self.decay, self.iclr = LowRank(32, -5.0), LowRank(32, 0.0)
        self.mix = LowRank(32, 1.0) if layer > 0 else None
        self.g1 = nn.Parameter(torch.zeros(HIDDEN, 96))
        self.g2 = nn.Parameter(torch.randn(96, HEADS * HEAD) * 0.1 / math.sqrt(96))

    def forward(self, x, table, shared):
        heads = self.heads
        repeat = lambda z: z.repeat_interleave(HEADS // GROUPS, 1)
        r, k = rotate(heads(self.q(x)), table).float(), repeat(rotate(heads(self.k(x)), table)).float()
        v = repeat(heads(self.v(x))).float()
        logw = heads(-math.exp(-0.5) * torch.sigmoid(self.decay(x, torch.tanh).float()))
        iclr = heads(torch.sigmoid(self.iclr(x).float()))
        if self.mix is None:
            shared["first"] = v
        else:
            v = v + (shared["first"] - v) * heads(torch.sigmoid(self.mix(x).float()))
        kap = F.normalize(k, dim=-1)
        k = k * (1 - logw.exp() + iclr)
        with torch.autocast(x.device.type, enabled=False):
            y = delta_rule(r, logw, k, v, -kap, kap * iclr) * HEAD**-0.5
        gate = torch.sigmoid(x @ self.g1) @ self.g2
        return self.o(y.transpose(1, 2).flatten(2).to(gate.dtype) * gate)


class Block(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(HIDDEN, eps=1e-5), nn.RMSNorm(HIDDEN, eps=1e-5)
        self.mixer = mixer
        self.gate = nn.Linear(HIDDEN, INNER, bias=False)
        self.up = nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def after(self, x, y):
        x = x + y
        z = self.n2(x)
        return x + self.down(F.silu(self.gate(z)) * self.up(z))

    def forward(self, x, table, shared):
        return self.after(x, self.mixer(self.n1(x), table, shared))


class Model(nn.Module):
    def __init__(self, layers, mixer):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList([Block(mixer(layer)) for layer in range(layers)])
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5)

    def forward(self, tokens):
        table, shared = rope_table(tokens.shape[1]), {}
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, table, shared)
        return F.linear(self.norm(x), self.embedding.weight)
