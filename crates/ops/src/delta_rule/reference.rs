//! The delta rule, literally: one token after the other from plain tensor operations.

use burn::tensor::Tensor;

/// See [`super::delta_rule`]; here the state is required.
pub fn delta_rule(
    r: Tensor<4>,
    logw: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    a: Tensor<4>,
    b: Tensor<4>,
    state: Tensor<4>,
) -> (Tensor<4>, Tensor<4>) {
    let tokens = r.dims()[1];
    // Token t as a column [B, H, X, 1].
    let column = |x: &Tensor<4>, t: usize| x.clone().narrow(1, t, 1).swap_dims(1, 2).swap_dims(2, 3);
    let mut s = state;
    let mut outputs = Vec::with_capacity(tokens);
    for t in 0..tokens {
        let sa = s.clone().swap_dims(2, 3).matmul(column(&a, t)); // [B, H, V, 1]
        let decay = column(&logw, t).exp();
        s = s * decay + column(&b, t).matmul(sa.swap_dims(2, 3)) + column(&k, t).matmul(column(&v, t).swap_dims(2, 3));
        let o = s.clone().swap_dims(2, 3).matmul(column(&r, t)); // [B, H, V, 1]
        outputs.push(o.swap_dims(2, 3).swap_dims(1, 2)); // [B, 1, H, V]
    }
    (Tensor::cat(outputs, 1), s)
}
