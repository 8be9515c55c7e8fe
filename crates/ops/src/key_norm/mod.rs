//! Rows to length 1: the removal key of RWKV-7 (`torch.nn.functional.normalize`).
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// Shorter rows are divided by this, as PyTorch does, and not by their length.
pub const SHORTEST: f32 = 1e-12;

operator!(KeyNormBackend, (), key_norm_forward, key_norm_backward, flex, 1, [x], cube);

/// `y = x / max(|x|, 1e-12)` over the innermost dimension, with the Euclidean norm.
///
/// Shapes: `x` and the result `[.., N]`, usually `[B, T, H, N]`. Saves nothing beside its input.
pub fn key_norm<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::key_norm_forward((), x.into_dispatch()).0)
}
