//! `row_distance` from plain tensor operations.

use super::SMALLEST_SQUARE;
use burn::tensor::{Tensor, TensorData};

/// See [`super::row_distance`].
pub fn row_distance<const D: usize>(given: Tensor<D>, wanted: Tensor<D>, weights: Option<&[f32]>, scale: f32) -> Tensor<1> {
    let width = given.dims()[D - 1] as i32;
    let error = (given - wanted.detach()).reshape([-1, width]);
    // clamp_min has zero gradient below its bound: a perfect row pulls nowhere.
    let mut norms: Tensor<1> = (error.clone() * error).sum_dim(1).clamp_min(SMALLEST_SQUARE).sqrt().reshape([-1]);
    if let Some(weights) = weights {
        norms = norms.clone() * Tensor::from_data(TensorData::new(weights.to_vec(), [weights.len()]), &norms.device().inner());
    }
    norms.sum().mul_scalar(scale)
}
