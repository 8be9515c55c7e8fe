//! What can go wrong between a folder on disk and a model in memory.

use recast_text::TextError;
use std::path::{Path, PathBuf};

use crate::weights::WeightsError;

/// Errors of the models floor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written as weights.
    #[error(transparent)]
    Weights(#[from] crate::weights::WeightsError),
    /// A tokenizer or template could not be carried along.
    #[error(transparent)]
    Text(#[from] recast_text::TextError),
    /// What is wrong with a checkpoint, and with which.
    #[error("{}: {source}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong.
        source: Box<ModelError>,
    },
    /// config.json misses a key, or a key has a value that this program cannot run.
    #[error("config: {0}")]
    Config(String),
    /// No family reads this `model_type`.
    #[error("model_type `{found}` is not known; expected one of {known}")]
    Family {
        /// What config.json says.
        found: String,
        /// The families there are.
        known: String,
    },
    /// No mixer of that name is registered.
    #[error("mixer `{found}` is not known{hint}; registered: {known}")]
    Mixer {
        /// The name asked for.
        found: String,
        /// ` (did you mean ...?)` or nothing.
        hint: String,
        /// All names.
        known: String,
    },
    /// A mixer's options do not parse.
    #[error("options of mixer `{mixer}`: {message}")]
    MixerOptions {
        /// The mixer.
        mixer: String,
        /// serde's message.
        message: String,
    },
    /// A parameter is absent from the checkpoint.
    #[error("tensor `{name}` is missing{hint}")]
    Missing {
        /// Full name.
        name: String,
        /// ` (nearest: ...)` or nothing.
        hint: String,
    },
    /// A parameter has another shape than the config implies.
    #[error("tensor `{name}` has shape {found:?}, the config asks for {expected:?}")]
    Shape {
        /// Full name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape wanted.
        expected: Vec<usize>,
    },
    /// A parameter holds NaN or infinity.
    #[error("tensor `{name}` holds a value that is not finite")]
    NotFinite {
        /// Full name.
        name: String,
    },
    /// A matrix cannot be held in blocks.
    #[error("tensor `{name}`: {source}")]
    Quantise {
        /// Full name.
        name: String,
        /// Why.
        source: recast_ops::quantised::QuantError,
    },
    /// Quantised weights where f32 ones are needed.
    #[error("the model's weights are quantised, which is for inference only; open it as f32 to {purpose}")]
    Quantised {
        /// What was to be done with it.
        purpose: &'static str,
    },
    /// Quantised weights on a device that cannot multiply with them.
    #[error("quantised weights are computed with on the processor only; use --device cpu, or f32 weights")]
    QuantisedDevice,
    /// A token id outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Number of rows of the embedding.
        vocabulary: usize,
    },
    /// Tokens that are not rows of equal length.
    #[error("{tokens} tokens in {batch} rows; expected at least one token a row, and as many in each")]
    Batch {
        /// Number of tokens.
        tokens: usize,
        /// Number of rows.
        batch: usize,
    },
    /// Not one state a row.
    #[error("{states} states for {batch} rows; expected one each")]
    States {
        /// Number of states.
        states: usize,
        /// Number of rows.
        batch: usize,
    },
    /// Document boundaries that do not belong to the tokens, or that a carried state would cross.
    #[error(
        "documents of {found:?} rows and tokens for {expected:?}, with a carried state: {state}; \
             expected the same shape and no state, which cannot cross a packed row"
    )]
    Documents {
        /// Rows and tokens of the documents.
        found: (usize, usize),
        /// Rows and tokens of the call.
        expected: (usize, usize),
        /// Whether a state was given.
        state: bool,
    },
    /// A loss over the vocabulary could not be computed.
    #[error(transparent)]
    Loss(#[from] recast_ops::vocab_loss::VocabLossError),
    /// A next-token model where a diffusion model is needed.
    #[error("this is a next-token model; expected a masked diffusion model (its config.json names a mask token)")]
    NoDiffusion,
    /// A model of uniform noise where one of masks is needed.
    #[error(
        "this model was trained on uniform noise (`uniform` under `diffusion` in its config.json), for which there is \
             no likelihood of a text here; train one with `source = \"mask\"` to score texts"
    )]
    UniformNoise,
    /// More samples than an estimate can be made of.
    #[error("{samples} samples of a likelihood; expected at most {most}, which is more than any estimate needs")]
    Samples {
        /// What was asked for.
        samples: usize,
        /// The most.
        most: usize,
    },
    /// A state that tokens cannot be taken out of.
    #[error("what stands before a block or around it can be kept by attention without a window alone; keep nothing")]
    LeaveOut,
    /// Lengths of rows that do not fit the tokens.
    #[error("lengths {lengths:?} of {batch} rows of {columns} tokens; expected one a row, from 1 to {columns}")]
    Lengths {
        /// What was given.
        lengths: Vec<usize>,
        /// Number of rows.
        batch: usize,
        /// Tokens a row, padding included.
        columns: usize,
    },
    /// Two streams that do not belong together.
    #[error("{clean} clean and {noisy} noisy tokens in blocks of {block}; expected as many of both, and blocks of at least 1")]
    Streams {
        /// Clean tokens.
        clean: usize,
        /// Noisy tokens.
        noisy: usize,
        /// Tokens a block.
        block: usize,
    },
    /// Documents within rows, of which a carried state knows nothing.
    #[error(
        "mixer `{mixer}` carries a state from block to block and cannot stop it at documents within a row; \
             train block diffusion on it with one document a row (`reset_documents = false`)"
    )]
    StreamDocuments {
        /// The mixer.
        mixer: String,
    },
    /// A single file of weights has no tokenizer beside it.
    #[error("{path}: a single file of weights has no tokenizer; name its folder, or a GGUF file")]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// Tokenizer and model do not belong together.
    #[error("{path}: the tokenizer has {tokens} tokens, the model's embedding {rows} rows")]
    Tokenizer {
        /// The checkpoint.
        path: PathBuf,
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

impl ModelError {
    /// The same of the checkpoint at `path`, where its own words name no file.
    pub fn of(self, path: &Path) -> Self {
        match self {
            Self::Checkpoint { .. } | Self::NoTokenizer { .. } | Self::Tokenizer { .. } | Self::Io { .. } => self,
            Self::Weights(WeightsError::NonFinite { .. } | WeightsError::Overflow { .. } | WeightsError::BadTensor { .. }) => {
                Self::Checkpoint { path: path.to_owned(), source: Box::new(self) }
            }
            Self::Weights(_) => self,
            Self::Text(TextError::Io { .. } | TextError::Record { .. } | TextError::File { .. }) => self,
            _ => Self::Checkpoint { path: path.to_owned(), source: Box::new(self) },
        }
    }
}
