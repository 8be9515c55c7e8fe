//! GPU: burn's matrix products; operands in bf16 where the process asks for it, results in f32.

use super::kept::Options;
use super::{Layout, Precision, precision};
use crate::cube::{CubeTensor, Gpu, contiguous, nothing, reshaped, room, sum_rows};
use burn::backend::Backend;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};

/// Rounded to bf16 where the process computes so and the device can: once, for what is multiplied with often.
pub fn rounded(x: CubeTensor) -> CubeTensor {
    if x.dtype == DType::F32 && precision() == Precision::Bf16 && Gpu::supports_dtype(&x.device, DType::BF16) {
        Gpu::float_cast(x, FloatDType::BF16)
    } else {
        x
    }
}

/// `left [.., m, k] right [.., k, n]`, at the process's precision; sums and results are f32.
pub fn product(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    let (left, right) = (rounded(left), rounded(right));
    let (last, rank) = (right.meta.shape()[right.meta.shape().len() - 1], left.meta.shape().len());
    let mut shape = left.meta.shape().to_vec();
    shape[rank - 1] = last;
    // An output of our own is contiguous and f32: neither a copy nor a cast follows.
    let out = room(&left, &shape);
    if left.meta.num_elements() == 0 || right.meta.num_elements() == 0 {
        // Sums of nothing.
        let zeros = Gpu::float_zeros([shape.iter().product::<usize>()].into(), &left.device, FloatDType::F32);
        return reshaped(zeros, &shape);
    }
    match matmul(left.clone(), right.clone(), Some(out), MatmulStrategy::default(), DType::F32) {
        Ok(out) => out,
        // Operands and output of different types are not for every kernel.
        Err(_) => {
            let [left, right] = [left, right].map(|x| Gpu::float_cast(x, FloatDType::F32));
            contiguous(Gpu::float_matmul(left, right))
        }
    }
}

/// Rows, at least, that one of the products has which [`sum_of_products`] divides into.
const ROWS: usize = 256;
/// Tiles that keep a large card busy, and how wide one is.
const TILES: usize = 512;
const TILE: usize = 128;

/// `left^T right` of `[rows, m]` and `[rows, n]`: the gradient of a weight. Many rows and a small result leave
/// most of a card idle, so that rows are divided into products of their own, which are added up.
fn sum_of_products(left: CubeTensor, right: CubeTensor) -> CubeTensor {
    let (rows, m, n) = (left.meta.shape()[0], left.meta.shape()[1], right.meta.shape()[1]);
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    let mut parts = 1;
    while rows.is_multiple_of(2 * parts) && rows / (2 * parts) >= ROWS && 2 * parts * tiles <= TILES {
        parts *= 2;
    }
    if parts == 1 {
        return product(transposed(left), right);
    }
    let [left, right] = [(left, m), (right, n)].map(|(x, width)| reshaped(contiguous(x), &[parts, rows / parts, width]));
    let sums = product(Gpu::float_swap_dims(left, 1, 2), right);
    sum_rows(reshaped(sums, &[parts, m * n]), &[m, n])
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
        Layout::OutIn => sum_of_products(dy, x),
        Layout::InOut => sum_of_products(x, dy),
    });
    [dx, dw]
}
