//! Texts from masks or noise: many rows to their ends, without an engine.

use super::canvas::Canvas;
use super::denoiser::Denoiser;
use super::record::Step;
use super::row::{Counters, Row};
use super::run::{read, step};
use super::settings::Denoising;
use crate::error::InferError;
use crate::samplers::{Event, Finish};
use crate::stop::StopFilter;
use recast_text::{DecodeStream, Tokenizer};
use std::ops::ControlFlow;
use std::time::Instant;

/// A finished text.
#[derive(Clone, Debug, PartialEq)]
pub struct Denoised {
    /// The text behind the prompt, fixed parts included; special tokens and stop string left out.
    pub text: String,
    /// Its tokens, an end token included.
    pub tokens: Vec<u32>,
    /// How many of them were not given.
    pub written: usize,
    /// Probability of each when it was committed; 1 for fixed ones.
    pub confidences: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens before the first hole.
    pub prompt_tokens: usize,
    /// What it has cost.
    pub counters: Counters,
    /// Time for reading the prompts, of the batch.
    pub prefill_seconds: f64,
    /// Time for everything after it, of the batch.
    pub decode_seconds: f64,
}

impl Denoised {
    /// Tokens written a second, up to the end token and no further: what lies behind it is no text.
    pub fn tokens_per_second(&self) -> f64 {
        self.written as f64 / self.decode_seconds.max(f64::MIN_POSITIVE)
    }

    /// Tokens written that a forward pass brought.
    pub fn tokens_per_forward(&self) -> f64 {
        self.counters.tokens_per_forward(self.written)
    }
}

/// Writes texts with a denoiser.
pub struct Filler<'a, D> {
    denoiser: &'a D,
    tokenizer: &'a Tokenizer,
    settings: Denoising,
    stop: Vec<String>,
    chunk: usize,
}

/// The text of one row, as far as it is final.
struct Text {
    decoder: DecodeStream,
    filter: StopFilter,
    text: String,
    told: usize,
    finish: Option<Finish>,
}

