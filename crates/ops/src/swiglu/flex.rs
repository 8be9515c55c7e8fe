//! CPU: one pass each way.

use crate::cpu::{Array, View, sigmoid, simd, split_rows};

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

pub fn forward(_: &(), [gate, up]: [View<'_>; 2]) -> (Array, Array) {
    let mut y = vec![0.0; gate.data.len()];
    split_rows(y.len(), MINIMUM, [(&mut y, 1)], |range, [y]| {
        forward_elements(&gate.data[range.clone()], &up.data[range], y);
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
    let (mut dgate, mut dup) = (vec![0.0; n], vec![0.0; n]);
    split_rows(n, MINIMUM, [(&mut dgate, 1), (&mut dup, 1)], |range, [dgate, dup]| {
        backward_elements(&gate.data[range.clone()], &up.data[range.clone()], &dy.data[range], dgate, dup);
    });
    [needs[0].then(|| Array::new(dgate, gate.shape)), needs[1].then(|| Array::new(dup, up.shape))]
}

simd! {
    fn forward_elements(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(gate) * up;
        }
    }

    // With s = sigmoid(gate): d silu = s + gate s (1 - s).
    fn backward_elements(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((dgate, dup), &gate), up), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
            let s = sigmoid(gate);
            let silu = gate * s;
            *dup = dy * silu;
            *dgate = dy * up * (s + silu * (1.0 - s));
        }
    }
}
