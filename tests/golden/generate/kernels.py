"""Writes kernels/*.safetensors: the two raw recurrences (spec 2.6, 2.8), outputs and all gradients in float64."""

import torch

from common import GOLDEN, Draw, check_by_differences, gradients, leaves, relative, write
from recurrences import decayed_sum, delta_rule, delta_rule_backward

# batch, tokens, heads, key size, value size
DELTA_RULE = {
    "delta_rule_t1": (2, 1, 3, 8, 8),
    "delta_rule_t7": (2, 7, 3, 8, 8),
    "delta_rule_t65": (1, 65, 2, 8, 8),
    "delta_rule_t130": (1, 130, 1, 8, 8),
    "delta_rule_wide_values": (1, 33, 2, 4, 12),
}
DECAYED_SUM = {
    "decayed_sum_vector_t1": (2, 1, 3, 8, 8),
    "decayed_sum_vector_t7": (2, 7, 3, 8, 8),
    "decayed_sum_vector_t65": (1, 65, 2, 8, 8),
    "decayed_sum_vector_t130": (1, 130, 1, 8, 8),
    "decayed_sum_vector_wide_values": (1, 33, 2, 4, 12),
    "decayed_sum_scalar_t1": (2, 1, 3, 8, 8),
    "decayed_sum_scalar_t7": (2, 7, 3, 8, 8),
    "decayed_sum_scalar_t65": (1, 65, 2, 8, 8),
    "decayed_sum_scalar_t130": (1, 130, 1, 8, 8),
}


def log_decays(draw, *shape):
    """Mostly -2 to -0.001 on a logarithmic scale; a tenth at -5 to -20 a token, a tenth exactly 0."""
    usual = -torch.exp(draw.uniform(*shape, low=-7.0, high=0.7)).float().double()
    steep = draw.uniform(*shape, low=-20.0, high=-5.0)
    pick = draw.uniform(*shape, low=0.0, high=1.0)
    logw = torch.where(pick < 0.1, steep, torch.where(pick < 0.2, torch.zeros_like(usual), usual))
    # Both extremes in every case, however short.
    logw.view(-1)[0], logw.view(-1)[1] = 0.0, -20.0
    return logw


def unit_f32(x):
    return (x / x.norm(dim=-1, keepdim=True)).float().double()


def make(name, sizes, delta, seed):
    draw = Draw(seed)
    b, t, h, k, v = sizes
    decay_shape = (b, t, h) if "scalar" in name else (b, t, h, k)
    inputs = {
        "r" if delta else "q": draw.normal(b, t, h, k),
        "logw": log_decays(draw, *decay_shape),
        "k": draw.normal(b, t, h, k),
        "v": draw.normal(b, t, h, v),
    }
    if delta:
        # a = -kappa, b = kappa times a rate, plus a little of anything where the sequence is too short to blow up.
        kappa, rate = unit_f32(draw.normal(b, t, h, k)), draw.uniform(b, t, h, k, low=0.0, high=1.0)
        loose = 0.3 if t < 10 else 0.0
        inputs["a"] = (-kappa + loose * draw.normal(b, t, h, k)).float().double()
        inputs["b"] = (kappa * rate + loose * draw.normal(b, t, h, k)).float().double()
    inputs["state0"] = draw.normal(b, h, k, v)
    upstream = {"d_out": draw.normal(b, t, h, v), "d_state1": draw.normal(b, h, k, v)}

    def outputs_of(values):
        return (delta_rule if delta else decayed_sum)(*values.values())

    def loss_of(values):
        out, state = outputs_of(values)
        return (out * upstream["d_out"]).sum() + (state * upstream["d_state1"]).sum()

    tensors = leaves(inputs)
    out, state = outputs_of(tensors)
    grads = gradients(tensors, loss_of(tensors))
    worst = check_by_differences(loss_of, tensors, grads)
    by_hand = written_out(inputs, upstream, delta)
    for key, grad in grads.items():
        assert relative(by_hand[key], grad) < 1e-11, f"{name}: the backward of 2.6 differs in {key}"
    assert out.abs().max() < 200, f"{name}: grows to {out.abs().max()}"
    results = {"out": out, "state1": state, **{f"grad.{key}": grad for key, grad in grads.items()}}
    config = {"recurrence": "delta_rule" if delta else "decayed_sum", "scalar_decay": "scalar" in name}
    write(GOLDEN / "kernels" / f"{name}.safetensors", {**inputs, **upstream, **results}, config, keep=results)
    print(f"{name}: gradients within {worst:.1e} of differences, |out| up to {out.abs().max():.1f}, "
          f"logw {inputs['logw'].min():.1f} to {inputs['logw'].max():.1f}")


def written_out(inputs, upstream, delta):
    """The backward by the formulas of 2.6; the decayed sum is a = b = 0, a scalar decay sums over channels."""
    if delta:
        return delta_rule_backward(*inputs.values(), upstream["d_out"], upstream["d_state1"])
    q, logw, zero = inputs["q"], inputs["logw"], torch.zeros_like(inputs["q"])
    scalar = logw.dim() == 3
    spread = logw.unsqueeze(-1).expand_as(q) if scalar else logw
    grads = delta_rule_backward(
        q, spread, inputs["k"], inputs["v"], zero, zero, inputs["state0"], upstream["d_out"], upstream["d_state1"]
    )
    grads["q"] = grads.pop("r")
    if scalar:
        grads["logw"] = grads["logw"].sum(-1)
    return grads


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, sizes) in enumerate(DELTA_RULE.items()):
        make(name, sizes, True, 3000 + seed)
    for seed, (name, sizes) in enumerate(DECAYED_SUM.items()):
        make(name, sizes, False, 3100 + seed)
