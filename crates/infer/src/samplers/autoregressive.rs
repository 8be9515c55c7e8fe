//! The next token from its logits.
//!
//! In the order of `transformers`: biases and penalties (repetition: Keskar et al. 2019; frequency and
//! presence as OpenAI defines them, over what was written), temperature, top-k (Fan et al. 2018),
//! top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), then one draw. The draw is a function of seed, stream and step alone, so a token does not depend on what other
//! sequences of a batch drew.

use crate::error::InferError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Settings of the sampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token, the first of equals.
    pub temperature: f32,
    /// Keep only so many of the most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the fewest most likely tokens whose probabilities reach this sum.
    pub top_p: Option<f32>,
    /// Keep the tokens at least this fraction as likely as the most likely one.
    pub min_p: Option<f32>,
    /// Positive logits of tokens already in the sequence are divided by it, negative ones
    /// multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time it was written.
    pub frequency_penalty: f32,
    /// Taken from a token's logit once it was written.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Same seed, same text.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its log-probability (nats) in the distribution given, before any setting.
    pub log_probability: f32,
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every setting against its range.
    ///
    /// # Errors
    /// With the first that is outside.
    pub fn check(&self) -> Result<(), InferError> {
        let refuse = |name, expected, found: String| Err(InferError::Option { name, expected, found });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", "a number from 0", self.temperature.to_string());
        }
        if self.top_k == Some(0) {
            return refuse("top-k", "at least 1", "0".into());
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refuse("top-p", "a number above 0, at most 1", p.to_string());
        }
        if let Some(p) = self.min_p.filter(|p| !(*p >= 0.0 && *p <= 1.0)) {
            return refuse("min-p", "a number from 0 to 1", p.to_string());
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("repetition penalty", "a number above 0", self.repetition_penalty.to_string());
        }
        for (name, value) in [("frequency penalty", self.frequency_penalty), ("presence penalty", self.presence_penalty)] {
            if !(-2.0..=2.0).contains(&value) {
                return refuse(name, "a number from -2 to 2", value.to_string());
            }
        }
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(*bias)) {
            return refuse("logit bias", "numbers from -100 to 100", format!("{bias} for token {token}"));
        }
        Ok(())
    }

    /// Chooses the token of place `step` of sequence `stream` from `logits` `[V]`. `seen` are the
    /// tokens of the sequence so far, of which the last `written` were written and not given.
    ///
    /// # Errors
    /// When the logits hold a NaN or nothing finite; `seen.len()` is reported as the place.
    pub fn choose(&self, logits: &[f32], seen: &[u32], written: usize, stream: u64, step: u64) -> Result<Choice, InferError> {
        let broken = || InferError::NotFinite { position: seen.len() };
        if logits.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
            return Err(broken());
        }
        let largest = maximum(logits);
        if largest == f32::NEG_INFINITY {
            return Err(broken());
        }
        let penalised = self.penalised(logits, seen, written);
        let token = if self.temperature == 0.0 {
            first_of(&penalised, maximum(&penalised))
        } else {
            draw(&self.kept(&penalised), uniform(self.seed, stream, step))
        };
        let log_probability = (f64::from(logits[token as usize]) - log_normaliser(logits)) as f32;
        Ok(Choice { token, log_probability: log_probability.min(0.0) })
    }

    fn penalised<'a>(&self, logits: &'a [f32], seen: &[u32], written: usize) -> Cow<'a, [f32]> {
        let repetition = self.repetition_penalty != 1.0;
        let counted = (self.frequency_penalty != 0.0 || self.presence_penalty != 0.0) && written > 0;
        if !repetition && !counted && self.logit_bias.is_empty() {
            return logits.into();
        }
        let mut out = logits.to_vec();
        for &token in seen.iter().filter(|_| repetition) {
            // From the given logit, so that a token seen twice is penalised once.
            if let Some(&x) = logits.get(token as usize) {
                let factor = if x > 0.0 { 1.0 / self.repetition_penalty } else { self.repetition_penalty };
                out[token as usize] = x * factor;
            }
        }
        if counted {
            let mut counts = BTreeMap::<u32, u32>::new();
            seen[seen.len() - written..].iter().for_each(|&token| *counts.entry(token).or_default() += 1);
            for (token, count) in counts {
                if let Some(x) = out.get_mut(token as usize) {
                    *x -= self.presence_penalty + self.frequency_penalty * count as f32;
                }
            }
        }
        for (&token, bias) in &self.logit_bias {
            if let Some(x) = out.get_mut(token as usize) {
                *x += bias;
            }
        }
        out.into()
    }

    /// Tokens that stay, with weights that sum to anything; the most likely always stays.
    pub(super) fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let largest = maximum(logits);
        let weight = |x: f32| (f64::from(x - largest) / f64::from(self.temperature)).exp();
        let mut kept: Vec<(u32, f64)> =
            logits.iter().enumerate().map(|(token, &x)| (token as u32, weight(x))).filter(|(_, w)| *w > 0.0).collect();
        // Likeliest first; equals by their id, so that the order is total.
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.filter(|k| *k < kept.len()) {
            kept.select_nth_unstable_by(k - 1, order);
            kept.truncate(k);
        }
        if let Some(p) = self.top_p.map(f64::from).filter(|p| *p < 1.0) {
            let total: f64 = kept.iter().map(|(_, w)| w).sum();
            // Tokens below this weight have less than 1 - p among them: none is needed to reach
            // p, and most of the vocabulary need not be sorted.
            let floor = (1.0 - p) * total / kept.len() as f64;
            kept.retain(|(_, w)| *w >= floor);
            kept.sort_unstable_by(order);
            let mut sum = 0.0;
            let reached = kept.iter().position(|(_, w)| {
                sum += w;
                sum >= p * total
            });
            kept.truncate(reached.map_or(kept.len(), |at| at + 1));
        }
        if let Some(p) = self.min_p {
            // The largest weight is exp(0).
            kept.retain(|(_, w)| *w >= f64::from(p));
        }
        // In one order whatever was kept how, so that the draw depends on the set alone.
        kept.sort_unstable_by_key(|(token, _)| *token);
        kept
    }
}

