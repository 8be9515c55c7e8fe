//! The k-quants: blocks of 256 elements in groups of 16 or 32, whose scales are small integers times
//! one half of the block.

use super::{Blocks, Lanes, ROWS, VECTOR, four, put_fifth, put_four, put_half};

const HALVES: usize = 2 * ROWS;
const FOURS: usize = 4 * VECTOR;
const FIFTHS: usize = VECTOR;
/// Groups of 32.
const PARTS: usize = 8;

/// Scale and minimum of group `j` of 8, 6 bits each, packed in 12 bytes: the first four groups lie
/// in the low 6 bits of bytes 0 to 7; of the others, the low 4 bits are in bytes 8 to 11 and the
/// high 2 bits on top of the first.
fn scale_and_minimum(packed: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    }
}

/// `d s u - dmin m`: `[d][dmin][s of 8 groups][m of 8 groups]`, and for each group
/// `[fifth bits, if any][lower four bits]`.
macro_rules! with_minimum {
    ($(#[$about:meta])* $Name:ident, stored $stored:literal, fifth $fifth:literal) => {
        $(#[$about])*
        pub struct $Name;

        impl $Name {
            const SCALES: usize = 2 * HALVES;
            const MINIMA: usize = Self::SCALES + PARTS * ROWS;
            const BITS: usize = Self::MINIMA + PARTS * ROWS;
            const FOUR: usize = if $fifth { FIFTHS } else { 0 };
            const PART: usize = Self::FOUR + FOURS;
        }

        impl Blocks for $Name {
            const ELEMENTS: usize = 256;
            const STORED: usize = $stored;
            const WOVEN: usize = Self::BITS + PARTS * Self::PART;
            const GROUP: usize = 32;
            const ZERO: i32 = 0;
            const OFFSET: bool = true;
            const INTEGER_BITS: u32 = if $fifth { 5 } else { 4 };

            #[inline(always)]
            unsafe fn integers<L: Lanes>(at: *const u8, part: usize, vector: usize) -> L::Bytes {
                // SAFETY: as the caller promises, here and below.
                unsafe {
                    let at = at.add(Self::BITS + part * Self::PART);
                    let lower = four::<L>(at.add(Self::FOUR), vector);
                    if $fifth { L::fifth(lower, at.add(8 * vector)) } else { lower }
                }
            }

            #[inline(always)]
            unsafe fn scales<L: Lanes>(at: *const u8, group: usize) -> L::Floats {
                unsafe { L::times(L::halves(at), L::unsigned(at.add(Self::SCALES + group * ROWS))) }
            }

            #[inline(always)]
            unsafe fn offsets<L: Lanes>(at: *const u8, part: usize) -> L::Floats {
                unsafe {
                    let minimum = L::times(L::halves(at.add(HALVES)), L::unsigned(at.add(Self::MINIMA + part * ROWS)));
                    L::times(minimum, L::splat(-1.0))
                }
            }

            fn weave(stored: &[u8], row: usize, panel: &mut [u8]) {
                put_half(panel, row, stored);
                put_half(&mut panel[HALVES..], row, &stored[2..]);
                let (packed, rest) = stored[4..].split_at(12);
                let (fifths, fours) = rest.split_at(if $fifth { 32 } else { 0 });
                for part in 0..PARTS {
                    let (scale, minimum) = scale_and_minimum(packed, part);
                    panel[Self::SCALES + part * ROWS + row] = scale;
                    panel[Self::MINIMA + part * ROWS + row] = minimum;
                    let area = &mut panel[Self::BITS + part * Self::PART..][..Self::PART];
                    for i in 0..32 {
                        if $fifth {
                            put_fifth(area, row, i, fifths[i] >> part & 1);
                        }
                        put_four(&mut area[Self::FOUR..], row, i, fours[32 * (part / 2) + i] >> (4 * (part % 2)) & 15);
                    }
                }
            }
        }
    };
}

with_minimum!(
    /// Four bits, 8 scales and minima of 6 bits.
    Q4K, stored 144, fifth false);
with_minimum!(
    /// Five bits, 8 scales and minima of 6 bits.
    Q5K, stored 176, fifth true);

/// Six bits, 16 signed scales of 8 bits: `d s (u - 32)`; `[d][s of 16 groups]`, and for each 32
/// elements `[upper two bits][lower four bits]`.
pub struct Q6K;

impl Q6K {
    const SCALES: usize = HALVES;
    const BITS: usize = Self::SCALES + 2 * PARTS * ROWS;
    /// Two bits of 32 elements.
    const PAIRS: usize = 2 * VECTOR;
    const PART: usize = Self::PAIRS + FOURS;
}

impl Blocks for Q6K {
    const ELEMENTS: usize = 256;
    const STORED: usize = 210;
    const WOVEN: usize = Self::BITS + PARTS * Self::PART;
    const GROUP: usize = 16;
    const ZERO: i32 = 32;
    const OFFSET: bool = false;
    const INTEGER_BITS: u32 = 6;

    #[inline(always)]
    unsafe fn integers<L: Lanes>(at: *const u8, part: usize, vector: usize) -> L::Bytes {
        // SAFETY: as the caller promises, here and below.
        unsafe {
            let at = at.add(Self::BITS + part * Self::PART);
            let pairs = L::load(at.add(VECTOR * (vector / 4)));
            L::sixth(four::<L>(at.add(Self::PAIRS), vector), pairs, 2 * (vector % 4) as i32)
        }
    }

    #[inline(always)]
    unsafe fn scales<L: Lanes>(at: *const u8, group: usize) -> L::Floats {
        unsafe { L::times(L::halves(at), L::signed(at.add(Self::SCALES + group * ROWS))) }
    }

    #[inline(always)]
    unsafe fn offsets<L: Lanes>(_: *const u8, _: usize) -> L::Floats {
        unsafe { L::splat(0.0) }
    }

    fn weave(stored: &[u8], row: usize, panel: &mut [u8]) {
        put_half(panel, row, &stored[208..]);
        for group in 0..2 * PARTS {
            panel[Self::SCALES + group * ROWS + row] = stored[192 + group];
        }
        for k in 0..256 {
            // Quarter `quarter` of each 128 elements: 32 elements, in nibble quarter / 2 of its 32 bytes.
            let (side, quarter, within) = (k / 128, k / 32 % 4, k % 32);
            let lower = stored[64 * side + 32 * (quarter % 2) + within] >> (4 * (quarter / 2)) & 15;
            let upper = stored[128 + 32 * side + within] >> (2 * quarter) & 3;
            let (part, i) = (k / 32, k % 32);
            let area = &mut panel[Self::BITS + part * Self::PART..][..Self::PART];
            area[VECTOR * (i / 16) + 4 * row + i % 4] |= upper << (2 * (i / 4 % 4));
            put_four(&mut area[Self::PAIRS..], row, i, lower);
        }
    }
}
