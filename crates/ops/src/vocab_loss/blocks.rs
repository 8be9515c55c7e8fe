//! What the losses share: blocks of logits, log-sum-exp, and gradients that wait for the backward
//! pass.

use crate::cpu::{Array, Matrix, View, exp, maximum, simd, split_rows, sum_of, zeros};
use crate::linear::{Packed, product, rounds};
use std::sync::{Arc, Mutex};

/// Logits of one block. Larger blocks read (and pack) the vocabulary weight less often and keep the
/// matrix products near full speed from 128 rows on, which this allows for 200 000 words.
const BLOCK_BYTES: usize = 100 << 20;

/// Rows a block for a vocabulary of this size.
pub fn block_rows(vocabulary: usize) -> usize {
    (BLOCK_BYTES / (4 * vocabulary.max(1))).clamp(16, 512)
}

/// The rows that count: those without weights, or with one that is not zero.
pub fn active_rows(rows: usize, weights: Option<&[f32]>) -> Vec<usize> {
    (0..rows).filter(|&row| weights.is_none_or(|weights| weights[row] != 0.0)).collect()
}

/// Hidden states and vocabulary weight, with room for one block of rows and logits.
pub struct Head<'a> {
    hidden: View<'a>,
    weight: View<'a>,
    /// The weight's panels, to multiply with and to carry gradients back through: packed once for all
    /// blocks, and for longer where the weight's owner keeps them.
    packed: Option<Packed>,
    turned: Packed,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl<'a> Head<'a> {
    pub fn new(hidden: View<'a>, weight: View<'a>, packed: Option<Packed>, block: usize) -> Self {
        Self {
            hidden,
            weight,
            packed,
            turned: Packed::default(),
            rows: vec![0.0; block * hidden.width()],
            logits: zeros(block * weight.shape[0]),
        }
    }

    /// Computes the logits of `block`, `[block, vocabulary]`.
    pub fn logits(&mut self, block: &[usize]) -> &mut [f32] {
        let (width, vocabulary) = (self.hidden.width(), self.weight.shape[0]);
        for (to, &from) in self.rows.chunks_exact_mut(width.max(1)).zip(block) {
            to.copy_from_slice(&self.hidden.data[from * width..][..width]);
        }
        let rows = Matrix::new(&self.rows, block.len(), width);
        let weight = Matrix::new(self.weight.data, vocabulary, width).t();
        let lasting = self.packed.is_some();
        if rounds(if lasting { usize::MAX } else { block.len() }) {
            let packed = self.packed.get_or_insert_default().of(weight, lasting);
            packed.matmul_threads(&mut self.logits, vocabulary, false, rows);
        } else {
            product(&mut self.logits, vocabulary, false, rows, weight);
        }
        &mut self.logits[..block.len() * vocabulary]
    }

    /// With the gradient of the last block in place of its logits, adds to the wanted gradients.
    pub fn gradients(&mut self, block: &[usize], into: &mut [Vec<f32>; 2]) {
        let (width, vocabulary) = (self.hidden.width(), self.weight.shape[0]);
        let dlogits = Matrix::new(&self.logits, block.len(), vocabulary);
        let [dhidden, dweight] = into;
        if !dweight.is_empty() {
            product(dweight, width, true, dlogits.t(), Matrix::new(&self.rows, block.len(), width));
        }
        if !dhidden.is_empty() {
            // The copies of the hidden rows have served; their gradient takes their place.
            let weight = Matrix::new(self.weight.data, vocabulary, width);
            if rounds(block.len()) {
                self.turned.of(weight, false).matmul_threads(&mut self.rows, width, false, dlogits);
            } else {
                product(&mut self.rows, width, false, dlogits, weight);
            }
            for (from, &to) in self.rows.chunks_exact(width.max(1)).zip(block) {
                dhidden[to * width..][..width].copy_from_slice(from);
            }
        }
    }
}

/// Gradients of hidden states and weight, made by the forward pass. They wait here and not in the
/// operator's `saved`, so that the backward pass can scale them in place and give them away:
/// the weight's is the largest array of a training step.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    host: Arc<Mutex<Option<[Vec<f32>; 2]>>>,
    #[cfg(feature = "cube")]
    device: Arc<Mutex<Option<OnDevice>>>,
}

/// The wanted gradients of hidden states and weight.
#[cfg(feature = "cube")]
type OnDevice = [Option<crate::cube::CubeTensor>; 2];

const TAKEN: &str = "a graph is consumed by its backward pass, and the forward pass of a tracked input filled this";

impl Waiting {
    pub fn put(&self, gradients: [Vec<f32>; 2]) {
        *self.host.lock().expect("no holder of the lock panics") = Some(gradients);
    }

    #[cfg(feature = "cube")]
    pub fn put_on_device(&self, gradients: OnDevice) {
        *self.device.lock().expect("no holder of the lock panics") = Some(gradients);
    }

    #[cfg(feature = "cube")]
    pub fn take_from_device(&self) -> OnDevice {
        self.device.lock().expect("no holder of the lock panics").take().expect(TAKEN)
    }

    /// The wanted gradients, times `upstream`.
    pub fn take(&self, needs: [bool; 2], [hidden, weight]: [View<'_>; 2], upstream: f32) -> [Option<Array>; 2] {
        let [dhidden, dweight] = self.host.lock().expect("no holder of the lock panics").take().expect(TAKEN);
        let finish = |mut gradient: Vec<f32>, like: View<'_>| {
            if upstream != 1.0 {
                split_rows(gradient.len(), 1 << 16, [(&mut gradient, 1)], |_, [part]| scale(part, upstream));
            }
            Array::new(gradient, like.shape)
        };
        [needs[0].then(|| finish(dhidden, hidden)), needs[1].then(|| finish(dweight, weight))]
    }
}

/// Zeroed gradients of the wanted inputs, empty ones of the others.
pub fn room(track: [bool; 2], [hidden, weight]: [View<'_>; 2]) -> [Vec<f32>; 2] {
    [(track[0], hidden), (track[1], weight)].map(|(wanted, like)| zeros(if wanted { like.data.len() } else { 0 }))
}

simd! {
    fn scale(x: &mut [f32], by: f32) {
        for x in x {
            *x *= by;
        }
    }

    /// ln of the sum of e^x, and the largest x.
    pub fn log_sum_exp(x: &[f32]) -> (f32, f32) {
        let largest = maximum(x);
        // Partial sums in f64: 150 000 f32 additions would lose two digits.
        let mut total = 0.0f64;
        for x in x.chunks(4096) {
            total += f64::from(sum_of([x], |[x]| exp::<FMA>(x - largest)));
        }
        (largest + total.ln() as f32, largest)
    }
}
