//! Objectives on the next-token distribution of the whole model.

use super::{Loss, MicroBatch, recompute};
use crate::error::TrainError;
use crate::optimizer::Gradients;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::param::{Named, track};
use recast_models::sight::Sight;
use recast_ops::vocab_loss::{cross_entropy, teacher_kl};

/// Forward KL from the teacher, temperature 1, in f32, mean per token.
pub fn teacher(
    student: &Model,
    teacher: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    by_block: bool,
    out: &mut Gradients,
) -> Result<Loss, TrainError> {
    let wanted = rows(teacher.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, batch.documents.as_ref(), None)?);
    run(student, batch, trainable, by_block, out, |hidden| {
        let (weights, denominator) = (batch.weights.clone(), Some(batch.denominator));
        Ok(teacher_kl(rows(hidden), common_head(student, teacher), wanted, teacher.head_operand(), weights, denominator)?)
    })
}

/// Cross-entropy of the next token.
pub fn next_token(
    student: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    by_block: bool,
    out: &mut Gradients,
) -> Result<Loss, TrainError> {
    run(student, batch, trainable, by_block, out, |hidden| {
        let (weights, denominator) = (batch.weights.clone(), Some(batch.denominator));
        Ok(cross_entropy(rows(hidden), student.head(), batch.targets.clone(), weights, denominator)?)
    })
}

/// The student's head over the teacher's vocabulary: a mask token may have been added behind it.
pub(crate) fn common_head(student: &Model, teacher: &Model) -> Tensor<2> {
    let head = student.head();
    let [rows, width] = head.dims();
    let common = teacher.config.vocabulary.min(rows);
    if common == rows { head } else { head.slice([0..common, 0..width]) }
}

fn rows(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}

/// Gradients of a loss of the normed hidden states.
fn run(
    student: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    by_block: bool,
    out: &mut Gradients,
    loss: impl FnOnce(Tensor<3>) -> Result<Tensor<1>, TrainError>,
) -> Result<Loss, TrainError> {
    if by_block {
        return recompute::gradients(student, batch, trainable, out, loss);
    }
    track(trainable);
    let result = student
        .hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, batch.documents.as_ref(), None)
        .map_err(TrainError::from)
        .and_then(loss)
        .map(|loss| {
            // Read behind the backward pass, which a GPU need not wait to begin.
            let value = loss.clone().without_autodiff();
            if loss.is_tracked() {
                let mut gradients = loss.backward();
                out.collect(trainable, &mut gradients);
            }
            Loss { value: f64::from(value.into_scalar::<f32>()), ..Loss::default() }
        });
    trainable.iter().for_each(|(_, p)| {
        p.untrack(None);
    });
    result
}
