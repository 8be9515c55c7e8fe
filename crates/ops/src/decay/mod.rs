//! The decayed sum: linear attention with a decay for every key channel, or one a head.
//!
//! ```text
//! S_t = diag(exp(logw_t)) S_{t-1} + k_t (x) v_t ;   o_t = S_t^T q_t
//! ```
//!
//! RAD-RWKV6 and GLA give `logw` a value a channel; RetNet, Lightning and Mamba-2 one a head.
//! Evaluated by the code of [`crate::delta_rule`] without its
//! rank-one part.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::delta_rule::Form;
use crate::delta_rule::layer::{Options, Settings, States};
use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

operator!(DecayBackend, Options, decay_forward, decay_backward, flex, 5, [q, logw, k, v, state], cube);

/// Runs the decayed sum over `T` tokens from `state`; returns outputs and the final state.
///
/// Shapes: `q`, `k` `[B, T, H, K]`; `logw` `[B, T, H, K]` or `[B, T, H, 1]` (not positive); `v`
/// `[B, T, H, V]`; `state` `[B, H, K, V]` (zero when absent); outputs `[B, T, H, V]`.
pub fn decayed_sum(
    q: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
) -> (Tensor<4>, Tensor<4>) {
    let [batch, tokens, heads, key] = q.dims();
    let value = v.dims()[3];
    let packed = packed(q, logw, k, v, state, form, States::Last);
    let outputs = batch * tokens * heads * value;
    let states = batch * heads * key * value;
    (
        packed.clone().narrow(0, 0, outputs).reshape([batch, tokens, heads, value]),
        packed.narrow(0, outputs, states).reshape([batch, heads, key, value]),
    )
}

/// [`decayed_sum`] when the final state is not wanted.
pub fn decayed_sum_outputs(
    q: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
) -> Tensor<4> {
    let [batch, tokens, heads, _] = q.dims();
    let value = v.dims()[3];
    packed(q, logw, k, v, state, form, States::Nothing).reshape([batch, tokens, heads, value])
}

fn packed(
    q: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
    states: States,
) -> Tensor<1> {
    let [batch, tokens, heads, key] = q.dims();
    let value = v.dims()[3];
    assert_eq!(k.dims(), [batch, tokens, heads, key], "decayed_sum: shape of k");
    assert_eq!(v.dims(), [batch, tokens, heads, value], "decayed_sum: shape of v");
    let [b, t, h, width] = logw.dims();
    assert!(
        [b, t, h] == [batch, tokens, heads] && (width == key || width == 1),
        "decayed_sum: logw is {:?}, expected [{batch}, {tokens}, {heads}, {key} or 1]",
        logw.dims()
    );
    let state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, key, value], &q.device().inner()));
    assert_eq!(state.dims(), [batch, heads, key, value], "decayed_sum: shape of the state");
    let save = [&q, &logw, &k, &v, &state].iter().any(|x| x.is_tracked());
    let options = Options { settings: Settings::plain(form), save, states };
    Tensor::from_dispatch(
        Dispatch::decay_forward(
            options,
            q.into_dispatch(),
            logw.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            state.into_dispatch(),
        )
        .0,
    )
}
