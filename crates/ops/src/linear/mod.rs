//! `y = x W^T + b`: every projection, with `W` stored as `[out, in]` like the checkpoints do.

mod flex;
pub mod reference;

use crate::glue::operator;
use std::sync::atomic::{AtomicBool, Ordering};
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// Precision of matrix products with weights; accumulation and weights are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 operands.
    F32,
    /// Operands rounded to bfloat16, forward and backward.
    Bf16,
}

static BF16: AtomicBool = AtomicBool::new(false);

/// Sets the precision of the process.
pub fn set_precision(precision: Precision) {
    BF16.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// The precision in use.
pub fn precision() -> Precision {
    if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}

operator!(LinearBackend, (), linear_forward, linear_backward, flex, 2, [x, weight]);

/// `y[.., o] = sum_i x[.., i] weight[o, i] (+ bias[o])`.
///
/// Shapes: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]`; the result is `[.., out]`.
///
/// # Panics
/// When the inner sizes differ.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.dims()[1], "linear: x {:?} against weight {:?}", x.dims(), weight.dims());
    let y = Tensor::from_dispatch(Dispatch::linear_forward((), x.into_dispatch(), weight.into_dispatch()).0);
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}
