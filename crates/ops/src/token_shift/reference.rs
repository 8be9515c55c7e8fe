//! The operator from plain tensor operations.

use burn::tensor::{Tensor, TensorData};

/// See [`super::token_shift`]; here everything is given.
pub fn token_shift(x: Tensor<3>, previous: Tensor<2>, base: Tensor<1>, amount: Tensor<3>, starts: &[bool]) -> Tensor<3> {
    let [b, t, c] = x.dims();
    let first = previous.reshape([b, 1, c]);
    let before = if t == 1 { first } else { Tensor::cat(vec![first, x.clone().narrow(1, 0, t - 1)], 1) };
    let keep: Vec<f32> = starts.iter().map(|&s| if s { 0.0 } else { 1.0 }).collect();
    let before = before * Tensor::<3>::from_data(TensorData::new(keep, [b, t, 1]), &x.device().inner());
    x.clone() + (before - x) * (amount + base.reshape([1, 1, c]))
}
