"""Writes released/<case>/: folders shaped like the checkpoints that RADLADS publishes, with expected logits.

The logits are those of model.py and mixers.py in float64, from the weights as stored. model.py's body is first held to
transformers' Qwen2.
"""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from common import GOLDEN, Draw, relative, write
from mixers import projections, rwkv6_params, rwkv7_params
from model import body_params, logits_of

TOKENS = 21
SIZES = dict(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, max_position_embeddings=128, rms_norm_eps=1e-6, rope_theta=10000.0, hidden_act="silu",
    tie_word_embeddings=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, initializer_range=0.02,
    use_cache=True, use_sliding_window=False, sliding_window=None, max_window_layers=2,
)
SMALL7 = dict(lora_rank_decay=6, lora_rank_iclr=5, lora_rank_value_residual_mix=4, lora_rank_gate=7)
SMALL6 = dict(lora_rank_tokenshift=3, lora_rank_decay=6, lora_rank_gate=7)
NULL7 = {key: None for key in SMALL7}
BIASES = dict(attention_bias=True, attention_output_bias=False)

# What the published configuration classes assume where config.json says nothing; null ranks at hidden size 32.
DEFAULTS = {
    "rwkv7qwen2": dict(
        balance_state=True, groupnorm_att=False, use_tokenshift=False, use_rope=False, gate_rank_type=2,
        num_attention_layers=0, attention_bias=True, attention_output_bias=False,
        lora_rank_decay=32, lora_rank_iclr=32, lora_rank_value_residual_mix=32, lora_rank_gate=32,
    ),
    "rwkv6qwen2": dict(
        balance_state=True, groupnorm_att=False, use_tokenshift=True, use_rope=False, gate_rank_type=1,
        num_attention_layers=0, attention_bias=True, attention_output_bias=False,
        lora_rank_tokenshift=32, lora_rank_decay=64, lora_rank_gate=32,
    ),
}

# name: (model type, keys beyond the sizes, weights' type)
CASES = {
    "rwkv7_balanced_nan": (
        "rwkv7qwen2",
        dict(BIASES, **SMALL7, balance_state=True, groupnorm_att=False, use_rope=True, gate_rank_type=2,
             use_tokenshift=False, num_attention_layers=0),
        torch.bfloat16,
    ),
    "rwkv7_groupnorm_null_ranks": (
        "rwkv7qwen2",
        dict(BIASES, **NULL7, balance_state=False, groupnorm_att=True, use_rope=True, gate_rank_type=2),
        torch.bfloat16,
    ),
    "rwkv7_keys_omitted": ("rwkv7qwen2", dict(SMALL7), torch.bfloat16),
    "rwkv7_hybrid": (
        "rwkv7qwen2",
        dict(BIASES, **SMALL7, balance_state=True, groupnorm_att=False, use_rope=True, gate_rank_type=1,
             num_attention_layers=1, num_hidden_layers=3, max_window_layers=3),
        torch.bfloat16,
    ),
    "rwkv6_keys_omitted": ("rwkv6qwen2", dict(), torch.bfloat16),
    "rwkv6_rope_gate2": (
        "rwkv6qwen2",
        dict(SMALL6, attention_bias=True, attention_output_bias=True, balance_state=False, groupnorm_att=True,
             use_rope=True, use_tokenshift=True, gate_rank_type=2),
        torch.bfloat16,
    ),
    "rwkv6_no_tokenshift": (
        "rwkv6qwen2",
        dict(SMALL6, **BIASES, balance_state=True, groupnorm_att=False, use_rope=False, use_tokenshift=False,
             gate_rank_type=1, num_hidden_layers=1, max_window_layers=1),
        torch.bfloat16,
    ),
}


def meaning(kind, keys):
    """The configuration of mixers.py and model.py that a config.json means."""
    said = {key: value for key, value in keys.items() if value is not None}
    config = {**SIZES, **DEFAULTS[kind], **said}
    softmax = config["num_attention_layers"]
    recurrent = config["num_hidden_layers"] - softmax
    config.update(
        heads=config["num_attention_heads"], kv_heads=config["num_key_value_heads"],
        head_dim=config["hidden_size"] // config["num_attention_heads"], layers=config["num_hidden_layers"],
        position0=0, qk_norm=False, mixers=[kind[:5]] * recurrent + ["softmax"] * softmax, softmax_rope=True,
    )
    return config


