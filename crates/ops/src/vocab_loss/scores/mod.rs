//! Scores of given tokens, for evaluation; see the paragraph of the folder above.

#[cfg(feature = "cube")]
mod cube;
mod flex;

use super::{VocabLossError, in_vocabulary, length};
use crate::glue::operator;
use crate::linear::{Operand, Packed};
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    targets: Arc<[u32]>,
    packed: Option<Packed>,
}

operator!(TokenScoresBackend, Options, token_scores_forward, token_scores_backward, flex, 2, [hidden, weight], cube);

/// What [`token_log_probabilities`] finds, one entry a row.
#[derive(Clone, Debug)]
pub struct TokenScores {
    /// `ln softmax(hidden weight^T)[target]`, `[n]`.
    pub log_probabilities: Tensor<1>,
    /// 1 where the target is the most probable token (the first of equals), else 0, `[n]`.
    pub greedy: Tensor<1>,
}

/// Log-probability (nats) of each target, and whether greedy decoding would have chosen it.
///
/// Shapes: `hidden` `[n, d]`, `weight` `[v, d]`, `targets` `[n]`. Outside any graph.
///
/// # Errors
/// A target outside the vocabulary, or not one target a row. Nothing is computed then.
///
/// # Panics
/// When the inner sizes of `hidden` and `weight` differ.
pub fn token_log_probabilities(
    hidden: Tensor<2>,
    weight: impl Into<Operand>,
    targets: Arc<[u32]>,
) -> Result<TokenScores, VocabLossError> {
    let Operand { weight, packed } = weight.into();
    let ([rows, width], [vocabulary, inner]) = (hidden.dims(), weight.dims());
    assert_eq!(width, inner, "token_log_probabilities: inner sizes of hidden states and vocabulary weight");
    length("targets", rows, targets.len())?;
    in_vocabulary(&targets, vocabulary)?;
    let (hidden, weight) = (hidden.without_autodiff(), weight.without_autodiff());
    let scores = Dispatch::token_scores_forward(Options { targets, packed }, hidden.into_dispatch(), weight.into_dispatch()).0;
    let scores = Tensor::<2>::from_dispatch(scores);
    let row = |i| scores.clone().slice([i..i + 1, 0..rows]).reshape([rows]);
    Ok(TokenScores { log_probabilities: row(0), greedy: row(1) })
}
