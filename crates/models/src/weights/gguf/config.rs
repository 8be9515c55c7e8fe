//! The `config.json` that follows from GGUF's metadata.

use serde_json::{Map, Value, json};

use super::GgufVocab;
use super::header::Header;
use super::names::Architecture;
use super::rope::rope_scaling;
use crate::weights::WeightsError;
use crate::weights::mapped::MappedFile;

/// The sizes that the layout of the tensors depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Reads metadata of one architecture.
pub(super) struct Keys<'a> {
    pub(super) file: &'a MappedFile,
    pub(super) header: &'a Header,
    pub(super) architecture: Architecture,
}

impl Keys<'_> {
    pub(super) fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.architecture.name())
    }

    /// An integer, or an array with one value for each layer that are all equal.
    pub(super) fn integer(&self, rest: &str) -> Result<Option<usize>, WeightsError> {
        let key = self.key(rest);
        let value = match self.header.metadata.get(&key) {
            Some(super::reader::Value::Array(array)) => {
                let values = array
                    .numbers(self.file, super::reader::Value::unsigned)
                    .ok_or_else(|| self.file.malformed(format!("{key}: expected non-negative integers")))?;
                match values.as_slice() {
                    [first, rest @ ..] if rest.iter().all(|v| v == first) => Some(*first),
                    _ => {
                        return Err(WeightsError::Unsupported {
                            path: self.file.path.clone(),
                            what: format!("{key} that differs from layer to layer"),
                            advice: "models whose layers are alike are read",
                        });
                    }
                }
            }
            _ => self.header.unsigned(self.file, &key)?,
        };
        // 2^31 - 1 is far beyond every real size and safe to multiply in 64 bits.
        match value {
            Some(v) if v > i32::MAX as u64 => Err(WeightsError::Limit {
                path: self.file.path.clone(),
                what: "a size in the metadata",
                found: v,
                limit: i32::MAX as u64,
            }),
            other => Ok(other.map(|v| v as usize)),
        }
    }

    /// An integer above zero that must be there.
    fn size(&self, rest: &str) -> Result<usize, WeightsError> {
        match self.integer(rest)? {
            Some(0) => Err(self.file.malformed(format!("{} is 0", self.key(rest)))),
            Some(value) => Ok(value),
            None => Err(self.file.malformed(format!("no {} in the metadata", self.key(rest)))),
        }
    }

    pub(super) fn number(&self, rest: &str) -> Result<Option<f64>, WeightsError> {
        self.header.number(self.file, &self.key(rest))
    }

    pub(super) fn unsupported(&self, what: String, advice: &'static str) -> WeightsError {
        WeightsError::Unsupported { path: self.file.path.clone(), what, advice }
    }

    /// Base of the rotary frequencies.
    pub(super) fn rope_theta(&self) -> Result<f64, WeightsError> {
        Ok(self.number("rope.freq_base")?.unwrap_or(10_000.0))
    }

    pub(super) fn sizes(&self) -> Result<Sizes, WeightsError> {
        let hidden = self.size("embedding_length")?;
        let heads = self.size("attention.head_count")?;
        let kv_heads = match self.integer("attention.head_count_kv")? {
            None => heads,
            Some(kv) if kv > 0 && heads.is_multiple_of(kv) => kv,
            Some(kv) => {
                return Err(self.file.malformed(format!("{heads} query heads do not share {kv} key heads")));
            }
        };
        let head_dim = match self.integer("attention.key_length")? {
            Some(0) => return Err(self.file.malformed("attention.key_length is 0")),
            Some(length) => length,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(self.file.malformed(format!(
                    "no {} in the metadata, and {heads} heads do not divide {hidden}",
                    self.key("attention.key_length")
                )));
            }
        };
        for (rest, what) in [("attention.value_length", "values"), ("rope.dimension_count", "rotated part")] {
            if let Some(other) = self.integer(rest)?
                && other != head_dim
            {
                return Err(self.unsupported(
                    format!("heads of {head_dim} with {what} of {other} ({})", self.key(rest)),
                    "heads of one size, rotated whole, are read",
                ));
            }
        }
        Ok(Sizes { hidden, heads, kv_heads, head_dim })
    }

    /// Refuses numbers that change what the model computes and have no place in these families.
    fn refuse_scales(&self) -> Result<(), WeightsError> {
        for (rest, neutral) in [
            ("logit_scale", 1.0),
            ("residual_scale", 1.0),
            ("embedding_scale", 1.0),
            ("attention.scale", 0.0),
            ("attention.clamp_kqv", 0.0),
            ("attention.max_alibi_bias", 0.0),
        ] {
            if let Some(value) = self.number(rest)?
                && value != neutral
            {
                return Err(self.unsupported(format!("{} = {value}", self.key(rest)), "use the model's own safetensors"));
            }
        }
        Ok(())
    }
}

/// Builds the config as transformers would have it.
pub(super) fn config(keys: &Keys<'_>, vocab: Option<&GgufVocab>) -> Result<Value, WeightsError> {
    let (file, header) = (keys.file, keys.header);
    keys.refuse_scales()?;
    let sizes = keys.sizes()?;
    let epsilon = keys
        .number("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| file.malformed(format!("no {} in the metadata", keys.key("attention.layer_norm_rms_epsilon"))))?;
    let embedding = header
        .tensors
        .iter()
        .find(|t| t.name == "token_embd.weight")
        .ok_or_else(|| file.malformed("no tensor \"token_embd.weight\""))?;

    let mut config = Map::new();
    let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
    put("architectures", json!([keys.architecture.class()]));
    put("model_type", json!(keys.architecture.name()));
    put("hidden_act", json!("silu"));
    put("hidden_size", json!(sizes.hidden));
    put("intermediate_size", json!(keys.size("feed_forward_length")?));
    put("num_hidden_layers", json!(keys.size("block_count")?));
    put("num_attention_heads", json!(sizes.heads));
    put("num_key_value_heads", json!(sizes.kv_heads));
    put("head_dim", json!(sizes.head_dim));
    put("rms_norm_eps", json!(epsilon));
    put("rope_theta", json!(keys.rope_theta()?));
    put("rope_scaling", rope_scaling(keys, sizes.head_dim)?.unwrap_or(Value::Null));
    put("max_position_embeddings", json!(keys.size("context_length")?));
    put("vocab_size", json!(embedding.shape.first().copied().unwrap_or(0)));
    put("tie_word_embeddings", json!(!header.has_tensor("output.weight")));
    put("attention_bias", json!(header.has_tensor("blk.0.attn_q.bias")));
    if keys.architecture == Architecture::Llama {
        put("mlp_bias", json!(header.has_tensor("blk.0.ffn_up.bias")));
    }
    if let Some(window) = keys.integer("attention.sliding_window")?.filter(|w| *w > 0) {
        put("sliding_window", json!(window));
    }
    if let Some(vocab) = vocab {
        for (key, id) in [("bos_token_id", vocab.bos), ("eos_token_id", vocab.eos), ("pad_token_id", vocab.pad)] {
            if let Some(id) = id {
                put(key, json!(id));
            }
        }
    }
    Ok(Value::Object(config))
}
