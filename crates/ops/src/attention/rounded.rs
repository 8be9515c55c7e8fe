//! CPU: new tokens over rounded pages, multiplied as they lie. A chunk's queries and weights are rounded too where
//! the processor has register tiles for products of bf16 operands and that pays; elsewhere they stay f32.

use super::Options;
use super::forward::{Block, Sizes, Task, finish, online_softmax, within};
use super::pages::Page;
use crate::cpu::bf16::{Left, product_of_tiles, tile_rows, tiles_pay};
use crate::cpu::pairs::{COLUMNS, product_by_panels};
use crate::cpu::{Matrix, View};
use std::cell::RefCell;
use std::ops::Range;

/// Keys a block.
const KEYS: usize = 512;

/// One task of [`over`](super::forward::over), for pages of `page` tokens.
pub fn block(options: &Options, sizes: Sizes, q: View<'_>, pages: &[Page<'_>], page: usize, (batch, head, times): Task) -> Block {
    let queries = sizes.queries(q, batch, head, times.clone());
    let count = times.len();
    // At most as many pages as a product takes right operands.
    let most = (KEYS / page).clamp(1, 16) * page;
    let mut products = if tiles_pay() { Products::tiles(queries, most) } else { Products::Plain(queries) };
    let group = head / (sizes.heads / sizes.groups);
    let plane = |which: usize| match pages[which].head(group, page * sizes.size) {
        Page::Rounded(words) => words,
        Page::Whole(_) => unreachable!("pages are of one kind"),
    };
    let mut y = vec![0.0; products.rows() * sizes.size];
    let mut largest = vec![f32::NEG_INFINITY; count];
    let mut total = vec![0.0; count];
    let mut operands: Vec<&[u32]> = Vec::with_capacity(most / page);
    let mut scores = SCORES.take();
    scores.resize(scores.len().max(products.rows() * most), 0.0);
    for run in options.visible.runs() {
        let (ranges, seen) = options.visible.block(run, batch, times.clone());
        // Whole pages: what no query sees gets no weight.
        let (seen_end, end) = (seen.end, seen.end.next_multiple_of(page));
        for start in (seen.start / page * page..end).step_by(most) {
            let held = start / page..(start + most).min(end) / page;
            let seen: Vec<_> = ranges.iter().map(|range| within(range, start, held.len() * page)).collect();
            operands.clear();
            // Of the last page only the panels that hold a key that is seen.
            let panels = |at: usize| (seen_end - at * page).next_multiple_of(COLUMNS).min(page);
            operands.extend(held.clone().map(|at| &plane(2 * at)[..panels(at) * sizes.size / 2]));
            products.scores(&mut scores, &operands, page);
            operands.clear();
            operands.extend(held.map(|page| plane(2 * page + 1)));
            products.values(&mut scores, &operands, page, &seen, options.scale, [&mut largest, &mut total, &mut y]);
        }
    }
    SCORES.set(scores);
    y.truncate(count * sizes.size);
    finish(&mut y, &mut largest, &total);
    (y, largest)
}

thread_local! {
    /// Memory for scores. Zeroing it for each of a prompt's thousands of blocks would show.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The two products of a block of queries, and the softmax between them.
enum Products<'a> {
    /// On register tiles, which may have more rows than there are queries.
    Tiles {
        queries: Left,
        weights: Left,
        rows: usize,
        count: usize,
    },
    Plain(Matrix<'a>),
}

impl<'a> Products<'a> {
    /// For at most so many keys at a time.
    fn tiles(q: Matrix<'a>, most: usize) -> Self {
        let (count, rows) = (q.height(), q.height().next_multiple_of(tile_rows()));
        let mut queries = Left::new(rows, q.width());
        queries.pack(q);
        Self::Tiles { queries, weights: Left::new(rows, most), rows, count }
    }

    /// Rows of scores and output.
    fn rows(&self) -> usize {
        match self {
            Self::Tiles { rows, .. } => *rows,
            Self::Plain(queries) => queries.height(),
        }
    }

    /// Scores `[rows, pages x page]` of the keys of some pages.
    fn scores(&self, scores: &mut [f32], keys: &[&[u32]], page: usize) {
        let columns = keys.len() * page;
        for (at, keys) in keys.iter().enumerate() {
            let out = &mut scores[at * page..];
            match self {
                Self::Tiles { queries, .. } => product_of_tiles(out, columns, false, queries, &[keys]),
                Self::Plain(queries) => product_by_panels(out, columns, false, *queries, keys),
            }
        }
    }

    /// Adds the values of the same pages to `y`, weighted, of the keys that each query sees; `largest` and `total` as
    /// of an online softmax.
    fn values(
        &mut self,
        scores: &mut [f32],
        values: &[&[u32]],
        page: usize,
        seen: &[Range<usize>],
        scale: f32,
        [largest, total, y]: [&mut [f32]; 3],
    ) {
        let (columns, size) = (values.len() * page, y.len() / self.rows());
        match self {
            Self::Tiles { weights, count, .. } => {
                let scores = Matrix::new(scores, *count, columns);
                weights.weigh(scores, seen, scale, [largest, total, &mut y[..*count * size]]);
                product_of_tiles(y, size, true, weights, values);
            }
            Self::Plain(queries) => {
                let rows = queries.height();
                online_softmax(&mut scores[..rows * columns], columns, 0, seen, scale, largest, total, y);
                for (at, values) in values.iter().enumerate() {
                    product_by_panels(y, size, true, Matrix::strided(&scores[at * page..], rows, page, columns), values);
                }
            }
        }
    }
}
