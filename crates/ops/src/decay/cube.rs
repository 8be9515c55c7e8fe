//! GPU: the delta rule's kernels without the rank-one part.

use crate::cube::CubeTensor;
use crate::delta_rule::cube::{Inputs, gradients, run};
use crate::delta_rule::layer::Options;

type Tensors = [CubeTensor; 5];

fn named([q, logw, k, v, state]: Tensors) -> Inputs {
    Inputs { r: q, logw, k, v, ab: None, state, gate: None }
}

pub fn forward(options: &Options, inputs: Tensors) -> (CubeTensor, CubeTensor) {
    run(options, named(inputs))
}

pub fn backward(
    options: &Options,
    _: [bool; 5],
    inputs: Tensors,
    _output: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
) -> [Option<CubeTensor>; 5] {
    let of = gradients(options, named(inputs), saved, gradient, [&[0]; 3]).apart();
    [Some(of.r), Some(of.logw), Some(of.k), Some(of.v), Some(of.state)]
}
