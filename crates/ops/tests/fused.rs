//! Every fused operator against its reference: outputs and all gradients, at odd sizes, and a few
//! gradients against finite differences, which share no code with either.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};

/// Deterministic values in about -1..1.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = 0x9e37_79b9_u32.wrapping_mul(seed + 1) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn flat(data: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

/// Output, and the gradient of `sum(output * weights)` by every input.
fn evaluate(inputs: &[Vec<f32>], f: &dyn Fn(&[Tensor<1>]) -> Tensor<1>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Device::flex().autodiff();
    let leaves: Vec<_> = inputs.iter().map(|data| flat(data, &device).require_grad()).collect();
    let output = f(&leaves);
    let n = output.dims()[0];
    let gradients = (output.clone() * flat(&values(n, 77), &device)).sum().backward();
    let gradients = leaves.iter().map(|leaf| numbers(leaf.grad(&gradients).unwrap())).collect();
    (numbers(output), gradients)
}

fn close(name: &str, fast: &[f32], slow: &[f32], tolerance: f32) {
    assert_eq!(fast.len(), slow.len(), "{name}: length");
    let scale = slow.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in fast.iter().zip(slow).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{name}[{i}]: fast {a}, slow {b} (largest {scale})");
    }
}

/// Fast against slow; fast untracked against fast tracked; fast twice, bit for bit.
fn compare(
    name: &str,
    inputs: &[Vec<f32>],
    fast: &dyn Fn(&[Tensor<1>]) -> Tensor<1>,
    slow: &dyn Fn(&[Tensor<1>]) -> Tensor<1>,
) {
    let (output, gradients) = evaluate(inputs, fast);
    let (expected, expected_gradients) = evaluate(inputs, slow);
    close(&format!("{name}: output"), &output, &expected, 2e-5);
    for (i, (a, b)) in gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{name}: gradient {i}"), a, b, 5e-5);
    }
    let again = evaluate(inputs, fast);
    assert!(again.0 == output && again.1 == gradients, "{name}: two runs differ");
    let device = Device::flex();
    let plain: Vec<_> = inputs.iter().map(|data| flat(data, &device)).collect();
    assert!(numbers(fast(&plain)) == output, "{name}: inference differs from training");
}

/// Analytic gradients of `fast` against central differences at a few elements.
fn differences(name: &str, inputs: &[Vec<f32>], fast: &dyn Fn(&[Tensor<1>]) -> Tensor<1>) {
    let device = Device::flex();
    let loss = |inputs: &[Vec<f32>]| -> f64 {
        let plain: Vec<_> = inputs.iter().map(|data| flat(data, &device)).collect();
        let output = numbers(fast(&plain));
        output.iter().zip(values(output.len(), 77)).map(|(&y, w)| f64::from(y) * f64::from(w)).sum()
    };
    let (_, gradients) = evaluate(inputs, fast);
    let step = 1e-2;
    for (which, gradient) in gradients.iter().enumerate() {
        let scale = gradient.iter().fold(1e-2f32, |m, v| m.max(v.abs()));
        for element in (0..gradient.len()).step_by((gradient.len() / 5).max(1)) {
            let mut moved = inputs.to_vec();
            moved[which][element] += step;
            let up = loss(&moved);
            moved[which][element] -= 2.0 * step;
            let slope = ((up - loss(&moved)) / f64::from(2.0 * step)) as f32;
            let analytic = gradient[element];
            assert!(
                (slope - analytic).abs() < 5e-3 * scale,
                "{name}: input {which}[{element}]: analytic {analytic}, difference {slope}"
            );
        }
    }
}

const TIMES: [usize; 3] = [1, 7, 65];

