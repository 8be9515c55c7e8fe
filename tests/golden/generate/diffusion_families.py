"""Writes families/llada_*/ and families/dream/: tiny random checkpoints in the layout of LLaDA and Dream, and their logits.

Neither class is part of transformers. This is the architecture as their papers and configurations describe it, in
float64: pre-norm blocks, rotary embedding on half-split heads, SwiGLU, and attention without a causal mask. The
generator asserts that a causal mask would move the logits, so that a model that ignores the sight cannot pass.
"""

import json
import math
import shutil

import torch
from safetensors.torch import save_file

from common import GOLDEN, Draw, write

TOKENS = 23
VOCABULARY, WIDTH, INNER, LAYERS, HEADS = 96, 32, 44, 2, 4


def norm(x, weight, epsilon):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x, theta):
    """[batch, heads, time, size]"""
    size = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies[None]
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def logits(weights, ids, kv_heads, theta, epsilon, tied, causal=False):
    """`weights` under Hugging Face's usual names."""
    x = weights["model.embed_tokens.weight"][ids]
    batch, time, width = x.shape
    size = width // HEADS
    for layer in range(LAYERS):
        def linear(name, x):
            y = x @ weights[f"model.layers.{layer}.{name}.weight"].T
            bias = weights.get(f"model.layers.{layer}.{name}.bias")
            return y if bias is None else y + bias

        h = norm(x, weights[f"model.layers.{layer}.input_layernorm.weight"], epsilon)
        heads = lambda y, count: y.view(batch, time, count, size).transpose(1, 2)
        q = rotate(heads(linear("self_attn.q_proj", h), HEADS), theta)
        k = rotate(heads(linear("self_attn.k_proj", h), kv_heads), theta).repeat_interleave(HEADS // kv_heads, 1)
        v = heads(linear("self_attn.v_proj", h), kv_heads).repeat_interleave(HEADS // kv_heads, 1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(size)
        if causal:
            scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, width)
        x = x + linear("self_attn.o_proj", y)
        h = norm(x, weights[f"model.layers.{layer}.post_attention_layernorm.weight"], epsilon)
        x = x + linear("mlp.down_proj", torch.nn.functional.silu(linear("mlp.gate_proj", h)) * linear("mlp.up_proj", h))
    x = norm(x, weights["model.norm.weight"], epsilon)
    return x @ weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def draw_weights(draw, kv_heads, tied, qkv_bias):
    size = WIDTH // HEADS
    weights = {"model.embed_tokens.weight": draw.normal(VOCABULARY, WIDTH, std=0.7)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = draw.normal(WIDTH, std=0.3, mean=1.0)
        weights[at + "post_attention_layernorm.weight"] = draw.normal(WIDTH, std=0.3, mean=1.0)
        shapes = {"q": (WIDTH, WIDTH), "k": (kv_heads * size, WIDTH), "v": (kv_heads * size, WIDTH), "o": (WIDTH, WIDTH)}
        for name, (rows, columns) in shapes.items():
            weights[f"{at}self_attn.{name}_proj.weight"] = draw.dense(rows, columns, gain=1.6 if name in "qk" else 1.2)
            if qkv_bias and name != "o":
                weights[f"{at}self_attn.{name}_proj.bias"] = draw.normal(rows, std=0.4)
        for name, (rows, columns) in {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}.items():
            weights[f"{at}mlp.{name}_proj.weight"] = draw.dense(rows, columns, gain=1.2)
    weights["model.norm.weight"] = draw.normal(WIDTH, std=0.3, mean=1.0)
    if not tied:
        weights["lm_head.weight"] = draw.dense(VOCABULARY, WIDTH, gain=3.0)
    return weights


LLADA = {
    "model.embed_tokens": "model.transformer.wte", "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out", "model.layers": "model.transformer.blocks",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ff_norm", "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj", "self_attn.v_proj": "v_proj", "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj", "mlp.up_proj": "up_proj", "mlp.down_proj": "ff_out",
}


def llada_name(name):
    for usual, own in LLADA.items():
        name = name.replace(usual, own)
    return name


def llada_config(kv_heads, tied, mask):
    """Keys and switches as the released 8B has them, with small sizes."""
    return dict(
        activation_type="silu", alibi=False, architectures=["LLaDAModelLM"], attention_dropout=0.0,
        attention_layer_norm=False, attention_layer_norm_with_affine=True, bias_for_layer_norm=False,
        block_group_size=1, block_type="llama", d_model=WIDTH, embedding_dropout=0.0, embedding_size=VOCABULARY,
        eos_token_id=90, include_bias=False, include_qkv_bias=False, init_std=0.02, input_emb_norm=False,
        layer_norm_type="rms", layer_norm_with_affine=True, mask_token_id=mask, max_sequence_length=64,
        mlp_hidden_size=INNER, mlp_ratio=4, model_type="llada", multi_query_attention=None, n_heads=HEADS,
        n_kv_heads=kv_heads, n_layers=LAYERS, pad_token_id=90, residual_dropout=0.0, rms_norm_eps=1e-5, rope=True,
        rope_full_precision=True, rope_theta=100.0, scale_logits=False, torch_dtype="float32", use_cache=False,
        vocab_size=VOCABULARY, weight_tying=tied,
    )


def dream_config(kv_heads):
    return dict(
        architectures=["DreamModel"], attention_dropout=0.0, bos_token_id=93, eos_token_id=93, hidden_act="silu",
        hidden_size=WIDTH, initializer_range=0.02, intermediate_size=INNER, mask_token_id=95,
        max_position_embeddings=64, max_window_layers=28, model_type="Dream", num_attention_heads=HEADS,
        num_hidden_layers=LAYERS, num_key_value_heads=kv_heads, pad_token_id=93, rms_norm_eps=1e-6, rope_scaling=None,
        rope_theta=100.0, sliding_window=None, tie_word_embeddings=False, torch_dtype="float32", use_cache=True,
        use_mrope=False, use_sliding_window=False, vocab_size=VOCABULARY,
    )


def make(name, config, kv_heads, tied, qkv_bias, rename, seed, dtype=torch.float32):
    folder = GOLDEN / "families" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = Draw(seed)
    weights = draw_weights(draw, kv_heads, tied, qkv_bias)
    weights = {key: value.to(dtype).double() for key, value in weights.items()}
    ids = draw.ids(2, TOKENS, vocab=VOCABULARY)
    # Masks, as it is meant to be used.
    ids[:, ::3] = config["mask_token_id"]
    epsilon = config["rms_norm_eps"]
    wanted = logits(weights, ids, kv_heads, 100.0, epsilon, tied)
    moved = (logits(weights, ids, kv_heads, 100.0, epsilon, tied, causal=True) - wanted).abs().max().item()
    assert moved > 0.5, f"{name}: a causal mask moves the logits by {moved} only"
    save_file({rename(key): value.to(dtype) for key, value in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    write(folder / "expected.safetensors", {"input_ids": ids, "logits": wanted})
    print(f"{name}: logits std {wanted.std():.2f}, a causal mask moves them by {moved:.2f}, seed {seed}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("llada_8b", llada_config(HEADS, False, 94), HEADS, False, False, llada_name, 3100)
    make("llada_tied", llada_config(2, True, 5), 2, True, False, llada_name, 3101)
    make("llada_bf16", llada_config(2, False, 5), 2, False, False, llada_name, 3102, torch.bfloat16)
    make("dream", dream_config(2), 2, False, True, lambda name: name, 3103)
