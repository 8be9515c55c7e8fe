//! `linear` from plain tensor operations.

use burn::tensor::Tensor;

/// See [`super::linear`].
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    x.matmul(weight.transpose())
}
