//! GGUF, the file of llama.cpp: read with Hugging Face's names, layouts and config.
//!
//! `reader.rs` is the cursor that never leaves the file, `header.rs` the head of the file,
//! `dequantize.rs` and `k_quants.rs` the block quantisations, `names.rs` the architectures' tensor
//! names, `config.rs` and `rope.rs` the synthesised config.json, `vocab.rs` the tokenizer's data. A
//! new architecture is a variant of `Architecture` in `names.rs`; a new quantisation a variant of
//! [`Dtype`](super::Dtype), its number in `header.rs`, and a block function. `tests/weights_gguf.rs`
//! holds all of it to values that the `gguf` Python package computed.

mod config;
mod dequantize;
mod header;
mod k_quants;
mod names;
mod reader;
mod rope;
mod vocab;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

pub use dequantize::dequantize;
pub use vocab::GgufVocab;

use self::config::{Keys, Sizes};
use self::header::Header;
use self::names::Architecture;
use super::mapped::MappedFile;
use super::{Checkpoint, Dtype, TensorInfo, WeightsError, missing};

/// An opened GGUF file of a known architecture.
#[derive(Debug)]
pub(crate) struct GgufCheckpoint {
    file: MappedFile,
    header: Header,
    architecture: Architecture,
    sizes: Sizes,
    vocab: Option<GgufVocab>,
    /// Hugging Face names with the place in `header.tensors`, in the order of the file.
    entries: Vec<(String, usize)>,
    by_name: HashMap<String, usize>,
}

impl GgufCheckpoint {
    /// Maps and checks a file.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(&file)?;
        if header.unsigned(&file, "split.count")?.unwrap_or(1) > 1 {
            return Err(WeightsError::Unsupported {
                path: path.to_owned(),
                what: "GGUF split over several files".into(),
                advice: "merge it with llama-gguf-split --merge",
            });
        }
        let architecture = Architecture::of(&file, &header)?;
        let sizes = Keys { file: &file, header: &header, architecture }.sizes()?;
        let vocab = vocab::vocab(&file, &header)?;

        let mut entries = Vec::new();
        let mut by_name = HashMap::new();
        for (i, tensor) in header.tensors.iter().enumerate() {
            let Some(name) = names::hugging_face_name(&tensor.name) else {
                continue;
            };
            if by_name.insert(name.clone(), i).is_some() {
                return Err(WeightsError::Duplicate { name, path: path.to_owned(), other: path.to_owned() });
            }
            if let Some(heads) = names::interleaved_heads(architecture, &name, sizes.heads, sizes.kv_heads)
                && tensor.shape.first() != Some(&(heads * sizes.head_dim))
            {
                return Err(file.malformed(format!(
                    "tensor \"{}\" has shape {:?}; {heads} heads of {} need as many rows",
                    tensor.name, tensor.shape, sizes.head_dim
                )));
            }
            entries.push((name, i));
        }
        if sizes.head_dim % 2 != 0 {
            return Err(file.malformed(format!("heads of {} elements cannot be rotated in pairs", sizes.head_dim)));
        }
        Ok(Self { file, header, architecture, sizes, vocab, entries, by_name })
    }

    fn keys(&self) -> Keys<'_> {
        Keys { file: &self.file, header: &self.header, architecture: self.architecture }
    }

    /// Heads whose rows the file has interleaved.
    fn interleaved_heads(&self, name: &str) -> Option<usize> {
        names::interleaved_heads(self.architecture, name, self.sizes.heads, self.sizes.kv_heads)
    }

    fn info_of(&self, name: &str, tensor: usize) -> TensorInfo {
        let tensor = &self.header.tensors[tensor];
        TensorInfo { name: name.to_owned(), shape: tensor.shape.clone(), dtype: tensor.dtype }
    }
}

impl Checkpoint for GgufCheckpoint {
    fn path(&self) -> &Path {
        &self.file.path
    }

    fn infos(&self) -> Vec<TensorInfo> {
        self.entries.iter().map(|(name, i)| self.info_of(name, *i)).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.by_name.get(name).map(|i| self.info_of(name, *i))
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let Some(&i) = self.by_name.get(name) else {
            return Err(missing(&self.file.path, name, self.entries.iter().map(|(name, _)| name.as_str())));
        };
        let tensor = &self.header.tensors[i];
        let elements = super::dtype::elements_of(&tensor.shape).expect("checked at opening");
        let mut values = vec![0f32; elements];
        dequantize(tensor.dtype, &self.file.bytes()[tensor.range.clone()], &mut values)?;
        match self.interleaved_heads(name) {
            // Opening has checked that there are heads * head_dim rows, so this divides.
            Some(heads) if elements > 0 => {
                let width = elements / (heads * self.sizes.head_dim);
                Ok(names::undo_interleave(&values, heads, width))
            }
            _ => Ok(values),
        }
    }

    fn raw(&self, _name: &str) -> Option<(Dtype, &[u8])> {
        None
    }

    fn blocks(&self, name: &str) -> Option<(Dtype, Cow<'_, [u8]>)> {
        let tensor = &self.header.tensors[*self.by_name.get(name)?];
        if !tensor.dtype.is_quantised() {
            return None;
        }
        let bytes = &self.file.bytes()[tensor.range.clone()];
        let bytes = match self.interleaved_heads(name) {
            // Blocks divide rows, so whole rows of them change places.
            Some(heads) if !bytes.is_empty() => {
                let width = bytes.len() / (heads * self.sizes.head_dim);
                Cow::Owned(names::undo_interleave(bytes, heads, width))
            }
            _ => Cow::Borrowed(bytes),
        };
        Some((tensor.dtype, bytes))
    }

    fn config(&self) -> Result<serde_json::Value, WeightsError> {
        config::config(&self.keys(), self.vocab.as_ref())
    }

    fn folder(&self) -> Option<&Path> {
        None
    }

    fn gguf_vocab(&self) -> Option<GgufVocab> {
        self.vocab.clone()
    }
}
