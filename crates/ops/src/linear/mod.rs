//! `y = x W^T + b`: every projection, with `W` stored as `[out, in]` like the checkpoints do, or
//! `y = x W` for the few that store `[in, out]`.

#[cfg(feature = "cube")]
pub(crate) mod cube;
mod flex;
mod kept;
pub mod reference;
pub mod rows;

pub use kept::{Operand, Packed};

use crate::cpu::{Matrix, bf16, matmul, matmul_threads, matmul_threads_new};
use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor};
use kept::Options;
use std::sync::atomic::{AtomicBool, Ordering};

/// Precision of matrix products with weights; accumulation and weights are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 operands.
    F32,
    /// Operands rounded to bfloat16, forward and backward, where the processor has instructions
    /// for it that are faster ([`bf16::available`]), and caches of keys and values too; f32 operands elsewhere.
    Bf16,
}

static BF16: AtomicBool = AtomicBool::new(false);

/// Sets the precision of the process.
pub fn set_precision(precision: Precision) {
    BF16.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// The precision that was asked for.
pub fn precision() -> Precision {
    if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}

/// What products with weights on this device are computed at: f32 where bf16 was asked for of a processor
/// without instructions for it, or of a GPU that does not know the type.
pub fn precision_on(device: &Device) -> Precision {
    let device = device.clone().inner();
    if device == Device::flex() {
        on_processor()
    } else if precision() == Precision::Bf16 && device.supports_dtype(burn::tensor::FloatDType::BF16) {
        Precision::Bf16
    } else {
        Precision::F32
    }
}

/// What products of many rows are computed at on the processor.
pub fn on_processor() -> Precision {
    if bf16::available() { precision() } else { Precision::F32 }
}

/// Fewest rows that repay the rounding and packing of a weight.
const BF16_ROWS: usize = 16;

/// Whether operands of a product of so many rows are rounded.
pub(crate) fn rounds(rows: usize) -> bool {
    rows >= BF16_ROWS && on_processor() == Precision::Bf16
}

/// `out = left right`, or `out += left right` with `accumulate`, at the process's precision, over
/// the thread pool.
pub(crate) fn product(out: &mut [f32], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    if rounds(left.height()) {
        bf16::matmul_threads(out, out_stride, accumulate, left, right);
    } else {
        matmul_threads(out, out_stride, if accumulate { 1.0 } else { 0.0 }, left, right);
    }
}

/// The product as a new array.
pub(crate) fn product_new(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    if rounds(left.height()) { bf16::matmul_threads_new(left, right) } else { matmul_threads_new(left, right) }
}

/// Whether products inside attention and recurrences, of operands in cache, are of bf16 operands.
pub(crate) fn rounds_in_cache() -> bool {
    precision() == Precision::Bf16 && bf16::available_in_cache(usize::MAX, usize::MAX, usize::MAX)
}

/// [`product`] on the calling thread, for operands in cache.
pub(crate) fn product_in_cache(out: &mut [f32], out_stride: usize, accumulate: bool, left: Matrix<'_>, right: Matrix<'_>) {
    let [m, n, k] = [left.height(), right.t().height(), right.height()];
    if precision() == Precision::Bf16 && bf16::available_in_cache(m, n, k) {
        bf16::matmul_in_cache(out, out_stride, accumulate, left, right);
    } else {
        matmul(out, out_stride, if accumulate { 1.0 } else { 0.0 }, left, right);
    }
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`.
    InOut,
}

impl Layout {
    fn outer(self, shape: &[usize]) -> usize {
        shape[if self == Layout::OutIn { 0 } else { 1 }]
    }

    fn inner(self, shape: &[usize]) -> usize {
        shape[if self == Layout::OutIn { 1 } else { 0 }]
    }
}

operator!(LinearBackend, Options, linear_forward, linear_backward, flex, 2, [x, weight], cube);

/// `y[.., o] = sum_i x[.., i] weight[o, i] (+ bias[o])`.
///
/// Shapes: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]`; the result is `[.., out]`.
///
/// # Panics
/// When the inner sizes differ.
pub fn linear<const D: usize>(x: Tensor<D>, weight: impl Into<Operand>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let y = run(x, weight.into(), Layout::OutIn);
    match bias {
        Some(bias) => y + bias.unsqueeze::<D>(),
        None => y,
    }
}

/// `y[.., o] = sum_i x[.., i] matrix[i, o]`: [`linear`] for a weight stored input-major, as the
/// low-rank parts of RWKV are.
///
/// # Panics
/// When the inner sizes differ.
pub fn linear_in_out<const D: usize>(x: Tensor<D>, matrix: impl Into<Operand>) -> Tensor<D> {
    run(x, matrix.into(), Layout::InOut)
}

fn run<const D: usize>(x: Tensor<D>, Operand { weight, packed }: Operand, layout: Layout) -> Tensor<D> {
    let inner = layout.inner(&weight.dims());
    assert_eq!(x.dims()[D - 1], inner, "linear: x {:?} against weight {:?} ({layout:?})", x.dims(), weight.dims());
    let options = Options { layout, packed };
    Tensor::from_dispatch(Dispatch::linear_forward(options, x.into_dispatch(), weight.into_dispatch()).0)
}
