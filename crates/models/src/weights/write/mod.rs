//! Writing models and single files of tensors.
//!
//! Everything is written beside its place and renamed into it (`place.rs`), so that a reader, a
//! crash or a full disk never meets half of it. The bytes depend on the tensors alone, not on the
//! order they were given in (`file.rs`).
//!
//! `tests/weights_write.rs` holds this to its promise.

mod file;
mod order;
mod place;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use self::file::{NonFinite, Plan};
use super::folder::{INDEX, SINGLE};
use super::{Checkpoint, Dtype, TensorInfo, WeightsError};

/// Default size of a shard, in bytes.
const MAX_SHARD: u64 = 5_000_000_000;

/// A tensor to write.
pub struct NamedTensor<'a> {
    /// Name, shape, and the dtype it is written in (a plain one).
    pub info: TensorInfo,
    /// Its values.
    pub data: TensorData<'a>,
}

/// Where a tensor's values come from.
pub enum TensorData<'a> {
    /// Bytes as they are to stand in the file, little-endian. They are not looked at.
    Raw(Cow<'a, [u8]>),
    /// Values, row by row, to be rounded to the dtype: to nearest, ties to even.
    F32(Cow<'a, [f32]>),
    /// As `F32`, computed when the tensor's turn has come and dropped after: a model that does not
    /// fit into memory can be written this way.
    Lazy(Box<dyn Fn() -> Result<Vec<f32>, WeightsError> + Send + Sync + 'a>),
}

impl<'a> NamedTensor<'a> {
    /// From bytes.
    pub fn raw(name: impl Into<String>, shape: &[usize], dtype: Dtype, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { info: info(name, shape, dtype), data: TensorData::Raw(bytes.into()) }
    }

    /// From values.
    pub fn f32(name: impl Into<String>, shape: &[usize], dtype: Dtype, values: impl Into<Cow<'a, [f32]>>) -> Self {
        Self { info: info(name, shape, dtype), data: TensorData::F32(values.into()) }
    }

    /// From a function that gives the values.
    pub fn lazy(
        name: impl Into<String>,
        shape: &[usize],
        dtype: Dtype,
        values: impl Fn() -> Result<Vec<f32>, WeightsError> + Send + Sync + 'a,
    ) -> Self {
        Self { info: info(name, shape, dtype), data: TensorData::Lazy(Box::new(values)) }
    }

    /// From a checkpoint: the same bytes if it stores `dtype`, else rounded. `None` for `dtype`
    /// keeps the checkpoint's, or takes f32 where that one is quantised.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_f32`], if the name is not there.
    pub fn copied(checkpoint: &'a dyn Checkpoint, name: &str, dtype: Option<Dtype>) -> Result<Self, WeightsError> {
        let Some(stored) = checkpoint.info(name) else {
            return Err(checkpoint.read_f32(name).err().unwrap_or_else(|| bad(name, "has values and no shape")));
        };
        let dtype = dtype.unwrap_or(if stored.dtype.is_plain() { stored.dtype } else { Dtype::F32 });
        match checkpoint.raw(name) {
            Some((same, bytes)) if same == dtype => Ok(Self::raw(name, &stored.shape, dtype, bytes)),
            _ => {
                let owned = name.to_owned();
                Ok(Self::lazy(name, &stored.shape, dtype, move || checkpoint.read_f32(&owned)))
            }
        }
    }
}

fn info(name: impl Into<String>, shape: &[usize], dtype: Dtype) -> TensorInfo {
    TensorInfo { name: name.into(), shape: shape.to_vec(), dtype }
}

fn bad(name: &str, what: impl Into<String>) -> WeightsError {
    WeightsError::BadTensor { name: name.to_owned(), what: what.into() }
}

/// Writes one safetensors file, atomically: `path` is either what it was or complete.
///
/// Values may be NaN or infinite (logits are). The same tensors and metadata give the same bytes,
/// in whatever order they come.
///
/// # Errors
/// [`WeightsError::StorageFull`], [`WeightsError::Io`], [`WeightsError::BadTensor`],
/// [`WeightsError::Duplicate`], [`WeightsError::Overflow`], and what a lazy tensor gives.
pub fn write_safetensors(
    path: &Path,
    tensors: Vec<NamedTensor<'_>>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let path = place::resolve_file(path)?;
    let plan = Plan::new(&path, tensors, metadata)?;
    let needed = plan.total_bytes();
    let mut temporary = place::temporary_file(&path)?;
    plan.write(temporary.as_file_mut(), NonFinite::Keep)
        .map_err(|e| e.at(&path, needed))
        .and_then(|()| place::sync(temporary.as_file(), &path, needed))?;
    place::persist_file(temporary, &path)
}

/// What [`ModelWriter::finish`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The folder.
    pub folder: PathBuf,
    /// Names of the files with weights, in order.
    pub weights: Vec<String>,
    /// Bytes of all tensors, without headers.
    pub tensor_bytes: u64,
}

/// Writes a Hugging Face folder, atomically.
///
/// Files and tensors gather in a hidden sibling of the target, which takes the target's place in
/// [`ModelWriter::finish`]; a model that was there is removed after that. Dropped before, the
/// writer removes the sibling. Only an empty folder or one that looks like a model (config.json,
/// no folders inside, no file beside the weights that the new model has not) is ever replaced.
///
/// If the process is killed, the sibling `.NAME.XXXXXX.tmp` stays and can be deleted.
pub struct ModelWriter<'a> {
    target: PathBuf,
    temporary: TempDir,
    max_shard: u64,
    tensors: Vec<NamedTensor<'a>>,
    /// Names of the other files, and their bytes.
    others: Vec<String>,
    other_bytes: u64,
}

