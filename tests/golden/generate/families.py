"""Writes families/<case>/: tiny random checkpoints saved by Hugging Face transformers, and the logits it computes.

Every parameter is random, norms and biases too. Logits come from the folder as reloaded with from_pretrained, in f32,
with the eager attention. `without` names a change of configuration that switches a case's feature off: the generator
asserts that the logits then move, so that an implementation that ignores the feature cannot pass.
"""

import copy
import json
import shutil

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from common import GOLDEN, Draw, relative, write

TOKENS = 37
SIZES = dict(
    vocab_size=96, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2,
)


def rope(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


PLAIN = rope("default")
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=1.0)

# name: (configuration class, settings, settings that switch the feature off)
CASES = {
    "llama_tied": (LlamaConfig, dict(num_key_value_heads=4, tie_word_embeddings=True), None),
    "llama_gqa": (LlamaConfig, dict(num_hidden_layers=3, rms_norm_eps=1e-2), dict(rms_norm_eps=1e-6)),
    "llama_biases": (LlamaConfig, dict(attention_bias=True, mlp_bias=True), None),
    "llama_rope_llama3": (LlamaConfig, dict(head_dim=16, max_position_embeddings=256, **LLAMA3), PLAIN),
    "llama_rope_linear": (LlamaConfig, rope("linear", factor=2.5), PLAIN),
    "llama_rope_dynamic": (LlamaConfig, dict(max_position_embeddings=16, **rope("dynamic", factor=2.0)), PLAIN),
    "llama_rope_yarn": (LlamaConfig, dict(head_dim=16, **YARN), rope("yarn", factor=4.0, beta_fast=4.0, beta_slow=1.0,
                        original_max_position_embeddings=16, attention_factor=1.0)),
    "llama_rope_yarn_factor": (LlamaConfig, dict(head_dim=16, **rope("yarn", factor=4.0, attention_factor=1.3,
                               original_max_position_embeddings=16)), YARN),
    "llama_head_dim": (LlamaConfig, dict(head_dim=20), None),
    "mistral_window": (MistralConfig, dict(sliding_window=8, head_dim=8), dict(sliding_window=9)),
    "qwen2_tied": (Qwen2Config, dict(tie_word_embeddings=True, rms_norm_eps=1e-6), None),
    "qwen2_untied": (Qwen2Config, dict(rms_norm_eps=1e-6), None),
    "qwen2_window_layers": (
        Qwen2Config,
        dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=1),
        dict(layer_types=["sliding_attention"] * 3),
    ),
    "qwen3": (Qwen3Config, dict(head_dim=12, rms_norm_eps=1e-6), None),
    "qwen3_tied": (Qwen3Config, dict(head_dim=8, num_key_value_heads=1, tie_word_embeddings=True), None),
    "llama_sharded": (LlamaConfig, dict(num_hidden_layers=3), None),
    "llama_bf16": (LlamaConfig, dict(attention_bias=True), None),
    "qwen2_f16": (Qwen2Config, dict(), None),
}


def build(config, draw):
    """A model with every parameter drawn: matrices keep the variance, norms are around 1, biases around 0."""
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = parameter.shape
            if "norm" in name:
                value = draw.normal(*shape, std=0.3, mean=1.0)
            elif name.endswith("bias"):
                value = draw.normal(*shape, std=0.4)
            elif "embed_tokens" in name:
                value = draw.normal(*shape, std=0.7)
            elif "lm_head" in name:
                value = draw.dense(*shape, gain=3.0)
            else:
                gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.2
                value = draw.dense(*shape, gain=gain)
            parameter.copy_(value)
    return model


def logits_of(folder, ids, **changes):
    """The logits of a saved folder in f32; `changes` override its configuration."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **copy.deepcopy(changes)
    ).eval()
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def make(name, kind, settings, without, seed):
    folder = GOLDEN / "families" / name
    shutil.rmtree(folder, ignore_errors=True)
    draw = Draw(seed)
    config = kind(**copy.deepcopy({**SIZES, **PLAIN, **settings}))
    model = build(config, draw)
    if name.endswith("bf16"):
        model = model.to(torch.bfloat16)
    elif name.endswith("f16"):
        model = model.to(torch.float16)
    model.save_pretrained(folder, **(dict(max_shard_size="30KB") if name.endswith("sharded") else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = draw.ids(2, TOKENS, vocab=SIZES["vocab_size"])
    logits = logits_of(folder, ids)
    moved = None
    if without is not None:
        moved = (logits_of(folder, ids, **without) - logits).abs().max().item()
        assert moved > 0.05, f"{name}: switching the feature off moves the logits by {moved} only"
    write(folder / "expected.safetensors", {"input_ids": ids, "logits": logits})
    print(f"{name}: logits std {logits.std():.2f}, without the feature {moved}, seed {seed}")


def older_layout(source, name, scaling, drop=()):
    """The same weights and logits under a config.json as transformers 4 wrote it."""
    folder = GOLDEN / "families" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(GOLDEN / "families" / source, folder)
    config = json.loads((folder / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters["rope_theta"]
    config["rope_scaling"] = scaling(parameters)
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.41.2"
    for key in drop:
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    from safetensors.torch import load_file

    expected = load_file(folder / "expected.safetensors")
    assert relative(logits_of(folder, expected["input_ids"]), expected["logits"]) < 1e-6, name
    print(f"{name}: same weights and logits as {source}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed, (name, (kind, settings, without)) in enumerate(CASES.items()):
        make(name, kind, settings, without, 2000 + seed)
    older_layout("llama_rope_linear", "llama_rope_linear_v4", lambda p: {"type": "linear", "factor": p["factor"]},
                 drop=("head_dim",))
    older_layout(
        "llama_rope_llama3", "llama_rope_llama3_v4",
        lambda p: {key: value for key, value in p.items() if key != "rope_theta"},
    )
    older_layout("qwen2_window_layers", "qwen2_window_layers_v4", lambda p: None, drop=("layer_types",))
