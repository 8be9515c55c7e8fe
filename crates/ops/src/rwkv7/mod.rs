//! The heart of an RWKV-7 layer: everything between its projections, in one pass.
//!
//! ```text
//! logw  = -e^(-1/2) sigmoid(w0 + w)                iclr = sigmoid(a0 + a)
//! v'    = v + (first - v) sigmoid(v0 + mix)        (with a value residual)
//! kap   = k / |k|,           k' = k (1 - e^logw + iclr)        (balanced state, RADLADS)
//! kap   = k k_k / |k k_k|,   k' = k (1 + (iclr - 1) k_a)       (stock)
//! y     = delta rule of (r, logw, k', v', -kap, kap iclr)      ([`crate::delta_rule`])
//! out   = scale y gate
//! ```
//!
//! RADLADS (arXiv 2505.03005) eqs. 15 to 32. Composed of tensor operations this is some forty
//! passes over arrays of the size of the layer's input, forward and backward several times that;
//! here every head is gathered once and stays in cache. Keys and values keep their own number of
//! heads: query heads share them without a repeated copy.

#[cfg(feature = "cube")]
mod cube;
mod flex;
mod head;
pub mod reference;

use crate::delta_rule::Form;
pub use crate::delta_rule::layer::Settings;
use crate::delta_rule::layer::{Options, States};
use crate::delta_rule::states_behind;
use crate::delta_rule::step::{given, taken};
use crate::glue::{View, on_cpu, operator, slice};
use burn::backend::Dispatch;
use burn::tensor::{Tensor, TensorData};

/// e^(-1/2): the strongest log decay of a token.
pub const DECAY_RANGE: f32 = 0.606_530_66;

/// Projections of a layer's input. `B` sequences of `T` tokens, `H` heads of `N` channels, `G` heads
/// of keys and values (`H` is a multiple of `G`).
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Receptance (query) `[B, T, H, N]`, rotated if at all.
    pub r: Tensor<4>,
    /// Before the sigmoid, without its bias, `[B, T, HN]`.
    pub decay: Tensor<3>,
    /// Before the sigmoid, without its bias, `[B, T, HN]`.
    pub iclr: Tensor<3>,
    /// Keys `[B, T, G, N]`, rotated if at all.
    pub k: Tensor<4>,
    /// Values `[B, T, G, N]`.
    pub v: Tensor<4>,
    /// Biases `[HN]` of the decay and of the in-context learning rate.
    pub biases: [Tensor<1>; 2],
    /// The first layer's values, and how much of them to take.
    pub residual: Option<Residual>,
    /// How keys are scaled.
    pub keys: Keys,
    /// Output gate `[B, T, HN]`, as it multiplies.
    pub gate: Option<Tensor<3>>,
}

impl Inputs {
    /// Whether a gradient is wanted of any.
    fn is_tracked(&self) -> bool {
        let residual = self.residual.as_ref().is_some_and(|x| x.first.is_tracked() || x.mix.is_tracked() || x.bias.is_tracked());
        let keys = matches!(&self.keys, Keys::Stock { k_k, k_a } if k_k.is_tracked() || k_a.is_tracked());
        let gate = self.gate.as_ref().is_some_and(Tensor::is_tracked);
        [&self.r, &self.k, &self.v].iter().any(|x| x.is_tracked())
            || [&self.decay, &self.iclr].iter().any(|x| x.is_tracked())
            || self.biases.iter().any(Tensor::is_tracked)
            || residual
            || keys
            || gate
    }
}

/// The value residual.
#[derive(Clone, Debug)]
pub struct Residual {
    /// Values of the first layer, `[B, T, G, N]` or already repeated to `[B, T, H, N]`.
    pub first: Tensor<4>,
    /// Before the sigmoid, without its bias, `[B, T, HN]`.
    pub mix: Tensor<3>,
    /// `[HN]`.
    pub bias: Tensor<1>,
}

