//! How each format's blocks lie in memory, in a file and in a panel of sixteen rows.
//!
//! Every format says an element as `scale (u - zero) + offset` with `u` an unsigned integer, `zero`
//! the same for the whole format, and scale and offset those of a group of 16 or 32 neighbours. In a
//! panel, the bits of sixteen rows' blocks are woven so that one vector has four neighbours of every
//! row; the same bits, in another order. Layouts of the files: ggml, `ggml-common.h`.
//!
//! To add a format: a [`Blocks`], a variant of [`Format`](super::Format), a line in `product.rs`'s
//! table; `tests/quantised.rs` holds it.

mod k_quants;
mod simple;

pub use k_quants::{Q4K, Q5K, Q6K};
pub use simple::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};

use super::lanes::{Lanes, ROWS};

/// Bytes of four elements of each of the panel's rows.
const VECTOR: usize = 4 * ROWS;

/// A format: where the parts of a block are.
///
/// # Safety
/// Of all functions: `at` points to a whole block of a panel, and the processor has `L`.
pub trait Blocks {
    /// Elements of a block.
    const ELEMENTS: usize;
    /// Bytes of a block in a file.
    const STORED: usize;
    /// Bytes of sixteen rows' blocks in a panel.
    const WOVEN: usize;
    /// Elements that share a scale: 16 or 32.
    const GROUP: usize;
    /// What is taken off every integer.
    const ZERO: i32;
    /// Whether groups have an offset.
    const OFFSET: bool;
    /// Bits of an integer.
    const INTEGER_BITS: u32;
    /// Whether they are whole bytes.
    const WIDE: bool = Self::INTEGER_BITS == 8;

    /// Integers `4 vector..4 vector + 4` of the 32 elements `part`, of all rows.
    unsafe fn integers<L: Lanes>(at: *const u8, part: usize, vector: usize) -> L::Bytes;
    /// The scales of a group, of all rows.
    unsafe fn scales<L: Lanes>(at: *const u8, group: usize) -> L::Floats;
    /// The offsets of the 32 elements `part`.
    unsafe fn offsets<L: Lanes>(at: *const u8, part: usize) -> L::Floats;
    /// Weaves a row's block, as stored, into its place in a panel that was zero.
    fn weave(stored: &[u8], row: usize, panel: &mut [u8]);
}

/// Puts four bits of element `i` of 32 into an area of 256 bytes: the first sixteen elements lie in
/// the low halves.
fn put_four(area: &mut [u8], row: usize, i: usize, bits: u8) {
    area[VECTOR * (i % 16 / 4) + 4 * row + i % 4] |= bits << if i < 16 { 0 } else { 4 };
}

/// The same bits again.
#[inline(always)]
unsafe fn four<L: Lanes>(area: *const u8, vector: usize) -> L::Bytes {
    // SAFETY: as the caller promises.
    unsafe {
        let both = L::load(area.add(VECTOR * (vector % 4)));
        if vector < 4 { L::low(both) } else { L::high(both) }
    }
}

/// Puts a fifth bit of element `i` of 32 into an area of 64 bytes.
fn put_fifth(area: &mut [u8], row: usize, i: usize, bit: u8) {
    let place = VECTOR * (i / 4) + 4 * row + i % 4;
    area[place / 8] |= bit << (place % 8);
}

/// Copies two bytes.
fn put_half(area: &mut [u8], row: usize, from: &[u8]) {
    area[2 * row..2 * row + 2].copy_from_slice(&from[..2]);
}
