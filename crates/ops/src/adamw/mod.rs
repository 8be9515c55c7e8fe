//! AdamW (Loshchilov and Hutter 2019) as one pass over parameter, gradient and both moments, and
//! the global gradient norm. Not differentiable: plain slices, and tensors of any device. The test below holds the pass to PyTorch's update written as a naive loop.

#[cfg(feature = "cube")]
mod cube;

use crate::cpu::{multiply_add, simd, split_rows};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 15;

/// Constants of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Decoupled: a step takes `lr * weight_decay` of the parameter.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's defaults without decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamW {
    /// One update of a parameter and its moments `m` and `v`, as `torch.optim.AdamW` does it:
    ///
    /// `p *= 1 - lr decay; m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2;`
    /// `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)`
    ///
    /// with `g = clip_scale * grad`. `t` counts steps from 1. Bit-equal for any number of threads.
    ///
    /// # Panics
    /// When the slices differ in length or `t` is 0.
    pub fn step(&self, parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], lr: f64, t: u64, clip_scale: f32) {
        let n = parameter.len();
        assert!(n == gradient.len() && n == m.len() && n == v.len(), "adamw: lengths of parameter, gradient, moments");
        let constants = self.constants(lr, t, clip_scale);
        split_rows(n, MINIMUM, [(parameter, 1), (m, 1), (v, 1)], |range, [parameter, m, v]| {
            update(parameter, &gradient[range], m, v, &constants);
        });
    }

    /// [`Self::step`] on tensors of any device, in place where nobody else holds them; returns the
    /// parameter.
    ///
    /// # Panics
    /// As [`Self::step`].
    pub fn step_tensors(
        &self,
        parameter: Tensor<1>,
        gradient: Tensor<1>,
        m: &mut Tensor<1>,
        v: &mut Tensor<1>,
        lr: f64,
        t: u64,
        clip_scale: f32,
    ) -> Tensor<1> {
        #[cfg(feature = "cube")]
        if !crate::glue::on_cpu(&parameter) {
            return cube::step(&self.constants(lr, t, clip_scale), parameter, gradient, m, v);
        }
        let empty = || Tensor::empty([0], &Device::flex());
        let gradient = gradient.into_data();
        let gradient = gradient.as_slice::<f32>().expect("gradients are f32");
        let mut second = std::mem::replace(v, empty()).into_data();
        let mut change = |parameter: &mut [f32], m: &mut [f32]| {
            let v = second.as_mut_slice().expect("moments are f32");
            self.step(parameter, gradient, m, v, lr, t, clip_scale);
        };
        let mut first = std::mem::replace(m, empty()).into_data();
        let parameter = in_place(parameter, |p| change(p, first.as_mut_slice().expect("moments are f32")));
        *m = Tensor::from_data(first, &parameter.device());
        *v = Tensor::from_data(second, &parameter.device());
        parameter
    }

    fn constants(&self, lr: f64, t: u64, clip_scale: f32) -> Constants {
        assert!(t > 0, "adamw: steps count from 1");
        // Beyond 2^31 steps both corrections are 1 to the last bit.
        let power = i32::try_from(t).unwrap_or(i32::MAX);
        Constants {
            keep: (1.0 - lr * self.weight_decay) as f32,
            rate: (lr / (1.0 - self.beta1.powi(power))) as f32,
            root: (1.0 / (1.0 - self.beta2.powi(power)).sqrt()) as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
            clip_scale,
        }
    }
}

/// What an update multiplies with.
#[derive(Clone, Copy, Debug)]
struct Constants {
    keep: f32,
    rate: f32,
    root: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    clip_scale: f32,
}

simd! {
    fn update(parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32], c: &Constants) {
        let &Constants { keep, rate, root, one_minus_beta1, beta2, one_minus_beta2, epsilon, clip_scale } = c;
        for (((p, g), m), v) in parameter.iter_mut().zip(gradient).zip(m).zip(v) {
            let g = g * clip_scale;
            *m = multiply_add::<FMA>(one_minus_beta1, g - *m, *m);
            *v = multiply_add::<FMA>(one_minus_beta2 * g, g, beta2 * *v);
            *p = *p * keep - rate * *m / (v.sqrt() * root + epsilon);
        }
    }

    // Eight lanes of f64: squares of gradients span more than f32 can add.
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let chunks = x.chunks_exact(8);
        let rest = chunks.remainder();
        for x in chunks {
            for l in 0..8 {
                let x = f64::from(x[l]);
                lanes[l] += x * x;
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(x) * f64::from(x);
        }
        lanes.iter().sum()
    }
}

/// Euclidean norm of all gradients together. On the CPU summed in f64 over fixed chunks in order, so
/// that it does not depend on the number of threads; on a GPU in f32.
pub fn global_norm(mut gradients: Vec<&mut Tensor<1>>) -> f32 {
    #[cfg(feature = "cube")]
    if gradients.first().is_some_and(|g| !crate::glue::on_cpu(g)) {
        let zero = Tensor::zeros([1], &gradients[0].device());
        let squares = gradients.iter().fold(zero, |sum, gradient| cube::with_squares(sum, (**gradient).clone()));
        return squares.into_scalar::<f32>().sqrt();
    }
    // Out of their tensors and back, without a copy.
    let device = Device::flex();
    let empty = || Tensor::empty([0], &device);
    let data: Vec<TensorData> = gradients.iter_mut().map(|g| std::mem::replace(&mut **g, empty()).into_data()).collect();
    let slices: Vec<&[f32]> = data.iter().map(|g| g.as_slice().expect("gradients are f32")).collect();
    let norm = norm_of(&slices);
    for (gradient, data) in gradients.into_iter().zip(data) {
        *gradient = Tensor::from_data(data, &device);
    }
    norm
}

