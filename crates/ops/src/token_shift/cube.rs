//! GPU: one unit an element.

use super::Options;
use crate::cube::{CubeTensor, Together, elementwise, flags, nothing, or_nothing, passed, room, sum_rows};
use cubecl::prelude::*;

type Tensors = [CubeTensor; 4];

pub fn forward(options: &Options, [x, previous, base, amount]: Tensors) -> (CubeTensor, CubeTensor) {
    let &[batch, time, width] = x.meta.shape().as_slice() else { unreachable!("the operator takes three dimensions") };
    let y = room(&x, x.meta.shape());
    let saved = nothing(&x);
    let (starts, documents) = flags(&x, options.starts.as_deref());
    let ((previous, has_previous), (amount, has_amount)) = (or_nothing(previous), or_nothing(amount));
    let (count, dim) = elementwise(batch * time * width);
    token_shift::launch(
        &x.client.clone(),
        count,
        dim,
        x.into_tensor_arg(),
        previous.into_tensor_arg(),
        base.into_tensor_arg(),
        amount.into_tensor_arg(),
        starts.into_tensor_arg(),
        y.clone().into_tensor_arg(),
        (batch * time) as u32,
        time as u32,
        width as u32,
        has_previous,
        has_amount,
        documents,
    );
    (y, saved)
}

pub fn backward(
    options: &Options,
    _: [bool; 4],
    [x, previous, base, amount]: Tensors,
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 4] {
    let &[batch, time, width] = x.meta.shape().as_slice() else { unreachable!("the operator takes three dimensions") };
    let (starts, documents) = flags(&x, options.starts.as_deref());
    let ((previous, has_previous), (amount, has_amount)) = (or_nothing(previous), or_nothing(amount));
    let mut all = Together::default();
    let d_x = all.add(x.meta.shape());
    // Its sums are the base's gradient, wanted or not.
    let d_amount = all.add(&[batch * time * width]);
    let d_previous = if has_previous { all.add(&[batch * width]) } else { 0 };
    let out = all.room(&x);
    let (count, dim) = elementwise(batch * time * width);
    token_shift_backward::launch(
        &x.client.clone(),
        count,
        dim,
        x.into_tensor_arg(),
        previous.into_tensor_arg(),
        base.into_tensor_arg(),
        amount.into_tensor_arg(),
        starts.into_tensor_arg(),
        dy.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        d_x,
        d_amount,
        d_previous,
        (batch * time) as u32,
        time as u32,
        width as u32,
        has_previous,
        has_amount,
        documents,
    );
    let mut parts = all.parts(&out);
    let (d_x, d_amount) = (parts.next(), parts.next().expect("added above"));
    let d_base = sum_rows(d_amount.clone(), &[width]);
    [d_x, parts.next(), Some(d_base), has_amount.then_some(d_amount)]
}

/// What stands before element `i`, a token's channel, of `[B T, width]`.
#[cube]
fn before(
    x: &Tensor<f32>,
    previous: &Tensor<f32>,
    starts: &Tensor<u32>,
    i: usize,
    time: usize,
    width: usize,
    #[comptime] has_previous: bool,
    #[comptime] documents: bool,
) -> f32 {
    let token = i / width;
    let mut before = 0.0f32;
    if token % time > 0 {
        before = x[i - width];
    } else if comptime!(has_previous) {
        before = previous[token / time * width + i % width];
    }
    passed(before, starts, token, documents)
}

/// How much of what stands before element `i` is taken.
#[cube]
fn taken(base: &Tensor<f32>, amount: &Tensor<f32>, i: usize, width: usize, #[comptime] has_amount: bool) -> f32 {
    let mut share = base[i % width];
    if comptime!(has_amount) {
        share += amount[i];
    }
    share
}

#[cube(launch)]
fn token_shift(
    x: &Tensor<f32>,
    previous: &Tensor<f32>,
    base: &Tensor<f32>,
    amount: &Tensor<f32>,
    starts: &Tensor<u32>,
    y: &mut Tensor<f32>,
    tokens: u32,
    time: u32,
    width: u32,
    #[comptime] has_previous: bool,
    #[comptime] has_amount: bool,
    #[comptime] documents: bool,
) {
    let i = ABSOLUTE_POS;
    let (time, width) = (time as usize, width as usize);
    if i / width < tokens as usize {
        let share = taken(base, amount, i, width, has_amount);
        let before = before(x, previous, starts, i, time, width, has_previous, documents);
        y[i] = x[i] + (before - x[i]) * share;
    }
}

// dx_t = dy_t (1 - m_t) + dy_{t+1} m_{t+1} where a token follows that sees this one.
#[cube(launch)]
fn token_shift_backward(
    x: &Tensor<f32>,
    previous: &Tensor<f32>,
    base: &Tensor<f32>,
    amount: &Tensor<f32>,
    starts: &Tensor<u32>,
    dy: &Tensor<f32>,
    out: &mut Tensor<f32>,
    d_x: u32,
    d_amount: u32,
    d_previous: u32,
    tokens: u32,
    time: u32,
    width: u32,
    #[comptime] has_previous: bool,
    #[comptime] has_amount: bool,
    #[comptime] documents: bool,
) {
    let i = ABSOLUTE_POS;
    let (time, width) = (time as usize, width as usize);
    let (token, channel) = (i / width, i % width);
    if token < tokens as usize {
        let share = taken(base, amount, i, width, has_amount);
        let mut d = dy[i] * (1.0 - share);
        if token % time + 1 < time {
            let later = taken(base, amount, i + width, width, has_amount);
            d += passed(dy[i + width] * later, starts, token + 1, documents);
        }
        out[d_x as usize + i] = d;
        let before = before(x, previous, starts, i, time, width, has_previous, documents);
        out[d_amount as usize + i] = dy[i] * (before - x[i]);
        if comptime!(has_previous) {
            if token % time == 0 {
                let at = d_previous as usize + token / time * width + channel;
                out[at] = passed(dy[i] * share, starts, token, documents);
            }
        }
    }
}
