//! Recast's own config: the teacher's, with `model_type` moved to `base_model_type` and a `mixers`
//! list of one entry a layer, and a `diffusion` table where it is a masked diffusion model.

use crate::config::{MixerSpec, ModelConfig};
use crate::error::ModelError;
use serde_json::{Map, Value};

/// The keys that are read beside those of the family below.
pub const KEYS: &[&str] = &["model_type", "base_model_type", "mixers", "diffusion"];

/// Reads Recast's own config.
pub fn parse(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut inner = raw.clone();
    let Some(base) = raw.get("base_model_type").and_then(Value::as_str) else {
        return Err(ModelError::Config("`base_model_type` is missing beside model_type `recast`".into()));
    };
    if base == "recast" {
        return Err(ModelError::Config("`base_model_type` is `recast`, expected the teacher's family".into()));
    }
    inner.insert("model_type".into(), base.into());
    let mut config = super::parse(&Value::Object(inner))?;
    config.family = "recast".into();
    let mixers = raw.get("mixers").cloned().unwrap_or(Value::Null);
    config.mixers = serde_json::from_value::<Vec<MixerSpec>>(mixers)
        .map_err(|e| ModelError::Config(format!("`mixers`: {e}; expected a list of tables with a `kind`")))?;
    if let Some(diffusion) = raw.get("diffusion").filter(|d| !d.is_null()) {
        config.diffusion = Some(serde_json::from_value(diffusion.clone()).map_err(|e| {
            ModelError::Config(format!("`diffusion`: {e}; expected a table of mask_token, block, shift and uniform"))
        })?);
    }
    config.raw = raw.clone();
    Ok(config)
}

/// Turns a teacher's config.json into a student's.
pub fn write(config: &ModelConfig) -> Map<String, Value> {
    let mut raw = config.raw.clone();
    let base = raw.get("base_model_type").cloned().unwrap_or_else(|| raw.get("model_type").cloned().unwrap_or(Value::Null));
    raw.insert("model_type".into(), "recast".into());
    raw.insert("architectures".into(), Value::Array(vec!["RecastForCausalLM".into()]));
    raw.insert("base_model_type".into(), base);
    raw.insert("tie_word_embeddings".into(), config.tied.into());
    if raw.contains_key("weight_tying") {
        raw.insert("weight_tying".into(), config.tied.into());
    }
    raw.insert("mixers".into(), serde_json::to_value(&config.mixers).unwrap_or(Value::Null));
    match &config.diffusion {
        Some(diffusion) => raw.insert("diffusion".into(), serde_json::to_value(diffusion).unwrap_or(Value::Null)),
        None => raw.shift_remove("diffusion"),
    };
    raw
}
