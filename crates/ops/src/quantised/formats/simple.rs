//! Blocks of 32 elements with one scale, and one offset or none.

use super::{Blocks, Lanes, ROWS, VECTOR, four, put_fifth, put_four, put_half};

/// Bytes of sixteen halves.
const HALVES: usize = 2 * ROWS;
/// Bytes of 32 elements' lower four bits, of all rows.
const FOURS: usize = 4 * VECTOR;
/// Bytes of their fifth bits.
const FIFTHS: usize = VECTOR;

/// A format of four or five bits: `[scales][offsets, if any][fifth bits, if any][lower four bits]`.
macro_rules! nibbles {
    ($(#[$about:meta])* $Name:ident, stored $stored:literal, zero $zero:literal, offset $offset:literal, fifth $fifth:literal) => {
        $(#[$about])*
        pub struct $Name;

        impl $Name {
            const FIFTH: usize = if $offset { 2 * HALVES } else { HALVES };
            const FOUR: usize = Self::FIFTH + if $fifth { FIFTHS } else { 0 };
        }

        impl Blocks for $Name {
            const ELEMENTS: usize = 32;
            const STORED: usize = $stored;
            const WOVEN: usize = Self::FOUR + FOURS;
            const GROUP: usize = 32;
            const ZERO: i32 = $zero;
            const OFFSET: bool = $offset;
            const INTEGER_BITS: u32 = if $fifth { 5 } else { 4 };

            #[inline(always)]
            unsafe fn integers<L: Lanes>(at: *const u8, _: usize, vector: usize) -> L::Bytes {
                // SAFETY: as the caller promises, here and below.
                unsafe {
                    let lower = four::<L>(at.add(Self::FOUR), vector);
                    if $fifth { L::fifth(lower, at.add(Self::FIFTH + 8 * vector)) } else { lower }
                }
            }

            #[inline(always)]
            unsafe fn scales<L: Lanes>(at: *const u8, _: usize) -> L::Floats {
                unsafe { L::halves(at) }
            }

            #[inline(always)]
            unsafe fn offsets<L: Lanes>(at: *const u8, _: usize) -> L::Floats {
                unsafe { L::halves(at.add(HALVES)) }
            }

            fn weave(stored: &[u8], row: usize, panel: &mut [u8]) {
                put_half(panel, row, stored);
                let mut rest = &stored[2..];
                if $offset {
                    put_half(&mut panel[HALVES..], row, rest);
                    rest = &rest[2..];
                }
                if $fifth {
                    for i in 0..32 {
                        put_fifth(&mut panel[Self::FIFTH..], row, i, rest[i / 8] >> (i % 8) & 1);
                    }
                    rest = &rest[4..];
                }
                for (i, byte) in rest.iter().enumerate() {
                    put_four(&mut panel[Self::FOUR..], row, i, byte & 15);
                    put_four(&mut panel[Self::FOUR..], row, i + 16, byte >> 4);
                }
            }
        }
    };
}

nibbles!(
    /// Four bits, one scale: `d (u - 8)`.
    Q4_0, stored 18, zero 8, offset false, fifth false);
nibbles!(
    /// Four bits, scale and offset: `d u + m`.
    Q4_1, stored 20, zero 0, offset true, fifth false);
nibbles!(
    /// Five bits, one scale: `d (u - 16)`.
    Q5_0, stored 22, zero 16, offset false, fifth true);
nibbles!(
    /// Five bits, scale and offset: `d u + m`.
    Q5_1, stored 24, zero 0, offset true, fifth true);

/// Eight bits, one scale: `d (u - 128)`, with 128 added to the signed bytes of the file.
pub struct Q8_0;

impl Blocks for Q8_0 {
    const ELEMENTS: usize = 32;
    const STORED: usize = 34;
    const WOVEN: usize = HALVES + 8 * VECTOR;
    const GROUP: usize = 32;
    const ZERO: i32 = 128;
    const OFFSET: bool = false;
    const INTEGER_BITS: u32 = 8;

    #[inline(always)]
    unsafe fn integers<L: Lanes>(at: *const u8, _: usize, vector: usize) -> L::Bytes {
        // SAFETY: as the caller promises, here and below.
        unsafe { L::load(at.add(HALVES + VECTOR * vector)) }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(at: *const u8, _: usize) -> L::Floats {
        unsafe { L::halves(at) }
    }

    #[inline(always)]
    unsafe fn offsets<L: Lanes>(_: *const u8, _: usize) -> L::Floats {
        unsafe { L::splat(0.0) }
    }

    fn weave(stored: &[u8], row: usize, panel: &mut [u8]) {
        put_half(panel, row, stored);
        for (i, byte) in stored[2..].iter().enumerate() {
            panel[HALVES + VECTOR * (i / 4) + 4 * row + i % 4] = byte ^ 0x80;
        }
    }
}
