//! A product as a sweep of register tiles over packed panels, whatever the instruction.
//!
//! The right operand is packed once, in panels of columns; each thread packs the blocks of rows it
//! owns, small enough to stay in its L2, and sweeps all panels over them.

use crate::cpu::matmul::Matrix;
use crate::cpu::threads;
use rayon::prelude::*;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
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

/// Room for packed panels. What is needed for one product is kept for the next: fresh memory would
/// cost a page fault every 4 KiB, for a vocabulary's weight more than the packing itself.
#[derive(Debug)]
pub struct Scratch {
    buffer: Vec<u32>,
    /// Where the first whole cache line begins, and how many words are meant.
    start: usize,
    words: usize,
    /// Whether the memory goes back to where it came from.
    returns: bool,
}

/// Words of a cache line: a tile's rows and a vector's halves shall not lie in two.
const LINE: usize = 16;

static KEPT: Mutex<Vec<Vec<u32>>> = Mutex::new(Vec::new());

impl Scratch {
    /// `words` words of any content.
    pub fn take(words: usize) -> Self {
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
        Self { start: buffer.as_ptr().align_offset(4 * LINE), buffer, words, returns: true }
    }

    /// `words` zeros in memory of their own.
    pub fn own(words: usize) -> Self {
        let buffer = vec![0u32; words + LINE - 1];
        Self { start: buffer.as_ptr().align_offset(4 * LINE), buffer, words, returns: false }
    }

    pub fn words(&self) -> &[u32] {
        &self.buffer[self.start..][..self.words]
    }

    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.buffer[self.start..][..self.words]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.returns {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.buffer));
        }
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
            sweep::<K>(pairs, rows, columns, out.as_mut_ptr(), out_stride, keep, m, n);
        }
    });
}

/// A right operand in panels, for any number of products.
#[derive(Debug)]
pub struct Packed {
    words: Scratch,
    /// Rows and columns of the operand.
    k: usize,
    n: usize,
}

impl Packed {
    /// Over the thread pool. `lasting` operands get memory of their own.
    ///
    /// # Safety
    /// The processor has the instructions of `K`.
    pub unsafe fn new<K: Kernel>(right: Matrix<'_>, lasting: bool) -> Self {
        let (k, n) = (right.rows, right.columns);
        let sizes = || passes::<K>(k).map(|pass| panel_words::<K>(pass.len()) * n.div_ceil(K::COLUMNS));
        let mut words = if lasting { Scratch::own(sizes().sum()) } else { Scratch::take(sizes().sum()) };
        let mut rest = words.words_mut();
        for (range, size) in passes::<K>(k).zip(sizes()) {
            let (pass, after) = rest.split_at_mut(size);
            // SAFETY: the caller's condition.
            unsafe { pack_right::<K>(right.rows(range), pass) };
            rest = after;
        }
        Self { words, k, n }
    }

    /// Rows and columns of the operand.
    pub fn size(&self) -> [usize; 2] {
        [self.k, self.n]
    }
}

/// The ranges of `k` that are taken one after the other.
fn passes<K: Kernel>(k: usize) -> impl Iterator<Item = Range<usize>> {
    let depth = k.div_ceil(k.div_ceil(K::DEPTH).max(1)).next_multiple_of(2).max(1);
    (0..k).step_by(depth).map(move |start| start..(start + depth).min(k))
}

/// Words of a panel of columns.
fn panel_words<K: Kernel>(k: usize) -> usize {
    k.div_ceil(2).next_multiple_of(K::PAIRS) * K::COLUMNS
}

/// `out (+)= left right`. Without `keep`, `out` is only written to.
///
/// # Safety
/// The processor has the instructions of `K`; `out` holds `left.rows` rows of `right.columns`,
/// `out_stride` apart, and with `keep` they have values.
pub unsafe fn product<K: Kernel>(out: Out<'_>, out_stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>) {
    for range in passes::<K>(left.columns) {
        let mut words = Scratch::take(panel_words::<K>(range.len()) * right.columns.div_ceil(K::COLUMNS));
        let keep = keep || range.start > 0;
        // SAFETY: the caller's conditions; after the first pass `out` has values.
        unsafe {
            pack_right::<K>(right.rows(range.clone()), words.words_mut());
            pass::<K>(out, out_stride, keep, left.columns(range), words.words(), right.columns);
        }
    }
}

/// [`product`] with panels that [`Packed::new`] made for the same `K`.
///
/// # Safety
/// As [`product`]; `left.columns` is the operand's `k`.
pub unsafe fn product_packed<K: Kernel>(out: Out<'_>, out_stride: usize, keep: bool, left: Matrix<'_>, right: &Packed) {
    let mut rest = right.words.words();
    for range in passes::<K>(left.columns) {
        let (words, after) = rest.split_at(panel_words::<K>(range.len()) * right.n.div_ceil(K::COLUMNS));
        // SAFETY: as above.
        unsafe { pass::<K>(out, out_stride, keep || range.start > 0, left.columns(range), words, right.n) };
        rest = after;
    }
}

/// All panels of columns of one pass.
unsafe fn pack_right<K: Kernel>(right: Matrix<'_>, to: &mut [u32]) {
    let (n, panel) = (right.columns, panel_words::<K>(right.rows));
    to.par_chunks_mut(panel).enumerate().with_min_len(n.div_ceil(K::COLUMNS).div_ceil(4 * threads())).for_each(|(index, to)| {
        let start = index * K::COLUMNS;
        // SAFETY: the caller's conditions.
        unsafe { K::pack_columns(right.t(), start, (n - start).min(K::COLUMNS), to) }
    });
}

