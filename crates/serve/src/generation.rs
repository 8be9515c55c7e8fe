//! Requests on their way through an engine, as asynchronous code sees them.

use crate::app::Served;
use crate::error::ApiError;
use crate::metrics::ModelMetrics;
use crate::record::Record;
use crate::tokens;
use recast_infer::engine::{Handle, Listener, Message, PromptToken, Request, Summary};
use recast_infer::samplers::denoising::Step;
use recast_infer::samplers::denoising::trace::piece;
use recast_infer::{Event, Finish, InferError};
use recast_text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A token written, with its log-probability and the likeliest at its place.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub token: u32,
    pub log_probability: f32,
    pub alternatives: Vec<(u32, f32)>,
}

/// An answer as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub prompt: Option<Vec<PromptToken>>,
    pub text: String,
    pub written: Vec<Written>,
    /// How many of `written` and of `text`'s bytes were already told.
    pub told: (usize, usize),
    /// Steps of a model that denoises that were not told, where somebody wants to know.
    pub steps: Vec<Step>,
    /// Whether the prompt was given back.
    pub echoed: bool,
    pub summary: Option<Summary>,
}

impl Answer {
    /// What a client calls the end.
    pub fn finish(&self) -> Option<&'static str> {
        self.summary.as_ref().map(|summary| match summary.finish {
            Finish::Length => "length",
            _ => "stop",
        })
    }

    /// What was written and not yet told.
    pub fn news(&mut self) -> (String, Vec<Written>) {
        let news = (self.text[self.told.1..].to_owned(), self.written[self.told.0..].to_vec());
        self.told = (self.written.len(), self.text.len());
        news
    }
}

/// Answers that are being written. Dropping it cancels them: so does a client that leaves, because
/// what answers it is dropped then.
pub(crate) struct Generation {
    pub served: Arc<Served>,
    pub answers: Vec<Answer>,
    /// Tokens of the state that each began from.
    before: usize,
    handles: Vec<Handle>,
    receiver: UnboundedReceiver<(usize, Message)>,
    left: usize,
    /// Whether steps are told.
    pub revisions: bool,
    deadline: Option<Instant>,
    seconds: u64,
    record: Arc<Record>,
    /// The field that the text's form came from.
    form: &'static str,
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.handles.iter().for_each(Handle::cancel);
    }
}

impl Generation {
    /// Hands the requests in, all or none. `form` is the field that the text's form came from, if it has one.
    pub fn submit(
        served: &Arc<Served>,
        requests: Vec<Request>,
        form: &'static str,
        seconds: u64,
        record: &Arc<Record>,
    ) -> Result<Self, ApiError> {
        let (sender, receiver) = unbounded_channel();
        let first = requests.first();
        let mut generation = Self {
            served: served.clone(),
            answers: requests.iter().map(|_| Answer::default()).collect(),
            before: first.and_then(|r| r.state.as_ref()).map_or(0, |s| s.tokens.len()),
            handles: Vec::new(),
            receiver,
            left: requests.len(),
            revisions: false,
            deadline: first.and_then(|r| r.deadline),
            seconds,
            record: record.clone(),
            form,
        };
        let heard = |(index, request)| (request, listener(served.metrics.clone(), sender.clone(), index));
        let requests = requests.into_iter().enumerate().map(heard).collect();
        generation.handles = served.engine.submit_all(requests).map_err(|refused| ApiError::refused(refused, form))?;
        Ok(generation)
    }

