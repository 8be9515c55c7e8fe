//! The operator from plain tensor operations and the literal recurrence.

use super::{DECAY_RANGE, Inputs, Keys, Settings};
use crate::delta_rule::END;
use crate::delta_rule::reference::delta_rule;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Tensor, TensorData};

/// See [`super::rwkv7`]; here the state is required.
pub fn rwkv7(inputs: Inputs, state: Tensor<4>, settings: &Settings) -> (Tensor<4>, Tensor<4>) {
    let [b, t, h, n] = inputs.r.dims();
    let repeat = |x: Tensor<4>| {
        let heads = x.dims()[2];
        x.reshape([b, t, heads, 1, n]).repeat_dim(3, h / heads).reshape([b, t, h, n])
    };
    let heads = |x: Tensor<3>| x.reshape([b, t, h, n]);
    let channels = |x: Tensor<1>| x.reshape([1, 1, h, n]);
    let [decay_bias, iclr_bias] = inputs.biases;

    let logw = sigmoid(heads(inputs.decay) + channels(decay_bias)).mul_scalar(-DECAY_RANGE);
    let iclr = sigmoid(heads(inputs.iclr) + channels(iclr_bias));
    let (k, mut v) = (repeat(inputs.k), repeat(inputs.v));
    if let Some(residual) = inputs.residual {
        let mix = sigmoid(heads(residual.mix) + channels(residual.bias));
        v = v.clone() + (repeat(residual.first) - v) * mix;
    }
    let (direction, k) = match inputs.keys {
        Keys::Balanced => (k.clone(), k * (logw.clone().exp().neg() + iclr.clone()).add_scalar(1.0)),
        Keys::Stock { k_k, k_a } => {
            let scale = ((iclr.clone().sub_scalar(1.0)) * channels(k_a)).add_scalar(1.0);
            (k.clone() * channels(k_k), k * scale)
        }
    };
    let length = (direction.clone() * direction.clone()).sum_dim(3).sqrt().clamp_min(crate::key_norm::SHORTEST);
    let kap = direction / length;
    let mut a = kap.clone().neg();
    let mut logw = logw;
    if let Some(starts) = &settings.starts {
        let mask = |at_start: f32, elsewhere: f32| {
            let data: Vec<f32> = starts.iter().map(|&s| if s { at_start } else { elsewhere }).collect();
            Tensor::<4>::from_data(TensorData::new(data, [b, t, 1, 1]), &a.device().inner())
        };
        let (keep, end) = (mask(0.0, 1.0), mask(END, 0.0));
        a = a * keep.clone();
        logw = logw * keep + end;
    }
    let (y, last) = delta_rule(inputs.r, logw, k, v, a, kap * iclr, state);
    let y = y.mul_scalar(settings.scale);
    match inputs.gate {
        Some(gate) => (y * heads(gate), last),
        None => (y, last),
    }
}
