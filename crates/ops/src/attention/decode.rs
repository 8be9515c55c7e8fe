//! CPU: new tokens against all that their sequence has read, where it lies: [`attention_over`] takes a
//! chunk of one sequence, [`attention_step`] the newest token of each of several.
//!
//! In a step each key head is read once for all the query heads that share it, in pieces of a fixed
//! number of keys, so that a long sequence occupies every thread and its result depends neither on
//! their number nor on the other sequences.

use super::AttentionOptions;
use super::forward::{FORK, Held, Sizes, over, run};
use super::pages::{Cache, Lent, Page, PageSizes};
use crate::cpu::{Matrix, View, exp, maximum, replace, simd};
use crate::glue::{on_cpu, slice};
use burn::tensor::{Tensor, TensorData};
use std::ops::Range;

/// Keys that one task reads, about.
const PIECE: usize = 256;

/// [`attention`](super::attention) of the newest token of each of several sequences, `q`
/// `[B, 1, H, N]`, scaled by `N^(-1/2)`. With a window only the last so many keys are seen. A row
/// does not depend on the others.
///
/// # Panics
/// When there is not one cache a row, or pages do not hold what their length says.
pub fn attention_step(q: Tensor<4>, caches: &[Cache<'_>], window: Option<usize>) -> Tensor<4> {
    let [batch, time, heads, size] = q.dims();
    assert_eq!((batch, time), (caches.len(), 1), "attention_step: one query and one cache a sequence");
    if !on_cpu(&q) {
        let rows = caches.iter().enumerate().map(|(row, cache)| {
            let mask = window.map_or(super::Mask::Causal, super::Mask::Window);
            let options = AttentionOptions { mask, ..Default::default() };
            super::attention(q.clone().narrow(0, row, 1), cache.keys(), cache.values(), options)
        });
        return Tensor::cat(rows.collect(), 0);
    }
    let device = q.device();
    let lent: Vec<Lent> = caches.iter().map(|cache| Lent::of(cache.pages)).collect();
    let pages: Vec<Vec<Page<'_>>> = lent.iter().map(Lent::pages).collect();
    let Some(PageSizes { groups, tokens: page, .. }) = caches.first().and_then(Cache::sizes) else {
        panic!("attention_step: a sequence's own key is in its cache");
    };
    assert!(heads.is_multiple_of(groups), "attention_step: {heads} query heads over {groups} key heads");
    let alike = |cache: &Cache<'_>| cache.sizes().is_some_and(|s| (s.groups, s.tokens, s.size) == (groups, page, size));
    assert!(caches.iter().all(alike), "attention_step: caches of other sizes than the queries, or than each other");
    assert!(window != Some(0), "attention_step: a window of no token");
    let sizes = Step { repeat: heads / groups, size, page, scale: (size as f32).powf(-0.5) };
    let each = (PIECE / page).max(1);
    let mut tasks = Vec::new();
    for (row, cache) in caches.iter().enumerate() {
        let held = cache.pages.len() / 2;
        assert!(cache.length <= held * page, "attention_step: the pages hold fewer tokens than the cache's length");
        let seen = window.map_or(0, |window| cache.length.saturating_sub(window))..cache.length;
        for group in 0..groups {
            let pieces = (seen.start / page..seen.end.div_ceil(page)).step_by(each);
            tasks.extend(pieces.map(|first| (row, group, first..(first + each).min(held), seen.clone())));
        }
    }
    let q = slice(q);
    let work: usize = caches.iter().map(|cache| cache.length * heads * size).sum();
    let width = sizes.repeat * size;
    let parts = run(work >= FORK, tasks, |(row, group, which, seen)| {
        let task = row * groups + group;
        let planes: Vec<_> =
            pages[row][2 * which.start..2 * which.end].iter().map(|held| held.head(group, page * size)).collect();
        let from = which.start * page;
        let own = seen.start.saturating_sub(from)..(seen.end - from).min(which.len() * page);
        (task, Part::over(&q.as_slice()[task * width..][..width], &planes, own, sizes))
    });
    let mut y = vec![0.0; batch * heads * size];
    for (task, parts) in parts.chunk_by(|a, b| a.0 == b.0).map(|parts| (parts[0].0, parts)) {
        join(parts.iter().map(|(_, part)| part), size, &mut y[task * width..][..width]);
    }
    Tensor::from_data(TensorData::new(y, [batch, 1, heads, size]), &device)
}

/// [`attention`](super::attention) of the newest tokens of one sequence, `q` `[1, T, H, N]`, to all that it
/// has read, where it lies. Over rounded pages, queries and weights of the values may be rounded too: their
/// products are of bf16 operands (f32 sums) where the processor has tiles for them. Not differentiable.
///
/// # Panics
/// As [`attention`](super::attention), and when the pages do not hold what the cache's length says.
pub fn attention_over(q: Tensor<4>, cache: Cache<'_>, options: AttentionOptions) -> Tensor<4> {
    if !on_cpu(&q) {
        return super::attention(q, cache.keys(), cache.values(), options);
    }
    let Some(PageSizes { groups, tokens, size }) = cache.sizes() else {
        panic!("attention_over: the pages of one sequence, its own keys among them");
    };
    assert!(
        cache.length <= cache.pages.len() / 2 * tokens,
        "attention_over: the pages hold fewer tokens than the cache's length"
    );
    let [batch, time, heads, _] = q.dims();
    let options = options.resolve(&q, [1, cache.length, groups, size], false);
    let device = q.device();
    let lent = Lent::of(cache.pages);
    let q = slice(q);
    let sizes = Sizes { batch, time, heads, keys: cache.length, groups, size };
    let shape = [batch, time, heads, size];
    let q = View { data: q.as_slice(), shape: &shape };
    let (y, _) = over(&options, sizes, q, Held::Pages { pages: &lent.pages(), tokens });
    Tensor::from_data(TensorData::new(y.data, shape), &device)
}

/// Sizes of every task of a step.
#[derive(Clone, Copy)]
struct Step {
    /// Query heads that share a key head.
    repeat: usize,
    /// Channels of a head.
    size: usize,
    /// Tokens of a page.
    page: usize,
    scale: f32,
}

/// What a piece of the keys gives: with `s_i` its scores and `m` their maximum,
/// `sum_i exp(s_i - m) v_i` and `sum_i exp(s_i - m)`.
struct Part {
    /// `[R, N]`.
    y: Vec<f32>,
    /// `[R]`: maximum and sum.
    scores: Vec<(f32, f32)>,
}

impl Part {
    /// The query heads `q` `[R, N]` over the tokens `seen` of some pages, keys and values in turn.
    fn over(q: &[f32], planes: &[Page<'_>], seen: Range<usize>, sizes: Step) -> Self {
        let Step { repeat, size, page, scale } = sizes;
        let keys = planes.len() / 2 * page;
        let mut weights = vec![0.0; repeat * keys];
        for (at, pair) in planes.chunks_exact(2).enumerate() {
            pair[0].product(&mut weights[at * page..], keys, false, Matrix::new(q, repeat, size), page);
        }
        let mut scores = Vec::with_capacity(repeat);
        for weights in weights.chunks_exact_mut(keys) {
            weights[..seen.start].fill(0.0);
            weights[seen.end..].fill(0.0);
            scores.push(exponentials(scale, &mut weights[seen.clone()]));
        }
        let mut y = vec![0.0; repeat * size];
        for (at, pair) in planes.chunks_exact(2).enumerate() {
            let weights = Matrix::strided(&weights[at * page..], repeat, page, keys);
            pair[1].product(&mut y, size, true, weights, size);
        }
        Self { y, scores }
    }
}

/// Puts the pieces of one group's heads together, in their order.
fn join<'a>(parts: impl Iterator<Item = &'a Part> + Clone, size: usize, y: &mut [f32]) {
    for (head, y) in y.chunks_exact_mut(size).enumerate() {
        let largest = parts.clone().map(|part| part.scores[head].0).fold(f32::NEG_INFINITY, f32::max);
        let factor = |part: &Part| (part.scores[head].0 - largest).exp();
        let total: f32 = parts.clone().map(|part| factor(part) * part.scores[head].1).sum();
        for part in parts.clone() {
            let factor = factor(part) / total;
            for (y, x) in y.iter_mut().zip(&part.y[head * size..]) {
                *y += factor * x;
            }
        }
    }
}

simd! {
    // `exp(scale s - m)` of every score, with the maximum `m` and the sum.
    fn exponentials(scale: f32, scores: &mut [f32]) -> (f32, f32) {
        let largest = scale * maximum(scores);
        (largest, replace(scores, |s| exp::<FMA>(scale * s - largest)))
    }
}
