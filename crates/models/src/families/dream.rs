//! Dream: Qwen2.5's body, converted to masked diffusion over the whole sequence; its logits speak of
//! the next position, as they did before (arXiv 2508.15487).

use crate::config::{Diffusion, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside Qwen2's.
pub const KEYS: &[&str] = &["mask_token_id"];

pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = super::qwen2::parse(raw)?;
    config.family = "Dream".into();
    config.diffusion = Some(Diffusion { mask_token: super::llada::mask_token(raw)?, block: None, shift: true, uniform: false });
    Ok(config)
}
