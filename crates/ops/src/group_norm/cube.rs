//! GPU: a few lanes a head; gradients of weight and bias as sums over blocks of tokens.

use super::Options;
use crate::cube::{CubeTensor, Row, UNITS, by_lanes, elementwise, lanes, own_row, reshaped, room, sum_lanes, sum_rows};
use cubecl::prelude::*;

/// Tokens whose contributions to the gradients of weight and bias one unit adds up.
const BLOCK: usize = 64;

pub fn forward(options: &Options, [x, weight, bias]: [CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
    let (heads, size) = (x.meta.shape()[2], x.meta.shape()[3]);
    let rows = x.meta.num_elements() / size;
    let lanes = lanes(size);
    // Mean and inverse deviation of every head.
    let (y, saved) = (room(&x, x.meta.shape()), room(&x, &[2 * rows.max(1)]));
    let (count, dim) = by_lanes(rows, lanes);
    group_norm::launch(
        &x.client.clone(),
        count,
        dim,
        x.into_tensor_arg(),
        weight.into_tensor_arg(),
        bias.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        saved.clone().into_tensor_arg(),
        options.epsilon,
        rows as u32,
        heads as u32,
        size as u32,
        lanes,
    );
    (y, saved)
}

pub fn backward(
    _: &Options,
    needs: [bool; 3],
    [x, weight, _]: [CubeTensor; 3],
    _output: CubeTensor,
    saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 3] {
    let (heads, size) = (x.meta.shape()[2], x.meta.shape()[3]);
    let (width, rows, lanes) = (heads * size, x.meta.num_elements() / size, lanes(size));
    let tokens = rows / heads;
    let client = x.client.clone();
    let dx = needs[0].then(|| {
        let dx = room(&x, x.meta.shape());
        let (count, dim) = by_lanes(rows, lanes);
        group_norm_backward::launch(
            &client,
            count,
            dim,
            x.clone().into_tensor_arg(),
            weight.into_tensor_arg(),
            saved.clone().into_tensor_arg(),
            dy.clone().into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            rows as u32,
            heads as u32,
            size as u32,
            lanes,
        );
        dx
    });
    if !(needs[1] || needs[2]) {
        return [dx, None, None];
    }
    let blocks = tokens.div_ceil(BLOCK);
    let parts = room(&x, &[blocks, 2 * width]);
    let (count, dim) = elementwise(blocks * width);
    parameters_backward::launch(
        &client,
        count,
        dim,
        x.into_tensor_arg(),
        saved.into_tensor_arg(),
        dy.into_tensor_arg(),
        parts.clone().into_tensor_arg(),
        tokens as u32,
        heads as u32,
        size as u32,
        BLOCK as u32,
    );
    // The weight's gradient, and the bias's behind it.
    let [d_weight, d_bias] = halves(sum_rows(parts, &[2, width]), width);
    [dx, needs[1].then_some(d_weight), needs[2].then_some(d_bias)]
}

/// The two rows of `[2, width]`, each an array of its own.
fn halves(both: CubeTensor, width: usize) -> [CubeTensor; 2] {
    use crate::cube::{Gpu, contiguous};
    use burn::backend::ops::FloatTensorOps;
    [0isize, 1].map(|i| reshaped(contiguous(Gpu::float_slice(both.clone(), &[(i..i + 1).into()])), &[width]))
}

#[cube(launch)]
fn group_norm(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    y: &mut Tensor<f32>,
    saved: &mut Tensor<f32>,
    epsilon: f32,
    rows: u32,
    heads: u32,
    size: u32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, heads, size) = (rows as usize, heads as usize, size as usize);
    let Row { row, start, lane, end } = own_row(rows, size, lanes);
    let channel = row % heads * size;
    let mut total = 0.0f32;
    let mut i = lane;
    while i < end {
        total += x[start + i];
        i += lanes;
    }
    let mean = sum_lanes(total, &mut shared, lanes) / f32::cast_from(size as u32);
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        let centred = x[start + i] - mean;
        squares += centred * centred;
        i += lanes;
    }
    let variance = sum_lanes(squares, &mut shared, lanes) / f32::cast_from(size as u32);
    let inverse = 1.0 / (variance + epsilon).sqrt();
    let mut i = lane;
    while i < end {
        y[start + i] = (x[start + i] - mean) * inverse * weight[channel + i] + bias[channel + i];
        i += lanes;
    }
    if lane == 0 && row < rows {
        saved[2 * row] = mean;
        saved[2 * row + 1] = inverse;
    }
}

// With n = (x - mean) inverse and d = weight dy: dx = inverse (d - mean(d) - n mean(d n)).
#[cube(launch)]
fn group_norm_backward(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    saved: &Tensor<f32>,
    dy: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    rows: u32,
    heads: u32,
    size: u32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, heads, size) = (rows as usize, heads as usize, size as usize);
    let Row { row, start, lane, end } = own_row(rows, size, lanes);
    let channel = row % heads * size;
    let mut mean = 0.0f32;
    let mut inverse = 0.0f32;
    if row < rows {
        mean = saved[2 * row];
        inverse = saved[2 * row + 1];
    }
    let mut plain = 0.0f32;
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        let d = weight[channel + i] * dy[start + i];
        plain += d;
        along += d * (x[start + i] - mean) * inverse;
        i += lanes;
    }
    let plain = sum_lanes(plain, &mut shared, lanes) / f32::cast_from(size as u32);
    let along = sum_lanes(along, &mut shared, lanes) / f32::cast_from(size as u32);
    let mut i = lane;
    while i < end {
        let n = (x[start + i] - mean) * inverse;
        dx[start + i] = inverse * (weight[channel + i] * dy[start + i] - plain - n * along);
        i += lanes;
    }
}

// Of each block of tokens: the sums of dy n, and behind them those of dy.
#[cube(launch)]
fn parameters_backward(
    x: &Tensor<f32>,
    saved: &Tensor<f32>,
    dy: &Tensor<f32>,
    parts: &mut Tensor<f32>,
    tokens: u32,
    heads: u32,
    size: u32,
    block: u32,
) {
    let (tokens, heads, size, block) = (tokens as usize, heads as usize, size as usize, block as usize);
    let width = heads * size;
    let (part, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let blocks = (tokens + block - 1) / block;
    if part < blocks {
        let end = ((part + 1) * block).min(tokens);
        let mut to_weight = 0.0f32;
        let mut to_bias = 0.0f32;
        for token in part * block..end {
            let row = token * heads + column / size;
            let d = dy[token * width + column];
            to_bias += d;
            to_weight += d * (x[token * width + column] - saved[2 * row]) * saved[2 * row + 1];
        }
        parts[part * 2 * width + column] = to_weight;
        parts[(part * 2 + 1) * width + column] = to_bias;
    }
}
