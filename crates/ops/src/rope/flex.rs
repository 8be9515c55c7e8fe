//! CPU: one pass; the backward pass is the rotation by the opposite angle.

use super::Options;
use crate::cpu::{Array, View, simd, split_rows, written};
use std::mem::MaybeUninit;

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(options: &Options, [x]: [View<'_>; 1]) -> (Array, Array) {
    (rotate(options, x, 1.0), Array::nothing())
}

pub fn backward(
    options: &Options,
    needs: [bool; 1],
    _: [View<'_>; 1],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 1] {
    [needs[0].then(|| rotate(options, dy, -1.0))]
}

fn rotate(options: &Options, x: View<'_>, sign: f32) -> Array {
    let &[batch, time, heads, size] = x.shape else { unreachable!("the operator takes four dimensions") };
    let (table, half, width) = (&options.table, options.table.half, heads * size);
    let y = written(x.data.len(), |y| {
        split_rows(batch * time, MINIMUM / width.max(1), [(y, width)], |range, [y]| {
            for (i, row) in range.enumerate() {
                let position = match &options.positions {
                    Some(positions) => positions[row] as usize,
                    None => options.start + row % time,
                };
                let angles = position * half..(position + 1) * half;
                let (cos, sin) = (&table.cos[angles.clone()], &table.sin[angles]);
                rotate_heads(&x.data[row * width..][..width], cos, sin, sign, &mut y[i * width..][..width]);
            }
        });
    });
    Array::new(y, x.shape)
}

simd! {
    fn rotate_heads(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [MaybeUninit<f32>]) {
        let half = cos.len().max(1);
        for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
            let ((x_low, x_high), (y_low, y_high)) = (x.split_at(half), y.split_at_mut(half));
            let ends = x_low.iter().zip(x_high).zip(y_low.iter_mut().zip(y_high));
            for (((x_low, x_high), (y_low, y_high)), (cos, sin)) in ends.zip(cos.iter().zip(sin)) {
                let sin = sign * sin;
                y_low.write(x_low * cos - x_high * sin);
                y_high.write(x_high * cos + x_low * sin);
            }
        }
    }
}
