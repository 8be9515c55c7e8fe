//! Products with quantised weights: every format against sums in f64 of the dequantised weight, and
//! the promise that a row depends on nothing but itself. Run with `RECAST_CPU` set to `baseline`,
//! `avx2` and `avx512` for the other instruction sets. That weights are read as the file means them is
//! held by the tests of `recast-models`, which has another reader.

#![allow(clippy::unwrap_used)]

use half::f16;
use recast_ops::quantised::{Format, QuantError, QuantMatrix, linear_quantised, product, reference};

fn bytes(n: usize, seed: u32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32.wrapping_mul(seed + 1) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 9) as u8
    };
    (0..n).map(step).collect()
}

/// In -1..1.
fn floats(n: usize, seed: u32) -> Vec<f32> {
    bytes(2 * n, seed).chunks(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect()
}

/// Where a block's scale, and its offset, are.
fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q6_K => &[208],
    }
}

/// Blocks of any bits, with scales of ordinary size.
fn matrix(format: Format, rows: usize, blocks: usize, seed: u32) -> QuantMatrix {
    let (elements, size) = format.block();
    let mut data = bytes(rows * blocks * size, seed);
    for (block, noise) in data.chunks_mut(size).zip(floats(rows * blocks, seed + 7)) {
        for at in halves(format) {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01 + 0.005 * noise).to_le_bytes());
        }
    }
    QuantMatrix::from_blocks(format, rows, blocks * elements, &data).unwrap()
}

fn run(x: &[f32], weight: &QuantMatrix, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / weight.columns() * weight.rows()];
    product(&mut out, x, weight, bias);
    out
}

#[test]
fn every_format_is_within_the_rounding_of_its_input() {
    for format in Format::ALL {
        for (rows, outputs, blocks) in
            [(1, 1, 1), (1, 17, 3), (2, 16, 2), (3, 33, 5), (7, 100, 1), (9, 31, 2), (65, 47, 3), (130, 20, 1)]
        {
            let weight = matrix(format, outputs, blocks, 3);
            let x = floats(rows * weight.columns(), 5);
            let bias = floats(outputs, 9);
            let plain = run(&x, &weight, None);
            let biased = run(&x, &weight, Some(&bias));
            for (i, (expected, bound)) in reference::product(&x, &weight).into_iter().enumerate() {
                let off = (f64::from(plain[i]) - expected).abs();
                assert!(off <= 1.001 * bound + 1e-4, "{format} {rows}x{outputs}x{blocks} at {i}: off by {off}, allowed {bound}");
                assert_eq!(biased[i], plain[i] + bias[i % outputs], "{format}: bias");
            }
        }
    }
}

/// With inputs that rounding leaves alone, only the sums in f32 differ.
#[test]
fn whole_numbers_are_exact_but_for_f32_sums() {
    for format in Format::ALL {
        let weight = matrix(format, 40, 4, 11);
        let mut x: Vec<f32> = bytes(3 * weight.columns(), 2).into_iter().map(|b| f32::from(b as i8 / 2)).collect();
        x.chunks_mut(32).for_each(|block| block[5] = 127.0);
        for (found, (expected, _)) in run(&x, &weight, None).iter().zip(reference::product(&x, &weight)) {
            let off = (f64::from(*found) - expected).abs();
            assert!(off < 2e-5 * (1.0 + expected.abs()) * (weight.columns() as f64).sqrt(), "{format}: {found} for {expected}");
        }
    }
}

