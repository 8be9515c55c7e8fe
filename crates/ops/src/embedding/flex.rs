//! CPU: rows copied, and added up in the order of the ids.

use crate::cpu::{Array, View, zeros};
use std::sync::Arc;

pub fn forward(ids: &Arc<[u32]>, [weight]: [View<'_>; 1]) -> (Array, Array) {
    let width = weight.width();
    let mut y = Vec::with_capacity(ids.len() * width);
    for &id in ids.iter() {
        y.extend_from_slice(&weight.data[id as usize * width..][..width]);
    }
    (Array::new(y, &[ids.len(), width]), Array::nothing())
}

pub fn backward(
    ids: &Arc<[u32]>,
    needs: [bool; 1],
    [weight]: [View<'_>; 1],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 1] {
    let width = weight.width();
    [needs[0].then(|| {
        let mut d_weight = zeros(weight.data.len());
        for (&id, dy) in ids.iter().zip(dy.data.chunks_exact(width.max(1))) {
            d_weight[id as usize * width..][..width].iter_mut().zip(dy).for_each(|(sum, d)| *sum += d);
        }
        Array::new(d_weight, weight.shape)
    })]
}
