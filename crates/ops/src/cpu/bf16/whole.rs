//! Operands in cache whose sizes are whole tiles: packed once, and used for as many products as there are.

use super::panels::{Kernel, Scratch, sweep};
use crate::cpu::matmul::Matrix;
use rayon::prelude::*;

/// Words up to which packed operands reuse memory.
const KEPT: usize = 2 << 20;

/// A left operand in panels of rows.
#[derive(Debug)]
pub struct Left {
    words: Scratch,
    rows: usize,
    k: usize,
}

impl Left {
    /// Room for `rows` rows of `k` elements.
    pub fn new<K: Kernel>(rows: usize, k: usize) -> Self {
        assert!(k.is_multiple_of(2 * K::PAIRS) && rows.is_multiple_of(K::ROWS), "a left operand of {rows} x {k} is not whole tiles");
        Self { words: Scratch::own(rows * k / 2), rows, k }
    }

    /// Packs an operand of at most as many rows; those beyond its own are zero.
    ///
    /// # Safety
    /// The processor has the instructions of `K`.
    pub unsafe fn pack<K: Kernel>(&mut self, from: Matrix<'_>) {
        assert!(from.rows <= self.rows && from.columns == self.k, "a left operand of other sizes");
        for (i, panel) in self.words.words_mut().chunks_exact_mut(K::ROWS * self.k / 2).enumerate() {
            let start = (i * K::ROWS).min(from.rows);
            // SAFETY: by the caller.
            unsafe { K::pack_rows(from, start, (from.rows - start).min(K::ROWS), panel) };
        }
    }
}

/// Right operands of as many elements, each in panels of columns.
#[derive(Debug)]
pub struct Rights {
    words: Scratch,
    each: usize,
}

impl Rights {
    /// Packs `count` of them, of `size` elements, over the thread pool.
    ///
    /// # Safety
    /// The processor has the instructions of `K`.
    pub unsafe fn pack<'a, K: Kernel>(count: usize, size: usize, operand: impl Fn(usize) -> Matrix<'a> + Sync) -> Self {
        let each = size / 2;
        let words = count * each;
        // Memory kept for the next product is of a few sizes only, and not of any size.
        let mut words = if words > KEPT { Scratch::own(words) } else { Scratch::take(words.next_power_of_two()) };
        words.words_mut()[..count * each].par_chunks_exact_mut(each.max(1)).enumerate().for_each(|(i, to)| {
            let from = operand(i);
            let (k, n) = (from.rows, from.columns);
            assert!(k * n == size && k.is_multiple_of(2 * K::PAIRS) && n.is_multiple_of(K::COLUMNS), "a right operand of {k} x {n} is not whole tiles");
            for (j, panel) in to.chunks_exact_mut(K::COLUMNS * k / 2).enumerate() {
                // SAFETY: by the caller.
                unsafe { K::pack_columns(from.t(), j * K::COLUMNS, K::COLUMNS, panel) };
            }
        });
        Self { words, each }
    }

    /// The panels of one.
    pub fn get(&self, which: usize) -> &[u32] {
        &self.words.words()[which * self.each..][..self.each]
    }
}

/// `out (+)= left right`, of all rows that `left` has room for, `stride` apart.
///
/// # Safety
/// The processor has the instructions of `K`, which packed both.
pub unsafe fn product<K: Kernel>(out: &mut [f32], stride: usize, keep: bool, left: &Left, right: &[u32]) {
    let (m, n) = (left.rows, 2 * right.len() / left.k);
    assert!(m == 0 || (m - 1) * stride + n <= out.len(), "an output without room for {m} rows of {n}");
    // SAFETY: by the caller, and `out` has room.
    unsafe {
        K::enter();
        sweep::<K>(left.k / 2, left.words.words(), right, out.as_mut_ptr(), stride, keep, m, n);
    }
}

#[cfg(test)]
mod tests {
    use super::super::amx::tests::Emulated;
    use super::super::rowwise::Rowwise;
    use super::*;
    use crate::cpu::round_to_bf16;

    /// Two right operands, fewer rows than there is room for, from zero and on top.
    #[test]
    fn equals_plain_sums() {
        if !super::super::available() {
            eprintln!("skipped: no AVX512-BF16 here");
            return;
        }
        // SAFETY: AVX512-BF16 is there.
        unsafe {
            check::<Emulated>();
            check::<Rowwise>();
        }
    }

    /// # Safety
    /// The processor has the instructions of `K`.
    unsafe fn check<K: Kernel>() {
        let (m, n, k) = (37, 64, 96);
        let values = |count: usize, seed: f32| -> Vec<f32> { (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect() };
        let (a, b) = (values(m * k, 0.3), [values(k * n, 7.7), values(k * n, 1.1)]);
        // SAFETY: by the caller.
        unsafe {
            let mut left = Left::new::<K>(64, k);
            left.pack::<K>(Matrix::new(&a, m, k));
            let rights = Rights::pack::<K>(2, k * n, |i| Matrix::new(&b[i], k, n));
            for (i, b) in b.iter().enumerate() {
                let stride = n + 3;
                let mut out = vec![7.0; 64 * stride];
                product::<K>(&mut out, stride, false, &left, rights.get(i));
                product::<K>(&mut out, stride, true, &left, rights.get(i));
                for (row, column) in (0..64).flat_map(|row| (0..n).map(move |column| (row, column))) {
                    let term = |l: usize| round_to_bf16(a[row * k + l]) * round_to_bf16(b[l * n + column]);
                    let expected: f32 = if row < m { 2.0 * (0..k).map(term).sum::<f32>() } else { 0.0 };
                    assert!((out[row * stride + column] - expected).abs() < 1e-4, "operand {i} at {row}, {column}");
                }
                assert_eq!(out[n..n + 3], [7.0; 3], "nothing outside is written");
            }
        }
    }
}
