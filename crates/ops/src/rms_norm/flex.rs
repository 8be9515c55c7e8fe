//! CPU: one pass over each row; saves the inverse root mean square, one number a row.

use super::Options;
use crate::cpu::{Array, View, add_parts, dot, simd, split_rows, sum_of, written};
use std::mem::MaybeUninit;

/// Fewer rows a thread than this are not worth a fork.
const MINIMUM_ROWS: usize = 16;

pub fn forward(options: &Options, [x, weight]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, width) = (x.rows(), x.width());
    let saved = usize::from(options.save);
    let mut inverse = Vec::new();
    let y = written(x.data.len(), |y| {
        inverse = written(saved * rows, |inverse| {
            split_rows(rows, MINIMUM_ROWS, [(y, width), (inverse, saved)], |range, [y, inverse]| {
                let x = &x.data[range.start * width..range.end * width];
                forward_rows(x, weight.data, options.epsilon, y, inverse);
            });
        });
    });
    let saved = if options.save { Array::new(inverse, &[rows]) } else { Array::nothing() };
    (Array::new(y, x.shape), saved)
}

pub fn backward(
    _: &Options,
    needs: [bool; 2],
    [x, weight]: [View<'_>; 2],
    _output: View<'_>,
    inverse: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 2] {
    let (rows, width) = (x.rows(), x.width());
    let mut sums = Vec::new();
    let dx = written(if needs[0] { x.data.len() } else { 0 }, |dx| {
        sums = split_rows(rows, MINIMUM_ROWS, [(dx, if needs[0] { width } else { 0 })], |range, [dx]| {
            let elements = range.start * width..range.end * width;
            let (x, dy, inverse) = (&x.data[elements.clone()], &dy.data[elements], &inverse.data[range]);
            let mut dw = vec![0.0; if needs[1] { width } else { 0 }];
            backward_rows(x, weight.data, inverse, dy, dx, &mut dw);
            dw
        });
    });
    let mut dw = add_parts(sums);
    dw.resize(if needs[1] { width } else { 0 }, 0.0);
    [needs[0].then(|| Array::new(dx, x.shape)), needs[1].then(|| Array::new(dw, weight.shape))]
}

simd! {
    fn forward_rows(
        x: &[f32], weight: &[f32], epsilon: f32, y: &mut [MaybeUninit<f32>], inverse: &mut [MaybeUninit<f32>],
    ) {
        let width = weight.len();
        for (row, (x, y)) in x.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(width.max(1))).enumerate() {
            let r = 1.0 / (dot::<FMA>(x, x) / width as f32 + epsilon).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                y.write(x * r * w);
            }
            if let Some(inverse) = inverse.get_mut(row) {
                inverse.write(r);
            }
        }
    }

    // dx = r (w dy) - x r^3 / d * sum(w dy x);  dw = sum over rows of dy x r.
    // An empty `dx` or `dw` is not wanted.
    fn backward_rows(x: &[f32], weight: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>], dw: &mut [f32]) {
        let width = weight.len();
        for (row, &r) in inverse.iter().enumerate() {
            let elements = row * width..(row + 1) * width;
            let (x, dy) = (&x[elements.clone()], &dy[elements.clone()]);
            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw += dy * x * r;
            }
            if let Some(dx) = dx.get_mut(elements) {
                let along = sum_of([weight, dy, x], |[w, dy, x]| w * dy * x) * r * r / width as f32;
                for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                    dx.write(r * (w * dy - x * along));
                }
            }
        }
    }
}
