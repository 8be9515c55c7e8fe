//! The inference floor: a model and a tokenizer in, text out.
//!
//! [`open`](open()) reads both from a folder or a GGUF file. [`Generator`] reads a prompt in
//! chunks with a carried state and then writes token by token, whatever the mixers are;
//! [`engine`] does it for many requests at a time;
//! [`samplers`] holds the ways to choose tokens and the [`Event`]s that they report, [`stop`] the
//! end of a text, [`speed`] the measurement of decoding. To add a sampler see `samplers/`.
//! `tests/generate.rs` holds generation to the full forward pass, `tests/teacher.rs`, where it is asked for, a
//! real teacher to numbers from an independent implementation.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod engine;
mod error;
mod generate;
mod open;
pub mod samplers;
mod snapshot;
pub mod speed;
pub mod stop;

pub use engine::Engine;
pub use error::InferError;
pub use generate::{CHUNK, Generation, Generator, Options, prefill};
pub use open::{Loaded, open, open_with};
pub use samplers::{Event, Finish, Sampling};
pub use snapshot::Snapshot;
