//! CPU: norms in one pass; the backward pass takes them from there.

use super::{Options, SMALLEST_SQUARE};
use crate::cpu::{Array, View, simd, split_rows, sum_of, zeros};

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

/// Saves the norm of every row.
pub fn forward(options: &Options, [given, wanted]: [View<'_>; 2]) -> (Array, Array) {
    let (rows, width) = (given.rows(), given.width());
    let mut norms = vec![0.0; rows];
    let sums = split_rows(rows, MINIMUM / width.max(1), [(&mut norms, 1)], |range, [norms]| {
        let elements = range.start * width..range.end * width;
        distances(&given.data[elements.clone()], &wanted.data[elements], width, norms);
        let weight = |row: usize| options.weights.as_ref().map_or(1.0, |w| f64::from(w[row]));
        norms.iter().zip(range).map(|(norm, row)| f64::from(*norm) * weight(row)).sum::<f64>()
    });
    let total = sums.into_iter().sum::<f64>() * f64::from(options.scale);
    (Array::new(vec![total as f32], &[1]), Array::new(norms, &[rows]))
}

pub fn backward(
    options: &Options,
    needs: [bool; 2],
    [given, wanted]: [View<'_>; 2],
    _output: View<'_>,
    norms: View<'_>,
    upstream: View<'_>,
) -> [Option<Array>; 2] {
    let (rows, width) = (given.rows(), given.width());
    let d_given = needs[0].then(|| {
        let mut out = zeros(given.data.len());
        split_rows(rows, MINIMUM / width.max(1), [(&mut out, width)], |range, [out]| {
            for (row, out) in range.zip(out.chunks_exact_mut(width.max(1))) {
                let norm = norms.data[row];
                // At the smallest norm the distance is a constant.
                if norm * norm > SMALLEST_SQUARE {
                    let weight = options.weights.as_ref().map_or(1.0, |w| w[row]);
                    let elements = row * width..(row + 1) * width;
                    let factor = upstream.data[0] * options.scale * weight / norm;
                    scaled_difference(&given.data[elements.clone()], &wanted.data[elements], factor, out);
                }
            }
        });
        Array::new(out, given.shape)
    });
    [d_given, None]
}

simd! {
    fn distances(given: &[f32], wanted: &[f32], width: usize, norms: &mut [f32]) {
        let rows = given.chunks_exact(width.max(1)).zip(wanted.chunks_exact(width.max(1)));
        for (norm, (a, b)) in norms.iter_mut().zip(rows) {
            let square = sum_of([a, b], |[a, b]| (a - b) * (a - b));
            *norm = square.max(SMALLEST_SQUARE).sqrt();
        }
    }

    fn scaled_difference(given: &[f32], wanted: &[f32], factor: f32, out: &mut [f32]) {
        for ((out, a), b) in out.iter_mut().zip(given).zip(wanted) {
            *out = factor * (a - b);
        }
    }
}