impl<'a> ModelWriter<'a> {
    /// Begins a model at `target`. Missing parent folders are made.
    ///
    /// # Errors
    /// [`WeightsError::WillNotReplace`], [`WeightsError::Io`].
    pub fn create(target: &Path) -> Result<Self, WeightsError> {
        let target = place::resolve_folder(target)?;
        place::check_replaceable(&target, None)?;
        let temporary = place::temporary_folder(&target)?;
        Ok(Self { target, temporary, max_shard: MAX_SHARD, tensors: Vec::new(), others: Vec::new(), other_bytes: 0 })
    }

    /// Whether a model with these files beside its weights will be put at `target`, as far as what stands there goes: for
    /// a look before the work whose end it is.
    ///
    /// # Errors
    /// [`WeightsError::WillNotReplace`], [`WeightsError::Io`].
    pub fn check(target: &Path, others: &[String]) -> Result<(), WeightsError> {
        place::check_replaceable(&place::resolve_folder(target)?, Some(others))
    }

    /// Sets the size above which weights go into several files. A tensor is never divided, so a
    /// larger one has a larger file to itself.
    #[must_use]
    pub fn max_shard_bytes(mut self, bytes: u64) -> Self {
        self.max_shard = bytes;
        self
    }

    /// Adds a tensor. It is read and written in [`ModelWriter::finish`].
    pub fn add(&mut self, tensor: NamedTensor<'a>) {
        self.tensors.push(tensor);
    }

    /// Writes a JSON file such as config.json, indented, with its keys in the order given.
    ///
    /// # Errors
    /// [`WeightsError::StorageFull`], [`WeightsError::Io`], [`WeightsError::BadTensor`] for a name
    /// that is a path or belongs to the weights.
    pub fn write_json(&mut self, name: &str, value: &Value) -> Result<(), WeightsError> {
        let mut text = serde_json::to_vec_pretty(value).expect("a JSON value always has a text");
        text.push(b'\n');
        self.write_bytes(name, &text)
    }

