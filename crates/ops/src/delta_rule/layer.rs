//! Layers around a recurrence: per-head work that turns projections into its inputs, the
//! recurrence, a scale and a gate on its outputs. [`crate::rwkv6`] and [`crate::rwkv7`] give the
//! per-head functions.

use super::heads::{Dims, Head, HeadGradients};
use super::{Form, chunked, recurrent};
use crate::cpu::{Array, View, simd};
use rayon::prelude::*;
use std::sync::Arc;

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

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    pub settings: Settings,
    /// Whether a backward pass may follow.
    pub save: bool,
    /// Whether the final state is part of the output.
    pub final_state: bool,
}

/// Sizes and what every such layer has.
pub struct Layer<'a> {
    pub dims: Dims,
    pub options: &'a Options,
    /// As it multiplies, `[B, T, H, N]`, or empty.
    pub gate: View<'a>,
    /// `[B, H, N, N]`.
    pub state: View<'a>,
}

/// What the backward pass of one head gives, beside what its chain rule gives.
pub struct Given<G> {
    pub of: G,
    pub gate: Vec<f32>,
    pub state: Vec<f32>,
}

impl<'a> Layer<'a> {
    /// `r` is `[B, T, H, N]`.
    pub fn new(options: &'a Options, r: View<'a>, gate: View<'a>, state: View<'a>) -> Self {
        let [batch, tokens, heads, key] = r.shape.try_into().expect("r is [B, T, H, N]");
        Self { dims: Dims { batch, tokens, heads, key, value: key }, options, gate, state }
    }

    fn size(&self) -> usize {
        self.dims.key * self.dims.key
    }

    /// Number of outputs; the final states stand behind them.
    fn outputs(&self) -> usize {
        self.dims.batch * self.dims.tokens * self.dims.heads * self.dims.key
    }

    /// Heads of an input `[B, T, heads, N]`, whatever its shape says; 0 when it is absent.
    fn heads_of(&self, x: View<'_>) -> usize {
        x.data.len() / (self.dims.batch * self.dims.tokens * self.dims.key).max(1)
    }

    /// Rows of query head `h` of sequence `b`; nothing of an absent input.
    pub fn gather(&self, x: View<'_>, b: usize, h: usize) -> Vec<f32> {
        let heads = self.heads_of(x);
        if heads == 0 {
            return Vec::new();
        }
        let (n, tokens) = (self.dims.key, self.dims.tokens);
        let shared = h / (self.dims.heads / heads);
        let mut out = Vec::with_capacity(tokens * n);
        for t in 0..tokens {
            out.extend_from_slice(&x.data[((b * tokens + t) * heads + shared) * n..][..n]);
        }
        out
    }

