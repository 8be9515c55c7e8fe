//! From the logits of one position to what the rules need of it.

use super::noise::Noise;
use super::settings::{Denoising, Ends, Order};
use crate::error::InferError;
use crate::samplers::Sampling;
use recast_ops::cpu::exp;

/// What is predicted for one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token drawn.
    pub token: u32,
    /// Its probability under the model, at temperature 1 and without truncation, whatever drew it.
    pub confidence: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Its probability less that of the likeliest other token; only where [`Order::Margin`] asks.
    pub margin: f32,
}

/// Lanes of the sums, so that the compiler vectorises them.
const LANES: usize = 16;

/// Largest value, `sum exp(l - max)` and `sum exp(l - max) (l - max)`.
fn moments(logits: &[f32]) -> (f32, f64, f64) {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = logits.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    // Single precision within a piece, double precision over the pieces.
    for piece in logits.chunks(LANES * 16) {
        let (mut sums, mut products) = ([0.0f32; LANES], [0.0f32; LANES]);
        let chunks = piece.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..LANES {
                // A token that is ruled out weighs next to nothing, and not infinity times nothing.
                let below = chunk[i] - largest;
                let below = if below < -80.0 { -80.0 } else { below };
                let e = exp::<false>(below);
                sums[i] += e;
                products[i] += e * below;
            }
        }
        for x in rest {
            let below = x - largest;
            let below = if below < -80.0 { -80.0 } else { below };
            let e = exp::<false>(below);
            sums[0] += e;
            products[0] += e * below;
        }
        sum += f64::from(sums.iter().sum::<f32>());
        weighted += f64::from(products.iter().sum::<f32>());
    }
    (largest, sum, weighted)
}

/// How the candidate of one position is drawn.
pub struct Draw<'a> {
    /// Temperature, truncation, end tokens, seed.
    pub settings: &'a Denoising,
    /// Tokens that can never be written.
    pub never: &'a [u32],
    /// Take the likeliest whatever the temperature.
    pub greedy: bool,
    /// Which row.
    pub stream: u64,
    /// Which of its forward passes.
    pub step: u64,
    /// Which position.
    pub position: usize,
}

