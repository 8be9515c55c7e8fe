//! Objectives: what a loss asks. Each file is a function of a batch and one or two models that
//! returns a loss and adds gradients; it does not know the stage it serves.
//!
//! To add one: a file with such a function and an arm in [`Objective::gradients`]. Held to the
//! PyTorch values of `tests/golden/train` by `tests/losses.rs`.

mod alignment;
mod logits;
pub mod masked_diffusion;
mod recompute;

pub(crate) use logits::common_head;

use crate::error::TrainError;
use crate::optimizer::Gradients;
use masked_diffusion::{Draw, Noise};
use recast_models::Model;
use recast_models::param::Named;
use recast_models::state::Documents;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The objectives, by the name recipes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Each mixer imitates the teacher's attention output, fed with the teacher's hidden states
    /// (RADLADS step 1).
    OutputAlignment,
    /// KL from the teacher's next-token distribution (RADLADS step 2).
    LogitKl,
    /// Cross-entropy of the next token (RADLADS step 3, and training without a teacher).
    NextToken,
    /// Tell masked tokens from those that are left; `diffusion` says which variant.
    MaskedDiffusion,
}

/// A micro-batch of packed rows.
pub struct MicroBatch {
    /// Rows, B.
    pub rows: usize,
    /// Inputs, `[B, T]`.
    pub inputs: Vec<u32>,
    /// The token after each input, `[B, T]`.
    pub targets: Arc<[u32]>,
    /// Boundaries, when state and loss are to stop there.
    pub documents: Option<Documents>,
    /// Weight of each position's loss, `[B, T]`, when some do not count.
    pub weights: Option<Arc<[f32]>>,
    /// Positions that count over the whole batch that this is a part of.
    pub denominator: f32,
    /// `[B, T]`: positions of a prompt, which are never noised and have no loss.
    pub prompt: Option<Arc<[bool]>>,
    /// Factor on the loss of each row, `[B]`, where rows count by their response and not by their
    /// positions.
    pub response_share: Option<Arc<[f32]>>,
    /// How long each row really is, `[B]`, where rows are padded on the right with what nobody may see.
    pub lengths: Option<Arc<[usize]>>,
    /// What random noise is drawn from.
    pub draw: Draw,
}

impl MicroBatch {
    /// Tokens in its rows, without what nobody may see.
    pub fn tokens(&self) -> u64 {
        self.lengths.as_ref().map_or(self.inputs.len(), |lengths| lengths.iter().sum()) as u64
    }

    /// Positions of the whole batch that this is a part of, whether they count or not.
    pub fn positions(&self) -> f32 {
        let rows = self.draw.rows.max(self.rows);
        (rows * (self.inputs.len() / self.rows)) as f32
    }
}

/// What a micro-batch gave.
#[derive(Clone, Debug, Default)]
pub struct Loss {
    /// This micro-batch's share of the mean loss of the batch.
    pub value: f64,
    /// Its layers, where the objective has one loss a layer.
    pub layers: Vec<f64>,
    /// What it is made of, where that is more than one loss.
    pub parts: Vec<(String, f64)>,
}

impl Loss {
    /// Adds the share of another micro-batch.
    pub fn add(&mut self, other: &Self) {
        self.value += other.value;
        self.layers.resize(other.layers.len(), 0.0);
        self.layers.iter_mut().zip(&other.layers).for_each(|(sum, x)| *sum += x);
        for (name, value) in &other.parts {
            match self.parts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += value,
                None => self.parts.push((name.clone(), *value)),
            }
        }
    }
}

impl Objective {
    /// Whether it needs a teacher.
    pub fn needs_teacher(self) -> bool {
        !matches!(self, Objective::NextToken | Objective::MaskedDiffusion)
    }

    /// Loss of a micro-batch; its gradients with respect to `trainable` are added to `gradients`.
    ///
    /// `recompute` runs each block again for its backward pass, so that memory holds one block's
    /// graph. Alignment keeps no more than one mixer's in any case; masked diffusion does not do it.
    /// `noise` is the variant of masked diffusion.
    ///
    /// # Errors
    /// When a token is outside the vocabulary, or there is no teacher and one is needed.
    pub fn gradients(
        self,
        student: &Model,
        teacher: Option<&Model>,
        batch: &MicroBatch,
        trainable: &[Named],
        recompute: bool,
        noise: Option<&Noise>,
        gradients: &mut Gradients,
    ) -> Result<Loss, TrainError> {
        let teacher = || teacher.ok_or_else(|| TrainError::Recipe("this objective needs a teacher".into()));
        match self {
            Objective::OutputAlignment => {
                let teacher = teacher()?;
                recast_models::param::track(trainable);
                let result = alignment::gradients(student, teacher, batch, trainable, gradients);
                trainable.iter().for_each(|(_, p)| {
                    p.untrack(None);
                });
                result
            }
            Objective::LogitKl => logits::teacher(student, teacher()?, batch, trainable, recompute, gradients),
            Objective::NextToken => logits::next_token(student, batch, trainable, recompute, gradients),
            Objective::MaskedDiffusion => {
                let options = noise.cloned().unwrap_or_default();
                masked_diffusion::gradients(student, batch, trainable, &options, gradients)
            }
        }
    }
}
