//! One (sequence, head) pair: sizes, inputs, gradients.

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
}
