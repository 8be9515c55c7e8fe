//! What a recipe may say of masked diffusion.

use recast_models::Diffusion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;

/// The noise and the loss of a masked diffusion stage. The defaults are LLaDA's loss (arXiv
/// 2502.09992) with stratified times.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// What a noisy position holds instead of its token.
    pub source: Source,
    /// What a noisy position's cross-entropy counts.
    pub loss: Weighting,
    /// How the share of noisy positions grows with time.
    pub schedule: NoiseSchedule,
    /// Smallest time, which bounds the largest weight.
    pub epsilon: f64,
    /// How times are drawn.
    pub times: Times,
    /// What has a time of its own; default: each block where the model denoises blocks, else each
    /// sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_per: Option<Per>,
    /// Smallest share of noisy positions: times are drawn so, and a draw that falls outside is made
    /// again. The loss is then no bound.
    #[serde(skip_serializing_if = "is_zero")]
    pub lowest_rate: f64,
    /// Largest share of noisy positions.
    #[serde(skip_serializing_if = "is_one")]
    pub highest_rate: f64,
    /// Probability that a sequence (or block) is noisy everywhere, as sampling begins.
    #[serde(skip_serializing_if = "is_zero")]
    pub full: f64,
    /// Train on each mask and on its complement: twice the rows, and every token has a loss.
    #[serde(skip_serializing_if = "is_false")]
    pub complementary: bool,
    /// Probability that a micro-batch is cut to a random length.
    pub random_length: f64,
    /// Weight of a next-token loss beside the diffusion loss, so that the model still writes one token
    /// after the other. Its tokens see only what came before: where attention sees ahead in clean
    /// tokens this is a pass of its own.
    #[serde(skip_serializing_if = "is_zero")]
    pub next_token: f64,
    /// Of fine-tuning (`pairs`): what stands behind a response shorter than the others; `block` is for models that
    /// denoise blocks, `none` for those of the whole sequence.
    #[serde(skip_serializing_if = "is_longest")]
    pub padding: Padding,
    /// Block sizes to go through in equal shares of the stage; the last should be the model's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<usize>,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}
fn is_one(x: &f64) -> bool {
    *x == 1.0
}
fn is_longest(x: &Padding) -> bool {
    *x == Padding::Longest
}
fn is_false(x: &bool) -> bool {
    !x
}

impl Default for Noise {
    fn default() -> Self {
        Self {
            source: Source::Mask,
            loss: Weighting::Bound,
            schedule: NoiseSchedule::Linear,
            epsilon: 1e-3,
            times: Times::Stratified,
            time_per: None,
            lowest_rate: 0.0,
            highest_rate: 1.0,
            full: 0.0,
            complementary: false,
            random_length: 0.01,
            next_token: 0.0,
            padding: Padding::Longest,
            blocks: Vec::new(),
        }
    }
}

/// What stands behind a response that is shorter than the longest of its micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// End-of-text up to the longest row, trained on like the response: published practice.
    Longest,
    /// End-of-text up to the end of its block, trained on; nothing sees what is behind.
    Block,
    /// One end-of-text, and nothing sees what is behind.
    None,
}

/// What a noisy position holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The mask token.
    Mask,
    /// Any token of the vocabulary: discrete flow matching from uniform noise (arXiv 2407.15595).
    Uniform,
}

/// What the loss counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// The bound of the likelihood: `-alpha'/(1 - alpha)` times the cross-entropy of masked positions, and in
    /// blocks of one, which are always masked, the cross-entropy itself; with uniform noise the generalised KL
    /// divergence of discrete flow matching.
    Bound,
    /// Plain cross-entropy: of the masked positions, or of all with uniform noise.
    CrossEntropy,
}

/// alpha, the share of positions that keep their token, as a function of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseSchedule {
    /// `1 - t`.
    Linear,
    /// `cos(t pi / 2)`... less noise at most times.
    Cosine,
    /// `1 - t^2`.
    Square,
}

impl NoiseSchedule {
    /// Share of noisy positions, `1 - alpha`.
    pub fn rate(self, t: f64) -> f64 {
        match self {
            NoiseSchedule::Linear => t,
            NoiseSchedule::Cosine => 1.0 - (FRAC_PI_2 * t).cos(),
            NoiseSchedule::Square => t * t,
        }
    }

