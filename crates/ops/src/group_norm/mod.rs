//! Normalisation of each head by its own mean and variance (Wu and He 2018), behind the recurrent
//! mixers. To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

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

operator!(GroupNormBackend, Options, group_norm_forward, group_norm_backward, flex, 3, [x, weight, bias], cube);

/// `y = (x - mean) * (variance + epsilon)^(-1/2) * weight + bias`, with mean and (population)
/// variance over the `N` elements of each head.
///
/// Shapes: `x_bthn` and the result `[B, T, H, N]`, `weight` and `bias` `[H * N]`. Keeps two numbers
/// a head for the backward pass, and none when no input is tracked.
///
/// # Panics
/// When `weight` or `bias` has not `H * N` entries.
pub fn group_norm(x_bthn: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    let [_, _, heads, size] = x_bthn.dims();
    assert_eq!(weight.dims(), [heads * size], "group_norm: weight of {heads} heads of {size}");
    assert_eq!(bias.dims(), [heads * size], "group_norm: bias of {heads} heads of {size}");
    let save = x_bthn.is_tracked() || weight.is_tracked() || bias.is_tracked();
    let options = Options { epsilon: epsilon as f32, save };
    let y = Dispatch::group_norm_forward(options, x_bthn.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(y.0)
}
