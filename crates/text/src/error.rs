//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// What can go wrong between a file of text and a batch of tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: "read", "create", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A tokenizer could not be read, built or trained.
    #[error("tokenizer {origin}: {problem}")]
    Tokenizer {
        /// Where it came from: a path, "GGUF vocabulary", ...
        origin: String,
        /// Expected, found, what to do.
        problem: String,
    },
    /// A text could not be turned into tokens, or tokens into text.
    #[error("tokenizing failed: {0}")]
    Tokenize(String),
    /// A chat template does not parse, or refused the conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// A corpus record is malformed. `record` counts from 1: the line of a JSONL file, the row of
    /// a Parquet file, the document of a binidx pair or of a text file.
    #[error("{path}, record {record}: {problem}")]
    Record {
        /// The file.
        path: PathBuf,
        /// Line, row or document, from 1.
        record: u64,
        /// Expected, found, what to do.
        problem: String,
    },
    /// A whole file is not what its name promises.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// Expected, found, what to do.
        problem: String,
    },
    /// A request that cannot be met with the data at hand.
    #[error("{0}")]
    Request(String),
}

/// Result of this crate.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

impl TextError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), problem: problem.into() }
    }

    pub(crate) fn record(path: &Path, record: u64, problem: impl Into<String>) -> Self {
        Self::Record { path: path.to_path_buf(), record, problem: problem.into() }
    }

    pub(crate) fn tokenizer(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Tokenizer { origin: origin.into(), problem: problem.into() }
    }
}
