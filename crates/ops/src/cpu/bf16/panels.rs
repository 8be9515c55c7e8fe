//! A product as a sweep of register tiles over packed panels, whatever the instruction.
//!
//! The right operand is packed once, in panels of columns; each thread packs the blocks of rows it
//! owns, small enough to stay in its L2, and sweeps all panels over them.

use crate::cpu::matmul::{Matrix, assume_written};
use crate::cpu::threads;
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

/// Bytes of packed rows a thread works on at a time.
const BLOCK_BYTES: usize = 384 << 10;
/// Elements of the largest register tile.
const LARGEST_TILE: usize = 32 * 32;

/// A register tile and the order of operands that it wants. Two neighbouring `k`, rounded, are one
/// word: a panel of P rows or columns is `k / 2 * P` words.
pub trait Kernel {
    /// Rows of the tile.
    const ROWS: usize;
    /// Columns of the tile.
    const COLUMNS: usize;
    /// Panels have a multiple of so many pairs, zero beyond `k`.
    const PAIRS: usize;
    /// Most `k` a pass takes.
    const DEPTH: usize;

    /// Rounds rows `start..start + count` of `from` into a panel; rows up to [`Kernel::ROWS`] are zero.
    ///
    /// # Safety
    /// The processor has the instructions.
    unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]);

    /// The same of columns; `from` is the right operand transposed.
    ///
    /// # Safety
    /// As above.
    unsafe fn pack_columns(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]);

    /// Prepares a thread for [`Kernel::tile`], for good.
    ///
    /// # Safety
    /// As above.
    unsafe fn enter() {}

    /// `out (+)= rows columns`, a whole tile whose rows are `stride` apart.
    ///
    /// # Safety
    /// After `enter`; both panels hold `pairs` steps, a multiple of
    /// [`Kernel::PAIRS`], and `out` a whole tile, of values with `keep`.
    unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool);
}

/// Room for packed panels, kept for the next product: fresh memory would cost a page fault
/// every 4 KiB, for a vocabulary's weight more than the packing itself.
struct Scratch {
    buffer: Vec<u32>,
    /// Where the first whole cache line begins, and how many words are meant.
    start: usize,
    words: usize,
}

/// Words of a cache line: a tile's rows and a vector's halves shall not lie in two.
const LINE: usize = 16;

static KEPT: Mutex<Vec<Vec<u32>>> = Mutex::new(Vec::new());

impl Scratch {
    /// `words` words of any content.
    fn take(words: usize) -> Self {
        let needed = words + LINE - 1;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest, to be grown.
        let fits = |v: &Vec<u32>| (v.len() < needed, if v.len() < needed { usize::MAX - v.len() } else { v.len() });
        let best = (0..kept.len()).min_by_key(|&i| fits(&kept[i]));
        let mut buffer = best.map_or_else(Vec::new, |i| kept.swap_remove(i));
        drop(kept);
        if buffer.len() < needed {
            buffer = vec![0; needed];
        }
        let start = buffer.as_ptr().align_offset(4 * LINE);
        Self { buffer, start, words }
    }

    fn words(&mut self) -> &mut [u32] {
        &mut self.buffer[self.start..][..self.words]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.buffer));
    }
}

type Out<'a> = &'a mut [MaybeUninit<f32>];

