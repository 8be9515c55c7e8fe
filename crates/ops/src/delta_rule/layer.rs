//! What recurrences and the layers around them share: sharing (sequence, head) pairs out over the
//! thread pool, taking each in segments that stay in cache, a scale and a gate on the outputs. A
//! user ([`super::flex`], [`crate::decay`], [`crate::rwkv6`], [`crate::rwkv7`]) says how a
//! segment's recurrence inputs are made, and how their gradients go back.

use super::heads::{Dims, Head, HeadGradients};
use super::{DEFAULT_CHUNK, Form, chunked, recurrent};
use crate::cpu::{Array, Disjoint, View, prefetch, simd, written};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tokens of a head that are gathered at a time: a dozen arrays of 64 channels fit in L2.
const SEGMENT: usize = 256;

/// Rows between the one that is gathered and the one that is asked for meanwhile.
const AHEAD: usize = 12;

/// What is not a tensor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Factor of the outputs.
    pub scale: f32,
    /// `[B * T]`: whether a document starts here that the state must not reach into.
    pub starts: Option<Arc<[bool]>>,
    /// Evaluation order.
    pub form: Form,
}

impl Settings {
    /// Outputs as they are, one document a sequence.
    pub(crate) fn plain(form: Form) -> Self {
        Self { scale: 1.0, starts: None, form }
    }
}

/// Which states are part of the output, behind the outputs proper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum States {
    /// None.
    Nothing,
    /// The one after all tokens, `[B, H, K, V]`.
    Last,
    /// Those after every so many tokens, and the last, `[B, S, H, K, V]`. On the processor only.
    Every(usize),
}

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    pub settings: Settings,
    /// Whether a backward pass may follow.
    pub save: bool,
    /// What stands behind the outputs.
    pub states: States,
}

/// Some tokens of one head.
#[derive(Clone, Debug)]
pub struct Place {
    /// Sequence.
    pub b: usize,
    /// Head.
    pub h: usize,
    /// Which of the sequence's tokens.
    pub tokens: Range<usize>,
}

/// Sizes and what every such layer has.
pub struct Layer<'a> {
    pub dims: Dims,
    pub options: &'a Options,
    /// As it multiplies, `[B, T, H, V]`, or empty.
    pub gate: View<'a>,
    /// `[B, H, K, V]`.
    pub state: View<'a>,
}

/// Room for the gradients of N inputs, where they are wanted and every head has rows of its own:
/// places write theirs at once, which spares keeping all of them until the end. It is not zeroed first:
/// what is written is counted.
pub struct Rooms<const N: usize>([Room; N]);

struct Room {
    values: Vec<f32>,
    /// Elements there will be; none where places' rows are joined at the end.
    size: usize,
    width: usize,
    written: AtomicUsize,
}

impl<const N: usize> Rooms<N> {
    /// For these inputs, with rows of these widths.
    pub fn new(layer: &Layer<'_>, needs: [bool; N], inputs: [View<'_>; N], widths: [usize; N]) -> Self {
        Self(std::array::from_fn(|i| {
            let wanted = needs[i] && layer.heads_of(inputs[i], widths[i]) == layer.dims.heads;
            let size = if wanted { inputs[i].data.len() } else { 0 };
            Room { values: Vec::with_capacity(size), size, width: widths[i], written: AtomicUsize::new(0) }
        }))
    }

    /// What fills them.
    pub fn sinks(&mut self, layer: &Layer<'_>) -> [Sink<'_>; N] {
        self.0.each_mut().map(|room| Sink {
            out: (room.size > 0).then(|| Disjoint::new(&mut room.values.spare_capacity_mut()[..room.size])),
            row: layer.dims.heads * room.width,
            width: room.width,
            tokens: layer.dims.tokens,
            written: &room.written,
        })
    }

    /// The gradient of input `i`, `like` its values: its room, or the places' rows joined.
    ///
    /// # Panics
    /// When not every place has put its rows there.
    pub fn rows<G>(
        &mut self,
        layer: &Layer<'_>,
        i: usize,
        like: View<'_>,
        of: &[Given<G>],
        pick: impl Fn(&Given<G>) -> &[f32],
    ) -> Array {
        let room = &mut self.0[i];
        if room.size == 0 {
            return layer.rows(of, like, room.width, pick);
        }
        assert_eq!(*room.written.get_mut(), room.size, "elements of a gradient");
        let (mut values, size) = (std::mem::take(&mut room.values), std::mem::take(&mut room.size));
        // SAFETY: as much was reserved, and by the promise of `Sink::put` every place has put its rows.
        unsafe { values.set_len(size) };
        Array::new(values, like.shape)
    }
}

