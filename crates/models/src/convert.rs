//! From a teacher's weights to a student's: the same names, another mixer.
//!
//! A student's mixer carries the teacher's q, k, v, o under the teacher's names, so conversion is
//! loading with initial values for whatever the teacher has not (RADLADS section 4.1).

use crate::config::{MixerSpec, ModelConfig};
use crate::error::ModelError;
use crate::model::Model;
use crate::source::{Missing, Source};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

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
    let config = ModelConfig {
        family: "recast".into(),
        tied: teacher.tied && tied == TiedEmbeddings::Tie,
        mixers,
        ..teacher.clone()
    };
    config.check()?;
    Ok(config)
}

/// Builds the student from the teacher's tensors; what they lack starts from `seed`.
///
/// # Errors
/// When a tensor is misshapen or an option unknown.
pub fn student(config: ModelConfig, teacher: &dyn Source, seed: u64, device: &Device) -> Result<Model, ModelError> {
    Model::build(config, teacher, Missing::Initialise { seed }, device)
}
