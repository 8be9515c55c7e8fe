//! `silu(gate) * up`: the gate of the feed-forward (Shazeer 2020, "GLU variants").
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

operator!(SwigluBackend, (), swiglu_forward, swiglu_backward, flex, 2, [gate, up], cube);

/// `y = gate / (1 + e^-gate) * up`, elementwise.
///
/// Shapes: `gate`, `up` and the result `[.., f]`. Saves nothing beside its inputs.
///
/// # Panics
/// When the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: shapes of gate and up");
    Tensor::from_dispatch(Dispatch::swiglu_forward((), gate.into_dispatch(), up.into_dispatch()).0)
}