/// Where the gradient of an input goes, place by place.
pub struct Sink<'a> {
    out: Option<Disjoint<'a, MaybeUninit<f32>>>,
    row: usize,
    width: usize,
    tokens: usize,
    written: &'a AtomicUsize,
}

impl Sink<'_> {
    /// Writes a place's rows and empties them; leaves them to [`Rooms::rows`] where heads share.
    ///
    /// # Safety
    /// A place is put once, by one thread.
    ///
    /// # Panics
    /// When these are not the rows of all its tokens.
    pub unsafe fn put(&self, place: &Place, rows: &mut Vec<f32>) {
        let Some(out) = &self.out else { return };
        assert_eq!(rows.len(), place.tokens.len() * self.width, "rows of a place");
        for (t, row) in place.tokens.clone().zip(rows.chunks_exact(self.width)) {
            let at = (place.b * self.tokens + t) * self.row + place.h * self.width;
            // SAFETY: by the caller; its rows belong to no other place.
            unsafe { out.slice(at..at + self.width) }.write_copy_of_slice(row);
        }
        // Joining the threads is what makes the rows visible; this only counts them.
        self.written.fetch_add(rows.len(), Ordering::Relaxed);
        *rows = Vec::new();
    }
}

/// What the backward pass of one place gives.
pub struct Given<G> {
    /// What its chain rule made of the gradients of the recurrence's inputs.
    pub of: G,
    /// Gradient of the gate.
    pub gate: Vec<f32>,
    /// Gradient of the state before it.
    state: Vec<f32>,
}

impl<'a> Layer<'a> {
    /// `r` is `[B, T, H, K]`, `value` the width V of values.
    pub fn new(options: &'a Options, r: View<'a>, value: usize, gate: View<'a>, state: View<'a>) -> Self {
        let [batch, tokens, heads, key] = r.shape.try_into().expect("r is [B, T, H, K]");
        assert!(tokens > 0, "a recurrence over no tokens");
        assert!(options.states != States::Every(0), "states after every 0 tokens");
        Self { dims: Dims { batch, tokens, heads, key, value }, options, gate, state }
    }

    fn size(&self) -> usize {
        self.dims.key * self.dims.value
    }

    /// Number of outputs; the final states stand behind them.
    fn outputs(&self) -> usize {
        self.dims.batch * self.dims.tokens * self.dims.heads * self.dims.value
    }

    fn chunk(&self) -> Option<usize> {
        let chunk = self.options.settings.form.chunk(self.dims.tokens);
        match self.options.states {
            // Never token by token: that way back knows the state before the first token alone.
            States::Every(every) if every < self.dims.tokens => Some(chunk.unwrap_or(DEFAULT_CHUNK).min(every)),
            _ => chunk,
        }
    }

    /// Tokens a segment: whole chunks; everything where there are none. States that are wanted stand
    /// between segments.
    fn segment(&self) -> usize {
        if let States::Every(every) = self.options.states
            && every < self.dims.tokens
        {
            return every;
        }
        self.chunk().map_or(self.dims.tokens, |chunk| chunk * (SEGMENT / chunk).max(1)).max(1)
    }

    /// How many states of a pair are part of the output.
    fn given_states(&self) -> usize {
        match self.options.states {
            States::Nothing => 0,
            States::Last => 1,
            States::Every(every) => self.dims.tokens.div_ceil(every),
        }
    }

