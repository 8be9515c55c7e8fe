//! Inputs rounded to bytes: blocks of 32 neighbours share one f32 scale, `x ~ scale * integer` with
//! integers in -127..=127, so that an element is off by at most half a scale.

use crate::cpu::simd;
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

impl Rounded {
    /// Rounds the rows of `x`, for weights whose integers mean `u - zero` and whose scales are shared
    /// by `group` (16 or 32). Reuses its own memory.
    ///
    /// # Panics
    /// When `width` is no multiple of 32.
    pub fn round(&mut self, x: &[f32], width: usize, group: usize, zero: i32) {
        assert!(width > 0 && width.is_multiple_of(BLOCK) && x.len().is_multiple_of(width), "rows of whole blocks");
        self.width = width;
        let blocks = x.len() / BLOCK;
        self.integers.resize(x.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0.0);
        self.starts.resize(x.len() / group, 0);
        if x.len() / width < SHARED {
            round_blocks(x, group, zero, &mut self.integers, &mut self.scales, &mut self.sums, &mut self.starts);
            return;
        }
        let rows = (x.len() / width).div_ceil(4 * crate::cpu::threads());
        (x.par_chunks(rows * width))
            .zip(self.integers.par_chunks_mut(rows * width))
            .zip(self.scales.par_chunks_mut(rows * width / BLOCK))
            .zip(self.sums.par_chunks_mut(rows * width / BLOCK))
            .zip(self.starts.par_chunks_mut(rows * width / group))
            .for_each(|((((x, integers), scales), sums), starts)| {
                round_blocks(x, group, zero, integers, scales, sums, starts);
            });
    }
}

/// 1.5 * 2^23: added to a number below 2^22, it leaves the nearest integer in the low bits, ties to
/// even.
const SHIFT: f32 = 12_582_912.0;
/// Below it, a block is zero: the inverse of its scale would overflow.
const TINY: f32 = 1e-35;

simd! {
    fn round_blocks(
        x: &[f32],
        group: usize,
        zero: i32,
        integers: &mut [i8],
        scales: &mut [f32],
        sums: &mut [f32],
        starts: &mut [i32],
    ) {
        let (x, _) = x.as_chunks::<BLOCK>();
        let (integers, _) = integers.as_chunks_mut::<BLOCK>();
        let parts = BLOCK / group;
        for (b, (x, integers)) in x.iter().zip(integers).enumerate() {
            // Block by block: the compiler would take 16 blocks at a time otherwise, and gather their elements.
            let x = std::hint::black_box(x);
            // Sizes as bits, which are in the same order: what is no number is the largest.
            let mut lanes = [0u32; BLOCK / 2];
            for (l, lane) in lanes.iter_mut().enumerate() {
                let size = |x: f32| x.to_bits() & 0x7fff_ffff;
                *lane = size(x[l]).max(size(x[l + BLOCK / 2]));
            }
            let largest = f32::from_bits(lanes.iter().fold(0, |a, &b| a.max(b)));
            let inverse = if largest > TINY { 127.0 / largest } else { 0.0 };
            let mut totals = [0i32; 2];
            for (half, total) in totals.iter_mut().enumerate() {
                for i in 16 * half..16 * half + 16 {
                    let integer = (x[i] * inverse + SHIFT).to_bits() as i8;
                    integers[i] = integer;
                    *total += i32::from(integer);
                }
            }
            // What is no number shall not round to one.
            let scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
            scales[b] = scale;
            sums[b] = scale * (totals[0] + totals[1]) as f32;
            if parts == 1 {
                starts[b] = -zero * (totals[0] + totals[1]);
            } else {
                starts[2 * b] = -zero * totals[0];
                starts[2 * b + 1] = -zero * totals[1];
            }
        }
    }
}