def model_params(draw, config):
    params = body_params(draw, config)
    for layer, kind in enumerate(config["mixers"]):
        here = dict(config, layer=layer)
        if kind == "softmax":
            own = projections(draw, dict(here, attention_bias=True, attention_output_bias=False))
        else:
            own = (rwkv7_params if kind == "rwkv7" else rwkv6_params)(draw, here)
        params.update({f"model.layers.{layer}.self_attn.{name}": value for name, value in own.items()})
    return params


def save_folder(folder, kind, keys, params, dtype):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    upper = kind.replace("rwkv", "RWKV").replace("qwen", "Qwen")
    config = {
        **SIZES, **keys, "model_type": kind, "architectures": [f"{upper}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_{kind}.{upper}Config",
            "AutoModelForCausalLM": f"modeling_{kind}.{upper}ForCausalLM",
        },
        "rope_scaling": None, "torch_dtype": str(dtype).removeprefix("torch."), "transformers_version": "4.47.1",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    stored = {name: tensor.detach().to(dtype).contiguous() for name, tensor in params.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def make(name, kind, keys, dtype, seed):
    draw, config = Draw(seed), meaning(kind, keys)
    params = model_params(draw, config)
    ids = draw.ids(2, TOKENS, vocab=config["vocab_size"])
    if kind == "rwkv7qwen2":
        # Published files hold value-residual tensors for layer 0 too, never initialised and never read.
        inner = config["heads"] * config["head_dim"]
        rank = config["lora_rank_value_residual_mix"]
        junk = float("nan") if name.endswith("nan") else 3.0
        for tensor, shape in (("v0", (1, 1, inner)), ("v1", (config["hidden_size"], rank)), ("v2", (rank, inner))):
            params[f"model.layers.0.self_attn.{tensor}"] = torch.full(shape, junk, dtype=torch.float64)
    folder = GOLDEN / "released" / name
    save_folder(folder, kind, keys, params, dtype)
    stored = {key: value.double() for key, value in load_file(folder / "model.safetensors").items()}
    logits = logits_of(stored, config, ids)
    assert logits.isfinite().all()
    moved = {}
    for flag in ("balance_state", "use_rope"):
        other = logits_of(stored, dict(config, **{flag: not config[flag]}), ids)
        moved[flag] = (other - logits).abs().max().item()
        assert moved[flag] > 0.05, f"{name}: {flag} hardly matters"
    write(folder / "expected.safetensors", {"input_ids": ids, "logits": logits})
    print(f"{name}: logits std {logits.std():.2f}, flipping " + ", ".join(f"{k} moves {v:.1f}" for k, v in moved.items()))


def check_body():
    """Softmax in every layer of model.py equals transformers' Qwen2."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = dict(meaning("rwkv7qwen2", dict(use_rope=True, num_hidden_layers=2, num_attention_layers=2)))
    draw = Draw(1)
    params = model_params(draw, config)
    ids = draw.ids(2, TOKENS, vocab=config["vocab_size"])
    theirs = Qwen2ForCausalLM(Qwen2Config(**{
        key: value for key, value in SIZES.items() if key not in ("rope_theta", "sliding_window")
    }, rope_parameters={"rope_type": "default", "rope_theta": SIZES["rope_theta"]}, attn_implementation="eager")).eval()
    theirs.load_state_dict({name: value.float() for name, value in params.items()})
    with torch.no_grad():
        error = relative(theirs(input_ids=ids).logits.double(), logits_of(params, config, ids))
    assert error < 1e-5, f"the body differs from transformers' by {error}"
    print(f"body against transformers: {error:.1e} relative")


if __name__ == "__main__":
    torch.set_num_threads(1)
    check_body()
    for seed, (name, (kind, keys, dtype)) in enumerate(CASES.items()):
        make(name, kind, keys, dtype, 4000 + seed)
