//! How a denoising sampler works: its settings and their ranges.

use crate::error::InferError;
use serde::{Deserialize, Serialize};

/// Positions settled together where neither the model nor the caller says how many (Fast-dLLM's
/// optimum between 4 and 256).
pub const BLOCK: usize = 32;

/// The most passes after a block's last mask that may be asked for.
const PASSES: usize = 1024;

/// Which of the predicted tokens are committed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// As many a step as it takes to be done in so many steps, the most confident first (LLaDA's
    /// low-confidence remasking).
    Fixed {
        /// Steps for the whole text.
        steps: usize,
    },
    /// As [`Rule::Fixed`], in random order.
    Random {
        /// Steps for the whole text.
        steps: usize,
    },
    /// All with at least this probability, and the best in any case (Fast-dLLM).
    Threshold {
        /// The probability.
        at: f32,
    },
    /// The n most confident while the n-th probability is above `1 - at / (n + 1)`: what one token a
    /// step would have written too, if the marginals are that sure (Fast-dLLM).
    Factor {
        /// f; 0 is one token a step.
        at: f32,
    },
    /// The most confident while the entropies (nats) of all of them but the largest sum to less than
    /// this (EB-Sampler).
    Entropy {
        /// gamma; 0 is one token a step.
        at: f32,
    },
    /// All with at least the probability `high`, and the most confident of every run of masks that
    /// has at least `low` (dInfer).
    Hierarchical {
        /// Probability that commits anything.
        high: f32,
        /// Probability that commits the best of a run.
        low: f32,
    },
    /// The reverse process itself: every position is drawn with the probability that the schedule
    /// gives it, and may be masked again. Of uniform noise, any position at any step (discrete flow matching).
    Ancestral {
        /// Steps for the whole text.
        steps: usize,
        /// Whether what was drawn may be masked again.
        #[serde(default)]
        remasking: Remasking,
    },
}

/// Masking again what was drawn (ReMDM): the probability sigma of a visible token, with
/// alpha = 1 - t before (`alpha_t`) and after (`alpha_s`) the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Remasking {
    /// Never.
    #[default]
    Never,
    /// `min(eta, (1 - alpha_s) / alpha_t)`.
    Cap {
        /// The most.
        eta: f32,
    },
    /// `eta * min(1, (1 - alpha_s) / alpha_t)`.
    Rescale {
        /// The factor.
        eta: f32,
    },
    /// `min(1, (1 - alpha_s) / alpha_t)`, shared out among the visible tokens by a softmax over their
    /// negative probabilities when they were drawn: the doubtful go first.
    Doubtful,
}

/// What becomes of end tokens, which models trained on padded answers write too early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ends {
    /// They are tokens like others.
    #[default]
    Free,
    /// They are committed when nothing else is left, and so are tokens that end a turn. Not with
    /// [`Rule::Ancestral`], which commits by chance.
    Last,
    /// They are never written.
    Never,
}

/// What makes one prediction better than another where a rule takes the best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The probability of the token.
    #[default]
    Probability,
    /// The probability less that of the runner-up.
    Margin,
    /// The entropy of the distribution, the lowest first.
    Entropy,
}

/// Changing what was committed, while its block is worked on (LLaDA2.1). It asks the model for tokens that it sees, of
/// which only uniform noise trains it to say anything: there, passes behind the last step mend what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Editing {
    /// A token is replaced when another is the likeliest at its place and at least so probable.
    pub at: f32,
    /// Forward passes after the block's last mask in which that may still happen, at most 1,024; one that changes
    /// nothing is the last.
    #[serde(default)]
    pub passes: usize,
}

/// What is kept of the text around the block, by models that see the whole sequence. Models with
/// blocks of their own always go on from a state, which is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Nothing: every pass computes the whole sequence.
    #[default]
    Nothing,
    /// Keys and values of everything before the block, of one pass over the whole sequence when the
    /// block begins (Fast-dLLM's prefix cache). The first step of a block is exact: it repeats what that
    /// pass says of the block, where Fast-dLLM commits at once. In later ones, what stands before the
    /// block still sees it, and what follows, as they began. Attention without a window only.
    Prefix,
    /// The same of everything around the block (Fast-dLLM's dual cache), so that a step computes the
    /// block alone.
    Around,
}

