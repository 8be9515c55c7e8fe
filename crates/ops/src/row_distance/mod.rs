//! Weighted sum of the Euclidean distances of rows: what output alignment minimises. One pass over
//! both arrays each way, where tensor operations take eight.
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Squares below this count as this, and pull nowhere: the gradient of a norm at zero is zero.
pub const SMALLEST_SQUARE: f32 = 1e-30;

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    scale: f32,
    /// One a row, or 1 each.
    weights: Option<Arc<[f32]>>,
}

operator!(RowDistanceBackend, Options, row_distance_forward, row_distance_backward, flex, 2, [given, wanted], cube);

/// `scale * sum_i weights[i] * |given[i] - wanted[i]|`, a row each of the innermost dimension
/// (RADLADS, arXiv 2505.03005, section 4.2: not squared).
///
/// Shapes: `given` and `wanted` `[.., C]`, `weights` one a row; the result is `[1]`. `wanted` gets no
/// gradient.
///
/// # Panics
/// When the shapes differ or there is not one weight a row.
pub fn row_distance<const D: usize>(given: Tensor<D>, wanted: Tensor<D>, weights: Option<Arc<[f32]>>, scale: f32) -> Tensor<1> {
    let shape = given.dims();
    assert_eq!(shape, wanted.dims(), "row_distance: shapes of what is given and wanted");
    let rows: usize = shape[..D - 1].iter().product();
    if let Some(weights) = &weights {
        assert_eq!(weights.len(), rows, "row_distance: one weight a row");
    }
    let options = Options { scale, weights };
    Tensor::from_dispatch(Dispatch::row_distance_forward(options, given.into_dispatch(), wanted.detach().into_dispatch()).0)
}
