//! The delta rule with vector decay: a recurrence whose transition is diagonal plus rank one.
//!
//! ```text
//! sa_t = S_{t-1}^T a_t                                  (V)
//! S_t  = diag(exp(logw_t)) S_{t-1} + b_t (x) sa_t + k_t (x) v_t
//! o_t  = S_t^T r_t
//! ```
//!
//! RWKV-7 is `a = -kap, b = kap * iclr` (RADLADS eqs. 15-32); DeltaNet, Gated DeltaNet and KDA map
//! into it too. With `a = b = 0` it is the decayed sum of [`crate::decay`], which shares this code.
//! Fast forms: token by token ([`Form::Recurrent`]) and in chunks of matrix products with the
//! inverse of a unit lower triangular matrix (WY form, [`Form::Chunked`]).

pub(crate) mod chunked;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod flex;
pub(crate) mod heads;
pub(crate) mod layer;
pub(crate) mod recurrent;
pub mod reference;
pub(crate) mod step;

use crate::glue::{on_cpu, operator};
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use layer::{Options, Settings, States};

/// Log decay that ends a document: e^-40 = 4e-18 of the state survives, far below f32's rounding of
/// whatever is written after it. A stronger one would cost accuracy and speed, because recurrences
/// work with cumulative sums of log decays (at -1e4 they are known to 1e-3 only).
pub const END: f32 = -40.0;

/// How a recurrence is evaluated; all forms agree to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Recurrent for a few tokens, else chunks of [`DEFAULT_CHUNK`].
    #[default]
    Auto,
    /// Token by token.
    Recurrent,
    /// In chunks of that many tokens.
    Chunked(usize),
}

/// Chunk length of [`Form::Auto`]: balances the work inside chunks (grows with it) against the
/// state products (shrink with it) at head sizes of 32 to 128.
pub const DEFAULT_CHUNK: usize = 32;

impl Form {
    /// The chunk length for `tokens`, or none for the recurrent form.
    pub(crate) fn chunk(self, tokens: usize) -> Option<usize> {
        match self {
            Form::Auto if tokens < 8 => None,
            Form::Auto => Some(DEFAULT_CHUNK),
            Form::Recurrent => None,
            Form::Chunked(chunk) => Some(chunk.max(1)),
        }
    }
}

operator!(DeltaRuleBackend, Options, delta_rule_forward, delta_rule_backward, flex, 7, [r, logw, k, v, a, b, state], cube);

/// Runs the delta rule over `T` tokens from `state`; returns outputs and the final state.
///
/// Shapes: `r`, `logw`, `k`, `a`, `b` `[B, T, H, K]`; `v` `[B, T, H, V]`; `state` `[B, H, K, V]`
/// (key rows, value columns; zero when absent); outputs `[B, T, H, V]`. `logw` is the log of the
/// decay and must not be positive.
///
/// Differentiable in every input, the initial state and through the final state.
pub fn delta_rule(
    r: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    a: Tensor<4>,
    b: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
) -> (Tensor<4>, Tensor<4>) {
    let [batch, tokens, heads, key] = r.dims();
    let value = v.dims()[3];
    let packed = packed(r, logw, k, v, a, b, state, form, States::Last);
    let outputs = batch * tokens * heads * value;
    let states = batch * heads * key * value;
    (
        packed.clone().narrow(0, 0, outputs).reshape([batch, tokens, heads, value]),
        packed.narrow(0, outputs, states).reshape([batch, heads, key, value]),
    )
}

/// [`delta_rule`] from zero, with the states after every `every` tokens and after the last,
/// `[B * S, H, K, V]`: each sequence's behind each other. Differentiable through all of them.
///
/// # Panics
/// When shapes do not fit together, `every` is 0, or on another device than the processor.
pub fn delta_rule_states(
    r: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    a: Tensor<4>,
    b: Tensor<4>,
    every: usize,
    form: Form,
) -> (Tensor<4>, Tensor<4>) {
    assert!(on_cpu(&r), "delta_rule_states: on the processor only");
    let shape = [r.dims(), v.dims()];
    states_behind(packed(r, logw, k, v, a, b, None, form, States::Every(every)), shape, every)
}

/// Outputs and [`States::Every`], of queries and values of these shapes.
pub(crate) fn states_behind(packed: Tensor<1>, [queries, values]: [[usize; 4]; 2], every: usize) -> (Tensor<4>, Tensor<4>) {
    let ([batch, tokens, heads, key], value) = (queries, values[3]);
    let (outputs, states) = (batch * tokens * heads * value, batch * tokens.div_ceil(every));
    (
        packed.clone().narrow(0, 0, outputs).reshape([batch, tokens, heads, value]),
        packed.narrow(0, outputs, states * heads * key * value).reshape([states, heads, key, value]),
    )
}

/// [`delta_rule`] when the final state is not wanted (training on whole sequences).
pub fn delta_rule_outputs(
    r: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    a: Tensor<4>,
    b: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
) -> Tensor<4> {
    let [batch, tokens, heads, _] = r.dims();
    let value = v.dims()[3];
    packed(r, logw, k, v, a, b, state, form, States::Nothing).reshape([batch, tokens, heads, value])
}

fn packed(
    r: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    a: Tensor<4>,
    b: Tensor<4>,
    state: Option<Tensor<4>>,
    form: Form,
    states: States,
) -> Tensor<1> {
    let [batch, tokens, heads, key] = r.dims();
    let value = v.dims()[3];
    for (name, x) in [("logw", &logw), ("k", &k), ("a", &a), ("b", &b)] {
        assert_eq!(x.dims(), [batch, tokens, heads, key], "delta_rule: shape of {name}");
    }
    assert_eq!(v.dims(), [batch, tokens, heads, value], "delta_rule: shape of v");
    let state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, key, value], &r.device().inner()));
    assert_eq!(state.dims(), [batch, heads, key, value], "delta_rule: shape of the state");
    let save = [&r, &logw, &k, &v, &a, &b, &state].iter().any(|x| x.is_tracked());
    let options = Options { settings: Settings::plain(form), save, states };
    Tensor::from_dispatch(
        Dispatch::delta_rule_forward(
            options,
            r.into_dispatch(),
            logw.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            a.into_dispatch(),
            b.into_dispatch(),
            state.into_dispatch(),
        )
        .0,
    )
}
