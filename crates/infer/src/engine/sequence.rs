//! One request on its way: its state, its text, its listener.

use super::prefix_cache::{PrefixCache, Text, is_due};
use super::request::{Listener, Message, PromptToken, Request, Scored, Stats, Summary};
use crate::error::InferError;
use crate::samplers::autoregressive::{Choice, likeliest, log_normaliser};
use crate::samplers::constraint::Form;
use crate::samplers::denoising::{Carried, Row};
use crate::samplers::{Event, Finish};
use crate::snapshot::Snapshot;
use crate::stop::StopFilter;
use burn::tensor::{Tensor, s};
use recast_models::param::values;
use recast_models::{Model, ModelState};
use recast_text::{DecodeStream, Tokenizer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Rows of logits held at a time while a prompt is scored.
const SCORED_ROWS: usize = 32;

/// A sequence.
pub struct Sequence {
    pub(super) request: Request,
    /// What may be written, if not anything.
    form: Option<Form>,
    /// The text as masks and words, where the model denoises.
    pub(super) row: Option<Row<Carried>>,
    listener: Listener,
    cancelled: Arc<AtomicBool>,
    /// End tokens of the model.
    ends: Vec<u32>,
    pub(super) state: ModelState,
    /// All tokens: those of a given state, the prompt, those written.
    pub(super) tokens: Vec<u32>,
    /// How many of them the state has read.
    pub(super) read: usize,
    /// How many stood there before the first was written.
    pub(super) given: usize,
    /// Tokens that a kept state spared; none before it was looked for.
    pub(super) reused: Option<usize>,
    /// Whether the state may be kept for others, or taken from them.
    pub(super) shares: bool,
    /// Its tokens, as kept states know them.
    pub(super) text: Text,
    decoder: DecodeStream,
    filter: StopFilter,
    scored: Vec<PromptToken>,
    /// Why it ended; an error has no word for it.
    ended: Option<Option<Finish>>,
    reserved: usize,
    submitted: Instant,
    seated: Option<Instant>,
    first_token: Option<Instant>,
    /// Tokens read and written that the counters know of.
    told: (usize, usize),
}

impl Sequence {
    /// Before it has a slot.
    pub fn new(
        model: &Model,
        tokenizer: &Tokenizer,
        mut request: Request,
        form: Option<Form>,
        row: Option<Row<Carried>>,
        listener: Listener,
        cancelled: Arc<AtomicBool>,
        reserved: usize,
    ) -> Self {
        // A given state is the asker's own, and a prompt is scored by reading it.
        let shares = match &row {
            None => request.state.is_none() && !request.score_prompt,
            Some(row) => super::denoised::shares(model, row),
        };
        let (mut tokens, state) = match request.state.take() {
            Some(from) => (from.tokens.clone(), from.state.clone()),
            None => (Vec::new(), model.new_state()),
        };
        let read = tokens.len();
        tokens.extend_from_slice(&request.prompt);
        Self {
            form,
            row,
            listener,
            cancelled,
            ends: tokenizer.eos_ids().to_vec(),
            state,
            read,
            given: tokens.len(),
            reused: None,
            shares,
            text: Text::new(request.owner),
            // The answer goes on from what stands there: the blank before its first word is its own.
            decoder: tokenizer.decode_stream_after(&tokens, true),
            tokens,
            filter: StopFilter::new(&request.stop),
            scored: Vec::new(),
            ended: None,
            reserved,
            submitted: Instant::now(),
            seated: None,
            first_token: None,
            told: (read, 0),
            request,
        }
    }

    pub fn seated(&mut self) {
        self.seated = Some(Instant::now());
    }

    /// Bytes of state it may come to.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    pub fn state_bytes(&self) -> usize {
        self.row.as_ref().map_or_else(|| self.state.bytes(), Row::state_bytes)
    }

    pub fn is_reading(&self) -> bool {
        self.ended.is_none() && self.read < self.given
    }

    /// Tokens of the prompt that are still to be read; before its first chunk, those that a kept state may spare too.
    pub fn unread(&self) -> usize {
        self.given.saturating_sub(self.read)
    }

    pub fn is_writing(&self) -> bool {
        self.ended.is_none() && self.read >= self.given
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether whoever asked has left, or the time is up.
    pub fn is_over(&self, now: Instant) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.request.deadline.is_some_and(|deadline| now >= deadline)
    }

    pub fn cancel(&mut self) {
        self.end(Finish::Cancelled);
    }

    /// Reads the next chunk of the prompt; with its last token comes the first one written. Chunks end
    /// at multiples of their length, wherever reading began, so that prompts that begin alike leave the
    /// same states behind. A rest that is not longer than a chunk is read at once, since a pass for a few
    /// tokens costs nearly a whole one: behind a kept state it may cross such a multiple, and leaves no
    /// state there. Returns the number of tokens read.
    pub fn read(&mut self, model: &Model, chunk: usize, kept: &mut PrefixCache) -> usize {
        if self.row.is_some() {
            return super::denoised::read(self, model, chunk, kept);
        }
        if self.reused.is_none() {
            let found = if self.shares { kept.find(&mut self.text, &self.tokens) } else { None };
            self.reused = Some(found.as_ref().map_or(0, |found| found.tokens));
            if let Some(found) = found {
                (self.read, self.state) = (found.tokens, found.state);
                if let Some(logits) = found.logits {
                    self.begin(&logits);
                    return 0;
                }
            }
        }
        // Nor is a single token left behind: over a cache of bf16 it is read with an unrounded query, as those are
        // that are written.
        let until = if self.given - self.read <= chunk + 1 { self.given } else { (self.read / chunk + 1) * chunk };
        let count = until - self.read;
        if let Err(error) = self.read_until(model, until, kept) {
            self.fail(error);
        }
        count
    }

    /// The prompt is read: writes the first token, if any is asked for.
    fn begin(&mut self, logits: &[f32]) {
        if self.request.max_tokens == 0 {
            self.end(Finish::Length);
        } else {
            self.choose(logits);
        }
    }

    fn read_until(&mut self, model: &Model, until: usize, kept: &mut PrefixCache) -> Result<(), InferError> {
        let tokens = &self.tokens[self.read..until];
        let last = if self.request.score_prompt {
            let unfinished = model.unfinished(tokens, 1, Some(&mut [&mut self.state]), None)?;
            self.score(model, &unfinished, until);
            unfinished.slice(s![.., -1.., ..])
        } else {
            model.unfinished_last(tokens, 1, &mut [&mut self.state])?
        };
        let before = std::mem::replace(&mut self.read, until);
        let share = self.shares && kept.is_on();
        if until < self.given {
            if share && is_due(before, until) {
                kept.keep(&mut self.text, &self.tokens[..self.given], until, &self.state, None);
            }
            return Ok(());
        }
        let scored = std::mem::take(&mut self.scored);
        if self.request.score_prompt && !self.send(Message::Prompt(scored)) {
            return Ok(());
        }
        if self.request.max_tokens == 0 && !share {
            self.end(Finish::Length);
            return Ok(());
        }
        let logits = values(model.logits(model.finish(last)));
        // Who waits for the first token gets it before what it came from is kept.
        self.begin(&logits);
        if share {
            kept.keep(&mut self.text, &self.tokens[..self.given], self.given, &self.state, Some(&logits));
        }
        Ok(())
    }

    /// Log-probabilities of the chunk's tokens and of the one after it, if that is given too.
    fn score(&mut self, model: &Model, unfinished: &Tensor<3>, until: usize) {
        if self.scored.is_empty() {
            let token = self.tokens[self.read];
            self.scored.push(PromptToken { token, log_probability: None, alternatives: Vec::new() });
        }
        let vocabulary = model.config.vocabulary;
        let mut at = self.read;
        while at < until {
            let rows = (until - at).min(SCORED_ROWS);
            let block = unfinished.clone().slice(s![.., at - self.read..at - self.read + rows, ..]);
            let logits = values(model.logits(model.finish(block)));
            for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
                let next = at + row + 1;
                if next >= self.given {
                    break;
                }
                let normaliser = log_normaliser(logits);
                let of = |token: u32| (f64::from(logits[token as usize]) - normaliser) as f32;
                let alternatives = likeliest(logits, self.request.alternatives)
                    .into_iter()
                    .map(|token| Scored { token, log_probability: of(token) })
                    .collect();
                let token = self.tokens[next];
                self.scored.push(PromptToken { token, log_probability: Some(of(token)), alternatives });
            }
            at += rows;
        }
    }

    /// Chooses the next token from its logits and tells of it.
    fn choose(&mut self, logits: &[f32]) {
        let written = self.tokens.len() - self.given;
        let (seen, step) = (&self.tokens[..], written as u64);
        let Request { sampling, stream, .. } = &self.request;
        let choice = match &mut self.form {
            None => sampling.choose(logits, seen, written, *stream, step),
            Some(form) => form.allowed(logits).and_then(|allowed| {
                let Choice { token, .. } = sampling.choose(&allowed, seen, written, *stream, step)?;
                // Under the model itself, as everywhere.
                let log_probability = (f64::from(logits[token as usize]) - log_normaliser(logits)) as f32;
                Ok(Choice { token, log_probability })
            }),
        };
        match choice {
            Ok(choice) => self.take(choice, logits),
            Err(error) => self.fail(error),
        }
    }

    fn take(&mut self, choice: Choice, logits: &[f32]) {
        let alternatives = if self.request.alternatives > 0 {
            let normaliser = log_normaliser(logits);
            likeliest(logits, self.request.alternatives)
                .into_iter()
                .map(|token| (token, (f64::from(logits[token as usize]) - normaliser) as f32))
                .collect()
        } else {
            Vec::new()
        };
        self.fix(choice, alternatives);
    }

    /// Writes the next token of the text.
    pub(super) fn fix(&mut self, choice: Choice, alternatives: Vec<(u32, f32)>) {
        let Choice { token, log_probability } = choice;
        let index = self.tokens.len() - self.given;
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        if !self.send(Message::Event(Event::Fixed { index, token, log_probability, alternatives })) {
            return;
        }
        if self.ends.contains(&token) {
            return self.end(Finish::EndToken(token));
        }
        let complete = match self.form.as_mut().map_or(Ok(false), |form| form.push(token)) {
            Ok(complete) => complete,
            Err(error) => return self.fail(error),
        };
        let piece = self.decoder.push(token);
        let passed = self.filter.push(&piece);
        if !self.show(passed.text) {
            return;
        }
        if let Some(stop) = passed.stop {
            self.conclude(Finish::StopString(stop));
        } else if complete {
            self.end(Finish::Complete);
        } else if index + 1 == self.request.max_tokens {
            self.end(Finish::Length);
        }
    }

    /// Whether it goes on.
    fn show(&mut self, text: String) -> bool {
        text.is_empty() || self.send(Message::Event(Event::Text(text)))
    }

    /// Whether the listener is still there; if not, the sequence ends.
    pub(super) fn send(&mut self, message: Message) -> bool {
        let stays = (self.listener)(message).is_continue();
        if !stays && self.ended.is_none() {
            self.cancelled.store(true, Ordering::Relaxed);
            self.conclude(Finish::Cancelled);
        }
        stays
    }

    /// Shows what was held back, unless that completes a stop string, and ends.
    pub(super) fn end(&mut self, finish: Finish) {
        if self.ended.is_some() {
            return;
        }
        let held = self.decoder.finish();
        let passed = self.filter.push(&held);
        let rest = if passed.stop.is_some() { String::new() } else { self.filter.finish() };
        if self.show(passed.text + &rest) {
            self.conclude(passed.stop.map_or(finish, Finish::StopString));
        }
    }

    fn conclude(&mut self, finish: Finish) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(Some(finish.clone()));
        // Nobody is asked whether to go on any more.
        let _ = (self.listener)(Message::Event(Event::Done(finish.clone())));
        let seconds = |at: Option<Instant>| at.map(|at| at.duration_since(self.submitted).as_secs_f64());
        let summary = Summary {
            finish,
            prompt_tokens: self.request.prompt.len(),
            reused_tokens: self.reused.unwrap_or(0),
            completion_tokens: self.tokens.len() - self.given,
            queued_seconds: seconds(self.seated).unwrap_or_else(|| self.submitted.elapsed().as_secs_f64()),
            first_token_seconds: seconds(self.first_token),
            total_seconds: self.submitted.elapsed().as_secs_f64(),
            state_bytes: self.state_bytes(),
            denoising: self.row.as_ref().map(Row::counters),
            state: self
                .request
                .keep_state
                .then(|| Arc::new(Snapshot { tokens: self.tokens[..self.read].to_vec(), state: self.state.clone() })),
        };
        let _ = (self.listener)(Message::End(Ok(summary)));
    }

    pub(super) fn fail(&mut self, error: InferError) {
        if self.ended.is_none() {
            self.ended = Some(None);
            let _ = (self.listener)(Message::End(Err(error)));
        }
    }

    /// Keeps the state of a text that has ended, for a next turn that begins with it.
    pub fn leave(&mut self, kept: &mut PrefixCache) {
        if let Some(row) = &self.row {
            if self.shares && !matches!(self.ended, Some(None)) {
                super::denoised::keep(&mut self.text, row, row.held().1, kept);
            }
            return;
        }
        if self.shares && kept.is_on() && self.read > self.given && !matches!(self.ended, Some(None)) {
            kept.keep(&mut self.text, &self.tokens[..self.read], self.read, &self.state, None);
        }
    }

    /// Adds what is new to the counters.
    pub fn account(&mut self, stats: &mut Stats) {
        if let (true, Some(reused), 0) = (self.shares, self.reused, self.told.0) {
            stats.prefix_lookups += 1;
            stats.prefix_hits += u64::from(reused > 0);
            stats.prefix_tokens += reused as u64;
            self.told.0 = reused;
        }
        let read = self.read.min(self.given);
        let written = self.tokens.len() - self.given;
        stats.prompt_tokens += (read - self.told.0.min(read)) as u64;
        stats.completion_tokens += (written - self.told.1) as u64;
        self.told = (read, written);
        match &self.ended {
            Some(Some(Finish::Cancelled)) => stats.cancelled += 1,
            Some(Some(_)) => stats.completed += 1,
            Some(None) => stats.failed += 1,
            None => {}
        }
    }
}

/// One token of each: the last one chosen is read, the next one chosen.
pub fn write(model: &Model, sequences: &mut [&mut Sequence]) {
    let tokens: Vec<u32> = sequences.iter().map(|s| s.tokens[s.read]).collect();
    let stepped = {
        let mut states: Vec<&mut ModelState> = sequences.iter_mut().map(|s| &mut s.state).collect();
        model.hidden(&tokens, tokens.len(), Some(&mut states), None)
    };
    let hidden = match stepped {
        Ok(hidden) => hidden,
        Err(error) => {
            let message = error.to_string();
            return sequences.iter_mut().for_each(|s| s.fail(InferError::Step(message.clone())));
        }
    };
    let logits = values(model.logits(hidden));
    for (sequence, logits) in sequences.iter_mut().zip(logits.chunks_exact(model.config.vocabulary)) {
        sequence.read += 1;
        sequence.choose(logits);
    }
}
