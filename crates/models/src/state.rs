//! What a sequence carries from call to call.

use burn::tensor::{Device, Tensor, TensorData};
#[cfg(doc)]
use recast_ops::attention::Cache;
use recast_ops::delta_rule::END;
use std::sync::Arc;

/// State of one layer for one sequence. A clone shares its tensors until either is advanced.
#[derive(Clone, Debug, Default)]
pub struct LayerState {
    /// The mixer's tensors, `[1, ..]` each, or its [`Cache`]'s pages; empty at the start of a sequence.
    pub parts: Vec<Tensor<4>>,
    /// Tokens held, for mixers whose parts have spare room.
    pub length: usize,
}

impl LayerState {
    /// Bytes of its tensors. Clones share them.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.dims().iter().product::<usize>() * part.dtype().size()).sum()
    }
}

/// State of a whole model for one sequence.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// One entry a layer.
    pub layers: Vec<LayerState>,
    /// Tokens read so far: the position of the next one.
    pub position: usize,
}

impl ModelState {
    /// The state before the first token.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerState::default(); layers], position: 0 }
    }

    /// A copy that shares nothing with this one, which a clone does until either is advanced.
    pub fn copied(&self) -> Self {
        let mut copy = self.clone();
        for part in copy.layers.iter_mut().flat_map(|layer| &mut layer.parts) {
            let (device, dtype) = (part.device(), part.dtype());
            *part = Tensor::from_data(part.to_data(), (&device, dtype));
        }
        copy
    }

    /// Bytes of its tensors. Clones share them.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }
}

/// Part `index` of every row's state, as one tensor `[B, ..]`; none at the start of the sequences.
///
/// # Panics
/// When some rows have the part and others do not.
pub fn join(states: &[&mut LayerState], index: usize) -> Option<Tensor<4>> {
    let parts: Vec<Tensor<4>> = states.iter().filter_map(|s| s.parts.get(index).cloned()).collect();
    match parts.len() {
        0 => None,
        1 if states.len() == 1 => parts.into_iter().next(),
        n => {
            assert_eq!(n, states.len(), "sequences of one batch have all begun, or none has");
            Some(Tensor::cat(parts, 0))
        }
    }
}

/// Gives every row its own of the parts `[B, ..]`, after `tokens` more tokens.
pub fn split(states: Vec<&mut LayerState>, parts: Vec<Tensor<4>>, tokens: usize) {
    let rows = states.len();
    for (row, state) in states.into_iter().enumerate() {
        let own = |part: &Tensor<4>| {
            if rows == 1 {
                return part.clone();
            }
            // A copy: a view of one row would keep all of them alive.
            let [_, a, b, c] = part.dims();
            Tensor::zeros([1, a, b, c], &part.device()).slice_assign([0..1, 0..a, 0..b, 0..c], part.clone().narrow(0, row, 1))
        };
        state.parts = parts.iter().map(own).collect();
        state.length += tokens;
    }
}

/// Document boundaries inside packed rows: state and attention stop there, and positions begin
/// again. Only for whole rows: no state is carried into or out of a packed row.
#[derive(Clone, Debug)]
pub struct Documents {
    batch: usize,
    tokens: usize,
    /// `[B * T]`: whether a document starts at this token and not at the row's beginning.
    starts: Arc<[bool]>,
}

impl Documents {
    /// `starts` is `[batch * tokens]`, row-major. A row's first token always starts a document.
    ///
    /// # Panics
    /// When there is not one flag a token.
    pub fn new(batch: usize, tokens: usize, mut starts: Vec<bool>) -> Self {
        assert_eq!(starts.len(), batch * tokens, "one flag a token");
        starts.iter_mut().step_by(tokens.max(1)).for_each(|first| *first = false);
        Self { batch, tokens, starts: starts.into() }
    }

    /// Rows and tokens a row.
    pub fn shape(&self) -> (usize, usize) {
        (self.batch, self.tokens)
    }

    /// Whether any document starts inside a row.
    pub fn any(&self) -> bool {
        self.starts.iter().any(|&s| s)
    }

    /// `[B * T]`: whether a document starts at this token and not at the row's beginning.
    pub fn starts(&self) -> Arc<[bool]> {
        self.starts.clone()
    }

    /// `[B, T, 1, 1]`, zero where a document starts and one elsewhere: the factor on whatever is
    /// read of the token before.
    pub fn keep(&self, device: &Device) -> Tensor<4> {
        self.mask(device, 0.0, 1.0)
    }

    /// Log decays `[B, T, H, K]` that wipe the state where a document starts.
    pub fn forget(&self, logw: Tensor<4>) -> Tensor<4> {
        let device = logw.device().inner();
        logw * self.keep(&device) + self.mask(&device, END, 0.0)
    }

    /// `[B * T]`: each token's position in its document.
    pub fn positions(&self) -> Arc<[u32]> {
        self.count(|t, start| (t - start) as u32)
    }

    /// `[B * T]`: index in the row of the first key that each query may see.
    pub fn first_visible(&self) -> Arc<[u32]> {
        self.count(|_, start| start as u32)
    }

    /// `[B * T]`: index in the row behind the last key of each query's document.
    pub fn end_visible(&self) -> Arc<[u32]> {
        let mut out = vec![0; self.starts.len()];
        for (row, ends) in self.starts.chunks(self.tokens.max(1)).zip(out.chunks_mut(self.tokens.max(1))) {
            let mut end = row.len();
            for t in (0..row.len()).rev() {
                ends[t] = end as u32;
                if row[t] {
                    end = t;
                }
            }
        }
        out.into()
    }

    /// First token and length of every document of a row.
    pub fn pieces(&self, row: usize) -> Vec<(usize, usize)> {
        let flags = &self.starts[row * self.tokens..(row + 1) * self.tokens];
        let mut starts = vec![0];
        starts.extend(flags.iter().enumerate().filter(|(_, start)| **start).map(|(t, _)| t));
        let ends = starts.iter().skip(1).copied().chain([self.tokens]);
        starts.iter().zip(ends).map(|(&start, end)| (start, end - start)).collect()
    }

    /// A value of every token from its index in the row and that of its document's start.
    fn count(&self, value: impl Fn(usize, usize) -> u32) -> Arc<[u32]> {
        let mut out = Vec::with_capacity(self.starts.len());
        for row in self.starts.chunks(self.tokens.max(1)) {
            let mut first = 0;
            for (t, &start) in row.iter().enumerate() {
                if start {
                    first = t;
                }
                out.push(value(t, first));
            }
        }
        out.into()
    }

    fn mask(&self, device: &Device, at_start: f32, elsewhere: f32) -> Tensor<4> {
        let data: Vec<f32> = self.starts.iter().map(|&s| if s { at_start } else { elsewhere }).collect();
        Tensor::from_data(TensorData::new(data, [self.batch, self.tokens, 1, 1]), device)
    }
}
