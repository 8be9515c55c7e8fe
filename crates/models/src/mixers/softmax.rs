//! Softmax attention: the teacher's mixer, and the layers that a hybrid keeps.

use super::{Call, Kind, LayerContext, Mixer, Projections};
use crate::error::ModelError;
use crate::param::Named;
use crate::source::Builder;
use crate::state::{Documents, LayerState};
use burn::tensor::Tensor;
use recast_ops::attention::{AttentionOptions, Mask, attention};
use serde::{Deserialize, Serialize};

/// Options of [`Softmax`].
#[derive(Clone, Debug, Default, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Sliding window in tokens, the current one included; none sees everything.
    pub window: Option<usize>,
    /// Leave out rotary embedding (NoPE; hybrids extrapolate better with it).
    pub no_rope: bool,
}

/// Causal softmax attention with grouped queries.
pub struct Softmax {
    projections: Projections,
    options: Options,
    layer: LayerContext,
}

impl Kind for Softmax {
    const NAME: &'static str = "softmax";
    const ABOUT: &'static str = "causal softmax attention: grouped queries, rotary embedding, optional window";
    const CONSTANT_STATE: bool = false;
    type Options = Options;

    fn resolve(_: &mut Options, _: &LayerContext) {}

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        if options.window == Some(0) {
            return Err(ModelError::MixerOptions { mixer: Self::NAME.into(), message: "window is 0, expected at least 1".into() });
        }
        Ok(Self { projections: Projections::build(layer, builder)?, options: options.clone(), layer: layer.clone() })
    }
}

impl Mixer for Softmax {
    fn parameters(&self) -> Vec<Named> {
        self.projections.parameters()
    }

    fn forward(&self, call: Call<'_>) -> Tensor<3> {
        let p = &self.projections;
        let mut q = p.queries(call.x.clone());
        let mut k = p.keys(call.x.clone());
        let mut v = p.values(call.x);
        let documents = call.documents.filter(|d| d.any());
        if !self.options.no_rope {
            q = p.rotate(q, call.position, documents);
            k = p.rotate(k, call.position, documents);
        }
        if let Some(state) = call.state {
            (k, v) = append(state, k, v);
            if let Some(window) = self.options.window {
                forget(state, window);
            }
        }
        let first_visible = documents.map(Documents::first_visible);
        let mask = self.options.window.map_or(Mask::Causal, Mask::Window);
        p.output(attention(q, k, v, AttentionOptions { mask, first_visible, ..Default::default() }))
    }

    fn state_bytes(&self, tokens: usize) -> usize {
        let kept = self.options.window.map_or(tokens, |w| tokens.min(w));
        2 * kept * self.layer.kv_heads * self.layer.head_size * size_of::<f32>()
    }
}

/// Appends keys and values to the cache, whose buffers double when full, and returns all of them.
fn append(state: &mut LayerState, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [b, new, g, n] = k.dims();
    let length = state.length + new;
    let capacity = state.parts.first().map_or(0, |part| part.dims()[1]);
    if capacity < length {
        let room = length.next_power_of_two().max(32);
        let grow = |old: Option<Tensor<4>>| {
            let fresh = Tensor::zeros([b, room, g, n], &k.device());
            match old {
                Some(old) if state.length > 0 => {
                    fresh.slice_assign([0..b, 0..state.length], old.narrow(1, 0, state.length))
                }
                _ => fresh,
            }
        };
        let mut old = std::mem::take(&mut state.parts).into_iter();
        state.parts = vec![grow(old.next()), grow(old.next())];
    }
    // Taken out of the state so that the write happens in place.
    let mut parts = std::mem::take(&mut state.parts).into_iter();
    let mut put = |new_rows: Tensor<4>| {
        let buffer = parts.next().expect("a softmax state has keys and values");
        buffer.slice_assign([0..b, state.length..length], new_rows)
    };
    let (keys, values) = (put(k), put(v));
    state.length = length;
    let seen = (keys.clone().narrow(1, 0, length), values.clone().narrow(1, 0, length));
    state.parts = vec![keys, values];
    seen
}

/// Drops what no later token can see, once that is most of the cache (so that it is rarely done).
fn forget(state: &mut LayerState, window: usize) {
    if state.length < 2 * window + 32 {
        return;
    }
    // The next token sees itself and this many before it.
    let kept = window - 1;
    let first = state.length - kept;
    let parts = std::mem::take(&mut state.parts);
    state.length = kept;
    if kept > 0 {
        // The newest rows in buffers of their own: a view would keep the old ones alive.
        state.parts = parts
            .into_iter()
            .map(|part| {
                let [b, _, g, n] = part.dims();
                let fresh = Tensor::zeros([b, kept, g, n], &part.device());
                fresh.slice_assign([0..b, 0..kept], part.narrow(1, first, kept))
            })
            .collect();
    }
}
