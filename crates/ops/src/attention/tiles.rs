//! CPU with AMX, or AVX512-BF16 where that pays: a prompt's chunk over a cache's pages with products of
//! bf16 operands, where they are allowed. A page's keys and values are packed once for all the queries
//! that see them.

use super::Options;
use super::forward::{Block, KEYS, QUERIES, Sizes, Task, finish, online_softmax, run};
use crate::cpu::bf16::{Left, Rights, TILE, product_of_tiles, tile_rows, tiles_pay};
use crate::cpu::{Matrix, View};
use std::ops::Range;

/// Bytes of packed keys and values that are held at a time, but for a single group that has more.
const HELD: usize = 8 << 20;

/// Whether the sizes fit: whole tiles, and queries enough to fill one.
pub fn suit(sizes: &Sizes, page: usize) -> bool {
    let whole = sizes.size.is_multiple_of(TILE) && page.is_multiple_of(TILE) && page <= KEYS;
    whole && sizes.time >= TILE && tiles_pay()
}

/// The tasks, which come head by head, of a single sequence.
pub fn blocks(options: &Options, sizes: Sizes, q: View<'_>, pages: &[&[f32]], page: usize, tasks: &[Task]) -> Vec<Block> {
    let Sizes { heads, groups, size, .. } = sizes;
    let seen = seen(options, tasks, page);
    let operands = 2 * seen.len();
    let each = (HELD / (operands * size * page * 2).max(1)).clamp(1, groups);
    let tasks_of_a_group = tasks.len() / groups;
    let mut blocks = Vec::with_capacity(tasks.len());
    for first in (0..groups).step_by(each) {
        let held = first..(first + each).min(groups);
        // Keys [N, P] and values [P, N] of a group's pages, in turn.
        let packed = Rights::pack(held.len() * operands, page * size, |i| {
            let plane = (first + i / operands) * page * size;
            let data = &pages[2 * seen.start + i % operands][plane..][..page * size];
            if i % 2 == 0 { Matrix::new(data, size, page) } else { Matrix::new(data, page, size) }
        });
        let tasks = &tasks[held.start * tasks_of_a_group..held.end * tasks_of_a_group];
        blocks.extend(run(sizes.fork(), tasks.to_vec(), |task| {
            let group = task.1 / (heads / groups) - first;
            let operand = |page: usize, values: usize| packed.get(group * operands + 2 * (page - seen.start) + values);
            block(options, sizes, q, page, operand, task)
        }));
    }
    blocks
}

/// The pages that any query sees.
fn seen(options: &Options, tasks: &[Task], page: usize) -> Range<usize> {
    let ranges = tasks.iter().flat_map(|(batch, _, times)| {
        options.visible.runs().map(|run| options.visible.block(run, *batch, times.clone()).1).filter(|seen| !seen.is_empty())
    });
    let [start, end] = ranges.fold([usize::MAX, 0], |[start, end], seen| [start.min(seen.start), end.max(seen.end)]);
    start.min(end) / page..end.div_ceil(page)
}

fn block<'a>(
    options: &Options,
    sizes: Sizes,
    q: View<'_>,
    page: usize,
    operand: impl Fn(usize, usize) -> &'a [u32],
    (batch, head, times): Task,
) -> Block {
    let (count, size) = (times.len(), sizes.size);
    let rows = count.next_multiple_of(tile_rows());
    let mut queries = Left::new(rows, size);
    queries.pack(sizes.queries(q, batch, head, times.clone()));
    let mut weights = Left::new(rows, page);
    let mut y = vec![0.0; rows * size];
    let mut largest = vec![f32::NEG_INFINITY; count];
    let mut total = vec![0.0; count];
    let each = KEYS / page;
    let mut scores = vec![0.0; QUERIES.next_multiple_of(TILE) * each * page];
    for run in options.visible.runs() {
        let (ranges, seen) = options.visible.block(run, batch, times.clone());
        let pages = seen.start / page..seen.end.div_ceil(page);
        for first in pages.clone().step_by(each) {
            let held = first..(first + each).min(pages.end);
            let columns = held.len() * page;
            let scores = &mut scores[..rows * columns];
            for (at, page_here) in held.clone().enumerate() {
                product_of_tiles(&mut scores[at * page..], columns, false, &queries, operand(page_here, 0));
            }
            let seen_scores = &mut scores[..count * columns];
            online_softmax(seen_scores, columns, first * page, &ranges, options.scale, &mut largest, &mut total, &mut y[..count * size]);
            for (at, page_here) in held.enumerate() {
                weights.pack(Matrix::strided(&scores[at * page..], count, page, columns));
                product_of_tiles(&mut y, size, true, &weights, operand(page_here, 1));
            }
        }
    }
    y.truncate(count * size);
    finish(&mut y, &mut largest, &total);
    (y, largest)
}
