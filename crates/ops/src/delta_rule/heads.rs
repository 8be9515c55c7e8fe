//! One (batch, head) pair at a time: gathering its rows out of `[B, T, H, X]` and back.

use crate::cpu::View;
use rayon::prelude::*;

/// Sizes of a recurrence.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    pub batch: usize,
    pub tokens: usize,
    pub heads: usize,
    pub key: usize,
    pub value: usize,
}

/// The inputs of one head, contiguous over time: `[T, K]` or `[T, V]`.
pub struct Head {
    pub r: Vec<f32>,
    pub logw: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// `(a, b)`, absent for the decayed sum.
    pub ab: Option<(Vec<f32>, Vec<f32>)>,
}

/// Gradients of one head's inputs, laid out like [`Head`], and of its initial state.
#[derive(Default)]
pub struct HeadGradients {
    pub r: Vec<f32>,
    pub logw: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub ab: Option<(Vec<f32>, Vec<f32>)>,
    pub state: Vec<f32>,
}

impl Dims {
    /// Index of a pair from its number.
    pub fn pair(&self, index: usize) -> (usize, usize) {
        (index / self.heads, index % self.heads)
    }

    /// Rows of head `h` of sequence `b` out of `[B, T, H, W]`; a width of one is repeated to
    /// `width` (a decay that all channels share).
    pub fn gather(&self, x: View<'_>, b: usize, h: usize, width: usize) -> Vec<f32> {
        let stored = x.width();
        let mut out = Vec::with_capacity(self.tokens * width);
        for t in 0..self.tokens {
            let start = ((b * self.tokens + t) * self.heads + h) * stored;
            if stored == width {
                out.extend_from_slice(&x.data[start..start + width]);
            } else {
                out.resize(out.len() + width, x.data[start]);
            }
        }
        out
    }

    /// Puts per-head `[T, width]` rows (in pair order) back into `[B, T, H, width]`.
    pub fn scatter<'a>(&self, heads: &[&'a [f32]], width: usize, out: &mut [f32]) {
        let row = self.heads * width;
        out.par_chunks_mut((self.tokens * row).max(1)).enumerate().for_each(|(b, sequence)| {
            for h in 0..self.heads {
                let source = heads[b * self.heads + h];
                for t in 0..self.tokens {
                    let start = t * row + h * width;
                    sequence[start..start + width].copy_from_slice(&source[t * width..(t + 1) * width]);
                }
            }
        });
    }
}
