//! `rope` from plain tensor operations.

use super::RopeTable;
use burn::tensor::{Tensor, TensorData};

/// See [`super::rope`]; `positions` has `B * T` entries.
pub fn rope(x: Tensor<4>, table: &RopeTable, positions: &[u32]) -> Tensor<4> {
    let [batch, time, heads, size] = x.dims();
    let half = size / 2;
    let rows = |values: &[f32]| {
        let picked: Vec<f32> =
            positions.iter().flat_map(|&p| values[p as usize * half..(p as usize + 1) * half].to_vec()).collect();
        Tensor::<4>::from_data(TensorData::new(picked, [batch, time, 1, half]), &x.device())
    };
    let (cos, sin) = (rows(&table.cos), rows(&table.sin));
    let low = x.clone().slice([0..batch, 0..time, 0..heads, 0..half]);
    let high = x.slice([0..batch, 0..time, 0..heads, half..size]);
    Tensor::cat(vec![low.clone() * cos.clone() - high.clone() * sin.clone(), high * cos + low * sin], 3)
}
