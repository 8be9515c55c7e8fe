//! GPU: one unit an element.

use crate::cube::{CubeTensor, elementwise, nothing, room, sigmoid};
use cubecl::prelude::*;

pub fn forward(_: &(), [gate, up]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let y = room(&gate, gate.meta.shape());
    let saved = nothing(&gate);
    let (count, dim) = elementwise(gate.meta.num_elements());
    let client = gate.client.clone();
    let elements = gate.meta.num_elements() as u32;
    swiglu::launch(&client, count, dim, gate.into_tensor_arg(), up.into_tensor_arg(), y.clone().into_tensor_arg(), elements);
    (y, saved)
}

pub fn backward(
    _: &(),
    _: [bool; 2],
    [gate, up]: [CubeTensor; 2],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    let [d_gate, d_up] = [room(&gate, gate.meta.shape()), room(&gate, gate.meta.shape())];
    let (count, dim) = elementwise(gate.meta.num_elements());
    let client = gate.client.clone();
    let elements = gate.meta.num_elements() as u32;
    swiglu_backward::launch(
        &client,
        count,
        dim,
        gate.into_tensor_arg(),
        up.into_tensor_arg(),
        dy.into_tensor_arg(),
        d_gate.clone().into_tensor_arg(),
        d_up.clone().into_tensor_arg(),
        elements,
    );
    [Some(d_gate), Some(d_up)]
}

#[cube(launch)]
fn swiglu(gate: &Tensor<f32>, up: &Tensor<f32>, y: &mut Tensor<f32>, elements: u32) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let x = gate[i];
        y[i] = x / (1.0 + (-x).exp()) * up[i];
    }
}

#[cube(launch)]
fn swiglu_backward(
    gate: &Tensor<f32>,
    up: &Tensor<f32>,
    dy: &Tensor<f32>,
    d_gate: &mut Tensor<f32>,
    d_up: &mut Tensor<f32>,
    elements: u32,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let (x, d) = (gate[i], dy[i]);
        let sigmoid = sigmoid(x);
        d_up[i] = d * x * sigmoid;
        d_gate[i] = d * up[i] * sigmoid * (1.0 + x * (1.0 - sigmoid));
    }
}
