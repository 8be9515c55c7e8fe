//! GPU: the recurrence's kernels between two of our own, which make its inputs from the projections, a few
//! lanes a head, and take their gradients back in place. What they made is made again for the backward pass:
//! that is cheaper than to keep it.

use super::{DECAY_RANGE, Options};
use crate::cube::{
    CubeTensor, Together, UNITS, by_lanes, elementwise, flags, lanes, or_nothing, repeat_heads, reshaped, room, sum_heads,
    sum_lanes, sum_rows,
};
use crate::delta_rule::END;
use crate::delta_rule::cube::{self as recurrence, Inputs};
use crate::key_norm::SHORTEST;
use cubecl::prelude::*;

type Tensors = [CubeTensor; 14];

/// The operator's inputs, and what they say of the layer.
#[derive(Clone)]
struct Layer {
    r: CubeTensor,
    decay: CubeTensor,
    iclr: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    decay_bias: CubeTensor,
    iclr_bias: CubeTensor,
    first: CubeTensor,
    mix: CubeTensor,
    mix_bias: CubeTensor,
    k_k: CubeTensor,
    k_a: CubeTensor,
    gate: Option<CubeTensor>,
    state: CubeTensor,
    starts: CubeTensor,
    documents: bool,
    residual: bool,
    stock: bool,
    /// `[B, T, H, N]`.
    shape: [usize; 4],
    /// Heads of keys and values, and of the first layer's values.
    groups: usize,
    first_groups: usize,
}

impl Layer {
    fn of(options: &Options, inputs: Tensors) -> Self {
        let [r, decay, iclr, k, v, decay_bias, iclr_bias, first, mix, mix_bias, k_k, k_a, gate, state] = inputs;
        let shape: [usize; 4] = r.meta.shape().as_slice().try_into().expect("the operator learns its sizes from r");
        let [b, t, _, n] = shape;
        let heads_of = |x: &CubeTensor| x.meta.num_elements() / (b * t * n).max(1);
        let (groups, first_groups) = (heads_of(&k), heads_of(&first));
        let (starts, documents) = flags(&r, options.settings.starts.as_deref());
        let ((first, residual), (mix, _), (mix_bias, _)) = (or_nothing(first), or_nothing(mix), or_nothing(mix_bias));
        let ((k_k, stock), (k_a, _)) = (or_nothing(k_k), or_nothing(k_a));
        let gate = (gate.meta.num_elements() > 0).then(|| reshaped(gate, &shape));
        Self {
            r,
            decay,
            iclr,
            k,
            v,
            decay_bias,
            iclr_bias,
            first,
            mix,
            mix_bias,
            k_k,
            k_a,
            gate,
            state,
            starts,
            documents,
            residual,
            stock,
            shape,
            groups,
            first_groups,
        }
    }

