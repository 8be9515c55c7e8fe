//! GPU: a kernel over blocks of logits.

use super::Options;
use crate::cube::{CubeTensor, UNITS, nothing, total, upload_indices};
use crate::vocab_loss::cube::{Head, blocks, by_row, log_sum_exp, losses, row_weights, scaled};
use cubecl::prelude::*;

pub fn forward(options: &Options, [hidden, weight]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let head = Head { hidden, weight }.rounded();
    let targets = upload_indices(&head.hidden, &options.targets);
    let weights = row_weights(&head, options.weights.as_deref());
    let each = losses(&head);
    let client = head.hidden.client.clone();
    let gradients = blocks(&head, options.track, |rows, logits| {
        let (count, dim) = by_row(rows.len());
        cross_entropy::launch(
            &client,
            count,
            dim,
            logits.clone().into_tensor_arg(),
            targets.clone().into_tensor_arg(),
            weights.clone().into_tensor_arg(),
            each.clone().into_tensor_arg(),
            1.0 / options.denominator,
            rows.start as u32,
            rows.len() as u32,
            head.vocabulary() as u32,
            options.track != [false; 2],
        );
    });
    if options.track != [false; 2] {
        options.waiting.put_on_device(gradients);
    }
    (total(each), nothing(&head.hidden))
}

pub fn backward(
    options: &Options,
    _: [bool; 2],
    _: [CubeTensor; 2],
    _output: CubeTensor,
    _saved: CubeTensor,
    upstream: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    scaled(options.waiting.take_from_device(), upstream)
}

#[cube(launch)]
fn cross_entropy(
    logits: &mut Tensor<f32>,
    targets: &Tensor<u32>,
    weights: &Tensor<f32>,
    losses: &mut Tensor<f32>,
    factor: f32,
    first: u32,
    rows: u32,
    vocabulary: u32,
    #[comptime] gradient: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    if CUBE_POS < rows as usize {
        let (row, vocabulary) = (first as usize + CUBE_POS, vocabulary as usize);
        let start = CUBE_POS * vocabulary;
        let log_sum = log_sum_exp(logits, start, vocabulary, &mut shared);
        let target = targets[row] as usize;
        let scale = weights[row] * factor;
        // By the unit that alone writes there.
        if UNIT_POS as usize == target % UNITS as usize {
            losses[row] = scale * (log_sum - logits[start + target]);
        }
        if comptime!(gradient) {
            let mut i = UNIT_POS as usize;
            while i < vocabulary {
                let mut d = scale * (logits[start + i] - log_sum).exp();
                if i == target {
                    d -= scale;
                }
                logits[start + i] = d;
                i += UNITS as usize;
            }
        }
    }
}