/// Panels of all rows of `left`.
unsafe fn pack_left<K: Kernel>(left: Matrix<'_>, pairs: usize, to: &mut [u32]) {
    for (panel, to) in to.chunks_mut(pairs * K::ROWS).enumerate() {
        let start = panel * K::ROWS;
        // SAFETY: the caller's conditions.
        unsafe { K::pack_rows(left, start, (left.rows - start).min(K::ROWS), to) };
    }
}

/// Where results go, for threads that write different elements.
#[derive(Clone, Copy)]
struct Target(*mut f32);
// SAFETY: see there.
unsafe impl Sync for Target {}
// SAFETY: see there.
unsafe impl Send for Target {}

/// One pass over panels of `n` columns.
unsafe fn pass<K: Kernel>(out: Out<'_>, stride: usize, keep: bool, left: Matrix<'_>, columns: &[u32], n: usize) {
    let m = left.rows;
    let pairs = left.columns.div_ceil(2).next_multiple_of(K::PAIRS);
    let panels = m.div_ceil(K::ROWS);
    let in_cache = (BLOCK_BYTES / (pairs * K::ROWS * 4)).max(1);
    let out = Target(out.as_mut_ptr().cast());
    if panels <= in_cache {
        // Few rows, that every thread may have in its cache: columns are shared out, each read once.
        let mut rows = Scratch::take(panels * pairs * K::ROWS);
        // SAFETY: the caller's conditions.
        unsafe { pack_left::<K>(left, pairs, rows.words_mut()) };
        let rows = rows.words();
        let panel = pairs * K::COLUMNS;
        // Below some thousands of multiplications a thread, waking it costs more than it does.
        let parts = (m * n * left.columns >> 16).clamp(1, 4 * threads());
        let share = n.div_ceil(K::COLUMNS).div_ceil(parts);
        columns.par_chunks(share * panel).enumerate().for_each(|(index, columns)| {
            let first = index * share * K::COLUMNS;
            let width = (n - first).min(share * K::COLUMNS);
            // The whole of the capture, not its field, which may not be shared.
            let out = out;
            // SAFETY: the panels hold `pairs` steps, `out` the rows, of which no other part writes
            // these columns.
            unsafe {
                K::enter();
                sweep::<K>(pairs, rows, columns, out.0.add(first), stride, keep, m, width);
            }
        });
        return;
    }
    // Blocks of whole row panels, no larger than L2 allows, and enough of them to share out.
    let blocks = panels.div_ceil(in_cache).next_multiple_of(threads());
    let rows = panels.div_ceil(blocks) * K::ROWS;
    (0..m.div_ceil(rows)).into_par_iter().for_each(|index| {
        let first = index * rows;
        let rows = rows.min(m - first);
        let mut block = Scratch::take(rows.div_ceil(K::ROWS) * pairs * K::ROWS);
        let out = out;
        // SAFETY: the caller's conditions; the panels hold `pairs` steps, and `out` the block, whose
        // rows no other part writes.
        unsafe {
            pack_left::<K>(left.rows(first..first + rows), pairs, block.words_mut());
            K::enter();
            sweep::<K>(pairs, block.words(), columns, out.0.add(first * stride), stride, keep, rows, n);
        }
    });
}

/// All panels of columns over all panels of rows, `m` and `n` in all.
///
/// # Safety
/// After [`Kernel::enter`]; the panels hold `pairs` steps, and `out` has room for `m` rows of `n`, of values with `keep`.
pub unsafe fn sweep<K: Kernel>(
    pairs: usize,
    rows: &[u32],
    columns: &[u32],
    out: *mut f32,
    stride: usize,
    keep: bool,
    m: usize,
    n: usize,
) {
    for (j, columns) in columns.chunks(pairs * K::COLUMNS).enumerate() {
        let column = j * K::COLUMNS;
        for (i, panel) in rows.chunks(pairs * K::ROWS).enumerate() {
            let row = i * K::ROWS;
            let (height, width) = ((m - row).min(K::ROWS), (n - column).min(K::COLUMNS));
            // SAFETY: the panels hold `pairs` steps, and `out` the tile of height x width.
            unsafe {
                let out = out.add(row * stride + column);
                if height == K::ROWS && width == K::COLUMNS {
                    K::tile(pairs, panel, columns, out, stride, keep);
                } else {
                    edge::<K>(pairs, panel, columns, out, stride, keep, height, width);
                }
            }
        }
    }
}

/// A tile at the edge: computed whole, stored in part. Sums go on from what is there, as in a whole
/// tile, so that an element's bits do not depend on where its tile lies.
unsafe fn edge<K: Kernel>(
    pairs: usize,
    rows: &[u32],
    columns: &[u32],
    out: *mut f32,
    stride: usize,
    keep: bool,
    height: usize,
    width: usize,
) {
    let mut whole = [0.0f32; LARGEST_TILE];
    // SAFETY: the caller's conditions, a tile of our own, and `height` rows of `width` in `out`, which
    // hold values with `keep`.
    unsafe {
        if keep {
            for r in 0..height {
                whole.as_mut_ptr().add(r * K::COLUMNS).copy_from_nonoverlapping(out.add(r * stride), width);
            }
        }
        K::tile(pairs, rows, columns, whole.as_mut_ptr(), K::COLUMNS, keep);
        for r in 0..height {
            out.add(r * stride).copy_from_nonoverlapping(whole.as_ptr().add(r * K::COLUMNS), width);
        }
    }
}
