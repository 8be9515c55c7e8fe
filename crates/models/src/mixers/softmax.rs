//! Softmax attention: the teacher's mixer, and the layers that a hybrid keeps.

use super::{Call, Kind, LayerContext, Mixer, Projections, Streams, last};
use crate::error::ModelError;
use crate::param::Named;
use crate::sight::Sight;
use crate::source::Builder;
use crate::state::{Documents, LayerState};
use burn::tensor::{Device, Tensor};
use recast_ops::attention::{AttentionOptions, Cache, Mask, attention, attention_over, attention_step};
use recast_ops::linear::{Precision, precision_on};
use recast_ops::quantised::on_processor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Options of [`Softmax`].
#[derive(Clone, Debug, Default, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Sliding window in tokens, the current one included; none sees everything.
    pub window: Option<usize>,
    /// Leave out rotary embedding (NoPE; hybrids extrapolate better with it).
    pub no_rope: bool,
}

/// Softmax attention with grouped queries.
pub struct Softmax {
    projections: Projections,
    options: Options,
    layer: LayerContext,
    /// Whether the cache is of bf16 ([`cache_is_rounded`]).
    rounded: bool,
}

impl Kind for Softmax {
    const NAME: &'static str = "softmax";
    const ABOUT: &'static str = "softmax attention: grouped queries, rotary embedding, optional window";
    const CONSTANT_STATE: bool = false;
    type Options = Options;

    fn resolve(_: &mut Options, _: &LayerContext) {}

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        if options.window == Some(0) {
            return Err(ModelError::MixerOptions {
                mixer: Self::NAME.into(),
                message: "window is 0, expected at least 1".into(),
            });
        }
        let projections = Projections::build(layer, builder)?;
        let rounded = cache_is_rounded(projections.is_quantised(), layer.head_size, builder.device());
        Ok(Self { projections, options: options.clone(), layer: layer.clone(), rounded })
    }
}

impl Mixer for Softmax {
    fn parameters(&self) -> Vec<Named> {
        self.projections.parameters()
    }

    fn forward(&self, call: Call<'_>) -> Tensor<3> {
        let p = &self.projections;
        let documents = call.documents.filter(|d| d.any());
        let [q, k, v] = self.rotated(call.x, call.positions, documents);
        let seen = Seen { sight: call.sight, window: self.options.window, documents, lengths: call.lengths };
        p.output(match call.states {
            None => {
                let [batch, tokens, ..] = q.dims();
                attention(q, k, v, seen.options(batch, tokens, tokens, 0))
            }
            Some(states) => self.cached(q, k, v, states, call.positions, seen),
        })
    }

    fn forward_last(&self, call: Call<'_>) -> Tensor<3> {
        let Some(states) = call.states else {
            return last(self.forward(call));
        };
        let p = &self.projections;
        let before = call.x.dims()[1] - 1;
        let positions = match call.positions {
            [] => vec![before],
            positions => positions.iter().map(|position| position + before).collect(),
        };
        let q = self.rotate(p.queries(last(call.x.clone())), &positions, None);
        let (k, v) = (self.rotate(p.keys(call.x.clone()), call.positions, None), p.values(call.x));
        let seen = Seen { sight: call.sight, window: self.options.window, documents: None, lengths: call.lengths };
        p.output(self.cached(q, k, v, states, &positions, seen))
    }

    fn two_streams(&self, streams: Streams<'_>) -> [Tensor<3>; 2] {
        let Streams { clean, noisy, block, documents, .. } = streams;
        let documents = documents.filter(|d| d.any());
        let [q, k, v] = self.rotated(clean, &[], documents);
        let [noisy_q, noisy_k, noisy_v] = self.rotated(noisy, &[], documents);
        let [batch, tokens, ..] = q.dims();
        let seen = |sight| Seen { sight, window: self.options.window, documents, lengths: None };
        let options = seen(Sight::Blocks(block)).options(batch, tokens, tokens, 0);
        let clean = attention(q, k.clone(), v.clone(), options);
        if on_processor(&noisy_q.device()) {
            let options = seen(Sight::Whole).noisy(batch, tokens, block);
            let (k, v) = (Tensor::cat(vec![k, noisy_k], 1), Tensor::cat(vec![v, noisy_v], 1));
            return [clean, attention(noisy_q, k, v, options)].map(|y| self.projections.output(y));
        }
        let blocks = (0..tokens).step_by(block).map(|start| {
            // A block's keys are those of the clean tokens before it, and its own noisy ones.
            let end = (start + block).min(tokens);
            let with_own = |clean: &Tensor<4>, noisy: &Tensor<4>| {
                let own = noisy.clone().narrow(1, start, end - start);
                if start == 0 { own } else { Tensor::cat(vec![clean.clone().narrow(1, 0, start), own], 1) }
            };
            let options = seen(Sight::Whole).options_of(batch, start..end, end, 0);
            attention(noisy_q.clone().narrow(1, start, end - start), with_own(&k, &noisy_k), with_own(&v, &noisy_v), options)
        });
        let noisy = Tensor::cat(blocks.collect(), 1);
        [clean, noisy].map(|y| self.projections.output(y))
    }

