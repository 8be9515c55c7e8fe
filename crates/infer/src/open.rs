//! Opening a model together with the tokenizer that belongs to it.

use crate::error::InferError;
use burn::tensor::Device;
use recast_models::weights::{self as files, Checkpoint};
use recast_models::{Model, Weights, families, tokenizer};
use recast_text::Tokenizer;
use std::path::Path;

/// A model ready to run.
pub struct Loaded {
    /// The opened files.
    pub checkpoint: Box<dyn Checkpoint>,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// Opens a Hugging Face folder or a GGUF file.
///
/// # Errors
/// When files, config or a tensor cannot be used, when there is no tokenizer, or when it has more
/// tokens than the model.
pub fn open(path: &Path, device: &Device) -> Result<Loaded, InferError> {
    open_with(path, Weights::F32, device)
}

/// [`open`], with matrices held as asked for.
///
/// # Errors
/// As [`open`], and when quantised weights are wanted on another device than the processor.
pub fn open_with(path: &Path, weights: Weights, device: &Device) -> Result<Loaded, InferError> {
    let checkpoint = files::open(path)?;
    let config = families::read(checkpoint.as_ref())?;
    // Before the weights, which take longer to read.
    let tokenizer = tokenizer(checkpoint.as_ref(), config.vocabulary)?;
    let model = Model::load(checkpoint.as_ref(), weights, device)?;
    Ok(Loaded { checkpoint, model, tokenizer })
}
