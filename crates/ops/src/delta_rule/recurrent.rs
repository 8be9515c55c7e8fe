//! Token by token: the decode step, and the slow-but-simple form of the whole recurrence.

use super::heads::{Dims, Head, HeadGradients};

/// Advances `state` `[K, V]` over the head's tokens; returns outputs `[T, V]`.
pub fn forward(dims: &Dims, head: &Head, state: &mut [f32]) -> Vec<f32> {
    let mut outputs = vec![0.0; dims.tokens * dims.value];
    for t in 0..dims.tokens {
        step(dims, head, t, state, &mut outputs[t * dims.value..(t + 1) * dims.value]);
    }
    outputs
}

fn step(dims: &Dims, head: &Head, t: usize, state: &mut [f32], output: &mut [f32]) {
    let (key, value) = (dims.key, dims.value);
    let at = |x: &[f32], n: usize| x[t * key + n];
    let v = &head.v[t * value..(t + 1) * value];
    let mut sa = vec![0.0; value];
    if let Some((a, _)) = &head.ab {
        for n in 0..key {
            add_scaled(&mut sa, at(a, n), &state[n * value..(n + 1) * value]);
        }
    }
    output.fill(0.0);
    for n in 0..key {
        let row = &mut state[n * value..(n + 1) * value];
        let (w, k, r) = (at(&head.logw, n).exp(), at(&head.k, n), at(&head.r, n));
        let b = head.ab.as_ref().map_or(0.0, |(_, b)| at(b, n));
        for (((s, &v), &sa), o) in row.iter_mut().zip(v).zip(&sa).zip(output.iter_mut()) {
            *s = w * *s + b * sa + k * v;
            *o += *s * r;
        }
    }
}

/// Gradients from `d_outputs` `[T, V]` and the gradient of the final state; `initial` is the state
/// before the first token. States inside are recomputed from it, every one of them stored.
pub fn backward(dims: &Dims, head: &Head, initial: &[f32], d_outputs: &[f32], d_final: Vec<f32>) -> HeadGradients {
    let (tokens, key, value) = (dims.tokens, dims.key, dims.value);
    let size = key * value;
    let mut states = Vec::with_capacity((tokens + 1) * size);
    states.extend_from_slice(initial);
    let mut current = initial.to_vec();
    let mut discard = vec![0.0; value];
    for t in 0..tokens {
        step(dims, head, t, &mut current, &mut discard);
        states.extend_from_slice(&current);
    }

    let zeros = |width: usize| vec![0.0; tokens * width];
    let mut g = HeadGradients {
        r: zeros(key),
        logw: zeros(key),
        k: zeros(key),
        v: zeros(value),
        ab: head.ab.as_ref().map(|_| (zeros(key), zeros(key))),
        state: d_final,
    };
    let mut sa = vec![0.0; value];
    let mut d_sa = vec![0.0; value];
    for t in (0..tokens).rev() {
        let (before, after) = (&states[t * size..(t + 1) * size], &states[(t + 1) * size..(t + 2) * size]);
        let d_o = &d_outputs[t * value..(t + 1) * value];
        let v = &head.v[t * value..(t + 1) * value];
        sa.fill(0.0);
        d_sa.fill(0.0);
        if let Some((a, _)) = &head.ab {
            for n in 0..key {
                add_scaled(&mut sa, a[t * key + n], &before[n * value..(n + 1) * value]);
            }
        }
        for n in 0..key {
            let i = t * key + n;
            let rows = n * value..(n + 1) * value;
            let d = &mut g.state[rows.clone()];
            g.r[i] = dot(&after[rows.clone()], d_o);
            add_scaled(d, head.r[i], d_o);
            let w = head.logw[i].exp();
            g.logw[i] = w * dot(d, &before[rows]);
            g.k[i] = dot(d, v);
            add_scaled(&mut g.v[t * value..(t + 1) * value], head.k[i], d);
            if let (Some((_, b)), Some((_, d_b))) = (&head.ab, &mut g.ab) {
                d_b[i] = dot(d, &sa);
                add_scaled(&mut d_sa, b[i], d);
            }
            d.iter_mut().for_each(|x| *x *= w);
        }
        if let (Some((a, _)), Some((d_a, _))) = (&head.ab, &mut g.ab) {
            for n in 0..key {
                let i = t * key + n;
                let rows = n * value..(n + 1) * value;
                d_a[i] = dot(&before[rows.clone()], &d_sa);
                add_scaled(&mut g.state[rows], a[i], &d_sa);
            }
        }
    }
    g
}

fn add_scaled(y: &mut [f32], scale: f32, x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