    fn leave_out(&self, state: &mut LayerState, tokens: Range<usize>) -> bool {
        // Its pages say which keys a window has dropped by how many are held.
        let held = state.length;
        if self.options.window.is_some() || tokens.start > tokens.end || tokens.end > held {
            return false;
        }
        if tokens.is_empty() {
            return true;
        }
        let cache = Cache { pages: &state.parts, length: held };
        let rest = |x: Tensor<4>| {
            let parts = [0..tokens.start, tokens.end..held].into_iter().filter(|part| !part.is_empty());
            let parts: Vec<_> = parts.map(|part| x.clone().narrow(1, part.start, part.len())).collect();
            if parts.is_empty() { x.narrow(1, 0, 0) } else { Tensor::cat(parts, 1) }
        };
        let (k, v) = (rest(cache.keys()), rest(cache.values()));
        *state = LayerState::default();
        self.append(state, k, v);
        true
    }

    fn state_bytes(&self, tokens: usize) -> usize {
        let dropped = self.options.window.map_or(0, |window| unseen_pages(tokens, window));
        let each = if self.rounded { size_of::<u16>() } else { size_of::<f32>() };
        let held = (tokens - dropped * PAGE).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
        [2, self.layer.kv_heads, self.layer.head_size, each].into_iter().fold(held, usize::saturating_mul)
    }
}

/// Whether keys and values of heads of `head_size` channels are held in bf16: where products round their inputs
/// anyway, which those with `quantised` weights do to bytes.
pub fn cache_is_rounded(quantised: bool, head_size: usize, device: &Device) -> bool {
    (quantised || precision_on(device) == Precision::Bf16) && Cache::can_round(device, PAGE, head_size)
}

/// Tokens a page of the cache holds. Full pages never change: copies of a state share them.
const PAGE: usize = 64;

impl Softmax {
    /// q, k and v of normed inputs `[B, T, C]`.
    fn rotated(&self, x: Tensor<3>, positions: &[usize], documents: Option<&Documents>) -> [Tensor<4>; 3] {
        let p = &self.projections;
        let (q, k, v) = (p.queries(x.clone()), p.keys(x.clone()), p.values(x));
        [self.rotate(q, positions, documents), self.rotate(k, positions, documents), v]
    }

    fn rotate(&self, x: Tensor<4>, positions: &[usize], documents: Option<&Documents>) -> Tensor<4> {
        if self.options.no_rope { x } else { self.projections.rotate(x, positions, documents) }
    }

    /// Writes keys and values `[1, T, G, N]` behind those held.
    fn append(&self, state: &mut LayerState, k: Tensor<4>, v: Tensor<4>) {
        let (new, rounded) = (k.dims()[1], self.rounded && !k.is_tracked() && !v.is_tracked());
        Cache::append(&mut state.parts, state.length, PAGE, k, v, rounded);
        state.length += new;
    }

    /// Attention of new tokens `[B, T, ..]` to what each row has read and to each other.
    fn cached(
        &self,
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        mut states: Vec<&mut LayerState>,
        positions: &[usize],
        seen: Seen<'_>,
    ) -> Tensor<4> {
        let tokens = q.dims()[1];
        let row = |x: &Tensor<4>, row: usize| x.clone().narrow(0, row, 1);
        for (at, state) in states.iter_mut().enumerate() {
            self.append(state, row(&k, at), row(&v, at));
        }
        let y = if tokens == 1 && !q.is_tracked() {
            let caches: Vec<Cache<'_>> = states.iter().map(|state| Cache { pages: &state.parts, length: state.length }).collect();
            attention_step(q, &caches, self.options.window)
        } else {
            let rows = states.iter().enumerate().map(|(at, state)| {
                // Tokens of which a window has dropped the keys. What stands behind the tokens may be held too.
                let dropped = (positions.get(at).copied().unwrap_or(0) + tokens).saturating_sub(state.length);
                let options = seen.options(1, tokens, state.length, dropped);
                let cache = Cache { pages: &state.parts, length: state.length };
                let tracked = || [&q, &k, &v].into_iter().chain(cache.pages).any(Tensor::is_tracked);
                match row(&q, at) {
                    // Over a rounded cache the first chunk goes the way of those behind it.
                    q if state.length == tokens && !self.rounded => attention(q, row(&k, at), row(&v, at), options),
                    q if tracked() => attention(q, cache.keys(), cache.values(), options),
                    q => attention_over(q, cache, options),
                }
            });
            Tensor::cat(rows.collect(), 0)
        };
        if let Some(window) = self.options.window {
            states.into_iter().for_each(|state| forget(state, window));
        }
        y
    }
}

