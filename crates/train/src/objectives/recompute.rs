//! Gradients of a whole model with one block's graph in memory at a time: the forward pass keeps
//! what enters each block and nothing else, the backward pass runs each block once more (activation
//! recomputation, arXiv 1604.06174). Costs one more forward pass of the student.

use super::{Loss, MicroBatch};
use crate::error::TrainError;
use crate::optimizer::Gradients;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::block::Block;
use recast_models::mixers::{Call, Shared};
use recast_models::param::{Named, track};
use recast_models::sight::Sight;
use recast_models::state::Documents;

/// Adds the gradients of `loss(normed hidden states)` with respect to `trainable`, which must not be
/// tracked.
pub fn gradients(
    student: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    out: &mut Gradients,
    loss: impl FnOnce(Tensor<3>) -> Result<Tensor<1>, TrainError>,
) -> Result<Loss, TrainError> {
    let documents = batch.documents.as_ref();
    let mut x = student.embed(&batch.inputs, batch.rows)?;
    let mut shared = Shared::default();
    let mut inputs = Vec::with_capacity(student.blocks().len());
    // The layer that made the values that later ones use.
    let mut maker = None;
    for (l, block) in student.blocks().iter().enumerate() {
        inputs.push(x.clone());
        x = forward(block, x, &mut shared, documents);
        if maker.is_none() && shared.first_value.is_some() {
            maker = Some(l);
        }
    }
    let first_value = shared.first_value;

    let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
    let of_layer = |l: Option<usize>| -> Vec<Named> { trainable.iter().filter(|(name, _)| layer(name) == l).cloned().collect() };
    // Norm, head, and the embedding where the head is tied to it.
    let end = of_layer(None);
    let leaf = x.autodiff().require_grad();
    let (value, gradient) = {
        let _tracked = Tracked::new(&end);
        let loss = loss(student.final_norm(leaf.clone()))?;
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = loss.backward();
        out.collect(&end, &mut gradients);
        (value, leaf.grad_remove(&mut gradients))
    };
    let value = Loss { value, ..Loss::default() };
    let Some(mut gradient) = gradient else { return Ok(value) };

    let embedding: Vec<Named> = end.iter().filter(|(name, _)| name == "model.embed_tokens.weight").cloned().collect();
    let first_trained = if embedding.is_empty() { trainable.iter().filter_map(|(name, _)| layer(name)).min() } else { Some(0) };
    let Some(lowest) = first_trained else { return Ok(value) };
    let mut first_gradient: Option<Tensor<4>> = None;
    for (l, x) in inputs.into_iter().enumerate().skip(lowest).rev() {
        let params = of_layer(Some(l));
        let _tracked = Tracked::new(&params);
        let leaf = x.autodiff().require_grad();
        let first = first_value.clone().filter(|_| maker.is_some_and(|m| m < l)).map(|v| v.autodiff().require_grad());
        let mut shared = Shared { first_value: first.clone() };
        let y = forward(&student.blocks()[l], leaf.clone(), &mut shared, documents);
        let mut total = (y * gradient).sum();
        if let (true, Some(made), Some(g)) = (maker == Some(l), shared.first_value, first_gradient.take_if(|_| maker == Some(l)))
        {
            total = total + (made * g).sum();
        }
        let mut gradients = total.backward();
        out.collect(&params, &mut gradients);
        if let Some(g) = first.and_then(|first| first.grad_remove(&mut gradients)) {
            first_gradient = Some(match first_gradient.take() {
                Some(sum) => sum + g,
                None => g,
            });
        }
        match leaf.grad_remove(&mut gradients) {
            Some(below) => gradient = below,
            None => return Ok(value),
        }
    }
    if !embedding.is_empty() {
        let _tracked = Tracked::new(&embedding);
        let x = student.embed(&batch.inputs, batch.rows)?;
        let mut gradients = (x * gradient).sum().backward();
        out.collect(&embedding, &mut gradients);
    }
    Ok(value)
}

fn forward(block: &Block, x: Tensor<3>, shared: &mut Shared, documents: Option<&Documents>) -> Tensor<3> {
    let call = Call {
        x: block.mixer_input(x.clone()),
        states: None,
        shared,
        positions: &[],
        documents,
        sight: Sight::Causal,
        lengths: None,
    };
    let y = block.mixer().forward(call);
    block.after_mixer(x, y)
}

/// Parameters that are leaves as long as this lives.
struct Tracked<'a>(&'a [Named]);

impl<'a> Tracked<'a> {
    fn new(params: &'a [Named]) -> Self {
        track(params);
        Self(params)
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        for (_, param) in self.0 {
            param.untrack(None);
        }
    }
}
