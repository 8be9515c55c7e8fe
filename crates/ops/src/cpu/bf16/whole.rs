//! Products in cache whose sizes are whole tiles and whose right operands lie in panels already, as a cache's
//! pages do, a panel of columns after the other: `[n / 32][k / 2][32]` words.

use super::panels::{Kernel, Scratch};
use super::softmax;
use crate::cpu::matmul::Matrix;
use crate::cpu::pairs;
use std::ops::Range;

/// A tile for such products: of 32 columns, and panels of whole steps of 32 `k`.
pub trait Whole: Kernel {
    /// [`Kernel::tile`] over several panels of columns of `pairs` steps each, one after the other along `k`.
    ///
    /// # Safety
    /// As [`Kernel::tile`]; the row panel holds the steps of all.
    unsafe fn tile_of_pieces(pairs: usize, rows: &[u32], columns: &[&[u32]], out: *mut f32, stride: usize, keep: bool) {
        for (i, columns) in columns.iter().enumerate() {
            // SAFETY: by the caller; after the first piece `out` has values.
            unsafe { Self::tile(pairs, &rows[i * pairs * Self::ROWS..], columns, out, stride, keep || i > 0) };
        }
    }

    /// Where in a row panel of `pairs` steps the 16 words are that hold `k` from `32 step` on of a row.
    fn row_words(pairs: usize, row: usize, step: usize) -> usize;
}

/// Most right operands of a product.
const PIECES: usize = 16;

/// A left operand in panels of rows, in memory that the next one may have.
#[derive(Debug)]
pub struct Left {
    words: Scratch,
    rows: usize,
    k: usize,
}

impl Left {
    /// Room for `rows` rows of `k` elements.
    pub fn new<K: Whole>(rows: usize, k: usize) -> Self {
        assert!(
            k.is_multiple_of(2 * K::PAIRS) && rows.is_multiple_of(K::ROWS),
            "a left operand of {rows} x {k} is not whole tiles"
        );
        // Of a few sizes only, and not of any, so that what is kept stays little.
        Self { words: Scratch::take((rows * k / 2).next_power_of_two()), rows, k }
    }

    /// Packs an operand of at most as many rows; those beyond its own are zero.
    ///
    /// # Safety
    /// The processor has the instructions of `K`.
    pub unsafe fn pack<K: Whole>(&mut self, from: Matrix<'_>) {
        assert!(from.rows <= self.rows && from.columns == self.k, "a left operand of other sizes");
        let words = &mut self.words.words_mut()[..self.rows * self.k / 2];
        for (i, panel) in words.chunks_exact_mut(K::ROWS * self.k / 2).enumerate() {
            let start = (i * K::ROWS).min(from.rows);
            // SAFETY: by the caller.
            unsafe { K::pack_rows(from, start, (from.rows - start).min(K::ROWS), panel) };
        }
    }

    /// Becomes the weights of a row of scores each: e^(scale score - largest so far), zero outside `seen`; sums gathered
    /// under a smaller `largest` are rescaled. Rows beyond are zero.
    ///
    /// # Safety
    /// The processor has the instructions of `K`.
    pub unsafe fn weigh<K: Whole>(
        &mut self,
        scores: Matrix<'_>,
        seen: &[Range<usize>],
        scale: f32,
        [largest, total, y]: [&mut [f32]; 3],
    ) {
        assert!(scores.rows <= self.rows && scores.columns.is_multiple_of(32), "weights of other sizes");
        assert!(scores.rows == seen.len() && scores.column_stride == 1, "a range of keys a row of scores");
        assert!(self.rows * scores.columns / 2 <= self.words.words().len(), "more weights than there is room for");
        self.k = scores.columns;
        let pairs = self.k / 2;
        let words = &mut self.words.words_mut()[..self.rows * pairs];
        // SAFETY: by the caller, and a panel has the words of all its rows.
        unsafe {
            let size = y.len() / scores.rows.max(1);
            for row in 0..self.rows {
                let panel = words[row / K::ROWS * K::ROWS * pairs..].as_mut_ptr();
                let to = panel.add(K::row_words(pairs, row % K::ROWS, 0));
                let step = K::row_words(pairs, 0, 1);
                if row < scores.rows {
                    let scores = &scores.data[row * scores.row_stride..][..scores.columns];
                    softmax::rescale(
                        &scores[seen[row].clone()],
                        scale,
                        &mut largest[row],
                        &mut total[row],
                        &mut y[row * size..][..size],
                    );
                    total[row] += softmax::weights(scores, &seen[row], scale, largest[row], to, step);
                } else {
                    (0..pairs / 16).for_each(|at| to.add(at * step).write_bytes(0, 16));
                }
            }
        }
    }
}

