//! `group_norm` from plain tensor operations.

use burn::tensor::Tensor;

/// See [`super::group_norm`].
pub fn group_norm(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    let [_, _, heads, size] = x.dims();
    let centred = x.clone() - x.mean_dim(3);
    let variance = (centred.clone() * centred.clone()).mean_dim(3);
    centred / (variance + epsilon).sqrt() * weight.reshape([1, 1, heads, size]) + bias.reshape([1, 1, heads, size])
}
