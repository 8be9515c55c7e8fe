//! GPU: one unit a pair; the backward pass is the rotation by the opposite angle.

use super::Options;
use crate::cube::{CubeTensor, elementwise, nothing, room, upload};
use cubecl::prelude::*;

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

fn rotate(options: &Options, x: CubeTensor, sign: f32) -> CubeTensor {
    let shape = x.meta.shape();
    let (batch, time, heads) = (shape[0], shape[1], shape[2]);
    let half = options.table.half;
    // Only the rows that are needed travel: [B, T] of them where positions are given, [T] elsewhere.
    let rows = |values: &[f32]| -> CubeTensor {
        match &options.positions {
            Some(positions) => {
                let picked: Vec<f32> =
                    positions.iter().flat_map(|&p| &values[p as usize * half..(p as usize + 1) * half]).copied().collect();
                upload(&x, &picked)
            }
            None => upload(&x, &values[options.start * half..(options.start + time) * half]),
        }
    };
    let (cos, sin) = (rows(&options.table.cos), rows(&options.table.sin));
    let period = if options.positions.is_some() { batch * time } else { time };
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
        y.clone().into_tensor_arg(),
        sign,
        pairs as u32,
        heads as u32,
        half as u32,
        period as u32,
    );
    y
}

#[cube(launch)]
fn rope(
    x: &Tensor<f32>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    y: &mut Tensor<f32>,
    sign: f32,
    pairs: u32,
    heads: u32,
    half: u32,
    period: u32,
) {
    let pair = ABSOLUTE_POS;
    if pair < pairs as usize {
        let half = half as usize;
        let i = pair % half;
        let head = pair / half;
        let row = head / heads as usize % period as usize;
        let low = head * 2 * half + i;
        let (c, s) = (cos[row * half + i], sign * sin[row * half + i]);
        let (a, b) = (x[low], x[low + half]);
        y[low] = a * c - b * s;
        y[low + half] = b * c + a * s;
    }
}
