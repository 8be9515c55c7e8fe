//! GPU: scores as matrix products, one pass over each row of them for mask and softmax.
//!
//! Scores exist for one call at a time and are made again for the backward pass. Query heads that
//! share a key head stand behind one another as rows of one product, so that keys are not repeated.

use super::{Mask, Options};
use crate::cube::{CubeTensor, Gpu, UNITS, contiguous, cubes, largest, no_indices, nothing, reshaped, sum, upload_indices};
use crate::linear::cube::product;
use burn::backend::ops::FloatTensorOps;
use cubecl::prelude::*;

/// Kinds of masks, as kernels know them.
const CAUSAL: u32 = 0;
const WINDOW: u32 = 1;
const BIDIRECTIONAL: u32 = 2;
const BLOCKS: u32 = 3;

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    time: usize,
    heads: usize,
    size: usize,
    keys: usize,
    groups: usize,
}

impl Sizes {
    fn of(q: &CubeTensor, k: &CubeTensor) -> Self {
        let (q, k) = (q.meta.shape(), k.meta.shape());
        Self { batch: q[0], time: q[1], heads: q[2], size: q[3], keys: k[1], groups: k[2] }
    }

    /// Rows of scores.
    fn rows(&self) -> usize {
        self.batch * self.heads * self.time
    }

    /// `[B, T, H, N]` as `[B, G, H / G * T, N]`.
    fn grouped(&self, q: CubeTensor) -> CubeTensor {
        let shape = [self.batch, self.groups, self.heads / self.groups * self.time, self.size];
        reshaped(contiguous(Gpu::float_swap_dims(q, 1, 2)), &shape)
    }

    /// `[B, G, H / G * T, N]` as `[B, T, H, N]`.
    fn ungrouped(&self, q: CubeTensor) -> CubeTensor {
        let q = reshaped(contiguous(q), &[self.batch, self.heads, self.time, self.size]);
        contiguous(Gpu::float_swap_dims(q, 1, 2))
    }
}

fn transposed(x: CubeTensor) -> CubeTensor {
    Gpu::float_swap_dims(x, 2, 3)
}

/// `softmax(scale q k^T)` over visible keys, `[B, G, H / G * T, S]`; `q` and `k` are `[B, G, .., N]`.
fn probabilities(options: &Options, sizes: Sizes, q: CubeTensor, k: CubeTensor) -> CubeTensor {
    let (rows, keys) = (sizes.rows(), sizes.keys);
    assert!(rows.saturating_mul(keys) <= u32::MAX as usize, "{rows} queries of {keys} keys: take fewer sequences at a time");
    let scores = product(q, transposed(k));
    let visible = &options.visible;
    let (kind, width) = match visible.mask {
        Mask::Causal => (CAUSAL, 0),
        Mask::Window(window) => (WINDOW, window),
        Mask::Bidirectional => (BIDIRECTIONAL, 0),
        Mask::Blocks(size) => (BLOCKS, size),
    };
    let list = |list: &Option<std::sync::Arc<[u32]>>| match list {
        Some(list) => upload_indices(&scores, list),
        None => no_indices(&scores),
    };
    masked_softmax::launch(
        &scores.client.clone(),
        cubes(sizes.rows()),
        CubeDim::new_1d(UNITS),
        scores.clone().into_tensor_arg(),
        list(&visible.first).into_tensor_arg(),
        list(&visible.end).into_tensor_arg(),
        options.scale,
        sizes.rows() as u32,
        sizes.heads as u32,
        sizes.time as u32,
        sizes.keys as u32,
        width as u32,
        kind,
        visible.first.is_some(),
        visible.end.is_some(),
    );
    scores
}

pub fn forward(options: &Options, [q, k, v]: [CubeTensor; 3]) -> (CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&q, &k);
    let saved = nothing(&q);
    let [k, v] = [k, v].map(|x| Gpu::float_swap_dims(x, 1, 2));
    let p = probabilities(options, sizes, sizes.grouped(q), k);
    (sizes.ungrouped(product(p, v)), saved)
}

