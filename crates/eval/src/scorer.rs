//! The one interface between an evaluation and a model.
//!
//! The three request kinds of lm-evaluation-harness need two model calls: the log-probability of
//! given tokens after given tokens (a choice, a last word, a window of a document are all this),
//! and greedy text until a stop string. Everything else (prompts, windows, truncation, metrics)
//! happens on this side, the same for every model.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::BoxError;
use crate::tasks::Task;

/// What the harness has to know about a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Name for people.
    pub name: String,
    /// Identifies weights, precision and tokenizer: results are reused only under an equal hash.
    pub hash: String,
    /// The token that stands before a text with no context: bos where the model has one, else
    /// end-of-text.
    pub prefix_token: u32,
    /// Whether the model wants `prefix_token` in front of every context, not only an empty one.
    pub add_bos: bool,
    /// The most input tokens a call may carry.
    pub max_context: usize,
    /// The tokens that end a text which the model writes, in rising order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub end_tokens: Vec<u32>,
    /// How answers are estimated, where they are estimated; of a result the part that its task uses, stated beside every
    /// score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<String>,
}

/// "How likely is `continuation` after `context`?"
///
/// The harness sees to it that neither is empty and that
/// `context.len() + continuation.len() - 1 <= max_context` (the last token is never an input).
/// The requests of one item stand side by side and share an equal context where the task does, so
/// an adapter can run the context once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Tokens read before; at least one.
    pub context: Arc<[u32]>,
    /// Tokens scored; at least one.
    pub continuation: Arc<[u32]>,
    /// Whether [`Scored::greedy`] is wanted, which costs some models passes of its own.
    pub greedy: bool,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `ln p` of each continuation token given everything before it; same length as the
    /// continuation, finite, not above 0.
    pub logprobs: Vec<f32>,
    /// Whether every continuation token was the most likely one; anything where it was not asked for.
    pub greedy: bool,
}

/// "Write on, greedily."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens read before; at least one, and `tokens.len() + max_tokens <= max_context`.
    pub tokens: Vec<u32>,
    /// Stop at the first occurrence of any of these; the harness cuts the text there.
    pub until: Vec<String>,
    /// The most tokens to write.
    pub max_tokens: usize,
}

/// The answer to a [`Prompt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The text written, special tokens left out; it may run past the stop string.
    pub text: String,
    /// Tokens written.
    pub tokens: usize,
}

/// A model that can be evaluated. Answers come in the order of the questions.
pub trait Scorer {
    /// The model's card; the same at every call.
    fn describe(&self) -> &ModelCard;

    /// What of [`ModelCard::estimate`] the answers to a task depend on.
    fn estimate(&self, _task: &Task) -> Option<String> {
        self.describe().estimate.clone()
    }

    /// Token ids of a text. No bos, no eos added; special tokens written in the text
    /// (`<|im_start|>`) become their ids.
    ///
    /// # Errors
    /// The tokenizer's own.
    fn encode(&self, text: &str) -> Result<Vec<u32>, BoxError>;

    /// Scores every request independently: no state passes from one to the next.
    ///
    /// # Errors
    /// The model's own.
    fn loglikelihood(&mut self, requests: &[Request]) -> Result<Vec<Scored>, BoxError>;

    /// Continues every prompt greedily, each on its own.
    ///
    /// # Errors
    /// The model's own.
    fn greedy_until(&mut self, prompts: &[Prompt]) -> Result<Vec<Generated>, BoxError>;
}
