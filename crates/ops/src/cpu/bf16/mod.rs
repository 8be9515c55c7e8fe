//! Matrix products with bfloat16 operands and f32 accumulation, on AMX or AVX512-BF16.
//!
//! Operands come as f32 and are rounded (to nearest even) while they are packed, so that weights
//! and activations keep their f32 masters. [`panels`] packs and shares out; [`avx512`] and [`amx`] are the
//! register tiles it sweeps. [`whole`] multiplies what lies in panels already, with [`amx`] or [`rowwise`], and
//! [`softmax`] makes left operands for it. To add an instruction: a file with a [`Kernel`](panels::Kernel), a
//! [`Level`], a line in `with_tile`; the test below holds it.

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod panels;
#[cfg(target_arch = "x86_64")]
mod rowwise;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod whole;

use super::matmul::{Matrix, assume_written, reach, written};
use super::{Level, amd, level};
use std::mem::MaybeUninit;
use std::ops::Range;

/// An expression with the register tile of this processor: AMX's, or else the one that is given.
#[cfg(target_arch = "x86_64")]
macro_rules! with_tile {
    ($other:ty, |$Tile:ident| $of_tile:expr) => {
        match level() {
            Level::Amx => {
                type $Tile = amx::Amx;
                $of_tile
            }
            _ => {
                type $Tile = $other;
                $of_tile
            }
        }
    };
}

/// Whether this processor has the instructions and gains by them, or is made to take them by `RECAST_CPU`.
pub fn available() -> bool {
    cfg!(target_arch = "x86_64") && level() >= Level::Avx512Bf16
}

/// `out = left right`, or `out += left right` with `accumulate`; rows of `out` are `out_stride`
/// apart. Over the thread pool; the result does not depend on the number of threads.
///
/// # Panics
/// When the sizes do not fit together, or the processor lacks the instructions ([`available`]).
pub fn matmul_threads(out: &mut [f32], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    run(assume_written(out), out_stride, accumulate, left, right);
}

/// The product as a new array.
///
/// # Panics
/// As [`matmul_threads`].
pub fn matmul_threads_new(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    written(left.rows * right.columns, |out| run(out, right.columns, false, left, right))
}

/// A right operand, rounded and packed once for any number of products.
#[derive(Debug)]
pub struct Packed {
    #[cfg(target_arch = "x86_64")]
    panels: panels::Packed,
}

impl Packed {
    /// Packs, over the thread pool. What does not last longer than a few products takes and gives
    /// back memory that they share.
    ///
    /// # Panics
    /// When the processor lacks the instructions ([`available`]).
    pub fn new(right: Matrix<'_>, lasting: bool) -> Self {
        assert!(available(), "bf16 products need AVX512-BF16");
        // SAFETY: the level names what this processor has.
        #[cfg(target_arch = "x86_64")]
        let panels = unsafe { with_tile!(avx512::Avx512, |Tile| panels::Packed::new::<Tile>(right, lasting)) };
        Self {
            #[cfg(target_arch = "x86_64")]
            panels,
        }
    }

    /// [`matmul_threads`] with it on the right; to the bit the same.
    ///
    /// # Panics
    /// When the sizes do not fit together.
    pub fn matmul_threads(&self, out: &mut [f32], out_stride: usize, accumulate: bool, left: Matrix<'_>) {
        self.run(assume_written(out), out_stride, accumulate, left);
    }

    /// The product as a new array.
    ///
    /// # Panics
    /// As [`Packed::matmul_threads`].
    pub fn matmul_threads_new(&self, left: Matrix<'_>) -> Vec<f32> {
        let [_, n] = self.size();
        written(left.rows * n, |out| self.run(out, n, false, left))
    }

    fn size(&self) -> [usize; 2] {
        #[cfg(target_arch = "x86_64")]
        return self.panels.size();
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("packed for no processor but these")
    }

    fn run(&self, out: &mut [MaybeUninit<f32>], out_stride: usize, accumulate: bool, left: Matrix<'_>) {
        let [k, n] = self.size();
        assert_eq!(left.columns, k, "inner sizes of a matrix product");
        if !prepared(out, out_stride, accumulate, left.rows, n, k) {
            return;
        }
        // SAFETY: packed for this level, and the sizes were checked.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            with_tile!(avx512::Avx512, |Tile| panels::product_packed::<Tile>(out, out_stride, accumulate, left, &self.panels));
        }
    }
}