pub fn backward(
    options: &Options,
    needs: [bool; 3],
    [q, k, v]: [CubeTensor; 3],
    _output: CubeTensor,
    _saved: CubeTensor,
    dy: CubeTensor,
) -> [Option<CubeTensor>; 3] {
    let sizes = Sizes::of(&q, &k);
    let (q, dy) = (sizes.grouped(q), sizes.grouped(dy));
    let [k, v] = [k, v].map(|x| Gpu::float_swap_dims(x, 1, 2));
    let p = probabilities(options, sizes, q.clone(), k.clone());
    let back = |x: CubeTensor| contiguous(Gpu::float_swap_dims(x, 1, 2));
    let dv = needs[2].then(|| back(product(transposed(p.clone()), dy.clone())));
    let d_scores = product(dy, transposed(v));
    softmax_backward::launch(
        &p.client.clone(),
        cubes(sizes.rows()),
        CubeDim::new_1d(UNITS),
        p.into_tensor_arg(),
        d_scores.clone().into_tensor_arg(),
        options.scale,
        sizes.rows() as u32,
        sizes.keys as u32,
    );
    let dk = needs[1].then(|| back(product(transposed(d_scores.clone()), q)));
    let dq = needs[0].then(|| sizes.ungrouped(product(d_scores, k)));
    [dq, dk, dv]
}

#[cube(launch)]
fn masked_softmax(
    scores: &mut Tensor<f32>,
    first: &Tensor<u32>,
    end: &Tensor<u32>,
    scale: f32,
    rows: u32,
    heads: u32,
    time: u32,
    keys: u32,
    width: u32,
    #[comptime] kind: u32,
    #[comptime] has_first: bool,
    #[comptime] has_end: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    if CUBE_POS < rows as usize {
        let (heads, time, keys) = (heads as usize, time as usize, keys as usize);
        let place = CUBE_POS * keys;
        let t = CUBE_POS % time;
        let query = CUBE_POS / time / heads * time + t;
        // Keys from `from` to before `to` are visible.
        let mut from = 0usize;
        let mut to = keys;
        if comptime!(kind == CAUSAL || kind == WINDOW) {
            to = keys + t + 1 - time;
        }
        if comptime!(kind == WINDOW) {
            if to > width as usize {
                from = to - width as usize;
            }
        }
        if comptime!(kind == BLOCKS) {
            let width = width as usize;
            to = (keys + t + 1 - time).div_ceil(width) * width;
        }
        if comptime!(has_first) {
            let given = first[query] as usize;
            if given > from {
                from = given;
            }
        }
        if comptime!(has_end) {
            let given = end[query] as usize;
            if given < to {
                to = given;
            }
        }
        if to > keys {
            to = keys;
        }
        // Every loop gives a unit the same keys: outside CUDA, units see each other's writes to shared memory
        // alone.
        let step = UNITS as usize;
        let mut begin = from / step * step + UNIT_POS as usize;
        if begin < from {
            begin += step;
        }
        let mut most = f32::min_value();
        let mut i = begin;
        while i < to {
            let value = scores[place + i] * scale;
            if value > most {
                most = value;
            }
            i += UNITS as usize;
        }
        let most = largest(most, &mut shared);
        let mut total = 0.0f32;
        let mut i = begin;
        while i < to {
            let p = (scores[place + i] * scale - most).exp();
            scores[place + i] = p;
            total += p;
            i += UNITS as usize;
        }
        let total = sum(total, &mut shared);
        let mut i = UNIT_POS as usize;
        while i < keys {
            if i >= from && i < to {
                scores[place + i] = scores[place + i] / total;
            } else {
                scores[place + i] = 0.0f32;
            }
            i += UNITS as usize;
        }
    }
}

// d_scores = scale p (d_p - sum p d_p), in place of d_p.
#[cube(launch)]
fn softmax_backward(p: &Tensor<f32>, d: &mut Tensor<f32>, scale: f32, rows: u32, keys: u32) {
    let mut shared = Shared::new_slice(UNITS as usize);
    if CUBE_POS < rows as usize {
        let keys = keys as usize;
        let place = CUBE_POS * keys;
        let mut along = 0.0f32;
        let mut i = UNIT_POS as usize;
        while i < keys {
            along += p[place + i] * d[place + i];
            i += UNITS as usize;
        }
        let along = sum(along, &mut shared);
        let mut i = UNIT_POS as usize;
        while i < keys {
            d[place + i] = scale * p[place + i] * (d[place + i] - along);
            i += UNITS as usize;
        }
    }
}
