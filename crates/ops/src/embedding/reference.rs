//! The operator as burn has it.

use burn::tensor::{Tensor, TensorData};

/// See [`super::embedding`].
pub fn embedding(weight: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let ids = TensorData::new(ids.iter().map(|&id| id as i32).collect::<Vec<_>>(), [ids.len()]);
    let ids = Tensor::from_data(ids, &weight.device());
    weight.select(0, ids)
}
