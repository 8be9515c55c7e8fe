//! LLaDA: a Llama that sees everything, trained by masked diffusion (arXiv 2502.09992). The released
//! 8B and its successor differ in keys that both have: mask id, key-value heads, tied embeddings.
//!
//! Its checkpoints name tensors in their own way; [`rename`] shows them under the usual names.

use crate::config::{Diffusion, Keys, MixerSpec, ModelConfig};
use crate::error::ModelError;
use crate::rope::RopeConfig;
use crate::weights::{Checkpoint, Dtype, GgufVocab, TensorInfo, WeightsError};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// Its `model_type`.
pub const MODEL_TYPE: &str = "llada";
/// Its key for the longest sequence that was trained, elsewhere `max_position_embeddings`.
pub const POSITIONS: &str = "max_sequence_length";

/// Switches of the class that this program does not implement, and the value that leaves them off.
const OFF: &[(&str, &[&str])] = &[
    ("alibi", &["false"]),
    ("attention_layer_norm", &["false"]),
    ("input_emb_norm", &["false"]),
    ("scale_logits", &["false"]),
    ("rope", &["true"]),
    ("block_type", &["\"llama\""]),
    ("layer_norm_type", &["\"rms\""]),
    ("activation_type", &["\"silu\""]),
];

/// Their keys.
pub(super) const SWITCHES: &[&str] = &{
    let mut keys = [""; OFF.len()];
    let mut index = 0;
    while index < keys.len() {
        keys[index] = OFF[index].0;
        index += 1;
    }
    keys
};

/// The other keys that are read.
pub(super) const KEYS: &[&str] = &[
    "model_type",
    "vocab_size",
    "embedding_size",
    "d_model",
    "mlp_hidden_size",
    "mlp_ratio",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "multi_query_attention",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    POSITIONS,
    "weight_tying",
    "tie_word_embeddings",
    "include_bias",
    "include_qkv_bias",
    "mask_token_id",
];

pub(super) fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let keys = Keys(raw);
    for (key, allowed) in OFF {
        if let Some(value) = raw.get(*key).filter(|v| !v.is_null())
            && !allowed.contains(&value.to_string().as_str())
        {
            return Err(ModelError::Config(format!("`{key}` is {value}; of LLaDA's class only {} is supported", allowed[0])));
        }
    }
    let hidden = keys.size("d_model")?;
    let (layers, heads) = (keys.layers("n_layers")?, keys.size("n_heads")?);
    if hidden % heads != 0 {
        return Err(ModelError::Config(format!("d_model {hidden} does not divide into {heads} heads")));
    }
    let kv_heads = match keys.optional_size("n_kv_heads")? {
        Some(kv_heads) => kv_heads,
        None if keys.flag("multi_query_attention", false)? => 1,
        None => heads,
    };
    let intermediate = match keys.optional_size("mlp_hidden_size")? {
        Some(size) => size,
        None => keys.size("mlp_ratio")? * hidden,
    };
    let max_positions = keys.optional_size(POSITIONS)?.unwrap_or(4096);
    let vocabulary = match keys.optional_size("embedding_size")? {
        Some(rows) => rows,
        None => keys.size("vocab_size")?,
    };
    let bias = keys.flag("include_bias", false)?;
    Ok(ModelConfig {
        family: MODEL_TYPE.into(),
        vocabulary,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_size: hidden / heads,
        norm_epsilon: keys.number("rms_norm_eps", 1e-5)?,
        rope: RopeConfig::parse(raw, hidden / heads, max_positions)?,
        tied: keys.flag("weight_tying", keys.flag("tie_word_embeddings", false)?)?,
        qkv_bias: bias || keys.flag("include_qkv_bias", false)?,
        output_bias: bias,
        mlp_bias: bias,
        qk_norm: false,
        max_positions,
        mixers: vec![MixerSpec::new("softmax"); layers],
        diffusion: Some(Diffusion { mask_token: mask_token(raw)?, block: None, shift: false, uniform: false }),
        raw: raw.clone(),
    })
}

