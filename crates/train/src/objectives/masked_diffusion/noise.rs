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
///
/// A token whose block (or sequence) is itself alone is predicted from the same, masked or not: masks drawn for it
/// would change nothing but how much it counts. With masks and the bound as the loss it is always masked and counts 1,
/// which is the mean over all times: blocks of one are autoregression.
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
    let sight = block.unwrap_or(columns);
    let bound_of_masks = options.source == Source::Mask && options.loss == Weighting::Bound;
    let alone = |i: usize| bound_of_masks && (sight == 1 || (i + 1 == columns && i.is_multiple_of(sight)));
    let weight = |i: usize, t: f64| match options.loss {
        Weighting::Bound if !alone(i) => options.schedule.weight(t),
        Weighting::Bound | Weighting::CrossEntropy => 1.0,
    };
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
            let places: Vec<usize> = span.clone().filter(|&i| free(i) && !alone(i)).collect();
            span.clone().filter(|&i| free(i) && alone(i)).for_each(|i| noised[i] = true);
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
        let weights: Vec<f64> = times.iter().enumerate().map(|(i, &t)| weight(i, t)).collect();
        out.row(tokens, &noised, &weights, &free, options, shape, &mut random);
        if options.complementary {
            // Each of the two counts a half: what is alone is masked in both.
            let other: Vec<bool> = (0..columns).map(|i| free(i) && (alone(i) || !noised[i])).collect();
            let complement = |t: f64| options.schedule.time(1.0 - options.schedule.rate(t));
            let weights: Vec<f64> = times.iter().enumerate().map(|(i, &t)| weight(i, complement(t))).collect();
            out.row(tokens, &other, &weights, &free, options, shape, &mut random);
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
        weights: &[f64],
        free: &dyn Fn(usize) -> bool,
        options: &Noise,
        shape: Shape,
        random: &mut Random,
    ) {
        for (i, (&token, &noised)) in tokens.iter().zip(noised).enumerate() {
            let counts = match options.source {
                Source::Mask => noised,
                // Every position but the prompt: nothing tells which ones are noise.
                Source::Uniform => free(i),
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
            self.weights.push(if counts { weights[i] as f32 } else { 0.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 9;

    fn of(options: &Noise, columns: usize, block: Option<usize>) -> Noisy {
        let clean: Vec<u32> = (0..4 * columns).map(|i| i as u32 % 9).collect();
        let shape = Shape { columns, block, mask_token: MASK, vocabulary: 10 };
        let kept: Vec<bool> = (0..clean.len()).map(|i| i % columns == 1).collect();
        noise(&clean, Some(&kept), options, shape, Draw { rows: 4, ..Draw::default() })
    }

    /// Whatever else is asked for: a token that sees nothing of its own noise counts its mean, 1.
    #[test]
    fn what_is_alone_is_masked_and_counts_one() {
        let plain = Noise { random_length: 0.0, ..Noise::default() };
        for options in [
            plain.clone(),
            Noise { times: Times::Independent, time_per: Some(Per::Sequence), ..plain.clone() },
            Noise { schedule: super::super::NoiseSchedule::Cosine, full: 0.5, ..plain.clone() },
            Noise { lowest_rate: 0.3, highest_rate: 0.6, ..plain.clone() },
            Noise { complementary: true, ..plain.clone() },
        ] {
            let noisy = of(&options, 6, Some(1));
            assert_eq!(noisy.tokens.len(), if options.complementary { 48 } else { 24 });
            for (i, (&weight, &noised)) in noisy.weights.iter().zip(&noisy.noised).enumerate() {
                let free = i % 6 != 1;
                assert_eq!((noised, weight), (free, f32::from(u8::from(free))), "{options:?}, position {i}");
                assert_eq!(noisy.tokens[i] == MASK, free);
            }
            // The last token behind whole blocks, and a sequence of one; a block of two is noise as ever.
            let rest = of(&options, 7, Some(3));
            assert!(rest.weights.chunks(7).all(|row| row[6] == 1.0) && rest.noised.iter().any(|&noised| !noised));
            assert!(of(&options, 1, None).weights.iter().all(|&weight| weight == 1.0));
        }
        // Plain cross-entropy counts what the draw masks, and uniform noise leaves nothing masked.
        let drawn = of(&Noise { loss: Weighting::CrossEntropy, ..plain.clone() }, 6, Some(1));
        assert!(drawn.noised.iter().zip(&drawn.weights).all(|(&noised, &weight)| weight == f32::from(u8::from(noised))));
        assert!((0..24).any(|i| i % 6 != 1 && !drawn.noised[i]));
        assert!(!of(&Noise { source: Source::Uniform, ..plain }, 6, Some(1)).tokens.contains(&MASK));
    }
}
