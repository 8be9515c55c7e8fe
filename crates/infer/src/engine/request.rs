//! What is asked of the engine, and what it answers.

use crate::error::InferError;
use crate::samplers::constraint::Constraint;
use crate::samplers::denoising::{Counters, Denoising};
use crate::samplers::{Event, Finish, Sampling};
use crate::snapshot::Snapshot;
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// One sequence to continue.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Tokens to read. With a `state` they follow what it has read.
    pub prompt: Vec<u32>,
    /// Fixed text behind the `max_tokens` tokens that are written between the two; of models that
    /// denoise alone. No end token is written then, or as a given `denoising` says.
    pub suffix: Vec<u32>,
    /// Where to begin, instead of at the beginning of a text.
    pub state: Option<Arc<Snapshot>>,
    /// How tokens are chosen; of models that denoise only temperature, top-p and seed.
    pub sampling: Sampling,
    /// How a model that denoises writes; temperature, top-p and seed are those of `sampling`.
    pub denoising: Option<Denoising>,
    /// Which of several answers to one prompt this is: with equal seeds, other streams give other
    /// texts.
    pub stream: u64,
    /// The most tokens to write; 0 only reads.
    pub max_tokens: usize,
    /// The text ends before the first occurrence of any of these.
    pub stop: Vec<String>,
    /// So many likeliest alternatives are told with every token.
    pub alternatives: usize,
    /// Tell the log-probabilities of the prompt's tokens too.
    pub score_prompt: bool,
    /// Texts outside it cannot be written.
    pub constraint: Option<Constraint>,
    /// Hand the state out at the end, to go on from.
    pub keep_state: bool,
    /// When to give up, whatever is done by then ([`Finish::Cancelled`]).
    pub deadline: Option<Instant>,
    /// Whose it is. States of prompts read before are found by requests of one owner alone: what was reused, which a
    /// [`Summary`] tells, would tell others what somebody has asked.
    pub owner: u64,
}

/// A token with its log-probability (nats) under the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scored {
    /// The token.
    pub token: u32,
    /// Its log-probability, before temperature and truncation.
    pub log_probability: f32,
}

/// What the engine sends while it works on a request.
#[derive(Debug)]
pub enum Message {
    /// The prompt's tokens with their log-probabilities, none for the first of a text; and the
    /// alternatives of each. Once, before all else, if asked for.
    Prompt(Vec<PromptToken>),
    /// As it happens.
    Event(Event),
    /// Nothing follows.
    End(Result<Summary, InferError>),
}

/// A token of the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// The token.
    pub token: u32,
    /// How likely the model held it; none where nothing was before it.
    pub log_probability: Option<f32>,
    /// The likeliest tokens at its place.
    pub alternatives: Vec<Scored>,
}

/// What a finished request came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens given as prompt.
    pub prompt_tokens: usize,
    /// Of these, and of the given state's, tokens that a kept state spared.
    pub reused_tokens: usize,
    /// Tokens written, an end token included.
    pub completion_tokens: usize,
    /// Waiting before the first token was read.
    pub queued_seconds: f64,
    /// From submission to the first token written.
    pub first_token_seconds: Option<f64>,
    /// From submission to the end.
    pub total_seconds: f64,
    /// Bytes of the state at the end.
    pub state_bytes: usize,
    /// What it has cost, of models that denoise.
    pub denoising: Option<Counters>,
    /// The state after all tokens but the last one written, if asked for; `Snapshot::tokens` says
    /// which those are.
    pub state: Option<Arc<Snapshot>>,
}

/// Where messages of a request go. Breaking ends the request ([`Finish::Cancelled`]): for a listener
/// that is gone.
pub type Listener = Box<dyn FnMut(Message) -> ControlFlow<()> + Send>;

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// As many wait as may.
    #[error("{waiting} requests are waiting already, as many as may; try again in {retry_seconds} s")]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// A guess at when there is room.
        retry_seconds: u64,
    },
    /// It can never fit.
    #[error("the request needs {needed} bytes of state for {tokens} tokens, and all sequences together have {limit}")]
    TooLarge {
        /// Prompt and the most to write.
        tokens: usize,
        /// Bytes of state.
        needed: usize,
        /// What there is.
        limit: usize,
    },
    /// An option or the prompt is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A field of the request does not suit the model.
    #[error("{field}: {message}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// The engine finishes what it has and takes nothing new.
    #[error("shutting down: no new requests are taken")]
    Stopping,
}

/// What the engine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences worked on at a time.
    pub slots: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Bytes of state that running sequences may take together.
    pub state_bytes: usize,
    /// Bytes that kept states (of prompts read before) may take beside.
    pub prefix_bytes: usize,
    /// Prompt tokens read at a time, between two steps of the sequences that write.
    pub chunk: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { slots: 64, queue: 256, state_bytes: 4 << 30, prefix_bytes: 1 << 30, chunk: crate::CHUNK }
    }
}

/// Counters and gauges, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Sequences in slots.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Slots there are.
    pub slots: usize,
    /// Bytes of state that running sequences hold.
    pub state_bytes: usize,
    /// Bytes of kept states.
    pub prefix_bytes: usize,
    /// Kept states.
    pub prefix_entries: usize,
    /// Prompts looked up among the kept states.
    pub prefix_lookups: u64,
    /// Prompts of which a beginning was found.
    pub prefix_hits: u64,
    /// Prompt tokens not read because a kept state had read them.
    pub prefix_tokens: u64,
    /// Prompt tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Requests ended by themselves.
    pub completed: u64,
    /// Requests ended by who asked.
    pub cancelled: u64,
    /// Requests ended by an error.
    pub failed: u64,
    /// Requests not taken.
    pub refused: u64,
}
