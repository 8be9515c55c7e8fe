//! GPU: a few lanes a row.

use super::SHORTEST;
use crate::cube::{CubeTensor, Row, UNITS, by_lanes, lanes, length_backward, length_of, nothing, own_row, room, rows};
use cubecl::prelude::*;

pub fn forward(_: &(), [x]: [CubeTensor; 1]) -> (CubeTensor, CubeTensor) {
    let (rows, width) = rows(&x);
    let lanes = lanes(width);
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
    let (rows, width) = rows(&x);
    let lanes = lanes(width);
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
    let Row { start, lane, end, .. } = own_row(rows as usize, width as usize, lanes);
    let mut squares = 0.0f32;
    let mut i = lane;
    while i < end {
        squares += x[start + i] * x[start + i];
        i += lanes;
    }
    let length = length_of(squares, shortest, &mut shared, lanes);
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
    let Row { start, lane, end, .. } = own_row(rows as usize, width as usize, lanes);
    let mut squares = 0.0f32;
    let mut along = 0.0f32;
    let mut i = lane;
    while i < end {
        squares += x[start + i] * x[start + i];
        along += x[start + i] * dy[start + i];
        i += lanes;
    }
    let (inverse, along) = length_backward(squares, along, shortest, &mut shared, lanes);
    let mut i = lane;
    while i < end {
        dx[start + i] = inverse * (dy[start + i] - x[start + i] * along);
        i += lanes;
    }
}
