//! Token shift: each token mixed with the one before it, channel by channel.
//!
//! ```text
//! y_t = x_t + (x_{t-1} - x_t) (base + amount_t)
//! ```
//!
//! The data-dependent interpolation of RWKV-6 (arXiv 2404.05892, "ddlerp"); without `amount`, that
//! of RWKV-4 and 5.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Constants of one call.
#[derive(Clone, Debug)]
struct Options {
    starts: Option<Arc<[bool]>>,
}

operator!(TokenShiftBackend, Options, token_shift_forward, token_shift_backward, flex, 4, [x, previous, base, amount], cube);

/// Mixes `x` `[B, T, C]` with the token before; the result is `[B, T, C]`.
///
/// `base` is `[C]`, `amount` `[B, T, C]` (zero when absent), `previous` `[B, C]` stands before the
/// first token (zero when absent); `starts` `[B * T]` names tokens that begin a document, before
/// which zero stands too.
///
/// # Panics
/// When shapes do not fit together.
pub fn token_shift(
    x: Tensor<3>,
    previous: Option<Tensor<2>>,
    base: Tensor<1>,
    amount: Option<Tensor<3>>,
    starts: Option<Arc<[bool]>>,
) -> Tensor<3> {
    let [b, t, c] = x.dims();
    assert_eq!(base.dims(), [c], "token_shift: shape of the base");
    let none = || Tensor::<1>::empty([0], &x.device().inner());
    let previous = previous.map_or_else(none, |previous| {
        assert_eq!(previous.dims(), [b, c], "token_shift: shape of the previous token");
        previous.reshape([-1])
    });
    let amount = amount.map_or_else(none, |amount| {
        assert_eq!(amount.dims(), [b, t, c], "token_shift: shape of the amount");
        amount.reshape([-1])
    });
    if let Some(starts) = &starts {
        assert_eq!(starts.len(), b * t, "token_shift: one flag a token");
    }
    let out = Dispatch::token_shift_forward(
        Options { starts },
        x.into_dispatch(),
        previous.into_dispatch(),
        base.into_dispatch(),
        amount.into_dispatch(),
    );
    Tensor::from_dispatch(out.0)
}
