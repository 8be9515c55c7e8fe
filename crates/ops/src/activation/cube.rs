//! GPU: one unit an element.

use super::Function;
use crate::cube::{CubeTensor, elementwise, nothing, room, sigmoid};
use cubecl::prelude::*;

pub fn forward(&function: &Function, [x]: [CubeTensor; 1]) -> (CubeTensor, CubeTensor) {
    let y = room(&x, x.meta.shape());
    let saved = nothing(&x);
    let elements = x.meta.num_elements();
    let (count, dim) = elementwise(elements);
    let client = x.client.clone();
    let (from, to) = (x.into_tensor_arg(), y.clone().into_tensor_arg());
    activation::launch(&client, count, dim, from, to, elements as u32, function == Function::Tanh);
    (y, saved)
}

pub fn backward(
    &function: &Function,
    _: [bool; 1],
    _: [CubeTensor; 1],
    output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 1] {
    let dx = room(&dy, dy.meta.shape());
    let elements = dy.meta.num_elements();
    let (count, dim) = elementwise(elements);
    let client = dy.client.clone();
    let (y, dy, to) = (output.into_tensor_arg(), dy.into_tensor_arg(), dx.clone().into_tensor_arg());
    activation_backward::launch(&client, count, dim, y, dy, to, elements as u32, function == Function::Tanh);
    [Some(dx)]
}

#[cube(launch)]
fn activation(x: &Tensor<f32>, y: &mut Tensor<f32>, elements: u32, #[comptime] tanh: bool) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        // tanh(x) = 2 sigmoid(2 x) - 1 would cancel near zero.
        y[i] = if comptime!(tanh) { x[i].tanh() } else { sigmoid(x[i]) };
    }
}

#[cube(launch)]
fn activation_backward(y: &Tensor<f32>, dy: &Tensor<f32>, dx: &mut Tensor<f32>, elements: u32, #[comptime] tanh: bool) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let value = y[i];
        dx[i] = if comptime!(tanh) { dy[i] * (1.0 - value * value) } else { dy[i] * value * (1.0 - value) };
    }
}
