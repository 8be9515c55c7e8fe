//! From a prompt to a text: the prompt in chunks, then token by token.

use crate::error::InferError;
use crate::samplers::autoregressive::Choice;
use crate::samplers::{Event, Finish, Sampling};
use crate::stop::StopFilter;
use burn::tensor::Tensor;
use recast_models::param::values;
use recast_models::{Model, ModelState};
use recast_text::{DecodeStream, Tokenizer};
use std::ops::ControlFlow;
use std::time::Instant;

/// Prompt tokens read at a time: enough to keep matrix products busy, little enough that the
/// activations of a long prompt stay small.
pub const CHUNK: usize = 512;

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The most tokens to write.
    pub max_tokens: usize,
    /// The text ends before the first occurrence of any of these.
    pub stop: Vec<String>,
    /// Prompt tokens read at a time.
    pub chunk: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { sampling: Sampling::default(), max_tokens: 64, stop: Vec::new(), chunk: CHUNK }
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text, special tokens and stop string left out.
    pub text: String,
    /// The tokens written, an end token included.
    pub tokens: Vec<u32>,
    /// Their log-probabilities (nats) under the model.
    pub log_probabilities: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time for reading the prompt.
    pub prefill_seconds: f64,
    /// Time for everything after it.
    pub decode_seconds: f64,
}

impl Generation {
    /// Prompt tokens read a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        self.prompt_tokens as f64 / self.prefill_seconds.max(f64::MIN_POSITIVE)
    }

    /// Tokens written a second; the first comes with the prompt and is not counted. None for
    /// fewer than two.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        let steps = self.tokens.len().checked_sub(1).filter(|n| *n > 0)?;
        Some(steps as f64 / self.decode_seconds.max(f64::MIN_POSITIVE))
    }
}

/// Reads `tokens`, `[rows * T]` row-major, as many of each sequence, into the states of the rows and
/// returns the normed hidden states of the last position, `[rows, 1, C]`. At most `chunk` tokens go
/// through the model at once; the result does not depend on it but for rounding.
///
/// # Errors
/// When there is no token, or an id is outside the vocabulary (the states are untouched then).
pub fn prefill(model: &Model, states: &mut [&mut ModelState], tokens: &[u32], chunk: usize) -> Result<Tensor<3>, InferError> {
    let rows = states.len();
    let length = tokens.len() / rows.max(1);
    if length == 0 {
        return Err(InferError::EmptyPrompt);
    }
    model.check_tokens(tokens)?;
    let step = (chunk / rows).max(1);
    let mut last = None;
    for start in (0..length).step_by(step) {
        let end = (start + step).min(length);
        let piece: Vec<u32> = tokens.chunks_exact(length).flat_map(|row| &row[start..end]).copied().collect();
        last = Some(model.unfinished_last(&piece, rows, states)?);
    }
    last.map(|last| model.finish(last)).ok_or(InferError::EmptyPrompt)
}

/// Writes texts with a model.
pub struct Generator<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    options: Options,
}

/// One sequence on its way.
struct Row {
    seen: Vec<u32>,
    prompt_tokens: usize,
    log_probabilities: Vec<f32>,
    decoder: DecodeStream,
    filter: StopFilter,
    text: String,
    finish: Option<Finish>,
}