/// How keys are scaled.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one a layer and call")]
pub enum Keys {
    /// By `1 - w + iclr`, so that the state stays bounded.
    Balanced,
    /// By `k_k` before the norm and `1 + (iclr - 1) k_a`, `[HN]` each.
    Stock {
        /// Factor of what is normalised.
        k_k: Tensor<1>,
        /// Weight of the learning rate.
        k_a: Tensor<1>,
    },
}

operator!(
    Rwkv7Backend,
    Options,
    rwkv7_forward,
    rwkv7_backward,
    flex,
    14,
    [r, decay, iclr, k, v, decay_bias, iclr_bias, first, mix, mix_bias, k_k, k_a, gate, state],
    cube
);

/// Outputs `[B, T, H, N]` of whole sequences.
///
/// # Panics
/// When shapes do not fit together.
pub fn rwkv7_outputs(inputs: Inputs, settings: Settings) -> Tensor<4> {
    let shape = inputs.r.dims();
    packed(inputs, None, settings, States::Nothing).reshape(shape)
}

/// Outputs `[B, T, H, N]`, and the state `[B, H, N, N]` after them, from `state` (zero when absent).
///
/// # Panics
/// When shapes do not fit together.
pub fn rwkv7(inputs: Inputs, state: Option<Tensor<4>>, settings: Settings) -> (Tensor<4>, Tensor<4>) {
    let [b, t, h, n] = inputs.r.dims();
    let packed = packed(inputs, state, settings, States::Last);
    let outputs = b * t * h * n;
    (packed.clone().narrow(0, 0, outputs).reshape([b, t, h, n]), packed.narrow(0, outputs, b * h * n * n).reshape([b, h, n, n]))
}

/// [`rwkv7`] from zero, with the states after every `every` tokens and after the last, `[B * S, H, N, N]`:
/// each sequence's behind each other. On the processor only.
///
/// # Panics
/// When shapes do not fit together, `every` is 0, or on another device than the processor.
pub fn rwkv7_states(inputs: Inputs, settings: Settings, every: usize) -> (Tensor<4>, Tensor<4>) {
    assert!(on_cpu(&inputs.r), "rwkv7_states: on the processor only");
    let shape = inputs.r.dims();
    states_behind(packed(inputs, None, settings, States::Every(every)), [shape; 2], every)
}

/// Outputs `[B, 1, H, N]` of one token of each of several sequences, and their states `[1, H, N, N]`
/// after it; states given away by their owner are changed where they lie. A row does not depend on
/// the others.
///
/// # Panics
/// When shapes do not fit together, or there is not one state a row.
pub fn rwkv7_step(inputs: Inputs, states: Vec<Option<Tensor<4>>>, scale: f32) -> (Tensor<4>, Vec<Tensor<4>>) {
    let [b, t, h, n] = inputs.r.dims();
    assert_eq!((b, t), (states.len(), 1), "rwkv7_step: one token and one state a row");
    let settings = Settings { scale, starts: None, form: Form::Recurrent };
    let device = inputs.r.device();
    if !on_cpu(&inputs.r) || inputs.is_tracked() || states.iter().flatten().any(Tensor::is_tracked) {
        let zero = || Tensor::zeros([1, h, n, n], &device.clone().inner());
        let state = Tensor::cat(states.into_iter().map(|s| s.unwrap_or_else(zero)).collect(), 0);
        let (y, last) = rwkv7(inputs, Some(state), settings);
        return (y, (0..b).map(|row| last.clone().narrow(0, row, 1)).collect());
    }
    let mut states = taken(states, h * n * n);
    let shape = inputs.r.dims();
    let tensors = Flat::of(inputs).0.map(slice);
    let views = tensors.each_ref().map(|x| x.view());
    let mut all = [View { data: &[], shape: &[] }; 14];
    all[..13].copy_from_slice(&views);
    all[0].shape = &shape;
    let options = Options { settings, save: false, states: States::Nothing };
    let y = flex::step(&options, all, &mut states);
    (Tensor::from_data(TensorData::new(y, shape), &device), given(states, [1, h, n, n], &device))
}