/// Checks the output of a product; false where nothing is left to do.
fn prepared(out: &mut [MaybeUninit<f32>], out_stride: usize, accumulate: bool, m: usize, n: usize, k: usize) -> bool {
    if m == 0 || n == 0 {
        return false;
    }
    assert!(reach(m, n, out_stride).is_some_and(|reach| reach <= out.len()), "output of a matrix product is too small");
    assert!(m == 1 || out_stride >= n, "rows of the output of a matrix product overlap");
    if k == 0 && !accumulate {
        out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(MaybeUninit::new(0.0)));
    }
    k > 0
}

/// Whether products of a few dozen rows, columns and `k` that lie in cache gain by it: where tiles
/// take them, rounding and packing included. `vdpbf16ps` does not repay the packing there.
pub fn available_in_cache(m: usize, n: usize, k: usize) -> bool {
    m.min(n).min(k) >= 16 && level() == Level::Amx
}

/// `out (+)= left right` on the calling thread, for operands in cache.
///
/// # Panics
/// As [`matmul_threads`], and without AMX ([`available_in_cache`]).
pub fn matmul_in_cache(out: &mut [f32], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    assert!(level() == Level::Amx, "products in cache need AMX");
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    let (m, n) = (left.rows, right.columns);
    assert!(m > 0 && n > 0 && left.columns > 0 && (m - 1) * out_stride + n <= out.len(), "sizes of a product in cache");
    // SAFETY: the level names what this processor has, and the sizes were checked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        panels::product_here::<amx::Amx>(out, out_stride, accumulate, left, right);
    }
}

/// Whether products in cache whose operands are packed once for many of them gain by rounding: on AMX, and
/// on AMD, whose `vdpbf16ps` has twice the rate of f32 (Intel's has less than f32).
pub fn tiles_pay() -> bool {
    match level() {
        Level::Amx => true,
        Level::Avx512Bf16 => amd(),
        _ => false,
    }
}

/// Rows of [`product_of_tiles`] are multiples of it.
pub fn tile_rows() -> usize {
    if level() == Level::Amx { 32 } else { 8 }
}

/// A left operand of [`product_of_tiles`].
#[derive(Debug)]
pub struct Left {
    #[cfg(target_arch = "x86_64")]
    inner: whole::Left,
}

/// `out (+)= left right` on the calling thread, of all rows that `left` has room for, `out_stride` apart. `right` are
/// as many rows of the right operand each, one after the other, in panels `[n / 32][k / 2][32]` of pairs of `k`.
///
/// # Panics
/// When `out` is too small, or the sizes do not fit together.
pub fn product_of_tiles(out: &mut [f32], out_stride: usize, accumulate: bool, left: &Left, right: &[&[u32]]) {
    // SAFETY: who could pack has the instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        with_tile!(rowwise::Rowwise, |Tile| whole::product::<Tile>(out, out_stride, accumulate, &left.inner, right));
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("packed for no processor but these: {} {out_stride} {accumulate} {left:?} {}", out.len(), right.len());
}

impl Left {
    /// Room for `rows` rows of `k` elements.
    ///
    /// # Panics
    /// When they are no multiples of [`tile_rows`] and 32, and without the instructions ([`available`]).
    pub fn new(rows: usize, k: usize) -> Self {
        assert!(available() && rows.is_multiple_of(tile_rows()) && k.is_multiple_of(32), "tiles for {rows} x {k}");
        Self {
            #[cfg(target_arch = "x86_64")]
            inner: with_tile!(rowwise::Rowwise, |Tile| whole::Left::new::<Tile>(rows, k)),
        }
    }

    /// Packs an operand of at most as many rows; those beyond are zero.
    ///
    /// # Panics
    /// When the sizes are others.
    pub fn pack(&mut self, from: Matrix<'_>) {
        // SAFETY: `new` looked for the instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            with_tile!(rowwise::Rowwise, |Tile| self.inner.pack::<Tile>(from));
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no tiles on this processor for {from:?}");
    }

    /// Becomes the softmax weights of `scores` `[rows, keys]`, of which each row sees a range: e^(scale score -
    /// largest so far), zero elsewhere. What was gathered under a smaller `largest`, `total` and `y` `[rows, n]`, is
    /// rescaled, and `total` grows by the weights before rounding.
    ///
    /// # Panics
    /// When the sizes do not fit together, or there is no room for as many keys.
    pub fn weigh(&mut self, scores: Matrix<'_>, seen: &[Range<usize>], scale: f32, [largest, total, y]: [&mut [f32]; 3]) {
        // SAFETY: `new` looked for the instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            with_tile!(rowwise::Rowwise, |Tile| self.inner.weigh::<Tile>(scores, seen, scale, [largest, total, y]));
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no tiles on this processor for {scores:?} {seen:?} {scale} {largest:?} {total:?} {y:?}");
    }
}

