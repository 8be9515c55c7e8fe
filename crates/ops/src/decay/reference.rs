//! The decayed sum, literally.

use burn::tensor::Tensor;

/// See [`super::decayed_sum`]; here the state is required.
pub fn decayed_sum(q: Tensor<4>, logw: Tensor<4>, k: Tensor<4>, v: Tensor<4>, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let column = |x: &Tensor<4>, t: usize| x.clone().narrow(1, t, 1).swap_dims(1, 2).swap_dims(2, 3);
    let mut s = state;
    let mut outputs = Vec::new();
    for t in 0..q.dims()[1] {
        s = s * column(&logw, t).exp() + column(&k, t).matmul(column(&v, t).swap_dims(2, 3));
        let o = s.clone().swap_dims(2, 3).matmul(column(&q, t));
        outputs.push(o.swap_dims(2, 3).swap_dims(1, 2));
    }
    (Tensor::cat(outputs, 1), s)
}
