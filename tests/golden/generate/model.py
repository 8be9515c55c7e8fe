"""A Qwen2 body around softmax attention or the RAD mixers, float64, parameters by checkpoint name."""

import torch

from mixers import linear, queries_keys_values, rms_norm, rwkv6, rwkv7


def part(params, prefix):
    """The parameters below a prefix, without it."""
    return {name[len(prefix):]: tensor for name, tensor in params.items() if name.startswith(prefix)}


def softmax_attention(params, config, x):
    """Causal grouped-query attention, after q/k norm and RoPE; scores scaled by N^(-1/2)."""
    q, k, v = queries_keys_values(params, config, x, x, x)
    scores = torch.einsum("bihn,bjhn->bhij", q, k) * config["head_dim"] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return linear(params, "o_proj", torch.einsum("bhij,bjhn->bihn", weights, v).flatten(-2))


def mix(params, config, layer, x, v_first):
    """The mixer of one layer from a zero state: (y, v_first)."""
    own, here = part(params, f"model.layers.{layer}.self_attn."), dict(config, layer=layer)
    kind = config["mixers"][layer]
    if kind == "softmax":
        return softmax_attention(own, dict(here, use_rope=config["softmax_rope"]), x), v_first
    b, c = x.shape[0], x.shape[-1]
    state = x.new_zeros(b, config["heads"], config["head_dim"], config["head_dim"])
    if kind == "rwkv7":
        y, _, v_first = rwkv7(own, here, x, state, v_first)
        return y, v_first
    return rwkv6(own, here, x, state, x.new_zeros(b, c))[0], v_first


def normed_input(params, config, layer, x):
    return rms_norm(x, params[f"model.layers.{layer}.input_layernorm.weight"], config["rms_norm_eps"])


def feed_forward(params, config, layer, x):
    """x plus the SwiGLU of its norm."""
    own = part(params, f"model.layers.{layer}.")
    h = rms_norm(x, own["post_attention_layernorm.weight"], config["rms_norm_eps"])
    gate = torch.nn.functional.silu(linear(own, "mlp.gate_proj", h))
    return x + linear(own, "mlp.down_proj", gate * linear(own, "mlp.up_proj", h))


def head(params, config, x):
    return linear(params, "lm_head", rms_norm(x, params["model.norm.weight"], config["rms_norm_eps"]))


def logits_of(params, config, ids):
    x, v_first = params["model.embed_tokens.weight"][ids], None
    for layer in range(config["layers"]):
        y, v_first = mix(params, config, layer, normed_input(params, config, layer, x), v_first)
        x = feed_forward(params, config, layer, x + y)
    return head(params, config, x)


def body_params(draw, config):
    """Everything but the mixers: embedding, norms, feed-forwards, head."""
    c, wide, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    params = {
        "model.embed_tokens.weight": draw.normal(vocab, c, std=0.7),
        "model.norm.weight": draw.normal(c, std=0.3, mean=1.0),
        "lm_head.weight": draw.dense(vocab, c, gain=3.0),
    }
    for layer in range(config["layers"]):
        prefix = f"model.layers.{layer}."
        params[prefix + "input_layernorm.weight"] = draw.normal(c, std=0.3, mean=1.0)
        params[prefix + "post_attention_layernorm.weight"] = draw.normal(c, std=0.3, mean=1.0)
        params[prefix + "mlp.gate_proj.weight"] = draw.dense(wide, c)
        params[prefix + "mlp.up_proj.weight"] = draw.dense(wide, c)
        params[prefix + "mlp.down_proj.weight"] = draw.dense(c, wide)
    return params
