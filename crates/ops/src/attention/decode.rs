//! CPU: one query a row. Each key head is read once for all the query heads that share it.

use super::Options;
use super::forward::{FORK, Sizes, run};
use crate::cpu::{Array, View, dot, exp, maximum, multiply_add, simd, sum};
use crate::glue::{on_cpu, slice};
use burn::tensor::{Tensor, TensorData};
use std::ops::Range;

pub fn forward(options: &Options, sizes: Sizes, [q, k, v]: [View<'_>; 3]) -> Array {
    let Sizes { batch, keys, groups, size, heads, .. } = sizes;
    let repeat = heads / groups;
    let mut y = vec![0.0; batch * heads * size];
    let tasks = y.chunks_mut((repeat * size).max(1)).enumerate().collect();
    run(sizes.fork(), tasks, |(task, y)| {
        let (b, group) = (task / groups, task % groups);
        let of = b * keys * groups * size..(b + 1) * keys * groups * size;
        let q = &q.data[task * repeat * size..][..repeat * size];
        let page = Page { keys: &k.data[of.clone()], values: &v.data[of], rows: keys };
        over(q, &[page], options.visible.of(b, 0), group, groups, size, options.scale, y);
    });
    Array::new(y, q.shape)
}

/// What one sequence has read: keys and values in turn, `[1, P, G, N]` each, all full but the last.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// Keys, values, keys, values, ...
    pub pages: &'a [Tensor<4>],
    /// Tokens held, the query's own included.
    pub length: usize,
}

/// [`attention`](super::attention) of the newest token of each of several sequences, `q` `[B, 1, H, N]`, scaled by
/// `N^(-1/2)`: keys are read where they lie, page by page. With a window only the last so many keys
/// are seen. A row does not depend on the others.
///
/// # Panics
/// When there is not one cache a row, or pages do not hold what their length says.
pub fn attention_step(q: Tensor<4>, caches: &[Cache<'_>], window: Option<usize>) -> Tensor<4> {
    let [batch, time, heads, size] = q.dims();
    assert_eq!((batch, time), (caches.len(), 1), "attention_step: one query and one cache a sequence");
    if !on_cpu(&q) {
        let rows = caches.iter().enumerate().map(|(row, cache)| {
            let of = |first: usize| {
                let pages = cache.pages.iter().skip(first).step_by(2).cloned().collect();
                Tensor::cat(pages, 1).narrow(1, 0, cache.length)
            };
            let mask = window.map_or(super::Mask::Causal, super::Mask::Window);
            let options = super::AttentionOptions { mask, ..Default::default() };
            super::attention(q.clone().narrow(0, row, 1), of(0), of(1), options)
        });
        return Tensor::cat(rows.collect(), 0);
    }
    let groups = caches.first().map_or(1, |cache| cache.pages[0].dims()[2]);
    let repeat = heads / groups;
    let scale = (size as f32).powf(-0.5);
    let device = q.device();
    let owned: Vec<Vec<_>> = caches.iter().map(|cache| cache.pages.iter().cloned().map(slice).collect()).collect();
    let pages: Vec<Vec<Page<'_>>> = owned
        .iter()
        .zip(caches)
        .map(|(owned, cache)| {
            let mut left = cache.length;
            let pages = owned.chunks_exact(2).map(|pair| {
                let (keys, values) = (pair[0].as_slice(), pair[1].as_slice());
                let rows = (keys.len() / (groups * size)).min(left);
                left -= rows;
                Page { keys, values, rows }
            });
            let pages = pages.collect();
            assert_eq!(left, 0, "attention_step: the pages hold fewer tokens than the cache's length");
            pages
        })
        .collect();
    let q = slice(q);
    let mut y = vec![0.0; batch * heads * size];
    let tasks = y.chunks_mut((repeat * size).max(1)).enumerate().collect();
    let work: usize = caches.iter().map(|cache| cache.length * heads * size).sum();
    run(work >= FORK, tasks, |(task, y)| {
        let (b, group) = (task / groups, task % groups);
        let length = caches[b].length;
        let seen = window.map_or(0, |window| length.saturating_sub(window))..length;
        over(&q.as_slice()[task * repeat * size..][..repeat * size], &pages[b], seen, group, groups, size, scale, y);
    });
    Tensor::from_data(TensorData::new(y, [batch, 1, heads, size]), &device)
}

/// A run of keys and values, `[rows, G, N]` each.
#[derive(Clone, Copy)]
struct Page<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    rows: usize,
}

/// One group's query heads `q` `[R, N]` over the keys `seen`; rows of keys and values are
/// `groups * size` apart.
fn over(
    q: &[f32],
    pages: &[Page<'_>],
    seen: Range<usize>,
    group: usize,
    groups: usize,
    size: usize,
    scale: f32,
    y: &mut [f32],
) {
    let (repeat, stride) = (q.len() / size, groups * size);
    let mut weights = vec![0.0; repeat * seen.len()];
    // Of each page what is seen, and where its scores stand.
    let runs = || {
        let mut first = 0;
        let seen = seen.clone();
        pages.iter().filter_map(move |page| {
            let range = seen.start.max(first)..seen.end.min(first + page.rows);
            let (start, at) = (range.start.wrapping_sub(first), range.start.wrapping_sub(seen.start));
            first += page.rows;
            (range.start < range.end).then(|| (*page, start * stride + group * size, at, range.len()))
        })
    };
    for (page, from, at, rows) in runs() {
        score(q, &page.keys[from..], stride, scale, size, seen.len(), at, rows, &mut weights);
    }
    normalise(&mut weights, seen.len());
    for (page, from, at, rows) in runs() {
        gather(&page.values[from..], stride, size, seen.len(), at, rows, &weights, y);
    }
}

simd! {
    // `scores` is `[R, keys]`; these are its columns `at..at + rows`.
    fn score(
        q: &[f32], k: &[f32], stride: usize, scale: f32, size: usize, keys: usize, at: usize, rows: usize,
        scores: &mut [f32],
    ) {
        for row in 0..rows {
            let k = &k[row * stride..][..size];
            for (head, q) in q.chunks_exact(size).enumerate() {
                scores[head * keys + at + row] = scale * dot::<FMA>(q, k);
            }
        }
    }

    fn normalise(scores: &mut [f32], keys: usize) {
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
    }

    fn gather(
        v: &[f32], stride: usize, size: usize, keys: usize, at: usize, rows: usize, weights: &[f32], y: &mut [f32],
    ) {
        for row in 0..rows {
            let v = &v[row * stride..][..size];
            for (head, y) in y.chunks_exact_mut(size).enumerate() {
                let p = weights[head * keys + at + row];
                for (y, &v) in y.iter_mut().zip(v) {
                    *y = multiply_add::<FMA>(p, v, *y);
                }
            }
        }
    }
}
