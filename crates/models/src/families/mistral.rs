//! Mistral: Llama without biases, with a sliding window in every layer.

use crate::config::{Keys, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside the body's.
pub const KEYS: &[&str] = &["sliding_window", "layer_types"];

pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = super::body::parse(raw, "mistral")?;
    if let Some(window) = Keys(raw).optional_size("sliding_window")? {
        super::body::windows(&mut config, window, |_| true);
    }
    Ok(config)
}
