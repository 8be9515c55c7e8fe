//! What a sequence carries from call to call.

use burn::tensor::Tensor;

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

/// Document boundaries inside packed rows: state and attention stop there.
#[derive(Clone, Debug)]
pub struct Documents {
    batch: usize,
    tokens: usize,
    /// `[B * T]`: whether a document starts at this token.
    starts: Vec<bool>,
}

impl Documents {
    /// `starts` is `[batch * tokens]`, row-major.
    pub fn new(batch: usize, tokens: usize, starts: Vec<bool>) -> Self {
        assert_eq!(starts.len(), batch * tokens, "one flag a token");
        Self { batch, tokens, starts }
    }

    /// Whether any document starts inside a row.
    pub fn any(&self) -> bool {
        self.starts.iter().any(|&s| s)
    }

    /// `[B, T, 1, 1]`, one where a document starts and zero elsewhere.
    pub fn start_mask(&self, device: &burn::tensor::Device) -> Tensor<4> {
        let data: Vec<f32> = self.starts.iter().map(|&s| if s { 1.0 } else { 0.0 }).collect();
        Tensor::from_data(burn::tensor::TensorData::new(data, [self.batch, self.tokens, 1, 1]), device)
    }

    /// `[B * T]`: index of the first key that each query may see, with `past` keys before the row.
    pub fn first_visible(&self, past: usize) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.starts.len());
        for row in self.starts.chunks(self.tokens.max(1)) {
            let mut first = 0;
            for (t, &start) in row.iter().enumerate() {
                if start {
                    first = past + t;
                }
                out.push(first as u32);
            }
        }
        out
    }
}
