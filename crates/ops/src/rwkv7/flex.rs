//! CPU: head by head over the thread pool.

use super::Options;
use super::head::{Channels, Raw, RawGradients, chain, prepare};
use crate::cpu::{Array, View, simd};
use crate::delta_rule::heads::Dims;
use crate::delta_rule::{chunked, recurrent};
use rayon::prelude::*;

type Inputs<'a> = [View<'a>; 14];

/// Sizes, and the inputs' rows of each head.
struct Layer<'a> {
    dims: Dims,
    inputs: Inputs<'a>,
    options: &'a Options,
}

impl<'a> Layer<'a> {
    fn new(options: &'a Options, inputs: Inputs<'a>) -> Self {
        let [batch, tokens, heads, key] = inputs[0].shape.try_into().expect("r is [B, T, H, N]");
        Self { dims: Dims { batch, tokens, heads, key, value: key }, inputs, options }
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
    fn gather(&self, x: View<'_>, b: usize, h: usize) -> Vec<f32> {
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

    fn raw(&self, b: usize, h: usize) -> Raw {
        let [r, decay, iclr, k, v, _, _, first, mix, ..] = self.inputs.map(Some);
        let of = |x: Option<View<'_>>| x.map_or_else(Vec::new, |x| self.gather(x, b, h));
        Raw { r: of(r), decay: of(decay), iclr: of(iclr), k: of(k), v: of(v), first: of(first), mix: of(mix) }
    }

    fn channels(&self, h: usize) -> Channels<'a> {
        let n = self.dims.key;
        let of = |x: View<'a>| if x.data.is_empty() { x.data } else { &x.data[h * n..(h + 1) * n] };
        let [_, _, _, _, _, decay, iclr, _, _, mix, k_k, k_a, ..] = self.inputs;
        Channels { decay: of(decay), iclr: of(iclr), k_k: of(k_k), k_a: of(k_a), mix: of(mix) }
    }

    fn starts(&self, b: usize) -> Option<&[bool]> {
        let tokens = self.dims.tokens;
        self.options.settings.starts.as_ref().map(|s| &s[b * tokens..(b + 1) * tokens])
    }

    fn state(&self, index: usize) -> &[f32] {
        &self.inputs[13].data[index * self.size()..(index + 1) * self.size()]
    }

    /// Puts per-head rows back into `[B, T, heads, N]`, adding up heads that share.
    fn scatter(&self, parts: &[&[f32]], heads: usize) -> Vec<f32> {
        let (n, tokens) = (self.dims.key, self.dims.tokens);
        let group = self.dims.heads / heads;
        let mut out = vec![0.0; self.dims.batch * tokens * heads * n];
        let row = heads * n;
        // Blocks of tokens, so that a single sequence is shared out too.
        const BLOCK: usize = 64;
        let blocks = tokens.div_ceil(BLOCK);
        let mut slices = Vec::with_capacity(self.dims.batch * blocks);
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
}

/// Outputs and final states; saved are the states at the chunks' starts, `[B * H, chunks + 1, N, N]`,
/// and behind them the outputs without gate and scale, if there is a gate.
pub fn forward(options: &Options, inputs: Inputs<'_>) -> (Array, Array) {
    let layer = Layer::new(options, inputs);
    let (dims, size) = (layer.dims, layer.size());
    let results: Vec<(Vec<f32>, Vec<f32>, Vec<f32>)> = (0..dims.batch * dims.heads)
        .into_par_iter()
        .map(|index| {
            let (b, h) = dims.pair(index);
            let head = prepare(&layer.raw(b, h), layer.channels(h), layer.starts(b));
            let mut current = layer.state(index).to_vec();
            match options.settings.form.chunk(dims.tokens) {
                None => {
                    let outputs = recurrent::forward(&dims, &head, &mut current);
                    (outputs, current, Vec::new())
                }
                Some(chunk) => {
                    let mut starts = Vec::new();
                    let save = options.save.then_some(&mut starts);
                    let outputs = chunked::forward(&dims, &head, &mut current, chunk, save);
                    (outputs, current, starts)
                }
            }
        })
        .collect();

    let parts: Vec<&[f32]> = results.iter().map(|x| x.0.as_slice()).collect();
    let mut packed = layer.scatter(&parts, dims.heads);
    let outputs = packed.len();
    let gate = layer.inputs[12].data;
    let mut saved: Vec<f32> = Vec::new();
    if options.save {
        saved.reserve(results.iter().map(|x| x.2.len()).sum::<usize>() + gate.len());
        results.iter().for_each(|x| saved.extend_from_slice(&x.2));
        if !gate.is_empty() {
            saved.extend_from_slice(&packed);
        }
    }
    let width = dims.heads * dims.key;
    packed.par_chunks_mut((64 * width).max(1)).enumerate().for_each(|(i, y)| {
        let gate = gate.get(i * 64 * width..).map(|gate| &gate[..y.len().min(gate.len())]).unwrap_or(&[]);
        finish(y, gate, options.settings.scale);
    });
    if options.final_state {
        packed.reserve_exact(results.len() * size);
        results.iter().for_each(|x| packed.extend_from_slice(&x.1));
    }
    debug_assert_eq!(outputs, layer.outputs());
    let (packed_size, saved_size) = (packed.len(), saved.len());
    (Array::new(packed, &[packed_size]), Array::new(saved, &[saved_size]))
}

pub fn backward(
    options: &Options,
    needs: [bool; 14],
    inputs: Inputs<'_>,
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 14] {
    let layer = Layer::new(options, inputs);
    let (dims, size) = (layer.dims, layer.size());
    let pairs = dims.batch * dims.heads;
    let outputs = layer.outputs();
    let gated = !inputs[12].data.is_empty();
    let (starts, ungated) = saved.data.split_at(saved.data.len() - if gated { outputs } else { 0 });
    let like_r = |data| View { data, shape: inputs[0].shape };
    let d_out = like_r(&gradient.data[..outputs]);

    // Per head: gradients of everything, and of the gate.
    let results: Vec<(RawGradients, Vec<f32>)> = (0..pairs)
        .into_par_iter()
        .map(|index| {
            let (b, h) = dims.pair(index);
            let (raw, channels, flags) = (layer.raw(b, h), layer.channels(h), layer.starts(b));
            let head = prepare(&raw, channels, flags);
            let mut d_y = layer.gather(d_out, b, h);
            let mut d_gate = Vec::new();
            if gated {
                d_gate = layer.gather(like_r(ungated), b, h);
                finish(&mut d_gate, &d_y, options.settings.scale);
            }
            finish(&mut d_y, &layer.gather(inputs[12], b, h), options.settings.scale);
            let d_final = if options.final_state {
                gradient.data[outputs + index * size..outputs + (index + 1) * size].to_vec()
            } else {
                vec![0.0; size]
            };
            let of = match options.settings.form.chunk(dims.tokens) {
                None => recurrent::backward(&dims, &head, layer.state(index), &d_y, d_final),
                Some(chunk) => {
                    let each = starts.len() / pairs;
                    chunked::backward(&dims, &head, &starts[index * each..(index + 1) * each], &d_y, d_final, chunk)
                }
            };
            (chain(&raw, channels, flags, of), d_gate)
        })
        .collect();

    let rows = |input: usize, pick: fn(&(RawGradients, Vec<f32>)) -> &[f32]| {
        needs[input].then(|| {
            let like = inputs[input];
            let parts: Vec<&[f32]> = results.iter().map(pick).collect();
            Array::new(layer.scatter(&parts, layer.heads_of(like)), like.shape)
        })
    };
    let channels = |input: usize, pick: fn(&RawGradients) -> &[f32]| {
        needs[input].then(|| {
            let mut out = vec![0.0; inputs[input].data.len()];
            for (index, (result, _)) in results.iter().enumerate() {
                let (_, h) = dims.pair(index);
                for (sum, x) in out[h * dims.key..].iter_mut().zip(pick(result)) {
                    *sum += x;
                }
            }
            Array::new(out, inputs[input].shape)
        })
    };
    let state = needs[13]
        .then(|| Array::new(results.iter().flat_map(|(g, _)| g.state.iter().copied()).collect(), inputs[13].shape));
    [
        rows(0, |x| &x.0.raw.r),
        rows(1, |x| &x.0.raw.decay),
        rows(2, |x| &x.0.raw.iclr),
        rows(3, |x| &x.0.raw.k),
        rows(4, |x| &x.0.raw.v),
        channels(5, |x| &x.channels.decay),
        channels(6, |x| &x.channels.iclr),
        rows(7, |x| &x.0.raw.first),
        rows(8, |x| &x.0.raw.mix),
        channels(9, |x| &x.channels.mix),
        channels(10, |x| &x.channels.k_k),
        channels(11, |x| &x.channels.k_a),
        rows(12, |x| &x.1),
        state,
    ]
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
