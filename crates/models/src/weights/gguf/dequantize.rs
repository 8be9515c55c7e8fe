//! GGUF's block quantisations to f32, threaded. The order of the operations is that of ggml's
//! `dequantize_row_*`, so results are equal to the bit. Layouts: ggml, `ggml-common.h`.

use half::f16;
use rayon::prelude::*;

use super::k_quants;
use crate::weights::{Dtype, WeightsError, convert};

/// Elements a thread takes at a time; a multiple of every block.
const CHUNK: usize = 1 << 15;

/// Fills `out` with the values stored in `bytes`.
///
/// # Errors
/// [`WeightsError::BadTensor`] if `bytes` is not exactly as long as `out.len()` elements of `dtype`.
pub fn dequantize(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Result<(), WeightsError> {
    if dtype.bytes_for(out.len()) != Some(bytes.len()) {
        return Err(WeightsError::BadTensor {
            name: String::new(),
            what: format!("{} bytes are not {} elements of {dtype}", bytes.len(), out.len()),
        });
    }
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => convert::plain_to_f32(dtype, bytes, out),
        Dtype::Q4_0 => blocks(bytes, out, q4_0),
        Dtype::Q4_1 => blocks(bytes, out, q4_1),
        Dtype::Q5_0 => blocks(bytes, out, q5_0),
        Dtype::Q5_1 => blocks(bytes, out, q5_1),
        Dtype::Q8_0 => blocks(bytes, out, q8_0),
        Dtype::Q2_K => blocks(bytes, out, k_quants::q2_k),
        Dtype::Q3_K => blocks(bytes, out, k_quants::q3_k),
        Dtype::Q4_K => blocks(bytes, out, k_quants::q4_k),
        Dtype::Q5_K => blocks(bytes, out, k_quants::q5_k),
        Dtype::Q6_K => blocks(bytes, out, k_quants::q6_k),
    }
    Ok(())
}

/// Runs `block` on every block of `B` bytes and `E` elements.
fn blocks<const B: usize, const E: usize>(bytes: &[u8], out: &mut [f32], block: impl Fn(&[u8; B], &mut [f32; E]) + Sync) {
    let share = |out: &mut [f32], bytes: &[u8]| {
        for (o, b) in out.as_chunks_mut::<E>().0.iter_mut().zip(bytes.as_chunks::<B>().0) {
            block(b, o);
        }
    };
    if out.len() <= CHUNK {
        // Not worth waking another thread.
        return share(out, bytes);
    }
    out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK / E * B)).for_each(|(out, bytes)| share(out, bytes));
}

/// The half at `at`.
#[inline]
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((q, low), high) in block[2..].iter().zip(low).zip(high) {
        *low = d * (i32::from(q & 15) - 8) as f32;
        *high = d * (i32::from(q >> 4) - 8) as f32;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((q, low), high) in block[4..].iter().zip(low).zip(high) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The fifth bit of element `i`, in its place.
#[inline]
fn fifth_bit(high_bits: u32, i: usize) -> u8 {
    (((high_bits >> i) & 1) << 4) as u8
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high_bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let (low, high) = out.split_at_mut(16);
    for (i, ((q, low), high)) in block[6..].iter().zip(low).zip(high).enumerate() {
        *low = d * (i32::from(q & 15 | fifth_bit(high_bits, i)) - 16) as f32;
        *high = d * (i32::from(q >> 4 | fifth_bit(high_bits, i + 16)) - 16) as f32;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high_bits = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    let (low, high) = out.split_at_mut(16);
    for (i, ((q, low), high)) in block[8..].iter().zip(low).zip(high).enumerate() {
        *low = d * f32::from(q & 15 | fifth_bit(high_bits, i)) + m;
        *high = d * f32::from(q >> 4 | fifth_bit(high_bits, i + 16)) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (o, q) in out.iter_mut().zip(&block[2..]) {
        *o = d * f32::from(*q as i8);
    }
}
