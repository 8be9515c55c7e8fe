//! Noising: which positions of a micro-batch lose their token, and what the loss at each weighs.

use super::options::{Noise, Per, Source, Times, Weighting};
use recast_models::random::Random;

/// Draws of the mask rate before one outside the band is taken as it is.
const TRIES: usize = 100;

/// Where a micro-batch stands: all randomness follows from it, so that a resumed run draws the same
/// noise and a batch's noise does not depend on how it is divided.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// Of the run and the stage.
    pub seed: u64,
    /// Step of the stage.
    pub step: u64,
    /// Steps of the stage.
    pub steps: u64,
    /// Index of the micro-batch's first row in the batch.
    pub first_row: usize,
    /// Rows of the batch; 0: those of the micro-batch.
    pub rows: usize,
}

/// A noisy version of some rows.
#[derive(Clone, Debug, Default)]
pub struct Noisy {
    /// What the model reads, `[B, T]`.
    pub tokens: Vec<u32>,
    /// Whether a position was noised. What it holds may be its own token by chance, and a mask token may
    /// stand in clean text: only this tells.
    pub noised: Vec<bool>,
    /// Weight of each position's loss, `[B, T]`: 0 where it has none.
    pub weights: Vec<f32>,
}

/// Sizes that the noise depends on.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Tokens a row.
    pub columns: usize,
    /// Tokens a block, where the model denoises blocks.
    pub block: Option<usize>,
    /// Stands for what is not known.
    pub mask_token: u32,
    /// Ids that uniform noise draws from: all below, but the mask token.
    pub vocabulary: usize,
}

/// Noises the rows `clean` `[B, T]`; `kept` positions (a prompt) stay as they are and have no loss. With
/// complementary masks the result has `2 B` rows, each row's two behind each other.
pub fn noise(clean: &[u32], kept: Option<&[bool]>, options: &Noise, shape: Shape, draw: Draw) -> Noisy {
    let Shape { columns, block, .. } = shape;
    let rows = clean.len() / columns;
    let per_block = match options.time_per {
        Some(per) => per == Per::Block,
        None => block.is_some(),
    };
    let unit = if per_block { block.unwrap_or(columns) } else { columns };
    let units = columns.div_ceil(unit);
    let all = units * draw.rows.max(rows);
    // One start for the whole batch, whichever part of it this is.
    let start = Random::new(draw.seed, &format!("times {}", draw.step)).uniform();
    let mut out = Noisy::default();
    for row in 0..rows {
        let index = draw.first_row + row;
        let mut random = Random::new(draw.seed, &format!("noise {} {index}", draw.step));
        let tokens = &clean[row * columns..(row + 1) * columns];
        let free = |i: usize| kept.is_none_or(|kept| !kept[row * columns + i]);
        let (mut noised, mut times) = (vec![false; columns], vec![0.0; columns]);
        for at in 0..units {
            let span = at * unit..((at + 1) * unit).min(columns);
            let u = match options.times {
                Times::Independent => random.uniform(),
                // Blocks of a row lie far apart in time: units are numbered column by column.
                Times::Stratified => {
                    let place = at * draw.rows.max(rows) + index;
                    (start + place as f64 / all as f64).fract()
                }
            };
            let (low, high) = (options.lowest_rate, options.highest_rate);
            let full = options.full > 0.0 && random.uniform() < options.full;
            let (first, last) = (options.schedule.time(low).max(options.epsilon), options.schedule.time(high));
            let last = if options.complementary { last.min(1.0 - options.epsilon) } else { last };
            let t = if full { 1.0 } else { first + (last - first).max(0.0) * u };
            let rate = options.schedule.rate(t);
            let places: Vec<usize> = span.clone().filter(|&i| free(i)).collect();
            let mut tries = 0;
            loop {
                places.iter().for_each(|&i| noised[i] = random.uniform() < rate);
                let share = places.iter().filter(|&&i| noised[i]).count() as f64 / places.len().max(1) as f64;
                tries += 1;
                if full || places.is_empty() || tries == TRIES || (low..=high).contains(&share) {
                    break;
                }
            }
            times[span].fill(t);
        }
        out.row(tokens, &noised, &times, &free, options, shape, &mut random);
        if options.complementary {
            let other: Vec<bool> = (0..columns).map(|i| free(i) && !noised[i]).collect();
            let complement: Vec<f64> = times.iter().map(|&t| options.schedule.time(1.0 - options.schedule.rate(t))).collect();
            out.row(tokens, &other, &complement, &free, options, shape, &mut random);
        }
    }
    out
}

impl Noisy {
    #[allow(clippy::too_many_arguments, reason = "one row's worth of what `noise` has at hand")]
    fn row(
        &mut self,
        tokens: &[u32],
        noised: &[bool],
        times: &[f64],
        free: &dyn Fn(usize) -> bool,
        options: &Noise,
        shape: Shape,
        random: &mut Random,
    ) {
        for (i, (&token, &noised)) in tokens.iter().zip(noised).enumerate() {
            let counts = match (options.source, options.loss) {
                (Source::Mask, _) => noised,
                // Every position but the prompt: nothing tells which ones are noise.
                (Source::Uniform, _) => free(i),
            };
            let weight = match options.loss {
                _ if !counts => 0.0,
                Weighting::Bound => options.schedule.weight(times[i]),
                Weighting::CrossEntropy => 1.0,
            };
            self.tokens.push(match options.source {
                _ if !noised => token,
                Source::Mask => shape.mask_token,
                Source::Uniform => {
                    let id = (random.bits() % (shape.vocabulary as u64 - 1)) as u32;
                    if id >= shape.mask_token { id + 1 } else { id }
                }
            });
            self.noised.push(noised);
            self.weights.push(weight as f32);
        }
    }
}
