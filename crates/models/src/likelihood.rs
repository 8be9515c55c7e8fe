//! Likelihood of text under a masked diffusion model: an upper bound of its negative logarithm, by
//! the exact-count estimator (LLaDA, arXiv 2502.09992, eq. 6), with systematic counts.
//!
//! ```text
//! -ln p(x) <= E_{l ~ U{1..L}} [ L / l * sum of -ln p(x_i | rest) over l masked positions i ]
//! ```
//!
//! A block diffusion model has one such term a block, each behind the clean blocks before it. With
//! one position a block there is nothing to draw and the sum is the exact likelihood: autoregression.

use crate::config::Diffusion;
use crate::error::ModelError;
use crate::model::Model;
use crate::param::values;
use crate::random::Random;
use crate::sight::Sight;
use burn::tensor::{Int, Tensor, TensorData};
use recast_ops::vocab_loss::token_log_probabilities;
use std::ops::Range;

/// The most samples of an estimate: a standard error 22 times smaller than that of the usual 128.
pub const SAMPLES: usize = 1 << 16;

/// How to estimate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Passes over the text, each with masks of its own; at most [`SAMPLES`].
    pub samples: usize,
    /// Tokens that go through the model at once, about.
    pub budget: usize,
    /// Decides the masks.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { samples: 128, budget: 4096, seed: 0 }
    }
}

/// An upper bound of the negative log-likelihood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Nats over all positions that count.
    pub nats: f64,
    /// Standard error of `nats`; samples are taken as independent, which systematic ones are not: they
    /// do better.
    pub error: f64,
    /// Positions that count.
    pub positions: usize,
    /// Samples taken.
    pub samples: usize,
    /// Whether there was nothing to draw: this is the likelihood and no bound.
    pub exact: bool,
    /// The same by how much of the span was masked, in quarters.
    pub quarters: Quarters,
}

/// Negative log-probabilities of masked tokens by the share of the tokens around them that was masked with
/// them: up to a quarter, a half, three quarters, all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quarters([(f64, usize); 4]);

impl Quarters {
    fn add(&mut self, share: f64, nats: f64) {
        let (sum, count) = &mut self.0[((4.0 * share).ceil() as usize).clamp(1, 4) - 1];
        *sum += nats;
        *count += 1;
    }

    /// With those of other text.
    pub fn join(&mut self, other: &Self) {
        for ((sum, count), (more, others)) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
            *count += others;
        }
    }

    /// Nats a masked token; none where there was none.
    pub fn means(&self) -> [Option<f64>; 4] {
        self.0.map(|(sum, count)| (count > 0).then(|| sum / count as f64))
    }
}

/// Bounds `-ln p(tokens[prompt..] | tokens[..prompt])`. Of a shifted model the first token of a text is
/// predicted by nothing, and does not count.
///
/// # Errors
/// When the model is no masked diffusion model, a token is outside the vocabulary, nothing is to be
/// predicted, or there are too many samples.
pub fn estimate(model: &Model, tokens: &[u32], prompt: usize, options: Options) -> Result<Estimate, ModelError> {
    if options.samples > SAMPLES {
        return Err(ModelError::Samples { samples: options.samples, most: SAMPLES });
    }
    let (diffusion, spans) = prepared(model, tokens, prompt)?;
    let exact = spans.iter().all(|span| span.len() == 1);
    let samples = if exact { 1 } else { options.samples.max(1) };
    let mut random = Random::new(options.seed, "likelihood");
    // Systematic counts: each span's run through 1..=L in equal steps from a start of its own.
    let starts: Vec<f64> = spans.iter().map(|_| random.uniform()).collect();
    let mut totals = Vec::with_capacity(samples);
    let mut quarters = Quarters::default();
    let columns = tokens.len() * if diffusion.block.is_some() { 2 } else { 1 };
    let rows = (options.budget / columns).clamp(1, samples);
    for begin in (0..samples).step_by(rows) {
        let batch = begin..(begin + rows).min(samples);
        let passes: Vec<Pass> = batch
            .map(|sample| {
                let of_span = |(span, start): (&Range<usize>, &f64)| {
                    let length = span.len();
                    let at = (start + sample as f64 / samples as f64).fract();
                    let count = 1 + ((at * length as f64) as usize).min(length - 1);
                    let weight = length as f64 / count as f64;
                    choose(span.clone(), count, &mut random).into_iter().map(move |i| (i, weight)).collect::<Vec<_>>()
                };
                let asked: Vec<(usize, f64)> = spans.iter().zip(&starts).flat_map(of_span).collect();
                Pass { masked: asked.iter().map(|&(i, _)| i).collect(), asked }
            })
            .collect();
        for answer in run(model, diffusion, tokens, &passes)? {
            totals.push(answer.nats);
            quarters.join(&answer.quarters);
        }
    }
    let mean = totals.iter().sum::<f64>() / samples as f64;
    let variance = totals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (samples.max(2) - 1) as f64;
    Ok(Estimate {
        nats: mean,
        error: (variance / samples as f64).sqrt(),
        positions: spans.iter().map(Range::len).sum(),
        samples,
        exact,
        quarters,
    })
}

