//! Matrix products on strided slices, through the `gemm` crate (AVX-512 chosen at run time).

use super::{Level, level, multiply_add, simd};
use gemm::Parallelism;
use std::mem::MaybeUninit;
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
            rows == 0 || columns == 0 || reach(rows, columns, row_stride).is_some_and(|reach| reach <= data.len()),
            "matrix {rows}x{columns} with stride {row_stride} exceeds {} elements",
            data.len()
        );
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.columns
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

/// Elements that rows of `columns`, `stride` apart, reach over; none where that is more than can be counted.
pub(super) fn reach(rows: usize, columns: usize, stride: usize) -> Option<usize> {
    rows.checked_sub(1)?.checked_mul(stride)?.checked_add(columns)
}

/// `out = alpha * out + left * right`, on the calling thread; `out` has rows `out_stride` apart.
pub fn matmul(out: &mut [f32], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>) {
    let small = left.rows * left.columns * right.columns <= SMALL;
    if small && right.column_stride == 1 && (alpha == 0.0 || alpha == 1.0) {
        check(out, out_stride, left, right);
        product(out, out_stride, alpha == 1.0, left, right);
    } else {
        run(assume_written(out), out_stride, alpha, left, right, Parallelism::None);
    }
}

/// Multiplications up to which operands in cache are used where they lie: packing them, as the
/// `gemm` crate does, costs more than it gains. Inside recurrences and attention all are.
const SMALL: usize = 1 << 20;

fn check<T>(out: &[T], out_stride: usize, left: Matrix<'_>, right: Matrix<'_>) {
    assert_eq!(left.columns, right.rows, "inner sizes of a matrix product");
    let (m, n) = (left.rows, right.columns);
    let fits = reach(m, n, out_stride).is_some_and(|reach| reach <= out.len());
    assert!(m == 0 || n == 0 || fits, "output of a matrix product is too small");
    assert!(m <= 1 || out_stride >= n, "rows of the output of a matrix product overlap");
}

simd! {
    /// `out (+)= left right` for a row-major right side. Every element is summed by itself, in the order
    /// of the inner index.
    pub(crate) fn product(out: &mut [f32], stride: usize, keep: bool, left: Matrix<'_>, right: Matrix<'_>) {
        let (m, n) = (left.rows, right.columns);
        // Sums of a tile have to stay in registers: 16 of 8 numbers each with AVX2, 32 of 16 above.
        let wide = level() >= Level::Avx512 || m < 4;
        let mut column = 0;
        while column < n {
            let step = match n - column {
                32.. if wide => 32,
                16.. => 16,
                8.. => 8,
                _ => 1,
            };
            let mut row = 0;
            while row < m {
                let out = &mut out[row * stride + column..];
                // As many as the registers hold the sums of; what is left over in one tile too.
                let rows = match (step, m - row) {
                    (32, left) => left.min(4),
                    (16, left) if wide => left.min(4),
                    (16, left) => left.min(6),
                    (_, 4..) => 4,
                    _ => 1,
                };
                // SAFETY: `check` bounds the tile of `out`, `Matrix` both operands.
                unsafe {
                    match (rows, step) {
                        (4, 32) => tile::<FMA, 4, 32>(out, stride, keep, left, row, right, column),
                        (3, 32) => tile::<FMA, 3, 32>(out, stride, keep, left, row, right, column),
                        (2, 32) => tile::<FMA, 2, 32>(out, stride, keep, left, row, right, column),
                        (_, 32) => tile::<FMA, 1, 32>(out, stride, keep, left, row, right, column),
                        (6, 16) => tile::<FMA, 6, 16>(out, stride, keep, left, row, right, column),
                        (5, 16) => tile::<FMA, 5, 16>(out, stride, keep, left, row, right, column),
                        (4, 16) => tile::<FMA, 4, 16>(out, stride, keep, left, row, right, column),
                        (3, 16) => tile::<FMA, 3, 16>(out, stride, keep, left, row, right, column),
                        (2, 16) => tile::<FMA, 2, 16>(out, stride, keep, left, row, right, column),
                        (_, 16) => tile::<FMA, 1, 16>(out, stride, keep, left, row, right, column),
                        (4, 8) => tile::<FMA, 4, 8>(out, stride, keep, left, row, right, column),
                        (_, 8) => tile::<FMA, 1, 8>(out, stride, keep, left, row, right, column),
                        (4, _) => tile::<FMA, 4, 1>(out, stride, keep, left, row, right, column),
                        _ => tile::<FMA, 1, 1>(out, stride, keep, left, row, right, column),
                    }
                }
                row += rows;
            }
            column += step;
        }
    }
}

