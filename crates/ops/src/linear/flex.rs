//! CPU: three matrix products over all rows at once.

use super::{Layout, product};
use crate::cpu::{Array, Matrix, View};

/// The weight as the matrix `[in, out]` that multiplies from the right.
fn matrix<'a>(layout: Layout, weight: View<'a>) -> Matrix<'a> {
    let stored = Matrix::new(weight.data, weight.shape[0], weight.shape[1]);
    match layout {
        Layout::OutIn => stored.t(),
        Layout::InOut => stored,
    }
}

pub fn forward(&layout: &Layout, [x, weight]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, inner, outer) = (x.rows(), x.width(), layout.outer(weight.shape));
    let mut y = vec![0.0; rows * outer];
    product(&mut y, outer, false, Matrix::new(x.data, rows, inner), matrix(layout, weight));
    let mut shape = x.shape.to_vec();
    shape[x.shape.len() - 1] = outer;
    (Array::new(y, &shape), Array::nothing())
}

pub fn backward(
    &layout: &Layout,
    needs: [bool; 2],
    [x, weight]: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 2] {
    let (rows, inner, outer) = (x.rows(), x.width(), layout.outer(weight.shape));
    let dy = Matrix::new(dy.data, rows, outer);
    let dx = needs[0].then(|| {
        let mut dx = vec![0.0; rows * inner];
        product(&mut dx, inner, false, dy, matrix(layout, weight).t());
        Array::new(dx, x.shape)
    });
    let dw = needs[1].then(|| {
        let mut dw = vec![0.0; outer * inner];
        let x = Matrix::new(x.data, rows, inner);
        match layout {
            Layout::OutIn => product(&mut dw, inner, false, dy.t(), x),
            Layout::InOut => product(&mut dw, outer, false, x.t(), dy),
        }
        Array::new(dw, weight.shape)
    });
    [dx, dw]
}
