//! CPU: online softmax over blocks of keys; one task a query head and block of queries.

use super::pages::Page;
use super::{Options, rounded};
use crate::cpu::{Array, Matrix, View, dot, exp, maximum, multiply_add, replace, simd, split_rows, written};
use crate::linear::product_in_cache;
use rayon::prelude::*;
use std::ops::Range;

/// Queries a block.
pub const QUERIES: usize = 64;
/// Keys a block.
pub const KEYS: usize = 256;
/// Multiplications that are worth a fork.
pub const FORK: usize = 1 << 19;

/// Sizes of one call.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub keys: usize,
    pub groups: usize,
    pub size: usize,
}

impl Sizes {
    pub fn new(q: View<'_>, k: View<'_>) -> Self {
        let (&[batch, time, heads, size], &[_, keys, groups, _]) = (q.shape, k.shape) else {
            unreachable!("the operator takes four dimensions")
        };
        Self { batch, time, heads, keys, groups, size }
    }

    /// Whether the work is worth a fork.
    pub fn fork(&self) -> bool {
        self.batch * self.time * self.heads * self.keys * self.size >= FORK
    }

    /// Rows `times` of one head of a `[B, T, H, N]` tensor.
    pub fn queries<'a>(&self, x: View<'a>, batch: usize, head: usize, times: Range<usize>) -> Matrix<'a> {
        Self::rows(x, self.heads, self.size, batch * self.time + times.start, head, times.len())
    }

    /// Rows `keys` of the key head that serves query head `head`, of a `[B, S, G, N]` tensor.
    pub fn keys<'a>(&self, x: View<'a>, batch: usize, head: usize, keys: Range<usize>) -> Matrix<'a> {
        let group = head / (self.heads / self.groups);
        Self::rows(x, self.groups, self.size, batch * self.keys + keys.start, group, keys.len())
    }

    fn rows(x: View<'_>, heads: usize, size: usize, first: usize, head: usize, count: usize) -> Matrix<'_> {
        Matrix::strided(&x.data[(first * heads + head) * size..], count, size, heads * size)
    }
}

/// Runs `work` on every task, over the thread pool where that pays; results in order.
pub fn run<T: Send, R: Send>(fork: bool, tasks: Vec<T>, work: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    if fork { tasks.into_par_iter().map(work).collect() } else { tasks.into_iter().map(work).collect() }
}

pub fn forward(options: &Options, [q, k, v]: [View<'_>; 3]) -> (Array, Array) {
    over(options, Sizes::new(q, k), q, Held::Rows { k, v })
}

/// Keys and values, as they lie in memory.
#[derive(Clone, Copy)]
pub enum Held<'a> {
    /// Both `[B, S, G, N]`.
    Rows { k: View<'a>, v: View<'a> },
    /// Of one sequence, in pages of so many tokens: keys and values, in turn.
    Pages { pages: &'a [Page<'a>], tokens: usize },
}

impl<'a> Held<'a> {
    /// The run of keys that lies in one piece from key `from` on, before `end`: its length, its keys `[N, S]`
    /// and its values `[S, N]`, for one query head.
    fn piece(&self, sizes: &Sizes, batch: usize, head: usize, from: usize, end: usize) -> (usize, Matrix<'a>, Matrix<'a>) {
        match *self {
            Self::Rows { k, v } => {
                let keys = |x| sizes.keys(x, batch, head, from..end);
                (end - from, keys(k).t(), keys(v))
            }
            Self::Pages { pages, tokens } => {
                let Sizes { heads, groups, size, .. } = *sizes;
                let (page, offset) = (from / tokens, from % tokens);
                let count = (end - from).min(tokens - offset);
                let plane = |page: Page<'a>| match page.head(head / (heads / groups), tokens * size) {
                    Page::Whole(plane) => plane,
                    Page::Rounded(_) => unreachable!("`over` looks for them"),
                };
                let keys = Matrix::strided(&plane(pages[2 * page])[offset..], size, count, tokens);
                let values = Matrix::new(&plane(pages[2 * page + 1])[offset * size..], count, size);
                (count, keys, values)
            }
        }
    }
}

/// [`forward`] over keys and values wherever they lie.
pub fn over(options: &Options, sizes: Sizes, q: View<'_>, held: Held<'_>) -> (Array, Array) {
    let Sizes { batch, time, heads, size, .. } = sizes;
    let starts: Vec<usize> = (0..time).step_by(QUERIES).collect();
    let mut tasks: Vec<Task> = Vec::with_capacity(batch * heads * starts.len());
    for b in 0..batch {
        for head in 0..heads {
            // The latest queries see the most keys: long tasks first.
            tasks.extend(starts.iter().rev().map(|&start| (b, head, start..(start + QUERIES).min(time))));
        }
    }
    let blocks = match held {
        Held::Pages { pages: pages @ [Page::Rounded(_), ..], tokens } => {
            run(sizes.fork(), tasks, |task| rounded::block(options, sizes, q, pages, tokens, task))
        }
        _ => run(sizes.fork(), tasks, |task| block(options, sizes, q, held, task)),
    };
    let place = |b: usize, head: usize, t: usize| &blocks[(b * heads + head) * starts.len() + (starts.len() - 1 - t / QUERIES)];
    let width = heads * size;
    let y = written(q.data.len(), |y| {
        split_rows(batch * time, 1 + (1 << 16) / width.max(1), [(y, width)], |rows, [y]| {
            for (row, y) in rows.zip(y.chunks_exact_mut(width.max(1))) {
                let (b, t) = (row / time, row % time);
                for (head, y) in y.chunks_exact_mut(size).enumerate() {
                    y.write_copy_of_slice(&place(b, head, t).0[t % QUERIES * size..][..size]);
                }
            }
        });
    });
    let saved = if options.save {
        let mut log_sums = Vec::with_capacity(batch * heads * time);
        for b in 0..batch {
            for head in 0..heads {
                for &start in &starts {
                    log_sums.extend_from_slice(&place(b, head, start).1);
                }
            }
        }
        Array::new(log_sums, &[batch, heads, time])
    } else {
        Array::nothing()
    };
    (Array::new(y, q.shape), saved)
}

