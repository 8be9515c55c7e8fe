//! Few rows against a whole weight: decoding. Reading the weight once is all that costs, and each
//! output is summed by itself in a fixed order, so that a row's result depends, to the bit, neither on
//! the other rows nor on the number of threads.

use super::Layout;
use crate::cpu::{Level, Matrix, level, multiply_add, product_by_rows, simd, threads};
use crate::quantised::share;
use std::ops::Range;

/// Rows up to which this is used; beyond, packing the weight pays.
pub const MOST: usize = 64;
/// Multiplications that are worth another thread.
const SHARE: usize = 1 << 15;

/// Output to which threads write disjoint columns.
struct Out(*mut f32);
// SAFETY: see there.
unsafe impl Sync for Out {}

/// `y[r, o] = sum_i x[r, i] weight[o, i]`, or `weight[i, o]`, as the layout says; sizes are
/// `[rows, in, out]`.
///
/// # Panics
/// When the slices have other sizes.
pub fn product(layout: Layout, x: &[f32], weight: &[f32], [rows, inner, outer]: [usize; 3]) -> Vec<f32> {
    let sizes = (rows.checked_mul(inner), inner.checked_mul(outer));
    assert!(sizes == (Some(x.len()), Some(weight.len())), "sizes of a product of few rows");
    let mut y = vec![0.0; rows * outer];
    let out = Out(y.as_mut_ptr());
    let shares = (rows * inner * outer / SHARE).clamp(1, threads());
    match layout {
        Layout::OutIn => share(0..outer, shares, &|columns| {
            let out = &out;
            dots(x, weight, inner, outer, columns, level() >= Level::Avx512, out);
        }),
        Layout::InOut if rows > 0 && outer > 0 => share(0..outer.div_ceil(32), shares, &|blocks| {
            let out = &out;
            let columns = 32 * blocks.start..(32 * blocks.end).min(outer);
            let right = Matrix::strided(&weight[columns.start.min(weight.len())..], inner, columns.len(), outer);
            let left = Matrix::new(x, rows, inner);
            let mut block = vec![0.0; rows * columns.len()];
            product_by_rows(&mut block, columns.len(), false, left, right);
            for (row, values) in block.chunks_exact(columns.len()).enumerate() {
                // SAFETY: the row's columns lie within `y`; others write other columns.
                unsafe {
                    let to = out.0.add(row * outer + columns.start);
                    to.copy_from_nonoverlapping(values.as_ptr(), values.len());
                }
            }
        }),
        Layout::InOut => {}
    }
    y
}

simd! {
    fn dots(x: &[f32], weight: &[f32], inner: usize, outer: usize, columns: Range<usize>, many: bool, out: &Out) {
        let rows = x.len() / inner.max(1);
        let mut column = columns.start;
        while column < columns.end {
            let width = if columns.end - column >= 4 { 4 } else { 1 };
            let mut row = 0;
            while row < rows {
                let height = if many && width == 4 && rows - row >= 4 { 4 } else { 1 };
                let (x, weight) = (&x[row * inner..], &weight[column * inner..]);
                // SAFETY: the tile lies within the output, in columns of our own.
                unsafe {
                    let to = out.0.add(row * outer + column);
                    match (height, width) {
                        (4, _) => tile::<FMA, 16, 4>(x, weight, inner, to, outer),
                        (_, 4) => tile::<FMA, 4, 4>(x, weight, inner, to, outer),
                        _ => tile::<FMA, 1, 1>(x, weight, inner, to, outer),
                    }
                }
                row += height;
            }
            column += width;
        }
    }
}

/// Partial sums of an output.
const LANES: usize = 16;