/// All inputs but the state, flat, in the operator's order; absent ones are empty.
struct Flat([Tensor<1>; 13]);

impl Flat {
    fn of(inputs: Inputs) -> Self {
        let [b, t, h, n] = inputs.r.dims();
        let [_, _, g, _] = inputs.k.dims();
        assert!(g > 0 && h % g == 0, "rwkv7: {h} heads over {g} key-value heads");
        assert_eq!(inputs.k.dims(), [b, t, g, n], "rwkv7: shape of k");
        assert_eq!(inputs.v.dims(), [b, t, g, n], "rwkv7: shape of v");
        let device = inputs.r.device().inner();
        let none = || Tensor::<1>::empty([0], &device);
        let wide = |name: &str, x: Tensor<3>| {
            assert_eq!(x.dims(), [b, t, h * n], "rwkv7: shape of {name}");
            x.reshape([-1])
        };
        let channels = |name: &str, x: Tensor<1>| {
            assert_eq!(x.dims(), [h * n], "rwkv7: shape of {name}");
            x
        };
        let [decay_bias, iclr_bias] = inputs.biases.map(|x| channels("a bias", x));
        let (first, mix, mix_bias) = match inputs.residual {
            Some(Residual { first, mix, bias }) => {
                let heads = first.dims()[2];
                assert!(heads > 0 && h % heads == 0 && first.dims() == [b, t, heads, n], "rwkv7: shape of first values");
                (first.reshape([-1]), wide("mix", mix), channels("bias of the residual", bias))
            }
            None => (none(), none(), none()),
        };
        let (k_k, k_a) = match inputs.keys {
            Keys::Balanced => (none(), none()),
            Keys::Stock { k_k, k_a } => (channels("k_k", k_k), channels("k_a", k_a)),
        };
        let gate = inputs.gate.map_or_else(none, |gate| wide("gate", gate));
        let (decay, iclr) = (wide("decay", inputs.decay), wide("iclr", inputs.iclr));
        let [r, k, v] = [inputs.r, inputs.k, inputs.v].map(|x| x.reshape([-1]));
        Self([r, decay, iclr, k, v, decay_bias, iclr_bias, first, mix, mix_bias, k_k, k_a, gate])
    }
}

fn packed(inputs: Inputs, state: Option<Tensor<4>>, settings: Settings, states: States) -> Tensor<1> {
    let [b, t, h, n] = inputs.r.dims();
    let state = match state {
        Some(state) => {
            assert_eq!(state.dims(), [b, h, n, n], "rwkv7: shape of the state");
            state
        }
        None => Tensor::zeros([b, h, n, n], &inputs.r.device().inner()),
    };
    if let Some(starts) = &settings.starts {
        assert_eq!(starts.len(), b * t, "rwkv7: one flag a token");
    }
    let save = inputs.is_tracked() || state.is_tracked();
    let Flat(flat) = Flat::of(inputs);
    let [r, decay, iclr, k, v, decay_bias, iclr_bias, first, mix, mix_bias, k_k, k_a, gate] = flat;
    let options = Options { settings, save, states };
    Tensor::from_dispatch(
        Dispatch::rwkv7_forward(
            options,
            // The operator learns its sizes from this one.
            r.reshape([b, t, h, n]).into_dispatch(),
            decay.into_dispatch(),
            iclr.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            decay_bias.into_dispatch(),
            iclr_bias.into_dispatch(),
            first.into_dispatch(),
            mix.into_dispatch(),
            mix_bias.into_dispatch(),
            k_k.into_dispatch(),
            k_a.into_dispatch(),
            gate.into_dispatch(),
            state.into_dispatch(),
        )
        .0,
    )
}
