//! GPU: burn's matrix products; operands in bf16 where the process asks for it, results in f32.

use super::kept::Options;
use super::{Layout, Precision, precision};
use crate::cube::{CubeTensor, Gpu, contiguous, nothing, reshaped};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::FloatDType;

/// `left [.., m, k] right [.., k, n]`, at the process's precision.
pub fn product(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    contiguous(match precision() {
        Precision::F32 => Gpu::float_matmul(left, right),
        Precision::Bf16 => {
            let [left, right] = [left, right].map(|x| Gpu::float_cast(x, FloatDType::BF16));
            Gpu::float_cast(Gpu::float_matmul(left, right), FloatDType::F32)
        }
    })
}

/// `[m, n]` read as `[n, m]`.
pub fn transposed(tensor: CubeTensor) -> CubeTensor {
    Gpu::float_swap_dims(tensor, 0, 1)
}

/// All leading dimensions in one.
fn flat(tensor: CubeTensor, width: usize) -> CubeTensor {
    let rows = tensor.meta.num_elements() / width.max(1);
    reshaped(tensor, &[rows, width])
}

pub fn forward(&Options { layout, .. }: &Options, [x, weight]: [CubeTensor; 2]) -> (CubeTensor, CubeTensor) {
    let (inner, outer) = (layout.inner(weight.meta.shape()), layout.outer(weight.meta.shape()));
    let mut shape = x.meta.shape().to_vec();
    shape.pop();
    shape.push(outer);
    let saved = nothing(&x);
    let matrix = if layout == Layout::OutIn { transposed(weight) } else { weight };
    (reshaped(product(flat(x, inner), matrix), &shape), saved)
}

pub fn backward(
    &Options { layout, .. }: &Options,
    needs: [bool; 2],
    [x, weight]: [CubeTensor; 2],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 2] {
    let (inner, outer) = (layout.inner(weight.meta.shape()), layout.outer(weight.meta.shape()));
    let shape = x.meta.shape().to_vec();
    let (x, dy) = (flat(x, inner), flat(dy, outer));
    let dx = needs[0].then(|| {
        let matrix = if layout == Layout::OutIn { weight } else { transposed(weight) };
        reshaped(product(dy.clone(), matrix), &shape)
    });
    let dw = needs[1].then(|| match layout {
        Layout::OutIn => product(transposed(dy), x),
        Layout::InOut => product(transposed(x), dy),
    });
    [dx, dw]
}