/// Settings of the denoising sampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Denoising {
    /// Which predictions are committed in a step.
    pub rule: Rule,
    /// Positions settled before those behind them are begun. Without it: the model's own block, else
    /// [`BLOCK`].
    pub block: Option<usize>,
    /// Divides the logits; 0 takes the most likely token, the first of equals. Confidence is always
    /// that of temperature 1.
    pub temperature: f32,
    /// Draw from the fewest most likely tokens whose probabilities reach this sum (the one that
    /// crosses it is kept).
    pub top_p: Option<f32>,
    /// Weight w of unsupervised guidance: logits `u + (1 + w) (c - u)`, where u are those with the
    /// prompt masked. 0 is off; otherwise a step costs two forward passes. Not with uniform noise.
    pub guidance: f32,
    /// What becomes of end tokens.
    pub ends: Ends,
    /// Whether the text is over as soon as an end token or stop string stands behind filled
    /// positions only. Otherwise all positions are filled, and cut then.
    pub until_end: bool,
    /// What is better where the best come first.
    pub order: Order,
    /// Whether committed tokens may be replaced.
    pub editing: Option<Editing>,
    /// Masks behind the block that the model sees, where it sees the whole sequence; none: all of
    /// them.
    pub ahead: Option<usize>,
    /// What is kept from step to step.
    pub keep: Keep,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for Denoising {
    fn default() -> Self {
        Self {
            rule: Rule::Threshold { at: 0.9 },
            block: None,
            temperature: 0.0,
            top_p: None,
            guidance: 0.0,
            ends: Ends::Free,
            until_end: true,
            order: Order::Probability,
            editing: None,
            ahead: None,
            keep: Keep::Nothing,
            seed: 0,
        }
    }
}

impl Denoising {
    /// Checks every setting against its range.
    ///
    /// # Errors
    /// With the first that is outside.
    pub fn check(&self) -> Result<(), InferError> {
        let refuse = |name, expected: &str, found: String| Err(InferError::Setting { name, expected: expected.into(), found });
        let share = |x: f32| (0.0..=1.0).contains(&x);
        match self.rule {
            Rule::Fixed { steps: 0 } | Rule::Random { steps: 0 } | Rule::Ancestral { steps: 0, .. } => {
                return refuse("steps", "at least 1, since nothing is written in none", "0".into());
            }
            // Above 1 is one token a step, which is a fair thing to ask for.
            Rule::Threshold { at } if !(at >= 0.0 && at.is_finite()) => {
                return refuse("threshold", "a probability (0.9 is usual; above 1 is one token a step)", at.to_string());
            }
            Rule::Factor { at } if !(at >= 0.0 && at.is_finite()) => return refuse("factor", "a number from 0", at.to_string()),
            Rule::Entropy { at } if at.is_nan() || at < 0.0 => {
                return refuse("entropy bound", "a number from 0 (nats)", at.to_string());
            }
            Rule::Hierarchical { high, low } if !(high >= 0.0 && low >= 0.0 && high >= low) => {
                return refuse("hierarchical", "two probabilities, the first not below the second", format!("{high} and {low}"));
            }
            Rule::Ancestral { remasking: Remasking::Cap { eta } | Remasking::Rescale { eta }, .. } if !share(eta) => {
                return refuse("remasking", "a number from 0 to 1", eta.to_string());
            }
            Rule::Ancestral { .. } if self.ends == Ends::Last => {
                let expected = "free or never with the ancestral rule, which commits by chance and not the best first";
                return refuse("ends", expected, "last".into());
            }
            _ => {}
        }
        if self.block == Some(0) {
            return refuse("block", "at least 1", "0".into());
        }
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", "a number from 0", self.temperature.to_string());
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse("top-p", "a number above 0, at most 1", p.to_string());
        }
        if !(self.guidance > -1.0 && self.guidance.is_finite()) {
            return refuse("guidance", "a number above -1 (0 is off)", self.guidance.to_string());
        }
        if let Some(at) = self.editing.map(|e| e.at).filter(|at| !share(*at)) {
            return refuse("editing", "a probability", at.to_string());
        }
        if let Some(passes) = self.editing.map(|e| e.passes).filter(|passes| *passes > PASSES) {
            let expected = format!("at most {PASSES} after each block's last mask; give fewer (1 is usual)");
            return refuse("editing passes", &expected, passes.to_string());
        }
        Ok(())
    }

    /// Whether a committed token may change before its block is done, whatever the model; of uniform noise any may.
    pub fn revises(&self) -> bool {
        self.remasks() || self.editing.is_some()
    }

    /// Whether what was drawn may be masked again.
    pub(super) fn remasks(&self) -> bool {
        matches!(self.rule, Rule::Ancestral { remasking, .. } if remasking != Remasking::Never)
    }
}
