//! `y = x / rms(x) * w`: the normalisation in front of every block (Zhang and Sennrich 2019).
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// Constants of one call.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    epsilon: f32,
    save: bool,
}

operator!(RmsNormBackend, Options, rms_norm_forward, rms_norm_backward, flex, 2, [x, weight], cube);

/// `y[.., i] = x[.., i] * (mean_j x[.., j]^2 + epsilon)^(-1/2) * weight[i]`, in f32.
///
/// Shapes: `x` `[.., d]`, `weight` `[d]`; the result has the shape of `x`. Keeps one number a row
/// for the backward pass, and none when no input is tracked.
///
/// # Panics
/// When `weight` is not as long as the rows of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.dims()[0], "rms_norm: x {:?} against weight {:?}", x.dims(), weight.dims());
    let options = Options { epsilon: epsilon as f32, save: x.is_tracked() || weight.is_tracked() };
    Tensor::from_dispatch(Dispatch::rms_norm_forward(options, x.into_dispatch(), weight.into_dispatch()).0)
}
