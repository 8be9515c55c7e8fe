//! Products with weights of four to eight bits: `y = x W^T + b` where `W` stays quantised in memory.
//!
//! Decoding reads every weight for one token, so its speed is that of memory: fewer bits are more
//! tokens. [`QuantMatrix`] holds a weight in one of ggml's block formats, its bits woven for vector
//! instructions but not changed ([`formats`]). Inputs are rounded to bytes ([`round`]), products are
//! sums of integers ([`kernel`], [`lanes`]). For inference on the processor only; nothing here is
//! differentiable.
//!
//! Promise, held by `tests/quantised_kernels.rs`: the result is that of [`reference`] within the rounding of
//! the input; a row of it depends, to the bit, neither on the other rows nor on the number of threads.

pub mod formats;
mod kernel;
mod lanes;
mod matrix;
mod product;
mod quantise;
pub mod reference;
mod round;

pub use matrix::{QuantError, QuantMatrix};
pub use product::product;
pub(crate) use product::share;
pub use quantise::blocks as quantise;

use crate::cpu::written;
use crate::glue::{Array, contiguous, on_cpu, view, wrap};
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor};
use std::fmt;
use std::str::FromStr;

/// A block format of ggml.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the formats' own names")]
pub enum Format {
    /// 4 bits, one scale in 32.
    Q4_0,
    /// 4 bits, scale and offset in 32.
    Q4_1,
    /// 5 bits, one scale in 32.
    Q5_0,
    /// 5 bits, scale and offset in 32.
    Q5_1,
    /// 8 bits, one scale in 32.
    Q8_0,
    /// 4 bits, scales and minima of 6 bits in 256.
    Q4_K,
    /// 5 bits, scales and minima of 6 bits in 256.
    Q5_K,
    /// 6 bits, scales of 8 bits in 256.
    Q6_K,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 8] =
        [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Q4_K, Format::Q5_K, Format::Q6_K];
    /// Those that [`QuantMatrix::quantise`] makes.
    pub const MADE: [Format; 3] = [Format::Q8_0, Format::Q4_0, Format::Q4_1];

    /// Its name, as in options.
    pub fn name(self) -> &'static str {
        match self {
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q8_0 => "q8_0",
            Format::Q4_K => "q4_k",
            Format::Q5_K => "q5_k",
            Format::Q6_K => "q6_k",
        }
    }

    /// Elements and bytes of a block in a file.
    pub fn block(self) -> (usize, usize) {
        self.code().stored
    }
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Format::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| format!("expected one of {}, found {name}", Format::ALL.map(Format::name).join(", ")))
    }
}

/// Backend side.
#[backend_extension(Autodiff, Flex)]
pub trait QuantisedBackend: Backend {
    /// The product and a bias, if that is not empty.
    fn linear_quantised(x: FloatTensor<Self>, bias: FloatTensor<Self>, weight: QuantMatrix) -> FloatTensor<Self>;
}

impl QuantisedBackend for Flex {
    fn linear_quantised(x: FloatTensor<Self>, bias: FloatTensor<Self>, weight: QuantMatrix) -> FloatTensor<Self> {
        let (x, bias) = (contiguous(x), contiguous(bias));
        let (x, bias) = (view(&x), view(&bias));
        let mut shape = x.shape.to_vec();
        shape[x.shape.len() - 1] = weight.rows();
        let out = written(x.rows() * weight.rows(), |out| {
            product::product_into(out, x.data, &weight, (!bias.data.is_empty()).then_some(bias.data));
        });
        wrap(Array::new(out, &shape))
    }
}

impl<B: QuantisedBackend, C: CheckpointStrategy> QuantisedBackend for Autodiff<B, C> {
    fn linear_quantised(x: FloatTensor<Self>, bias: FloatTensor<Self>, weight: QuantMatrix) -> FloatTensor<Self> {
        let inner = |tensor| <Self as AutodiffBackend>::inner(tensor);
        <Self as AutodiffBackend>::from_inner(B::linear_quantised(inner(x), inner(bias), weight))
    }
}

/// Whether quantised weights can be multiplied with on this device: the processor.
pub fn on_processor(device: &Device) -> bool {
    on_cpu(&Tensor::<1>::empty([0], device))
}

/// `y[.., o] = sum_i x[.., i] weight[o, i] (+ bias[o])` with a quantised weight.
///
/// Shapes: `x` `[.., in]`, `weight` `[out, in]`, `bias` `[out]`; the result is `[.., out]`. Not
/// differentiable.
///
/// # Panics
/// When the inner sizes differ, `x` is tracked, or it is not on the processor.
pub fn linear_quantised<const D: usize>(x: Tensor<D>, weight: &QuantMatrix, bias: Option<Tensor<1>>) -> Tensor<D> {
    assert_eq!(x.dims()[D - 1], weight.columns(), "linear_quantised: x {:?} against {} inputs", x.dims(), weight.columns());
    assert!(!x.is_tracked(), "a quantised weight has no gradient, and passes none on");
    assert!(on_cpu(&x), "products with quantised weights are computed on the processor only");
    let bias = bias.unwrap_or_else(|| Tensor::empty([0], &x.device()));
    Tensor::from_dispatch(Dispatch::linear_quantised(x.into_dispatch(), bias.into_dispatch(), weight.clone()))
}
