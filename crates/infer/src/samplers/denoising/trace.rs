//! The record of a text settling: JSON lines, one a step, that a viewer can play back without the
//! model or its tokenizer.
//!
//! The first line says what there was, each step what changed, the last how it ended. Positions count
//! from the end of the prompt; the text of a token stands in the first line that names it.

use super::canvas::{Canvas, POSITIONS};
use super::denoiser::Shape;
use super::filler::Denoised;
use super::record::{Change, Ghost, Step};
use super::settings::Denoising;
use recast_text::Tokenizer;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Write};
use std::time::Instant;

/// Version of the format.
const VERSION: u32 = 1;

/// Texts of tokens by their ids.
pub type Pieces = BTreeMap<u32, String>;

/// What stands where nothing is known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseKind {
    /// The mask token.
    #[default]
    Mask,
    /// Random tokens.
    Uniform,
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// [`VERSION`].
    pub recast_trace: u32,
    /// Name of the model.
    pub model: String,
    /// The text before the first hole.
    pub prompt: String,
    /// Positions behind it.
    pub positions: usize,
    /// Positions that are denoised together by the model's training, if not all.
    pub trained_block: Option<usize>,
    /// What stands where nothing is known yet; older traces do not say.
    #[serde(default)]
    pub noise: NoiseKind,
    /// How it was written.
    pub settings: Denoising,
    /// Fixed text behind the prompt: position and token.
    pub given: Vec<(usize, u32)>,
    /// Texts of new tokens.
    pub tokens: Pieces,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 0.
    pub step: usize,
    /// The block that is worked on, from 0.
    pub block: usize,
    /// Its first position after the prompt, and the one behind its last.
    pub window: (usize, usize),
    /// Forward passes so far.
    pub forwards: usize,
    /// Positions after the prompt that are final now.
    pub settled: usize,
    /// Since the first step began.
    pub seconds: f64,
    /// Position, what stood there (null: a mask, or noise), what stands there now, probability, entropy (nats).
    pub changes: Vec<(usize, Option<u32>, Option<u32>, f32, f32)>,
    /// Position, token, probability: predicted, not committed.
    pub ghosts: Vec<(usize, u32, f32)>,
    /// Texts of new tokens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: Pieces,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Why it ended.
    pub done: crate::samplers::Finish,
    /// Tokens written, up to the end token: those that were not given.
    pub written: usize,
    /// Positions up to there, given ones included; older traces count those as written.
    #[serde(default)]
    pub positions: Option<usize>,
    /// Forward passes.
    pub forwards: usize,
    /// Of these, passes that read a finished block into the state.
    pub refreshes: usize,
    /// Time for all of them.
    pub seconds: f64,
}

/// Writes a trace as it happens.
pub struct Recorder<'a, W> {
    out: W,
    tokenizer: &'a Tokenizer,
    known: HashSet<u32>,
    started: Instant,
}

impl<'a, W: Write> Recorder<'a, W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(
        mut out: W,
        tokenizer: &'a Tokenizer,
        model: &str,
        canvas: &Canvas,
        shape: Shape,
        settings: &Denoising,
    ) -> std::io::Result<Self> {
        let start = canvas.prompt();
        let positions = canvas.positions();
        let prompt: Vec<u32> = positions[..start].iter().flatten().copied().collect();
        let given: Vec<(usize, u32)> = positions[start..].iter().enumerate().filter_map(|(i, t)| Some((i, (*t)?))).collect();
        let mut known = HashSet::new();
        let begin = Begin {
            recast_trace: VERSION,
            model: model.to_owned(),
            prompt: tokenizer.decode(&prompt, false),
            positions: positions.len() - start,
            trained_block: shape.block,
            noise: if shape.uniform { NoiseKind::Uniform } else { NoiseKind::Mask },
            settings: settings.clone(),
            tokens: pieces(tokenizer, &mut known, given.iter().map(|g| g.1)),
            given,
        };
        line(&mut out, &begin)?;
        Ok(Self { out, tokenizer, known, started: Instant::now() })
    }

    /// Writes a step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn step(&mut self, step: &Step) -> std::io::Result<()> {
        let ids = step.changes.iter().flat_map(|c| [c.old, c.new]).flatten().chain(step.ghosts.iter().map(|g| g.token));
        let tokens = pieces(self.tokenizer, &mut self.known, ids);
        let changes = step.changes.iter().map(|c: &Change| (c.index, c.old, c.new, c.confidence, c.entropy)).collect();
        let ghosts = step.ghosts.iter().map(|g: &Ghost| (g.index, g.token, g.confidence)).collect();
        let Step { step, block, window, forwards, settled, .. } = *step;
        let seconds = self.started.elapsed().as_secs_f64();
        line(&mut self.out, &Line { step, block, window, forwards, settled, seconds, changes, ghosts, tokens })
    }

    /// Writes how it ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, text: &Denoised) -> std::io::Result<()> {
        let end = End {
            done: text.finish.clone(),
            written: text.written,
            positions: Some(text.tokens.len()),
            forwards: text.counters.forwards,
            refreshes: text.counters.refreshes,
            seconds: text.decode_seconds,
        };
        line(&mut self.out, &end)?;
        self.out.flush()
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn pieces(tokenizer: &Tokenizer, known: &mut HashSet<u32>, ids: impl Iterator<Item = u32>) -> Pieces {
    ids.filter(|id| known.insert(*id)).map(|id| (id, piece(tokenizer, id))).collect()
}

