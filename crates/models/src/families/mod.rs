//! Families: kinds of checkpoints. One file a family: config.json in and out.
//!
//! Nearly all families share Hugging Face's tensor names, so a family is how its config is read (and,
//! for the released RADLADS classes, written); LLaDA's checkpoints are shown under those names too. To add one: a file with a `parse` function and a
//! line in [`FAMILIES`]; `tests/golden.rs` holds its logits to the Python original's.

mod body;
mod dream;
pub mod llada;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
pub mod radlads;
pub mod recast;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::weights::Checkpoint;
use serde_json::{Map, Value};

/// A kind of checkpoint.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// One line for lists.
    pub about: &'static str,
    parse: fn(&Map<String, Value>) -> Result<ModelConfig, ModelError>,
}

/// Every family, one line each.
pub static FAMILIES: &[Family] = &[
    Family { model_type: "llama", about: "Llama 2 and 3, SmolLM2, TinyLlama", parse: llama::parse },
    Family { model_type: "mistral", about: "Mistral 7B and kin: sliding window", parse: mistral::parse },
    Family { model_type: "qwen2", about: "Qwen2 and Qwen2.5: biases on q, k, v", parse: qwen2::parse },
    Family { model_type: "qwen3", about: "Qwen3: norms on q and k", parse: qwen3::parse },
    Family { model_type: "rwkv6qwen2", about: "released RADLADS students, RAD-RWKV6", parse: radlads::parse_rwkv6 },
    Family { model_type: "rwkv7qwen2", about: "released RADLADS students, RAD-RWKV7", parse: radlads::parse_rwkv7 },
    Family { model_type: llada::MODEL_TYPE, about: "LLaDA 8B and successors: masked diffusion", parse: llada::parse },
    Family { model_type: "Dream", about: "Dream 7B: masked diffusion on Qwen2.5's body, shifted", parse: dream::parse },
    Family { model_type: "recast", about: "Recast's own: a `mixers` list on any of the above", parse: recast::parse },
];

/// Reads the config of an opened checkpoint, whose tensors answer what a released RADLADS config
/// may leave open.
///
/// # Errors
/// As [`parse`], or when there is no config.json.
pub fn read(checkpoint: &dyn Checkpoint) -> Result<ModelConfig, ModelError> {
    let mut config = checkpoint.config()?;
    if let Some(map) = config.as_object_mut() {
        radlads::complete(map, checkpoint);
    }
    parse(&config)
}

/// Reads a config.json.
///
/// # Errors
/// When the `model_type` is unknown, or a key is missing or unusable.
pub fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
    let Some(map) = config.as_object() else {
        return Err(ModelError::Config("config.json is not an object".into()));
    };
    let found = map.get("model_type").and_then(Value::as_str).unwrap_or("");
    match FAMILIES.iter().find(|f| f.model_type == found) {
        Some(family) => (family.parse)(map),
        None => Err(ModelError::Family {
            found: found.into(),
            known: FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", "),
        }),
    }
}
