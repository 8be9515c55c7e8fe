//! How fast a model writes at a given context length.
//!
//! Every step is timed alone and the median is reported: a machine that does something else for a
//! moment does not change it.

use crate::error::InferError;
use crate::generate::{CHUNK, prefill};
use recast_models::param::values;
use recast_models::{Model, ModelState};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What [`decode_speed`] finds at one context length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens in the context before the first timed step.
    pub context: usize,
    /// Timed steps.
    pub steps: usize,
    /// Median time of a step: one token through model and head, and the choice of the next.
    pub seconds_per_token: f64,
    /// Its inverse.
    pub tokens_per_second: f64,
    /// Tokens a second while the context was read, in chunks of [`CHUNK`], without the head.
    pub prefill_tokens_per_second: f64,
    /// Bytes of state that a sequence of that length needs.
    pub state_bytes: usize,
}

/// Decoding speed of one sequence at each of `contexts` (tokens, rising), over `steps` greedy
/// steps. The state is what reading so many pseudo-random tokens leaves, for every kind of mixer;
/// longer contexts are read on from shorter ones.
///
/// # Errors
/// When `steps` or a context is 0, contexts do not rise, or the model computes NaN.
pub fn decode_speed(model: &Model, contexts: &[usize], steps: usize) -> Result<Vec<Speed>, InferError> {
    let option = |name, expected, found: String| InferError::Option { name, expected, found };
    if steps == 0 {
        return Err(option("steps", "at least 1", "0".into()));
    }
    if contexts.first() == Some(&0) || contexts.windows(2).any(|w| w[0] >= w[1]) {
        return Err(option("contexts", "rising lengths from 1", format!("{contexts:?}")));
    }
    let mut state = model.new_state();
    let mut out = Vec::with_capacity(contexts.len());
    for &context in contexts {
        let tokens = pseudo_random(state.position, context, model.config.vocabulary);
        let started = Instant::now();
        let hidden = prefill(model, &mut [&mut state], &tokens, CHUNK)?;
        let mut next = best(values(model.logits(hidden)), context)?;
        let prefill_seconds = started.elapsed().as_secs_f64();
        // Steps go on from a copy, so that the context of the next length is what it says.
        let mut going: ModelState = state.clone();
        let mut seconds = Vec::with_capacity(steps + 1);
        // The first step pays for copying the state and is left out.
        for _ in 0..=steps {
            let started = Instant::now();
            let hidden = model.hidden(&[next], 1, Some(&mut [&mut going]), None)?;
            next = best(values(model.logits(hidden)), going.position)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let seconds_per_token = median(&mut seconds[1..]);
        out.push(Speed {
            context,
            steps,
            seconds_per_token,
            tokens_per_second: 1.0 / seconds_per_token.max(f64::MIN_POSITIVE),
            prefill_tokens_per_second: tokens.len() as f64 / prefill_seconds.max(f64::MIN_POSITIVE),
            state_bytes: model.state_bytes(context),
        });
    }
    Ok(out)
}

/// Tokens of the places `from..to`, the same at every call.
fn pseudo_random(from: usize, to: usize, vocabulary: usize) -> Vec<u32> {
    let token = |place: usize| {
        let z = (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) as usize % vocabulary
    };
    (from..to).map(|place| token(place) as u32).collect()
}

fn best(logits: Vec<f32>, position: usize) -> Result<u32, InferError> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match logits.iter().position(|x| *x == largest) {
        Some(token) if largest.is_finite() => Ok(token as u32),
        _ => Err(InferError::NotFinite { position }),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 100.0]), 3.0);
    }

    #[test]
    fn tokens_spread_and_do_not_depend_on_the_cut() {
        let all = pseudo_random(0, 1000, 64);
        assert_eq!(all[100..], pseudo_random(100, 1000, 64));
        let mut seen = all.clone();
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 60 && all.iter().all(|t| *t < 64));
    }
}
