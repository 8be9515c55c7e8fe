//! Losses over the vocabulary, from hidden states: the logits `hidden weight^T` exist for one
//! block of rows at a time and the gradients are made in the same pass, so that memory does not
//! grow with rows x vocabulary. To add a loss, copy the folder `teacher_kl` and write its
//! definition in `reference.rs`; `tests/fused.rs` holds it to that.

mod blocks;
mod cross_entropy;
#[cfg(feature = "cube")]
mod cube;
pub mod reference;
mod scores;
mod teacher_kl;

pub use cross_entropy::cross_entropy;
pub use scores::{TokenScores, token_log_probabilities};
pub use teacher_kl::teacher_kl;

/// Logits of one model that a loss holds at a time, for a vocabulary of this size on this device.
pub fn block_values(vocabulary: usize, device: &burn::tensor::Device) -> usize {
    #[cfg(feature = "cube")]
    if device.clone().inner() != burn::tensor::Device::flex() {
        return cube::block_rows(vocabulary) * vocabulary;
    }
    let _ = device;
    blocks::block_rows(vocabulary) * vocabulary
}

/// Why a loss was not computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VocabLossError {
    /// A target names no row of the vocabulary weight.
    #[error(
        "target {target} at row {row}: expected below the vocabulary size {vocabulary}; check that tokenizer and model belong together, and mask padding by a zero weight and a valid target"
    )]
    Target {
        /// Index into the targets.
        row: usize,
        /// The target found.
        target: u32,
        /// Rows of the vocabulary weight.
        vocabulary: usize,
    },
    /// An argument is not as long as the hidden states.
    #[error("{what}: expected {expected} entries, found {found}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Entries wanted.
        expected: usize,
        /// Entries given.
        found: usize,
    },
    /// A weight is infinite or not a number.
    #[error("weight {weight} at row {row}: expected a finite number")]
    Weight {
        /// Index into the weights.
        row: usize,
        /// The weight found.
        weight: f32,
    },
    /// The sum of losses cannot be divided by this.
    #[error("denominator {0}: expected a positive finite number; a batch without weighted tokens has no loss")]
    Denominator(f32),
}

/// Checks one optional weight a row, and works out the denominator.
fn denominator(rows: usize, weights: Option<&[f32]>, given: Option<f32>) -> Result<f32, VocabLossError> {
    if let Some(weights) = weights {
        length("weights", rows, weights.len())?;
        if let Some(row) = weights.iter().position(|w| !w.is_finite()) {
            return Err(VocabLossError::Weight { row, weight: weights[row] });
        }
    }
    let denominator = given.unwrap_or_else(|| match weights {
        Some(weights) => weights.iter().map(|&w| f64::from(w)).sum::<f64>() as f32,
        None => rows as f32,
    });
    if denominator > 0.0 && denominator.is_finite() { Ok(denominator) } else { Err(VocabLossError::Denominator(denominator)) }
}

fn length(what: &'static str, expected: usize, found: usize) -> Result<(), VocabLossError> {
    if expected == found { Ok(()) } else { Err(VocabLossError::Length { what, expected, found }) }
}

fn in_vocabulary(targets: &[u32], vocabulary: usize) -> Result<(), VocabLossError> {
    match targets.iter().position(|&t| t as usize >= vocabulary) {
        Some(row) => Err(VocabLossError::Target { row, target: targets[row], vocabulary }),
        None => Ok(()),
    }
}
