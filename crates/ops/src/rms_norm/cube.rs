//! GPU: a few lanes a row; the weight's gradient as partial sums over blocks of rows.

use super::Options;
use crate::cube::{CubeTensor, Row, UNITS, by_lanes, cubes, lanes, own_row, reshaped, room, sum_lanes, sum_rows, upload};
use cubecl::prelude::*;

/// Units of a row: more of them would wait for each other oftener than they compute.
const LANES: usize = 64;
/// Rows whose contributions to the weight's gradient one unit adds up.
const BLOCK: usize = 64;

pub fn forward(options: &Options, [x, weight]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let width = weight.meta.num_elements();
    let rows = x.meta.num_elements() / width;
    let (y, inverse) = (room(&x, x.meta.shape()), room(&x, &[rows.max(1)]));
    let client = x.client.clone();
    let lanes = lanes(width).min(LANES);
    let (count, dim) = by_lanes(rows, lanes);
    rms_norm::launch(
        &client,
        count,
        dim,
        x.into_tensor_arg(),
        weight.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        inverse.clone().into_tensor_arg(),
        options.epsilon,
        rows as u32,
        width as u32,
        lanes,
    );
    (y, inverse)
}

pub fn backward(
    _: &Options,
    needs: [bool; 2],
    [x, weight]: [CubeTensor; 2],
    _output: CubeTensor,
    inverse: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    let width = weight.meta.num_elements();
    let rows = x.meta.num_elements() / width;
    let client = x.client.clone();
    let dx = needs[0].then(|| {
        let dx = room(&x, x.meta.shape());
        let lanes = lanes(width).min(LANES);
        let (count, dim) = by_lanes(rows, lanes);
        rms_norm_backward::launch(
            &client,
            count,
            dim,
            x.clone().into_tensor_arg(),
            weight.clone().into_tensor_arg(),
            inverse.clone().into_tensor_arg(),
            dy.clone().into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            rows as u32,
            width as u32,
            lanes,
        );
        dx
    });
    let dw = needs[1].then(|| {
        if rows == 0 {
            return reshaped(upload(&x, &vec![0.0; width]), weight.meta.shape());
        }
        let blocks = rows.div_ceil(BLOCK);
        let parts = room(&x, &[blocks, width]);
        let per_block = width.div_ceil(UNITS as usize);
        weight_backward::launch(
            &client,
            cubes(blocks * per_block),
            CubeDim::new_1d(UNITS),
            x.clone().into_tensor_arg(),
            inverse.into_tensor_arg(),
            dy.into_tensor_arg(),
            parts.clone().into_tensor_arg(),
            rows as u32,
            width as u32,
            BLOCK as u32,
        );
        sum_rows(parts, weight.meta.shape())
    });
    [dx, dw]
}

#[cube(launch)]
fn rms_norm(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    y: &mut Tensor<f32>,
    inverse: &mut Tensor<f32>,
    epsilon: f32,
    rows: u32,
    width: u32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let Row { row, start, lane, end } = own_row(rows as usize, width as usize, lanes);
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        let value = x[start + i];
        squares += value * value;
        i += lanes;
    }
    let total = sum_lanes(squares, &mut shared, lanes);
    let r = 1.0 / (total / f32::cast_from(width) + epsilon).sqrt();
    let mut i = lane;
    while i < end {
        y[start + i] = x[start + i] * r * weight[i];
        i += lanes;
    }
    if lane == 0 && row < rows as usize {
        inverse[row] = r;
    }
}

// dx = r (w dy) - x r^3 / d * sum(w dy x)
#[cube(launch)]
fn rms_norm_backward(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    inverse: &Tensor<f32>,
    dy: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    rows: u32,
    width: u32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let Row { row, start, lane, end } = own_row(rows as usize, width as usize, lanes);
    let mut r = 0.0f32;
    if row < rows as usize {
        r = inverse[row];
    }
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        along += weight[i] * dy[start + i] * x[start + i];
        i += lanes;
    }
    let along = sum_lanes(along, &mut shared, lanes) * r * r / f32::cast_from(width);
    let mut i = lane;
    while i < end {
        dx[start + i] = r * (weight[i] * dy[start + i] - x[start + i] * along);
        i += lanes;
    }
}

// Of each block of rows: sum over them of dy x r.
#[cube(launch)]
fn weight_backward(
    x: &Tensor<f32>,
    inverse: &Tensor<f32>,
    dy: &Tensor<f32>,
    parts: &mut Tensor<f32>,
    rows: u32,
    width: u32,
    block: u32,
) {
    let (rows, width, block) = (rows as usize, width as usize, block as usize);
    let per_block = width.div_ceil(UNITS as usize);
    let part = CUBE_POS / per_block;
    let column = CUBE_POS % per_block * UNITS as usize + UNIT_POS as usize;
    if column < width && part * block < rows {
        let mut total = 0.0f32;
        let end = ((part + 1) * block).min(rows);
        for row in part * block..end {
            total += dy[row * width + column] * x[row * width + column] * inverse[row];
        }
        parts[part * width + column] = total;
    }
}