    /// `-alpha' / (1 - alpha)`.
    pub fn weight(self, t: f64) -> f64 {
        match self {
            NoiseSchedule::Linear => 1.0 / t,
            NoiseSchedule::Cosine => FRAC_PI_2 * (FRAC_PI_2 * t).sin() / self.rate(t),
            NoiseSchedule::Square => 2.0 / t,
        }
    }

    /// The time of a share of noisy positions.
    pub fn time(self, rate: f64) -> f64 {
        match self {
            NoiseSchedule::Linear => rate,
            NoiseSchedule::Cosine => (1.0 - rate).acos() / FRAC_PI_2,
            NoiseSchedule::Square => rate.sqrt(),
        }
    }
}

/// How times are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Times {
    /// Each by itself.
    Independent,
    /// In equal steps over the batch from one random start: `(u + k / K) mod 1`.
    Stratified,
}

/// What has a time of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// The sequence.
    Sequence,
    /// The block.
    Block,
}

impl Noise {
    /// What is wrong with it, for a model that denoises so.
    ///
    /// # Errors
    /// With the key and what was expected.
    pub fn check(&self, model: &Diffusion) -> Result<(), String> {
        let share = |key: &str, value: f64| {
            if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(format!("{key} is {value}, expected from 0 to 1")) }
        };
        share("full", self.full)?;
        share("random_length", self.random_length)?;
        share("lowest_rate", self.lowest_rate)?;
        share("highest_rate", self.highest_rate)?;
        if self.lowest_rate >= self.highest_rate {
            return Err(format!("lowest_rate is {}, expected below highest_rate ({})", self.lowest_rate, self.highest_rate));
        }
        if !(self.epsilon > 0.0 && self.epsilon <= 0.5) {
            return Err(format!("epsilon is {}, expected above 0 and at most 0.5", self.epsilon));
        }
        if !(self.next_token >= 0.0 && self.next_token.is_finite()) {
            return Err(format!("next_token is {}, expected a weight of at least 0", self.next_token));
        }
        if self.source == Source::Uniform && self.complementary {
            return Err("complementary masks need masks; expected source = \"mask\"".into());
        }
        if (self.source == Source::Uniform) != model.uniform {
            let [own, other] = if model.uniform { ["mask", "uniform"] } else { ["uniform", "mask"] };
            return Err(format!("source is {own}, and the last stage of masked diffusion has {other}; expected the same in all"));
        }
        if model.uniform && model.shift && (model.block == Some(1) || self.blocks.contains(&1)) {
            return Err("source is uniform, and blocks of 1 that the token before predicts see none of their noise; expected \
                        larger blocks, or source = \"mask\""
                .into());
        }
        if self.padding == Padding::Block && model.block.is_none() {
            return Err("padding is block, and the model has no blocks; expected longest or none".into());
        }
        if self.padding == Padding::None && model.block.is_some() {
            return Err("padding is none: a block sees all of itself, and so what pads it; expected block or longest".into());
        }
        match (model.block, self.blocks.last()) {
            (None, Some(_)) => Err("blocks: the model has none; set student.diffusion.block".into()),
            (Some(block), Some(&last)) if last != block => Err(format!(
                "blocks ends with {last}, the model denoises blocks of {block}; samplers would use a size it was not trained at last"
            )),
            _ if self.blocks.contains(&0) => Err("blocks of 0 tokens".into()),
            (None, None) if self.time_per == Some(Per::Block) => Err("time_per is block, and the model has no blocks".into()),
            _ => Ok(()),
        }
    }

    /// The block size at this step of so many.
    pub fn block_at(&self, model: &Diffusion, step: u64, steps: u64) -> Option<usize> {
        let shares = self.blocks.len() as u64;
        if shares == 0 {
            return model.block;
        }
        self.blocks.get((step * shares / steps.max(1)).min(shares - 1) as usize).copied()
    }

    /// Which variant this is, for people.
    pub fn describe(&self, model: &Diffusion) -> String {
        let per = match (self.time_per, model.block) {
            (Some(Per::Block), _) | (None, Some(_)) => "block",
            _ => "sequence",
        };
        let sight = match model.block {
            Some(block) if self.blocks.is_empty() => format!("blocks of {block}"),
            Some(_) => format!("blocks of {}", self.blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", then ")),
            None => "the whole sequence".into(),
        };
        let source = if self.source == Source::Mask { "mask" } else { "uniform" };
        let loss = match (self.loss, self.source) {
            (Weighting::Bound, Source::Mask) => "cross-entropy weighted by -alpha'/(1 - alpha)",
            (Weighting::Bound, Source::Uniform) => "generalised KL",
            (Weighting::CrossEntropy, _) => "plain cross-entropy",
        };
        let schedule = match self.schedule {
            NoiseSchedule::Linear => "linear",
            NoiseSchedule::Cosine => "cosine",
            NoiseSchedule::Square => "square",
        };
        let times = if self.times == Times::Stratified { "stratified" } else { "independent" };
        // Always masked, and each counts 1: neither time nor rate changes anything.
        let bound_of_masks = self.source == Source::Mask && self.loss == Weighting::Bound;
        let ones = bound_of_masks && model.block == Some(1) && self.blocks.iter().all(|&block| block == 1);
        let mut text = if ones {
            "masked diffusion: blocks of 1: the next-token loss, divided by all positions".to_owned()
        } else {
            format!(
                "masked diffusion: {sight}, {source} noise, {schedule} schedule, {times} time a {per}, {loss}, divided by all \
                 positions"
            )
        };
        if model.shift {
            text.push_str(", shifted");
        }
        if !ones && (self.lowest_rate > 0.0 || self.highest_rate < 1.0) {
            text.push_str(&format!(", rates from {} to {}", self.lowest_rate, self.highest_rate));
        }
        if !ones && self.full > 0.0 {
            text.push_str(&format!(", all noise with probability {}", self.full));
        }
        if self.complementary {
            text.push_str(", complementary masks");
        }
        if self.random_length > 0.0 {
            text.push_str(&format!(", random length with probability {}", self.random_length));
        }
        if self.next_token > 0.0 {
            text.push_str(&format!(", next-token loss times {}", self.next_token));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_are_told_as_the_next_tokens_loss() {
        let told = |block, noise: &Noise| noise.describe(&Diffusion { mask_token: 3, block, shift: true, uniform: false });
        let full = Noise { full: 0.5, blocks: vec![1, 1], ..Noise::default() };
        for noise in [Noise::default(), full] {
            let said = told(Some(1), &noise);
            assert_eq!(
                said,
                "masked diffusion: blocks of 1: the next-token loss, divided by all positions, shifted, random length with \
                 probability 0.01"
            );
        }
        let plain = Noise { loss: Weighting::CrossEntropy, ..Noise::default() };
        let grown = Noise { blocks: vec![1, 4], ..Noise::default() };
        for (block, noise) in [(Some(1), plain), (Some(4), grown), (Some(4), Noise::default()), (None, Noise::default())] {
            let said = told(block, &noise);
            assert!(said.contains("stratified time a ") && !said.contains("the next-token loss"), "{said}");
        }
    }

    #[test]
    fn what_a_model_cannot_do_is_refused() {
        let refused = |block, uniform, noise: &Noise| {
            noise.check(&Diffusion { mask_token: 3, block, shift: true, uniform }).err().unwrap_or_default()
        };
        let padded = Noise { padding: Padding::Block, ..Noise::default() };
        assert!(refused(None, false, &padded).contains("has no blocks"));
        assert_eq!(refused(Some(4), false, &padded), "");
        let uniform = Noise { source: Source::Uniform, ..Noise::default() };
        assert_eq!((refused(None, true, &uniform), refused(Some(4), true, &uniform)), Default::default());
        assert!(refused(None, false, &uniform).contains("source is uniform, and the last stage of masked diffusion has mask"));
        assert!(refused(None, true, &Noise::default()).contains("source is mask"));
        for (block, blocks) in [(1, vec![]), (4, vec![1, 4])] {
            assert!(refused(Some(block), true, &Noise { blocks, ..uniform.clone() }).contains("see none of their noise"));
        }
    }
}