    /// Writes any other file, such as README.md.
    ///
    /// # Errors
    /// As [`ModelWriter::write_json`].
    pub fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
        if !plain || place::is_of_weights(name) {
            return Err(bad(name, "expected a file name without a path, and not one of the weights' own"));
        }
        self.others.push(name.to_owned());
        self.other_bytes += bytes.len() as u64;
        self.put(name, bytes, self.other_bytes)
    }

    /// Copies a file, such as tokenizer.json, under its own name.
    ///
    /// # Errors
    /// As [`ModelWriter::write_json`].
    pub fn copy_file(&mut self, from: &Path) -> Result<(), WeightsError> {
        let bytes = std::fs::read(from).map_err(WeightsError::io(from, "read it"))?;
        match from.file_name().and_then(|n| n.to_str()) {
            Some(name) => self.write_bytes(name, &bytes),
            None => Err(bad(&from.to_string_lossy(), "expected a file name in UTF-8")),
        }
    }

    /// Writes the weights and puts the folder into its place.
    ///
    /// # Errors
    /// [`WeightsError::StorageFull`], [`WeightsError::Io`], [`WeightsError::WillNotReplace`],
    /// [`WeightsError::BadTensor`], [`WeightsError::Duplicate`], [`WeightsError::NonFinite`],
    /// [`WeightsError::Overflow`], and what a lazy tensor gives. The target is then untouched.
    pub fn finish(mut self) -> Result<Written, WeightsError> {
        // transformers refuses a file whose metadata does not name a format.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let shards = self.shards()?;
        let count = shards.len();
        let mut weights = Vec::new();
        let mut plans = Vec::new();
        let mut weight_map = Vec::new();
        let mut tensor_bytes = 0;
        for (i, tensors) in shards.into_iter().enumerate() {
            let name = if count == 1 { SINGLE.to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) };
            weight_map.extend(tensors.iter().map(|t| (t.info.name.clone(), name.clone())));
            let plan = Plan::new(&self.target.join(&name), tensors, &metadata)?;
            tensor_bytes += plan.tensor_bytes();
            plans.push(plan);
            weights.push(name);
        }
        let needed = self.other_bytes + plans.iter().map(Plan::total_bytes).sum::<u64>();
        for (plan, name) in plans.into_iter().zip(&weights) {
            let path = self.temporary.path().join(name);
            let mut file = std::fs::File::create_new(&path)
                .map_err(|e| place::io_or_full(&self.target, "create a file in it", needed, e))?;
            plan.write(&mut file, NonFinite::Refuse)
                .map_err(|e| e.at(&self.target, needed))
                .and_then(|()| place::sync(&file, &self.target, needed))?;
        }
        if count > 1 {
            let map: Map<String, Value> = weight_map.into_iter().map(|(t, f)| (t, Value::String(f))).collect();
            let index = json!({"metadata": {"total_size": tensor_bytes}, "weight_map": map});
            let mut text = serde_json::to_vec_pretty(&index).expect("a JSON value always has a text");
            text.push(b'\n');
            self.put(INDEX, &text, needed + text.len() as u64)?;
        }
        place::check_replaceable(&self.target, Some(&self.others))?;
        place::persist_folder(self.temporary, &self.target)?;
        Ok(Written { folder: self.target, weights, tensor_bytes })
    }

    /// Divides the tensors, in the order of their names, into shards.
    fn shards(&mut self) -> Result<Vec<Vec<NamedTensor<'a>>>, WeightsError> {
        let mut tensors = std::mem::take(&mut self.tensors);
        tensors.sort_by(|a, b| order::by_name(&a.info.name, &b.info.name));
        let mut seen = HashMap::new();
        let mut shards = vec![Vec::new()];
        let mut filled = 0u64;
        for tensor in tensors {
            if seen.insert(tensor.info.name.clone(), ()).is_some() {
                return Err(WeightsError::Duplicate {
                    name: tensor.info.name,
                    path: self.target.clone(),
                    other: self.target.clone(),
                });
            }
            let bytes = file::checked_bytes(&tensor)?;
            if filled > 0 && filled.saturating_add(bytes) > self.max_shard {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            shards.last_mut().expect("there is always a shard").push(tensor);
        }
        Ok(shards)
    }

    fn put(&self, name: &str, bytes: &[u8], needed: u64) -> Result<(), WeightsError> {
        place::write_whole(&self.temporary.path().join(name), bytes)
            .map_err(|e| place::io_or_full(&self.target, "write a file in it", needed, e))
    }
}
