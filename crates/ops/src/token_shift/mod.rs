//! Token shift: every position sees the one before it.

use burn::tensor::Tensor;

/// `x[t-1]` at position `t`; `previous` stands before position 0 (zero when absent).
///
/// Shapes: `x` `[B, T, C]`, `previous` `[B, C]`; the result is `[B, T, C]`.
pub fn token_shift(x: Tensor<3>, previous: Option<Tensor<2>>) -> Tensor<3> {
    let [batch, tokens, channels] = x.dims();
    let first = match previous {
        Some(previous) => previous.reshape([batch, 1, channels]),
        None => Tensor::zeros([batch, 1, channels], &x.device().inner()),
    };
    if tokens == 1 {
        return first;
    }
    Tensor::cat(vec![first, x.narrow(1, 0, tokens - 1)], 1)
}
