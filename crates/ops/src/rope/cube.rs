//! GPU: one unit a pair; the backward pass is the rotation by the opposite angle.

use super::{Options, RopeTable};
use crate::cube::{CubeTensor, elementwise, no_indices, nothing, room, upload, upload_indices};
use cubecl::prelude::*;
use std::sync::PoisonError;

pub fn forward(options: &Options, [x]: [CubeTensor; 1]) -> (CubeTensor, CubeTensor) {
    let saved = nothing(&x);
    (rotate(options, x, 1.0), saved)
}

pub fn backward(
    options: &Options,
    needs: [bool; 1],
    _: [CubeTensor; 1],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 1] {
    [needs[0].then(|| rotate(options, dy, -1.0))]
}

/// The table where `like` is: it travels once, and again to another device.
fn table(table: &RopeTable, like: &CubeTensor) -> [CubeTensor; 2] {
    let mut kept = table.on_device.lock().unwrap_or_else(PoisonError::into_inner);
    match &*kept {
        Some(tables) if tables[0].device == like.device => tables.clone(),
        _ => kept.insert([&table.cos, &table.sin].map(|values| upload(like, values))).clone(),
    }
}

fn rotate(options: &Options, x: CubeTensor, sign: f32) -> CubeTensor {
    let shape = x.meta.shape();
    let (batch, time, heads) = (shape[0], shape[1], shape[2]);
    let half = options.table.half;
    let [cos, sin] = table(&options.table, &x);
    let positions = match &options.positions {
        Some(positions) => upload_indices(&x, positions),
        None => no_indices(&x),
    };
    let y = room(&x, shape);
    let pairs = batch * time * heads * half;
    let (count, dim) = elementwise(pairs);
    let client = x.client.clone();
    rope::launch(
        &client,
        count,
        dim,
        x.into_tensor_arg(),
        cos.into_tensor_arg(),
        sin.into_tensor_arg(),
        positions.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        sign,
        pairs as u32,
        heads as u32,
        half as u32,
        options.start as u32,
        time as u32,
        options.positions.is_some(),
    );
    y
}

#[cube(launch)]
fn rope(
    x: &Tensor<f32>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    positions: &Tensor<u32>,
    y: &mut Tensor<f32>,
    sign: f32,
    pairs: u32,
    heads: u32,
    half: u32,
    start: u32,
    time: u32,
    #[comptime] own: bool,
) {
    let pair = ABSOLUTE_POS;
    if pair < pairs as usize {
        let half = half as usize;
        let i = pair % half;
        let head = pair / half;
        let token = head / heads as usize;
        let row = if comptime!(own) { positions[token] as usize } else { start as usize + token % time as usize };
        let low = head * 2 * half + i;
        let (c, s) = (cos[row * half + i], sign * sin[row * half + i]);
        let (a, b) = (x[low], x[low + half]);
        y[low] = a * c - b * s;
        y[low + half] = b * c + a * s;
    }
}
