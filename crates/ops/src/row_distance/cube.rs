//! GPU: one cube a row, then the sum of all rows.

use super::{Options, SMALLEST_SQUARE};
use crate::cube::{CubeTensor, UNITS, cubes, nothing, room, rows, sum, total, upload};
use cubecl::prelude::*;

/// One weight a row, if there are any.
fn weights(options: &Options, like: &CubeTensor) -> (CubeTensor, bool) {
    match &options.weights {
        Some(weights) if !weights.is_empty() => (upload(like, weights), true),
        _ => (nothing(like), false),
    }
}

/// The distance, and saved the length of every row's error.
pub fn forward(options: &Options, [given, wanted]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let (rows, width) = rows(&given);
    let (weights, weighted) = weights(options, &given);
    let (lengths, each) = (room(&given, &[rows]), room(&given, &[rows]));
    row_lengths::launch(
        &given.client.clone(),
        cubes(rows),
        CubeDim::new_1d(UNITS),
        given.into_tensor_arg(),
        wanted.into_tensor_arg(),
        weights.into_tensor_arg(),
        lengths.clone().into_tensor_arg(),
        each.clone().into_tensor_arg(),
        SMALLEST_SQUARE,
        options.scale,
        rows as u32,
        width as u32,
        weighted,
    );
    (total(each), lengths)
}

pub fn backward(
    options: &Options,
    needs: [bool; 2],
    [given, wanted]: [CubeTensor; 2],
    _output: CubeTensor,
    lengths: CubeTensor,
    upstream: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    let d_given = needs[0].then(|| {
        let (rows, width) = rows(&given);
        let (weights, weighted) = weights(options, &given);
        let d_given = room(&given, given.meta.shape());
        row_distance_backward::launch(
            &given.client.clone(),
            cubes(rows),
            CubeDim::new_1d(UNITS),
            given.into_tensor_arg(),
            wanted.into_tensor_arg(),
            weights.into_tensor_arg(),
            lengths.into_tensor_arg(),
            upstream.into_tensor_arg(),
            d_given.clone().into_tensor_arg(),
            options.scale,
            rows as u32,
            width as u32,
            weighted,
        );
        d_given
    });
    [d_given, None]
}

#[cube(launch)]
fn row_lengths(
    given: &Tensor<f32>,
    wanted: &Tensor<f32>,
    weights: &Tensor<f32>,
    lengths: &mut Tensor<f32>,
    each: &mut Tensor<f32>,
    smallest: f32,
    scale: f32,
    rows: u32,
    width: u32,
    #[comptime] weighted: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let row = CUBE_POS;
    if row < rows as usize {
        let (width, start) = (width as usize, row * width as usize);
        let mut squares = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < width {
            let error = given[start + i] - wanted[start + i];
            squares += error * error;
            i += UNITS as usize;
        }
        let mut square = sum(squares, &mut shared);
        if UNIT_POS == 0 {
            // Zero stands for a row that pulls nowhere.
            let mut length = square.sqrt();
            if square < smallest {
                length = 0.0f32.runtime();
                square = smallest;
            }
            lengths[row] = length;
            let mut distance = scale * square.sqrt();
            if comptime!(weighted) {
                distance *= weights[row];
            }
            each[row] = distance;
        }
    }
}

#[cube(launch)]
fn row_distance_backward(
    given: &Tensor<f32>,
    wanted: &Tensor<f32>,
    weights: &Tensor<f32>,
    lengths: &Tensor<f32>,
    upstream: &Tensor<f32>,
    d_given: &mut Tensor<f32>,
    scale: f32,
    rows: u32,
    width: u32,
    #[comptime] weighted: bool,
) {
    let row = CUBE_POS;
    if row < rows as usize {
        let (width, start) = (width as usize, row * width as usize);
        let length = lengths[row];
        let mut factor = 0.0f32;
        if length > 0.0 {
            factor = upstream[0] * scale / length;
        }
        if comptime!(weighted) {
            factor *= weights[row];
        }
        let mut i = UNIT_POS as usize;
        while i < width {
            d_given[start + i] = factor * (given[start + i] - wanted[start + i]);
            i += UNITS as usize;
        }
    }
}
