//! CPU: one task a (sequence, head) pair.

use super::heads::{Dims, Head, HeadGradients};
use super::{Options, chunked, recurrent};
use crate::cpu::{Array, View};
use rayon::prelude::*;

pub fn forward(options: &Options, [r, logw, k, v, a, b, state]: [View<'_>; 7]) -> (Array, Array) {
    run_forward(options, r, logw, k, v, Some((a, b)), state)
}

pub fn backward(
    options: &Options,
    _needs: [bool; 7],
    [r, logw, k, v, a, b, state]: [View<'_>; 7],
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 7] {
    let (heads, dims) = run_backward(options, r, logw, k, v, Some((a, b)), state, saved, gradient);
    let ab = |pick: fn(&(Vec<f32>, Vec<f32>)) -> &Vec<f32>| {
        collect(&dims, &heads, a, |g| pick(g.ab.as_ref().expect("the delta rule has a and b")))
    };
    [
        collect(&dims, &heads, r, |g| &g.r),
        collect(&dims, &heads, logw, |g| &g.logw),
        collect(&dims, &heads, k, |g| &g.k),
        collect(&dims, &heads, v, |g| &g.v),
        ab(|x| &x.0),
        ab(|x| &x.1),
        collect_states(&heads, state),
    ]
}

/// Joins the heads' gradients of one input.
pub fn collect(
    dims: &Dims,
    heads: &[HeadGradients],
    like: View<'_>,
    pick: impl Fn(&HeadGradients) -> &Vec<f32>,
) -> Option<Array> {
    let mut out = vec![0.0; like.data.len()];
    let parts: Vec<&[f32]> = heads.iter().map(|g| pick(g).as_slice()).collect();
    dims.scatter(&parts, like.width(), &mut out);
    Some(Array::new(out, like.shape))
}

/// Joins the gradients of the initial states.
pub fn collect_states(heads: &[HeadGradients], like: View<'_>) -> Option<Array> {
    let data = heads.iter().flat_map(|g| g.state.iter().copied()).collect();
    Some(Array::new(data, like.shape))
}

fn dims(r: View<'_>, v: View<'_>) -> Dims {
    let [batch, tokens, heads, key] = r.shape.try_into().expect("r is [B, T, H, K]");
    Dims { batch, tokens, heads, key, value: v.width() }
}

fn head(dims: &Dims, index: usize, r: View<'_>, logw: View<'_>, k: View<'_>, v: View<'_>, ab: Option<(View<'_>, View<'_>)>) -> Head {
    let (b, h) = dims.pair(index);
    Head {
        r: dims.gather(r, b, h, dims.key),
        logw: dims.gather(logw, b, h, dims.key),
        k: dims.gather(k, b, h, dims.key),
        v: dims.gather(v, b, h, dims.value),
        ab: ab.map(|(x, y)| (dims.gather(x, b, h, dims.key), dims.gather(y, b, h, dims.key))),
    }
}

/// Forward pass of the delta rule, or of the decayed sum when `ab` is absent.
pub fn run_forward(
    options: &Options,
    r: View<'_>,
    logw: View<'_>,
    k: View<'_>,
    v: View<'_>,
    ab: Option<(View<'_>, View<'_>)>,
    state: View<'_>,
) -> (Array, Array) {
    let dims = dims(r, v);
    let size = dims.key * dims.value;
    let results: Vec<(Vec<f32>, Vec<f32>, Vec<f32>)> = (0..dims.batch * dims.heads)
        .into_par_iter()
        .map(|index| {
            let head = head(&dims, index, r, logw, k, v, ab);
            let mut current = state.data[index * size..(index + 1) * size].to_vec();
            match options.form.chunk(dims.tokens) {
                None => {
                    let outputs = recurrent::forward(&dims, &head, &mut current);
                    (outputs, current, Vec::new())
                }
                Some(chunk) => {
                    let mut starts = Vec::new();
                    let save = options.save.then_some(&mut starts);
                    let outputs = chunked::forward(&dims, &head, &mut current, chunk, save);
                    (outputs, current, starts)
                }
            }
        })
        .collect();

    let outputs = dims.batch * dims.tokens * dims.heads * dims.value;
    let total = outputs + if options.final_state { results.len() * size } else { 0 };
    let mut packed = vec![0.0; total];
    let parts: Vec<&[f32]> = results.iter().map(|x| x.0.as_slice()).collect();
    dims.scatter(&parts, dims.value, &mut packed[..outputs]);
    if options.final_state {
        for (slot, (_, last, _)) in packed[outputs..].chunks_mut(size.max(1)).zip(&results) {
            slot.copy_from_slice(last);
        }
    }
    let saved: Vec<f32> = results.into_iter().flat_map(|x| x.2).collect();
    let saved_size = saved.len();
    (Array::new(packed, &[total]), Array::new(saved, &[saved_size]))
}

/// Backward pass; the gradients of every pair, in order.
pub fn run_backward(
    options: &Options,
    r: View<'_>,
    logw: View<'_>,
    k: View<'_>,
    v: View<'_>,
    ab: Option<(View<'_>, View<'_>)>,
    state: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> (Vec<HeadGradients>, Dims) {
    let dims = dims(r, v);
    let size = dims.key * dims.value;
    let pairs = dims.batch * dims.heads;
    let outputs = dims.batch * dims.tokens * dims.heads * dims.value;
    let d_outputs = View {
        data: &gradient.data[..outputs],
        shape: &[dims.batch, dims.tokens, dims.heads, dims.value],
    };
    let heads = (0..pairs)
        .into_par_iter()
        .map(|index| {
            let (b, h) = dims.pair(index);
            let head = head(&dims, index, r, logw, k, v, ab);
            let d_o = dims.gather(d_outputs, b, h, dims.value);
            let d_final = if options.final_state {
                gradient.data[outputs + index * size..outputs + (index + 1) * size].to_vec()
            } else {
                vec![0.0; size]
            };
            match options.form.chunk(dims.tokens) {
                None => {
                    let initial = &state.data[index * size..(index + 1) * size];
                    recurrent::backward(&dims, &head, initial, &d_o, d_final)
                }
                Some(chunk) => {
                    let each = saved.data.len() / pairs;
                    let starts = &saved.data[index * each..(index + 1) * each];
                    chunked::backward(&dims, &head, starts, &d_o, d_final, chunk)
                }
            }
        })
        .collect();
    (heads, dims)
}
