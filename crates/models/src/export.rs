//! Writing a model as a Hugging Face folder.

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::families::{radlads, recast};
use crate::model::Model;
use crate::weights::{Dtype, ModelWriter, NamedTensor};
use recast_text::Tokenizer;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Where a student comes from; goes into config.json under `recast`, and into the card.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Provenance {
    /// Name or path of the teacher as the recipe gives it.
    pub teacher: String,
    /// sha256 of the resolved recipe.
    pub recipe_hash: String,
    /// Stages run, in order.
    pub stages: Vec<String>,
    /// Tokens seen over all stages.
    pub tokens: u64,
    /// Version of this program.
    pub version: String,
}

/// The config.json to write: the released RADLADS form where there is one, else Recast's own; a
/// model that is still softmax everywhere keeps its family's.
pub fn config_json(config: &ModelConfig) -> Map<String, Value> {
    if config.family != "recast" && config.mixers.iter().all(|m| m.kind == "softmax") {
        let mut raw = config.raw.clone();
        raw.insert("tie_word_embeddings".into(), config.tied.into());
        return raw;
    }
    radlads::write(config).unwrap_or_else(|| recast::write(config))
}

/// Writes `model` into the folder `path`, atomically. Tensors are stored as `dtype`.
///
/// # Errors
/// When the disk refuses, or a value is not finite.
pub fn save(
    model: &Model,
    path: &Path,
    dtype: Dtype,
    tokenizer: Option<&Tokenizer>,
    provenance: Option<&Provenance>,
) -> Result<(), ModelError> {
    let mut config = config_json(&model.config);
    // Both spellings: transformers 4 reads the first, 5 the second.
    let name = match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    };
    config.remove("dtype");
    config.insert("torch_dtype".into(), name.into());
    if let Some(provenance) = provenance {
        config.insert("recast".into(), json!(provenance));
    }
    let params = model.parameters();
    let tensors: Vec<NamedTensor<'_>> = params
        .iter()
        .map(|(name, param)| NamedTensor::lazy(name, param.stored_shape(), dtype, move || Ok(param.read())))
        .collect();
    let mut writer = ModelWriter::new(path)?;
    writer.file("config.json", &serde_json::to_vec_pretty(&config).unwrap_or_default())?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(writer.folder())?;
    }
    writer.write(tensors)?;
    Ok(())
}
