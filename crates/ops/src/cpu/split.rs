//! Sharing rows out over the thread pool.

use super::parts;
use rayon::prelude::*;
use std::ops::Range;

/// Runs `work(rows, [their slices of the outputs])` on parts of `0..rows` and returns the parts'
/// results in order. An output is a slice and the number of its elements that belong to a row.
///
/// The parts are those of [`parts`], so sums over the returned values are reproducible; below
/// `minimum` rows everything runs on the calling thread.
///
/// # Panics
/// When an output does not hold `rows` rows.
pub fn split_rows<const M: usize, R: Send>(
    rows: usize,
    minimum: usize,
    mut outputs: [(&mut [f32], usize); M],
    work: impl Fn(Range<usize>, [&mut [f32]; M]) -> R + Sync,
) -> Vec<R> {
    for (output, width) in &outputs {
        assert_eq!(output.len(), rows * width, "output of {rows} rows of {width}");
    }
    let mut shares = Vec::new();
    for range in parts(rows, minimum) {
        let share = outputs.each_mut().map(|(rest, width)| {
            let (head, tail) = std::mem::take(rest).split_at_mut(range.len() * *width);
            *rest = tail;
            head
        });
        shares.push((range, share));
    }
    if shares.len() == 1 {
        return shares.into_iter().map(|(range, share)| work(range, share)).collect();
    }
    shares.into_par_iter().map(|(range, share)| work(range, share)).collect()
}

/// Adds the parts' sums, in order.
pub fn add_parts(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once() {
        for rows in [0, 1, 5, 64] {
            let (mut a, mut b) = (vec![0.0; rows], vec![0.0; rows * 3]);
            let sums = split_rows(rows, 2, [(&mut a, 1), (&mut b, 3)], |range, [a, b]| {
                for (i, row) in range.clone().enumerate() {
                    a[i] += row as f32;
                    b[3 * i + 2] += row as f32;
                }
                vec![range.len() as f32]
            });
            assert!(a.iter().enumerate().all(|(i, &v)| v == i as f32));
            assert!(b.iter().skip(2).step_by(3).enumerate().all(|(i, &v)| v == i as f32));
            assert_eq!(add_parts(sums).first().copied().unwrap_or(0.0), rows as f32);
        }
    }
}
