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

/// How to estimate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Passes over the text, each with masks of its own.
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
/// When the model is no diffusion model, a token is outside the vocabulary, or nothing is to be
/// predicted.
pub fn estimate(model: &Model, tokens: &[u32], prompt: usize, options: Options) -> Result<Estimate, ModelError> {
    let Some(diffusion) = model.config.diffusion.clone() else {
        return Err(ModelError::NoDiffusion);
    };
    model.check_tokens(tokens)?;
    let first = prompt.max(usize::from(diffusion.shift));
    if first >= tokens.len() {
        return Err(ModelError::Batch { tokens: tokens.len().saturating_sub(first), batch: 1 });
    }
    let block = diffusion.block.unwrap_or(tokens.len());
    let spans: Vec<Range<usize>> = (0..tokens.len())
        .step_by(block)
        .map(|start| start.max(first)..(start + block).min(tokens.len()))
        .filter(|span| !span.is_empty())
        .collect();
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
        for answer in run(model, &diffusion, tokens, &passes)? {
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

/// Whether greedy decoding from left to right, one token a pass, would write `tokens[prompt..]`.
///
/// # Errors
/// As [`estimate`].
pub fn greedy(model: &Model, tokens: &[u32], prompt: usize, budget: usize) -> Result<bool, ModelError> {
    let Some(diffusion) = model.config.diffusion.clone() else {
        return Err(ModelError::NoDiffusion);
    };
    let first = prompt.max(usize::from(diffusion.shift));
    let columns = tokens.len() * if diffusion.block.is_some() { 2 } else { 1 };
    let all: Vec<usize> = (first..tokens.len()).collect();
    for places in all.chunks((budget / columns.max(1)).max(1)) {
        let pass = |&i: &usize| Pass { masked: (i..tokens.len()).collect(), asked: vec![(i, 1.0)] };
        let passes: Vec<Pass> = places.iter().map(pass).collect();
        if !run(model, &diffusion, tokens, &passes)?.iter().all(|answer| answer.greedy) {
            return Ok(false);
        }
    }
    Ok(true)
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
    /// Whether each was the most probable token.
    greedy: bool,
    /// What a position counts is the inverse of the share masked.
    quarters: Quarters,
}

fn run(model: &Model, diffusion: &Diffusion, tokens: &[u32], passes: &[Pass]) -> Result<Vec<Answer>, ModelError> {
    let Diffusion { mask_token, block, shift } = *diffusion;
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
    let (mut places, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    for (row, pass) in passes.iter().enumerate() {
        for &(i, weight) in &pass.asked {
            let of_clean = shift && block.is_some_and(|block| block > 1 && i.is_multiple_of(block));
            let stream = if of_clean { rows * columns } else { 0 };
            places.push((stream + row * columns + i - usize::from(shift)) as i32);
            targets.push(tokens[i]);
            weights.push((row, weight));
        }
    }
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), model.device());
    let hidden = all.select(0, places);
    let hidden = if unfinished { model.finish(hidden) } else { hidden };
    let scores = token_log_probabilities(hidden, model.head_operand(), targets.into())?;
    let mut answers = vec![Answer { nats: 0.0, greedy: true, quarters: Quarters::default() }; rows];
    let found = values(scores.log_probabilities).into_iter().zip(values(scores.greedy));
    for ((log_probability, greedy), (row, weight)) in found.zip(weights) {
        answers[row].nats -= weight * f64::from(log_probability);
        answers[row].greedy &= greedy == 1.0;
        answers[row].quarters.add(1.0 / weight, -f64::from(log_probability));
    }
    Ok(answers)
}
