//! From f32 to blocks as a file would hold them: every block by itself, to the nearest of its values.

use super::{Format, QuantError};
use half::f16;
use rayon::prelude::*;

const BLOCK: usize = 32;

/// The blocks of all rows.
///
/// # Errors
/// As [`QuantMatrix::quantise`](super::QuantMatrix::quantise).
pub fn blocks(format: Format, rows: usize, columns: usize, values: &[f32]) -> Result<Vec<u8>, QuantError> {
    let make: fn(&[f32; BLOCK], &mut [u8]) = match format {
        Format::Q8_0 => q8_0,
        Format::Q4_0 => q4_0,
        Format::Q4_1 => q4_1,
        other => return Err(QuantError::NotMade(other)),
    };
    let (elements, stored) = format.block();
    if columns == 0 || !columns.is_multiple_of(elements) {
        return Err(QuantError::Width { format, columns, block: elements });
    }
    let (expected, found) = (rows * columns, values.len());
    if expected != found {
        return Err(QuantError::Length { what: "values", format, rows, columns, expected, found });
    }
    if let Some(at) = values.par_iter().position_first(|x| !x.is_finite()) {
        return Err(QuantError::NotFinite { row: at / columns });
    }
    let mut out = vec![0; values.len() / elements * stored];
    let (blocks, _) = values.as_chunks::<BLOCK>();
    out.par_chunks_exact_mut(stored).zip(blocks).with_min_len(1 << 10).for_each(|(out, x)| make(x, out));
    Ok(out)
}

/// Writes a half and gives back what it says.
fn half(x: f32, out: &mut [u8]) -> f32 {
    let x = f16::from_f32(x);
    out[..2].copy_from_slice(&x.to_le_bytes());
    x.to_f32()
}

fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

fn q8_0(x: &[f32; BLOCK], out: &mut [u8]) {
    let largest = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let inverse = inverse(half(largest / 127.0, out));
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// Eight steps to one side and seven to the other: the largest element gets the eight.
fn q4_0(x: &[f32; BLOCK], out: &mut [u8]) {
    let largest = x.iter().fold(0.0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    let inverse = inverse(half(largest / -8.0, out));
    let integer = |x: f32| (x * inverse + 8.0).round_ties_even().clamp(0.0, 15.0) as u8;
    for (i, out) in out[2..].iter_mut().enumerate() {
        *out = integer(x[i]) | integer(x[i + 16]) << 4;
    }
}

fn q4_1(x: &[f32; BLOCK], out: &mut [u8]) {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
    let (scale, offset) = out.split_at_mut(2);
    let (inverse, offset) = (inverse(half((high - low) / 15.0, scale)), half(low, offset));
    let integer = |x: f32| ((x - offset) * inverse).round_ties_even().clamp(0.0, 15.0) as u8;
    for (i, out) in out[4..].iter_mut().enumerate() {
        *out = integer(x[i]) | integer(x[i + 16]) << 4;
    }
}