/// How the model denoises, and what is denoised together of `tokens[prompt..]`.
fn prepared<'a>(model: &'a Model, tokens: &[u32], prompt: usize) -> Result<(&'a Diffusion, Vec<Range<usize>>), ModelError> {
    let diffusion = model.masked_diffusion()?;
    model.check_tokens(tokens)?;
    let first = prompt.max(usize::from(diffusion.shift));
    if first >= tokens.len() {
        return Err(ModelError::Batch { tokens: tokens.len().saturating_sub(first), batch: 1 });
    }
    let block = diffusion.block.unwrap_or(tokens.len());
    let spans = (0..tokens.len())
        .step_by(block)
        .map(|start| start.max(first)..start.saturating_add(block).min(tokens.len()))
        .filter(|span| !span.is_empty());
    Ok((diffusion, spans.collect()))
}

/// `count` different members of `span`, in order.
fn choose(span: Range<usize>, count: usize, random: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = span.collect();
    for i in 0..count {
        let j = i + (random.bits() % (all.len() - i) as u64) as usize;
        all.swap(i, j);
    }
    all.truncate(count);
    all.sort_unstable();
    all
}

/// Whether greedy decoding would write `tokens[prompt..]`: one token a pass, the most confident first, as LLaDA
/// checks it (`suffix_greedy_prediction`); of a model with blocks, block by block.
///
/// # Errors
/// As [`estimate`].
pub fn greedy(model: &Model, tokens: &[u32], prompt: usize) -> Result<bool, ModelError> {
    let (diffusion, spans) = prepared(model, tokens, prompt)?;
    fills(tokens, spans.into_iter().map(Iterator::collect).collect(), |masked| {
        let pass = Pass { masked: masked.to_vec(), asked: masked.iter().map(|&i| (i, 1.0)).collect() };
        let logits = values(model.logits(predicting(model, diffusion, tokens, &[pass])?));
        Ok(logits.chunks_exact(model.config.vocabulary).map(likeliest).collect())
    })
}

/// Whether every place takes its token if in every pass the most confident place of each span takes its likeliest
/// one. All spans go together: a block sees what is before it, which is the text, or the answer is no.
/// `predict` gives likeliest tokens and their probabilities at masked places.
fn fills(
    tokens: &[u32],
    mut spans: Vec<Vec<usize>>,
    mut predict: impl FnMut(&[usize]) -> Result<Vec<(u32, f64)>, ModelError>,
) -> Result<bool, ModelError> {
    loop {
        let masked = spans.concat();
        if masked.is_empty() {
            return Ok(true);
        }
        let mut predicted = predict(&masked)?.into_iter();
        for span in spans.iter_mut().filter(|span| !span.is_empty()) {
            // Of equals the first.
            let own = predicted.by_ref().take(span.len()).enumerate();
            let best = own.reduce(|best, other| if other.1.1 > best.1.1 { other } else { best });
            let Some((at, (token, _))) = best else { return Ok(false) };
            if tokens[span.remove(at)] != token {
                return Ok(false);
            }
        }
    }
}

/// The likeliest token, the first of equals, and its probability.
fn likeliest(logits: &[f32]) -> (u32, f64) {
    let token = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    let sum: f64 = logits.iter().map(|x| f64::from(x - logits[token]).exp()).sum();
    (token as u32, 1.0 / sum)
}

