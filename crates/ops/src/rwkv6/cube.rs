//! GPU: the recurrence's kernels between two of our own, which make its inputs from the projections and take
//! their gradients back in place.

use super::{Constants, STRONGEST_LOG_DECAY};
use crate::cube::{
    CubeTensor, Together, elementwise, flags, in_shapes, passed, repeat_heads, reshaped, shared_row, sum_heads, sum_rows,
};
use crate::delta_rule::END;
use crate::delta_rule::cube::{self as recurrence, Inputs};
use cubecl::prelude::*;

type Tensors = [CubeTensor; 7];

/// What the kernels read, and what they say of the layer.
struct Layer {
    decay: CubeTensor,
    bias: CubeTensor,
    k: CubeTensor,
    starts: CubeTensor,
    documents: bool,
    balanced: bool,
    /// `[B, T, H, N]`.
    shape: [usize; 4],
    /// Heads of keys and values.
    groups: usize,
}

impl Layer {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

fn prepared(constants: &Constants, [q, decay, bias, k, v, gate, state]: Tensors) -> (Layer, Inputs) {
    let shape: [usize; 4] = q.meta.shape().as_slice().try_into().expect("q is [B, T, H, N]");
    let [b, t, _, n] = shape;
    let groups = k.meta.num_elements() / (b * t * n).max(1);
    let (starts, documents) = flags(&q, constants.layer.settings.starts.as_deref());
    let gate = (gate.meta.num_elements() > 0).then(|| reshaped(gate, &shape));
    let v = repeat_heads(v, groups, &shape);
    let layer = Layer { decay, bias, k, starts, documents, balanced: constants.balanced, shape, groups };
    let mut parts = Together::default();
    let [logw, key] = [(); 2].map(|()| parts.add(&shape));
    let out = parts.room(&q);
    let (count, dim) = elementwise(layer.elements());
    keys::launch(
        &q.client.clone(),
        count,
        dim,
        layer.decay.clone().into_tensor_arg(),
        layer.bias.clone().into_tensor_arg(),
        layer.k.clone().into_tensor_arg(),
        layer.starts.clone().into_tensor_arg(),
        out.clone().into_tensor_arg(),
        logw,
        key,
        layer.elements() as u32,
        shape[2] as u32,
        groups as u32,
        n as u32,
        layer.balanced,
        documents,
    );
    let [logw, k] = parts.first(&out);
    (layer, Inputs { r: q, logw, k, v, ab: None, state, gate })
}

pub fn forward(constants: &Constants, inputs: Tensors) -> (CubeTensor, CubeTensor) {
    recurrence::run(&constants.layer, prepared(constants, inputs).1)
}

pub fn backward(
    constants: &Constants,
    _: [bool; 7],
    inputs: Tensors,
    _output: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
) -> [Option<CubeTensor>; 7] {
    let shapes = inputs.each_ref().map(|x| x.meta.shape().to_vec());
    let (layer, prepared) = prepared(constants, inputs);
    let client = prepared.r.client.clone();
    let of = recurrence::gradients(&constants.layer, prepared, saved, gradient, [&[0]; 3]);
    let (count, dim) = elementwise(layer.elements());
    keys_backward::launch(
        &client,
        count,
        dim,
        layer.decay.clone().into_tensor_arg(),
        layer.bias.clone().into_tensor_arg(),
        layer.k.clone().into_tensor_arg(),
        layer.starts.clone().into_tensor_arg(),
        of.all.clone().into_tensor_arg(),
        of.at.logw,
        of.at.k,
        layer.elements() as u32,
        layer.shape[2] as u32,
        layer.groups as u32,
        layer.shape[3] as u32,
        layer.balanced,
        layer.documents,
    );
    let of = of.apart();
    let bias = sum_rows(of.logw.clone(), layer.bias.meta.shape());
    let [k, v] = [of.k, of.v].map(|x| Some(sum_heads(x, layer.groups)));
    in_shapes([Some(of.r), Some(of.logw), Some(bias), k, v, of.gate, Some(of.state)], shapes)
}

/// The log decay.
#[cube]
fn log_decay(decay: f32) -> f32 {
    let mut w = -(decay.exp());
    if w < STRONGEST_LOG_DECAY {
        w = STRONGEST_LOG_DECAY.runtime();
    }
    w
}

#[cube(launch)]
fn keys(
    decay: &Tensor<f32>,
    bias: &Tensor<f32>,
    k: &Tensor<f32>,
    starts: &Tensor<u32>,
    out: &mut Tensor<f32>,
    // Where they start in `out`.
    logw: u32,
    key: u32,
    elements: u32,
    heads: u32,
    groups: u32,
    size: u32,
    #[comptime] balanced: bool,
    #[comptime] documents: bool,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let (heads, groups, size) = (heads as usize, groups as usize, size as usize);
        let (channel, row) = (i % size, i / size);
        let (token, head) = (row / heads, row % heads);
        let raw = k[shared_row(row, heads, groups) * size + channel];
        let mut w = log_decay(decay[i] + bias[head * size + channel]);
        if comptime!(balanced) {
            out[key as usize + i] = raw * (1.0 - w.exp());
        } else {
            out[key as usize + i] = raw;
        }
        if comptime!(documents) {
            if starts[token] != 0 {
                w = END.runtime();
            }
        }
        out[logw as usize + i] = w;
    }
}

// In: the gradients of logw and k'. Out, in their places: those of the decay before its exponential, whose
// derivative is logw itself, and nothing where it was clamped; and those of k, every query head's own.
#[cube(launch)]
fn keys_backward(
    decay: &Tensor<f32>,
    bias: &Tensor<f32>,
    k: &Tensor<f32>,
    starts: &Tensor<u32>,
    out: &mut Tensor<f32>,
    logw: u32,
    key: u32,
    elements: u32,
    heads: u32,
    groups: u32,
    size: u32,
    #[comptime] balanced: bool,
    #[comptime] documents: bool,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let (heads, groups, size) = (heads as usize, groups as usize, size as usize);
        let (channel, row) = (i % size, i / size);
        let (token, head) = (row / heads, row % heads);
        let w = log_decay(decay[i] + bias[head * size + channel]);
        let mut d = passed(out[logw as usize + i], starts, token, documents);
        if comptime!(balanced) {
            let d_k = out[key as usize + i];
            let raw = k[shared_row(row, heads, groups) * size + channel];
            d -= d_k * raw * w.exp();
            out[key as usize + i] = d_k * (1.0 - w.exp());
        }
        if w <= STRONGEST_LOG_DECAY {
            d = 0.0f32.runtime();
        }
        out[logw as usize + i] = d * w;
    }
}
