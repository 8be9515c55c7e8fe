//! The heart of an RWKV-6 layer: everything between its projections, in one pass.
//!
//! ```text
//! logw = max(-e^(w0 + w), -5)      k' = k (1 - e^logw)   (balanced state, RADLADS; else k' = k)
//! out  = scale gate decayed sum of (q, logw, k', v)      ([`crate::decay`])
//! ```
//!
//! RADLADS (arXiv 2505.03005) section 4. Keys and values keep their own number of heads: query
//! heads share them without a repeated copy.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::delta_rule::Form;
pub use crate::delta_rule::layer::Settings;
use crate::delta_rule::layer::{Options, States};
use crate::delta_rule::states_behind;
use crate::delta_rule::step::{given, taken};
use crate::glue::{View, on_cpu, operator, slice};
use burn::backend::Dispatch;
use burn::tensor::{Tensor, TensorData};

/// The log decay of a token is clamped here: what made 32B models train (RADLADS appendix).
pub const STRONGEST_LOG_DECAY: f32 = -5.0;

/// Projections of a layer's input. `B` sequences of `T` tokens, `H` heads of `N` channels, `G` heads
/// of keys and values (`H` is a multiple of `G`).
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Queries `[B, T, H, N]`, rotated if at all.
    pub q: Tensor<4>,
    /// ln(-ln w), without its bias, `[B, T, HN]`.
    pub decay: Tensor<3>,
    /// Bias of the decay, `[HN]`.
    pub bias: Tensor<1>,
    /// Keys `[B, T, G, N]`, rotated if at all.
    pub k: Tensor<4>,
    /// Values `[B, T, G, N]`.
    pub v: Tensor<4>,
    /// Output gate `[B, T, HN]`, as it multiplies.
    pub gate: Option<Tensor<3>>,
    /// Whether keys are scaled by `1 - w`, so that the state stays bounded.
    pub balanced: bool,
}

impl Inputs {
    /// Whether a gradient is wanted of any.
    fn is_tracked(&self) -> bool {
        [&self.q, &self.k, &self.v].iter().any(|x| x.is_tracked())
            || self.decay.is_tracked()
            || self.bias.is_tracked()
            || self.gate.as_ref().is_some_and(Tensor::is_tracked)
    }
}

/// What every call knows beside the tensors.
#[derive(Clone, Debug)]
struct Constants {
    layer: Options,
    balanced: bool,
}

operator!(Rwkv6Backend, Constants, rwkv6_forward, rwkv6_backward, flex, 7, [q, decay, bias, k, v, gate, state], cube);

/// Outputs `[B, T, H, N]` of whole sequences.
///
/// # Panics
/// When shapes do not fit together.
pub fn rwkv6_outputs(inputs: Inputs, settings: Settings) -> Tensor<4> {
    let shape = inputs.q.dims();
    packed(inputs, None, settings, States::Nothing).reshape(shape)
}

/// Outputs `[B, T, H, N]`, and the state `[B, H, N, N]` after them, from `state` (zero when absent).
///
/// # Panics
/// When shapes do not fit together.
pub fn rwkv6(inputs: Inputs, state: Option<Tensor<4>>, settings: Settings) -> (Tensor<4>, Tensor<4>) {
    let [b, t, h, n] = inputs.q.dims();
    let packed = packed(inputs, state, settings, States::Last);
    let outputs = b * t * h * n;
    (packed.clone().narrow(0, 0, outputs).reshape([b, t, h, n]), packed.narrow(0, outputs, b * h * n * n).reshape([b, h, n, n]))
}

/// [`rwkv6`] from zero, with the states after every `every` tokens and after the last, `[B * S, H, N, N]`:
/// each sequence's behind each other. On the processor only.
///
/// # Panics
/// When shapes do not fit together, `every` is 0, or on another device than the processor.
pub fn rwkv6_states(inputs: Inputs, settings: Settings, every: usize) -> (Tensor<4>, Tensor<4>) {
    assert!(on_cpu(&inputs.q), "rwkv6_states: on the processor only");
    let shape = inputs.q.dims();
    states_behind(packed(inputs, None, settings, States::Every(every)), [shape; 2], every)
}

