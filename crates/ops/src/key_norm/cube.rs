//! GPU: a few lanes a row.

use super::SHORTEST;
use crate::cube::{CubeTensor, UNITS, by_lanes, lanes, nothing, room, sum_lanes};
use cubecl::prelude::*;

/// Rows of a tensor, and units that take one together.
fn rows(x: &CubeTensor) -> (usize, usize, usize) {
    let width = x.meta.shape().last().copied().unwrap_or(1).max(1);
    (x.meta.num_elements() / width, width, lanes(width))
}

pub fn forward(_: &(), [x]: [CubeTensor; 1]) -> (CubeTensor, CubeTensor) {
    let (rows, width, lanes) = rows(&x);
    let y = room(&x, x.meta.shape());
    let saved = nothing(&x);
    let (count, dim) = by_lanes(rows, lanes);
    let client = x.client.clone();
    let (from, to) = (x.into_tensor_arg(), y.clone().into_tensor_arg());
    key_norm::launch(&client, count, dim, from, to, SHORTEST, rows as u32, width as u32, lanes);
    (y, saved)
}

pub fn backward(
    _: &(),
    _: [bool; 1],
    [x]: [CubeTensor; 1],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 1] {
    let (rows, width, lanes) = rows(&x);
    let dx = room(&x, x.meta.shape());
    let (count, dim) = by_lanes(rows, lanes);
    let client = x.client.clone();
    let (x, dy, to) = (x.into_tensor_arg(), dy.into_tensor_arg(), dx.clone().into_tensor_arg());
    key_norm_backward::launch(&client, count, dim, x, dy, to, SHORTEST, rows as u32, width as u32, lanes);
    [Some(dx)]
}

#[cube(launch)]
fn key_norm(x: &Tensor<f32>, y: &mut Tensor<f32>, shortest: f32, rows: u32, width: u32, #[comptime] lanes: usize) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, width) = (rows as usize, width as usize);
    let (row, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let mut end = width;
    if row >= rows {
        end = 0;
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        squares += x[start + i] * x[start + i];
        i += lanes;
    }
    let mut length = sum_lanes(squares, &mut shared, lanes).sqrt();
    if length < shortest {
        length = shortest;
    }
    let mut i = lane;
    while i < end {
        y[start + i] = x[start + i] / length;
        i += lanes;
    }
}

// dx = (dy - x (x . dy) / |x|^2) / |x|, and dy / shortest where that is what divides.
#[cube(launch)]
fn key_norm_backward(
    x: &Tensor<f32>,
    dy: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    shortest: f32,
    rows: u32,
    width: u32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let (rows, width) = (rows as usize, width as usize);
    let (row, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let mut end = width;
    if row >= rows {
        end = 0;
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        squares += x[start + i] * x[start + i];
        along += x[start + i] * dy[start + i];
        i += lanes;
    }
    let length = sum_lanes(squares, &mut shared, lanes).sqrt();
    let mut along = sum_lanes(along, &mut shared, lanes);
    let mut inverse = 1.0 / shortest;
    if length > shortest {
        inverse = 1.0 / length;
        along *= inverse * inverse;
    } else {
        along = 0.0f32.runtime();
    }
    let mut i = lane;
    while i < end {
        dx[start + i] = inverse * (dy[start + i] - x[start + i] * along);
        i += lanes;
    }
}
