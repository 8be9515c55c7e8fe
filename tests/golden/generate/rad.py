"""Writes rad/*.safetensors: one RAD mixer each, outputs and every gradient."""

import torch

from common import GOLDEN, Draw, check_by_differences, gradients, leaves, relative, write
from mixers import (
    DECAY_FLOOR, rwkv6, rwkv6_inner, rwkv6_params, rwkv6_raw_decay, rwkv7, rwkv7_inner, rwkv7_params, token_shift,
)

BASE = dict(
    hidden_size=32, heads=4, kv_heads=2, head_dim=8, rms_norm_eps=1e-6, rope_theta=10000.0, layers=3, position0=11,
    attention_bias=True, attention_output_bias=False, qk_norm=False, tokens=19,
)
RWKV7 = dict(
    BASE, mixer="rwkv7", layer=1, use_rope=True, use_tokenshift=False, balance_state=True, groupnorm_att=False,
    gate_rank_type=2, lora_rank_decay=6, lora_rank_iclr=5, lora_rank_value_residual_mix=4, lora_rank_gate=7,
)
RWKV6 = dict(
    BASE, mixer="rwkv6", layer=1, use_rope=False, use_tokenshift=True, balance_state=True, groupnorm_att=False,
    gate_rank_type=1, lora_rank_tokenshift=3, lora_rank_decay=6, lora_rank_gate=7,
)
CASES = {
    "rwkv7_balanced": dict(RWKV7),
    "rwkv7_balanced_layer0": dict(RWKV7, layer=0),
    "rwkv7_groupnorm": dict(RWKV7, balance_state=False, groupnorm_att=True),
    "rwkv7_groupnorm_layer0_qknorm": dict(
        RWKV7, balance_state=False, groupnorm_att=True, layer=0, qk_norm=True, attention_bias=False
    ),
    "rwkv7_balanced_groupnorm": dict(RWKV7, groupnorm_att=True, layer=2),
    "rwkv7_plain": dict(RWKV7, balance_state=False, groupnorm_att=False),
    "rwkv7_gate0_norope": dict(RWKV7, gate_rank_type=0, use_rope=False),
    "rwkv7_gate1_output_bias": dict(RWKV7, gate_rank_type=1, attention_output_bias=True),
    "rwkv7_wide_heads_qknorm": dict(
        RWKV7, head_dim=16, hidden_size=40, qk_norm=True, rms_norm_eps=1e-5, rope_theta=500.0, layer=2
    ),
    "rwkv7_one_kv_head_t67": dict(RWKV7, kv_heads=1, tokens=67, attention_bias=False),
    "rwkv7_t1": dict(RWKV7, tokens=1),
    "rwkv6_default": dict(RWKV6),
    "rwkv6_rope_t67": dict(RWKV6, use_rope=True, tokens=67),
    "rwkv6_no_balance": dict(RWKV6, balance_state=False),
    "rwkv6_groupnorm": dict(RWKV6, balance_state=False, groupnorm_att=True),
    "rwkv6_balance_groupnorm_rope_qknorm": dict(
        RWKV6, groupnorm_att=True, use_rope=True, qk_norm=True, attention_bias=False
    ),
    "rwkv6_no_tokenshift": dict(RWKV6, use_tokenshift=False),
    "rwkv6_gate0": dict(RWKV6, gate_rank_type=0, layer=0),
    "rwkv6_gate2_output_bias": dict(RWKV6, gate_rank_type=2, attention_output_bias=True),
    "rwkv6_wide_heads": dict(RWKV6, head_dim=16, hidden_size=40, use_rope=True, rope_theta=500.0),
    "rwkv6_t1": dict(RWKV6, tokens=1),
}


def run(tensors, config):
    """One mixer on a flat dict of parameters and inputs; the outputs by name."""
    if config["mixer"] == "rwkv7":
        y, state, v_first = rwkv7(tensors, config, tensors["x"], tensors["state0"], tensors.get("v_first"))
        out = {"y": y, "state1": state}
        if config["layer"] == 0:
            out["v_first_out"] = v_first
        return out
    y, state, shift = rwkv6(tensors, config, tensors["x"], tensors["state0"], tensors.get("shift0"))
    return {"y": y, "state1": state, **({"shift1": shift} if config["use_tokenshift"] else {})}


