//! Sequences of models that denoise: what they read, what a step writes.

use super::prefix_cache::{PrefixCache, Text, is_due};
use super::request::{Message, Refused, Request};
use super::sequence::Sequence;
use crate::error::InferError;
use crate::samplers::autoregressive::Choice;
use crate::samplers::denoising::{
    Canvas, Carried, Denoising, Ends, Keep, Masked, Row, Step, read as read_blocks, step, stop_within, turn_ends,
};
use crate::samplers::{Event, Finish, Sampling};
use recast_models::Model;
use recast_text::Tokenizer;

/// The row of a request, where the model denoises.
///
/// # Errors
/// When the request asks for what only next-token models do, or for denoising of one, or the settings
/// do not suit model and prompt.
pub fn row(model: &Model, tokenizer: &Tokenizer, request: &Request) -> Result<Option<Row<Carried>>, Refused> {
    let refused = |error: InferError| match error {
        InferError::Setting { .. } => Refused::Field { field: "denoising", message: error.to_string() },
        error => Refused::Invalid(error.to_string()),
    };
    let Some(diffusion) = &model.config.diffusion else {
        let only_here = [("denoising", request.denoising.is_some()), ("suffix", !request.suffix.is_empty())];
        return match only_here.into_iter().find(|(_, asked)| *asked) {
            Some((field, _)) => Err(Refused::Field {
                field,
                message: "expected a model that denoises, found a next-token model; leave it out".into(),
            }),
            None => Ok(None),
        };
    };
    let plain = Sampling::default();
    let Sampling { temperature, top_p, seed, top_k, min_p, repetition_penalty, frequency_penalty, presence_penalty, logit_bias } =
        &request.sampling;
    let others = [
        ("top_k", *top_k != plain.top_k),
        ("min_p", *min_p != plain.min_p),
        ("repetition_penalty", *repetition_penalty != plain.repetition_penalty),
        ("frequency_penalty", *frequency_penalty != plain.frequency_penalty),
        ("presence_penalty", *presence_penalty != plain.presence_penalty),
        ("logit_bias", *logit_bias != plain.logit_bias),
    ];
    if let Some((field, _)) = others.into_iter().find(|(_, set)| *set) {
        let only = "expected temperature, top-p and seed alone, since the model denoises; leave it out";
        return Err(Refused::Field { field, message: only.into() });
    }
    if request.constraint.is_some() {
        let message = "expected a next-token model, found one that denoises; leave it out".into();
        return Err(Refused::Field { field: "constraint", message });
    }
    let unsupported = [
        ("a state to go on from", request.state.is_some()),
        ("a state to be kept", request.keep_state),
        ("alternatives of tokens", request.alternatives > 0),
        ("scores of the prompt", request.score_prompt),
    ];
    if let Some((what, _)) = unsupported.into_iter().find(|(_, asked)| *asked) {
        return Err(Refused::Invalid(format!("{what}: expected a next-token model, found one that denoises; leave it out")));
    }
    let ends = if request.suffix.is_empty() { Ends::default() } else { Ends::Never };
    let chosen = request.denoising.clone().unwrap_or(Denoising { ends, ..Denoising::default() });
    let settings = Denoising { temperature: *temperature, top_p: *top_p, seed: *seed, ..chosen };
    if settings.keep != Keep::Nothing && diffusion.block.is_none() {
        model
            .leave_out(&mut model.new_state(), 0..0)
            .map_err(|error| Refused::Field { field: "denoising", message: error.to_string() })?;
    }
    let masked = Masked::with(model, diffusion.clone());
    let mut canvas = Canvas::after(&request.prompt, request.max_tokens);
    canvas.text(&request.suffix);
    let row = Row::new(&masked, &canvas, settings, tokenizer.eos_ids(), request.stream).map_err(refused)?;
    Ok(Some(row.with_turn_ends(&turn_ends(tokenizer))))
}

/// Whether states may be kept for others, or taken from them: those of block boundaries, which
/// depend on what was read alone.
pub fn shares(model: &Model, row: &Row<Carried>) -> bool {
    model.config.diffusion.as_ref().is_some_and(|d| d.block.is_some()) && !row.is_guided()
}

