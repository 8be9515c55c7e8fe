//! CPU: three matrix products over all rows at once.

use super::kept::{Options, panels};
use super::{Layout, product_new, rows};
use crate::cpu::{Array, Matrix, View};

/// The weight as the matrix `[in, out]` that multiplies from the right.
pub fn matrix<'a>(layout: Layout, weight: View<'a>) -> Matrix<'a> {
    let stored = Matrix::new(weight.data, weight.shape[0], weight.shape[1]);
    match layout {
        Layout::OutIn => stored.t(),
        Layout::InOut => stored,
    }
}

pub fn forward(options: &Options, [x, weight]: [View<'_>; 2]) -> (Array, Array) {
    let layout = options.layout;
    let (rows, inner, outer) = (x.rows(), x.width(), layout.outer(weight.shape));
    let y = if let Some(panels) = panels(options, weight) {
        panels.matmul_threads_new(Matrix::new(x.data, rows, inner))
    } else if rows <= rows::MOST {
        rows::product(layout, x.data, weight.data, [rows, inner, outer])
    } else {
        product_new(Matrix::new(x.data, rows, inner), matrix(layout, weight))
    };
    let mut shape = x.shape.to_vec();
    shape[x.shape.len() - 1] = outer;
    (Array::new(y, &shape), Array::nothing())
}

pub fn backward(
    &Options { layout, .. }: &Options,
    needs: [bool; 2],
    [x, weight]: [View<'_>; 2],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 2] {
    let (rows, inner, outer) = (x.rows(), x.width(), layout.outer(weight.shape));
    let dy = Matrix::new(dy.data, rows, outer);
    let dx = needs[0].then(|| Array::new(product_new(dy, matrix(layout, weight).t()), x.shape));
    let dw = needs[1].then(|| {
        let x = Matrix::new(x.data, rows, inner);
        let dw = match layout {
            Layout::OutIn => product_new(dy.t(), x),
            Layout::InOut => product_new(x.t(), dy),
        };
        Array::new(dw, weight.shape)
    });
    [dx, dw]
}