def check_spread(name, config, tensors):
    """The random decays must exercise what they are meant to, and stay off the clamp's kink."""
    if config["mixer"] != "rwkv6":
        return
    x_w = token_shift(tensors, config, tensors["x"], tensors.get("shift0"))[3]
    raw = -rwkv6_raw_decay(tensors, x_w).exp()
    clamped = (raw < DECAY_FLOOR).double().mean().item()
    assert 0.02 < clamped < 0.4, f"{name}: {clamped} of the decays are clamped"
    assert (raw - DECAY_FLOOR).abs().min() > 2e-3, f"{name}: a decay sits on the clamp's kink, change the seed"


def make(name, config, seed):
    draw = Draw(seed)
    b, t, c = 2, config["tokens"], config["hidden_size"]
    h, n = config["heads"], config["head_dim"]
    params = (rwkv7_params if config["mixer"] == "rwkv7" else rwkv6_params)(draw, config)
    inputs = {"x": draw.normal(b, t, c), "state0": draw.normal(b, h, n, n, std=0.7)}
    upstream = {"y": draw.normal(b, t, c), "state1": draw.normal(b, h, n, n)}
    if config["mixer"] == "rwkv7":
        if config["layer"] > 0:
            inputs["v_first"] = draw.normal(b, t, h * n)
        else:
            upstream["v_first_out"] = draw.normal(b, t, h * n)
    elif config["use_tokenshift"]:
        inputs["shift0"] = draw.normal(b, c)

    tensors = leaves({**params, **inputs})
    check_spread(name, config, tensors)

    def loss_of(values):
        found = run(values, config)
        return sum((found[key] * upstream[key]).sum() for key in upstream)

    outputs = run(tensors, config)
    grads = gradients(tensors, loss_of(tensors))
    worst = check_by_differences(loss_of, tensors, grads)
    unused = {"r_k"}
    if config["balance_state"]:
        unused |= {"k_k", "k_a"}
    if config["gate_rank_type"] == 0:
        unused |= {"time_maa_g"}
    for key, grad in grads.items():
        assert (grad.abs().max() == 0) == (key in unused), f"{name}: gradient of {key}"
    write(
        GOLDEN / "rad" / f"{name}.safetensors",
        {
            **params, **inputs, **outputs,
            **{f"d{key}": value for key, value in upstream.items()},
            **{f"grad.{key}": value for key, value in grads.items()},
        },
        config,
    )
    print(f"{name}: gradients within {worst:.1e} of central differences, |y| up to {outputs['y'].abs().max():.1f}")