impl Draw<'_> {
    /// The candidate of these logits, which it may change.
    ///
    /// # Errors
    /// When they hold a NaN or nothing finite.
    pub fn candidate(&self, logits: &mut [f32], ends: &[u32]) -> Result<Candidate, InferError> {
        let ends = if self.settings.ends == Ends::Never { ends } else { &[] };
        for token in self.never.iter().chain(ends) {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let (largest, sum, weighted) = moments(logits);
        if !(largest.is_finite() && sum.is_finite() && weighted.is_finite()) {
            return Err(InferError::NotFinite { position: self.position });
        }
        let first = || logits.iter().position(|x| *x == largest).unwrap_or(0) as u32;
        let temperature = f64::from(self.settings.temperature);
        let token = if self.greedy || temperature == 0.0 {
            first()
        } else {
            let mut noise = Noise::new(self.settings.seed, self.stream, self.step, self.position as u64);
            let drawn = match self.settings.top_p.filter(|p| *p < 1.0) {
                Some(top_p) => {
                    let nucleus = Sampling { temperature: self.settings.temperature, top_p: Some(top_p), ..Sampling::default() };
                    noise.race(nucleus.kept(logits).into_iter())
                }
                None => noise.race(
                    logits.iter().enumerate().map(|(token, x)| (token as u32, (f64::from(x - largest) / temperature).exp())),
                ),
            };
            drawn.unwrap_or_else(first)
        };
        let probability = |x: f32| (f64::from(x - largest).exp() / sum).min(1.0);
        let confidence = probability(logits[token as usize]);
        let margin = if self.settings.order == Order::Margin {
            let others = logits.iter().enumerate().filter(|(i, _)| *i != token as usize).map(|(_, x)| *x);
            confidence - probability(others.fold(f32::NEG_INFINITY, f32::max))
        } else {
            0.0
        };
        Ok(Candidate {
            token,
            confidence: confidence as f32,
            // -sum p ln p = ln S - (sum e (l - max)) / S
            entropy: (sum.ln() - weighted / sum).max(0.0) as f32,
            margin: margin as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(settings: &Denoising, step: u64) -> Draw<'_> {
        Draw { settings, never: &[], greedy: false, stream: 0, step, position: 3 }
    }

    #[test]
    fn frequencies_are_those_of_the_softmax_at_the_temperature() {
        // Oracle (vi).
        let logits = [0.3f32, -1.0, 2.0, 0.0, 1.1];
        for temperature in [0.5f32, 1.0, 2.0] {
            let settings = Denoising { temperature, ..Denoising::default() };
            let weights: Vec<f64> = logits.iter().map(|l| f64::from(l / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let draws = 40_000;
            let mut counts = [0.0f64; 5];
            for step in 0..draws {
                let found = draw(&settings, step).candidate(&mut logits.clone(), &[]).unwrap();
                counts[found.token as usize] += 1.0;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let p = weight / total;
                let deviation = (p * (1.0 - p) / draws as f64).sqrt();
                assert!((count / draws as f64 - p).abs() < 4.5 * deviation, "temperature {temperature}: {counts:?}");
            }
        }
    }

    #[test]
    fn confidence_is_of_temperature_one_and_entropy_of_the_whole() {
        let mut logits: Vec<f32> = (0..1003).map(|i| ((i * 37 % 101) as f32) / 20.0 - 2.0).collect();
        logits[500] = 9.0;
        let exact: Vec<f64> = {
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            logits.iter().map(|x| f64::from(*x).exp() / sum).collect()
        };
        let entropy: f64 = exact.iter().map(|p| -p * p.ln()).sum();
        let settings = Denoising { temperature: 5.0, order: Order::Margin, ..Denoising::default() };
        let found = draw(&settings, 1).candidate(&mut logits.clone(), &[]).unwrap();
        assert!((f64::from(found.confidence) - exact[found.token as usize]).abs() < 1e-6);
        assert!((f64::from(found.entropy) - entropy).abs() < 1e-4, "{} {entropy}", found.entropy);
        let greedy = Draw { greedy: true, ..draw(&settings, 1) }.candidate(&mut logits.clone(), &[]).unwrap();
        assert_eq!(greedy.token, 500);
        let second = exact.iter().enumerate().filter(|(i, _)| *i != 500).map(|(_, p)| *p).fold(0.0, f64::max);
        assert!((f64::from(greedy.margin) - (exact[500] - second)).abs() < 1e-6);
    }

    #[test]
    fn what_is_ruled_out_is_never_drawn_and_broken_logits_are_refused() {
        let settings = Denoising { temperature: 3.0, ends: Ends::Never, ..Denoising::default() };
        for step in 0..500 {
            let one = Draw { never: &[1], ..draw(&settings, step) };
            let found = one.candidate(&mut [0.0, 8.0, 1.0, 8.0], &[3]).unwrap();
            assert!(found.token == 0 || found.token == 2);
            assert!(found.entropy < 0.7 && found.confidence > 0.2);
        }
        assert!(draw(&settings, 0).candidate(&mut [0.0, f32::NAN], &[]).is_err());
        assert!(draw(&settings, 0).candidate(&mut [f32::NEG_INFINITY; 20], &[]).is_err());
        // The first of equals.
        assert_eq!(draw(&Denoising::default(), 0).candidate(&mut [1.0, 2.0, 2.0], &[]).unwrap().token, 1);
    }

    #[test]
    fn the_nucleus_is_drawn_from_and_nothing_else() {
        let settings = Denoising { temperature: 1.0, top_p: Some(0.6), ..Denoising::default() };
        let logits: Vec<f32> = [0.5f32, 0.3, 0.2].iter().map(|p| p.ln()).collect();
        let mut seen = [0; 3];
        for step in 0..2000 {
            seen[draw(&settings, step).candidate(&mut logits.clone(), &[]).unwrap().token as usize] += 1;
        }
        assert!(seen[2] == 0 && (1150..1350).contains(&seen[0]), "{seen:?}");
    }
}
