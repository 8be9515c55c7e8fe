"""RAD-RWKV6 and RAD-RWKV7 from the specification's sections 2.1 to 2.3, plain PyTorch, token by token.

Parameters go by the checkpoint names of section 2.11 without prefix. `config` is a dict with the keys that the cases
store: mixer, hidden_size, heads, kv_heads, head_dim, layer, layers, position0, rope_theta, rms_norm_eps,
balance_state, groupnorm_att, gate_rank_type, use_tokenshift, use_rope.
"""

import math

import torch

from recurrences import decayed_sum, delta_rule

DECAY_FLOOR = -5.0


def linear(params, name, x):
    y = x @ params[f"{name}.weight"].T
    bias = params.get(f"{name}.bias")
    return y if bias is None else y + bias


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def group_norm(p, weight, bias, eps):
    """p [B, T, H, N]: normalised over N in each head, then an affine map of size HN."""
    centred = p - p.mean(-1, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return normal.flatten(-2) * weight + bias


def rotate(x, position0, theta):
    """RoPE on [B, T, heads, N], half-split pairs (i, i + N/2), first token at position0."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = (position0 + torch.arange(x.shape[1], dtype=x.dtype)).unsqueeze(-1) * frequency
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def heads_of(x, config):
    return x.unflatten(-1, (-1, config["head_dim"]))


def repeat_heads(x, config):
    """[B, T, kv_heads, N] to [B, T, heads, N]: each key/value head serves consecutive query heads."""
    return x.repeat_interleave(config["heads"] // config["kv_heads"], dim=2)


def queries_keys_values(params, config, x_q, x_k, x_v):
    """Projection and bias, q/k norm, RoPE, repeat: in this order (trap 14)."""
    q = heads_of(linear(params, "q_proj", x_q), config)
    k = heads_of(linear(params, "k_proj", x_k), config)
    v = heads_of(linear(params, "v_proj", x_v), config)
    if "q_norm.weight" in params:
        q = rms_norm(q, params["q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, params["k_norm.weight"], config["rms_norm_eps"])
    if config["use_rope"]:
        q = rotate(q, config["position0"], config["rope_theta"])
        k = rotate(k, config["position0"], config["rope_theta"])
    return q, repeat_heads(k, config), repeat_heads(v, config)


def gated(params, config, p, x):
    """p [B, T, HN] times the gate of the configured kind, then the output projection."""
    kind = config["gate_rank_type"]
    if kind == 1:
        p = p * torch.sigmoid(x @ params["gate.weight"].T)
    elif kind == 2:
        p = p * (torch.sigmoid(x @ params["g1"]) @ params["g2"])
    return linear(params, "o_proj", p)


def rwkv7_inner(r, k, v, d, a, state, balance, k_k=None, k_a=None):
    """From the raw tensors [B, T, H, N] (d before the decay's activation, a after its sigmoid) to (S^T r, state)."""
    logw = -math.exp(-0.5) * torch.sigmoid(d)
    direction = k if balance else k * k_k
    kappa = direction / direction.norm(dim=-1, keepdim=True)
    written = k * (1 - logw.exp() + a) if balance else k * (1 + (a - 1) * k_a)
    return delta_rule(r, logw, written, v, -kappa, kappa * a, state)


def rwkv6_inner(q, k, v, d, state, balance):
    """From the raw tensors [B, T, H, N] to (N^(-1/2) S^T q, state); decay clamped at -5 a token."""
    raw = -d.exp()
    logw = torch.where(raw > DECAY_FLOOR, raw, torch.full_like(raw, DECAY_FLOOR))
    written = k * (1 - logw.exp()) if balance else k
    out, state = decayed_sum(q, logw, written, v, state)
    return out * q.shape[-1] ** -0.5, state


def rwkv7(params, config, x, state, v_first=None):
    """Returns y [B, T, C], the state after the last token [B, H, N, N], and v_first [B, T, HN]."""
    r, k, v = queries_keys_values(params, config, x, x, x)
    d = params["w0"] + torch.tanh(x @ params["w1"]) @ params["w2"]
    a = torch.sigmoid(params["a0"] + (x @ params["a1"]) @ params["a2"])
    if config["layer"] == 0:
        v_first = v.flatten(-2)
    else:
        mix = torch.sigmoid(params["v0"] + (x @ params["v1"]) @ params["v2"])
        own = v.flatten(-2)
        v = heads_of(own + (v_first - own) * mix, config)
    shape = (config["heads"], config["head_dim"])
    p, state = rwkv7_inner(
        r, k, v, heads_of(d, config), heads_of(a, config), state, config["balance_state"],
        params["k_k"].view(shape), params["k_a"].view(shape),
    )
    if config["groupnorm_att"]:
        p = group_norm(p, params["ln_x.weight"], params["ln_x.bias"], 1e-5 * config["head_dim"])
    else:
        p = p.flatten(-2) * config["head_dim"] ** -0.5
    return gated(params, config, p, x), state, v_first


def token_shift(params, config, x, shift):
    """The inputs of the r, k, v, w and g projections: x itself, or x moved towards its predecessor."""
    if not config["use_tokenshift"]:
        return x, x, x, x, x
    dx = torch.cat((shift.unsqueeze(1), x[:, :-1]), dim=1) - x
    bottleneck = torch.tanh((x + dx * params["time_maa_x"]) @ params["time_maa_w1"])
    mixes = [part @ up for part, up in zip(bottleneck.chunk(5, dim=-1), params["time_maa_w2"])]
    return tuple(x + dx * (params[f"time_maa_{name}"] + mix) for name, mix in zip("rkvwg", mixes))


def rwkv6_raw_decay(params, x_w):
    """d with logw = max(-exp(d), -5)."""
    return params["time_decay"] + torch.tanh(x_w @ params["time_decay_w1"]) @ params["time_decay_w2"]


def rwkv6(params, config, x, state, shift):
    """Returns y [B, T, C], the state [B, H, N, N], and the last input [B, C]."""
    x_r, x_k, x_v, x_w, x_g = token_shift(params, config, x, shift)
    q, k, v = queries_keys_values(params, config, x_r, x_k, x_v)
    d = heads_of(rwkv6_raw_decay(params, x_w), config)
    p, state = rwkv6_inner(q, k, v, d, state, config["balance_state"])
    if config["groupnorm_att"]:
        p = group_norm(p, params["ln_x.weight"], params["ln_x.bias"], 1e-5 * config["head_dim"])
    else:
        p = p.flatten(-2)
    return gated(params, config, p, x_g), state, x[:, -1]


def projections(draw, config):
    """q, k, v, o with the biases and head norms that the configuration asks for."""
    c, n = config["hidden_size"], config["head_dim"]
    inner, narrow = config["heads"] * n, config["kv_heads"] * n
    params = {
        "q_proj.weight": draw.dense(inner, c),
        "k_proj.weight": draw.dense(narrow, c),
        "v_proj.weight": draw.dense(narrow, c),
        "o_proj.weight": draw.dense(c, inner),
    }
    if config["attention_bias"]:
        for name, width in (("q", inner), ("k", narrow), ("v", narrow)):
            params[f"{name}_proj.bias"] = draw.normal(width, std=0.5)
    if config["attention_output_bias"]:
        params["o_proj.bias"] = draw.normal(c, std=0.5)
    if config["qk_norm"]:
        params["q_norm.weight"] = draw.normal(n, std=0.3, mean=1.0)
        params["k_norm.weight"] = draw.normal(n, std=0.3, mean=1.0)
    return params


def gate_and_norm(draw, config):
    c, inner = config["hidden_size"], config["heads"] * config["head_dim"]
    params = {}
    if config["gate_rank_type"] == 1:
        params["gate.weight"] = draw.dense(inner, c, gain=1.5)
    elif config["gate_rank_type"] == 2:
        rank = config["lora_rank_gate"]
        params["g1"] = draw.normal(c, rank, std=c**-0.5)
        params["g2"] = draw.normal(rank, inner, std=2 * rank**-0.5)
    if config["groupnorm_att"]:
        params["ln_x.weight"] = draw.normal(inner, std=0.3, mean=1.0)
        params["ln_x.bias"] = draw.normal(inner, std=0.3)
    return params


def low_rank(draw, rows, rank, columns, gain=1.0):
    """A pair stored input x rank and rank x output, as x @ first @ second."""
    return draw.normal(rows, rank, std=rows**-0.5), draw.normal(rank, columns, std=gain * rank**-0.5)


def rwkv7_params(draw, config):
    """Random parameters, none at its neutral start: the decay covers its range, k_a and k_k differ per channel."""
    c, inner = config["hidden_size"], config["heads"] * config["head_dim"]
    params = projections(draw, config)
    params["w0"] = draw.uniform(1, 1, inner, low=-7.0, high=3.0)
    params["w1"], params["w2"] = low_rank(draw, c, config["lora_rank_decay"], inner, gain=1.5)
    params["a0"] = draw.normal(1, 1, inner)
    params["a1"], params["a2"] = low_rank(draw, c, config["lora_rank_iclr"], inner, gain=1.5)
    if config["layer"] > 0:
        params["v0"] = draw.normal(1, 1, inner)
        params["v1"], params["v2"] = low_rank(draw, c, config["lora_rank_value_residual_mix"], inner, gain=1.5)
    params["k_k"] = draw.normal(1, 1, inner, std=0.3, mean=0.85)
    params["k_a"] = draw.normal(1, 1, inner, std=0.4, mean=0.8)
    params["r_k"] = draw.normal(config["heads"], config["head_dim"])
    params.update(gate_and_norm(draw, config))
    return params


def rwkv6_params(draw, config):
    c, inner = config["hidden_size"], config["heads"] * config["head_dim"]
    params = projections(draw, config)
    if config["use_tokenshift"]:
        rank = config["lora_rank_tokenshift"]
        for name in "xrkvwg":
            params[f"time_maa_{name}"] = draw.uniform(1, 1, c, low=-0.4, high=1.2)
        params["time_maa_w1"] = draw.normal(c, 5 * rank, std=c**-0.5)
        params["time_maa_w2"] = draw.normal(5, rank, c, std=0.5 * rank**-0.5)
    params["time_decay"] = draw.uniform(1, 1, inner, low=-6.0, high=2.2)
    params["time_decay_w1"], params["time_decay_w2"] = low_rank(draw, c, config["lora_rank_decay"], inner)
    params.update(gate_and_norm(draw, config))
    return params