/// `M` rows and `N` columns of a product, summed in registers.
///
/// # Safety
/// The tile must lie within `out` and both operands.
#[inline(always)]
unsafe fn tile<const FMA: bool, const M: usize, const N: usize>(
    out: &mut [f32],
    stride: usize,
    keep: bool,
    left: Matrix<'_>,
    row: usize,
    right: Matrix<'_>,
    column: usize,
) {
    let mut sums = [[0.0f32; N]; M];
    debug_assert!((M - 1) * stride + N <= out.len());
    // SAFETY: by the caller.
    unsafe {
        let a = left.data.as_ptr().add(row * left.row_stride);
        let b = right.data.as_ptr().add(column);
        for l in 0..left.columns {
            let b = &*b.add(l * right.row_stride).cast::<[f32; N]>();
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = *a.add(r * left.row_stride + l * left.column_stride);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = multiply_add::<FMA>(a, *b, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut *out.as_mut_ptr().add(r * stride).cast::<[f32; N]>();
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if keep { *out + sum } else { *sum };
            }
        }
    }
}

/// [`matmul`] over the thread pool.
pub fn matmul_threads(out: &mut [f32], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>) {
    run(assume_written(out), out_stride, alpha, left, right, parallelism(left, right));
}

/// The product as a new array, over the thread pool.
pub fn matmul_threads_new(left: Matrix<'_>, right: Matrix<'_>) -> Vec<f32> {
    written(left.rows * right.columns, |out| run(out, right.columns, 0.0, left, right, parallelism(left, right)))
}

fn parallelism(left: Matrix<'_>, right: Matrix<'_>) -> Parallelism {
    // Below about a millisecond of work the fork costs more than it gains.
    let work = left.rows * left.columns * right.columns;
    if work < 1 << 18 { Parallelism::None } else { Parallelism::Rayon(super::threads()) }
}

/// A new array that `write` fills, without zeroing it first: for results of hundreds of megabytes
/// a step that is a pass over memory saved. `write` must write every element.
pub(crate) fn written(size: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = Vec::with_capacity(size);
    write(&mut out.spare_capacity_mut()[..size]);
    // SAFETY: the capacity is `size`, and `write` has written as many elements.
    unsafe { out.set_len(size) };
    out
}

/// The same elements for a function that may meet fresh memory.
pub(crate) fn assume_written(out: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the layouts are equal, and products write valid elements only.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) }
}

/// With `alpha` zero, `out` is only written to.
fn run(out: &mut [MaybeUninit<f32>], out_stride: usize, alpha: f32, left: Matrix<'_>, right: Matrix<'_>, parallel: Parallelism) {
    check(out, out_stride, left, right);
    let (m, n, k) = (left.rows, right.columns, left.columns);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && alpha == 0.0 {
        out.chunks_mut(out_stride).take(m).for_each(|row| row[..n].fill(MaybeUninit::new(0.0)));
        return;
    }
    // SAFETY: `check` above and in `Matrix::strided` bound every element that is touched.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast::<f32>(),
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
        // The last is beyond `SMALL`.
        for (m, k, n) in [(5, 7, 3), (1, 1, 1), (4, 9, 32), (11, 64, 61), (3, 5, 24), (130, 100, 90)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.61).cos()).collect();
            let at: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..n * k).map(|i| b[(i % n) * k + i / n]).collect();
            let lefts = [Matrix::new(&a, m, k), Matrix::new(&at, k, m).t()];
            let rights = [Matrix::new(&b, n, k).t(), Matrix::new(&bt, k, n)];
            for (left, right) in lefts.into_iter().flat_map(|l| rights.map(|r| (l, r))) {
                for alpha in [0.0, 1.0, 2.0] {
                    let stride = n + 2;
                    let mut out = vec![1.0; m * stride];
                    matmul(&mut out, stride, alpha, left, right);
                    for i in 0..m {
                        for j in 0..n {
                            let expected: f32 = alpha + (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum::<f32>();
                            assert!((out[i * stride + j] - expected).abs() < 2e-5, "{m}x{k}x{n} at {i}, {j}");
                        }
                        assert_eq!(out[i * stride + n..(i + 1) * stride], [1.0; 2], "nothing else is written");
                    }
                }
            }
        }
    }
}
