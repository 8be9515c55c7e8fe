//! Elementwise `tanh` and logistic `sigmoid`, threaded and vectorised: the bends of low-rank
//! corrections and gates. To add one: a [`Function`], its two lines in `flex.rs`, its definition in
//! `reference.rs`; `tests/elementwise.rs` holds it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

operator!(ActivationBackend, Function, activation_forward, activation_backward, flex, 1, [x], cube);

/// `tanh(x)`, elementwise, of any shape. Saves nothing beside its output.
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(Function::Tanh, x)
}

/// `1 / (1 + e^-x)`, elementwise, of any shape. Saves nothing beside its output.
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(Function::Sigmoid, x)
}

fn apply<const D: usize>(function: Function, x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::activation_forward(function, x.into_dispatch()).0)
}
