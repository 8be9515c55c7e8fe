//! `rms_norm` from plain tensor operations.

use burn::tensor::Tensor;

/// See [`super::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let mean = (x.clone() * x.clone()).mean_dim(D - 1);
    x / (mean + epsilon).sqrt() * weight.unsqueeze::<D>()
}
