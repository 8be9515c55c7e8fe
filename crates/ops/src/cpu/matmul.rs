//! Matrix products on strided slices, through the `gemm` crate (AVX-512 chosen at run time).

use gemm::Parallelism;
use std::ops::Range;

/// A matrix view with element strides, so that a transpose costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major `rows` x `columns`.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows of `columns` elements that start `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len(),
            "matrix {rows}x{columns} with stride {row_stride} exceeds {} elements",
            data.len()
        );
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// Some of its rows.
    pub(super) fn rows(self, range: Range<usize>) -> Self {
        Self { data: &self.data[range.start * self.row_stride..], rows: range.len(), ..self }
    }

    /// Some of its columns.
    pub(super) fn columns(self, range: Range<usize>) -> Self {
        self.t().rows(range).t()
    }

    /// The transposed view.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `out = alpha * out + left * right`, on the calling thread; `out` has rows `out_stride` apart.
pub fn matmul(out: &mut [f32], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>) {
    run(out, out_stride, alpha, left, right, Parallelism::None);
}

/// [`matmul`] over the thread pool.
pub fn matmul_threads(out: &mut [f32], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>) {
    let work = left.rows * left.columns * right.columns;
    // Below about a millisecond of work the fork costs more than it gains.
    let parallel = if work < 1 << 18 { Parallelism::None } else { Parallelism::Rayon(super::threads()) };
    run(out, out_stride, alpha, left, right, parallel);
}

fn run(out: &mut [f32], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>, parallel: Parallelism) {
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    let (m, n, k) = (left.rows, right.columns, left.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len(), "output of a matrix product is too small");
    // SAFETY: the asserts above and in `Matrix::strided` bound every element that is touched.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            alpha != 0.0,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            alpha,
            1.0,
            false,
            false,
            false,
            parallel,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_accumulates() {
        let (m, k, n) = (5, 7, 3);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.61).cos()).collect();
        let mut out = vec![1.0; m * n];
        matmul(&mut out, n, 2.0, Matrix::new(&a, m, k), Matrix::new(&b, n, k).t());
        for i in 0..m {
            for j in 0..n {
                let expected: f32 = 2.0 + (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum::<f32>();
                assert!((out[i * n + j] - expected).abs() < 1e-5);
            }
        }
    }
}
