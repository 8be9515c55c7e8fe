//! Inputs rounded to bytes: blocks of 32 neighbours share one f32 scale, `x ~ scale * integer` with
//! integers in -127..=127, so that an element is off by at most half a scale.

use super::formats::Blocks;
use super::lanes::Lanes;
use rayon::prelude::*;

/// Elements that share a scale.
pub const BLOCK: usize = 32;
/// Rows from which rounding is shared out.
const SHARED: usize = 64;

/// Rounded rows of an input, and what formats want to know of them beside.
#[derive(Clone, Debug, Default)]
pub struct Rounded {
    /// Elements of a row.
    pub width: usize,
    /// `[rows, width]`.
    pub integers: Vec<i8>,
    /// `[rows, width / 32]`.
    pub scales: Vec<f32>,
    /// `[rows, width / 32]`: scale times the sum of the block's integers, which a weight's offset
    /// multiplies.
    pub sums: Vec<f32>,
    /// `[rows, width / group]`: minus `zero` times the sum of a group's integers, where sums of
    /// products begin.
    pub starts: Vec<i32>,
}

/// Where some blocks' [`Rounded`] go.
pub struct Parts<'a> {
    integers: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
    starts: &'a mut [i32],
}

impl Rounded {
    /// Rounds the rows of `x` by `blocks`, which is [`round_blocks`] for weights whose scales are shared by
    /// `group` (16 or 32). Reuses its own memory.
    ///
    /// # Panics
    /// When `width` is no multiple of 32.
    pub fn round(&mut self, x: &[f32], width: usize, group: usize, blocks: &(impl Fn(&[f32], Parts<'_>) + Sync)) {
        assert!(width > 0 && width.is_multiple_of(BLOCK) && x.len().is_multiple_of(width), "rows of whole blocks");
        self.width = width;
        self.integers.resize(x.len(), 0);
        self.scales.resize(x.len() / BLOCK, 0.0);
        self.sums.resize(x.len() / BLOCK, 0.0);
        self.starts.resize(x.len() / group, 0);
        let Self { integers, scales, sums, starts, .. } = self;
        if x.len() / width < SHARED {
            return blocks(x, Parts { integers, scales, sums, starts });
        }
        let share = (x.len() / width).div_ceil(4 * crate::cpu::threads()) * width;
        (x.par_chunks(share))
            .zip(integers.par_chunks_mut(share))
            .zip(scales.par_chunks_mut(share / BLOCK))
            .zip(sums.par_chunks_mut(share / BLOCK))
            .zip(starts.par_chunks_mut(share / group))
            .for_each(|((((x, integers), scales), sums), starts)| blocks(x, Parts { integers, scales, sums, starts }));
    }
}

/// Below it, a block is zero: the inverse of its scale would overflow.
const TINY: f32 = 1e-35;

/// Rounds whole blocks of `x` for weights in the format `F`.
///
/// # Safety
/// The processor has `L`.
#[inline(always)]
pub unsafe fn round_blocks<L: Lanes, F: Blocks>(x: &[f32], to: Parts<'_>) {
    let Parts { integers, scales, sums, starts } = to;
    let (x, _) = x.as_chunks::<BLOCK>();
    let (integers, _) = integers.as_chunks_mut::<BLOCK>();
    let starts = starts.chunks_exact_mut(BLOCK / F::GROUP);
    for ((((x, integers), scale), sum), starts) in x.iter().zip(integers).zip(scales).zip(sums).zip(starts) {
        // SAFETY: both are whole blocks, and the processor is the caller's promise.
        let largest = f32::from_bits(unsafe { L::largest(x.as_ptr()) });
        let inverse = if largest > TINY { 127.0 / largest } else { 0.0 };
        // SAFETY: as above.
        let [first, second] = unsafe { L::round(x.as_ptr(), inverse, integers.as_mut_ptr()) };
        // What is no number shall not round to one; its sums mean nothing and may overflow.
        *scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
        let total = first.wrapping_add(second);
        *sum = *scale * total as f32;
        match starts {
            [one] => *one = total.wrapping_mul(-F::ZERO),
            [one, two] => (*one, *two) = (first.wrapping_mul(-F::ZERO), second.wrapping_mul(-F::ZERO)),
            _ => unreachable!("groups of 16 or 32"),
        }
    }
}
