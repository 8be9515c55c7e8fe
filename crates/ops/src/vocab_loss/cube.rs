//! GPU: what the losses share. Logits exist for one block of rows at a time; a kernel turns each
//! row, one cube a row, into its loss and its gradient in place.

use crate::cube::{CubeTensor, Gpu, UNITS, contiguous, cubes, largest, reshaped, room, sum, upload};
use crate::linear::cube::{product, rounded, transposed};
use burn::backend::ops::FloatTensorOps;
use cubecl::prelude::*;
use std::ops::Range;

/// Logits of one block: enough rows to fill a large card.
const BLOCK_BYTES: usize = 512 << 20;
/// They are a multiple of this, as tiles of products are, and no more than that.
const ROWS: usize = 256;
const MOST_ROWS: usize = 4096;

/// Rows a block for a vocabulary of this size.
pub fn block_rows(vocabulary: usize) -> usize {
    let size = BLOCK_BYTES / (4 * vocabulary.max(1));
    if size > ROWS { size / ROWS * ROWS } else { size.max(16) }.min(MOST_ROWS)
}

/// Hidden states and vocabulary weight of one model.
#[derive(Clone)]
pub struct Head {
    pub hidden: CubeTensor,
    pub weight: CubeTensor,
}

impl Head {
    pub fn rows(&self) -> usize {
        self.hidden.meta.shape()[0]
    }

    pub fn vocabulary(&self) -> usize {
        self.weight.meta.shape()[0]
    }

    fn block(&self, rows: Range<usize>) -> CubeTensor {
        if rows == (0..self.rows()) {
            return self.hidden.clone();
        }
        let rows = rows.start as isize..rows.end as isize;
        contiguous(Gpu::float_slice(self.hidden.clone(), &[rows.into()]))
    }

    /// Logits of some rows, `[rows, vocabulary]`.
    pub fn logits(&self, rows: Range<usize>) -> CubeTensor {
        product(self.block(rows), transposed(self.weight.clone()))
    }

    /// The weight rounded where products are of rounded operands.
    pub fn rounded(self) -> Self {
        Self { weight: rounded(self.weight), ..self }
    }
}

/// Runs `loss` over blocks of rows; it turns logits into their gradient where that is wanted. Returns
/// the gradients of hidden states and weight that `track` names.
pub fn blocks(head: &Head, track: [bool; 2], mut loss: impl FnMut(Range<usize>, &CubeTensor)) -> [Option<CubeTensor>; 2] {
    let size = block_rows(head.vocabulary());
    let mut d_hidden = Vec::new();
    let mut d_weight: Option<CubeTensor> = None;
    if head.rows() == 0 {
        let (hidden, weight) = (&head.hidden, &head.weight);
        let zeros = || reshaped(upload(weight, &vec![0.0; weight.meta.num_elements()]), weight.meta.shape());
        return [track[0].then(|| room(hidden, hidden.meta.shape())), track[1].then(zeros)];
    }
    for start in (0..head.rows()).step_by(size) {
        let rows = start..(start + size).min(head.rows());
        let logits = head.logits(rows.clone());
        loss(rows.clone(), &logits);
        if track[0] {
            d_hidden.push(product(logits.clone(), head.weight.clone()));
        }
        if track[1] {
            let part = product(transposed(logits), head.block(rows));
            d_weight = Some(match d_weight {
                Some(sum) => Gpu::float_add(sum, part),
                None => part,
            });
        }
    }
    let d_hidden = match d_hidden.len() {
        0 => None,
        1 => d_hidden.pop(),
        _ => Some(contiguous(Gpu::float_cat(d_hidden, 0))),
    };
    [d_hidden, d_weight.map(contiguous)]
}

/// One weight a row, 1 where none are given.
pub fn row_weights(head: &Head, given: Option<&[f32]>) -> CubeTensor {
    match given {
        Some(weights) => upload(&head.hidden, weights),
        None => upload(&head.hidden, &vec![1.0; head.rows()]),
    }
}

/// One loss a row.
pub fn losses(head: &Head) -> CubeTensor {
    if head.rows() == 0 {
        return upload(&head.hidden, &[0.0]);
    }
    room(&head.hidden, &[head.rows()])
}

/// The gradients times that of the loss, `[1]`.
pub fn scaled(gradients: [Option<CubeTensor>; 2], upstream: CubeTensor) -> [Option<CubeTensor>; 2] {
    let upstream = reshaped(upstream, &[1, 1]);
    gradients.map(|gradient| gradient.map(|g| contiguous(Gpu::float_mul(g, upstream.clone()))))
}

/// A launch of one cube a row.
pub fn by_row(rows: usize) -> (CubeCount, CubeDim) {
    (cubes(rows), CubeDim::new_1d(UNITS))
}

/// ln of the sum of e^x over a row, known to all units. `x` is only read, but kernels hold logits to
/// change them.
#[cube]
pub fn log_sum_exp(x: &mut Tensor<f32>, start: usize, width: usize, shared: &mut Shared<[f32]>) -> f32 {
    let mut most = f32::min_value();
    let mut i = UNIT_POS as usize;
    while i < width {
        let value = x[start + i];
        if value > most {
            most = value;
        }
        i += UNITS as usize;
    }
    let most = largest(most, shared);
    let mut total = 0.0f32;
    let mut i = UNIT_POS as usize;
    while i < width {
        total += (x[start + i] - most).exp();
        i += UNITS as usize;
    }
    most + sum(total, shared).ln()
}
