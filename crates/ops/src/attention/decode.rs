//! CPU: one query a row. Each key head is read once for all the query heads that share it.

use super::Options;
use super::forward::{Sizes, run};
use crate::cpu::{Array, View, dot, exp, maximum, multiply_add, simd, sum};

pub fn forward(options: &Options, sizes: Sizes, [q, k, v]: [View<'_>; 3]) -> Array {
    let Sizes { batch, keys, groups, size, heads, .. } = sizes;
    let repeat = heads / groups;
    let mut y = vec![0.0; batch * heads * size];
    let tasks = y.chunks_mut((repeat * size).max(1)).enumerate().collect();
    run(sizes.fork(), tasks, |(task, y)| {
        let (b, group) = (task / groups, task % groups);
        let seen = options.visible.of(b, 0);
        let first = ((b * keys + seen.start) * groups + group) * size;
        let q = &q.data[task * repeat * size..][..repeat * size];
        let mut scores = vec![0.0; repeat * seen.len()];
        if !seen.is_empty() {
            attend(q, &k.data[first..], &v.data[first..], groups * size, options.scale, size, &mut scores, y);
        }
    });
    Array::new(y, q.shape)
}

simd! {
    // `scores` is `[heads, keys]`; rows of `k` and `v` start `stride` apart.
    fn attend(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        stride: usize,
        scale: f32,
        size: usize,
        scores: &mut [f32],
        y: &mut [f32],
    ) {
        let repeat = q.len() / size;
        let keys = scores.len() / repeat;
        for key in 0..keys {
            let k = &k[key * stride..][..size];
            for (head, q) in q.chunks_exact(size).enumerate() {
                scores[head * keys + key] = scale * dot::<FMA>(q, k);
            }
        }
        for scores in scores.chunks_exact_mut(keys) {
            let largest = maximum(scores);
            for s in scores.iter_mut() {
                *s = exp(*s - largest);
            }
            let inverse = 1.0 / sum(scores);
            for s in scores.iter_mut() {
                *s *= inverse;
            }
        }
        for key in 0..keys {
            let v = &v[key * stride..][..size];
            for (head, y) in y.chunks_exact_mut(size).enumerate() {
                let p = scores[head * keys + key];
                for (y, &v) in y.iter_mut().zip(v) {
                    *y = multiply_add::<FMA>(p, v, *y);
                }
            }
        }
    }
}