    /// Where the state after a place stands in the output, if it does.
    fn state_after(&self, place: &Place) -> Option<Range<usize>> {
        let (end, last) = (place.tokens.end, place.tokens.end == self.dims.tokens);
        let index = match self.options.states {
            States::Every(every) if last || end.is_multiple_of(every) => (end - 1) / every,
            States::Last if last => 0,
            _ => return None,
        };
        let first = self.outputs() + ((place.b * self.given_states() + index) * self.dims.heads + place.h) * self.size();
        Some(first..first + self.size())
    }

    /// Places of a pair, in order.
    fn places(&self, pair: usize) -> Vec<Place> {
        let (b, h) = self.dims.pair(pair);
        let (tokens, segment) = (self.dims.tokens, self.segment());
        (0..tokens).step_by(segment).map(|t| Place { b, h, tokens: t..(t + segment).min(tokens) }).collect()
    }

    /// Heads of an input `[B, T, heads, width]`, whatever its shape says; 0 when it is absent.
    fn heads_of(&self, x: View<'_>, width: usize) -> usize {
        x.data.len() / (self.dims.batch * self.dims.tokens * width).max(1)
    }

    /// A place's rows of an input whose heads are shared by consecutive query heads; nothing of an
    /// absent input.
    pub fn gather(&self, x: View<'_>, width: usize, place: &Place) -> Vec<f32> {
        let heads = self.heads_of(x, width);
        if heads == 0 {
            return Vec::new();
        }
        let shared = place.h / (self.dims.heads / heads);
        let mut out = Vec::with_capacity(place.tokens.len() * width);
        let row = |t: usize| &x.data[((place.b * self.dims.tokens + t) * heads + shared) * width..][..width];
        for t in place.tokens.clone() {
            if t + AHEAD < place.tokens.end {
                prefetch(row(t + AHEAD));
            }
            out.extend_from_slice(row(t));
        }
        out
    }

