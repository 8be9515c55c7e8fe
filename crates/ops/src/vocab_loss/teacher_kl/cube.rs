//! GPU: a kernel over blocks of both models' logits.

use super::Options;
use crate::cube::{CubeTensor, UNITS, nothing, sum, total};
use crate::vocab_loss::cube::{Head, blocks, by_row, log_sum_exp, losses, row_weights, scaled};
use cubecl::prelude::*;

pub fn forward(options: &Options, [hidden, weight, teacher_hidden, teacher_weight]: [CubeTensor; 4]) -> (CubeTensor, CubeTensor) {
    let head = Head { hidden, weight }.rounded();
    let teacher = Head { hidden: teacher_hidden, weight: teacher_weight }.rounded();
    let weights = row_weights(&head, options.weights.as_deref());
    let each = losses(&head);
    let client = head.hidden.client.clone();
    let gradients = blocks(&head, options.track, |rows, logits| {
        let (count, dim) = by_row(rows.len());
        teacher_kl::launch(
            &client,
            count,
            dim,
            logits.clone().into_tensor_arg(),
            teacher.logits(rows.clone()).into_tensor_arg(),
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
    _: [bool; 4],
    _: [CubeTensor; 4],
    _output: CubeTensor,
    _saved: CubeTensor,
    upstream: CubeTensor,
) -> [Option<CubeTensor>; 4] {
    let [d_hidden, d_weight] = scaled(options.waiting.take_from_device(), upstream);
    [d_hidden, d_weight, None, None]
}

// Logarithms are subtracted element by element: the difference of two log-sum-exps would cancel
// where student and teacher agree.
#[cube(launch)]
fn teacher_kl(
    logits: &mut Tensor<f32>,
    teacher: &mut Tensor<f32>,
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
        let teacher_log_sum = log_sum_exp(teacher, start, vocabulary, &mut shared);
        let scale = weights[row] * factor;
        let mut divergence = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < vocabulary {
            let ln_p = teacher[start + i] - teacher_log_sum;
            let ln_q = logits[start + i] - log_sum;
            let p = ln_p.exp();
            divergence += p * (ln_p - ln_q);
            if comptime!(gradient) {
                logits[start + i] = scale * (ln_q.exp() - p);
            }
            i += UNITS as usize;
        }
        let divergence = sum(divergence, &mut shared);
        if UNIT_POS == 0 {
            losses[row] = scale * divergence;
        }
    }
}
