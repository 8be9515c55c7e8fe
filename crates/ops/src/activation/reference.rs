//! The functions as burn has them.

use super::Function;
use burn::tensor::{Tensor, activation};

/// See [`super::tanh`] and [`super::sigmoid`].
pub fn apply<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    match function {
        Function::Tanh => x.tanh(),
        Function::Sigmoid => activation::sigmoid(x),
    }
}
