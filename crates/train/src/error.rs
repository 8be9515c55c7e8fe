//! What can stop a run.

use std::path::{Path, PathBuf};

/// Errors of the training floor.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A model could not be loaded, built or written.
    #[error(transparent)]
    Model(#[from] recast_models::ModelError),
    /// Weights could not be read or written.
    #[error(transparent)]
    Weights(#[from] recast_models::weights::WeightsError),
    /// Text could not be read, tokenised or packed.
    #[error(transparent)]
    Text(#[from] recast_text::TextError),
    /// A loss over the vocabulary could not be computed.
    #[error(transparent)]
    Loss(#[from] recast_ops::vocab_loss::VocabLossError),
    /// The recipe asks for something impossible.
    #[error("recipe: {0}")]
    Recipe(String),
    /// The loss, on held-out text too, or the gradient is NaN or infinite.
    #[error("stage `{stage}`, step {step}: the {what} is {value}; {}", onward(checkpoint.as_deref(), run, stage))]
    NotFinite {
        /// Name of the stage.
        stage: String,
        /// Step in the stage.
        step: u64,
        /// `loss`, `gradient norm` or `held-out loss`.
        what: &'static str,
        /// What it was.
        value: f64,
        /// Where to go on from, if anything was saved.
        checkpoint: Option<PathBuf>,
        /// The run's folder.
        run: PathBuf,
    },
    /// The teacher's loss on held-out text is NaN or infinite.
    #[error(
        "{path}: the teacher's loss on held-out text is {value}, so there is nothing to learn from it: its config.json or its \
         weights are not what they should be; fetch it again, or name another one in teacher.path"
    )]
    Teacher {
        /// Where it lies.
        path: PathBuf,
        /// What it was.
        value: f64,
    },
    /// The folder to resume is no run, or another one.
    #[error("{path}: {message}")]
    Resume {
        /// The run's folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The observer asked to stop (a signal): state is saved.
    #[error("stopped at stage `{stage}`, step {step}; go on with `convert --resume {path}`")]
    Stopped {
        /// Name of the stage.
        stage: String,
        /// Steps done in it.
        step: u64,
        /// The run's folder.
        path: PathBuf,
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

/// How a stage that came to no number goes on.
fn onward(checkpoint: Option<&Path>, run: &Path, stage: &str) -> String {
    let again =
        format!("with a lower rate or clip, as in `convert --resume {} --set stages.{stage}.learning_rate=...`", run.display());
    match checkpoint {
        Some(place) => format!(
            "the last checkpoint ({}) is intact: go on {again} (or from the checkpoint before it, if you delete that one)",
            place.display()
        ),
        None => format!("there is no checkpoint yet: start over {again}"),
    }
}

impl TrainError {
    /// It, with the name of the stage that asked for what cannot be had.
    pub(crate) fn of_stage(self, stage: &str) -> Self {
        let what = match self {
            Self::Recipe(what) => what,
            other => other.to_string(),
        };
        Self::Recipe(format!("stage `{stage}`: {what}"))
    }

    /// Adapter for file operations on `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
