//! CPU: one pass each way; slopes follow from the output.

use super::Function;
use crate::cpu::{Array, View, sigmoid, simd, split_rows, tanh, written};
use std::mem::MaybeUninit;

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(function: &Function, [x]: [View<'_>; 1]) -> (Array, Array) {
    let y = written(x.data.len(), |y| {
        split_rows(x.data.len(), MINIMUM, [(y, 1)], |range, [y]| {
            let x = &x.data[range];
            match function {
                Function::Tanh => tanh_of(x, y),
                Function::Sigmoid => sigmoid_of(x, y),
            }
        });
    });
    (Array::new(y, x.shape), Array::nothing())
}

pub fn backward(
    function: &Function,
    needs: [bool; 1],
    [x]: [View<'_>; 1],
    output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 1] {
    [needs[0].then(|| {
        let dx = written(x.data.len(), |dx| {
            split_rows(x.data.len(), MINIMUM, [(dx, 1)], |range, [dx]| {
                let (y, dy) = (&output.data[range.clone()], &dy.data[range]);
                match function {
                    Function::Tanh => tanh_slope(y, dy, dx),
                    Function::Sigmoid => sigmoid_slope(y, dy, dx),
                }
            });
        });
        Array::new(dx, x.shape)
    })]
}

simd! {
    fn tanh_of(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, x) in y.iter_mut().zip(x) {
            y.write(tanh::<FMA>(*x));
        }
    }

    fn sigmoid_of(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, x) in y.iter_mut().zip(x) {
            y.write(sigmoid::<FMA>(*x));
        }
    }

    fn tanh_slope(y: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>]) {
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            dx.write(dy * (1.0 - y * y));
        }
    }

    fn sigmoid_slope(y: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>]) {
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            dx.write(dy * y * (1.0 - y));
        }
    }
}
