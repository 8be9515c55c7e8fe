//! Writing a model as a Hugging Face folder.

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::families::{llada, radlads, recast};
use crate::model::Model;
use crate::param::Handle;
use crate::weights::{Checkpoint, Dtype, ModelWriter, NamedTensor};
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
        let tied = if config.family == llada::MODEL_TYPE { "weight_tying" } else { "tie_word_embeddings" };
        raw.insert(tied.into(), config.tied.into());
        return raw;
    }
    radlads::write(config).unwrap_or_else(|| recast::write(config))
}

/// How tensors are stored.
#[derive(Clone, Copy, Default)]
pub struct Storage<'a> {
    /// Type of the tensors that differ from `original`.
    pub dtype: Option<Dtype>,
    /// Checkpoint the model came from: tensors that still hold its values keep its very bytes.
    pub original: Option<&'a dyn Checkpoint>,
}

/// Writes `model` into the folder `path`, atomically.
///
/// # Errors
/// When the disk refuses, or a value is not finite.
pub fn save(
    model: &Model,
    path: &Path,
    storage: Storage<'_>,
    tokenizer: Option<&Tokenizer>,
    provenance: Option<&Provenance>,
    card: Option<&str>,
) -> Result<(), ModelError> {
    model.check_whole("save it")?;
    let dtype = storage.dtype.unwrap_or(Dtype::F32);
    let mut config = config_json(&model.config);
    let name = match dtype {
        Dtype::BF16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    };
    config.shift_remove("dtype");
    config.insert("torch_dtype".into(), name.into());
    if let Some(provenance) = provenance {
        config.insert("recast".into(), json!(provenance));
    }
    let params = model.parameters();
    let llada = config.get("model_type").and_then(Value::as_str) == Some(llada::MODEL_TYPE);
    let mut writer = ModelWriter::create(path)?;
    writer.write_json("config.json", &Value::Object(config))?;
    if let Some(card) = card {
        writer.write_bytes("README.md", card.as_bytes())?;
    }
    if let Some(tokenizer) = tokenizer {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let folder = tempfile::tempdir().map_err(io)?;
        tokenizer.save(folder.path())?;
        for entry in std::fs::read_dir(folder.path()).map_err(io)? {
            writer.copy_file(&entry.map_err(io)?.path())?;
        }
    }
    for (name, param) in &params {
        let stored = llada.then(|| llada::stored_name(name)).flatten().unwrap_or_else(|| name.clone());
        writer.add(
            untouched(storage.original, name, &stored, param)
                .unwrap_or_else(|| NamedTensor::lazy(&stored, param.stored_shape(), dtype, move || Ok(param.read()))),
        );
    }
    writer.finish()?;
    Ok(())
}

/// The original's bytes, when the parameter still has its values.
fn untouched<'a>(original: Option<&'a dyn Checkpoint>, name: &str, stored: &str, param: &Handle) -> Option<NamedTensor<'a>> {
    let original = original?;
    let (dtype, bytes) = original.raw(name)?;
    let shape = original.info(name)?.shape;
    let same = original.read_f32(name).ok()? == param.read();
    same.then(|| NamedTensor::raw(stored, &shape, dtype, bytes))
}
