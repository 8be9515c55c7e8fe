//! The kernels: the delta rule's inputs from the projections, and both ways back.

use crate::cube::{Row, UNITS, length_backward, length_of, own_row, shared_row, sigmoid};
use crate::delta_rule::END;
use crate::key_norm::SHORTEST;
use crate::rwkv7::DECAY_RANGE;
use cubecl::prelude::*;

/// What of a key is normalised.
#[cube]
fn scaled(key: f32, k_k: &Tensor<f32>, channel: usize, #[comptime] stock: bool) -> f32 {
    if comptime!(stock) { key * k_k[channel] } else { key }
}

#[cube(launch)]
pub fn keys(
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
    let Row { row, start, lane, end } = own_row(rows, size, lanes);
    let (channel, from) = (row % heads * size, shared_row(row, heads, groups) * size);
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        let direction = scaled(k[from + i], k_k, channel + i, stock);
        squares += direction * direction;
        i += lanes;
    }
    let length = length_of(squares, SHORTEST, &mut shared, lanes);
    let mut begins = false;
    if comptime!(documents) {
        if end > 0 {
            begins = starts[row / heads] != 0;
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
pub fn keys_backward(
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
    let Row { row, start, lane, end } = own_row(rows, size, lanes);
    let (channel, from) = (row % heads * size, shared_row(row, heads, groups) * size);
    let mut keep = 1.0f32;
    if comptime!(documents) {
        if end > 0 {
            if starts[row / heads] != 0 {
                keep = 0.0f32.runtime();
            }
        }
    }
    // kap = direction / length; a = -keep kap; b = kap rate.
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        let direction = scaled(k[from + i], k_k, channel + i, stock);
        let rate = sigmoid(iclr[start + i] + iclr_bias[channel + i]);
        squares += direction * direction;
        along += direction * (rate * out[b as usize + start + i] - keep * out[a as usize + start + i]);
        i += lanes;
    }
    let (inverse, along) = length_backward(squares, along, SHORTEST, &mut shared, lanes);
    let mut i = lane;
    while i < end {
        let raw = k[from + i];
        let gain = sigmoid(decay[start + i] + decay_bias[channel + i]);
        let rate = sigmoid(iclr[start + i] + iclr_bias[channel + i]);
        let d_k = out[key as usize + start + i];
        let (d_a, d_b) = (out[a as usize + start + i], out[b as usize + start + i]);
        let mut d_w = keep * out[logw as usize + start + i];
        let direction = scaled(raw, k_k, channel + i, stock);
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

/// For element `i` of `[B, T, heads, size]`: the layer's own value, the first layer's, and how much of that is taken.
#[cube]
fn mixed(
    v: &Tensor<f32>,
    first: &Tensor<f32>,
    mix: &Tensor<f32>,
    bias: &Tensor<f32>,
    i: usize,
    heads: u32,
    groups: u32,
    first_groups: u32,
    size: u32,
) -> (f32, f32, f32) {
    let (heads, size) = (heads as usize, size as usize);
    let (channel, row) = (i % size, i / size);
    let value = v[shared_row(row, heads, groups as usize) * size + channel];
    let early = first[shared_row(row, heads, first_groups as usize) * size + channel];
    let share = sigmoid(mix[i] + bias[row % heads * size + channel]);
    (value, early, share)
}

#[cube(launch)]
pub fn values(
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
        let (value, early, share) = mixed(v, first, mix, bias, i, heads, groups, first_groups, size);
        out[i] = value + (early - value) * share;
    }
}

// In: the gradient of v' at `d_v`. Out: that of v there, of the first layer's values and of the mix, every query
// head's own.
#[cube(launch)]
pub fn values_backward(
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
        let (value, early, share) = mixed(v, first, mix, bias, i, heads, groups, first_groups, size);
        let d = out[d_v as usize + i];
        out[d_first as usize + i] = d * share;
        out[d_v as usize + i] = d * (1.0 - share);
        out[d_mix as usize + i] = d * (early - value) * share * (1.0 - share);
    }
}
