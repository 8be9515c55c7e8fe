//! The product of one panel of sixteen rows of a weight with a few rows of an input.
//!
//! Weights are unpacked in registers and multiplied as integers, group by group; a group's sums are
//! exact, and are scaled and added to f32 sums in the order of the groups. Every output has lanes of
//! its own, so it depends neither on the other rows of the input nor on who computes it.

use super::formats::Blocks;
use super::lanes::{Lanes, ROWS, run};
use super::round::{BLOCK, Rounded};
use std::ops::Range;

/// A product, ready to be shared out by panels.
pub struct Work<'a> {
    /// Panels of the weight, [`Blocks::WOVEN`] bytes a block.
    pub panels: &'a [u8],
    /// The input.
    pub x: &'a Rounded,
    /// Rows of the input.
    pub rows: usize,
    /// Output `[rows, columns]`; every panel writes columns of its own.
    pub out: *mut f32,
    /// Rows of the weight.
    pub columns: usize,
    /// Added to every row of the output.
    pub bias: Option<&'a [f32]>,
}

// SAFETY: threads write disjoint columns of `out`, and only read the rest.
unsafe impl Sync for Work<'_> {}

/// Bytes of rounded input that stay in a core's L2 while panels pass by.
const IN_CACHE: usize = 512 << 10;

/// Computes the output columns of some panels.
///
/// # Safety
/// The processor has `L`; sizes fit; nobody else touches these columns.
#[inline(always)]
pub unsafe fn sweep<L: Lanes, F: Blocks>(work: &Work<'_>, panels: Range<usize>) {
    let block = (IN_CACHE / work.x.width).max(8).next_multiple_of(8);
    let mut first = 0;
    while first < work.rows {
        let end = (first + block).min(work.rows);
        for panel in panels.clone() {
            let mut row = first;
            // SAFETY: the caller's conditions, and `row + R <= end <= rows`.
            unsafe {
                if L::INPUTS >= 8 {
                    while row + 8 <= end {
                        tile::<L, F, 8>(work, panel, row);
                        row += 8;
                    }
                }
                if L::INPUTS >= 4 {
                    while row + 4 <= end {
                        tile::<L, F, 4>(work, panel, row);
                        row += 4;
                    }
                }
                if L::INPUTS >= 2 {
                    while row + 2 <= end {
                        tile::<L, F, 2>(work, panel, row);
                        row += 2;
                    }
                }
                while row < end {
                    tile::<L, F, 1>(work, panel, row);
                    row += 1;
                }
            }
        }
        first = end;
    }
}

