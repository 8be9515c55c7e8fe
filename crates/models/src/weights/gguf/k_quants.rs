//! The k-quants: blocks of 256 elements in groups of 16 or 32, whose scales are themselves
//! quantised against one or two halves.

use super::dequantize::half_at;

/// Scales (4 low bits) and minima (4 high bits) of 16 groups, 2-bit elements, d, dmin.
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, d_min) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[group] & 15);
        let min = d_min * f32::from(block[group] >> 4);
        let (bytes, shift) = two_bit_place(group);
        for (o, q) in out.iter_mut().zip(&block[16 + bytes..]) {
            *o = scale * f32::from((q >> shift) & 3) - min;
        }
    }
}

/// Third bits, lower two bits, 16 scales of 6 bits, d. An element whose third bit is clear is 4
/// less.
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let d = half_at(block, 108);
    let packed = &block[96..108];
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
        let scale = d * (i32::from(low | high << 4) - 32) as f32;
        let (bytes, shift) = two_bit_place(group);
        let third = &block[16 * (group % 2)..];
        for ((o, q), third) in out.iter_mut().zip(&block[32 + bytes..]).zip(third) {
            let third = (third >> (group / 2)) & 1;
            *o = scale * (i32::from((q >> shift) & 3 | third << 2) - 4) as f32;
        }
    }
}

/// Where the 2-bit elements of a group of 16 begin among the 64 bytes, and by how much they are
/// shifted: 32 bytes hold 128 elements, 32 at each shift.
#[inline]
fn two_bit_place(group: usize) -> (usize, u32) {
    (32 * (group / 8) + 16 * (group % 2), 2 * ((group / 2) % 4) as u32)
}

/// Scale and minimum of group `j` of 8, 6 bits each, packed in 12 bytes: the first four groups lie
/// in the low 6 bits of bytes 0 to 7; of the others, the low 4 bits are in bytes 8 to 11 and the
/// high 2 bits on top of the first.
#[inline]
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | (packed[j - 4] >> 6) << 4, packed[j + 4] >> 4 | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d, dmin, 12 bytes of scales and minima, 4-bit elements.
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], group);
        let (scale, min) = (d * scale, d_min * min);
        let shift = 4 * (group % 2) as u32;
        for (o, q) in out.iter_mut().zip(&block[16 + 32 * (group / 2)..]) {
            *o = scale * f32::from((q >> shift) & 15) - min;
        }
    }
}

/// As [`q4_k`], with fifth bits between the scales and the elements.
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], group);
        let (scale, min) = (d * scale, d_min * min);
        let shift = 4 * (group % 2) as u32;
        for ((o, q), fifth) in out.iter_mut().zip(&block[48 + 32 * (group / 2)..]).zip(&block[16..48]) {
            let fifth = ((fifth >> group) & 1) << 4;
            *o = scale * f32::from((q >> shift) & 15 | fifth) - min;
        }
    }
}

/// Lower four bits, upper two bits, 16 signed scales, d.
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + group] as i8);
        // Quarter `k` of each 128 elements: 32 elements, in nibble k / 2 of its 32 bytes.
        let (part, k, within) = (group / 8, (group / 2) % 4, 16 * (group % 2));
        let low = &block[64 * part + 32 * (k % 2) + within..];
        let high = &block[128 + 32 * part + within..];
        for ((o, low), high) in out.iter_mut().zip(low).zip(high) {
            let low = (low >> (4 * (k / 2))) & 15;
            let high = ((high >> (2 * k)) & 3) << 4;
            *o = scale * (i32::from(low | high) - 32) as f32;
        }
    }
}
