//! What can stop a generation.

use std::path::PathBuf;

/// Errors of the inference floor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The model could not be read or run.
    #[error(transparent)]
    Model(#[from] recast_models::ModelError),
    /// The weights could not be read.
    #[error(transparent)]
    Weights(#[from] recast_models::weights::WeightsError),
    /// The tokenizer could not be read or used.
    #[error(transparent)]
    Text(#[from] recast_text::TextError),
    /// An option has a value outside its range.
    #[error("{name}: expected {expected}, found {found}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty: expected at least one token to continue from")]
    EmptyPrompt,
    /// The model computed NaN, or infinity where it may not.
    #[error("the logits after {position} tokens hold a NaN or no finite value; check the weights")]
    NotFinite {
        /// Tokens read before.
        position: usize,
    },
    /// Weights without a tokenizer.
    #[error("{}: a single file of weights has no tokenizer; name the folder it lies in", path.display())]
    NoTokenizer {
        /// What was opened.
        path: PathBuf,
    },
    /// Tokenizer and model do not belong together.
    #[error(
        "{}: the tokenizer has {tokens} tokens and the embedding {rows} rows; tokenizer.json belongs to another model",
        path.display()
    )]
    Tokenizer {
        /// What was opened.
        path: PathBuf,
        /// Size of the tokenizer's vocabulary.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}
