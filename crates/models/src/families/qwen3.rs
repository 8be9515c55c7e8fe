//! Qwen3: RMSNorm on each head of q and k, an explicit head size, no biases by default.

use crate::config::{Keys, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside Qwen2's.
pub const KEYS: &[&str] = &["attention_bias"];

pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = super::body::parse(raw, "qwen3")?;
    config.qk_norm = true;
    config.qkv_bias = Keys(raw).flag("attention_bias", false)?;
    config.output_bias = config.qkv_bias;
    super::qwen2::windows(&mut config)?;
    Ok(config)
}
