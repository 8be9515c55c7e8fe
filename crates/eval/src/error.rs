//! What can go wrong in an evaluation, said so that the reader knows what to do.

use std::path::PathBuf;

/// Whatever a model adapter failed with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file could not be read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done ("cannot read", ...).
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// No task of that name.
    #[error("no task is called `{name}`; known tasks: {known}")]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// All known names, separated by commas.
        known: String,
    },
    /// A task description (TOML) is wrong.
    #[error("task `{task}`: {problem}")]
    Task {
        /// The task's name, or its file when the name could not be read.
        task: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A line of a data file does not fit the task.
    #[error("{}, line {line}: {problem}", path.display())]
    Item {
        /// The data file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What was expected and what was found.
        problem: String,
    },
    /// A setting does not fit the task or the model.
    #[error("{0}")]
    Setting(String),
    /// The model failed.
    #[error("the model `{model}` failed while {action}: {source}")]
    Model {
        /// Name on the model's card.
        model: String,
        /// What it was asked to do.
        action: &'static str,
        /// Its own error.
        source: BoxError,
    },
    /// The model answered, but not with what was asked.
    #[error("the model `{model}` broke the scorer contract: expected {expected}, found {found}")]
    Contract {
        /// Name on the model's card.
        model: String,
        /// What the contract asks.
        expected: String,
        /// What came back.
        found: String,
    },
    /// The journal file is in use or is not a journal.
    #[error("journal {}: {problem}", path.display())]
    Journal {
        /// The journal file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
}

impl EvalError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Result of this crate.
pub type Result<T, E = EvalError> = std::result::Result<T, E>;
