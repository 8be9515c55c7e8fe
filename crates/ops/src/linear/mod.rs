//! `y = x W^T + b`: every projection, with `W` stored as `[out, in]` like the checkpoints do.

mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

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
