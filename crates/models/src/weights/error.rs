//! Everything that can go wrong with a file of weights.

use std::path::PathBuf;

use super::Dtype;

/// Why weights could not be read or written.
///
/// Each message says what was expected, what was found and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The disk is full. What stood at the target before is untouched.
    #[error(
        "{}: the disk is full: {needed} bytes are needed there and do not fit; nothing was replaced; \
         free some space or write to another disk", path.display()
    )]
    StorageFull {
        /// The file or folder that was asked for.
        path: PathBuf,
        /// Bytes the whole file or folder takes.
        needed: u64,
    },
    /// The path is not a kind of checkpoint this program reads.
    #[error("{}: not a checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// The path that was opened.
        path: PathBuf,
        /// What was found, and what would have been accepted.
        reason: String,
    },
    /// The folder that would be replaced does not look like a model.
    #[error("{}: will not be replaced: {reason}; choose another folder or move it away", path.display())]
    WillNotReplace {
        /// The target folder.
        path: PathBuf,
        /// What was found in it.
        reason: String,
    },
    /// The file ends before what its header promises.
    #[error(
        "{}: truncated: {what} needs {needed} bytes and {available} are there; fetch the file again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part that does not fit.
        what: String,
        /// Bytes that part needs.
        needed: u64,
        /// Bytes the file has for it.
        available: u64,
    },
    /// The file contradicts its own format.
    #[error("{}: malformed: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// A number in the header is larger than any real file's.
    #[error("{}: {what} is {found}; at most {limit} is accepted", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// Two tensors have one name.
    #[error("{}: tensor \"{name}\" is there twice (also in {}); remove one", path.display(), other.display())]
    Duplicate {
        /// The tensor.
        name: String,
        /// The file it was met in.
        path: PathBuf,
        /// The file it was met in before, maybe the same.
        other: PathBuf,
    },
    /// The index names a shard that is not in the folder.
    #[error(
        "{}: names shard \"{shard}\", which is not in the folder; {tensors} tensors are in it; \
         fetch the missing file", index.display()
    )]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
        /// How many tensors the index puts there.
        tensors: usize,
    },
    /// No tensor has this name.
    #[error("{}: no tensor \"{name}\"{}", path.display(), nearest.as_ref().map(|n| format!("; the nearest name is \"{n}\"")).unwrap_or_default())]
    Missing {
        /// The checkpoint.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The most similar name present.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("{}: tensor \"{name}\" has shape {found:?}, expected {expected:?}; config.json and weights must belong together", path.display())]
    Shape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// The elements are of a kind that is not read.
    #[error("{}: tensor \"{name}\" is stored as {found}, which is not supported; {advice}", path.display())]
    UnsupportedKind {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The kind found.
        found: String,
        /// What is supported.
        advice: &'static str,
    },
    /// The checkpoint is whole, but of a sort this program has no reader for.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The checkpoint.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// A tensor holds NaN or infinity.
    #[error(
        "tensor \"{name}\": element {index} is {value}, and {count} of {total} elements are not finite; the weights are damaged or the training diverged"
    )]
    NonFinite {
        /// The tensor.
        name: String,
        /// First element that is not finite, counted row by row.
        index: usize,
        /// Its value.
        value: f32,
        /// How many are not finite.
        count: usize,
        /// Elements in the tensor.
        total: usize,
    },
    /// A finite value would become infinite in the dtype asked for.
    #[error("tensor \"{name}\": element {index} is {value}, beyond the range of {dtype}; write it as bf16 or f32")]
    Overflow {
        /// The tensor.
        name: String,
        /// First element that does not fit.
        index: usize,
        /// Its value.
        value: f32,
        /// The dtype asked for.
        dtype: Dtype,
    },
    /// A tensor given to a writer does not agree with its own description.
    #[error("tensor \"{name}\": {what}")]
    BadTensor {
        /// The tensor.
        name: String,
        /// What was expected and what was given.
        what: String,
    },
    /// There is no config.json beside the weights.
    #[error("{}: no config.json; open a folder that has one", path.display())]
    NoConfig {
        /// Where it was looked for.
        path: PathBuf,
    },
}

impl WeightsError {
    /// Wraps an operating-system error; meant for `map_err`.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
