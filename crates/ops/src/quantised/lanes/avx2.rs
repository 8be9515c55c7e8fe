//! AVX2: two vectors of eight rows; `maddubs`, whose 16-bit sums hold two products of bytes below 64
//! with signed ones. A run of such sums is added up in 16 bits before they are widened: of a group of 32
//! elements of four bits all eight (8 * 2 * 15 * 128 < 2^15), which halves the multiplications. Whole bytes
//! are multiplied by their magnitude instead, with the sign moved to the other factor: 2 * 128 * 127 still
//! fits, one at a time.

use super::{Lanes, MAGNITUDE, SHIFT};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2;

/// The same for both halves. Not a closure: those would not be compiled for AVX2.
macro_rules! both {
    ($i:ident: $half:expr) => {
        [
            {
                let $i = 0usize;
                $half
            },
            {
                let $i = 1usize;
                $half
            },
        ]
    };
}

impl Lanes for Avx2 {
    type Bytes = [__m256i; 2];
    type Sums = [__m256i; 2];
    /// The sums, and pairs of products in 16 bits.
    type Run = [[__m256i; 2]; 2];
    type Floats = [__m256; 2];
    const INPUTS: usize = 4;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self::Bytes {
        // SAFETY: as the caller promises, in all of these.
        unsafe { both!(i: _mm256_loadu_si256(at.add(32 * i).cast())) }
    }

    #[inline(always)]
    unsafe fn save(bytes: Self::Bytes, to: *mut u8) {
        unsafe {
            _mm256_storeu_si256(to.cast(), bytes[0]);
            _mm256_storeu_si256(to.add(32).cast(), bytes[1]);
        }
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Bytes) -> Self::Bytes {
        unsafe { both!(i: _mm256_and_si256(bytes[i], _mm256_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Bytes) -> Self::Bytes {
        unsafe { both!(i: _mm256_and_si256(_mm256_srli_epi16::<4>(bytes[i]), _mm256_set1_epi8(15))) }
    }

    #[inline(always)]
    unsafe fn fifth(bytes: Self::Bytes, at: *const u8) -> Self::Bytes {
        unsafe {
            // Byte i of a vector asks for bit i % 8 of byte i / 8.
            let places = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            both!(i: {
                let bits = _mm256_set1_epi32(at.add(4 * i).cast::<i32>().read_unaligned());
                let asked = _mm256_and_si256(_mm256_shuffle_epi8(bits, places), bit);
                let set = _mm256_cmpeq_epi8(asked, bit);
                _mm256_or_si256(bytes[i], _mm256_and_si256(set, _mm256_set1_epi8(16)))
            })
        }
    }

    #[inline(always)]
    unsafe fn sixth(bytes: Self::Bytes, pairs: Self::Bytes, shift: i32) -> Self::Bytes {
        unsafe {
            let shift = _mm_cvtsi32_si128(shift);
            both!(i: {
                let bits = _mm256_and_si256(_mm256_srl_epi16(pairs[i], shift), _mm256_set1_epi8(3));
                _mm256_or_si256(bytes[i], _mm256_slli_epi16::<4>(bits))
            })
        }
    }

    #[inline(always)]
    unsafe fn start(value: i32) -> Self::Sums {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }

    #[inline(always)]
    unsafe fn begin(sums: Self::Sums) -> Self::Run {
        unsafe { [sums, [_mm256_setzero_si256(); 2]] }
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>([sums, pairs]: Self::Run, bytes: Self::Bytes, x: i32) -> Self::Run {
        unsafe {
            let x = _mm256_set1_epi32(x);
            if WIDE {
                let sums = both!(i: {
                    let signed = _mm256_xor_si256(bytes[i], _mm256_set1_epi8(-128));
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
                    _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
                });
                [sums, pairs]
            } else {
                [sums, both!(i: _mm256_add_epi16(pairs[i], _mm256_maddubs_epi16(bytes[i], x)))]
            }
        }
    }

    #[inline(always)]
    unsafe fn end<const WIDE: bool>([sums, pairs]: Self::Run) -> Self::Sums {
        if WIDE {
            return sums;
        }
        unsafe { both!(i: _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs[i], _mm256_set1_epi16(1)))) }
    }

    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Self::Floats {
        unsafe { [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])] }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> Self::Floats {
        unsafe { both!(i: _mm256_cvtph_ps(_mm_loadu_si128(at.add(16 * i).cast()))) }
    }

    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> Self::Floats {
        unsafe { Self::floats(both!(i: _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(8 * i).cast())))) }
    }

    #[inline(always)]
    unsafe fn signed(at: *const u8) -> Self::Floats {
        unsafe { Self::floats(both!(i: _mm256_cvtepi8_epi32(_mm_loadl_epi64(at.add(8 * i).cast())))) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn times_plus(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn store(values: Self::Floats, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, values[0]);
            _mm256_storeu_ps(to.add(8), values[1]);
        }
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        unsafe {
            let magnitude = _mm256_set1_epi32(MAGNITUDE);
            let [a, b] = both!(i: _mm256_and_si256(_mm256_loadu_si256(x.add(8 * i).cast()), magnitude));
            let [c, d] = both!(i: _mm256_and_si256(_mm256_loadu_si256(x.add(8 * i + 16).cast()), magnitude));
            let all = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
            let four = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
            let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let one = _mm_max_epu32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
            _mm_cvtsi128_si32(one) as u32
        }
    }

    #[inline(always)]
    unsafe fn round(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        unsafe {
            let (inverse, shift) = (_mm256_set1_ps(inverse), _mm256_set1_ps(SHIFT));
            both!(half: {
                let [low, high] = both!(i: {
                    let x = _mm256_mul_ps(_mm256_loadu_ps(x.add(16 * half + 8 * i)), inverse);
                    _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(x, shift)), _mm256_castps_si256(shift))
                });
                // Packing goes by 128 bits: 0..4, 8..12, 4..8, 12..16.
                let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
                let bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
                _mm_storeu_si128(to.add(16 * half).cast(), bytes);
                let eight = _mm256_add_epi32(low, high);
                let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
            })
        }
    }
}
