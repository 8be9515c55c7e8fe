//! What a sequence carries from call to call.

use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::delta_rule::END;
use std::sync::Arc;

/// State of one layer for a batch of sequences; the batch is dimension 0 of every part.
#[derive(Clone, Debug, Default)]
pub struct LayerState {
    /// The mixer's tensors; empty at the start of a sequence.
    pub parts: Vec<Tensor<4>>,
    /// Tokens held, for mixers whose parts have spare room.
    pub length: usize,
}

/// State of a whole model for a batch of sequences.
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

    /// The state of some rows of the batch, in this order (a fork or a selection).
    pub fn rows(&self, rows: &[usize]) -> Self {
        let pick = |part: &Tensor<4>| {
            Tensor::cat(rows.iter().map(|&row| part.clone().narrow(0, row, 1)).collect(), 0)
        };
        let layers = self
            .layers
            .iter()
            .map(|layer| LayerState { parts: layer.parts.iter().map(pick).collect(), length: layer.length })
            .collect();
        Self { layers, position: self.position }
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
