//! `attention` from plain tensor operations, all scores at once.

use super::{AttentionOptions, Mask};
use burn::tensor::{Tensor, TensorData, activation::softmax};

/// See [`super::attention`]; every query must see a key.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: &AttentionOptions) -> Tensor<4> {
    let ([batch, time, heads, size], [_, keys, groups, _]) = (q.dims(), k.dims());
    let mut mask = Vec::with_capacity(batch * time * keys);
    for b in 0..batch {
        for t in 0..time {
            for key in 0..keys {
                let position = (keys + t) as i64 - time as i64;
                let distance = position - key as i64;
                let by_position = match options.mask {
                    Mask::Causal => distance >= 0,
                    Mask::Window(window) => distance >= 0 && distance < window as i64,
                    Mask::Bidirectional => true,
                    Mask::Blocks(size) => key as i64 / size as i64 <= position / size as i64,
                };
                let row = b * time + t;
                let seen = by_position
                    && options.first_visible.as_ref().is_none_or(|first| key >= first[row] as usize)
                    && options.end_visible.as_ref().is_none_or(|end| key < end[row] as usize)
                    || options.also_visible.as_ref().is_some_and(|also| {
                        let [start, end] = also[row];
                        (start as usize..end as usize).contains(&key)
                    });
                mask.push(if seen { 0.0f32 } else { -1e9 });
            }
        }
    }
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [batch, 1, time, keys]), &q.device());
    let spread = |x: Tensor<4>| {
        x.swap_dims(1, 2)
            .reshape([batch, groups, 1, keys, size])
            .repeat_dim(2, heads / groups)
            .reshape([batch, heads, keys, size])
    };
    let scale = options.scale.unwrap_or_else(|| (size as f32).powf(-0.5));
    let scores = q.swap_dims(1, 2).matmul(spread(k).transpose()) * scale;
    softmax(scores + mask, 3).matmul(spread(v)).swap_dims(1, 2)
}
