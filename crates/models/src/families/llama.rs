//! Llama 2 and 3.x, SmolLM2 and everything else that says `llama`.

use crate::config::{Keys, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside the body's.
pub const KEYS: &[&str] = &["attention_bias", "mlp_bias"];

pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = super::body::parse(raw, "llama")?;
    let keys = Keys(raw);
    config.qkv_bias = keys.flag("attention_bias", false)?;
    config.output_bias = config.qkv_bias;
    config.mlp_bias = keys.flag("mlp_bias", false)?;
    Ok(config)
}