/// `out (+)= left right`, of all rows that `left` has room for, `stride` apart. `right` are as many rows of the right
/// operand each, one after the other.
///
/// # Safety
/// The processor has the instructions of `K`, which packed `left`.
pub unsafe fn product<K: Whole>(out: &mut [f32], stride: usize, keep: bool, left: &Left, right: &[&[u32]]) {
    const { assert!(K::COLUMNS == pairs::COLUMNS && K::PAIRS == 16, "the panels of other tiles") };
    let (m, pairs) = (left.rows, left.k / 2 / right.len());
    let n = right[0].len() / pairs;
    assert!(
        right.len() <= PIECES && right.iter().all(|piece| piece.len() == n * pairs),
        "right operands of one size, {PIECES} at most"
    );
    assert!(
        left.k == 2 * pairs * right.len() && n.is_multiple_of(K::COLUMNS) && pairs.is_multiple_of(K::PAIRS),
        "operands of whole tiles"
    );
    assert!(m == 0 || (m - 1) * stride + n <= out.len(), "an output without room for {m} rows of {n}");
    let mut columns = [&[][..]; PIECES];
    // SAFETY: by the caller, and `out` has room.
    unsafe {
        K::enter();
        for column in (0..n).step_by(K::COLUMNS) {
            for (columns, piece) in columns.iter_mut().zip(right) {
                *columns = &piece[column * pairs..][..pairs * K::COLUMNS];
            }
            let rows = left.words.words()[..m * left.k / 2].chunks_exact(K::ROWS * left.k / 2);
            for (i, panel) in rows.enumerate() {
                let out = out.as_mut_ptr().add(i * K::ROWS * stride + column);
                K::tile_of_pieces(pairs, panel, &columns[..right.len()], out, stride, keep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::amx::tests::Emulated;
    use super::super::rowwise::Rowwise;
    use super::*;
    use crate::cpu::round_to_bf16;

    /// Two right operands, whole and in pieces, fewer rows than there is room for, from zero and on top.
    #[test]
    fn equals_plain_sums() {
        on_every_tile([check::<Emulated>, check::<Rowwise>]);
    }

    /// Twice the weights of some scores, the second time larger ones and fewer, times values.
    #[test]
    fn weights_are_a_left_operand() {
        on_every_tile([weigh::<Emulated>, weigh::<Rowwise>]);
    }

    fn on_every_tile(checks: [unsafe fn(); 2]) {
        if !super::super::available() {
            eprintln!("skipped: no AVX512-BF16 here");
            return;
        }
        // SAFETY: AVX512-BF16 is there, and the first tile is emulated.
        checks.into_iter().for_each(|check| unsafe { check() });
    }

    /// # Safety
    /// The processor has the instructions of `K`.
    unsafe fn weigh<K: Whole>() {
        let (m, n) = (37, 32);
        let values = |count: usize, seed: f32| -> Vec<f32> { (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect() };
        let seen = |row: usize, k: usize| [0..k, row..k - 1, row..row, 33..35][row % 4].clone();
        let (mut largest, mut total, mut y) = (vec![f32::NEG_INFINITY; m], vec![0.0; m], vec![0.0; 64 * n]);
        let mut parts = Vec::new();
        // SAFETY: by the caller.
        unsafe {
            let mut left = Left::new::<K>(64, 96);
            for (k, factor) in [(96, 3.0), (64, 5.0)] {
                let (scores, b): (Vec<f32>, _) = (values(m * k, factor).iter().map(|x| factor * x).collect(), values(k * n, 1.1));
                let mut panel = vec![0; k / 2 * n];
                K::pack_columns(Matrix::new(&b, k, n).t(), 0, n, &mut panel);
                let ranges: Vec<_> = (0..m).map(|row| seen(row, k)).collect();
                left.weigh::<K>(Matrix::new(&scores, m, k), &ranges, 0.5, [&mut largest, &mut total, &mut y[..m * n]]);
                product::<K>(&mut y, n, true, &left, &[&panel]);
                parts.push((k, scores, b));
            }
        }
        for row in 0..m {
            let weights = |k: usize, scores: &[f32]| -> Vec<(usize, f64)> {
                seen(row, k).map(|key| (key, f64::from(0.5 * scores[row * k + key]).exp())).collect()
            };
            let sum: f64 = parts.iter().flat_map(|(k, scores, _)| weights(*k, scores)).map(|(_, weight)| weight).sum();
            if sum == 0.0 {
                assert!(total[row] == 0.0 && y[row * n..][..n].iter().all(|&y| y == 0.0), "row {row} sees nothing");
                continue;
            }
            let scale = f64::from(largest[row]).exp();
            assert!((f64::from(total[row]) * scale / sum - 1.0).abs() < 1e-3, "row {row}: a total of {}", total[row]);
            for column in 0..n {
                let expected: f64 = parts
                    .iter()
                    .flat_map(|(k, scores, b)| weights(*k, scores).into_iter().map(|(key, w)| w * f64::from(b[key * n + column])))
                    .sum();
                let found = f64::from(y[row * n + column]) * scale;
                assert!((found - expected).abs() < 8e-3 * sum, "row {row}, {column}: {found} for {expected}");
            }
        }
        assert!(y[m * n..].iter().all(|&y| y == 0.0), "rows beyond have no weights");
    }

    /// # Safety
    /// The processor has the instructions of `K`.
    unsafe fn check<K: Whole>() {
        let (m, n, k) = (37, 64, 96);
        let values = |count: usize, seed: f32| -> Vec<f32> { (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect() };
        let (a, b) = (values(m * k, 0.3), [values(k * n, 7.7), values(k * n, 1.1)]);
        // SAFETY: by the caller.
        unsafe {
            let mut left = Left::new::<K>(64, k);
            left.pack::<K>(Matrix::new(&a, m, k));
            let panels = |b: &[f32]| {
                let mut words = vec![0; k / 2 * n];
                for (j, panel) in words.chunks_exact_mut(k / 2 * K::COLUMNS).enumerate() {
                    K::pack_columns(Matrix::new(b, k, n).t(), j * K::COLUMNS, K::COLUMNS, panel);
                }
                words
            };
            // The same as three pieces of 32 `k`.
            let pieces = |b: &[f32]| -> Vec<Vec<u32>> {
                let columns = panels(b);
                let piece = |at: usize| {
                    columns
                        .chunks(k / 2 * K::COLUMNS)
                        .flat_map(|panel| panel[at * 16 * K::COLUMNS..][..16 * K::COLUMNS].to_vec())
                        .collect()
                };
                (0..3).map(piece).collect()
            };
            for (i, b) in b.iter().enumerate() {
                let stride = n + 3;
                let mut out = vec![7.0; 64 * stride];
                let pieces = pieces(b);
                product::<K>(&mut out, stride, false, &left, &[&panels(b)]);
                product::<K>(&mut out, stride, true, &left, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>());
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