/// One noisy version of the text.
struct Pass {
    /// Positions that hold the mask.
    masked: Vec<usize>,
    /// Positions whose tokens are asked for, and what each counts.
    asked: Vec<(usize, f64)>,
}

/// What a pass found.
#[derive(Clone, Copy)]
struct Answer {
    /// Weighted negative log-probability of what was asked for.
    nats: f64,
    /// What a position counts is the inverse of the share masked.
    quarters: Quarters,
}

fn run(model: &Model, diffusion: &Diffusion, tokens: &[u32], passes: &[Pass]) -> Result<Vec<Answer>, ModelError> {
    let hidden = predicting(model, diffusion, tokens, passes)?;
    let asked = || passes.iter().enumerate().flat_map(|(row, pass)| pass.asked.iter().map(move |asked| (row, asked)));
    let targets: Vec<u32> = asked().map(|(_, &(i, _))| tokens[i]).collect();
    let scores = token_log_probabilities(hidden, model.head_operand(), targets.into())?;
    let mut answers = vec![Answer { nats: 0.0, quarters: Quarters::default() }; passes.len()];
    for (log_probability, (row, &(_, weight))) in values(scores.log_probabilities).into_iter().zip(asked()) {
        answers[row].nats -= weight * f64::from(log_probability);
        answers[row].quarters.add(1.0 / weight, -f64::from(log_probability));
    }
    Ok(answers)
}

/// Normed hidden states `[asked, C]` that predict what the passes ask for, in order.
fn predicting(model: &Model, diffusion: &Diffusion, tokens: &[u32], passes: &[Pass]) -> Result<Tensor<2>, ModelError> {
    let Diffusion { mask_token, block, shift, .. } = *diffusion;
    let (rows, columns, width) = (passes.len(), tokens.len(), model.config.hidden);
    let mut noisy = tokens.repeat(rows);
    for (row, pass) in passes.iter().enumerate() {
        pass.masked.iter().for_each(|&i| noisy[row * columns + i] = mask_token);
    }
    let flat = |x: Tensor<3>| x.reshape([rows * columns, width]);
    // Only what is asked for goes through the last feed-forward.
    let (unfinished, all) = match block {
        None => (true, flat(model.unfinished_seeing(&noisy, rows, Sight::Whole, None, None)?)),
        // Nothing reads the noisy stream of blocks of one that the token before predicts.
        Some(1) if shift => (true, flat(model.unfinished_seeing(&tokens.repeat(rows), rows, Sight::Causal, None, None)?)),
        Some(block) => {
            let [clean, noisy] = model.two_streams(&tokens.repeat(rows), &noisy, rows, block, None)?;
            // The last clean token before a block predicts its first; the clean stream stands behind.
            (false, if shift { Tensor::cat(vec![flat(noisy), flat(clean)], 0) } else { flat(noisy) })
        }
    };
    let mut places = Vec::new();
    for (row, pass) in passes.iter().enumerate() {
        for &(i, _) in &pass.asked {
            let of_clean = shift && block.is_some_and(|block| block > 1 && i.is_multiple_of(block));
            let stream = if of_clean { rows * columns } else { 0 };
            places.push((stream + row * columns + i - usize::from(shift)) as i32);
        }
    }
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), model.device());
    let hidden = all.select(0, places);
    Ok(if unfinished { model.finish(hidden) } else { hidden })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_confident_place_is_filled_first() {
        // The last token is sure from the beginning; the one before it is right only beside the last.
        let toy = |masked: &[usize]| -> Result<Vec<(u32, f64)>, ModelError> {
            let at = |&i: &usize| if i == 2 { (6, 0.9) } else { (if masked.contains(&2) { 9 } else { 5 }, 0.4) };
            Ok(masked.iter().map(at).collect())
        };
        assert!(fills(&[7, 5, 6], vec![vec![1, 2]], toy).expect("no model"));
        assert!(!fills(&[7, 9, 6], vec![vec![1, 2]], toy).expect("no model"));
        // A block does not wait for the one behind it.
        assert!(fills(&[7, 9, 6], vec![vec![1], vec![2]], toy).expect("no model"));
        assert_eq!(likeliest(&[0.0, 2.0, 2.0]).0, 1);
        assert!((likeliest(&[1.0, 1.0]).1 - 0.5).abs() < 1e-12);
    }
}