/// Outputs `[B, 1, H, N]` of one token of each of several sequences, and their states `[1, H, N, N]`
/// after it, as [`rwkv7_step`](crate::rwkv7::rwkv7_step).
///
/// # Panics
/// When shapes do not fit together, or there is not one state a row.
pub fn rwkv6_step(inputs: Inputs, states: Vec<Option<Tensor<4>>>, scale: f32) -> (Tensor<4>, Vec<Tensor<4>>) {
    let [b, t, h, n] = inputs.q.dims();
    assert_eq!((b, t), (states.len(), 1), "rwkv6_step: one token and one state a row");
    let settings = Settings { scale, starts: None, form: Form::Recurrent };
    let device = inputs.q.device();
    if !on_cpu(&inputs.q) || inputs.is_tracked() || states.iter().flatten().any(Tensor::is_tracked) {
        let zero = || Tensor::zeros([1, h, n, n], &device.clone().inner());
        let state = Tensor::cat(states.into_iter().map(|s| s.unwrap_or_else(zero)).collect(), 0);
        let (y, last) = rwkv6(inputs, Some(state), settings);
        return (y, (0..b).map(|row| last.clone().narrow(0, row, 1)).collect());
    }
    check(&inputs);
    let mut states = taken(states, h * n * n);
    let constants = Constants { layer: Options { settings, save: false, states: States::Nothing }, balanced: inputs.balanced };
    let gate = inputs.gate.map_or_else(|| Tensor::empty([0], &device), |gate| gate.reshape([-1]));
    let q = slice(inputs.q);
    let rest = [inputs.decay.reshape([-1]), inputs.bias, inputs.k.reshape([-1]), inputs.v.reshape([-1]), gate].map(slice);
    let [decay, bias, k, v, gate] = rest.each_ref().map(|x| x.view());
    let views = [q.view(), decay, bias, k, v, gate, View { data: &[], shape: &[] }];
    let y = flex::step(&constants, views, &mut states);
    (Tensor::from_data(TensorData::new(y, [b, 1, h, n]), &device), given(states, [1, h, n, n], &device))
}

fn check(inputs: &Inputs) {
    let [b, t, h, n] = inputs.q.dims();
    let [_, _, g, _] = inputs.k.dims();
    assert!(g > 0 && h % g == 0, "rwkv6: {h} heads over {g} key-value heads");
    assert_eq!(inputs.k.dims(), [b, t, g, n], "rwkv6: shape of k");
    assert_eq!(inputs.v.dims(), [b, t, g, n], "rwkv6: shape of v");
    assert_eq!(inputs.decay.dims(), [b, t, h * n], "rwkv6: shape of the decay");
    assert_eq!(inputs.bias.dims(), [h * n], "rwkv6: shape of the decay's bias");
}

fn packed(inputs: Inputs, state: Option<Tensor<4>>, settings: Settings, states: States) -> Tensor<1> {
    let [b, t, h, n] = inputs.q.dims();
    check(&inputs);
    let device = inputs.q.device().inner();
    let tracked = inputs.is_tracked();
    let gate = match inputs.gate {
        Some(gate) => {
            assert_eq!(gate.dims(), [b, t, h * n], "rwkv6: shape of the gate");
            gate.reshape([-1])
        }
        None => Tensor::<1>::empty([0], &device),
    };
    let state = match state {
        Some(state) => {
            assert_eq!(state.dims(), [b, h, n, n], "rwkv6: shape of the state");
            state
        }
        None => Tensor::zeros([b, h, n, n], &device),
    };
    if let Some(starts) = &settings.starts {
        assert_eq!(starts.len(), b * t, "rwkv6: one flag a token");
    }
    let save = tracked || state.is_tracked();
    let constants = Constants { layer: Options { settings, save, states }, balanced: inputs.balanced };
    Tensor::from_dispatch(
        Dispatch::rwkv6_forward(
            constants,
            inputs.q.into_dispatch(),
            inputs.decay.into_dispatch(),
            inputs.bias.into_dispatch(),
            inputs.k.into_dispatch(),
            inputs.v.into_dispatch(),
            gate.into_dispatch(),
            state.into_dispatch(),
        )
        .0,
    )
}
