//! `key_norm` from plain tensor operations.

use super::SHORTEST;
use burn::tensor::Tensor;

/// See [`super::key_norm`].
pub fn key_norm<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let length = (x.clone() * x.clone()).sum_dim(D - 1).sqrt();
    x / length.clamp_min(SHORTEST)
}