impl<'a> Generator<'a> {
    /// A generator over a model and its tokenizer.
    ///
    /// # Errors
    /// When an option is outside its range.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, options: Options) -> Result<Self, InferError> {
        options.sampling.check()?;
        if options.chunk == 0 {
            return Err(InferError::Option { name: "chunk", expected: "at least 1", found: "0".into() });
        }
        Ok(Self { model, tokenizer, options })
    }

    /// Continues `prompt`. `listen` gets every event as it happens and may end the generation.
    ///
    /// # Errors
    /// When the prompt is empty or holds an id outside the vocabulary, or the model computes NaN.
    pub fn generate(&self, prompt: &[u32], listen: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Generation, InferError> {
        self.resume(&mut self.model.new_state(), prompt, listen)
    }

    /// Reads `tokens` on from a state (of one sequence) and continues. Afterwards the state has
    /// read all of them and all tokens written but the last one, which a next call has to give.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn resume(
        &self,
        state: &mut ModelState,
        tokens: &[u32],
        listen: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generation, InferError> {
        let mut written = self.run(&mut [state], &[tokens], &mut |_, event| listen(event))?;
        Ok(written.pop().expect("one prompt gives one generation"))
    }

    /// Continues several prompts together, which costs little more than the longest of them alone:
    /// where decoding is slow because it reads all weights for one token, it reads them once for a
    /// token of each. All are read in step from the first token on, so prompts of like length gain
    /// most. The draws of row r are those of stream r. Times are those of the batch.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn generate_batch(&self, prompts: &[&[u32]]) -> Result<Vec<Generation>, InferError> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let mut states = vec![self.model.new_state(); prompts.len()];
        let mut states: Vec<&mut ModelState> = states.iter_mut().collect();
        self.run(&mut states, prompts, &mut |_, _| ControlFlow::Continue(()))
    }

    fn run(
        &self,
        states: &mut [&mut ModelState],
        prompts: &[&[u32]],
        listen: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<Generation>, InferError> {
        prompts.iter().try_for_each(|p| self.model.check_tokens(p))?;
        let started = Instant::now();
        let shortest = prompts.iter().map(|p| p.len()).min().unwrap_or(0);
        let first: Vec<u32> = prompts.iter().flat_map(|p| &p[..shortest]).copied().collect();
        let mut hidden = prefill(self.model, states, &first, self.options.chunk)?;
        let mut rows: Vec<Row> = prompts.iter().map(|p| self.row(p, shortest)).collect();
        let mut alive: Vec<usize> = (0..rows.len()).collect();
        // The operators may still be at work; the first reading of values waits for them.
        let mut logits = self.logits(hidden);
        let prefill_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let vocabulary = self.model.config.vocabulary;
        loop {
            for (place, &index) in alive.iter().enumerate() {
                let (row, prompt) = (&mut rows[index], prompts[index]);
                if row.seen.len() < prompt.len() {
                    row.seen.push(prompt[row.seen.len()]);
                    continue;
                }
                if row.log_probabilities.len() < self.options.max_tokens {
                    let step = row.log_probabilities.len() as u64;
                    let logits = &logits[place * vocabulary..][..vocabulary];
                    let choice = self.options.sampling.choose(logits, &row.seen, step as usize, index as u64, step)?;
                    self.take(row, choice, &mut |event| listen(index, event));
                } else {
                    row.end(Finish::Length, &mut |event| listen(index, event));
                }
            }
            let going: Vec<usize> = (0..alive.len()).filter(|&i| rows[alive[i]].finish.is_none()).collect();
            if going.is_empty() {
                break;
            }
            alive = going.iter().map(|&i| alive[i]).collect();
            let next: Vec<u32> = alive.iter().filter_map(|&i| rows[i].seen.last()).copied().collect();
            let mut own: Vec<&mut ModelState> = Vec::with_capacity(alive.len());
            own.extend(states.iter_mut().enumerate().filter(|(i, _)| alive.contains(i)).map(|(_, state)| &mut **state));
            hidden = self.model.hidden(&next, alive.len(), Some(&mut own), None)?;
            logits = self.logits(hidden);
        }
        let decode_seconds = started.elapsed().as_secs_f64();
        let done = |row: Row| Generation {
            text: row.text,
            tokens: row.seen[row.prompt_tokens..].to_vec(),
            log_probabilities: row.log_probabilities,
            finish: row.finish.unwrap_or(Finish::Length),
            prompt_tokens: row.prompt_tokens,
            prefill_seconds,
            decode_seconds,
        };
        Ok(rows.into_iter().map(done).collect())
    }

    /// `[rows * V]` of `[rows, 1, C]`.
    fn logits(&self, hidden: Tensor<3>) -> Vec<f32> {
        values(self.model.logits(hidden))
    }

    fn row(&self, prompt: &[u32], read: usize) -> Row {
        Row {
            seen: prompt[..read].to_vec(),
            prompt_tokens: prompt.len(),
            log_probabilities: Vec::new(),
            decoder: self.tokenizer.decode_stream_after(prompt, true),
            filter: StopFilter::new(&self.options.stop),
            text: String::new(),
            finish: None,
        }
    }

    fn take(&self, row: &mut Row, choice: Choice, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) {
        let Choice { token, log_probability } = choice;
        let index = row.log_probabilities.len();
        row.seen.push(token);
        row.log_probabilities.push(log_probability);
        if listen(Event::Fixed { index, token, log_probability, alternatives: Vec::new() }).is_break() {
            return row.end(Finish::Cancelled, listen);
        }
        if self.tokenizer.eos_ids().contains(&token) {
            return row.end(Finish::EndToken(token), listen);
        }
        let piece = row.decoder.push(token);
        let passed = row.filter.push(&piece);
        let going_on = row.show(passed.text, listen);
        if let Some(stop) = passed.stop {
            row.finish = Some(Finish::StopString(stop));
            row.done(listen);
        } else if going_on.is_break() {
            row.end(Finish::Cancelled, listen);
        } else if index + 1 == self.options.max_tokens {
            row.end(Finish::Length, listen);
        }
    }
}

impl Row {
    fn show(&mut self, text: String, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(&text);
        listen(Event::Text(text))
    }

    /// Shows what was held back, unless that completes a stop string, and ends the row.
    fn end(&mut self, finish: Finish, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) {
        let held = self.decoder.finish();
        let passed = self.filter.push(&held);
        let rest = if passed.stop.is_some() { String::new() } else { self.filter.finish() };
        // Nothing is left to cancel.
        let _ = self.show(passed.text + &rest, listen);
        self.finish = Some(passed.stop.map_or(finish, Finish::StopString));
        self.done(listen);
    }

    fn done(&self, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) {
        if let Some(finish) = &self.finish {
            let _ = listen(Event::Done(finish.clone()));
        }
    }
}
