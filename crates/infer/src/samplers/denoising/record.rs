//! What happened in a step, for whoever watches.

use serde::{Deserialize, Serialize};

/// A position that changed. Indices count from the end of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Which.
    pub index: usize,
    /// What stood there; none: a mask, or noise.
    pub old: Option<u32>,
    /// What stands there now; none: a mask again, or noise.
    pub new: Option<u32>,
    /// Probability of the token.
    pub confidence: f32,
    /// Entropy (nats) of what was predicted there.
    pub entropy: f32,
}

/// A token that is predicted and not committed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ghost {
    /// Which position.
    pub index: usize,
    /// The token.
    pub token: u32,
    /// Its probability.
    pub confidence: f32,
}

/// One step of one text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its number, from 0.
    pub step: usize,
    /// The block that is worked on, from 0.
    pub block: usize,
    /// Its first position after the prompt, and the one behind its last.
    pub window: (usize, usize),
    /// Forward passes so far.
    pub forwards: usize,
    /// Positions after the prompt that are final now.
    pub settled: usize,
    /// What changed.
    pub changes: Vec<Change>,
    /// What is predicted beside.
    pub ghosts: Vec<Ghost>,
}
