//! Fine-tuning text: prompts that are never noised, and responses that have the loss.
//!
//! A row is prompt, response and end-of-text. Published practice (LLaDA, arXiv 2502.09992) fills rows
//! with more of the end-of-text up to the longest of the micro-batch and trains on all of it, which is
//! how the model learns lengths, and why it is fond of ending early; [`Padding`] has the alternatives.

use crate::error::TrainError;
use crate::objectives::MicroBatch;
use crate::objectives::masked_diffusion::{Draw, Padding};
use crate::recipe::Stage;
use recast_models::random::Random;
use recast_text::Tokenizer;
use serde::Deserialize;
use std::path::PathBuf;

/// One line of a file of pairs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
    response: String,
}

/// A prompt and what should follow it, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    prompt: Vec<u32>,
    /// With the end-of-text.
    response: Vec<u32>,
}

/// The pairs of a stage.
#[derive(Clone, Debug)]
pub struct Pairs {
    all: Vec<Pair>,
    end: u32,
}

impl Pairs {
    /// Reads JSON lines of `prompt` and `response`; longer ones than `context` lose the end of the
    /// response.
    ///
    /// # Errors
    /// When a file cannot be read, a line is something else, a prompt leaves no room, or the tokenizer has
    /// no end-of-text.
    pub fn open(paths: &[PathBuf], tokenizer: &Tokenizer, context: usize) -> Result<Self, TrainError> {
        let end = tokenizer.eos_ids().first().copied().or_else(|| tokenizer.document_separator());
        let Some(end) = end else {
            return Err(TrainError::Recipe("pairs: the tokenizer has no end-of-text token to end responses with".into()));
        };
        let mut all = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let fail = |what: String| TrainError::Recipe(format!("{}, line {}: {what}", path.display(), number + 1));
                let line: Line =
                    serde_json::from_str(line).map_err(|e| fail(format!("{e}; expected a prompt and a response")))?;
                let prompt = tokenizer.encode(&line.prompt, true)?;
                let mut response = tokenizer.encode(&line.response, false)?;
                response.push(end);
                if prompt.len() >= context {
                    return Err(fail(format!(
                        "the prompt has {} tokens, which leaves no room in a context of {context}",
                        prompt.len()
                    )));
                }
                response.truncate(context - prompt.len());
                all.push(Pair { prompt, response });
            }
        }
        if all.is_empty() {
            return Err(TrainError::Recipe("pairs: the files hold no pair".into()));
        }
        Ok(Self { all, end })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A hash of all of them.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for Pair { prompt, response } in &self.all {
            for part in [prompt, response] {
                hash.update((part.len() as u64).to_le_bytes());
                part.iter().for_each(|token| hash.update(token.to_le_bytes()));
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The micro-batches of one step: every epoch reads all pairs once, in an order of its own.
    pub fn micro_batches(&self, stage: &Stage, padding: Padding, block: Option<usize>, seed: u64, step: u64) -> Vec<MicroBatch> {
        let first = step * stage.batch as u64;
        let chosen: Vec<&Pair> = (0..stage.batch as u64).map(|i| &self.all[self.order(seed, first + i)]).collect();
        let size = stage.micro_batch.unwrap_or(stage.batch);
        let pieces = chosen.chunks(size).enumerate();
        let draw = |at: usize| Draw { seed, step, steps: stage.steps(), first_row: at * size, rows: stage.batch };
        pieces.map(|(at, pairs)| self.rows(pairs, padding, block, draw(at))).collect()
    }

    fn order(&self, seed: u64, place: u64) -> usize {
        let (epoch, at) = (place / self.len() as u64, (place % self.len() as u64) as usize);
        let mut random = Random::new(seed, &format!("pairs {epoch}"));
        let mut order: Vec<usize> = (0..self.len()).collect();
        for i in 0..=at {
            let j = i + (random.bits() % (order.len() - i) as u64) as usize;
            order.swap(i, j);
        }
        order[at]
    }

    fn rows(&self, pairs: &[&Pair], padding: Padding, block: Option<usize>, draw: Draw) -> MicroBatch {
        let longest = pairs.iter().map(|p| p.prompt.len() + p.response.len()).max().unwrap_or(1);
        let filled = |length: usize| match (padding, block) {
            (Padding::Longest, _) => longest,
            (Padding::Block, Some(block)) => length.next_multiple_of(block),
            (Padding::Block, None) | (Padding::None, _) => length,
        };
        let lengths: Vec<usize> = pairs.iter().map(|p| filled(p.prompt.len() + p.response.len())).collect();
        let columns = lengths.iter().copied().max().unwrap_or(1);
        let (mut inputs, mut kept, mut targets, mut weights, mut shares) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (pair, &length) in pairs.iter().zip(&lengths) {
            let row = inputs.len();
            inputs.extend(pair.prompt.iter().chain(&pair.response));
            inputs.resize(row + columns, self.end);
            let answers = pair.prompt.len()..length;
            kept.extend((0..columns).map(|i| !answers.contains(&i)));
            // Beside it, the next-token loss asks for the response too.
            targets.extend(inputs[row + 1..].iter().copied().chain([self.end]));
            weights.extend((0..columns).map(|i| if answers.contains(&(i + 1)) { 1.0 } else { 0.0 }));
            shares.push(columns as f32 / answers.len().max(1) as f32);
        }
        let uneven = lengths.iter().any(|&length| length < columns);
        MicroBatch {
            rows: pairs.len(),
            inputs,
            targets: targets.into(),
            documents: None,
            weights: Some(weights.into()),
            denominator: (draw.rows * columns) as f32,
            prompt: Some(kept.into()),
            response_share: Some(shares.into()),
            lengths: uneven.then(|| lengths.into()),
            draw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> Pairs {
        let pair = |prompt: &[u32], response: &[u32]| Pair { prompt: prompt.to_vec(), response: response.to_vec() };
        Pairs { all: vec![pair(&[1, 2, 3], &[4, 9]), pair(&[5], &[6, 7, 8, 6, 7, 9]), pair(&[5, 5], &[9])], end: 9 }
    }

    #[test]
    fn padding_is_response_or_unseen() {
        let pairs = pairs();
        let all: Vec<&Pair> = pairs.all.iter().collect();
        let rows = |padding, block| pairs.rows(&all, padding, block, Draw { rows: 3, ..Draw::default() });
        let longest = rows(Padding::Longest, None);
        assert_eq!(longest.inputs[..7], [1, 2, 3, 4, 9, 9, 9]);
        let prompt = longest.prompt.clone().expect("prompt");
        assert_eq!(prompt[..7], [true, true, true, false, false, false, false]);
        assert_eq!(longest.response_share.as_deref(), Some(&[7.0 / 4.0, 7.0 / 6.0, 7.0 / 5.0][..]));
        assert!(longest.lengths.is_none());
        let none = rows(Padding::None, None);
        assert_eq!(none.lengths.as_deref(), Some(&[5, 7, 3][..]));
        assert_eq!(none.prompt.expect("prompt")[..7], [true, true, true, false, false, true, true]);
        let block = rows(Padding::Block, Some(4));
        assert_eq!(block.lengths.as_deref(), Some(&[8, 8, 4][..]));
        assert_eq!(block.inputs.len(), 24);
    }

    #[test]
    fn an_epoch_reads_every_pair_once() {
        let pairs = pairs();
        for epoch in 0..5 {
            let mut seen: Vec<usize> = (0..3).map(|i| pairs.order(7, epoch * 3 + i)).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        }
        assert!((0..8).any(|e| pairs.order(7, e * 3) != pairs.order(7, 0)));
    }
}