    /// Waits until something happened to an answer and tells which; none when all have ended.
    pub async fn next(&mut self) -> Result<Option<usize>, ApiError> {
        while self.left > 0 {
            let Some((index, message)) = self.receiver.recv().await else {
                // Every listener is gone and not every sequence said its end.
                return Err(ApiError::Failed("the engine ended".into()));
            };
            let answer = &mut self.answers[index];
            match message {
                Message::Prompt(tokens) => answer.prompt = Some(tokens),
                Message::Event(Event::Fixed { token, log_probability, alternatives, .. }) => {
                    answer.written.push(Written { token, log_probability, alternatives });
                }
                Message::Event(Event::Text(text)) => {
                    answer.text.push_str(&text);
                    return Ok(Some(index));
                }
                Message::Event(Event::Step(step)) if self.revisions => {
                    answer.steps.push(step);
                    return Ok(Some(index));
                }
                Message::Event(Event::Done(_) | Event::Step(_)) => {}
                Message::End(Err(InferError::Constraint(message))) => {
                    return Err(ApiError::at(self.form, format!("{}: {message}", self.form)));
                }
                Message::End(Err(error)) => return Err(ApiError::Failed(error.to_string())),
                Message::End(Ok(summary)) => {
                    self.left -= 1;
                    if summary.finish == Finish::Cancelled {
                        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
                        return Err(if late { ApiError::Timeout(self.seconds) } else { ApiError::Draining });
                    }
                    self.record.add(summary.prompt_tokens, summary.completion_tokens);
                    answer.summary = Some(summary);
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    /// Waits for the end.
    pub async fn finish(&mut self) -> Result<(), ApiError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Tokens of prompts and answers, and of prompts those that were not read again: those of the state that was gone
    /// on from are of both kinds. `n` answers to one prompt count it once.
    pub fn usage(&self, n: usize) -> Usage {
        let of = |f: fn(&Summary) -> usize, step: usize| -> usize {
            self.answers.iter().step_by(step).filter_map(|a| a.summary.as_ref()).map(f).sum()
        };
        let before = self.before * self.answers.len().div_ceil(n);
        Usage {
            prompt: of(|s| s.prompt_tokens, n) + before,
            completion: of(|s| s.completion_tokens, 1),
            cached: of(|s| s.reused_tokens, n) + before,
        }
    }

    /// How fast it was and what it took: our own part of an answer.
    pub fn speeds(&self) -> serde_json::Map<String, serde_json::Value> {
        let summaries = || self.answers.iter().filter_map(|a| a.summary.as_ref());
        let first = summaries().filter_map(|s| s.first_token_seconds).min_by(f64::total_cmp);
        let prefill = summaries().find_map(|s| {
            let read = s.prompt_tokens.saturating_sub(s.reused_tokens.saturating_sub(self.before));
            s.first_token_seconds.map(|first| read as f64 / (first - s.queued_seconds).max(1e-9))
        });
        let decode: f64 = summaries()
            .filter_map(|s| {
                Some(s.completion_tokens.saturating_sub(1) as f64 / (s.total_seconds - s.first_token_seconds?).max(1e-9))
            })
            .sum();
        let state_bytes: usize = summaries().map(|s| s.state_bytes).sum();
        let reused: usize = summaries().map(|s| s.reused_tokens).sum();
        let mut value = serde_json::json!({
            "state_bytes": state_bytes, "prefill_tokens_per_second": prefill,
            "decode_tokens_per_second": (decode > 0.0).then_some(decode),
            "time_to_first_token": first, "reused_tokens": reused,
        });
        let counters: Vec<_> = summaries().filter_map(|s| s.denoising).collect();
        if !counters.is_empty() {
            let forwards: usize = counters.iter().map(|c| c.forwards).sum();
            let written: usize = summaries().map(|s| s.completion_tokens).sum();
            // No token of a step comes first: all the time is writing.
            let seconds: f64 = summaries().map(|s| s.total_seconds - s.queued_seconds).sum();
            value["decode_tokens_per_second"] = (written as f64 / seconds.max(1e-9)).into();
            value["prefill_tokens_per_second"] = serde_json::Value::Null;
            value["denoising"] = serde_json::json!({
                "forwards": forwards, "refreshes": counters.iter().map(|c| c.refreshes).sum::<usize>(),
                "tokens_per_forward": written as f64 / forwards.max(1) as f64,
                "revised": counters.iter().map(|c| c.revised).sum::<usize>(),
            });
        }
        value.as_object().cloned().unwrap_or_default()
    }

    /// Steps of an answer that were not told, as clients read them.
    pub fn revisions(&mut self, index: usize) -> Vec<serde_json::Value> {
        let steps = std::mem::take(&mut self.answers[index].steps);
        let text = |token: Option<u32>| token.map(|token| piece(self.tokenizer(), token));
        let one = |step: &Step| {
            let changes: Vec<_> = step
                .changes
                .iter()
                .map(|c| serde_json::json!({"position": c.index, "old": c.old, "token": c.new, "text": text(c.new), "confidence": c.confidence, "entropy": c.entropy}))
                .collect();
            let ghosts: Vec<_> = step
                .ghosts
                .iter()
                .map(|g| serde_json::json!({"position": g.index, "token": g.token, "text": text(Some(g.token)), "confidence": g.confidence}))
                .collect();
            serde_json::json!({
                "step": step.step, "block": step.block, "window": step.window, "forwards": step.forwards, "settled": step.settled,
                "changes": changes, "ghosts": ghosts,
            })
        };
        steps.iter().map(one).collect()
    }

    /// Tokens of the state that the answers began from.
    pub fn before(&self) -> usize {
        self.before
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        self.served.engine.tokenizer()
    }
}

/// Counted tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub prompt: usize,
    pub completion: usize,
    pub cached: usize,
}

impl Usage {
    /// As chat and completions tell it.
    pub fn json(self) -> serde_json::Value {
        serde_json::json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

/// Passes messages on and measures the time between tokens. The channel has no bound, so it never
/// holds the engine up; what waits in it is bounded by the tokens that were asked for.
fn listener(metrics: Arc<ModelMetrics>, sender: UnboundedSender<(usize, Message)>, index: usize) -> Listener {
    let submitted = Instant::now();
    let mut last: Option<Instant> = None;
    Box::new(move |message| {
        if let Message::Event(Event::Fixed { .. }) = &message {
            let now = Instant::now();
            match last.replace(now) {
                None => metrics.first_token.record(now - submitted),
                Some(before) => metrics.between_tokens.record(now - before),
            }
        }
        match sender.send((index, message)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })
}

/// The text of a token for log-probabilities.
pub(crate) fn token_text(tokenizer: &Tokenizer, token: u32) -> String {
    tokens::text(&tokens::bytes(tokenizer, token))
}
