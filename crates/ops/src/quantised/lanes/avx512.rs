//! AVX-512 with VNNI: one instruction multiplies and adds 64 bytes.

use super::{Lanes, MAGNITUDE, SHIFT};
use std::arch::x86_64::*;

/// AVX-512 F, BW, VL, DQ and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512;

impl Lanes for Avx512 {
    type Bytes = __m512i;
    type Sums = __m512i;
    type Run = __m512i;
    type Floats = __m512;
    const INPUTS: usize = 8;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m512i {
        // SAFETY: as the caller promises, in all of these.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn save(bytes: __m512i, to: *mut u8) {
        unsafe { _mm512_storeu_si512(to.cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    unsafe fn fifth(bytes: __m512i, at: *const u8) -> __m512i {
        unsafe { _mm512_mask_add_epi8(bytes, at.cast::<u64>().read_unaligned(), bytes, _mm512_set1_epi8(16)) }
    }

    #[inline(always)]
    unsafe fn sixth(bytes: __m512i, pairs: __m512i, shift: i32) -> __m512i {
        unsafe {
            let bits = _mm512_and_si512(_mm512_srl_epi16(pairs, _mm_cvtsi32_si128(shift)), _mm512_set1_epi8(3));
            _mm512_or_si512(bytes, _mm512_slli_epi16::<4>(bits))
        }
    }

    #[inline(always)]
    unsafe fn start(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn begin(sums: __m512i) -> __m512i {
        sums
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(sums: __m512i, bytes: __m512i, x: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(x)) }
    }

    #[inline(always)]
    unsafe fn end<const WIDE: bool>(sums: __m512i) -> __m512i {
        sums
    }

    #[inline(always)]
    unsafe fn floats(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }

    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn signed(at: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn times(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn times_plus(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(values: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, values) }
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        unsafe {
            let magnitude = _mm512_set1_epi32(MAGNITUDE);
            let low = _mm512_and_si512(_mm512_loadu_si512(x.cast()), magnitude);
            let high = _mm512_and_si512(_mm512_loadu_si512(x.add(16).cast()), magnitude);
            _mm512_reduce_max_epu32(_mm512_max_epu32(low, high))
        }
    }

    #[inline(always)]
    unsafe fn round(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        unsafe {
            let (inverse, shift) = (_mm512_set1_ps(inverse), _mm512_set1_ps(SHIFT));
            let low = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(x), inverse), shift);
            let high = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(x.add(16)), inverse), shift);
            let shift = _mm512_castps_si512(shift);
            let low = _mm512_sub_epi32(_mm512_castps_si512(low), shift);
            let high = _mm512_sub_epi32(_mm512_castps_si512(high), shift);
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(to.add(16).cast(), _mm512_cvtepi32_epi8(high));
            [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)]
        }
    }
}
