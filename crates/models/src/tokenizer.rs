//! The tokenizer that belongs to a checkpoint.

use crate::error::ModelError;
use crate::weights::Checkpoint;
use recast_text::Tokenizer;

/// The tokenizer of a checkpoint: inside its GGUF file, or of its folder.
///
/// # Errors
/// When there is none, it cannot be used, or it has more tokens than `vocabulary`.
pub fn tokenizer(checkpoint: &dyn Checkpoint, vocabulary: usize) -> Result<Tokenizer, ModelError> {
    let tokenizer = match (checkpoint.gguf_vocab(), checkpoint.folder()) {
        (Some(vocab), _) => {
            let path = checkpoint.path();
            Tokenizer::from_gguf(vocab).map_err(|error| ModelError::from(error).of(path))?.read_from(path)
        }
        (None, Some(folder)) => Tokenizer::from_dir(folder)?,
        (None, None) => return Err(ModelError::NoTokenizer { path: checkpoint.path().to_owned() }),
    };
    match tokenizer.vocab_size() {
        tokens if tokens > vocabulary => {
            Err(ModelError::Tokenizer { path: checkpoint.path().to_owned(), tokens, rows: vocabulary })
        }
        _ => Ok(tokenizer),
    }
}
