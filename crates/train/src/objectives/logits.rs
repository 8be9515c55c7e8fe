//! Objectives on the next-token distribution of the whole model.

use super::{Loss, MicroBatch};
use crate::error::TrainError;
use crate::optimizer::Gradients;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::param::Named;
use recast_ops::vocab_loss::{cross_entropy, teacher_kl};

/// Forward KL from the teacher, temperature 1, in f32, mean per token.
pub fn teacher(
    student: &Model,
    teacher: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    out: &mut Gradients,
) -> Result<Loss, TrainError> {
    let wanted = rows(teacher.hidden(&batch.inputs, batch.rows, None, batch.documents.as_ref())?);
    let given = rows(student.hidden(&batch.inputs, batch.rows, None, batch.documents.as_ref())?);
    let loss = teacher_kl(given, student.head(), wanted, teacher.head(), batch.weights.clone(), Some(batch.denominator))?;
    finish(loss, trainable, out)
}

/// Cross-entropy of the next token.
pub fn next_token(student: &Model, batch: &MicroBatch, trainable: &[Named], out: &mut Gradients) -> Result<Loss, TrainError> {
    let hidden = rows(student.hidden(&batch.inputs, batch.rows, None, batch.documents.as_ref())?);
    let loss = cross_entropy(hidden, student.head(), batch.targets.clone(), batch.weights.clone(), Some(batch.denominator))?;
    finish(loss, trainable, out)
}

fn rows(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}

fn finish(loss: Tensor<1>, trainable: &[Named], out: &mut Gradients) -> Result<Loss, TrainError> {
    let value = f64::from(loss.clone().into_scalar::<f32>());
    if loss.is_tracked() {
        let mut gradients = loss.backward();
        out.collect(trainable, &mut gradients);
    }
    Ok(Loss { value, layers: Vec::new() })
}
