//! Softmax attention: the teacher's mixer, and the layers that a hybrid keeps.

use super::{Call, Kind, LayerContext, Mixer, Projections};
use crate::error::ModelError;
use crate::param::Named;
use crate::source::Builder;
use crate::state::{Documents, LayerState};
use burn::tensor::Tensor;
use recast_ops::attention::{AttentionOptions, Cache, Mask, attention, attention_step};
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
        let v = p.values(call.x);
        let documents = call.documents.filter(|d| d.any());
        if !self.options.no_rope {
            q = p.rotate(q, call.positions, documents);
            k = p.rotate(k, call.positions, documents);
        }
        let mask = self.options.window.map_or(Mask::Causal, Mask::Window);
        let first_visible = documents.map(Documents::first_visible);
        let options = AttentionOptions { mask, first_visible, ..Default::default() };
        p.output(match call.states {
            None => attention(q, k, v, options),
            Some(states) => self.cached(q, k, v, states, options),
        })
    }

    fn state_bytes(&self, tokens: usize) -> usize {
        let dropped = self.options.window.map_or(0, |window| unseen_pages(tokens, window));
        2 * (tokens - dropped * PAGE).next_multiple_of(PAGE) * self.layer.kv_heads * self.layer.head_size * size_of::<f32>()
    }
}

/// Tokens a page of the cache holds. Full pages never change: copies of a state share them.
const PAGE: usize = 64;

impl Softmax {
    /// Attention of new tokens `[B, T, ..]` to what each row has read and to each other.
    fn cached(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        mut states: Vec<&mut LayerState>,
        options: AttentionOptions,
    ) -> Tensor<4> {
        let tokens = q.dims()[1];
        let row = |x: &Tensor<4>, row: usize| x.clone().narrow(0, row, 1);
        for (at, state) in states.iter_mut().enumerate() {
            append(state, row(&k, at), row(&v, at));
        }
        let y = if tokens == 1 && !q.is_tracked() {
            let caches: Vec<Cache<'_>> =
                states.iter().map(|state| Cache { pages: &state.parts, length: state.length }).collect();
            attention_step(q, &caches, self.options.window)
        } else {
            let rows = states.iter().enumerate().map(|(at, state)| {
                let (keys, values) = if state.length == tokens {
                    (row(&k, at), row(&v, at))
                } else {
                    let cache = Cache { pages: &state.parts, length: state.length };
                    (cache.keys(), cache.values())
                };
                attention(row(&q, at), keys, values, options.clone())
            });
            Tensor::cat(rows.collect(), 0)
        };
        if let Some(window) = self.options.window {
            states.into_iter().for_each(|state| forget(state, window));
        }
        y
    }
}

/// Writes keys and values `[1, T, G, N]` behind those held, in pages as [`Cache`] has them.
fn append(state: &mut LayerState, k: Tensor<4>, v: Tensor<4>) {
    let [_, new, g, n] = k.dims();
    let mut done = 0;
    while done < new {
        let (page, used) = (state.length / PAGE, state.length % PAGE);
        let count = (PAGE - used).min(new - done);
        if used == 0 {
            let device = k.device();
            state.parts.extend([Tensor::zeros([1, g, n, PAGE], &device), Tensor::zeros([1, g, PAGE, n], &device)]);
        }
        // Taken out of the state, so that the write happens in place.
        let mut take = |part: usize| std::mem::replace(&mut state.parts[part], Tensor::empty([0, 0, 0, 0], &k.device()));
        let (keys, values) = (take(2 * page), take(2 * page + 1));
        let new_tokens = |x: &Tensor<4>| x.clone().narrow(1, done, count);
        let tokens = used..used + count;
        state.parts[2 * page] = keys.slice_assign([0..1, 0..g, 0..n, tokens.clone()], new_tokens(&k).permute([0, 2, 3, 1]));
        state.parts[2 * page + 1] = values.slice_assign([0..1, 0..g, tokens, 0..n], new_tokens(&v).swap_dims(1, 2));
        state.length += count;
        done += count;
    }
}

/// Pages at the beginning of `tokens` that no later token can see: the next one sees itself and
/// `window - 1` before it.
fn unseen_pages(tokens: usize, window: usize) -> usize {
    tokens.saturating_sub(window - 1) / PAGE
}

/// Drops them.
fn forget(state: &mut LayerState, window: usize) {
    let pages = unseen_pages(state.length, window);
    state.parts.drain(..2 * pages);
    state.length -= pages * PAGE;
}