impl<'a, D: Denoiser> Filler<'a, D> {
    /// A filler; texts end before any of `stop`.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(denoiser: &'a D, tokenizer: &'a Tokenizer, settings: Denoising, stop: Vec<String>) -> Result<Self, InferError> {
        settings.check()?;
        Ok(Self { denoiser, tokenizer, settings, stop, chunk: crate::CHUNK })
    }

    /// Fills one canvas. `listen` gets every event as it happens and may end it.
    ///
    /// # Errors
    /// When the canvas does not suit the model (see [`Canvas::check`]), or it computes NaN.
    pub fn fill(&self, canvas: &Canvas, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<Denoised, InferError> {
        let mut all = self.fill_batch(std::slice::from_ref(canvas), &mut |_, event| listen(event))?;
        Ok(all.pop().expect("one canvas gives one text"))
    }

    /// Fills many together: each forward pass takes one step of every text that is not done. What
    /// comes of one does not depend on the others. The draws of canvas r are those of stream r.
    ///
    /// # Errors
    /// As [`Filler::fill`].
    pub fn fill_batch(
        &self,
        canvases: &[Canvas],
        listen: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<Denoised>, InferError> {
        let streams: Vec<(u64, &Canvas)> = canvases.iter().enumerate().map(|(r, canvas)| (r as u64, canvas)).collect();
        self.fill_streams(&streams, listen)
    }

    /// [`Filler::fill_batch`] with a choice of streams.
    ///
    /// # Errors
    /// As [`Filler::fill`].
    pub fn fill_streams(
        &self,
        canvases: &[(u64, &Canvas)],
        listen: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<Denoised>, InferError> {
        let (ends, turn_ends) = (self.tokenizer.eos_ids(), turn_ends(self.tokenizer));
        let begin = |(stream, canvas): &(u64, &Canvas)| -> Result<Row<D::State>, InferError> {
            Ok(Row::new(self.denoiser, canvas, self.settings.clone(), ends, *stream)?.with_turn_ends(&turn_ends))
        };
        let mut rows: Vec<Row<D::State>> = canvases.iter().map(begin).collect::<Result<_, _>>()?;
        let mut texts: Vec<Text> = rows.iter().map(|row| self.text(&row.tokens()[..row.prompt()])).collect();
        let started = Instant::now();
        loop {
            let mut reading: Vec<&mut Row<D::State>> = rows.iter_mut().filter(|row| row.is_reading()).collect();
            if reading.is_empty() {
                break;
            }
            read(self.denoiser, &mut reading, self.chunk)?;
        }
        let prefill_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for (index, (row, text)) in rows.iter_mut().zip(&mut texts).enumerate() {
            self.tell(row, text, None, &mut |event| listen(index, event));
        }
        while texts.iter().any(|text| text.finish.is_none()) {
            let steps = {
                let mut rows: Vec<&mut Row<D::State>> = rows.iter_mut().collect();
                step(self.denoiser, &mut rows)?
            };
            for (index, taken) in steps.into_iter().enumerate() {
                if let Some(taken) = taken {
                    self.tell(&mut rows[index], &mut texts[index], Some(taken), &mut |event| listen(index, event));
                }
            }
        }
        let decode_seconds = started.elapsed().as_secs_f64();
        let done = |(row, text): (&Row<D::State>, Text)| Denoised {
            text: text.text,
            tokens: row.settled().0.to_vec(),
            written: (0..row.settled().0.len()).filter(|&index| !row.is_given(index)).count(),
            confidences: row.settled().1.to_vec(),
            finish: text.finish.unwrap_or(Finish::Length),
            prompt_tokens: row.prompt(),
            counters: row.counters(),
            prefill_seconds,
            decode_seconds,
        };
        Ok(rows.iter().zip(texts).map(done).collect())
    }

    fn text(&self, prompt: &[u32]) -> Text {
        Text {
            decoder: self.tokenizer.decode_stream_after(prompt, true),
            filter: StopFilter::new(&self.stop),
            text: String::new(),
            told: 0,
            finish: None,
        }
    }

    /// Tells of a step and of what is final since.
    fn tell(
        &self,
        row: &mut Row<D::State>,
        text: &mut Text,
        step: Option<Step>,
        listen: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) {
        if let Some(step) = step
            && listen(Event::Step(step)).is_break()
        {
            return text.end(row, Finish::Cancelled, listen);
        }
        if let Some(tokens) = stop_within(row, self.tokenizer, &self.stop) {
            row.cut(tokens);
        }
        let (tokens, confidences) = row.settled();
        let news: Vec<(u32, f32)> = tokens.iter().copied().zip(confidences.iter().copied()).skip(text.told).collect();
        for (token, confidence) in news {
            let index = text.told;
            text.told += 1;
            let event = Event::Fixed { index, token, log_probability: confidence.ln(), alternatives: Vec::new() };
            if listen(event).is_break() {
                return text.end(row, Finish::Cancelled, listen);
            }
            if self.tokenizer.eos_ids().contains(&token) && !row.is_given(index) {
                return text.end(row, Finish::EndToken(token), listen);
            }
            let piece = text.decoder.push(token);
            let passed = text.filter.push(&piece);
            let going_on = text.show(passed.text, listen);
            if let Some(stop) = passed.stop {
                text.finish = Some(Finish::StopString(stop.clone()));
                row.cut(text.told);
                // Nothing is left to cancel.
                let _ = listen(Event::Done(Finish::StopString(stop)));
                return;
            }
            if going_on.is_break() {
                return text.end(row, Finish::Cancelled, listen);
            }
        }
        if row.is_over() {
            text.end(row, Finish::Length, listen);
        }
    }
}

impl Text {
    fn show(&mut self, text: String, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        if text.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(&text);
        listen(Event::Text(text))
    }

    /// Shows what was held back, unless that completes a stop string, and ends the text.
    fn end<S: Clone>(&mut self, row: &mut Row<S>, finish: Finish, listen: &mut dyn FnMut(Event) -> ControlFlow<()>) {
        row.cut(self.told);
        let held = self.decoder.finish();
        let passed = self.filter.push(&held);
        let rest = if passed.stop.is_some() { String::new() } else { self.filter.finish() };
        // Nothing is left to cancel.
        let _ = self.show(passed.text + &rest, listen);
        let finish = passed.stop.map_or(finish, Finish::StopString);
        self.finish = Some(finish.clone());
        let _ = listen(Event::Done(finish));
    }
}

/// Spellings of tokens that end a turn, in the chat templates of the families read here.
const TURN_ENDS: [&str; 5] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"];

/// Tokens that end a turn in the tokenizer's chat template, whether or not they end a text.
pub(crate) fn turn_ends(tokenizer: &Tokenizer) -> Vec<u32> {
    let template = tokenizer.chat_template_source().unwrap_or_default();
    let spelled = TURN_ENDS.iter().filter(|name| template.contains(**name));
    spelled.filter_map(|name| tokenizer.token_to_id(name)).collect()
}

/// Tokens behind the prompt up to a stop string, where only filled positions stand before it and the
/// text is over with it: the rest of the block need not be written.
pub(crate) fn stop_within<S: Clone>(row: &Row<S>, tokenizer: &Tokenizer, stops: &[String]) -> Option<usize> {
    if stops.is_empty() || row.is_over() || !row.settings.until_end || row.revises() {
        return None;
    }
    let filled = row.filled();
    let all = tokenizer.decode(filled, true);
    if !stops.iter().any(|stop| !stop.is_empty() && all.contains(stop.as_str())) {
        return None;
    }
    // The fewest tokens that hold it.
    let holds = |count: usize| {
        let text = tokenizer.decode(&filled[..count], true);
        stops.iter().any(|stop| !stop.is_empty() && text.contains(stop.as_str()))
    };
    (1..=filled.len()).find(|&count| holds(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_text::GgufVocab;

    #[test]
    fn turns_end_with_what_the_template_writes() {
        let tokens = ["<unk>", "\u{2581}", "a", "<|eot_id|>", "<|im_end|>"].map(String::from).to_vec();
        let scores = Some(vec![0.0; tokens.len()]);
        let vocab = GgufVocab { model: "llama".into(), tokens, scores, unknown: Some(0), ..GgufVocab::default() };
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        assert!(turn_ends(&tokenizer).is_empty());
        let tokenizer = tokenizer.with_chat_template("{{ messages[0].content }}<|eot_id|>");
        assert_eq!(turn_ends(&tokenizer), [3]);
    }
}
