//! GPU: a kernel over blocks of logits.

use super::Options;
use crate::cube::{CubeTensor, UNITS, largest, nothing, room, upload_indices};
use crate::vocab_loss::cube::{Head, blocks, by_row, log_sum_exp};
use cubecl::prelude::*;

pub fn forward(options: &Options, [hidden, weight]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let head = Head { hidden, weight };
    let targets = upload_indices(&head.hidden, &options.targets);
    let scores = room(&head.hidden, &[2, head.rows()]);
    let client = head.hidden.client.clone();
    blocks(&head, [false; 2], |rows, logits| {
        let (count, dim) = by_row(rows.len());
        scores_of::launch(
            &client,
            count,
            dim,
            logits.clone().into_tensor_arg(),
            targets.clone().into_tensor_arg(),
            scores.clone().into_tensor_arg(),
            rows.start as u32,
            rows.len() as u32,
            head.rows() as u32,
            head.vocabulary() as u32,
        );
    });
    (scores, nothing(&head.hidden))
}

pub fn backward(
    _: &Options,
    _: [bool; 2],
    _: [CubeTensor; 2],
    _output: CubeTensor,
    _saved: CubeTensor,
    _: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    unreachable!("the public function takes its inputs out of the graph")
}

#[cube(launch)]
fn scores_of(
    logits: &mut Tensor<f32>,
    targets: &Tensor<u32>,
    scores: &mut Tensor<f32>,
    first: u32,
    rows: u32,
    all: u32,
    vocabulary: u32,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    if CUBE_POS < rows as usize {
        let (row, vocabulary) = (first as usize + CUBE_POS, vocabulary as usize);
        let start = CUBE_POS * vocabulary;
        let log_sum = log_sum_exp(logits, start, vocabulary, &mut shared);
        let target = targets[row] as usize;
        let own = logits[start + target];
        // Whether something is larger, or as large and earlier.
        let mut beaten = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < vocabulary {
            let other = logits[start + i];
            if other > own || (other == own && i < target) {
                beaten = 1.0f32;
            }
            i += UNITS as usize;
        }
        let beaten = largest(beaten, &mut shared);
        if UNIT_POS == 0 {
            scores[row] = own - log_sum;
            scores[all as usize + row] = 1.0 - beaten;
        }
    }
}