/// The largest integers of every format times the largest bytes of an input: sums in 16 bits are at their limit.
#[test]
fn the_largest_products_do_not_overflow() {
    for format in Format::ALL {
        // As bytes of Q8_0 with their sign: 0, -1, 127 and -128.
        for bits in [0, 255, 0x7f, 0x80] {
            let (elements, size) = format.block();
            let mut data = vec![bits; 17 * 2 * size];
            for block in data.chunks_mut(size) {
                for at in halves(format) {
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
                }
            }
            let weight = QuantMatrix::from_blocks(format, 17, 2 * elements, &data).unwrap();
            for sign in [1.0, -1.0] {
                // Tiles of four rows, of two and of one.
                let x = vec![sign * 127.0; 7 * weight.columns()];
                for (found, (expected, _)) in run(&x, &weight, None).iter().zip(reference::product(&x, &weight)) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off <= 1e-5 * expected.abs() + 1e-3, "{format}, {bits}, {sign}: {found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_row_depends_on_nothing_but_itself() {
    let pools: Vec<_> = [1, 2, 3, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()).into();
    for format in Format::ALL {
        let blocks = 1024 / format.block().0;
        let weight = matrix(format, 203, blocks, 1);
        let width = weight.columns();
        let x = floats(90 * width, 4);
        let alone: Vec<f32> = x.chunks(width).flat_map(|x| run(x, &weight, None)).collect();
        for pool in &pools {
            for rows in [1, 2, 3, 5, 8, 11, 64, 90] {
                let together = pool.install(|| run(&x[..rows * width], &weight, None));
                assert!(together[..] == alone[..rows * 203], "{format}: {rows} rows, {} threads", pool.current_num_threads());
            }
        }
    }
}

#[test]
fn what_is_quantised_here_is_close_and_stays_so() {
    for (format, steps) in [(Format::Q8_0, 127.0 * 2.0), (Format::Q4_0, 15.0), (Format::Q4_1, 15.0)] {
        let (rows, columns) = (19, 96);
        let mut values = floats(rows * columns, 8);
        values[..32].fill(0.0);
        values[32..64].fill(-0.25);
        let weight = QuantMatrix::quantise(format, rows, columns, &values).unwrap();
        let read = weight.values();
        for (v, r) in values.chunks(32).zip(read.chunks(32)) {
            let largest = v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // Half a step, or a whole one at the end that has a step less; and the rounding of scales.
            let allowed = 2.0 * largest / steps * 1.01 + 2e-3 * largest;
            for (v, r) in v.iter().zip(r) {
                assert!((v - r).abs() <= allowed, "{format}: {r} for {v}");
            }
        }
        let again = QuantMatrix::quantise(format, rows, columns, &read).unwrap();
        if format == Format::Q8_0 {
            assert_eq!(again.values(), read);
        }
    }
}

#[test]
fn what_is_no_number_is_not_hidden() {
    let weight = matrix(Format::Q4_1, 20, 2, 6);
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = floats(64, 1);
        x[40] = strange;
        assert!(run(&x, &weight, None).iter().all(|y| !y.is_finite()), "{strange}");
    }
    assert!(run(&[0.0; 64], &weight, None).iter().all(|y| *y == 0.0));
    assert!(run(&[1e-40; 64], &weight, None).iter().all(|y| y.abs() < 1e-30));
}

#[test]
fn refusals() {
    let error = |r: Result<QuantMatrix, QuantError>| r.unwrap_err().to_string();
    assert!(error(QuantMatrix::from_blocks(Format::Q4_K, 2, 64, &[])).contains("do not divide"));
    assert!(error(QuantMatrix::from_blocks(Format::Q4_0, 2, 64, &[0; 5])).contains("expected 72 bytes"));
    assert!(error(QuantMatrix::quantise(Format::Q8_0, 1, 32, &[f32::NAN; 32])).contains("not finite"));
    assert!(error(QuantMatrix::quantise(Format::Q6_K, 1, 256, &[0.0; 256])).contains("not made here"));
}

#[test]
fn tensors_of_any_rank() {
    use burn::tensor::{Device, Tensor, TensorData};
    let weight = matrix(Format::Q8_0, 24, 2, 5);
    let (x, bias) = (floats(6 * 64, 3), floats(24, 4));
    let device = Device::flex();
    let tensor = Tensor::<3>::from_data(TensorData::new(x.clone(), [2, 3, 64]), &device);
    let bias_tensor = Tensor::<1>::from_data(TensorData::new(bias.clone(), [24]), &device);
    let y = linear_quantised(tensor, &weight, Some(bias_tensor));
    assert_eq!(y.dims(), [2, 3, 24]);
    assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), run(&x, &weight, Some(&bias)));
}
