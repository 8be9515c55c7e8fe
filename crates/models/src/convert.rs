//! From a teacher's weights to a student's: the same names, another mixer.
//!
//! A student's mixer carries the teacher's q, k, v, o under the teacher's names, so conversion is
//! loading with initial values for whatever the teacher has not (RADLADS section 4.1).

use crate::config::{Diffusion, MixerSpec, ModelConfig};
use crate::error::ModelError;
use crate::families::llada;
use crate::model::Model;
use crate::rope::{RopeConfig, Scaling};
use crate::source::{Missing, Source};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens to a head that is the embedding (RADLADS unties it while it distils).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TiedEmbeddings {
    /// Stay tied through training.
    #[default]
    Tie,
    /// Untie: the head starts as a copy of the embedding and both are kept.
    UntieKeep,
    /// Untie for training, then drop the trained head and tie again to the trained embedding.
    UntieDiscard,
}

/// The student's config: the teacher's with other mixers.
///
/// # Errors
/// When there is not one mixer a layer.
pub fn student_config(teacher: &ModelConfig, mixers: Vec<MixerSpec>, tied: TiedEmbeddings) -> Result<ModelConfig, ModelError> {
    let config =
        ModelConfig { family: "recast".into(), tied: teacher.tied && tied == TiedEmbeddings::Tie, mixers, ..teacher.clone() };
    config.check()?;
    Ok(config)
}

/// Notes that a model is trained on sequences of so many tokens, where that is more than its config says: programs decide by
/// that number how much they read, and when they warn. It stays where rotations follow from it and would be others: those of
/// dynamic scaling, and of YaRN in the versions of transformers that take its factor from it.
pub fn trained_at(config: &mut ModelConfig, context: usize) {
    let mut raw = config.raw.clone();
    let family = raw.get("base_model_type").or_else(|| raw.get("model_type")).and_then(Value::as_str);
    let key = if family == Some(llada::MODEL_TYPE) { llada::POSITIONS } else { "max_position_embeddings" };
    raw.insert(key.into(), context.into());
    let follow = matches!(config.rope.scaling, Scaling::Dynamic { .. } | Scaling::Yarn { .. });
    let same = RopeConfig::parse(&raw, config.head_size, context).is_ok_and(|rope| rope == config.rope);
    if context > config.max_positions && same && !follow {
        (config.max_positions, config.raw) = (context, raw);
    }
}

/// Builds the student from the teacher's tensors; what they lack starts from `seed`.
///
/// # Errors
/// When a tensor is misshapen or an option unknown.
pub fn student(config: ModelConfig, teacher: &dyn Source, seed: u64, device: &Device) -> Result<Model, ModelError> {
    Model::build(config, teacher, Missing::Initialise { seed }, device)
}

/// The rows of the vocabulary with a mask token among them: its id, and how many rows there are then.
///
/// With `wanted`, that id; without, the first row that the tokenizer (of `used` tokens) has no use for, or
/// else one behind them.
///
/// # Errors
/// When the id is further outside the vocabulary than one new row.
pub fn mask_row(vocabulary: usize, used: usize, wanted: Option<u32>) -> Result<(u32, usize), ModelError> {
    let id = wanted.map_or(used.min(vocabulary), |id| id as usize);
    if id > vocabulary {
        return Err(ModelError::Config(format!(
            "the mask token is {id}, outside the vocabulary of {vocabulary}; name an id that no text uses, or {vocabulary} for a new row, or leave it out"
        )));
    }
    let id = u32::try_from(id).map_err(|_| ModelError::Config(format!("the mask token is {id}, too large for an id")))?;
    Ok((id, vocabulary.max(id as usize + 1)))
}

/// Tensors in which the mask token's row of embedding and head is the mean of the rows that the
/// tokenizer uses: a row of zeros, or one that was never trained, makes gradients explode. The row of a
/// token that the tokenizer has stays as it is.
pub struct WithMaskRow<'a> {
    source: &'a dyn Source,
    rows: usize,
    used: usize,
    mask_token: usize,
}

impl<'a> WithMaskRow<'a> {
    /// Over these tensors, for a model of `config`, which may have a row more.
    pub fn new(source: &'a dyn Source, config: &ModelConfig, used: usize, diffusion: &Diffusion) -> Self {
        Self { source, rows: config.vocabulary, used, mask_token: diffusion.mask_token as usize }
    }

    fn changes(&self, name: &str) -> bool {
        self.mask_token >= self.used && matches!(name, "model.embed_tokens.weight" | "lm_head.weight")
    }
}

impl Source for WithMaskRow<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let mut shape = self.source.shape(name)?;
        if self.changes(name) && shape.first().is_some_and(|&rows| rows + 1 == self.rows) {
            shape[0] = self.rows;
        }
        Some(shape)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.source.read(name)?;
        if self.changes(name) {
            let rows = self.source.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(1).max(1);
            let width = values.len() / rows;
            values.resize(self.rows.max(rows) * width, 0.0);
            let used = self.used.clamp(1, rows);
            for column in 0..width {
                let sum: f64 = (0..used).map(|row| f64::from(values[row * width + column])).sum();
                values[self.mask_token * width + column] = (sum / used as f64) as f32;
            }
        }
        Ok(values)
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::config_json;
    use crate::families;
    use serde_json::json;

    fn llama() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 32,
        })
    }

    /// What stands in config.json, and is read from it again.
    fn written(config: &ModelConfig) -> (Value, ModelConfig) {
        let written = Value::Object(config_json(config));
        let again = families::parse(&written).expect("reads back");
        (written, again)
    }

    /// In every form that a model is written in.
    #[test]
    fn the_longest_context_that_was_trained_is_written() {
        let llada = json!({
            "model_type": "llada", "vocab_size": 16, "d_model": 8, "mlp_hidden_size": 8, "n_layers": 1, "n_heads": 2,
            "mask_token_id": 3, "max_sequence_length": 32,
        });
        for (raw, mixer, model_type, key) in [
            (llama(), None, "llama", "max_position_embeddings"),
            (llama(), Some("rwkv7"), "rwkv7qwen2", "max_position_embeddings"),
            (llama(), Some("gated_deltanet"), "recast", "max_position_embeddings"),
            (llada, Some("rwkv7"), "recast", "max_sequence_length"),
        ] {
            let mut config = families::parse(&raw).expect("a config");
            if let Some(mixer) = mixer {
                config = student_config(&config, vec![MixerSpec::new(mixer)], TiedEmbeddings::Tie).expect("a student");
            }
            for (context, longest) in [(16, 32), (48, 48), (40, 48)] {
                trained_at(&mut config, context);
                let (written, again) = written(&config);
                assert_eq!((&written["model_type"], &written[key]), (&json!(model_type), &json!(longest)), "{written}");
                assert_eq!((config.max_positions, again.max_positions), (longest, longest), "{model_type}");
            }
        }
    }

    #[test]
    fn rotations_stay_what_they_were_trained_with() {
        for (scaling, longest) in [
            (json!({"rope_type": "linear", "factor": 2.0}), 64),
            (json!({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}), 64),
            (json!({"rope_type": "llama3", "factor": 8.0}), 32),
            (json!({"rope_type": "dynamic", "factor": 2.0}), 32),
            (json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}), 32),
        ] {
            let mut raw = llama();
            raw["rope_scaling"] = scaling.clone();
            let mut config = families::parse(&raw).expect("a config");
            let rope = config.rope.clone();
            trained_at(&mut config, 64);
            let (_, again) = written(&config);
            assert_eq!((config.max_positions, again.max_positions, again.rope), (longest, longest, rope), "{scaling}");
        }
    }
}