/// `mask_token_id`, which may be 0.
pub fn mask_token(raw: &Map<String, Value>) -> Result<u32, ModelError> {
    match raw.get("mask_token_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok(id),
        None => Err(ModelError::Config(format!(
            "`mask_token_id` is {}, expected the id of the mask token",
            raw.get("mask_token_id").unwrap_or(&Value::Null)
        ))),
    }
}

/// The name that the family's files give a tensor.
pub fn stored_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("model.transformer.wte.weight".into()),
        "model.norm.weight" => return Some("model.transformer.ln_f.weight".into()),
        "lm_head.weight" => return Some("model.transformer.ff_out.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (_, stored) = MODULES.iter().find(|(usual, _)| *usual == module)?;
    Some(format!("model.transformer.blocks.{layer}.{stored}.{kind}"))
}

/// The usual name of a tensor of the family's files.
fn usual_name(stored: &str) -> Option<String> {
    match stored {
        "model.transformer.wte.weight" => return Some("model.embed_tokens.weight".into()),
        "model.transformer.ln_f.weight" => return Some("model.norm.weight".into()),
        "model.transformer.ff_out.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = stored.strip_prefix("model.transformer.blocks.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    let (usual, _) = MODULES.iter().find(|(_, name)| *name == module)?;
    Some(format!("model.layers.{layer}.{usual}.{kind}"))
}

/// Modules of a block: the usual name and LLaDA's.
const MODULES: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "q_proj"),
    ("self_attn.k_proj", "k_proj"),
    ("self_attn.v_proj", "v_proj"),
    ("self_attn.o_proj", "attn_out"),
    ("post_attention_layernorm", "ff_norm"),
    ("mlp.gate_proj", "ff_proj"),
    ("mlp.up_proj", "up_proj"),
    ("mlp.down_proj", "ff_out"),
];

/// A LLaDA checkpoint under the usual names; any other as it is.
pub fn rename(checkpoint: Box<dyn Checkpoint>) -> Box<dyn Checkpoint> {
    let ours = checkpoint.config().is_ok_and(|c| c.get("model_type").and_then(Value::as_str) == Some(MODEL_TYPE));
    if ours { Box::new(Renamed(checkpoint)) } else { checkpoint }
}

struct Renamed(Box<dyn Checkpoint>);

impl Renamed {
    /// What the file calls it; a name that is not the family's stands for itself.
    fn stored<'a>(&self, name: &'a str) -> Cow<'a, str> {
        stored_name(name).map_or(Cow::Borrowed(name), Cow::Owned)
    }
}

impl Checkpoint for Renamed {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn infos(&self) -> Vec<TensorInfo> {
        let usual = |info: TensorInfo| TensorInfo { name: usual_name(&info.name).unwrap_or(info.name), ..info };
        self.0.infos().into_iter().map(usual).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.0.info(&self.stored(name)).map(|info| TensorInfo { name: name.into(), ..info })
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        self.0.read_f32(&self.stored(name))
    }

    fn raw(&self, name: &str) -> Option<(Dtype, &[u8])> {
        self.0.raw(&self.stored(name))
    }

    fn blocks(&self, name: &str) -> Option<(Dtype, Cow<'_, [u8]>)> {
        self.0.blocks(&self.stored(name))
    }

    fn config(&self) -> Result<Value, WeightsError> {
        self.0.config()
    }

    fn folder(&self) -> Option<&Path> {
        self.0.folder()
    }

    fn gguf_vocab(&self) -> Option<GgufVocab> {
        self.0.gguf_vocab()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for (usual, stored) in [
            ("model.embed_tokens.weight", "model.transformer.wte.weight"),
            ("model.layers.31.self_attn.o_proj.weight", "model.transformer.blocks.31.attn_out.weight"),
            ("model.layers.0.mlp.down_proj.weight", "model.transformer.blocks.0.ff_out.weight"),
            ("lm_head.weight", "model.transformer.ff_out.weight"),
        ] {
            assert_eq!(stored_name(usual).as_deref(), Some(stored));
            assert_eq!(usual_name(stored).as_deref(), Some(usual));
        }
        assert_eq!(stored_name("model.layers.0.self_attn.g1"), None);
    }
}