/// A sequence, a query head, a block of queries.
pub type Task = (usize, usize, Range<usize>);
/// Output `[times, N]` of one task, and log-sum-exp of its scaled scores `[times]`.
pub type Block = (Vec<f32>, Vec<f32>);

fn block(options: &Options, sizes: Sizes, q: View<'_>, held: Held<'_>, (batch, head, times): Task) -> Block {
    let (count, size) = (times.len(), sizes.size);
    let queries = sizes.queries(q, batch, head, times.clone());
    let mut y = vec![0.0; count * size];
    let mut largest = vec![f32::NEG_INFINITY; count];
    let mut total = vec![0.0; count];
    let mut scores = Vec::new();
    for run in options.visible.runs() {
        let (ranges, seen) = options.visible.block(run, batch, times.clone());
        scores.resize(scores.len().max(count * KEYS.min(seen.len())), 0.0);
        for start in seen.clone().step_by(KEYS) {
            let end = (start + KEYS).min(seen.end);
            let columns = end - start;
            let scores = &mut scores[..count * columns];
            let mut at = start;
            while at < end {
                let (keys, k, _) = held.piece(&sizes, batch, head, at, end);
                product_in_cache(&mut scores[at - start..], columns, false, queries, k);
                at += keys;
            }
            online_softmax(scores, columns, start, &ranges, options.scale, &mut largest, &mut total, &mut y);
            let mut at = start;
            while at < end {
                let (keys, _, v) = held.piece(&sizes, batch, head, at, end);
                let weights = Matrix::strided(&scores[at - start..], count, keys, columns);
                product_in_cache(&mut y, size, true, weights, v);
                at += keys;
            }
        }
    }
    finish(&mut y, &mut largest, &total);
    (y, largest)
}

/// The part of a range that lies in `columns` from `start` on, counted from there.
#[inline(always)]
pub fn within(range: &Range<usize>, start: usize, columns: usize) -> Range<usize> {
    let from = range.start.saturating_sub(start).min(columns);
    from..range.end.saturating_sub(start).min(columns).max(from)
}

simd! {
    // Replaces scores by e^(scale score - largest so far), zero where not visible, and rescales
    // the sums gathered under a smaller `largest`.
    pub fn online_softmax(
        scores: &mut [f32],
        columns: usize,
        start: usize,
        ranges: &[Range<usize>],
        scale: f32,
        largest: &mut [f32],
        total: &mut [f32],
        y: &mut [f32],
    ) {
        let size = y.len() / ranges.len();
        let seen = |range: &Range<usize>| within(range, start, columns);
        // All maxima first: otherwise every row would wait for its own.
        for (row, (range, scores)) in ranges.iter().zip(scores.chunks_exact(columns)).enumerate() {
            let before = largest[row];
            let now = before.max(scale * maximum(&scores[seen(range)]));
            if now > before {
                let correction = if before == f32::NEG_INFINITY { 0.0 } else { exp::<FMA>(before - now) };
                total[row] *= correction;
                for y in &mut y[row * size..][..size] {
                    *y *= correction;
                }
                largest[row] = now;
            }
        }
        for (row, (range, scores)) in ranges.iter().zip(scores.chunks_exact_mut(columns)).enumerate() {
            let seen = seen(range);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let now = largest[row];
            total[row] += replace(&mut scores[seen], |s| exp::<FMA>(multiply_add::<FMA>(scale, s, -now)));
        }
    }

    // Divides by the totals; `largest` becomes the log-sum-exp.
    pub fn finish(y: &mut [f32], largest: &mut [f32], total: &[f32]) {
        let size = y.len() / total.len();
        for (row, &total) in total.iter().enumerate() {
            if total == 0.0 {
                largest[row] = 0.0;
                continue;
            }
            largest[row] += total.ln();
            let inverse = 1.0 / total;
            for y in &mut y[row * size..][..size] {
                *y *= inverse;
            }
        }
    }

    /// Dot products of the rows of two blocks.
    pub fn row_dots(a: &[f32], b: &[f32], size: usize, out: &mut [f32]) {
        for (row, out) in out.iter_mut().enumerate() {
            *out = dot::<FMA>(&a[row * size..][..size], &b[row * size..][..size]);
        }
    }
}