    /// Channels of head `h` of a parameter `[H N]`; nothing of an absent one.
    pub fn channels(&self, x: View<'a>, h: usize) -> &'a [f32] {
        let n = self.dims.key;
        if x.data.is_empty() { x.data } else { &x.data[h * n..(h + 1) * n] }
    }

    /// Document starts of sequence `b`.
    pub fn starts(&self, b: usize) -> Option<&[bool]> {
        let tokens = self.dims.tokens;
        self.options.settings.starts.as_ref().map(|s| &s[b * tokens..(b + 1) * tokens])
    }

    fn state_of(&self, index: usize) -> &[f32] {
        &self.state.data[index * self.size()..(index + 1) * self.size()]
    }

    /// Puts per-head rows back into `[B, T, heads, N]`, adding up heads that share.
    fn scatter(&self, parts: &[&[f32]], heads: usize) -> Vec<f32> {
        let (n, tokens) = (self.dims.key, self.dims.tokens);
        let group = self.dims.heads / heads;
        let mut out = vec![0.0; self.dims.batch * tokens * heads * n];
        let row = heads * n;
        // Blocks of tokens, so that a single sequence is shared out too.
        const BLOCK: usize = 64;
        let mut slices = Vec::with_capacity(self.dims.batch * tokens.div_ceil(BLOCK));
        for (b, sequence) in out.chunks_mut((tokens * row).max(1)).enumerate() {
            slices.extend(sequence.chunks_mut(BLOCK * row).enumerate().map(|(i, rows)| (b, i * BLOCK, rows)));
        }
        slices.into_par_iter().for_each(|(b, start, rows)| {
            for (t, row) in rows.chunks_mut(row).enumerate() {
                for (h, to) in row.chunks_mut(n).enumerate() {
                    let source = |i: usize| &parts[b * self.dims.heads + h * group + i][(start + t) * n..][..n];
                    to.copy_from_slice(source(0));
                    for i in 1..group {
                        to.iter_mut().zip(source(i)).for_each(|(to, x)| *to += x);
                    }
                }
            }
        });
        out
    }

    /// Outputs and final states; saved are the states at the chunks' starts, `[B * H, chunks + 1,
    /// N, N]`, and behind them the outputs without gate and scale, if there is a gate.
    pub fn forward(&self, prepare: impl Fn(usize, usize) -> Head + Sync) -> (Array, Array) {
        let (dims, options) = (self.dims, self.options);
        let results: Vec<(Vec<f32>, Vec<f32>, Vec<f32>)> = (0..dims.batch * dims.heads)
            .into_par_iter()
            .map(|index| {
                let (b, h) = dims.pair(index);
                let head = prepare(b, h);
                let mut current = self.state_of(index).to_vec();
                match options.settings.form.chunk(dims.tokens) {
                    None => (recurrent::forward(&dims, &head, &mut current), current, Vec::new()),
                    Some(chunk) => {
                        let mut starts = Vec::new();
                        let save = options.save.then_some(&mut starts);
                        (chunked::forward(&dims, &head, &mut current, chunk, save), current, starts)
                    }
                }
            })
            .collect();

        let parts: Vec<&[f32]> = results.iter().map(|x| x.0.as_slice()).collect();
        let mut packed = self.scatter(&parts, dims.heads);
        let gate = self.gate.data;
        let mut saved: Vec<f32> = Vec::new();
        if options.save {
            saved.reserve_exact(results.iter().map(|x| x.2.len()).sum::<usize>() + gate.len());
            results.iter().for_each(|x| saved.extend_from_slice(&x.2));
            if !gate.is_empty() {
                saved.extend_from_slice(&packed);
            }
        }
        let block = (64 * dims.heads * dims.key).max(1);
        packed.par_chunks_mut(block).enumerate().for_each(|(i, y)| {
            let gate = if gate.is_empty() { gate } else { &gate[i * block..][..y.len()] };
            finish(y, gate, options.settings.scale);
        });
        if options.final_state {
            packed.reserve_exact(results.len() * self.size());
            results.iter().for_each(|x| packed.extend_from_slice(&x.1));
        }
        let (packed_size, saved_size) = (packed.len(), saved.len());
        (Array::new(packed, &[packed_size]), Array::new(saved, &[saved_size]))
    }

    /// Gradients of every head, in order: `prepare` gives what the chain rule needs beside the
    /// recurrence's inputs, `chain` applies it to the gradients of those (and leaves that of the
    /// state).
    pub fn backward<R, G: Send>(
        &self,
        saved: View<'_>,
        gradient: View<'_>,
        prepare: impl Fn(usize, usize) -> (R, Head) + Sync,
        chain: impl Fn(usize, usize, R, &mut HeadGradients) -> G + Sync,
    ) -> Vec<Given<G>> {
        let (dims, size, settings) = (self.dims, self.size(), &self.options.settings);
        let pairs = dims.batch * dims.heads;
        let outputs = self.outputs();
        let gated = !self.gate.data.is_empty();
        let (starts, ungated) = saved.data.split_at(saved.data.len() - if gated { outputs } else { 0 });
        let shape = [dims.batch, dims.tokens, dims.heads, dims.key];
        let like_outputs = |data| View { data, shape: &shape };
        (0..pairs)
            .into_par_iter()
            .map(|index| {
                let (b, h) = dims.pair(index);
                let (raw, head) = prepare(b, h);
                let mut d_y = self.gather(like_outputs(&gradient.data[..outputs]), b, h);
                let mut gate = Vec::new();
                if gated {
                    gate = self.gather(like_outputs(ungated), b, h);
                    finish(&mut gate, &d_y, settings.scale);
                }
                finish(&mut d_y, &self.gather(self.gate, b, h), settings.scale);
                let d_final = if self.options.final_state {
                    gradient.data[outputs + index * size..outputs + (index + 1) * size].to_vec()
                } else {
                    vec![0.0; size]
                };
                let mut of = match settings.form.chunk(dims.tokens) {
                    None => recurrent::backward(&dims, &head, self.state_of(index), &d_y, d_final),
                    Some(chunk) => {
                        let each = starts.len() / pairs;
                        chunked::backward(&dims, &head, &starts[index * each..(index + 1) * each], &d_y, d_final, chunk)
                    }
                };
                let state = std::mem::take(&mut of.state);
                Given { of: chain(b, h, raw, &mut of), gate, state }
            })
            .collect()
    }

    /// Joins the heads' gradients of an input `like`.
    pub fn rows<G>(&self, of: &[Given<G>], like: View<'_>, pick: impl Fn(&Given<G>) -> &[f32]) -> Array {
        let parts: Vec<&[f32]> = of.iter().map(pick).collect();
        Array::new(self.scatter(&parts, self.heads_of(like)), like.shape)
    }

    /// Adds up the heads' gradients of a parameter `[H N]`.
    pub fn sums<G>(&self, of: &[Given<G>], like: View<'_>, pick: impl Fn(&G) -> &[f32]) -> Array {
        let n = self.dims.key;
        let mut out = vec![0.0; like.data.len()];
        for (index, given) in of.iter().enumerate() {
            let (_, h) = self.dims.pair(index);
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