    /// (Token, head) pairs.
    fn rows(&self) -> usize {
        self.shape[..3].iter().product()
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The delta rule's inputs.
    fn prepared(&self) -> Inputs {
        let (client, size) = (self.r.client.clone(), self.shape[3]);
        let mut parts = Together::default();
        let [logw, k, a, b] = [(); 4].map(|()| parts.add(&self.shape));
        let out = parts.room(&self.r);
        let lanes = lanes(size);
        let (count, dim) = by_lanes(self.rows(), lanes);
        keys::launch(
            &client,
            count,
            dim,
            self.decay.clone().into_tensor_arg(),
            self.iclr.clone().into_tensor_arg(),
            self.k.clone().into_tensor_arg(),
            self.decay_bias.clone().into_tensor_arg(),
            self.iclr_bias.clone().into_tensor_arg(),
            self.k_k.clone().into_tensor_arg(),
            self.k_a.clone().into_tensor_arg(),
            self.starts.clone().into_tensor_arg(),
            out.clone().into_tensor_arg(),
            logw,
            k,
            a,
            b,
            self.rows() as u32,
            self.shape[2] as u32,
            self.groups as u32,
            size as u32,
            lanes,
            self.stock,
            self.documents,
        );
        let mut parts = parts.parts(&out);
        let mut next = || parts.next().expect("one part for every array that was added");
        let (logw, k, a, b) = (next(), next(), next(), next());
        Inputs {
            r: self.r.clone(),
            logw,
            k,
            v: self.values(),
            ab: Some((a, b)),
            state: self.state.clone(),
            gate: self.gate.clone(),
        }
    }

    /// Values of every head, the first layer's mixed in.
    fn values(&self) -> CubeTensor {
        if !self.residual {
            return repeat_heads(self.v.clone(), self.groups, &self.shape);
        }
        let out = room(&self.r, &self.shape);
        let (count, dim) = elementwise(self.elements());
        values::launch(
            &self.r.client.clone(),
            count,
            dim,
            self.v.clone().into_tensor_arg(),
            self.first.clone().into_tensor_arg(),
            self.mix.clone().into_tensor_arg(),
            self.mix_bias.clone().into_tensor_arg(),
            out.clone().into_tensor_arg(),
            self.elements() as u32,
            self.shape[2] as u32,
            self.groups as u32,
            self.first_groups as u32,
            self.shape[3] as u32,
        );
        out
    }
}

pub fn forward(options: &Options, inputs: Tensors) -> (CubeTensor, CubeTensor) {
    recurrence::run(options, Layer::of(options, inputs).prepared())
}

pub fn backward(
    options: &Options,
    _: [bool; 14],
    inputs: Tensors,
    _output: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
) -> [Option<CubeTensor>; 14] {
    let shapes = inputs.each_ref().map(|x| x.meta.shape().to_vec());
    let layer = Layer::of(options, inputs);
    let client = layer.r.client.clone();
    let [_, _, heads, size] = layer.shape;
    let channels = [heads * size];
    let (all, none): (&[usize], &[usize]) = (&layer.shape, &[0]);
    // Of k_a before its sum over tokens; of the first layer's values and of the mix before its sigmoid.
    let reserved =
        [if layer.stock { all } else { none }, if layer.residual { all } else { none }, if layer.residual { all } else { none }];
    let of = recurrence::gradients(options, layer.prepared(), saved, gradient, reserved);
    let at = of.at;
    let lanes = lanes(size);
    let (count, dim) = by_lanes(layer.rows(), lanes);
    keys_backward::launch(
        &client,
        count,
        dim,
        layer.decay.clone().into_tensor_arg(),
        layer.iclr.clone().into_tensor_arg(),
        layer.k.clone().into_tensor_arg(),
        layer.decay_bias.clone().into_tensor_arg(),
        layer.iclr_bias.clone().into_tensor_arg(),
        layer.k_k.clone().into_tensor_arg(),
        layer.k_a.clone().into_tensor_arg(),
        layer.starts.clone().into_tensor_arg(),
        of.all.clone().into_tensor_arg(),
        at.logw,
        at.k,
        at.a,
        at.b,
        at.reserved[0],
        layer.rows() as u32,
        heads as u32,
        layer.groups as u32,
        size as u32,
        lanes,
        layer.stock,
        layer.documents,
    );
    if layer.residual {
        let (count, dim) = elementwise(layer.elements());
        values_backward::launch(
            &client,
            count,
            dim,
            layer.v.clone().into_tensor_arg(),
            layer.first.clone().into_tensor_arg(),
            layer.mix.clone().into_tensor_arg(),
            layer.mix_bias.clone().into_tensor_arg(),
            of.all.clone().into_tensor_arg(),
            at.v,
            at.reserved[1],
            at.reserved[2],
            layer.elements() as u32,
            heads as u32,
            layer.groups as u32,
            layer.first_groups as u32,
            size as u32,
        );
    }
    // In the places of logw, a and b now stand the gradients of the decay, of the learning rate and of k_k.
    let of = of.apart();
    let (iclr, to_k_k) = of.ab.expect("the delta rule has a and b");
    let [to_k_a, first, mix] = of.reserved;
    let sum = |x: &CubeTensor| sum_rows(x.clone(), &channels);
    let [decay_bias, iclr_bias] = [sum(&of.logw), sum(&iclr)];
    let mix_bias = layer.residual.then(|| sum(&mix));
    let [k_k, k_a] = [to_k_k, to_k_a].map(|x| layer.stock.then(|| sum(&x)));
    let mut gradients = [
        Some(of.r),
        Some(of.logw),
        Some(iclr),
        Some(sum_heads(of.k, layer.groups)),
        Some(sum_heads(of.v, layer.groups)),
        Some(decay_bias),
        Some(iclr_bias),
        layer.residual.then(|| sum_heads(first, layer.first_groups)),
        layer.residual.then_some(mix),
        mix_bias,
        k_k,
        k_a,
        of.gate,
        Some(of.state),
    ]
    .into_iter()
    .zip(shapes);
    std::array::from_fn(|_| gradients.next().and_then(|(gradient, shape)| gradient.map(|x| reshaped(x, &shape))))
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cube(launch)]
fn keys(
    decay: &Tensor<f32>,
    iclr: &Tensor<f32>,
    k: &Tensor<f32>,
    decay_bias: &Tensor<f32>,
    iclr_bias: &Tensor<f32>,
    k_k: &Tensor<f32>,
    k_a: &Tensor<f32>,
    starts: &Tensor<u32>,
    out: &mut Tensor<f32>,
    // Where they start in `out`.
    logw: u32,
    key: u32,
    a: u32,
    b: u32,
    rows: u32,
    heads: u32,
    groups: u32,
    size: u32,
    #[comptime] lanes: usize,
    #[comptime] stock: bool,
    #[comptime] documents: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, heads, groups, size) = (rows as usize, heads as usize, groups as usize, size as usize);
    let (row, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let mut end = size;
    if row >= rows {
        end = 0;
    }
    let (token, head) = (row / heads, row % heads);
    let (start, channel) = (row * size, head * size);
    let from = (token * groups + head / (heads / groups)) * size;
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        let mut direction = k[from + i];
        if comptime!(stock) {
            direction *= k_k[channel + i];
        }
        squares += direction * direction;
        i += lanes;
    }
    let mut length = sum_lanes(squares, &mut shared, lanes).sqrt();
    if length < SHORTEST {
        length = SHORTEST.runtime();
    }
    let mut begins = false;
    if comptime!(documents) {
        if end > 0 {
            begins = starts[token] != 0;
        }
    }
    let mut i = lane;
    while i < end {
        let raw = k[from + i];
        let w = -DECAY_RANGE * sigmoid(decay[start + i] + decay_bias[channel + i]);
        let rate = sigmoid(iclr[start + i] + iclr_bias[channel + i]);
        let mut kap = raw / length;
        if comptime!(stock) {
            kap *= k_k[channel + i];
            out[key as usize + start + i] = raw * (1.0 + (rate - 1.0) * k_a[channel + i]);
        } else {
            out[key as usize + start + i] = raw * (1.0 - w.exp() + rate);
        }
        out[b as usize + start + i] = kap * rate;
        if begins {
            out[logw as usize + start + i] = END.runtime();
            out[a as usize + start + i] = 0.0f32.runtime();
        } else {
            out[logw as usize + start + i] = w;
            out[a as usize + start + i] = -kap;
        }
        i += lanes;
    }
}

// In: the gradients of logw, k', a and b. Out, in their places: those of the decay before its bias, of k (every
// query head's own), of the learning rate before its bias, and of k_k; that of k_a goes to a place of its own.
#[cube(launch)]
fn keys_backward(
    decay: &Tensor<f32>,
    iclr: &Tensor<f32>,
    k: &Tensor<f32>,
    decay_bias: &Tensor<f32>,
    iclr_bias: &Tensor<f32>,
    k_k: &Tensor<f32>,
    k_a: &Tensor<f32>,
    starts: &Tensor<u32>,
    out: &mut Tensor<f32>,
    logw: u32,
    key: u32,
    a: u32,
    b: u32,
    to_k_a: u32,
    rows: u32,
    heads: u32,
    groups: u32,
    size: u32,
    #[comptime] lanes: usize,
    #[comptime] stock: bool,
    #[comptime] documents: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, heads, groups, size) = (rows as usize, heads as usize, groups as usize, size as usize);
    let (row, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let mut end = size;
    if row >= rows {
        end = 0;
    }
    let (token, head) = (row / heads, row % heads);
    let (start, channel) = (row * size, head * size);
    let from = (token * groups + head / (heads / groups)) * size;
    let mut keep = 1.0f32;
    if comptime!(documents) {
        if end > 0 {
            if starts[token] != 0 {
                keep = 0.0f32.runtime();
            }
        }
    }
    // kap = direction / length; a = -keep kap; b = kap rate.
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        let mut direction = k[from + i];
        if comptime!(stock) {
            direction *= k_k[channel + i];
        }
        let rate = sigmoid(iclr[start + i] + iclr_bias[channel + i]);
        squares += direction * direction;
        along += direction * (rate * out[b as usize + start + i] - keep * out[a as usize + start + i]);
        i += lanes;
    }
    let length = sum_lanes(squares, &mut shared, lanes).sqrt();
    let mut along = sum_lanes(along, &mut shared, lanes);
    let mut inverse = 1.0 / SHORTEST.runtime();
    if length > SHORTEST {
        inverse = 1.0 / length;
        along *= inverse * inverse;
    } else {
        along = 0.0f32.runtime();
    }
    let mut i = lane;
    while i < end {
        let raw = k[from + i];
        let gain = sigmoid(decay[start + i] + decay_bias[channel + i]);
        let rate = sigmoid(iclr[start + i] + iclr_bias[channel + i]);
        let d_k = out[key as usize + start + i];
        let (d_a, d_b) = (out[a as usize + start + i], out[b as usize + start + i]);
        let mut d_w = keep * out[logw as usize + start + i];
        let mut direction = raw;
        if comptime!(stock) {
            direction *= k_k[channel + i];
        }
        let d_direction = inverse * (rate * d_b - keep * d_a - direction * along);
        let mut d_rate = d_b * direction * inverse;
        if comptime!(stock) {
            let share = k_a[channel + i];
            out[b as usize + start + i] = d_direction * raw;
            out[to_k_a as usize + start + i] = d_k * raw * (rate - 1.0);
            d_rate += d_k * raw * share;
            out[key as usize + start + i] = d_k * (1.0 + (rate - 1.0) * share) + d_direction * k_k[channel + i];
        } else {
            let w = (-DECAY_RANGE * gain).exp();
            d_rate += d_k * raw;
            out[key as usize + start + i] = d_k * (1.0 - w + rate) + d_direction;
            d_w -= d_k * raw * w;
        }
        out[logw as usize + start + i] = d_w * (-DECAY_RANGE) * gain * (1.0 - gain);
        out[a as usize + start + i] = d_rate * rate * (1.0 - rate);
        i += lanes;
    }
}

#[cube(launch)]
fn values(
    v: &Tensor<f32>,
    first: &Tensor<f32>,
    mix: &Tensor<f32>,
    bias: &Tensor<f32>,
    out: &mut Tensor<f32>,
    elements: u32,
    heads: u32,
    groups: u32,
    first_groups: u32,
    size: u32,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let (heads, groups, first_groups, size) = (heads as usize, groups as usize, first_groups as usize, size as usize);
        let (channel, row) = (i % size, i / size);
        let (token, head) = (row / heads, row % heads);
        let value = v[(token * groups + head / (heads / groups)) * size + channel];
        let early = first[(token * first_groups + head / (heads / first_groups)) * size + channel];
        out[i] = value + (early - value) * sigmoid(mix[i] + bias[head * size + channel]);
    }
}

// In: the gradient of v' at `d_v`. Out: that of v there, of the first layer's values and of the mix, every query
// head's own.
#[cube(launch)]
fn values_backward(
    v: &Tensor<f32>,
    first: &Tensor<f32>,
    mix: &Tensor<f32>,
    bias: &Tensor<f32>,
    out: &mut Tensor<f32>,
    d_v: u32,
    d_first: u32,
    d_mix: u32,
    elements: u32,
    heads: u32,
    groups: u32,
    first_groups: u32,
    size: u32,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let (heads, groups, first_groups, size) = (heads as usize, groups as usize, first_groups as usize, size as usize);
        let (channel, row) = (i % size, i / size);
        let (token, head) = (row / heads, row % heads);
        let value = v[(token * groups + head / (heads / groups)) * size + channel];
        let early = first[(token * first_groups + head / (heads / first_groups)) * size + channel];
        let share = sigmoid(mix[i] + bias[head * size + channel]);
        let d = out[d_v as usize + i];
        out[d_first as usize + i] = d * share;
        out[d_v as usize + i] = d * (1.0 - share);
        out[d_mix as usize + i] = d * (early - value) * share * (1.0 - share);
    }
}