/// ln of the sum of exponentials: what log-probabilities are less than their logits.
pub fn log_normaliser(logits: &[f32]) -> f64 {
    let largest = maximum(logits);
    f64::from(largest) + logits.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln()
}

/// The `count` tokens of the largest logits, largest first; of equals the first.
pub fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(tokens.len());
    if count == 0 {
        return Vec::new();
    }
    tokens.select_nth_unstable_by(count - 1, order);
    tokens.truncate(count);
    tokens.sort_unstable_by(order);
    tokens
}

fn maximum(values: &[f32]) -> f32 {
    values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn first_of(values: &[f32], wanted: f32) -> u32 {
    values.iter().position(|x| *x == wanted).unwrap_or(0) as u32
}

/// The token at `at` (in [0, 1)) of the cumulated weights.
fn draw(weights: &[(u32, f64)], at: f64) -> u32 {
    let mut left = at * weights.iter().map(|(_, w)| w).sum::<f64>();
    for (token, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return *token;
        }
    }
    // Rounding may leave a crumb; the last token with weight takes it.
    weights.last().map_or(0, |(token, _)| *token)
}

/// Uniform in [0, 1): the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over the three counters
/// in turn.
fn uniform(seed: u64, stream: u64, step: u64) -> f64 {
    let mix = |state: u64, value: u64| {
        let z = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (mix(mix(mix(0, seed), stream), step) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
    fn logits() -> Vec<f32> {
        [0.125f32, 0.5, 0.125, 0.25].iter().map(|p| p.ln() + 3.0).collect()
    }

    fn frequencies(sampling: &Sampling, seen: &[u32]) -> Vec<f64> {
        let draws = 20_000;
        let mut counts = vec![0.0; 4];
        for step in 0..draws {
            counts[sampling.choose(&logits(), seen, 0, 0, step).unwrap().token as usize] += 1.0 / draws as f64;
        }
        counts
    }

    fn near(found: &[f64], wanted: [f64; 4]) {
        let far = found.iter().zip(wanted).any(|(f, w)| (f - w).abs() > 0.012 || (w == 0.0 && *f > 0.0));
        assert!(!far, "{found:?} instead of {wanted:?}");
    }

    #[test]
    fn draws_follow_the_distribution_and_each_setting_cuts_it() {
        let plain = Sampling { seed: 7, ..Sampling::default() };
        near(&frequencies(&plain, &[]), [0.125, 0.5, 0.125, 0.25]);
        // Squared probabilities at temperature 1/2.
        let cold = Sampling { temperature: 0.5, ..plain.clone() };
        near(&frequencies(&cold, &[]), [0.0455, 0.7273, 0.0455, 0.1818]);
        near(&frequencies(&Sampling { top_k: Some(2), ..plain.clone() }, &[]), [0.0, 0.6667, 0.0, 0.3333]);
        // Of two equals at the border the first stays.
        near(&frequencies(&Sampling { top_k: Some(3), ..plain.clone() }, &[]), [0.1429, 0.5714, 0.0, 0.2857]);
        near(&frequencies(&Sampling { top_p: Some(0.5), ..plain.clone() }, &[]), [0.0, 1.0, 0.0, 0.0]);
        near(&frequencies(&Sampling { top_p: Some(0.6), ..plain.clone() }, &[]), [0.0, 0.6667, 0.0, 0.3333]);
        near(&frequencies(&Sampling { min_p: Some(0.4), ..plain.clone() }, &[]), [0.0, 0.6667, 0.0, 0.3333]);
        near(&frequencies(&Sampling { min_p: Some(1.0), ..plain.clone() }, &[]), [0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_nucleus_equals_its_definition_on_a_long_tail() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919 % 5000) as f32).sqrt() / 8.0).collect();
        for p in [0.1f32, 0.5, 0.9, 0.999] {
            let sampling = Sampling { top_p: Some(p), ..Sampling::default() };
            let kept = sampling.kept(&logits);
            let mut all = Sampling::default().kept(&logits);
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let total: f64 = all.iter().map(|x| x.1).sum();
            let mut sum = 0.0;
            let count = 1 + all
                .iter()
                .position(|x| {
                    sum += x.1;
                    sum >= f64::from(p) * total
                })
                .unwrap();
            let mut wanted = all[..count].to_vec();
            wanted.sort_by_key(|x| x.0);
            assert_eq!(kept, wanted, "p {p}");
        }
    }

    #[test]
    fn repetition_is_penalised_once_in_the_right_direction() {
        let strong = Sampling { repetition_penalty: 1e6, ..Sampling::greedy() };
        assert_eq!(strong.choose(&logits(), &[], 0, 0, 0).unwrap().token, 1);
        assert_eq!(strong.choose(&logits(), &[1, 1], 0, 0, 0).unwrap().token, 3);
        let halved = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(&*halved.penalised(&[4.0, -4.0, 1.0], &[0, 0, 1, 9], 0), &[2.0, -8.0, 1.0]);
    }

    #[test]
    fn what_was_written_counts_and_what_was_given_does_not() {
        let sampling = Sampling { frequency_penalty: 0.5, presence_penalty: 1.0, ..Sampling::greedy() };
        let biased = Sampling { logit_bias: [(2, -3.0), (99, 1.0)].into(), ..sampling.clone() };
        assert_eq!(&*sampling.penalised(&[4.0, 4.0, 4.0], &[2, 0, 0, 1], 3), &[2.0, 2.5, 4.0]);
        assert_eq!(&*biased.penalised(&[4.0, 4.0, 4.0], &[2, 0, 0, 1], 3), &[2.0, 2.5, 1.0]);
        assert_eq!(likeliest(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
        assert!((log_normaliser(&logits()) - 3.0).abs() < 1e-6);
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_reports_the_models_probability() {
        let greedy = Sampling { repetition_penalty: 1.0, ..Sampling::greedy() };
        assert_eq!(greedy.choose(&[1.0, 2.0, 2.0], &[], 0, 0, 0).unwrap().token, 1);
        let choice = greedy.choose(&logits(), &[], 0, 0, 0).unwrap();
        assert!((choice.log_probability - 0.5f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn draws_are_counters_not_a_sequence() {
        let a: Vec<f64> = (0..4).map(|step| uniform(1, 0, step)).collect();
        assert_eq!(uniform(1, 0, 3), a[3]);
        let all = [a[0], a[1], uniform(2, 0, 0), uniform(1, 1, 0)];
        assert!(all.iter().enumerate().all(|(i, x)| all[..i].iter().all(|y| x != y)));
    }

    #[test]
    fn settings_and_logits_out_of_range_are_refused() {
        let bad = [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { top_k: Some(0), ..Sampling::default() },
            Sampling { top_p: Some(0.0), ..Sampling::default() },
            Sampling { min_p: Some(1.5), ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
        ];
        assert!(bad.iter().all(|s| s.check().is_err()));
        assert!(Sampling::default().check().is_ok());
        let plain = Sampling::default();
        assert!(plain.choose(&[0.0, f32::NAN], &[], 0, 0, 0).is_err());
        assert!(plain.choose(&[f32::NEG_INFINITY; 3], &[], 0, 0, 0).is_err());
        assert!(plain.choose(&[], &[], 0, 0, 0).is_err());
        assert_eq!(plain.choose(&[f32::NEG_INFINITY, 1.0], &[], 0, 0, 0).unwrap().token, 1);
    }
}
