//! CPU: block by block, logits, losses and both gradients.

use super::Options;
use crate::cpu::{Array, View, exp, simd, split_rows};
use crate::vocab_loss::blocks::{Head, active_rows, block_rows, log_sum_exp, room};

pub fn forward(options: &Options, [hidden, weight]: [View<'_>; 2]) -> (Array, Array) {
    let vocabulary = weight.shape[0];
    let active = active_rows(hidden.shape[0], options.weights.as_deref());
    let size = block_rows(vocabulary).min(active.len());
    let mut head = Head::new(hidden, weight, None, size);
    let mut gradients = room(options.track, [hidden, weight]);
    let tracked = options.track != [false; 2];
    let mut total = 0.0f64;
    for block in active.chunks(size.max(1)) {
        let logits = head.logits(block);
        let losses = split_rows(block.len(), 1, [(logits, vocabulary)], |range, [logits]| {
            let mut total = 0.0f64;
            for (logits, &row) in logits.chunks_exact_mut(vocabulary).zip(&block[range]) {
                let target = options.targets[row] as usize;
                let row_weight = options.weights.as_ref().map_or(1.0, |weights| weights[row]);
                let (log_sum, _) = log_sum_exp(logits);
                total += f64::from(row_weight) * f64::from(log_sum - logits[target]);
                if tracked {
                    let scale = row_weight / options.denominator;
                    probabilities(logits, log_sum, scale);
                    logits[target] -= scale;
                }
            }
            total
        });
        total += losses.into_iter().sum::<f64>();
        if tracked {
            head.gradients(block, &mut gradients);
        }
    }
    if tracked {
        options.waiting.put(gradients);
    }
    (Array::new(vec![(total / f64::from(options.denominator)) as f32], &[1]), Array::nothing())
}

pub fn backward(
    options: &Options,
    needs: [bool; 2],
    inputs: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    upstream: View<'_>,
) -> [Option<Array>; 2] {
    options.waiting.take(needs, inputs, upstream.data[0])
}

simd! {
    fn probabilities(logits: &mut [f32], log_sum: f32, scale: f32) {
        for x in logits {
            *x = exp::<FMA>(*x - log_sum) * scale;
        }
    }
}
