//! Plain loops, for any processor.

use super::{Lanes, MAGNITUDE, ROWS, SHIFT};
use half::f16;
use std::array::from_fn;

/// No vector instructions by name.
#[derive(Clone, Copy)]
pub struct Plain;

impl Lanes for Plain {
    type Bytes = [u8; 4 * ROWS];
    type Sums = [i32; ROWS];
    type Run = [i32; ROWS];
    type Floats = [f32; ROWS];
    const INPUTS: usize = 1;
    const SIGNED: bool = false;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self::Bytes {
        // SAFETY: as the caller promises, in all of these.
        unsafe { at.cast::<Self::Bytes>().read() }
    }

    #[inline(always)]
    unsafe fn save(bytes: Self::Bytes, to: *mut u8) {
        unsafe { to.cast::<Self::Bytes>().write(bytes) }
    }

    #[inline(always)]
    unsafe fn low(bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|b| b & 15)
    }

    #[inline(always)]
    unsafe fn high(bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|b| b >> 4)
    }

    #[inline(always)]
    unsafe fn fifth(bytes: Self::Bytes, at: *const u8) -> Self::Bytes {
        let bits = unsafe { at.cast::<[u8; 8]>().read() };
        from_fn(|i| bytes[i] | (bits[i / 8] >> (i % 8) & 1) << 4)
    }

    #[inline(always)]
    unsafe fn sixth(bytes: Self::Bytes, pairs: Self::Bytes, shift: i32) -> Self::Bytes {
        from_fn(|i| bytes[i] | (pairs[i] >> shift & 3) << 4)
    }

    #[inline(always)]
    unsafe fn start(value: i32) -> Self::Sums {
        [value; ROWS]
    }

    #[inline(always)]
    unsafe fn begin(sums: Self::Sums) -> Self::Sums {
        sums
    }

    #[inline(always)]
    unsafe fn end<const WIDE: bool>(sums: Self::Sums) -> Self::Sums {
        sums
    }

    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        from_fn(|r| sums[r] + (0..4).map(|i| i32::from(bytes[4 * r + i]) * x[i]).sum::<i32>())
    }

    #[inline(always)]
    unsafe fn floats(sums: Self::Sums) -> Self::Floats {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> Self::Floats {
        let pairs = unsafe { at.cast::<[[u8; 2]; ROWS]>().read() };
        pairs.map(|pair| f16::from_le_bytes(pair).to_f32())
    }

    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> Self::Floats {
        unsafe { at.cast::<[u8; ROWS]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn signed(at: *const u8) -> Self::Floats {
        unsafe { at.cast::<[i8; ROWS]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [value; ROWS]
    }

    #[inline(always)]
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn times_plus(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn store(values: Self::Floats, to: *mut f32) {
        unsafe { to.cast::<Self::Floats>().write(values) }
    }

    #[inline(always)]
    unsafe fn largest(x: *const f32) -> u32 {
        let x = unsafe { x.cast::<[f32; 2 * ROWS]>().read() };
        x.iter().fold(0, |largest, x| largest.max(x.to_bits() & MAGNITUDE as u32))
    }

    #[inline(always)]
    unsafe fn round(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2] {
        let x = unsafe { x.cast::<[f32; 2 * ROWS]>().read() };
        let integers = x.map(|x| (x * inverse + SHIFT).to_bits() as i8);
        unsafe { to.cast::<[i8; 2 * ROWS]>().write(integers) };
        let sum = |half: &[i8]| half.iter().map(|&integer| i32::from(integer)).sum();
        [sum(&integers[..ROWS]), sum(&integers[ROWS..])]
    }
}
