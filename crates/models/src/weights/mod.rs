//! Weights on disk: what a checkpoint holds, read from safetensors and GGUF, and how a model is
//! written.
//!
//! [`open`] takes a Hugging Face folder, one `.safetensors` file or one `.gguf` file and gives a
//! [`Checkpoint`]: tensors under their Hugging Face names, `config.json` and, from GGUF, the
//! vocabulary. Files are memory-mapped and checked whole at opening, so that reading a tensor later
//! cannot run out of the file. [`ModelWriter`] and [`write_safetensors`] put files beside their
//! place and rename them into it.
//!
//! To add a format: a file here that implements [`Checkpoint`], and a branch in [`open`]. To add a
//! GGUF architecture: `gguf/names.rs` and `gguf/config.rs`; a quantisation: [`Dtype`],
//! `gguf/header.rs` and `gguf/dequantize.rs`.
//!
//! Held to its promise by `tests/weights_formats.rs` (reading), `tests/weights_gguf.rs` (GGUF,
//! against golden values), `tests/weights_write.rs` (writing) and `tests/weights_hostile.rs` (ten
//! thousand damaged files: an error, never a panic, never a large allocation).

mod convert;
mod dtype;
mod error;
mod folder;
pub mod gguf;
mod mapped;
mod safetensors;
mod write;

use std::borrow::Cow;
use std::path::Path;

pub use dtype::{Dtype, TensorInfo};
pub use error::WeightsError;
pub use gguf::GgufVocab;
pub use write::{ModelWriter, NamedTensor, TensorData, Written, write_safetensors};

/// Named tensors and the configuration they belong to, in a file or a folder.
///
/// Tensors have Hugging Face names and layouts whatever the file's own are. Those of kinds that are
/// never weights (integers, booleans) or are not read are left out of [`Checkpoint::infos`]; asking
/// for one by name says why.
pub trait Checkpoint: Send + Sync {
    /// What was opened.
    fn path(&self) -> &Path;

    /// All tensors, in a fixed order: file by file, in the order of their bytes.
    fn infos(&self) -> Vec<TensorInfo>;

    /// One tensor's shape and storage.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// One tensor's values, row by row.
    ///
    /// # Errors
    /// [`WeightsError::Missing`] with the nearest name, [`WeightsError::UnsupportedKind`].
    fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError>;

    /// One tensor's bytes as stored, little-endian. `None` if there is no such tensor, and always
    /// `None` from GGUF, whose bytes are not in the Hugging Face layout.
    fn raw(&self, name: &str) -> Option<(Dtype, &[u8])>;

    /// The blocks of a tensor that is stored quantised, row by row, in the Hugging Face layout. `None`
    /// if there is no such tensor, or it is not quantised.
    fn blocks(&self, _name: &str) -> Option<(Dtype, Cow<'_, [u8]>)> {
        None
    }

    /// `config.json` of the folder, or the one that follows from GGUF's metadata. Always an object.
    ///
    /// # Errors
    /// [`WeightsError::NoConfig`], [`WeightsError::Malformed`], or what was missing in the metadata.
    fn config(&self) -> Result<serde_json::Value, WeightsError>;

    /// The folder with the tokenizer and the other files; `None` from GGUF, which carries its own.
    fn folder(&self) -> Option<&Path>;

    /// The vocabulary inside a GGUF file.
    fn gguf_vocab(&self) -> Option<GgufVocab>;

    /// [`Checkpoint::read_f32`], after a look at the shape.
    ///
    /// # Errors
    /// Those of `read_f32`, and [`WeightsError::Shape`].
    fn read_shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        match self.info(name) {
            Some(info) if info.shape != shape => Err(WeightsError::Shape {
                path: self.path().to_owned(),
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape,
            }),
            // An absent one too: read_f32 knows why it is absent.
            _ => self.read_f32(name),
        }
    }
}

/// Opens a checkpoint: a folder with `model.safetensors`, with `model.safetensors.index.json` and
/// its shards, or with exactly one `.gguf`; or one `.safetensors` or `.gguf` file.
///
/// Every offset in every header is checked here against the length of its file. The files must not
/// be changed in place while the checkpoint is open (replacing them by a rename is fine).
///
/// # Errors
/// Any reading error of [`WeightsError`].
pub fn open(path: &Path) -> Result<Box<dyn Checkpoint>, WeightsError> {
    if path.as_os_str().is_empty() {
        let reason = "expected the path of a folder or a file of weights".into();
        return Err(WeightsError::NotACheckpoint { path: "(an empty path)".into(), reason });
    }
    let metadata = std::fs::metadata(path).map_err(WeightsError::io(path, "open it"))?;
    if metadata.is_dir() {
        return folder::open(path).map(crate::families::llada::rename);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some(e) if e.eq_ignore_ascii_case("safetensors") => Ok(Box::new(safetensors::SafetensorsCheckpoint::open_file(path)?)),
        Some(e) if e.eq_ignore_ascii_case("gguf") => Ok(Box::new(gguf::GgufCheckpoint::open(path)?)),
        _ => Err(WeightsError::NotACheckpoint {
            path: path.to_owned(),
            reason: "expected a folder with model.safetensors, a .safetensors file or a .gguf file".into(),
        }),
    }
}

/// Refuses NaN and infinity.
///
/// # Errors
/// [`WeightsError::NonFinite`] with the first place and the count.
pub fn check_finite(name: &str, values: &[f32]) -> Result<(), WeightsError> {
    use rayon::prelude::*;
    let count_in = |part: &[f32]| part.iter().filter(|v| !v.is_finite()).count();
    let count = if values.len() <= 1 << 16 { count_in(values) } else { values.par_chunks(1 << 16).map(count_in).sum() };
    match values.iter().position(|v| count > 0 && !v.is_finite()) {
        Some(index) => {
            Err(WeightsError::NonFinite { name: name.to_owned(), index, value: values[index], count, total: values.len() })
        }
        None => Ok(()),
    }
}

/// The error for a name that is not there. Looks for a similar one, in at most 20,000 names.
pub(crate) fn missing<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> WeightsError {
    let nearest = names
        .take(20_000)
        .map(|n| (strsim::jaro_winkler(name, n), n))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, n)| n.to_owned());
    WeightsError::Missing { path: path.to_owned(), name: name.to_owned(), nearest }
}

/// Longest tensor name accepted, in bytes.
pub(crate) const MAX_NAME: usize = 1024;
