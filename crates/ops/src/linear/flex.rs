//! CPU: three matrix products over all rows at once.

use crate::cpu::{Array, Matrix, View, matmul_threads};

pub fn forward(_: &(), [x, weight]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, inner, outer) = (x.rows(), x.width(), weight.shape[0]);
    let mut y = vec![0.0; rows * outer];
    matmul_threads(&mut y, outer, 0.0, Matrix::new(x.data, rows, inner), Matrix::new(weight.data, outer, inner).t());
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
    let dy_matrix = Matrix::new(dy.data, rows, outer);
    let dx = needs[0].then(|| {
        let mut dx = vec![0.0; rows * inner];
        matmul_threads(&mut dx, inner, 0.0, dy_matrix, Matrix::new(weight.data, outer, inner));
        Array::new(dx, x.shape)
    });
    let dw = needs[1].then(|| {
        let mut dw = vec![0.0; outer * inner];
        matmul_threads(&mut dw, inner, 0.0, dy_matrix.t(), Matrix::new(x.data, rows, inner));
        Array::new(dw, weight.shape)
    });
    [dx, dw]
}