/// Sixteen columns of `R` rows of the output.
#[inline(always)]
unsafe fn tile<L: Lanes, F: Blocks, const R: usize>(work: &Work<'_>, panel: usize, row: usize) {
    let x = work.x;
    let spans = x.width / F::ELEMENTS;
    let (parts, groups) = (F::ELEMENTS / BLOCK, BLOCK / F::GROUP);
    // A divisor of the vectors of a group: 4 or 8.
    let length = if run(F::INTEGER_BITS) < 8 / groups { run(F::INTEGER_BITS) } else { 8 / groups };
    // SAFETY: `spans` blocks of the panel and `R` rows of the input are there; closures are avoided,
    // since they would not be compiled for `L`.
    unsafe {
        let mut at = work.panels.as_ptr().add(panel * spans * F::WOVEN);
        let integers = x.integers.as_ptr().add(row * x.width).cast::<i32>();
        let scales = x.scales.as_ptr().add(row * x.width / BLOCK);
        let sums = x.sums.as_ptr().add(row * x.width / BLOCK);
        let starts = x.starts.as_ptr().add(row * x.width / F::GROUP);
        let mut total = [L::splat(0.0); R];
        for span in 0..spans {
            for part in 0..parts {
                let block = span * parts + part;
                for group in 0..groups {
                    let mut exact = [L::start(0); R];
                    if F::ZERO != 0 && !(F::WIDE && L::SIGNED) {
                        for r in 0..R {
                            exact[r] = L::start(*starts.add(r * x.width / F::GROUP + block * groups + group));
                        }
                    }
                    let (mut vector, end) = (group * 8 / groups, (group + 1) * 8 / groups);
                    while vector < end {
                        let mut runs = [L::begin(exact[0]); R];
                        for r in 1..R {
                            runs[r] = L::begin(exact[r]);
                        }
                        for vector in vector..vector + length {
                            let weights = F::integers::<L>(at, part, vector);
                            for r in 0..R {
                                let four = integers.add(r * x.width / 4 + block * 8 + vector).read_unaligned();
                                runs[r] = if F::WIDE {
                                    L::dot::<true>(runs[r], weights, four)
                                } else {
                                    L::dot::<false>(runs[r], weights, four)
                                };
                            }
                        }
                        for r in 0..R {
                            exact[r] = if F::WIDE { L::end::<true>(runs[r]) } else { L::end::<false>(runs[r]) };
                        }
                        vector += length;
                    }
                    let scale = F::scales::<L>(at, part * groups + group);
                    for r in 0..R {
                        let scaled = L::times(L::floats(exact[r]), scale);
                        total[r] = L::times_plus(scaled, L::splat(*scales.add(r * x.width / BLOCK + block)), total[r]);
                    }
                }
                if F::OFFSET {
                    let offset = F::offsets::<L>(at, part);
                    for r in 0..R {
                        total[r] = L::times_plus(offset, L::splat(*sums.add(r * x.width / BLOCK + block)), total[r]);
                    }
                }
            }
            at = at.add(F::WOVEN);
        }
        let column = panel * ROWS;
        let width = (work.columns - column).min(ROWS);
        for r in 0..R {
            let to = work.out.add((row + r) * work.columns + column);
            if width == ROWS && work.bias.is_none() {
                L::store(total[r], to);
                continue;
            }
            let mut values = [0.0f32; ROWS];
            L::store(total[r], values.as_mut_ptr());
            for (i, value) in values.iter().enumerate().take(width) {
                to.add(i).write(work.bias.map_or(*value, |bias| value + bias[column + i]));
            }
        }
    }
}

/// Writes the values of one row of a weight.
///
/// # Safety
/// The processor has `L`; `panels` holds the row, and `out` is as wide as it.
#[inline(always)]
pub unsafe fn values<L: Lanes, F: Blocks>(panels: &[u8], row: usize, out: &mut [f32]) {
    let spans = out.len() / F::ELEMENTS;
    let within = row % ROWS;
    // SAFETY: as the caller promises.
    unsafe {
        let mut at = panels.as_ptr().add(row / ROWS * spans * F::WOVEN);
        for out in out.chunks_exact_mut(F::ELEMENTS) {
            for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                let mut offsets = [0.0f32; ROWS];
                if F::OFFSET {
                    L::store(F::offsets::<L>(at, part), offsets.as_mut_ptr());
                }
                for (group, out) in out.chunks_exact_mut(F::GROUP).enumerate() {
                    let mut scales = [0.0f32; ROWS];
                    L::store(F::scales::<L>(at, part * (BLOCK / F::GROUP) + group), scales.as_mut_ptr());
                    let mut bytes = [0u8; 4 * ROWS];
                    for (i, out) in out.chunks_exact_mut(4).enumerate() {
                        L::save(F::integers::<L>(at, part, group * F::GROUP / 4 + i), bytes.as_mut_ptr());
                        for (out, byte) in out.iter_mut().zip(&bytes[4 * within..]) {
                            *out = scales[within] * (i32::from(*byte) - F::ZERO) as f32;
                            if F::OFFSET {
                                *out += offsets[within];
                            }
                        }
                    }
                }
            }
            at = at.add(F::WOVEN);
        }
    }
}
