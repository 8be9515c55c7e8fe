//! What a denoising sampler asks of a model.

use super::candidate::Candidate;
use crate::error::InferError;
use std::ops::Range;

/// What the sampler has to know of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of logits.
    pub vocabulary: usize,
    /// The token that stands for an unknown one; no text holds it.
    pub mask_token: u32,
    /// Whether unknown positions hold random tokens instead of it (uniform noise).
    pub uniform: bool,
    /// Positions that are denoised together, behind a state of all before them; none: the whole
    /// sequence sees itself.
    pub block: Option<usize>,
}

/// One row of a forward pass.
pub struct View<'a, S> {
    /// The whole sequence; of a model with blocks, one block. Unknown positions hold the mask token, or random ones.
    pub tokens: &'a [u32],
    /// Places in `tokens`, rising, whose predictions are wanted.
    pub wanted: &'a [usize],
    /// The state before `tokens`; it is not advanced.
    pub state: &'a S,
    /// The same without the prompt, for guidance.
    pub blind: Option<Blind<'a, S>>,
}

/// A row whose prompt is masked.
pub struct Blind<'a, S> {
    /// As the row's tokens.
    pub tokens: &'a [u32],
    /// As the row's state.
    pub state: &'a S,
    /// w in `u + (1 + w) (c - u)`.
    pub weight: f32,
}

/// Makes a candidate of the logits at a wanted place: the view, the index into its `wanted`, the
/// logits, which it may change.
pub type Read<'a> = dyn Fn(usize, usize, &mut [f32]) -> Result<Candidate, InferError> + Sync + 'a;

/// A model as the sampler sees it. No row of a call depends on the others.
pub trait Denoiser {
    /// What a row carries from block to block.
    type State: Clone;

    /// Its sizes.
    fn shape(&self) -> Shape;

    /// The state before the first token.
    fn begin(&self) -> Self::State;

    /// Reads clean tokens, the next of each row, into the rows' states: whole blocks, but at the end
    /// of a text.
    ///
    /// # Errors
    /// When the model cannot run.
    fn advance(&self, tokens: &[&[u32]], states: &mut [&mut Self::State]) -> Result<(), InferError>;

    /// The state of everything around a window of a sequence (before it, where it reaches the end), of one pass over
    /// all of it: a view of the window alone, behind that state, is a view of the whole sequence.
    ///
    /// # Errors
    /// When the model cannot run, or cannot leave out what it has read.
    fn around(&self, tokens: &[u32], window: Range<usize>) -> Result<Self::State, InferError>;

    /// Candidates of every view's wanted places. Logits exist for some places at a time, and only
    /// for those.
    ///
    /// # Errors
    /// When the model cannot run, or `read` says so.
    fn predict(&self, views: &[View<'_, Self::State>], read: &Read<'_>) -> Result<Vec<Vec<Candidate>>, InferError>;
}

/// Turns conditional logits into guided ones.
pub fn guide(logits: &mut [f32], blind: &[f32], weight: f32) {
    for (c, u) in logits.iter_mut().zip(blind) {
        *c = u + (1.0 + weight) * (*c - u);
    }
}
