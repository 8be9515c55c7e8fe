//! Stored bytes to f32 and back, threaded. Nothing here needs its input aligned: a safetensors
//! header may have any length, so a memory-mapped tensor may start at any address.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::Dtype;

/// Elements a thread takes at a time: 256 KiB of f32, which stays in the second-level cache.
const CHUNK: usize = 1 << 16;

/// Fills `out` from `bytes`, which hold as many elements as stored in `dtype`.
///
/// # Panics
/// If `dtype` is quantised or the lengths disagree; callers have checked both.
pub(crate) fn plain_to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert!(dtype.is_plain() && dtype.bytes_for(out.len()) == Some(bytes.len()), "lengths were checked at opening");
    let size = dtype.block().1;
    if out.len() <= CHUNK {
        return chunk_to_f32(dtype, bytes, out);
    }
    out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).for_each(|(out, bytes)| chunk_to_f32(dtype, bytes, out));
}

fn chunk_to_f32(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Dtype::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
            }
        }
        _ => {
            // The copy to the stack aligns the halves, so that the vector instructions can be used.
            let mut halves = [f16::ZERO; 512];
            for (o, b) in out.chunks_mut(512).zip(bytes.chunks(1024)) {
                let halves = &mut halves[..o.len()];
                for (h, b) in halves.iter_mut().zip(b.as_chunks::<2>().0) {
                    *h = f16::from_bits(u16::from_le_bytes(*b));
                }
                halves.convert_to_f32_slice(o);
            }
        }
    }
}

/// Rounds `values` to `dtype`, to nearest and ties to even, into `out`, little-endian.
/// NaN stays NaN. Returns the index of the first finite value that became infinite, if any.
///
/// # Panics
/// If `dtype` is quantised or the lengths disagree; callers have checked both.
pub(crate) fn f32_to_plain(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Result<(), usize> {
    assert!(dtype.is_plain() && dtype.bytes_for(values.len()) == Some(out.len()), "lengths were checked by the writer");
    let size = dtype.block().1;
    if values.len() <= CHUNK {
        return chunk_to_plain(dtype, values, out).map_or(Ok(()), Err);
    }
    let overflow = out
        .par_chunks_mut(CHUNK * size)
        .zip(values.par_chunks(CHUNK))
        .enumerate()
        .filter_map(|(i, (out, values))| chunk_to_plain(dtype, values, out).map(|at| i * CHUNK + at))
        .min();
    overflow.map_or(Ok(()), Err)
}

fn chunk_to_plain(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Option<usize> {
    match dtype {
        Dtype::F32 => {
            for (o, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *o = v.to_le_bytes();
            }
            return None;
        }
        Dtype::BF16 => {
            for (o, v) in out.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *o = round_bf16(*v).to_le_bytes();
            }
        }
        _ => {
            let mut halves = [f16::ZERO; 512];
            for (o, v) in out.chunks_mut(1024).zip(values.chunks(512)) {
                let halves = &mut halves[..v.len()];
                halves.convert_from_f32_slice(v);
                for (o, h) in o.as_chunks_mut::<2>().0.iter_mut().zip(halves.iter()) {
                    *o = h.to_le_bytes();
                }
            }
        }
    }
    // Only the largest magnitude can overflow; looking for it is cheaper than asking each value.
    let limit = if dtype == Dtype::BF16 { bf16::MAX.to_f32() } else { f16::MAX.to_f32() };
    values.iter().position(|v| {
        v.is_finite()
            && v.abs() > limit
            && match dtype {
                Dtype::BF16 => bf16::from_f32(*v).is_infinite(),
                _ => f16::from_f32(*v).is_infinite(),
            }
    })
}

/// The bits of `value` rounded to bf16, ties to even. Without a branch, so that it vectorises.
fn round_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    // A NaN must not be carried into infinity: keep its head and make it quiet.
    let quiet = ((bits >> 16) as u16) | 0x40;
    if value.is_nan() { quiet } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_and_bfloat_survives_the_way_out_and_back() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            // One byte of offset: the source is never aligned.
            let mut bytes = vec![0u8];
            bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
            let mut values = vec![0f32; 1 << 16];
            plain_to_f32(dtype, &bytes[1..], &mut values);
            let mut back = vec![0u8; 2 << 16];
            f32_to_plain(dtype, &values, &mut back).expect("nothing overflows");
            for (i, value) in values.iter().enumerate() {
                let want = match dtype {
                    Dtype::F16 => f16::from_bits(i as u16).to_f32(),
                    _ => bf16::from_bits(i as u16).to_f32(),
                };
                let bits = u16::from_le_bytes([back[2 * i], back[2 * i + 1]]);
                if want.is_nan() {
                    assert!(value.is_nan());
                } else {
                    assert_eq!(value.to_bits(), want.to_bits());
                    assert_eq!(bits, i as u16);
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_as_half_does_it() {
        let mut state = 7u64;
        let mut values = vec![1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 65519.0, -65519.0, f32::NAN, f32::INFINITY, -0.0];
        values.extend((0..200_000).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f32::from_bits((state >> 32) as u32);
            if value.is_finite() && value.abs() < 60_000.0 { value } else { 0.5 }
        }));
        let mut out = vec![0u8; values.len() * 2];
        f32_to_plain(Dtype::BF16, &values, &mut out).expect("in range");
        for (v, o) in values.iter().zip(out.as_chunks::<2>().0) {
            assert_eq!(u16::from_le_bytes(*o), bf16::from_f32(*v).to_bits(), "{v}");
        }
        f32_to_plain(Dtype::F16, &values, &mut out).expect("in range");
        for (v, o) in values.iter().zip(out.as_chunks::<2>().0) {
            assert_eq!(u16::from_le_bytes(*o), f16::from_f32(*v).to_bits(), "{v}");
        }
    }

    #[test]
    fn a_finite_value_beyond_the_range_is_reported_with_its_place() {
        let mut values = vec![1.0f32; 3 * CHUNK];
        values[2 * CHUNK + 5] = 65520.0;
        values[3 * CHUNK - 1] = 1e9;
        let mut out = vec![0u8; values.len() * 2];
        assert_eq!(f32_to_plain(Dtype::F16, &values, &mut out), Err(2 * CHUNK + 5));
        assert_eq!(f32_to_plain(Dtype::BF16, &values, &mut out), Ok(()));
        values[1] = f32::MAX;
        assert_eq!(f32_to_plain(Dtype::BF16, &values, &mut out), Err(1));
    }
}
