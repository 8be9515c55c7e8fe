//! What the tests of fused operators share: inputs, and the comparison of an operator with its reference.

#![allow(dead_code, reason = "not every test program uses all of it")]

use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::device;

/// Deterministic values in about -1..1.
pub fn values(n: usize, seed: u32) -> Vec<f32> {
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

/// The device under test: the processor, or what `RECAST_TEST_DEVICE` names.
pub fn tested() -> Device {
    let kind = std::env::var("RECAST_TEST_DEVICE").map_or(device::Kind::Cpu, |name| name.parse().unwrap());
    device::open(kind).unwrap()
}

pub fn flat(data: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(data.to_vec(), [data.len()]), device)
}

pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

/// Output, and the gradient of `sum(output * weights)` by every input.
pub fn evaluate(device: Device, inputs: &[Vec<f32>], f: &dyn Fn(&[Tensor<1>]) -> Tensor<1>) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = device.autodiff();
    let leaves: Vec<_> = inputs.iter().map(|data| flat(data, &device).require_grad()).collect();
    let output = f(&leaves);
    let n = output.dims()[0];
    let gradients = (output.clone() * flat(&values(n, 77), &device)).sum().backward();
    let gradients = leaves.iter().map(|leaf| numbers(leaf.grad(&gradients).unwrap())).collect();
    (numbers(output), gradients)
}

/// The largest of some differences. One that is not a number is larger than all: `f64::max` would pass over it.
pub fn largest(differences: impl IntoIterator<Item = f64>) -> f64 {
    differences.into_iter().fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { most.max(d) })
}

pub fn close(name: &str, fast: &[f32], slow: &[f32], tolerance: f32) {
    assert_eq!(fast.len(), slow.len(), "{name}: length");
    let scale = slow.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in fast.iter().zip(slow).enumerate() {
        // The constant allows for gradients that are zero but for rounding.
        assert!((a - b).abs() <= tolerance * scale + 2e-6, "{name}[{i}]: fast {a}, slow {b} (largest {scale})");
    }
}

/// Factor on tolerances: products with weights are burn's on GPUs, and on CUDA of TF32 operands, which have ten
/// bits.
pub fn slack(name: &str) -> f32 {
    let rough = std::env::var("RECAST_TEST_DEVICE").is_ok_and(|device| device == "cuda" || device == "rocm");
    let of_products = ["linear", "input-major", "cross_entropy", "teacher_kl", "attention"];
    if rough && of_products.iter().any(|of| name.contains(of)) { 100.0 } else { 1.0 }
}

/// Fast against slow; fast untracked against fast tracked; fast twice, bit for bit.
pub fn compare(
    name: &str,
    inputs: &[Vec<f32>],
    fast: &dyn Fn(&[Tensor<1>]) -> Tensor<1>,
    slow: &dyn Fn(&[Tensor<1>]) -> Tensor<1>,
) {
    let (output, gradients) = evaluate(tested(), inputs, fast);
    let (expected, expected_gradients) = evaluate(Device::flex(), inputs, slow);
    let slack = slack(name);
    close(&format!("{name}: output"), &output, &expected, slack * 2e-5);
    for (i, (a, b)) in gradients.iter().zip(&expected_gradients).enumerate() {
        close(&format!("{name}: gradient {i}"), a, b, slack * 5e-5);
    }
    let again = evaluate(tested(), inputs, fast);
    assert!(again.0 == output && again.1 == gradients, "{name}: two runs differ");
    let device = tested();
    let plain: Vec<_> = inputs.iter().map(|data| flat(data, &device)).collect();
    // Not bit for bit: decoding one token takes its own path.
    close(&format!("{name}: inference"), &numbers(fast(&plain)), &output, slack * 5e-6);
}

/// Analytic gradients of `fast` against central differences at a few elements.
pub fn differences(name: &str, inputs: &[Vec<f32>], fast: &dyn Fn(&[Tensor<1>]) -> Tensor<1>) {
    if slack(name) > 1.0 {
        // Steps of a hundredth drown in the rounding there; `compare` holds those gradients.
        return;
    }
    let device = tested();
    let loss = |inputs: &[Vec<f32>]| -> f64 {
        let plain: Vec<_> = inputs.iter().map(|data| flat(data, &device)).collect();
        let output = numbers(fast(&plain));
        output.iter().zip(values(output.len(), 77)).map(|(&y, w)| f64::from(y) * f64::from(w)).sum()
    };
    let (_, gradients) = evaluate(tested(), inputs, fast);
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

pub const TIMES: [usize; 3] = [1, 7, 65];
