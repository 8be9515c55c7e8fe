//! CPU: block by block, logits and two numbers a row.

use super::Options;
use crate::cpu::{Array, View, split_rows};
use crate::vocab_loss::blocks::{Head, block_rows, log_sum_exp};

pub fn forward(options: &Options, [hidden, weight]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, vocabulary) = (hidden.shape[0], weight.shape[0]);
    let all: Vec<usize> = (0..rows).collect();
    let size = block_rows(vocabulary).min(rows);
    let mut head = Head::new(hidden, weight, options.packed.clone(), size);
    let mut scores = vec![0.0; 2 * rows];
    let (log_probabilities, greedy) = scores.split_at_mut(rows);
    for block in all.chunks(size.max(1)) {
        let first = block[0];
        let logits = &*head.logits(block);
        let places = first..first + block.len();
        let outputs = [(&mut log_probabilities[places.clone()], 1), (&mut greedy[places], 1)];
        split_rows(block.len(), 1, outputs, |range, [log_probabilities, greedy]| {
            for (i, row) in range.enumerate() {
                let logits = &logits[row * vocabulary..][..vocabulary];
                let target = options.targets[first + row] as usize;
                let (log_sum, largest) = log_sum_exp(logits);
                log_probabilities[i] = logits[target] - log_sum;
                let chosen = logits[target] == largest && !logits[..target].contains(&largest);
                greedy[i] = f32::from(u8::from(chosen));
            }
        });
    }
    (Array::new(scores, &[2, rows]), Array::nothing())
}

pub fn backward(
    _: &Options,
    _: [bool; 2],
    _: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    _: View<'_>,
) -> [Option<Array>; 2] {
    unreachable!("the public function takes its inputs out of the graph")
}
