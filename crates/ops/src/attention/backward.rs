//! CPU: recomputes the probabilities block by block from the saved log-sum-exp; one task a query
//! head. Heads that share keys are summed afterwards, in order.

use super::Options;
use super::forward::{KEYS, QUERIES, Sizes, row_dots, run};
use crate::cpu::{Array, Matrix, View, exp, simd, split_rows, zeros};
use crate::linear::product_in_cache;
use std::ops::Range;

pub fn backward(
    options: &Options,
    needs: [bool; 3],
    inputs: [View<'_>; 3],
    output: View<'_>,
    log_sums: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 3] {
    let [q, k, v] = inputs;
    let sizes = Sizes::new(q, k);
    let Sizes { batch, time, heads, keys, groups, size } = sizes;
    let tasks: Vec<_> = (0..batch * heads).map(|task| (task / heads, task % heads)).collect();
    let parts = run(sizes.fork(), tasks, |(b, head)| one_head(options, sizes, needs, inputs, output, log_sums, dy, b, head));
    let gather = |which: usize, length: usize, outer: usize| {
        let (repeat, width) = (heads / outer, outer * size);
        let mut out = zeros(batch * length * width);
        split_rows(batch * length, 1 + (1 << 16) / width.max(1), [(&mut out, width)], |rows, [out]| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width.max(1))) {
                let (b, t) = (row / length, row % length);
                for (head, out) in out.chunks_exact_mut(size).enumerate() {
                    for part in &parts[b * heads + head * repeat..][..repeat] {
                        for (out, part) in out.iter_mut().zip(&part[which][t * size..]) {
                            *out += part;
                        }
                    }
                }
            }
        });
        out
    };
    [
        needs[0].then(|| Array::new(gather(0, time, heads), q.shape)),
        needs[1].then(|| Array::new(gather(1, keys, groups), k.shape)),
        needs[2].then(|| Array::new(gather(2, keys, groups), v.shape)),
    ]
}

/// `[dq, dk, dv]` of one query head, `[T, N]`, `[S, N]`, `[S, N]`; empty where not needed.
fn one_head(
    options: &Options,
    sizes: Sizes,
    needs: [bool; 3],
    [q, k, v]: [View<'_>; 3],
    output: View<'_>,
    log_sums: View<'_>,
    dy: View<'_>,
    batch: usize,
    head: usize,
) -> [Vec<f32>; 3] {
    let Sizes { time, keys, size, heads, .. } = sizes;
    let lengths = [time, keys, keys];
    let mut gradients = [0, 1, 2].map(|i| vec![0.0; if needs[i] { lengths[i] * size } else { 0 }]);
    let [dq, dk, dv] = &mut gradients;
    let log_sums = &log_sums.data[(batch * heads + head) * time..][..time];
    let mut scores = vec![0.0; QUERIES * KEYS];
    let mut dscores = vec![0.0; QUERIES * KEYS];
    for first in (0..time).step_by(QUERIES) {
        let times = first..(first + QUERIES).min(time);
        let count = times.len();
        let queries = sizes.queries(q, batch, head, times.clone());
        let upstream = sizes.queries(dy, batch, head, times.clone());
        // sum_s p ds of the softmax's gradient is dy . y.
        let mut along = vec![0.0; count];
        for (along, t) in along.iter_mut().zip(times.clone()) {
            let row = ((batch * time + t) * heads + head) * size;
            let one = std::slice::from_mut(along);
            row_dots(&output.data[row..][..size], &dy.data[row..][..size], size, one);
        }
        for run in options.visible.runs() {
            let (ranges, seen) = options.visible.block(run, batch, times.clone());
            for start in seen.clone().step_by(KEYS) {
                let block = start..(start + KEYS).min(seen.end);
                let columns = block.len();
                let (scores, dscores) = (&mut scores[..count * columns], &mut dscores[..count * columns]);
                let block_keys = sizes.keys(k, batch, head, block.clone());
                product_in_cache(scores, columns, false, queries, block_keys.t());
                if needs[0] || needs[1] {
                    product_in_cache(dscores, columns, false, upstream, sizes.keys(v, batch, head, block.clone()).t());
                }
                let log_sums = &log_sums[times.clone()];
                softmax_gradient(scores, dscores, columns, start, &ranges, options.scale, log_sums, &along);
                let probabilities = Matrix::new(scores, count, columns);
                let dscores = Matrix::new(dscores, count, columns);
                let rows = block.start * size..block.end * size;
                if needs[2] {
                    product_in_cache(&mut dv[rows.clone()], size, true, probabilities.t(), upstream);
                }
                if needs[1] {
                    product_in_cache(&mut dk[rows], size, true, dscores.t(), queries);
                }
                if needs[0] {
                    product_in_cache(&mut dq[times.start * size..times.end * size], size, true, dscores, block_keys);
                }
            }
        }
    }
    gradients
}

simd! {
    // scores become p = e^(scale score - log_sum); dscores, dy . v on entry, become
    // scale p (dscores - along). Both are zero where a key is not visible.
    fn softmax_gradient(
        scores: &mut [f32],
        dscores: &mut [f32],
        columns: usize,
        start: usize,
        ranges: &[Range<usize>],
        scale: f32,
        log_sums: &[f32],
        along: &[f32],
    ) {
        let rows = scores.chunks_exact_mut(columns).zip(dscores.chunks_exact_mut(columns));
        for (row, (range, (scores, dscores))) in ranges.iter().zip(rows).enumerate() {
            let from = range.start.saturating_sub(start).min(columns);
            let to = range.end.saturating_sub(start).min(columns).max(from);
            for x in [&mut *scores, &mut *dscores] {
                x[..from].fill(0.0);
                x[to..].fill(0.0);
            }
            let (log_sum, along) = (log_sums[row], along[row]);
            for (s, d) in scores[from..to].iter_mut().zip(&mut dscores[from..to]) {
                let p = exp::<FMA>(*s * scale - log_sum);
                *s = p;
                *d = scale * p * (*d - along);
            }
        }
    }
}