thread_local! {
    /// Panels of the products of one thread alone.
    static OWN: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// [`product`] on the calling thread, for operands in cache: no fork, no lock, no passes over `k`.
///
/// # Safety
/// As [`product`].
pub unsafe fn product_here<K: Kernel>(out: &mut [f32], out_stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>) {
    let (m, n) = (left.rows, right.columns);
    let pairs = left.columns.div_ceil(2).next_multiple_of(K::PAIRS);
    let (row_panel, column_panel) = (pairs * K::ROWS, pairs * K::COLUMNS);
    let columns_words = n.div_ceil(K::COLUMNS) * column_panel;
    let words = columns_words + m.div_ceil(K::ROWS) * row_panel;
    OWN.with_borrow_mut(|own| {
        if own.len() < words + LINE {
            *own = vec![0; words + LINE];
        }
        let start = own.as_ptr().align_offset(4 * LINE);
        let (columns, rows) = own[start..start + words].split_at_mut(columns_words);
        // SAFETY: the caller's conditions; panels and tiles as in `pass`.
        unsafe {
            for (j, to) in columns.chunks_mut(column_panel).enumerate() {
                K::pack_columns(right.t(), j * K::COLUMNS, (n - j * K::COLUMNS).min(K::COLUMNS), to);
            }
            for (i, to) in rows.chunks_mut(row_panel).enumerate() {
                K::pack_rows(left, i * K::ROWS, (m - i * K::ROWS).min(K::ROWS), to);
            }
            K::enter();
            sweep::<K>(pairs, rows, columns, assume_written(out), out_stride, keep, m, n);
        }
    });
}

/// `out (+)= left right`. Without `keep`, `out` is only written to.
///
/// # Safety
/// The processor has the instructions of `K`; `out` holds `left.rows` rows of `right.columns`,
/// `out_stride` apart, and with `keep` they have values.
pub unsafe fn product<K: Kernel>(out: Out<'_>, out_stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>) {
    let k = left.columns;
    let passes = k.div_ceil(K::DEPTH);
    let depth = k.div_ceil(passes.max(1)).next_multiple_of(2);
    for start in (0..k).step_by(depth.max(1)) {
        let range = start..(start + depth).min(k);
        // SAFETY: the caller's conditions; after the first pass `out` has values.
        unsafe { pass::<K>(out, out_stride, keep || start > 0, left.columns(range.clone()), right.rows(range)) };
    }
}

unsafe fn pass<K: Kernel>(out: Out<'_>, out_stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>) {
    let (m, n, threads) = (left.rows, right.columns, threads());
    let pairs = left.columns.div_ceil(2).next_multiple_of(K::PAIRS);
    let mut packed = Scratch::take(n.div_ceil(K::COLUMNS) * pairs * K::COLUMNS);
    let packed = packed.words();
    packed.par_chunks_mut(pairs * K::COLUMNS).enumerate().with_min_len(n.div_ceil(K::COLUMNS).div_ceil(4 * threads)).for_each(
        |(panel, to)| {
            let start = panel * K::COLUMNS;
            // SAFETY: the caller's conditions.
            unsafe { K::pack_columns(right.t(), start, (n - start).min(K::COLUMNS), to) }
        },
    );
    // Blocks of whole row panels, no larger than L2 allows, and enough of them to share out.
    let panels = m.div_ceil(K::ROWS);
    let in_cache = (BLOCK_BYTES / (pairs * K::ROWS * 4)).max(1);
    let blocks = panels.div_ceil(in_cache).next_multiple_of(threads);
    let rows = panels.div_ceil(blocks) * K::ROWS;
    out.par_chunks_mut(rows * out_stride).take(m.div_ceil(rows)).enumerate().for_each(|(index, out)| {
        let first = index * rows;
        let rows = rows.min(m - first);
        let mut block = Scratch::take(rows.div_ceil(K::ROWS) * pairs * K::ROWS);
        let block = block.words();
        for (panel, to) in block.chunks_mut(pairs * K::ROWS).enumerate() {
            let start = first + panel * K::ROWS;
            // SAFETY: as above.
            unsafe { K::pack_rows(left, start, (m - start).min(K::ROWS), to) };
        }
        // SAFETY: as above.
        unsafe { K::enter() };
        // SAFETY: the panels hold `pairs` steps, and `out` the block.
        unsafe { sweep::<K>(pairs, block, packed, out, out_stride, keep, rows, n) };
    });
}

/// All panels of columns over all panels of rows, `m` and `n` in all.
unsafe fn sweep<K: Kernel>(pairs: usize, rows: &[u32], columns: &[u32], out: Out<'_>, stride: usize, keep: bool, m: usize, n: usize) {
    for (j, columns) in columns.chunks(pairs * K::COLUMNS).enumerate() {
        let column = j * K::COLUMNS;
        for (i, panel) in rows.chunks(pairs * K::ROWS).enumerate() {
            let row = i * K::ROWS;
            let (height, width) = ((m - row).min(K::ROWS), (n - column).min(K::COLUMNS));
            let out = &mut out[row * stride + column..];
            // SAFETY: the panels hold `pairs` steps, and `out` the tile of height x width.
            unsafe {
                if height == K::ROWS && width == K::COLUMNS {
                    K::tile(pairs, panel, columns, out.as_mut_ptr().cast(), stride, keep);
                } else {
                    edge::<K>(pairs, panel, columns, out, stride, keep, height, width);
                }
            }
        }
    }
}

/// A tile at the edge: computed whole, stored in part.
unsafe fn edge<K: Kernel>(
    pairs: usize,
    rows: &[u32],
    columns: &[u32],
    out: Out<'_>,
    stride: usize,
    keep: bool,
    height: usize,
    width: usize,
) {
    let mut whole = [0.0f32; LARGEST_TILE];
    // SAFETY: the caller's conditions, and a tile of our own.
    unsafe { K::tile(pairs, rows, columns, whole.as_mut_ptr(), K::COLUMNS, false) };
    for (r, whole) in whole.chunks(K::COLUMNS).take(height).enumerate() {
        for (to, &sum) in out[r * stride..][..width].iter_mut().zip(whole) {
            // SAFETY: with `keep` the caller's output holds values.
            let before = if keep { unsafe { to.assume_init() } } else { 0.0 };
            to.write(before + sum);
        }
    }
}
