//! CPU: one pass each way.

use crate::cpu::{Array, View, sigmoid, simd, split_rows, written};
use std::mem::MaybeUninit;

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(_: &(), [gate, up]: [View<'_>; 2]) -> (Array, Array) {
    let n = gate.data.len();
    let y = written(n, |y| {
        split_rows(n, MINIMUM, [(y, 1)], |range, [y]| {
            forward_elements(&gate.data[range.clone()], &up.data[range], y);
        });
    });
    (Array::new(y, gate.shape), Array::nothing())
}

pub fn backward(
    _: &(),
    needs: [bool; 2],
    [gate, up]: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 2] {
    let n = gate.data.len();
    let mut dup = Vec::new();
    let dgate = written(n, |dgate| {
        dup = written(n, |dup| {
            split_rows(n, MINIMUM, [(dgate, 1), (dup, 1)], |range, [dgate, dup]| {
                backward_elements(&gate.data[range.clone()], &up.data[range.clone()], &dy.data[range], dgate, dup);
            });
        });
    });
    [needs[0].then(|| Array::new(dgate, gate.shape)), needs[1].then(|| Array::new(dup, up.shape))]
}

simd! {
    fn forward_elements(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
            y.write(gate * sigmoid::<FMA>(gate) * up);
        }
    }

    // With s = sigmoid(gate): d silu = s + gate s (1 - s).
    fn backward_elements(
        gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [MaybeUninit<f32>], dup: &mut [MaybeUninit<f32>],
    ) {
        for ((((dgate, dup), &gate), up), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
            let s = sigmoid::<FMA>(gate);
            let silu = gate * s;
            dup.write(dy * silu);
            dgate.write(dy * up * (s + silu * (1.0 - s)));
        }
    }
}
