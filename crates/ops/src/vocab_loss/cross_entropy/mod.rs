//! Cross-entropy against target tokens; see the paragraph of the folder above.

#[cfg(feature = "cube")]
mod cube;
mod flex;

use super::{VocabLossError, blocks::Waiting, denominator, in_vocabulary, length};
use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    targets: Arc<[u32]>,
    weights: Option<Arc<[f32]>>,
    denominator: f32,
    track: [bool; 2],
    waiting: Waiting,
}

operator!(CrossEntropyBackend, Options, cross_entropy_forward, cross_entropy_backward, flex, 2, [hidden, weight], cube);

/// `sum_i weights[i] * -ln softmax(hidden[i] weight^T)[targets[i]] / denominator`, in nats.
///
/// Shapes: `hidden` `[n, d]`, `weight` `[v, d]`, `targets` and `weights` `[n]` (1 each if absent);
/// the result is `[1]`. `denominator` defaults to the sum of the weights; give it where the loss is
/// one part of a larger batch. Rows of weight zero cost nothing. When an input is tracked the
/// gradients are computed here and kept until the backward pass.
///
/// # Errors
/// A target outside the vocabulary, a length that differs from `n`, a weight that is not finite,
/// a denominator that is not positive. Nothing is computed then.
///
/// # Panics
/// When the inner sizes of `hidden` and `weight` differ.
pub fn cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Arc<[u32]>,
    weights: Option<Arc<[f32]>>,
    denominator_given: Option<f32>,
) -> Result<Tensor<1>, VocabLossError> {
    let ([rows, width], [vocabulary, inner]) = (hidden.dims(), weight.dims());
    assert_eq!(width, inner, "cross_entropy: inner sizes of hidden states and vocabulary weight");
    length("targets", rows, targets.len())?;
    in_vocabulary(&targets, vocabulary)?;
    let denominator = denominator(rows, weights.as_deref(), denominator_given)?;
    let track = [hidden.is_tracked(), weight.is_tracked()];
    let options = Options { targets, weights, denominator, track, waiting: Waiting::default() };
    let loss = Dispatch::cross_entropy_forward(options, hidden.into_dispatch(), weight.into_dispatch()).0;
    Ok(Tensor::from_dispatch(loss))
}
