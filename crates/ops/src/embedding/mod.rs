//! Rows of a matrix by number: how tokens enter a model.
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

operator!(EmbeddingBackend, Arc<[u32]>, rows_forward, rows_backward, flex, 1, [weight], cube);

/// `y[i] = weight[ids[i]]`.
///
/// Shapes: `weight` `[V, C]`, the result `[ids, C]`. Rows that are asked for several times gather the sum
/// of their gradients, in the order of `ids`.
///
/// # Panics
/// When an id is not below `V`.
pub fn embedding(weight: Tensor<2>, ids: Arc<[u32]>) -> Tensor<2> {
    let [rows, _] = weight.dims();
    if let Some(&id) = ids.iter().max() {
        assert!((id as usize) < rows, "embedding: row {id} of {rows}");
    }
    Tensor::from_dispatch(Dispatch::rows_forward(ids, weight.into_dispatch()).0)
}