/// Without `accumulate`, `out` is only written to, and wholly.
fn run(out: &mut [MaybeUninit<f32>], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    assert!(available(), "bf16 products need AVX512-BF16");
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    if !prepared(out, out_stride, accumulate, left.rows, right.columns, left.columns) {
        return;
    }
    // SAFETY: the level names what this processor has, and the sizes were checked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        with_tile!(avx512::Avx512, |Tile| panels::product::<Tile>(out, out_stride, accumulate, left, right));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::round_to_bf16;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.731).sin() * 2.0).collect()
    }

    type Product = fn(&mut [f32], usize, bool, Matrix<'_>, Matrix<'_>);

    /// What is used here, the tile for processors without AMX, and AMX's panels with its instructions
    /// emulated.
    fn kernels() -> Vec<(&'static str, Product)> {
        // SAFETY (all): AVX512-BF16 is there, and the test's sizes fit.
        vec![
            ("chosen", matmul_threads),
            ("AVX-512", |out, stride, keep, a, b| unsafe {
                panels::product::<avx512::Avx512>(assume_written(out), stride, keep, a, b);
            }),
            ("AMX emulated", |out, stride, keep, a, b| unsafe {
                panels::product::<amx::tests::Emulated<false>>(assume_written(out), stride, keep, a, b);
            }),
            ("packed before", |out, stride, keep, a, b| Packed::new(b, true).matmul_threads(out, stride, keep, a)),
            ("AMX emulated, packed before", |out, stride, keep, a, b| unsafe {
                let right = panels::Packed::new::<amx::tests::Emulated<false>>(b, false);
                panels::product_packed::<amx::tests::Emulated<false>>(assume_written(out), stride, keep, a, &right);
            }),
            ("AVX-512, in cache", |out, stride, keep, a, b| unsafe {
                panels::product_here::<rowwise::Rowwise>(out, stride, keep, a, b);
            }),
            ("AMX emulated, in cache", |out, stride, keep, a, b| unsafe {
                panels::product_here::<amx::tests::Emulated<false>>(out, stride, keep, a, b);
            }),
        ]
    }

    /// Every size around the tile, both orientations of both operands, against sums in f64 of the
    /// rounded operands.
    #[test]
    fn equals_plain_sums_at_odd_sizes() {
        if !available() {
            eprintln!("skipped: no AVX512-BF16 here");
            return;
        }
        for (m, n, k) in [
            (1, 1, 1),
            (8, 48, 2),
            (7, 47, 31),
            (9, 49, 33),
            (65, 100, 67),
            (31, 33, 64),
            (33, 65, 1030),
            (40, 200, 4099),
            (300, 7, 64),
        ] {
            let (a, b) = (values(m * k, 0.3), values(k * n, 7.7));
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let mut expected = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    expected[i * n + j] =
                        (0..k).map(|l| f64::from(round_to_bf16(a[i * k + l])) * f64::from(round_to_bf16(b[l * n + j]))).sum();
                }
            }
            let tolerance = 2e-6 * k as f64 * 4.0;
            let lefts = [Matrix::new(&a, m, k), Matrix::new(&at, k, m).t()];
            let rights = [Matrix::new(&b, k, n), Matrix::new(&bt, n, k).t()];
            for (left, right) in lefts.into_iter().flat_map(|l| rights.map(|r| (l, r))) {
                let stride = n + 3;
                for (name, product) in kernels() {
                    let mut out = vec![5.0f32; m * stride];
                    product(&mut out, stride, false, left, right);
                    for (i, row) in out.chunks(stride).enumerate() {
                        for j in 0..n {
                            let difference = (f64::from(row[j]) - expected[i * n + j]).abs();
                            assert!(difference < tolerance, "{name} {m}x{n}x{k} at {i},{j}: off by {difference}");
                        }
                        assert_eq!(row[n..], [5.0; 3], "nothing outside the result is written");
                    }
                    product(&mut out, stride, true, left, right);
                    let difference = (f64::from(out[0]) - 2.0 * expected[0]).abs();
                    assert!(difference < 2.0 * tolerance, "{name} {m}x{n}x{k}: accumulated, off by {difference}");
                }
            }
        }
    }
}
