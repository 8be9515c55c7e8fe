//! GPU: one unit an element. Backward, one a channel of every different id, which adds up the tokens that have
//! it in their order: the host, which knows the ids, sorts them.

use crate::cube::{CubeTensor, Gpu, elementwise, no_indices, nothing, reshaped, room, upload_indices};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::FloatDType;
use cubecl::prelude::*;
use std::sync::Arc;

pub fn forward(ids: &Arc<[u32]>, [weight]: [CubeTensor; 1]) -> (CubeTensor, CubeTensor) {
    let width = weight.meta.shape()[1];
    let y = room(&weight, &[ids.len(), width]);
    let saved = nothing(&weight);
    let (count, dim) = elementwise(ids.len() * width);
    let places = if ids.is_empty() { no_indices(&weight) } else { upload_indices(&weight, ids) };
    gather::launch(
        &weight.client.clone(),
        count,
        dim,
        weight.into_tensor_arg(),
        places.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        (ids.len() * width) as u32,
        width as u32,
    );
    (y, saved)
}

pub fn backward(
    ids: &Arc<[u32]>,
    needs: [bool; 1],
    [weight]: [CubeTensor; 1],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 1] {
    if !needs[0] {
        return [None];
    }
    let width = weight.meta.shape()[1];
    // Zeros of one dimension: rows of a matrix may be padded.
    let zeros = Gpu::float_zeros([weight.meta.num_elements()].into(), &weight.device, FloatDType::F32);
    let d_weight = reshaped(zeros, weight.meta.shape());
    // Tokens by id, and for every different id where its tokens begin; one more says where the last end.
    let mut tokens: Vec<u32> = (0..ids.len() as u32).collect();
    tokens.sort_by_key(|&token| ids[token as usize]);
    let first = |i: usize| i == 0 || ids[tokens[i] as usize] != ids[tokens[i - 1] as usize];
    let mut begins: Vec<u32> = (0..tokens.len()).filter(|&i| first(i)).map(|i| i as u32).collect();
    let different = begins.len();
    begins.push(tokens.len() as u32);
    if different > 0 {
        let (count, dim) = elementwise(different * width);
        let (ids, tokens) = (upload_indices(&weight, ids), upload_indices(&weight, &tokens));
        let begins = upload_indices(&weight, &begins);
        scatter::launch(
            &weight.client.clone(),
            count,
            dim,
            dy.into_tensor_arg(),
            ids.into_tensor_arg(),
            tokens.into_tensor_arg(),
            begins.into_tensor_arg(),
            d_weight.clone().into_tensor_arg(),
            (different * width) as u32,
            width as u32,
        );
    }
    [Some(d_weight)]
}

#[cube(launch)]
fn gather(weight: &Tensor<f32>, ids: &Tensor<u32>, y: &mut Tensor<f32>, elements: u32, width: u32) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let width = width as usize;
        y[i] = weight[ids[i / width] as usize * width + i % width];
    }
}

#[cube(launch)]
fn scatter(
    dy: &Tensor<f32>,
    ids: &Tensor<u32>,
    tokens: &Tensor<u32>,
    begins: &Tensor<u32>,
    d_weight: &mut Tensor<f32>,
    elements: u32,
    width: u32,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let width = width as usize;
        let (which, channel) = (i / width, i % width);
        let mut total = 0.0f32;
        for at in begins[which] as usize..begins[which + 1] as usize {
            total += dy[tokens[at] as usize * width + channel];
        }
        let id = ids[tokens[begins[which] as usize] as usize] as usize;
        d_weight[id * width + channel] = total;
    }
}
