//! Matrix products with bfloat16 operands and f32 accumulation, on AVX512-BF16.
//!
//! Operands come as f32 and are rounded (to nearest even) while they are packed, so that weights
//! and activations keep their f32 masters. The right operand is packed once, in panels of
//! [`COLUMNS`] columns; each thread packs the blocks of rows it owns, small enough to stay in its
//! L2, and sweeps all panels over them. Inside a panel two neighbouring `k` stand side by side, as
//! `vdpbf16ps` wants them: `[k / 2][row or column][2]`.

use super::matmul::{Matrix, assume_written, written};
use super::{Level, level, threads};
use std::mem::MaybeUninit;

/// Rows and columns of the register tile: 8 x 3 vectors of accumulators.
const ROWS: usize = 8;
const COLUMNS: usize = 48;
/// Most `k` a pass takes: a row panel of 32 KiB, a column panel of 192 KiB.
const DEPTH: usize = 2048;
/// Bytes of packed rows a thread works on at a time.
const BLOCK_BYTES: usize = 384 << 10;

/// Whether this processor has the instructions (and `RECAST_CPU` does not forbid them).
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

/// Without `accumulate`, `out` is only written to, and wholly.
fn run(out: &mut [MaybeUninit<f32>], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    assert!(available(), "bf16 products need AVX512-BF16");
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    let (m, n, k) = (left.rows, right.columns, left.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len(), "output of a matrix product is too small");
    if k == 0 && !accumulate {
        out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(MaybeUninit::new(0.0)));
    }
    #[cfg(target_arch = "x86_64")]
    {
        let passes = k.div_ceil(DEPTH);
        let depth = k.div_ceil(passes.max(1)).next_multiple_of(2);
        for start in (0..k).step_by(depth.max(1)) {
            let range = start..(start + depth).min(k);
            let keep = accumulate || start > 0;
            x86::pass(out, out_stride, keep, left.columns(range.clone()), right.rows(range), threads());
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK_BYTES, COLUMNS, ROWS};
    use crate::cpu::matmul::Matrix;
    use rayon::prelude::*;
    use std::arch::x86_64::*;
    use std::mem::MaybeUninit;
    use std::sync::{Mutex, PoisonError};

    /// Room for packed panels, kept for the next product: fresh memory would cost a page fault
    /// every 4 KiB, for a vocabulary's weight more than the packing itself.
    struct Scratch(Vec<u32>, usize);

    static KEPT: Mutex<Vec<Vec<u32>>> = Mutex::new(Vec::new());

    impl Scratch {
        /// `words` words of any content.
        fn take(words: usize) -> Self {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            // The smallest that is large enough, else the largest, to be grown.
            let fits = |v: &Vec<u32>| (v.len() < words, if v.len() < words { usize::MAX - v.len() } else { v.len() });
            let best = (0..kept.len()).min_by_key(|&i| fits(&kept[i]));
            let mut buffer = best.map_or_else(Vec::new, |i| kept.swap_remove(i));
            drop(kept);
            if buffer.len() < words {
                buffer = vec![0; words];
            }
            Self(buffer, words)
        }

        fn words(&mut self) -> &mut [u32] {
            &mut self.0[..self.1]
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.0));
        }
    }

    type Out<'a> = &'a mut [MaybeUninit<f32>];

    /// One pass over `k <= DEPTH`. Without `keep`, `out` is only written to.
    pub fn pass(out: Out<'_>, out_stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>, threads: usize) {
        let (m, n, k) = (left.rows, right.columns, left.columns);
        let pairs = k.div_ceil(2);
        let mut packed = Scratch::take(n.div_ceil(COLUMNS) * pairs * COLUMNS);
        let packed = packed.words();
        packed.par_chunks_mut(pairs * COLUMNS).enumerate().with_min_len(n.div_ceil(COLUMNS).div_ceil(4 * threads)).for_each(
            |(panel, to)| {
                let start = panel * COLUMNS;
                // SAFETY: `available` was asserted by the caller.
                unsafe { pack::<COLUMNS>(right.t(), start, (n - start).min(COLUMNS), to) }
            },
        );
        // Blocks of whole row panels, no larger than L2 allows, and enough of them to share out.
        let panels = m.div_ceil(ROWS);
        let in_cache = (BLOCK_BYTES / (pairs * ROWS * 4)).max(1);
        let blocks = panels.div_ceil(in_cache).next_multiple_of(threads);
        let rows = panels.div_ceil(blocks) * ROWS;
        out.par_chunks_mut(rows * out_stride).take(m.div_ceil(rows)).enumerate().for_each(|(index, out)| {
            let first = index * rows;
            let rows = rows.min(m - first);
            let mut block = Scratch::take(rows.div_ceil(ROWS) * pairs * ROWS);
            let block = block.words();
            for (panel, to) in block.chunks_mut(pairs * ROWS).enumerate() {
                let start = first + panel * ROWS;
                // SAFETY: as above.
                unsafe { pack::<ROWS>(left, start, (m - start).min(ROWS), to) };
            }
            for (j, columns) in packed.chunks(pairs * COLUMNS).enumerate() {
                let column = j * COLUMNS;
                for (i, panel) in block.chunks(pairs * ROWS).enumerate() {
                    let row = i * ROWS;
                    let (height, width) = ((rows - row).min(ROWS), (n - column).min(COLUMNS));
                    let out = &mut out[row * out_stride + column..];
                    // SAFETY: the panels hold `pairs` steps, and `out` the tile of height x width.
                    unsafe {
                        if height == ROWS && width == COLUMNS {
                            tile(pairs, panel, columns, out.as_mut_ptr().cast(), out_stride, keep);
                        } else {
                            edge(pairs, panel, columns, out, out_stride, keep, height, width);
                        }
                    }
                }
            }
        });
    }

    /// Rows `start..start + count` of `from`, rounded, into a panel of `P` rows: `[k / 2][P][2]`.
    /// Rows and a last odd `k` beyond the end are zero.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack<const P: usize>(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        let k = from.columns;
        assert_eq!(to.len(), k.div_ceil(2) * P);
        if count < P {
            to.fill(0);
        }
        if from.column_stride == 1 {
            // `k` is contiguous: round 32 of a row at a time and spread the pairs over the panel,
            // all rows before the next 32, so that what is written to stays in L1.
            let row = |p: usize| &from.data[(start + p) * from.row_stride..][..k];
            let whole = k / 32;
            for chunk in 0..whole {
                let to = &mut to[chunk * 16 * P..][..16 * P];
                for p in 0..count {
                    let from = &row(p)[chunk * 32..][..32];
                    let mut pairs = [0u32; 16];
                    // SAFETY: 32 floats are read, 16 words written.
                    unsafe {
                        let low = _mm512_loadu_ps(from.as_ptr());
                        let high = _mm512_loadu_ps(from.as_ptr().add(16));
                        let rounded = _mm512_cvtne2ps_pbh(high, low);
                        _mm512_storeu_si512(pairs.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
                    }
                    for (i, pair) in pairs.into_iter().enumerate() {
                        to[i * P + p] = pair;
                    }
                }
            }
            let to = &mut to[whole * 16 * P..];
            for p in 0..count {
                for (to, pair) in to.chunks_exact_mut(P).zip(row(p)[whole * 32..].chunks(2)) {
                    let second = pair.get(1).map_or(0, |&x| round(x));
                    to[p] = u32::from(round(pair[0])) | u32::from(second) << 16;
                }
            }
        } else {
            // Rows are contiguous: two `k` are rounded and woven together.
            assert_eq!(from.row_stride, 1, "one stride of a matrix is one");
            for (i, to) in to.chunks_exact_mut(P).enumerate() {
                let first = &from.data[2 * i * from.column_stride + start..][..count];
                let second =
                    if 2 * i + 1 < k { &from.data[(2 * i + 1) * from.column_stride + start..][..count] } else { &[] };
                if count == P && !second.is_empty() {
                    // SAFETY: P floats of each are read, P words written, in steps that divide P.
                    unsafe {
                        if P.is_multiple_of(16) {
                            for p in (0..P).step_by(16) {
                                let low = narrow16(_mm512_loadu_ps(first.as_ptr().add(p)));
                                let high = narrow16(_mm512_loadu_ps(second.as_ptr().add(p)));
                                let woven = _mm512_or_si512(
                                    _mm512_cvtepu16_epi32(low),
                                    _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)),
                                );
                                _mm512_storeu_si512(to.as_mut_ptr().add(p).cast(), woven);
                            }
                        } else {
                            for p in (0..P).step_by(8) {
                                let low = narrow8(_mm256_loadu_ps(first.as_ptr().add(p)));
                                let high = narrow8(_mm256_loadu_ps(second.as_ptr().add(p)));
                                let woven = _mm256_or_si256(
                                    _mm256_cvtepu16_epi32(low),
                                    _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high)),
                                );
                                _mm256_storeu_si256(to.as_mut_ptr().add(p).cast(), woven);
                            }
                        }
                    }
                    continue;
                }
                for (p, to) in to.iter_mut().take(count).enumerate() {
                    let second = second.get(p).map_or(0, |&x| round(x));
                    *to = u32::from(round(first[p])) | u32::from(second) << 16;
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn narrow16(x: __m512) -> __m256i {
        // SAFETY: both are 256 bits.
        unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
    fn narrow8(x: __m256) -> __m128i {
        // SAFETY: both are 128 bits.
        unsafe { std::mem::transmute::<__m128bh, __m128i>(_mm256_cvtneps_pbh(x)) }
    }

    /// As the instruction rounds: to nearest even, subnormals to zero, NaN stays NaN.
    fn round(x: f32) -> u16 {
        (crate::cpu::round_to_bf16(x).to_bits() >> 16) as u16
    }

    /// A full tile: `out (+)= sum over pairs`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool) {
        const VECTORS: usize = COLUMNS / 16;
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let (mut a, mut b) = (rows.as_ptr(), columns.as_ptr());
        // SAFETY: the caller gives `pairs` steps of both panels and a whole tile of output.
        unsafe {
            for _ in 0..pairs {
                let right: [__m512bh; VECTORS] =
                    std::array::from_fn(|v| std::mem::transmute(_mm512_loadu_si512(b.add(16 * v).cast())));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(r) as i32));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_dpbf16_ps(*sum, left, right);
                    }
                }
                a = a.add(ROWS);
                b = b.add(COLUMNS);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let to = out.add(r * stride + 16 * v);
                    let sum = if keep { _mm512_add_ps(sum, _mm512_loadu_ps(to)) } else { sum };
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
    }

    /// A tile at the edge: computed whole, stored in part.
    unsafe fn edge(
        pairs: usize,
        rows: &[u32],
        columns: &[u32],
        out: Out<'_>,
        stride: usize,
        keep: bool,
        height: usize,
        width: usize,
    ) {
        let mut whole = [0.0f32; ROWS * COLUMNS];
        // SAFETY: the caller's conditions, and a tile of our own.
        unsafe { tile(pairs, rows, columns, whole.as_mut_ptr(), COLUMNS, false) };
        for (r, whole) in whole.chunks(COLUMNS).take(height).enumerate() {
            for (to, &sum) in out[r * stride..][..width].iter_mut().zip(whole) {
                // SAFETY: with `keep` the caller's output holds values.
                let before = if keep { unsafe { to.assume_init() } } else { 0.0 };
                to.write(before + sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::round_to_bf16;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.731).sin() * 2.0).collect()
    }

    /// Every size around the tile, both orientations of both operands, against sums in f64 of the
    /// rounded operands.
    #[test]
    fn equals_plain_sums_at_odd_sizes() {
        if !available() {
            eprintln!("skipped: no AVX512-BF16 here");
            return;
        }
        for (m, n, k) in [(1, 1, 1), (8, 48, 2), (7, 47, 31), (9, 49, 33), (65, 100, 67), (40, 200, 4099), (300, 7, 64)] {
            let (a, b) = (values(m * k, 0.3), values(k * n, 7.7));
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[(i % k) * n + i / k]).collect();
            let mut expected = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    expected[i * n + j] = (0..k)
                        .map(|l| f64::from(round_to_bf16(a[i * k + l])) * f64::from(round_to_bf16(b[l * n + j])))
                        .sum();
                }
            }
            let tolerance = 2e-6 * k as f64 * 4.0;
            let lefts = [Matrix::new(&a, m, k), Matrix::new(&at, k, m).t()];
            let rights = [Matrix::new(&b, k, n), Matrix::new(&bt, n, k).t()];
            for (left, right) in lefts.into_iter().flat_map(|l| rights.map(|r| (l, r))) {
                let stride = n + 3;
                let mut out = vec![5.0f32; m * stride];
                matmul_threads(&mut out, stride, false, left, right);
                for (i, row) in out.chunks(stride).enumerate() {
                    for j in 0..n {
                        let difference = (f64::from(row[j]) - expected[i * n + j]).abs();
                        assert!(difference < tolerance, "{m}x{n}x{k} at {i},{j}: off by {difference}");
                    }
                    assert_eq!(row[n..], [5.0; 3], "nothing outside the result is written");
                }
                matmul_threads(&mut out, stride, true, left, right);
                let difference = (f64::from(out[0]) - 2.0 * expected[0]).abs();
                assert!(difference < 2.0 * tolerance, "{m}x{n}x{k}: accumulated, off by {difference}");
            }
        }
    }
}
