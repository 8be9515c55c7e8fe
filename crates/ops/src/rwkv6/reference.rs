//! The operator from plain tensor operations and the literal recurrence.

use super::{Inputs, STRONGEST_LOG_DECAY, Settings};
use crate::decay::reference::decayed_sum;
use crate::delta_rule::END;
use burn::tensor::{Tensor, TensorData};

/// See [`super::rwkv6`]; here the state is required.
pub fn rwkv6(inputs: Inputs, state: Tensor<4>, settings: &Settings) -> (Tensor<4>, Tensor<4>) {
    let [b, t, h, n] = inputs.q.dims();
    let repeat = |x: Tensor<4>| {
        let heads = x.dims()[2];
        x.reshape([b, t, heads, 1, n]).repeat_dim(3, h / heads).reshape([b, t, h, n])
    };
    let decay = inputs.decay.reshape([b, t, h, n]) + inputs.bias.reshape([1, 1, h, n]);
    let mut logw = decay.exp().neg().clamp_min(STRONGEST_LOG_DECAY);
    let mut k = repeat(inputs.k);
    if inputs.balanced {
        k = k * logw.clone().exp().neg().add_scalar(1.0);
    }
    if let Some(starts) = &settings.starts {
        let mask = |at_start: f32, elsewhere: f32| {
            let data: Vec<f32> = starts.iter().map(|&s| if s { at_start } else { elsewhere }).collect();
            Tensor::<4>::from_data(TensorData::new(data, [b, t, 1, 1]), &logw.device().inner())
        };
        let (keep, end) = (mask(0.0, 1.0), mask(END, 0.0));
        logw = logw * keep + end;
    }
    let v = repeat(inputs.v);
    let (y, last) = decayed_sum(inputs.q, logw, k, v, state);
    let y = y.mul_scalar(settings.scale);
    match inputs.gate {
        Some(gate) => (y * gate.reshape([b, t, h, n]), last),
        None => (y, last),
    }
}