/// What bounds the keys that a query sees.
#[derive(Clone, Copy)]
struct Seen<'a> {
    sight: Sight,
    /// Keys so far behind, and so far ahead, are not seen.
    window: Option<usize>,
    documents: Option<&'a Documents>,
    lengths: Option<&'a [usize]>,
}

impl Seen<'_> {
    /// Of queries that are the last `tokens` of `keys` keys, before which `dropped` more stood.
    fn options(&self, batch: usize, tokens: usize, keys: usize, dropped: usize) -> AttentionOptions {
        self.options_of(batch, keys - tokens..keys, keys, dropped)
    }

    /// Of queries at these key positions.
    fn options_of(&self, batch: usize, queries: Range<usize>, keys: usize, dropped: usize) -> AttentionOptions {
        let mask = match (self.sight, self.window) {
            (Sight::Causal, None) => Mask::Causal,
            (Sight::Causal, Some(window)) => Mask::Window(window),
            _ => Mask::Bidirectional,
        };
        if mask != Mask::Bidirectional {
            let first_visible = self.documents.map(Documents::first_visible);
            return AttentionOptions { mask, first_visible, ..Default::default() };
        }
        if self.sight == Sight::Whole && self.window.is_none() && self.documents.is_none() && self.lengths.is_none() {
            return AttentionOptions { mask, ..Default::default() };
        }
        let documents = self.documents.map(|d| (d.first_visible(), d.end_visible()));
        let (mut first_visible, mut end_visible) = (Vec::new(), Vec::new());
        for row in 0..batch {
            for at in queries.clone() {
                let (mut first, mut end) = (0, keys);
                if let Sight::Blocks(size) = self.sight {
                    end = end.min((at + dropped + 1).next_multiple_of(size) - dropped);
                }
                if let Some(window) = self.window {
                    (first, end) = ((at + 1).saturating_sub(window), end.min(at + window));
                }
                if let Some((starts, ends)) = &documents {
                    // Documents come without carried keys: a key's position is its token's index.
                    let token = row * (starts.len() / batch) + at;
                    (first, end) = (first.max(starts[token] as usize), end.min(ends[token] as usize));
                }
                if let Some(lengths) = self.lengths {
                    end = end.min(lengths[row]);
                }
                first_visible.push(first as u32);
                end_visible.push(end as u32);
            }
        }
        let (first_visible, end_visible) = (Some(first_visible.into()), Some(end_visible.into()));
        AttentionOptions { mask, first_visible, end_visible, ..Default::default() }
    }

    /// Of noisy tokens whose keys stand behind as many clean ones: earlier clean blocks, their own noisy
    /// one.
    fn noisy(&self, batch: usize, tokens: usize, block: usize) -> AttentionOptions {
        let whole = self.options_of(batch, 0..tokens, tokens, 0);
        let (mut first, mut end, mut also) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch * tokens {
            let start = row % tokens / block * block;
            let own = start..(start + block).min(tokens);
            // What windows and documents leave of the sequence.
            let left = whole.first_visible.as_ref().map_or(0, |x| x[row] as usize)
                ..whole.end_visible.as_ref().map_or(tokens, |x| x[row] as usize);
            first.push(left.start.min(own.start) as u32);
            end.push(own.start as u32);
            let [from, to] = [own.start.max(left.start), own.end.min(left.end)];
            also.push([(tokens + from) as u32, (tokens + to) as u32]);
        }
        AttentionOptions {
            mask: Mask::Bidirectional,
            first_visible: Some(first.into()),
            end_visible: Some(end.into()),
            also_visible: Some(also.into()),
            ..Default::default()
        }
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