mod rms_norm {
    use super::*;
    use recast_ops::rms_norm::{reference, rms_norm};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            for width in [3, 15, 64] {
                let inputs = [values(2 * time * width, 1), values(width, 2)];
                let fast = |x: &[Tensor<1>]| {
                    rms_norm(x[0].clone().reshape([2, time, width]), x[1].clone(), 1e-5).reshape([-1])
                };
                let slow = |x: &[Tensor<1>]| {
                    reference::rms_norm(x[0].clone().reshape([2, time, width]), x[1].clone(), 1e-5).reshape([-1])
                };
                compare(&format!("rms_norm {time} {width}"), &inputs, &fast, &slow);
                if time == 7 && width == 15 {
                    differences("rms_norm", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn only_the_wanted_gradient() {
        let device = Device::flex().autodiff();
        let x = flat(&values(32, 1), &device).require_grad();
        let weight = flat(&values(8, 2), &device);
        let gradients = rms_norm(x.clone().reshape([4, 8]), weight.clone(), 1e-5).sum().backward();
        assert!(x.grad(&gradients).is_some() && weight.grad(&gradients).is_none());
    }

    #[test]
    fn zero_rows() {
        let device = Device::flex();
        let y = rms_norm(Tensor::<2>::zeros([0, 8], &device), Tensor::ones([8], &device), 1e-5);
        assert_eq!(y.dims(), [0, 8]);
        let y = rms_norm(Tensor::<2>::zeros([1, 8], &device), Tensor::ones([8], &device), 1e-5);
        assert!(numbers(y).iter().all(|&v| v == 0.0));
    }
}

mod swiglu {
    use super::*;
    use recast_ops::swiglu::{reference, swiglu};

    #[test]
    fn equals_reference() {
        for time in TIMES {
            let n = time * 331;
            let inputs = [values(n, 3).iter().map(|v| v * 12.0).collect(), values(n, 4)];
            let shaped = |x: &Tensor<1>| x.clone().reshape([time, 331]);
            let fast = |x: &[Tensor<1>]| swiglu(shaped(&x[0]), shaped(&x[1])).reshape([-1]);
            let slow = |x: &[Tensor<1>]| reference::swiglu(shaped(&x[0]), shaped(&x[1])).reshape([-1]);
            compare(&format!("swiglu {time}"), &inputs, &fast, &slow);
            if time == 1 {
                differences("swiglu", &inputs, &fast);
            }
        }
    }

    #[test]
    fn far_ends() {
        let device = Device::flex();
        let gate = flat(&[-1e4, -100.0, 100.0, 1e4], &device);
        let y = numbers(swiglu(gate, Tensor::ones([4], &device)));
        assert!(y[0].abs() < 1e-30 && y[1].abs() < 1e-30, "{y:?}");
        assert_eq!(&y[2..], &[100.0, 1e4]);
    }
}

mod rope {
    use super::*;
    use recast_ops::rope::{RopeTable, reference, rope};
    use std::sync::Arc;

    fn table(half: usize) -> RopeTable {
        let frequencies: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
        RopeTable::new(&frequencies, 200, 1.0)
    }

    #[test]
    fn equals_reference() {
        let (batch, heads) = (2, 3);
        for time in TIMES {
            for half in [1, 5, 32] {
                let table = table(half);
                let size = 2 * half;
                let inputs = [values(batch * time * heads * size, 5)];
                let shaped = |x: &[Tensor<1>]| x[0].clone().reshape([batch, time, heads, size]);
                let from = 9u32;
                let running: Vec<u32> = (0..batch).flat_map(|_| (0..time as u32).map(|t| from + t)).collect();
                let fast = |x: &[Tensor<1>]| rope(shaped(x), &table, from as usize, None).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::rope(shaped(x), &table, &running).reshape([-1]);
                compare(&format!("rope {time} {size}"), &inputs, &fast, &slow);

                let packed: Vec<u32> = (0..batch * time).map(|i| (i * 37 % 200) as u32).collect();
                let shared: Arc<[u32]> = packed.clone().into();
                let fast = |x: &[Tensor<1>]| rope(shaped(x), &table, 0, Some(shared.clone())).reshape([-1]);
                let slow = |x: &[Tensor<1>]| reference::rope(shaped(x), &table, &packed).reshape([-1]);
                compare(&format!("rope packed {time} {size}"), &inputs, &fast, &slow);
                if time == 7 && half == 5 {
                    differences("rope", &inputs, &fast);
                }
            }
        }
    }

    #[test]
    fn scores_depend_on_distance_alone() {
        let device = Device::flex();
        let (table, q, k) = (table(32), values(64, 6), values(64, 7));
        let turned = |x: &[f32], position| {
            numbers(rope(flat(x, &device).reshape([1, 1, 1, 64]), &table, position, None))
        };
        let score = |a, b| -> f32 { turned(&q, a).iter().zip(turned(&k, b)).map(|(x, y)| x * y).sum() };
        assert!((score(5, 2) - score(105, 102)).abs() < 1e-4);
        assert!((score(5, 2) - score(5, 3)).abs() > 1e-3);
    }

    #[test]
    #[should_panic(expected = "position 200 against a table of 200")]
    fn beyond_the_table() {
        rope(Tensor::zeros([1, 2, 1, 2], &Device::flex()), &table(1), 199, None);
    }
}
