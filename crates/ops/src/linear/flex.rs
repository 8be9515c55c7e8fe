//! CPU: three matrix products over all rows at once.

use super::{Precision, precision};
use crate::cpu::{Array, Matrix, View, matmul_threads};
use std::borrow::Cow;

/// The operands at the process's precision. Rounding copies: until there is a bf16 kernel, bf16 is
/// for studying its effect, not for speed.
fn operand(x: &[f32]) -> Cow<'_, [f32]> {
    match precision() {
        Precision::F32 => Cow::Borrowed(x),
        Precision::Bf16 => Cow::Owned(x.iter().map(|&x| round_to_bf16(x)).collect()),
    }
}

/// To nearest, ties to even; NaN stays NaN.
fn round_to_bf16(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

pub fn forward(_: &(), [x, weight]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, inner, outer) = (x.rows(), x.width(), weight.shape[0]);
    let mut y = vec![0.0; rows * outer];
    let (left, right) = (operand(x.data), operand(weight.data));
    matmul_threads(&mut y, outer, 0.0, Matrix::new(&left, rows, inner), Matrix::new(&right, outer, inner).t());
    let mut shape = x.shape.to_vec();
    *shape.last_mut().expect("x has a dimension") = outer;
    (Array::new(y, &shape), Array::nothing())
}

pub fn backward(
    _: &(),
    needs: [bool; 2],
    [x, weight]: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 2] {
    let (rows, inner, outer) = (x.rows(), x.width(), weight.shape[0]);
    let dy = operand(dy.data);
    let dy_matrix = Matrix::new(&dy, rows, outer);
    let dx = needs[0].then(|| {
        let mut dx = vec![0.0; rows * inner];
        matmul_threads(&mut dx, inner, 0.0, dy_matrix, Matrix::new(&operand(weight.data), outer, inner));
        Array::new(dx, x.shape)
    });
    let dw = needs[1].then(|| {
        let mut dw = vec![0.0; outer * inner];
        matmul_threads(&mut dw, inner, 0.0, dy_matrix.t(), Matrix::new(&operand(x.data), rows, inner));
        Array::new(dw, weight.shape)
    });
    [dx, dw]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16() {
        assert_eq!(round_to_bf16(1.0), 1.0);
        assert_eq!(round_to_bf16(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even neighbour");
        assert_eq!(round_to_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert!(round_to_bf16(f32::NAN).is_nan());
        assert_eq!(round_to_bf16(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