/// The text of one token by itself, for people who watch: one that is part of a character shows as U+FFFD, one that
/// ends a text as `[end]`.
pub fn piece(tokenizer: &Tokenizer, token: u32) -> String {
    if tokenizer.eos_ids().contains(&token) {
        return " [end]".into();
    }
    let text = tokenizer.decode(&[token], false);
    let spelling = tokenizer.id_to_token(token).unwrap_or_default();
    // SentencePiece's decoder takes the blank from the first word of a text.
    if spelling.starts_with('▁') && !text.starts_with(' ') { format!(" {text}") } else { text }
}

/// A trace as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What there was.
    pub begin: Begin,
    /// What happened.
    pub steps: Vec<Line>,
    /// How it ended; none, if it was cut off.
    pub end: Option<End>,
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// With the first line that is not one, and why.
    pub fn read(from: impl BufRead) -> Result<Self, String> {
        let (mut begin, mut steps, mut end) = (None, Vec::<Line>::new(), None);
        for (number, text) in from.lines().enumerate() {
            let text = text.map_err(|e| format!("line {}: {e}", number + 1))?;
            if text.trim().is_empty() {
                continue;
            }
            let wrong =
                |e: serde_json::Error| format!("line {}: {e}; expected a trace that `recast generate --trace` wrote", number + 1);
            if begin.is_none() {
                let first: Begin = serde_json::from_str(&text).map_err(wrong)?;
                if first.recast_trace != VERSION {
                    return Err(format!("the trace has version {}, expected {VERSION}", first.recast_trace));
                }
                let positions = first.positions;
                if positions > POSITIONS {
                    return Err(format!("line {}: {positions} positions, expected at most {POSITIONS}", number + 1));
                }
                if let Some((index, _)) = first.given.iter().find(|(index, _)| *index >= positions) {
                    let number = number + 1;
                    return Err(format!("line {number}: given text at position {index}, outside the {positions} of the text"));
                }
                begin = Some(first);
            } else if text.contains("\"done\"") && !text.contains("\"changes\"") {
                end = Some(serde_json::from_str::<End>(&text).map_err(wrong)?);
            } else {
                steps.push(serde_json::from_str(&text).map_err(wrong)?);
            }
        }
        let begin = begin.ok_or("the file is empty: expected a trace that `recast generate --trace` wrote")?;
        let inside = |index: usize| index < begin.positions;
        let fits = |s: &Line| s.changes.iter().all(|c| inside(c.0)) && s.ghosts.iter().all(|g| inside(g.0));
        match steps.iter().find(|s| !fits(s)) {
            Some(step) => Err(format!("step {} names a position outside the {} of the text", step.step, begin.positions)),
            None => Ok(Self { begin, steps, end }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_outside_the_text_are_refused() {
        let read = |positions: &str, given: &str| {
            let begin = format!(
                r#"{{"recast_trace":1,"model":"m","prompt":"","positions":{positions},"trained_block":null,"settings":{{}},"given":{given},"tokens":{{}}}}"#
            );
            Trace::read(begin.as_bytes())
        };
        let begin = read("3", "[[2,7]]").unwrap().begin;
        assert_eq!((begin.given.as_slice(), begin.noise), (&[(2, 7)][..], NoiseKind::Mask), "of a trace that names no noise");
        let outside = read("3", "[[0,7],[3,7]]").unwrap_err();
        assert!(outside.contains("line 1: given text at position 3, outside the 3"), "{outside}");
        let many = read("9000000000000000000", "[]").unwrap_err();
        assert!(many.contains("expected at most 1048576"), "{many}");
    }
}
