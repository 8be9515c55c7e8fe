//! Qwen2 and Qwen2.5: biases on q, k and v, none on o; windows from a layer on if asked for.

use crate::config::{Keys, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside the body's: those of [`windows`].
pub const KEYS: &[&str] = &["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"];

pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = super::body::parse(raw, "qwen2")?;
    config.qkv_bias = true;
    windows(&mut config)?;
    Ok(config)
}

/// Windows as Qwen2 and Qwen3 have them.
pub fn windows(config: &mut ModelConfig) -> Result<(), ModelError> {
    let raw = config.raw.clone();
    let keys = Keys(&raw);
    if keys.flag("use_sliding_window", false)?
        && let Some(window) = keys.optional_size("sliding_window")?
    {
        // Zero is a valid count here: every layer slides.
        let full = raw.get("max_window_layers").and_then(Value::as_u64).map_or(28, |n| n as usize);
        super::body::windows(config, window, |l| l >= full);
    }
    Ok(())
}
