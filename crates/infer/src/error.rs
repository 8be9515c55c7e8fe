//! What can stop a generation.

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
    /// A setting does not fit the model, the text or another setting.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it may be, and what to do.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A text with holes does not fit the model that is to fill them.
    #[error("{what}: expected {expected}, found {found}")]
    Canvas {
        /// What of it.
        what: &'static str,
        /// What it may be, and what to do.
        expected: String,
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
    /// A saved state cannot be written, read or used.
    #[error("{path}: {reason}", path = path.display())]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// A text of the form asked for cannot be written.
    #[error("constrained output: {0}")]
    Constraint(String),
    /// A step of several sequences failed.
    #[error("{0}")]
    Step(String),
    /// A panic inside the engine, reported where it happened.
    #[error("an error inside the engine ended every request that ran or waited; its log says which")]
    Panicked,
    /// The system gave no thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(String),
}
