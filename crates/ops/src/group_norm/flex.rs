//! CPU: mean, variance and output while a head is in the cache; saves mean and inverse deviation.

use super::Options;
use crate::cpu::{Array, View, add_parts, simd, split_rows, sum, sum_of, zeros};

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(options: &Options, [x, weight, bias]: [View<'_>; 3]) -> (Array, Array) {
    let &[batch, time, heads, size] = x.shape else { unreachable!("the operator takes four dimensions") };
    let (rows, width) = (batch * time, heads * size);
    let saved_width = if options.save { 2 * heads } else { 0 };
    let mut y = zeros(x.data.len());
    let mut saved = vec![0.0; rows * saved_width];
    let outputs = [(&mut y[..], width), (&mut saved[..], saved_width)];
    split_rows(rows, MINIMUM / width.max(1), outputs, |range, [y, saved]| {
        let x = &x.data[range.start * width..range.end * width];
        forward_heads(x, weight.data, bias.data, size, options.epsilon, y, saved);
    });
    (Array::new(y, x.shape), Array::new(saved, &[rows * saved_width]))
}

pub fn backward(
    _: &Options,
    needs: [bool; 3],
    [x, weight, bias]: [View<'_>; 3],
    _output: View<'_>,
    saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 3] {
    let &[batch, time, heads, size] = x.shape else { unreachable!("the operator takes four dimensions") };
    let (rows, width) = (batch * time, heads * size);
    let mut dx = zeros(x.data.len());
    let sums = split_rows(rows, MINIMUM / width.max(1), [(&mut dx, width)], |range, [dx]| {
        let elements = range.start * width..range.end * width;
        let (x, dy) = (&x.data[elements.clone()], &dy.data[elements]);
        let saved = &saved.data[range.start * 2 * heads..range.end * 2 * heads];
        let mut sums = vec![0.0; 2 * width];
        let (dweight, dbias) = sums.split_at_mut(width);
        backward_heads(x, weight.data, saved, dy, size, dx, dweight, dbias);
        sums
    });
    let mut dweight = add_parts(sums);
    dweight.resize(2 * width, 0.0);
    let dbias = dweight.split_off(width);
    [
        needs[0].then(|| Array::new(dx, x.shape)),
        needs[1].then(|| Array::new(dweight, weight.shape)),
        needs[2].then(|| Array::new(dbias, bias.shape)),
    ]
}

simd! {
    fn forward_heads(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        size: usize,
        epsilon: f32,
        y: &mut [f32],
        saved: &mut [f32],
    ) {
        let heads = weight.len() / size.max(1);
        for (i, (x, y)) in x.chunks_exact(size.max(1)).zip(y.chunks_exact_mut(size.max(1))).enumerate() {
            let channels = i % heads * size..(i % heads + 1) * size;
            let (weight, bias) = (&weight[channels.clone()], &bias[channels]);
            let mean = sum(x) / size as f32;
            let variance = sum_of([x], |[x]| (x - mean) * (x - mean)) / size as f32;
            let inverse = 1.0 / (variance + epsilon).sqrt();
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * inverse * w + b;
            }
            if let Some(saved) = saved.get_mut(2 * i..2 * i + 2) {
                saved.copy_from_slice(&[mean, inverse]);
            }
        }
    }

    // With u = (x - mean) inverse and g = w dy: dx = inverse (g - mean(g) - u mean(g u)).
    fn backward_heads(
        x: &[f32],
        weight: &[f32],
        saved: &[f32],
        dy: &[f32],
        size: usize,
        dx: &mut [f32],
        dweight: &mut [f32],
        dbias: &mut [f32],
    ) {
        let heads = weight.len() / size.max(1);
        for (i, saved) in saved.chunks_exact(2).enumerate() {
            let (mean, inverse) = (saved[0], saved[1]);
            let channels = i % heads * size..(i % heads + 1) * size;
            let elements = i * size..(i + 1) * size;
            let (x, dy, w) = (&x[elements.clone()], &dy[elements.clone()], &weight[channels.clone()]);
            let along_one = sum_of([w, dy], |[w, dy]| w * dy) / size as f32;
            let along_u = sum_of([w, dy, x], |[w, dy, x]| w * dy * (x - mean)) * inverse / size as f32;
            for (((dx, x), dy), w) in dx[elements].iter_mut().zip(x).zip(dy).zip(w) {
                *dx = inverse * (w * dy - along_one - (x - mean) * inverse * along_u);
            }
            let (dweight, dbias) = (&mut dweight[channels.clone()], &mut dbias[channels]);
            for (((dw, db), x), dy) in dweight.iter_mut().zip(dbias).zip(x).zip(dy) {
                *dw += dy * (x - mean) * inverse;
                *db += dy;
            }
        }
    }
}
