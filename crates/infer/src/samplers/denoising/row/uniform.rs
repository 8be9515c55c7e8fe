//! Rows of models of uniform noise: unknown positions hold random tokens, and since nothing tells those from the
//! text, every step decides anew about all positions of the block.
//!
//! The rules commit as with masks, but choose among what is written, too: what they leave out becomes noise again,
//! and the block's noise is drawn anew, so that none of its random tokens speaks twice (after DiffusionGemma's sampler).
//! Each step writes one position more at least. The ancestral rule is the process of discrete flow matching
//! (arXiv 2407.15595) in Euler steps: from time t to t + h each position of the block takes a token of the model's with
//! probability h / (1 - t), and keeps its own otherwise. What stands behind the block keeps its first noise until its turn
//! comes: whoever keeps keys and values of it counts on that.

use super::{DECISIONS, Row};
use crate::samplers::denoising::candidate::Candidate;
use crate::samplers::denoising::commit::Placed;
use crate::samplers::denoising::noise::Noise;
use crate::samplers::denoising::record::Step;
use crate::samplers::denoising::settings::Rule;
use std::ops::Range;

/// Positions of [`Noise`] from which random tokens are drawn.
const SCATTER: u64 = DECISIONS << 1;

impl<S: Clone> Row<S> {
    /// Whether the rule decides about a position: about masks; with uniform noise about all, while any is left.
    pub(super) fn is_undecided(&self, position: usize) -> bool {
        self.open[position] || self.deciding
    }

    /// Whether written positions of the block are decided about once more: of uniform noise, until none of it is left.
    pub(super) fn decides_anew(&self) -> bool {
        self.shape.uniform && (self.flows() || self.window.clone().any(|p| self.open[p]))
    }

    /// Whether the process goes on, in which every token may change until its last step.
    pub(super) fn flows(&self) -> bool {
        self.shape.uniform && matches!(self.settings.rule, Rule::Ancestral { .. }) && self.steps_left > 0
    }

    /// Random tokens, as in training, at the open positions of a range; with masks nothing.
    pub(super) fn scatter(&mut self, range: Range<usize>) {
        if !self.shape.uniform {
            return;
        }
        for position in range.filter(|&p| self.open[p]) {
            let mut noise = Noise::new(self.settings.seed, self.stream, self.step as u64, SCATTER + position as u64);
            // All but the mask token, of which there is one at least if canvas and model agree.
            let others = (self.shape.vocabulary - 1).max(1);
            let id = ((noise.unit() * others as f64) as usize).min(others - 1) as u32;
            self.tokens[position] = id + u32::from(id >= self.shape.mask_token);
        }
    }

    /// Other random tokens in the block, after a step; the process itself keeps those it has.
    pub(super) fn scatter_again(&mut self) {
        if !matches!(self.settings.rule, Rule::Ancestral { .. }) {
            self.scatter(self.window.clone());
        }
    }

    /// The places that jump in this step.
    pub(super) fn jump(&self, places: &[Placed], decisions: &mut Noise) -> Vec<usize> {
        let share = 1.0 / self.steps_left.max(1) as f64;
        // The last step's share is 1, which no draw reaches.
        (0..places.len()).filter(|_| decisions.unit() < share).collect()
    }

    /// Writes a candidate that was chosen, unless it stands there.
    pub(super) fn write(&mut self, position: usize, candidate: &Candidate, step: &mut Step) {
        if self.open[position] || self.tokens[position] != candidate.token {
            self.put(position, Some(candidate.token), candidate, step);
        } else {
            self.confidence[position] = candidate.confidence;
        }
    }

    /// What becomes of a place that was not chosen: written text is noise again, by all rules but the process itself.
    pub(super) fn leave(&mut self, position: usize, candidate: &Candidate, step: &mut Step) {
        if !self.open[position] && !matches!(self.settings.rule, Rule::Ancestral { .. }) {
            self.put(position, None, candidate, step);
        }
    }
}
