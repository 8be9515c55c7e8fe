//! Samplers: how tokens are chosen. One file a sampler.
//!
//! [`autoregressive`] chooses the next token from its logits, [`constraint`] says which may be chosen;
//! [`denoising`] fixes tokens in any order. All report the same [`Event`]s, so that one command
//! line, one server and one viewer serve them. `tests/generate.rs` and `tests/denoising.rs` hold
//! each to its promise: the same seed gives the same text.

pub mod autoregressive;
pub mod constraint;
pub mod denoising;

pub use autoregressive::Sampling;

use serde::{Deserialize, Serialize};

/// What a sampler reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token has its final value.
    Fixed {
        /// Its place after the prompt, from 0.
        index: usize,
        /// The token.
        token: u32,
        /// Its log-probability (nats) under the model, before temperature and truncation.
        log_probability: f32,
        /// The likeliest tokens at its place with theirs, likeliest first; as many as were asked for.
        alternatives: Vec<(u32, f32)>,
    },
    /// Text that is ready to be shown: whole characters, no part of a stop string. The texts of a
    /// generation, joined, are its result.
    Text(String),
    /// A denoising sampler took a step: positions were committed, revised, or predicted only. What
    /// is final comes as [`Event::Fixed`] too, in the order of the text.
    Step(denoising::Step),
    /// Nothing follows.
    Done(Finish),
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model wrote this end token.
    EndToken(u32),
    /// The text came to this stop string.
    StopString(String),
    /// The text has the form that was asked for, and nothing may follow.
    Complete,
    /// As many tokens as were asked for.
    Length,
    /// Whoever listens said so.
    Cancelled,
}