    /// Channels of head `h` of a parameter `[H K]`; nothing of an absent one.
    pub fn channels(&self, x: View<'a>, h: usize) -> &'a [f32] {
        let n = self.dims.key;
        if x.data.is_empty() { x.data } else { &x.data[h * n..(h + 1) * n] }
    }

    /// Document starts of a place.
    pub fn starts(&self, place: &Place) -> Option<&[bool]> {
        let first = place.b * self.dims.tokens;
        self.options.settings.starts.as_ref().map(|s| &s[first + place.tokens.start..first + place.tokens.end])
    }

    fn state_of(&self, pair: usize) -> &[f32] {
        &self.state.data[pair * self.size()..(pair + 1) * self.size()]
    }

    /// Puts the places' rows (in order) back into `[B, T, heads, width]`, adding up heads that share.
    fn scatter(&self, parts: &[&[f32]], heads: usize, width: usize) -> Vec<f32> {
        let (tokens, segment) = (self.dims.tokens, self.segment());
        let (group, segments) = (self.dims.heads / heads, tokens.div_ceil(segment));
        let row = heads * width;
        // Blocks of tokens, so that a single sequence is shared out too.
        const BLOCK: usize = 64;
        written(self.dims.batch * tokens * row, |out| {
            let mut slices = Vec::with_capacity(self.dims.batch * tokens.div_ceil(BLOCK));
            for (b, sequence) in out.chunks_mut((tokens * row).max(1)).enumerate() {
                slices.extend(sequence.chunks_mut(BLOCK * row).enumerate().map(|(i, rows)| (b, i * BLOCK, rows)));
            }
            slices.into_par_iter().for_each(|(b, start, rows)| {
                for (t, row) in rows.chunks_mut(row).enumerate() {
                    let (part, at) = ((start + t) / segment, (start + t) % segment * width);
                    for (h, to) in row.chunks_mut(width).enumerate() {
                        let source = |i: usize| {
                            let pair = b * self.dims.heads + h * group + i;
                            &parts[pair * segments + part][at..at + width]
                        };
                        let to = to.write_copy_of_slice(source(0));
                        for i in 1..group {
                            to.iter_mut().zip(source(i)).for_each(|(to, x)| *to += x);
                        }
                    }
                }
            });
        })
    }

    /// Outputs and final states. Saved are, for every place in order, the states at its chunks'
    /// starts and after the last, `[K, V]` each, and behind them the outputs without gate and scale,
    /// if there is a gate.
    pub fn forward(&self, prepare: impl Fn(&Place) -> Head + Sync) -> (Array, Array) {
        let (dims, options, size) = (self.dims, self.options, self.size());
        let (pairs, outputs, row) = (dims.batch * dims.heads, self.outputs(), dims.heads * dims.value);
        let states = self.saved_states() * size;
        let gated = !self.gate.data.is_empty();
        let keeps = options.save && gated;
        let packed_size = outputs + pairs * self.given_states() * size;
        let saved_size = if options.save { pairs * states + if gated { outputs } else { 0 } } else { 0 };
        let run = |to: Disjoint<'_, MaybeUninit<f32>>, to_saved: Disjoint<'_, MaybeUninit<f32>>| {
            (0..pairs).into_par_iter().for_each(|pair| {
                let mut current = self.state_of(pair).to_vec();
                let mut starts = pair * states;
                for place in self.places(pair) {
                    let head = prepare(&place);
                    let dims = Dims { tokens: place.tokens.len(), ..dims };
                    let y = match self.chunk() {
                        None => recurrent::forward(&dims, &head, &mut current),
                        Some(chunk) if options.save => {
                            let end = starts + self.states_of(place.tokens.len()) * size;
                            // SAFETY: states of this pair, written by nobody else.
                            let own = unsafe { to_saved.slice(starts..end) };
                            starts = end;
                            chunked::forward(&dims, &head, &mut current, chunk, own)
                        }
                        Some(chunk) => chunked::forward(&dims, &head, &mut current, chunk, &mut []),
                    };
                    for (t, y) in place.tokens.clone().zip(y.chunks_exact(dims.value)) {
                        let at = (place.b * self.dims.tokens + t) * row + place.h * dims.value;
                        let own = at..at + dims.value;
                        // SAFETY: a row of this pair.
                        let out = unsafe { to.slice(own.clone()) }.write_copy_of_slice(y);
                        if keeps {
                            let from = pairs * states;
                            // SAFETY: as above.
                            unsafe { to_saved.slice(from + own.start..from + own.end) }.write_copy_of_slice(y);
                        }
                        finish(out, if gated { &self.gate.data[own] } else { &[] }, options.settings.scale);
                    }
                    if let Some(after) = self.state_after(&place) {
                        // SAFETY: a state of this pair.
                        unsafe { to.slice(after) }.write_copy_of_slice(&current);
                    }
                }
            })
        };
        let mut saved = Vec::new();
        let packed = written(packed_size, |packed| {
            saved = written(saved_size, |saved| run(Disjoint::new(packed), Disjoint::new(saved)));
        });
        (Array::new(packed, &[packed_size]), Array::new(saved, &[saved_size]))
    }

    /// States that the backward pass wants of a place of `tokens`.
    fn states_of(&self, tokens: usize) -> usize {
        self.chunk().map_or(0, |chunk| tokens.div_ceil(chunk) + 1)
    }

    /// The same of all places of a pair.
    fn saved_states(&self) -> usize {
        self.places(0).iter().map(|place| self.states_of(place.tokens.len())).sum()
    }

    /// Gate and scale on whole outputs, which are large only where they were made in blocks.
    pub(super) fn finish(&self, outputs: &mut [f32]) {
        finish(outputs, self.gate.data, self.options.settings.scale);
    }

    /// Gradients of every place, in order, each taken once: `prepare` gives what the chain rule needs beside the
    /// recurrence's inputs, `chain` applies it to the gradients of those.
    pub fn backward<R, G: Send>(
        &self,
        saved: View<'_>,
        gradient: View<'_>,
        prepare: impl Fn(&Place) -> (R, Head) + Sync,
        gate: Option<&Sink<'_>>,
        chain: impl Fn(&Place, R, HeadGradients) -> G + Sync,
    ) -> Vec<Given<G>> {
        let (dims, size, settings) = (self.dims, self.size(), &self.options.settings);
        let pairs = dims.batch * dims.heads;
        let outputs = self.outputs();
        let gated = !self.gate.data.is_empty();
        let (starts, ungated) = saved.data.split_at(saved.data.len() - if gated { outputs } else { 0 });
        let like_outputs = |data| View { data, shape: &[] };
        let run = |pair: usize| -> Vec<Given<G>> {
            let mut d_state = vec![0.0; size];
            let mut starts = &starts[pair * (starts.len() / pairs)..(pair + 1) * (starts.len() / pairs)];
            let mut out = Vec::new();
            for place in self.places(pair).into_iter().rev() {
                if let Some(after) = self.state_after(&place) {
                    d_state.iter_mut().zip(&gradient.data[after]).for_each(|(d, given)| *d += given);
                }
                let (raw, head) = prepare(&place);
                let mut d_y = self.gather(like_outputs(&gradient.data[..outputs]), dims.value, &place);
                let mut d_gate = Vec::new();
                if gated {
                    d_gate = self.gather(like_outputs(ungated), dims.value, &place);
                    finish(&mut d_gate, &d_y, settings.scale);
                    if let Some(sink) = gate {
                        // SAFETY: a pair's places are taken by one thread, each once.
                        unsafe { sink.put(&place, &mut d_gate) };
                    }
                }
                finish(&mut d_y, &self.gather(self.gate, dims.value, &place), settings.scale);
                let dims = Dims { tokens: place.tokens.len(), ..dims };
                let mut of = match self.chunk() {
                    None => recurrent::backward(&dims, &head, self.state_of(pair), &d_y, d_state),
                    Some(chunk) => {
                        let own;
                        (starts, own) = starts.split_at(starts.len() - (dims.tokens.div_ceil(chunk) + 1) * size);
                        chunked::backward(&dims, &head, own, &d_y, d_state, chunk)
                    }
                };
                d_state = std::mem::take(&mut of.state);
                let state = if place.tokens.start == 0 { d_state.clone() } else { Vec::new() };
                out.push(Given { of: chain(&place, raw, of), gate: d_gate, state });
            }
            out.reverse();
            out
        };
        (0..pairs).into_par_iter().map(run).collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Joins the places' gradients of an input `like` with rows of `width`.
    fn rows<G>(&self, of: &[Given<G>], like: View<'_>, width: usize, pick: impl Fn(&Given<G>) -> &[f32]) -> Array {
        let parts: Vec<&[f32]> = of.iter().map(pick).collect();
        Array::new(self.scatter(&parts, self.heads_of(like, width), width), like.shape)
    }

    /// Adds up the places' gradients of a parameter `[H K]`.
    pub fn sums<G>(&self, of: &[Given<G>], like: View<'_>, pick: impl Fn(&G) -> &[f32]) -> Array {
        let n = self.dims.key;
        let segments = self.dims.tokens.div_ceil(self.segment());
        let mut out = vec![0.0; like.data.len()];
        for (index, given) in of.iter().enumerate() {
            let (_, h) = self.dims.pair(index / segments);
            for (sum, x) in out[h * n..].iter_mut().zip(pick(&given.of)) {
                *sum += x;
            }
        }
        Array::new(out, like.shape)
    }

    /// Joins the gradients of the initial states.
    pub fn states<G>(&self, of: &[Given<G>]) -> Array {
        Array::new(of.iter().flat_map(|g| g.state.iter().copied()).collect(), self.state.shape)
    }
}

simd! {
    // y *= scale * gate, where a gate is given.
    fn finish(y: &mut [f32], gate: &[f32], scale: f32) {
        if gate.is_empty() {
            if scale == 1.0 {
                return;
            }
            for y in y {
                *y *= scale;
            }
        } else {
            for (y, gate) in y.iter_mut().zip(gate) {
                *y *= scale * gate;
            }
        }
    }
}
