//! Panels of bf16 pairs on every processor: the right operands that [`bf16`](super::bf16)'s tiles take as they
//! lie, `[k / 2][32 columns]` words of two neighbouring `k`, made and multiplied by plain loops.

use super::math::bf16_bits;
use super::{Level, Matrix, level, multiply_add, simd};

/// Columns of a panel.
pub const COLUMNS: usize = 32;
/// Columns whose sums are in registers at a time: of all 32 the compiler spills them.
const STEP: usize = 16;

simd! {
    // Words of `first` below and `second` above.
    pub fn weave(first: &[f32], second: &[f32], to: &mut [u32]) {
        for ((to, &first), &second) in to.iter_mut().zip(first).zip(second) {
            *to = bf16_bits(first) | bf16_bits(second) << 16;
        }
    }

    // Words of neighbours.
    pub fn pair(from: &[f32], to: &mut [u32]) {
        for (to, from) in to.iter_mut().zip(from.chunks_exact(2)) {
            *to = bf16_bits(from[0]) | bf16_bits(from[1]) << 16;
        }
    }

    /// `out (+)= left right`, on the calling thread, with `left` as it is and `right` in panels. Every element
    /// is summed by itself, in the order of the inner index.
    pub fn product_by_panels(out: &mut [f32], stride: usize, keep: bool, left: Matrix<'_>, right: &[u32]) {
        let (pairs, row_stride) = (left.columns / 2, left.row_stride);
        assert!(left.column_stride == 1 && left.columns.is_multiple_of(2), "a left operand in rows of pairs");
        let columns = right.len() / pairs.max(1);
        assert!(left.rows == 0 || (left.rows - 1) * stride + columns <= out.len(), "output of a matrix product is too small");
        // As many sums as registers hold, and enough to hide that each takes two multiplications a pair.
        let tall = level() >= Level::Avx512;
        for (j, panel) in right.chunks_exact(pairs * COLUMNS).enumerate() {
            for half in (0..COLUMNS).step_by(STEP) {
                let mut row = 0;
                while row < left.rows {
                    let height = match left.rows - row {
                        8.. if tall => 8,
                        rows => rows.min(4),
                    };
                    let out = &mut out[row * stride + j * COLUMNS + half..];
                    // SAFETY: `out` was checked, a matrix has its rows, and the panel its words.
                    unsafe {
                        let left = left.data.as_ptr().add(row * left.row_stride);
                        let panel = panel.as_ptr().add(half);
                        match height {
                            8 => tile::<FMA, 8>(out, stride, keep, left, row_stride, panel, pairs),
                            4 => tile::<FMA, 4>(out, stride, keep, left, row_stride, panel, pairs),
                            3 => tile::<FMA, 3>(out, stride, keep, left, row_stride, panel, pairs),
                            2 => tile::<FMA, 2>(out, stride, keep, left, row_stride, panel, pairs),
                            _ => tile::<FMA, 1>(out, stride, keep, left, row_stride, panel, pairs),
                        }
                    }
                    row += height;
                }
            }
        }
    }
}

/// `M` rows and [`STEP`] columns of a product, summed in registers.
///
/// # Safety
/// The tile lies within `out`, `left` has as many rows of `2 pairs`, and `panel` its words.
#[inline(always)]
unsafe fn tile<const FMA: bool, const M: usize>(
    out: &mut [f32],
    stride: usize,
    keep: bool,
    left: *const f32,
    left_stride: usize,
    panel: *const u32,
    pairs: usize,
) {
    let mut sums = [[0.0f32; STEP]; M];
    debug_assert!((M - 1) * stride + STEP <= out.len());
    // SAFETY: by the caller.
    unsafe {
        for p in 0..pairs {
            let words = &*panel.add(p * COLUMNS).cast::<[u32; STEP]>();
            let low = words.map(|word| f32::from_bits(word << 16));
            let high = words.map(|word| f32::from_bits(word & 0xffff_0000));
            for (r, sums) in sums.iter_mut().enumerate() {
                let [a, b] = [0, 1].map(|i| *left.add(r * left_stride + 2 * p + i));
                for c in 0..STEP {
                    sums[c] = multiply_add::<FMA>(b, high[c], multiply_add::<FMA>(a, low[c], sums[c]));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut *out.as_mut_ptr().add(r * stride).cast::<[f32; STEP]>();
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if keep { *out + sum } else { *sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::round_to_bf16;

    /// All heights of a tile, from zero and on top, in rows that are further apart.
    #[test]
    fn equals_plain_sums() {
        let (n, k) = (96, 34);
        let values = |count: usize, seed: f32| -> Vec<f32> { (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect() };
        let b = values(k * n, 7.7);
        let mut panels = vec![0u32; k / 2 * n];
        for (j, panel) in panels.chunks_exact_mut(k / 2 * COLUMNS).enumerate() {
            for (p, line) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                let row = |l: usize| &b[l * n + j * COLUMNS..][..COLUMNS];
                weave(row(2 * p), row(2 * p + 1), line);
            }
        }
        for m in [1, 2, 3, 4, 9, 14] {
            let (a, stride) = (values(m * (k + 1), 0.3), n + 3);
            let mut out = vec![7.0; m * stride];
            let left = Matrix::strided(&a, m, k, k + 1);
            product_by_panels(&mut out, stride, false, left, &panels);
            product_by_panels(&mut out, stride, true, left, &panels);
            for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
                let term = |l: usize| a[row * (k + 1) + l] * round_to_bf16(b[l * n + column]);
                let expected = 2.0 * (0..k).map(term).sum::<f32>();
                assert!((out[row * stride + column] - expected).abs() < 1e-4, "{m} rows, at {row}, {column}");
            }
            assert_eq!(out[n..n + 3], [7.0; 3], "nothing outside is written");
        }
    }

    #[test]
    fn words_hold_rounded_pairs() {
        let x = [1.0 + 1.0 / 256.0, -3.0, f32::NAN, f32::from_bits(0x7f80_0001), f32::NEG_INFINITY, 1.0 + 3.0 / 256.0];
        let mut words = [0; 3];
        pair(&x, &mut words);
        let halves = |word: u32| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)];
        assert_eq!(halves(words[0]), [1.0, -3.0]);
        assert!(halves(words[1]).iter().all(|x| x.is_nan()));
        assert_eq!(halves(words[2]), [f32::NEG_INFINITY, 1.0 + 4.0 / 256.0]);
    }
}
