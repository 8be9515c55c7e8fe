//! The register tile of AVX512-BF16: 8 x 3 vectors of accumulators, fed by `vdpbf16ps`. Panels are
//! `[k / 2][row or column][2]`.

use super::panels::Kernel;
use crate::cpu::matmul::Matrix;
use std::arch::x86_64::*;

const ROWS: usize = 8;
const COLUMNS: usize = 48;

/// The tile.
pub struct Avx512;

impl Kernel for Avx512 {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = COLUMNS;
    const PAIRS: usize = 1;
    /// A row panel of 32 KiB, a column panel of 192 KiB.
    const DEPTH: usize = 2048;

    unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        // SAFETY: the caller's conditions.
        unsafe { pack::<ROWS>(from, start, count, to) }
    }

    unsafe fn pack_columns(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        // SAFETY: as above.
        unsafe { pack::<COLUMNS>(from, start, count, to) }
    }

    unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool) {
        // SAFETY: as above.
        unsafe { tile(pairs, rows, columns, out, stride, keep) }
    }
}

/// Rows `start..start + count` of `from`, rounded, into a panel of `P` rows: `[k / 2][P][2]`.
/// Rows and a last odd `k` beyond the end are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn pack<const P: usize>(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
    let k = from.columns;
    assert_eq!(to.len(), k.div_ceil(2) * P);
    if count < P {
        to.fill(0);
    }
    if from.column_stride == 1 {
        // `k` is contiguous: round 32 of a row at a time and turn the pairs of 16 rows into lines of the
        // panel, all rows before the next 32, so that what is written to stays in L1.
        let row = |p: usize| &from.data[(start + p) * from.row_stride..][..k];
        let whole = k / 32;
        for chunk in 0..whole {
            let to = &mut to[chunk * 16 * P..][..16 * P];
            let mut p = 0;
            while p + 16 <= count {
                // SAFETY: 32 floats of each of 16 rows are read, 16 words of each of 16 lines written.
                unsafe {
                    let mut pairs = [_mm512_setzero_si512(); 16];
                    for (i, pairs) in pairs.iter_mut().enumerate() {
                        *pairs = round32(row(p + i)[chunk * 32..].as_ptr());
                    }
                    for (i, line) in transpose(pairs).into_iter().enumerate() {
                        _mm512_storeu_si512(to.as_mut_ptr().add(i * P + p).cast(), line);
                    }
                }
                p += 16;
            }
            for p in p..count {
                let mut pairs = [0u32; 16];
                // SAFETY: 32 floats are read, 16 words written.
                unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), round32(row(p)[chunk * 32..].as_ptr())) };
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
            let second = if 2 * i + 1 < k { &from.data[(2 * i + 1) * from.column_stride + start..][..count] } else { &[] };
            if count == P && !second.is_empty() {
                // SAFETY: P floats of each are read, P words written, in steps that divide P.
                unsafe {
                    if P.is_multiple_of(16) {
                        for p in (0..P).step_by(16) {
                            let woven = weave(first.as_ptr().add(p), second.as_ptr().add(p));
                            _mm512_storeu_si512(to.as_mut_ptr().add(p).cast(), woven);
                        }
                    } else {
                        for p in (0..P).step_by(8) {
                            let low = narrow8(_mm256_loadu_ps(first.as_ptr().add(p)));
                            let high = narrow8(_mm256_loadu_ps(second.as_ptr().add(p)));
                            let woven =
                                _mm256_or_si256(_mm256_cvtepu16_epi32(low), _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high)));
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

/// 32 floats as 16 pairs.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn round32(from: *const f32) -> __m512i {
    // SAFETY: by the caller; both are 512 bits.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// Pairs of the 16 floats at each of two places.
///
/// # Safety
/// They can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn weave(first: *const f32, second: *const f32) -> __m512i {
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
    );
    // SAFETY: by the caller; both are 512 bits.
    unsafe {
        let (low, high) = (_mm512_loadu_ps(first), _mm512_loadu_ps(second));
        _mm512_permutexvar_epi16(order, std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)))
    }
}

/// 16 x 16 words.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Inside 128-bit lanes: pairs of rows, then quadruples; `fours[4 i + j]` holds in its lane l the
    // words 4 l + j of rows 4 i to 4 i + 3.
    let mut fours = rows;
    for i in 0..4 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        fours[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // Between the lanes: word 4 l + j is made of lane l of the four.
    let mut out = rows;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0b10_00_10_00>(c, d), _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d));
        out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even);
        out[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even);
        out[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        out[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bf16")]
fn narrow8(x: __m256) -> __m128i {
    // SAFETY: both are 128 bits.
    unsafe { std::mem::transmute::<__m128bh, __m128i>(_mm256_cvtneps_pbh(x)) }
}

/// As the instruction rounds: to nearest even, subnormals to zero, NaN stays NaN.
pub fn round(x: f32) -> u16 {
    (crate::cpu::round_to_bf16(x).to_bits() >> 16) as u16
}

/// `out (+)= sum over pairs`.
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
