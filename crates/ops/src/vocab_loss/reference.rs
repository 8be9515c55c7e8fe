//! The losses from plain tensor operations, all logits at once.

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};

fn column(values: &[f32], like: &Tensor<2>) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len(), 1]), &like.device())
}

/// See [`super::token_log_probabilities`]: `[n, 1]`.
pub fn token_log_probabilities(hidden: Tensor<2>, weight: Tensor<2>, targets: &[u32]) -> Tensor<2> {
    let targets: Vec<i32> = targets.iter().map(|&t| t as i32).collect();
    let indices = Tensor::<2, Int>::from_data(TensorData::new(targets.clone(), [targets.len(), 1]), &hidden.device());
    log_softmax(hidden.matmul(weight.transpose()), 1).gather(1, indices)
}

/// See [`super::cross_entropy`].
pub fn cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: &[u32], weights: &[f32], denominator: f32) -> Tensor<1> {
    let weights = column(weights, &hidden);
    (token_log_probabilities(hidden, weight, targets) * weights).sum() / -denominator
}

/// See [`super::teacher_kl`].
pub fn teacher_kl(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    teacher_hidden: Tensor<2>,
    teacher_weight: Tensor<2>,
    weights: &[f32],
    denominator: f32,
) -> Tensor<1> {
    let weights = column(weights, &hidden);
    let student = log_softmax(hidden.matmul(weight.transpose()), 1);
    let teacher = log_softmax(teacher_hidden.matmul(teacher_weight.transpose()), 1);
    let divergence = (teacher.clone().exp() * (teacher - student)).sum_dim(1);
    (divergence * weights).sum() / denominator
}