/// Reads the next chunk of the prompt.
pub fn read(sequence: &mut Sequence, model: &Model, chunk: usize, kept: &mut PrefixCache) -> usize {
    let Some(row) = &mut sequence.row else { return 0 };
    let Some(diffusion) = model.config.diffusion.clone() else { return 0 };
    let shift = diffusion.shift;
    let until = row.reads_to();
    let masked = Masked::with(model, diffusion);
    if sequence.reused.is_none() {
        // Where logits speak of the next token, the last block has to be read for what it says of
        // the first token behind it.
        let seen = if shift { until.saturating_sub(1) } else { until + 1 };
        let seen = seen.min(row.tokens().len());
        let found = if sequence.shares { kept.find(&mut sequence.text, &row.tokens()[..seen]) } else { None };
        sequence.reused = Some(found.as_ref().map_or(0, |found| found.tokens));
        if let Some(found) = found {
            row.resume(Carried { state: found.state, last: None }, found.tokens);
        }
    }
    let before = row.held().1;
    let count = match read_blocks(&masked, &mut [&mut *row], chunk) {
        Ok(count) => count,
        Err(error) => {
            sequence.fail(error);
            return 0;
        }
    };
    if sequence.shares && count > 0 && (!row.is_reading() || is_due(before, row.held().1)) {
        keep(&mut sequence.text, row, until, kept);
    }
    // What is not read into the state is part of the first block.
    sequence.read = if row.is_reading() { row.held().1.min(sequence.given.saturating_sub(1)) } else { sequence.given };
    count
}

/// Keeps what the row's state has read; `known` tokens will not change.
pub fn keep(text: &mut Text, row: &Row<Carried>, known: usize, kept: &mut PrefixCache) {
    let (carried, read) = row.held();
    if kept.is_on() && read > 0 {
        kept.keep(text, &row.tokens()[..known], read, &carried.state, None);
    }
}

/// One step of each.
pub fn write(model: &Model, tokenizer: &Tokenizer, sequences: &mut [&mut Sequence]) {
    let Some(diffusion) = model.config.diffusion.clone() else { return };
    let masked = Masked::with(model, diffusion);
    let steps = {
        let mut rows: Vec<&mut Row<Carried>> = sequences.iter_mut().filter_map(|s| s.row.as_mut()).collect();
        step(&masked, &mut rows)
    };
    match steps {
        Ok(steps) => sequences.iter_mut().zip(steps).for_each(|(sequence, step)| take(sequence, tokenizer, step)),
        // Nothing was taken: the one that fails is found alone, and the others go on.
        Err(_) if sequences.len() > 1 => {
            sequences.iter_mut().for_each(|sequence| write(model, tokenizer, &mut [&mut **sequence]))
        }
        Err(error) => sequences.iter_mut().for_each(|sequence| sequence.fail(InferError::Step(error.to_string()))),
    }
}

/// Tells of a step and of the tokens that are final since.
fn take(sequence: &mut Sequence, tokenizer: &Tokenizer, step: Option<Step>) {
    if let Some(step) = step
        && !sequence.send(Message::Event(Event::Step(step)))
    {
        return;
    }
    let told = sequence.tokens.len() - sequence.given;
    let Some(row) = &mut sequence.row else { return };
    if let Some(tokens) = stop_within(row, tokenizer, &sequence.request.stop) {
        row.cut(tokens);
    }
    let over = row.is_over();
    let (tokens, confidences) = row.settled();
    // What is fixed behind the holes is not written.
    let most = sequence.request.max_tokens.saturating_sub(told);
    let news: Vec<(u32, f32)> = tokens.iter().copied().zip(confidences.iter().copied()).skip(told).take(most).collect();
    for (token, confidence) in news {
        if sequence.has_ended() {
            return;
        }
        sequence.fix(Choice { token, log_probability: confidence.ln() }, Vec::new());
    }
    if over {
        sequence.end(Finish::Length);
    }
}
