//! Output alignment: `mean over layers, batch and time of ||yT - yS||_2 / sqrt(C)` (RADLADS 4.2).
//!
//! The norm is not squared, its gradient at zero is zero. The student's mixers see the teacher's
//! hidden states, so layers do not depend on each other and each is back-propagated as soon as it
//! ran: memory is one layer's graph. The exception is RWKV-7, whose first values feed every later
//! layer: their gradients are summed up and the layer that made them is finished last.

use super::{Loss, MicroBatch};
use crate::error::TrainError;
use crate::optimizer::Gradients;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::mixers::{Call, Shared};
use recast_models::param::Named;
use recast_models::sight::Sight;
use recast_ops::row_distance::row_distance;

/// The layer whose values the later ones use, waiting for their gradients.
struct FirstLayer {
    loss: Tensor<1>,
    value: Tensor<4>,
    gradient: Option<Tensor<4>>,
    params: Vec<Named>,
}

pub fn gradients(
    student: &Model,
    teacher: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    out: &mut Gradients,
) -> Result<Loss, TrainError> {
    let layers = teacher.blocks().len();
    let hidden = teacher.config.hidden as f32;
    let scale = 1.0 / (layers as f32 * batch.denominator * hidden.sqrt());
    let mut x = teacher.embed(&batch.inputs, batch.rows)?;
    let documents = batch.documents.as_ref();

    // Read when all are there: a GPU need not wait for the host in between.
    let mut values = Vec::with_capacity(layers);
    let mut teacher_shared = Shared::default();
    let mut first: Option<FirstLayer> = None;
    // The values themselves, whether or not anything that made them trains.
    let mut first_value: Option<Tensor<4>> = None;
    for (l, (t, s)) in teacher.blocks().iter().zip(student.blocks()).enumerate() {
        let u = t.mixer_input(x.clone());
        let call =
            |shared| Call { x: u.clone(), states: None, shared, positions: &[], documents, sight: Sight::Causal, lengths: None };
        let wanted = t.mixer().forward(call(&mut teacher_shared));

        // Later layers get the first values as a leaf of their own graph.
        let leaf = first.as_ref().map(|f| f.value.clone().detach().require_grad());
        let mut shared = Shared { first_value: leaf.clone().or_else(|| first_value.clone()) };
        let given = s.mixer().forward(call(&mut shared));
        let layer_loss = row_distance(given, wanted.clone(), batch.weights.clone(), scale);
        values.push(layer_loss.clone().without_autodiff());

        let prefix = format!("model.layers.{l}.");
        let params: Vec<Named> = trainable.iter().filter(|(name, _)| name.starts_with(&prefix)).cloned().collect();
        let made = if first_value.is_none() { shared.first_value } else { None };
        if let Some(value) = &made {
            first_value = Some(value.clone().without_autodiff());
        }
        match (made, &mut first) {
            (Some(value), None) if value.is_tracked() => {
                first = Some(FirstLayer { loss: layer_loss, value, gradient: None, params });
            }
            (_, first) => {
                if layer_loss.is_tracked() {
                    let mut gradients = layer_loss.backward();
                    if let (Some(first), Some(leaf)) = (first, leaf)
                        && let Some(g) = leaf.grad_remove(&mut gradients)
                    {
                        first.gradient = Some(match first.gradient.take() {
                            Some(sum) => sum + g,
                            None => g,
                        });
                    }
                    out.collect(&params, &mut gradients);
                }
            }
        }
        x = t.after_mixer(x, wanted);
    }
    if let Some(first) = first {
        let total = match first.gradient {
            Some(gradient) => first.loss + (first.value * gradient).sum(),
            None => first.loss,
        };
        let mut gradients = total.backward();
        out.collect(&first.params, &mut gradients);
    }
    let mut loss = Loss::default();
    for value in Tensor::cat(values, 0).into_data().iter::<f32>().map(f64::from) {
        loss.layers.push(value * layers as f64);
        loss.value += value;
    }
    Ok(loss)
}