fn norm_of(gradients: &[&[f32]]) -> f32 {
    let chunks: Vec<&[f32]> = gradients.iter().flat_map(|gradient| gradient.chunks(MINIMUM)).collect();
    let sums: Vec<f64> = match chunks.as_slice() {
        [] => return 0.0,
        [only] => vec![squares(only)],
        _ => chunks.par_iter().map(|chunk| squares(chunk)).collect(),
    };
    sums.iter().sum::<f64>().sqrt() as f32
}

/// Edits the elements of an f32 tensor, row-major. Without a copy on the CPU when this is the
/// tensor's only handle and it is contiguous; other handles keep the old values. The result is
/// outside any graph.
///
/// # Panics
/// When the tensor is not f32.
pub fn in_place<const D: usize>(tensor: Tensor<D>, edit: impl FnOnce(&mut [f32])) -> Tensor<D> {
    let tensor = tensor.without_autodiff();
    let device = tensor.device();
    let mut data: TensorData = tensor.into_data();
    edit(data.as_mut_slice::<f32>().expect("recast's parameters are f32"));
    Tensor::from_data(data, &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.731 + seed).sin()).collect()
    }

    #[test]
    fn follows_pytorch() {
        for (n, weight_decay) in [(1, 0.0), (37, 0.1), (100_003, 0.01)] {
            let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay };
            let (mut p, mut m, mut v) = (values(n, 0.1), vec![0.0; n], vec![0.0; n]);
            let (mut slow_p, mut slow_m, mut slow_v): (Vec<f64>, _, _) =
                (p.iter().map(|&p| f64::from(p)).collect(), vec![0.0f64; n], vec![0.0f64; n]);
            for t in 1..=5u64 {
                let gradient = values(n, t as f32);
                let lr = 0.01 / t as f64;
                optimizer.step(&mut p, &gradient, &mut m, &mut v, lr, t, 0.5);
                let (bc1, bc2) = (1.0 - 0.9f64.powf(t as f64), 1.0 - 0.95f64.powf(t as f64));
                for i in 0..n {
                    let g = 0.5 * f64::from(gradient[i]);
                    slow_p[i] *= 1.0 - lr * weight_decay;
                    slow_m[i] = 0.9 * slow_m[i] + 0.1 * g;
                    slow_v[i] = 0.95 * slow_v[i] + 0.05 * g * g;
                    let denominator = slow_v[i].sqrt() / bc2.sqrt() + 1e-8;
                    slow_p[i] -= lr / bc1 * slow_m[i] / denominator;
                }
            }
            for i in 0..n {
                assert!((f64::from(p[i]) - slow_p[i]).abs() < 1e-6, "{n} [{i}]: {} against {}", p[i], slow_p[i]);
                assert!((f64::from(v[i]) - slow_v[i]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn epsilon_is_outside_the_root() {
        let optimizer = AdamW { epsilon: 1e-3, ..AdamW::default() };
        let (mut p, mut m, mut v) = ([0.0], [0.0], [0.0]);
        optimizer.step(&mut p, &[1e-3], &mut m, &mut v, 1.0, 1, 1.0);
        assert!((p[0] + 0.5).abs() < 1e-4, "{p:?}");
    }

    #[test]
    fn norm_of_everything() {
        assert_eq!(norm_of(&[]), 0.0);
        assert_eq!(norm_of(&[&[3.0], &[], &[4.0]]), 5.0);
        let long = vec![1e-3f32; 4_000_000];
        assert!((norm_of(&[&long]) - 2.0).abs() < 1e-6);
        assert!((norm_of(&[&[1e30, 1e30]]) / 2f32.sqrt() - 1e30).abs() < 1e24);
        let device = Device::flex();
        let [mut x, mut y] = [[3.0f32, 0.0], [0.0, 4.0]].map(|g| Tensor::<1>::from_data(g, &device));
        assert_eq!(global_norm(vec![&mut x, &mut y]), 5.0);
        assert_eq!(y.into_data().try_into_vec::<f32>().expect("f32"), [0.0, 4.0]);
    }

    #[test]
    fn edits_without_a_copy_and_never_a_shared_tensor() {
        let device = burn::tensor::Device::flex();
        let tensor = Tensor::<2>::zeros([3, 5], &device);
        let mut before = std::ptr::null();
        let tensor = in_place(tensor, |x| {
            x[7] = 1.0;
            before = x.as_ptr();
        });
        let mut after = std::ptr::null();
        let tensor = in_place(tensor, |x| after = x.as_ptr());
        assert_eq!(before, after);
        let other = tensor.clone();
        let tensor = in_place(tensor, |x| x[7] = 2.0);
        assert_eq!((other.sum().into_scalar::<f32>(), tensor.sum().into_scalar::<f32>()), (1.0, 2.0));
    }
}
