//! Sharing rows out over the thread pool.

use super::parts;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Runs `work(rows, [their slices of the outputs])` on parts of `0..rows` and returns the parts'
/// results in order. An output is a slice and the number of its elements that belong to a row.
///
/// The parts are those of [`parts`], so sums over the returned values are reproducible; below
/// `minimum` rows everything runs on the calling thread.
///
/// # Panics
/// When an output does not hold `rows` rows.
pub fn split_rows<T: Send, const M: usize, R: Send>(
    rows: usize,
    minimum: usize,
    mut outputs: [(&mut [T], usize); M],
    work: impl Fn(Range<usize>, [&mut [T]; M]) -> R + Sync,
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

/// Zeros, written by all threads where they are many: one thread alone would hold the others up by a
/// pass over memory for every output of an operator.
pub fn zeros(size: usize) -> Vec<f32> {
    const FORK: usize = 1 << 17;
    if size < FORK {
        return vec![0.0; size];
    }
    super::matmul::written(size, |out| {
        let share = size.div_ceil(super::threads());
        out.par_chunks_mut(share).for_each(|part| part.fill(MaybeUninit::new(0.0)));
    })
}

/// An array that several threads write to, each to elements of its own.
pub struct Disjoint<'a, T> {
    start: *mut T,
    size: usize,
    array: PhantomData<&'a mut [T]>,
}

// SAFETY: what is written where is the promise of `slice`'s callers.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Shares an array out.
    pub fn new(array: &'a mut [T]) -> Self {
        Self { start: array.as_mut_ptr(), size: array.len(), array: PhantomData }
    }

    /// Elements of the array.
    ///
    /// # Safety
    /// No two slices that live at the same time share an element.
    ///
    /// # Panics
    /// When they are not within the array.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that none overlap")]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.size, "{range:?} of {} elements", self.size);
        // SAFETY: within the array, and by the caller nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
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