/// `T / W` rows and `W` columns of the output, each as [`dot`](crate::cpu::dot) sums it.
///
/// # Safety
/// `x` and `weight` hold as many rows; `to` reaches over a tile whose rows are `stride` apart.
#[inline(always)]
unsafe fn tile<const FMA: bool, const T: usize, const W: usize>(
    x: &[f32],
    weight: &[f32],
    inner: usize,
    to: *mut f32,
    stride: usize,
) {
    debug_assert!(x.len() >= T / W * inner && weight.len() >= W * inner);
    // One flat array of sums, updated by iterators: the form that the compiler keeps in registers.
    let mut sums = [[0.0f32; LANES]; T];
    let whole = inner / LANES * LANES;
    // SAFETY: as the caller promises.
    unsafe {
        for start in (0..whole).step_by(LANES) {
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = &*x.as_ptr().add(t / W * inner + start).cast::<[f32; LANES]>();
                let weight = &*weight.as_ptr().add(t % W * inner + start).cast::<[f32; LANES]>();
                for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weight) {
                    *sum = multiply_add::<FMA>(*x, *weight, *sum);
                }
            }
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let (x, weight) = (&x[t / W * inner..][..inner], &weight[t % W * inner..][..inner]);
            for ((sum, x), weight) in sums.iter_mut().zip(&x[whole..]).zip(&weight[whole..]) {
                *sum = multiply_add::<FMA>(*x, *weight, *sum);
            }
            let mut width = LANES / 2;
            while width > 0 {
                for i in 0..width {
                    sums[i] += sums[i + width];
                }
                width /= 2;
            }
            to.add(t / W * stride + t % W).write(sums[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 0.731).sin()).collect()
    }

    #[test]
    fn equals_plain_sums_and_rows_stand_alone() {
        for (rows, inner, outer) in [(1, 1, 1), (1, 37, 9), (4, 16, 4), (5, 100, 33), (64, 65, 70), (3, 700, 130)] {
            let (x, weight) = (values(rows * inner, 0.2), values(inner * outer, 3.0));
            let transposed: Vec<f32> = (0..inner * outer).map(|i| weight[i % outer * inner + i / outer]).collect();
            for (layout, weight_here) in [(Layout::OutIn, &weight), (Layout::InOut, &transposed)] {
                let y = product(layout, &x, weight_here, [rows, inner, outer]);
                for r in 0..rows {
                    let alone = product(layout, &x[r * inner..][..inner], weight_here, [1, inner, outer]);
                    assert_eq!(alone, y[r * outer..][..outer], "{layout:?} {rows}x{inner}x{outer}, row {r}");
                    for o in 0..outer {
                        let terms = || (0..inner).map(|i| f64::from(x[r * inner + i]) * f64::from(weight[o * inner + i]));
                        let (sum, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        let error = (f64::from(alone[o]) - sum).abs();
                        assert!(error <= 3e-6 * size, "{layout:?} {rows}x{inner}x{outer} at {r}, {o}: {error} of {size}");
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let (rows, inner, outer) = (7, 333, 1001);
        let (x, weight) = (values(rows * inner, 0.2), values(inner * outer, 3.0));
        for layout in [Layout::OutIn, Layout::InOut] {
            let with = |n| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a pool");
                pool.install(|| product(layout, &x, &weight, [rows, inner, outer]))
            };
            assert_eq!(with(1), with(5));
        }
    }

    /// More threads than there are blocks of columns: none of them gets an empty share.
    #[test]
    fn many_threads_share_few_columns() {
        for threads in [3, 5, 6, 7, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            for (rows, inner, outer) in [(1, 1536, 64), (2, 896, 64), (3, 576, 96), (64, 576, 33), (5, 2048, 1)] {
                let (x, weight) = (values(rows * inner, 0.2), values(inner * outer, 3.0));
                for layout in [Layout::OutIn, Layout::InOut] {
                    let y = pool.install(|| product(layout, &x, &weight, [rows, inner, outer]));
                    assert_eq!(y, product(layout, &x, &weight, [rows, inner, outer]), "{layout:?}, {threads} threads");
                }
            }
        }
    }
}
