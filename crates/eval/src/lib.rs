//! Evaluation: how good a model is, how much of its teacher it kept, and the page that says so.
//!
//! A model is anything that implements [`Scorer`]; this crate knows no model and no tensor.
//! [`tasks`] are data (one TOML file each), [`run()`] asks and [`journal`] remembers, [`metrics`]
//! and [`results`] turn answers into numbers with standard errors and into relative scores,
//! [`table`] prints them, [`report`] makes the page of a run. To add a task, write a TOML file (see [`tasks`]);
//! to add a metric, a variant of [`metrics::MetricKind`]. The tests run against a toy model whose every
//! probability is known; `tasks/fixtures.rs` holds each task to its exact prompts.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod journal;
pub mod metrics;
pub mod report;
pub mod results;
pub mod run;
pub mod scorer;
pub mod table;
pub mod tasks;
pub mod tokenise;
#[cfg(test)]
mod toy;

pub use error::{BoxError, EvalError, Result};
pub use journal::Journal;
pub use results::{Comparison, TaskResult};
pub use run::{Cost, Progress, RunOptions, check, estimate, run};
pub use scorer::{Generated, ModelCard, Prompt, Request, Scored, Scorer};
pub use tasks::{LoadOptions, Loaded, Task};
