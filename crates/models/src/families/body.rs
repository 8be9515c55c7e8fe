//! What the families have in common: the keys that Hugging Face writes for every decoder.

use crate::config::{Keys, MixerSpec, ModelConfig};
use crate::error::ModelError;
use crate::rope::RopeConfig;
use serde_json::{Map, Value};

/// The keys that [`parse`] reads.
pub const KEYS: &[&str] = &[
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "max_position_embeddings",
    "tie_word_embeddings",
];

/// A softmax decoder with the family's defaults left open.
pub fn parse(raw: &Map<String, Value>, family: &str) -> Result<ModelConfig, ModelError> {
    let keys = Keys(raw);
    if let Some(activation) = keys.text("hidden_act").filter(|a| !matches!(*a, "silu" | "swish")) {
        return Err(ModelError::Config(format!("`hidden_act` is `{activation}`; only silu is supported")));
    }
    let hidden = keys.size("hidden_size")?;
    let layers = keys.layers("num_hidden_layers")?;
    let heads = keys.size("num_attention_heads")?;
    let head_size = match keys.optional_size("head_dim")? {
        Some(n) => n,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(ModelError::Config(format!(
                "hidden_size {hidden} does not divide into {heads} heads and there is no head_dim"
            )));
        }
    };
    let max_positions = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
    Ok(ModelConfig {
        family: family.into(),
        vocabulary: keys.size("vocab_size")?,
        hidden,
        intermediate: keys.size("intermediate_size")?,
        layers,
        heads,
        kv_heads: keys.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_size,
        norm_epsilon: keys.number("rms_norm_eps", 1e-6)?,
        rope: RopeConfig::parse(raw, head_size, max_positions)?,
        tied: keys.flag("tie_word_embeddings", false)?,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        max_positions,
        mixers: vec![MixerSpec::new("softmax"); layers],
        diffusion: None,
        raw: raw.clone(),
    })
}

/// Gives each layer its window: `layer_types` where there is one (transformers 5), else `rule`.
pub fn windows(config: &mut ModelConfig, window: usize, rule: impl Fn(usize) -> bool) {
    let types: Option<Vec<bool>> = config
        .raw
        .get("layer_types")
        .and_then(Value::as_array)
        .map(|types| types.iter().map(|t| t.as_str() == Some("sliding_attention")).collect());
    for (l, mixer) in config.mixers.iter_mut().enumerate() {
        let slides = types.as_ref().and_then(|t| t.get(l).copied()).unwrap_or_else(|| rule(l));
        if slides {
            mixer.options.insert("window".into(), window.into());
        }
    }
}
