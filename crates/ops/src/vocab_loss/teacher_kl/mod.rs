//! Divergence from a teacher's distribution; see the paragraph of the folder above.

#[cfg(feature = "cube")]
mod cube;
mod flex;

use super::{VocabLossError, blocks::Waiting, denominator, length};
use crate::glue::operator;
use crate::linear::{Operand, Packed};
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    weights: Option<Arc<[f32]>>,
    denominator: f32,
    track: [bool; 2],
    /// Panels of the teacher's weight.
    teacher_packed: Option<Packed>,
    waiting: Waiting,
}

operator!(
    TeacherKlBackend,
    Options,
    teacher_kl_forward,
    teacher_kl_backward,
    flex,
    4,
    [hidden, weight, teacher_hidden, teacher_weight],
    cube
);

/// `sum_i weights[i] * KL(p_i || q_i) / denominator`, in nats, with the teacher's
/// `p_i = softmax(teacher_hidden[i] teacher_weight^T)` and the student's
/// `q_i = softmax(hidden[i] weight^T)`: RADLADS step 2 (forward KL, temperature 1).
///
/// Shapes: `hidden` `[n, d]`, `weight` `[v, d]`, `teacher_hidden` `[n, e]`, `teacher_weight`
/// `[v, e]`, `weights` `[n]` (1 each if absent); the result is `[1]`. `denominator` defaults to
/// the sum of the weights. The teacher gets no gradient. Rows of weight zero cost nothing.
///
/// # Errors
/// Vocabularies or row counts that differ, a weight that is not finite, a denominator that is not
/// positive. Nothing is computed then.
///
/// # Panics
/// When the inner sizes of hidden states and their vocabulary weight differ.
pub fn teacher_kl(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    teacher_hidden: Tensor<2>,
    teacher_weight: impl Into<Operand>,
    weights: Option<Arc<[f32]>>,
    denominator_given: Option<f32>,
) -> Result<Tensor<1>, VocabLossError> {
    let Operand { weight: teacher_weight, packed: teacher_packed } = teacher_weight.into();
    let ([rows, width], [vocabulary, inner]) = (hidden.dims(), weight.dims());
    let ([teacher_rows, teacher_width], [teacher_vocabulary, teacher_inner]) = (teacher_hidden.dims(), teacher_weight.dims());
    assert_eq!(width, inner, "teacher_kl: inner sizes of hidden states and vocabulary weight");
    assert_eq!(teacher_width, teacher_inner, "teacher_kl: inner sizes on the teacher's side");
    length("teacher's hidden states", rows, teacher_rows)?;
    length("teacher's vocabulary", vocabulary, teacher_vocabulary)?;
    let denominator = denominator(rows, weights.as_deref(), denominator_given)?;
    let track = [hidden.is_tracked(), weight.is_tracked()];
    let options = Options { weights, denominator, track, teacher_packed, waiting: Waiting::default() };
    let loss = Dispatch::teacher_kl_forward(
        options,
        hidden.into_dispatch(),
        weight.into_dispatch(),
        teacher_hidden.detach().into_dispatch(),
        teacher_weight.detach().into_dispatch(),
    );
    Ok(Tensor::from_dispatch(loss.0))
}
