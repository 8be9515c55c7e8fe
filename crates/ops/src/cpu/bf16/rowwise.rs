//! The register tile of AVX512-BF16 for operands in cache that are packed once for many products: 8 x 2
//! vectors of accumulators. Rows lie as they come, `[8 rows][k / 2][2]`, so that packing them is rounding
//! alone; column panels are those of [`avx512`].

use super::avx512;
use super::panels::Kernel;
use super::whole::Whole;
use crate::cpu::matmul::Matrix;
use std::arch::x86_64::*;

const ROWS: usize = 8;
const COLUMNS: usize = 32;
/// Pairs that a vector holds.
const PAIRS: usize = 16;

/// The tile.
pub struct Rowwise;

impl Kernel for Rowwise {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const PAIRS: usize = PAIRS;
    const DEPTH: usize = 2048;

    unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        // SAFETY: the caller's conditions.
        unsafe { pack_rows(from, start, count, to) }
    }

    unsafe fn pack_columns(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        let (values, rest) = to.split_at_mut(from.columns.div_ceil(2) * COLUMNS);
        rest.fill(0);
        // SAFETY: as above.
        unsafe { avx512::pack::<COLUMNS>(from, start, count, values) }
    }

    unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool) {
        // SAFETY: as above.
        unsafe { tile(pairs, rows, &[columns], out, stride, keep) }
    }
}

impl Whole for Rowwise {
    unsafe fn tile_of_pieces(pairs: usize, rows: &[u32], columns: &[&[u32]], out: *mut f32, stride: usize, keep: bool) {
        // SAFETY: as above.
        unsafe { tile(pairs, rows, columns, out, stride, keep) }
    }

    fn row_words(pairs: usize, row: usize, step: usize) -> usize {
        row * pairs + step * PAIRS
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
    let k = from.columns;
    let whole = if from.column_stride == 1 { k / 32 } else { 0 };
    for (r, to) in to.chunks_exact_mut(k.div_ceil(2).next_multiple_of(PAIRS)).enumerate() {
        if r >= count {
            to.fill(0);
            continue;
        }
        let row = &from.data[(start + r) * from.row_stride..];
        let (vectors, rest) = to.split_at_mut(whole * PAIRS);
        for (to, row) in vectors.chunks_exact_mut(PAIRS).zip(row.chunks_exact(2 * PAIRS)) {
            // SAFETY: 32 floats are read, 16 words written.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), avx512::round32(row.as_ptr())) };
        }
        let bits = |i: usize| if i < k { u32::from(avx512::round(row[i * from.column_stride])) } else { 0 };
        for (i, to) in rest.iter_mut().enumerate().map(|(i, to)| (2 * (whole * PAIRS + i), to)) {
            *to = bits(i) | bits(i + 1) << 16;
        }
    }
}

/// `out (+)= sum over pairs`, of all pieces in turn.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile(pairs: usize, rows: &[u32], pieces: &[&[u32]], out: *mut f32, stride: usize, keep: bool) {
    const VECTORS: usize = COLUMNS / 16;
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let (mut rows, width) = (rows.as_ptr(), pairs * pieces.len());
    // SAFETY: the caller gives `pairs` steps of all panels and a whole tile of output.
    unsafe {
        for columns in pieces {
            let mut b = columns.as_ptr();
            for _ in 0..pairs {
                let right: [__m512bh; VECTORS] =
                    std::array::from_fn(|v| std::mem::transmute(_mm512_loadu_si512(b.add(16 * v).cast())));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let left: __m512bh = std::mem::transmute(_mm512_set1_epi32(*rows.add(r * width) as i32));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = _mm512_dpbf16_ps(*sum, left, right);
                    }
                }
                b = b.add(COLUMNS);
                rows = rows.add(1);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let to = out.add(r * stride + 16 * v);
                _mm512_storeu_ps(to, if keep { _mm512_add_ps(sum, _mm512_loadu_ps(to)) } else { sum });
            }
        }
    }
}
