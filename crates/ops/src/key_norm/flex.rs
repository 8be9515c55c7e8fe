//! CPU: one pass each way; the length is cheaper to find again than to keep.

use super::SHORTEST;
use crate::cpu::{Array, View, dot, simd, split_rows, zeros};

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(_: &(), [x]: [View<'_>; 1]) -> (Array, Array) {
    let width = x.width();
    let mut y = zeros(x.data.len());
    split_rows(x.rows(), MINIMUM / width.max(1), [(&mut y, width)], |range, [y]| {
        forward_rows(&x.data[range.start * width..range.end * width], width, y);
    });
    (Array::new(y, x.shape), Array::nothing())
}

pub fn backward(
    _: &(),
    needs: [bool; 1],
    [x]: [View<'_>; 1],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 1] {
    let width = x.width();
    [needs[0].then(|| {
        let mut dx = zeros(x.data.len());
        split_rows(x.rows(), MINIMUM / width.max(1), [(&mut dx, width)], |range, [dx]| {
            let elements = range.start * width..range.end * width;
            backward_rows(&x.data[elements.clone()], &dy.data[elements], width, dx);
        });
        Array::new(dx, x.shape)
    })]
}

simd! {
    fn forward_rows(x: &[f32], width: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(width.max(1)).zip(y.chunks_exact_mut(width.max(1))) {
            let inverse = 1.0 / dot::<FMA>(x, x).sqrt().max(SHORTEST);
            for (y, x) in y.iter_mut().zip(x) {
                *y = x * inverse;
            }
        }
    }

    // dx = (dy - y (y . dy)) / |x|; where the length is clamped the divisor is a constant.
    fn backward_rows(x: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        let rows = x.chunks_exact(width.max(1)).zip(dy.chunks_exact(width.max(1)));
        for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width.max(1))) {
            let length = dot::<FMA>(x, x).sqrt();
            let inverse = 1.0 / length.max(SHORTEST);
            let along = if length > SHORTEST { dot::<FMA>(x, dy) * inverse * inverse } else { 0.0 };
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = inverse * (dy - x * along);
            }
        }
    }
}