def check_golden_vectors():
    """Section 2.10 of the specification: outputs, states and gradients, printed there with six digits."""

    def f(c):
        t, i = torch.arange(3).double().view(3, 1), torch.arange(2).double()
        return torch.sin(c + 1.3 * t + 0.7 * i).view(1, 3, 1, 2).requires_grad_(True)

    def near(found, expected, what):
        expected = torch.tensor(expected, dtype=torch.float64)
        assert (found.reshape(expected.shape) - expected).abs().max() < 1.01e-6, f"{what}: {found}"

    zero = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    do = f(2.1).detach()

    x = dict(r=f(0.1), k=f(0.5), v=f(0.9), d=f(1.3), p=f(1.7))
    o, s = rwkv7_inner(x["r"], x["k"], x["v"], x["d"], torch.sigmoid(x["p"]), zero, True)
    g = gradients(x, (o * do).sum())
    near(o, [[0.571609, 0.729409], [1.221652, 0.660096], [0.085762, -0.107896]], "rwkv7 o")
    near(s, [[0.507295, 0.098051], [0.512816, 0.586212]], "rwkv7 S")
    near(g["r"], [[0.525790, 0.955273], [-0.260350, -0.690171], [-0.583026, -0.965781]], "rwkv7 dr")
    near(g["k"], [[-0.264448, 0.666829], [-0.735435, 0.045795], [0.089435, -0.119977]], "rwkv7 dk")
    near(g["v"], [[0.628801, 0.002172], [-0.523796, -1.108916], [-0.075294, -0.058189]], "rwkv7 dv")
    near(g["d"], [[-0.009135, 0.049396], [0.007890, 0.057156], [0.035527, -0.014711]], "rwkv7 dd")
    near(g["p"], [[-0.023068, 0.137035], [0.126901, 0.046704], [-0.003043, -0.026281]], "rwkv7 dp")

    x = dict(r=f(0.1), k=f(0.5), v=f(0.9), d=f(1.3), p=f(1.7))
    o, s = rwkv7_inner(x["r"], x["k"], x["v"], x["d"], torch.sigmoid(x["p"]), zero, False, 0.85, 1.0)
    g = gradients(x, (o * do).sum())
    near(o, [[0.374440, 0.477809], [0.770330, 0.424260], [0.053635, -0.069694]], "rwkv7 k_k o")
    near(s, [[0.319841, 0.063057], [0.325031, 0.378193]], "rwkv7 k_k S")
    near(g["k"], [[-0.177822, 0.435928], [-0.462343, 0.031944], [0.050758, -0.077579]], "rwkv7 k_k dk")
    near(g["d"], [[0, 0], [0.052229, 0.046732], [0.021157, -0.019702]], "rwkv7 k_k dd")

    x = dict(q=f(0.1), k=f(0.5), v=f(0.9), d=f(1.3))
    o, s = rwkv6_inner(x["q"], x["k"], x["v"], x["d"], zero, True)
    g = gradients(x, (o * do).sum())
    near(o, [[0.363986, 0.464469], [0.834770, 0.461997], [0.044925, -0.039925]], "rwkv6 o")
    near(s, [[0.420725, 0.150579], [0.455016, 0.472791]], "rwkv6 S")
    near(g["k"], [[-0.106521, 0.303302], [-0.375389, -0.069866], [0.122300, -0.057266]], "rwkv6 dk")
    near(g["d"], [[-0.010499, 0.063962], [-0.002534, 0.106228], [0.088058, -0.012952]], "rwkv6 dd")


def check_two_chunks():
    """A sequence cut in two with the states and the position carried equals the whole."""
    for name in ("rwkv7_balanced", "rwkv6_rope_t67"):
        config = CASES[name]
        draw = Draw(7)
        params = (rwkv7_params if config["mixer"] == "rwkv7" else rwkv6_params)(draw, config)
        h, n, c = config["heads"], config["head_dim"], config["hidden_size"]
        inputs = {"x": draw.normal(2, 9, c), "state0": draw.normal(2, h, n, n)}
        inputs["v_first" if config["mixer"] == "rwkv7" else "shift0"] = (
            draw.normal(2, 9, h * n) if config["mixer"] == "rwkv7" else draw.normal(2, c)
        )
        whole = run({**params, **inputs}, config)
        first = dict(inputs, x=inputs["x"][:, :4])
        second = dict(inputs, x=inputs["x"][:, 4:])
        if "v_first" in inputs:
            first["v_first"], second["v_first"] = inputs["v_first"][:, :4], inputs["v_first"][:, 4:]
        a = run({**params, **first}, config)
        second["state0"] = a["state1"]
        if "shift1" in a:
            second["shift0"] = a["shift1"]
        b = run({**params, **second}, dict(config, position0=config["position0"] + 4))
        assert relative(torch.cat((a["y"], b["y"]), dim=1), whole["y"]) < 1e-12
        assert relative(b["state1"], whole["state1"]) < 1e-12


if __name__ == "__main__":
    torch.set_num_threads(1)
    check_golden_vectors()
    check_two_chunks()
    for seed, (name, config) in enumerate(CASES.items()):
        make(name, config, 1000 + seed)
