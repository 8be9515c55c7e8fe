//! Reading safetensors: one file, or the shards of a folder.
//!
//! Format: eight bytes of length, that many bytes of JSON, then the tensors without gaps. The
//! `safetensors` crate parses the JSON and checks that offsets follow on each other and agree with
//! shapes; this file checks what it does not: names that occur twice, the end of the data against
//! the file without overflow, and sizes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Metadata, TensorInfo as TensorEntry};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as _, Deserializer as _};

use super::dtype::elements_of;
use super::mapped::MappedFile;
use super::{Checkpoint, Dtype, GgufVocab, MAX_NAME, TensorInfo, WeightsError, convert, missing};

/// Largest JSON header accepted, in bytes. The format's own library has the same limit.
const MAX_HEADER: u64 = 100_000_000;
/// Largest config.json accepted, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

const ADVICE: &str = "F32, F16 and BF16 are read from safetensors; convert the checkpoint to one of them";

/// Where a tensor is.
#[derive(Debug)]
struct Entry {
    info: TensorInfo,
    file: usize,
    range: Range<usize>,
}

/// One or more mapped safetensors files with distinct tensor names.
#[derive(Debug)]
pub(crate) struct SafetensorsCheckpoint {
    path: PathBuf,
    folder: PathBuf,
    files: Vec<MappedFile>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// Tensors of kinds that are not read, with the kind's name.
    unsupported: HashMap<String, String>,
}

impl SafetensorsCheckpoint {
    /// Opens one file; its folder is where config.json is looked for.
    pub(crate) fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::open_files(path, folder, &[path.to_owned()])
    }

    /// Opens several files as one checkpoint.
    pub(crate) fn open_files(path: &Path, folder: &Path, files: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut this = Self {
            path: path.to_owned(),
            folder: folder.to_owned(),
            files: Vec::new(),
            entries: Vec::new(),
            by_name: HashMap::new(),
            unsupported: HashMap::new(),
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        for file in files {
            this.add(MappedFile::open(file)?, &mut seen)?;
        }
        Ok(this)
    }

    fn add(&mut self, file: MappedFile, seen: &mut HashMap<String, usize>) -> Result<(), WeightsError> {
        let (metadata, data_start) = header(&file)?;
        let index = self.files.len();
        for name in metadata.offset_keys() {
            let tensor = metadata.info(&name).expect("offset_keys lists the header's own names");
            if let Some(other) = seen.insert(name.clone(), index) {
                let other = self.files.get(other).unwrap_or(&file).path.clone();
                return Err(WeightsError::Duplicate { name, path: file.path.clone(), other });
            }
            let dtype = match tensor.dtype {
                ::safetensors::Dtype::F32 => Dtype::F32,
                ::safetensors::Dtype::F16 => Dtype::F16,
                ::safetensors::Dtype::BF16 => Dtype::BF16,
                other => {
                    self.unsupported.insert(name, format!("{other:?}"));
                    continue;
                }
            };
            let (start, end) = tensor.data_offsets;
            // The crate has compared these; repeated here because slicing below relies on it.
            if elements_of(&tensor.shape).and_then(|n| dtype.bytes_for(n)) != end.checked_sub(start) {
                return Err(file.malformed(format!(
                    "tensor \"{name}\" of shape {:?} and kind {dtype} has data_offsets [{start}, {end}]",
                    tensor.shape
                )));
            }
            self.by_name.insert(name.clone(), self.entries.len());
            self.entries.push(Entry {
                info: TensorInfo { name, shape: tensor.shape.clone(), dtype },
                file: index,
                range: data_start + start..data_start + end,
            });
        }
        self.files.push(file);
        Ok(())
    }

    /// True if the file at `file` (as passed to `open_files`) holds `name`, of whatever kind.
    pub(crate) fn holds(&self, name: &str, file: &Path) -> bool {
        match self.by_name.get(name) {
            Some(&i) => self.files[self.entries[i].file].path == file,
            None => self.unsupported.contains_key(name),
        }
    }

    fn slice(&self, entry: &Entry) -> &[u8] {
        &self.files[entry.file].bytes()[entry.range.clone()]
    }
}

impl Checkpoint for SafetensorsCheckpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn infos(&self) -> Vec<TensorInfo> {
        self.entries.iter().map(|e| e.info.clone()).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.by_name.get(name).map(|&i| self.entries[i].info.clone())
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let Some(&i) = self.by_name.get(name) else {
            return Err(match self.unsupported.get(name) {
                Some(found) => WeightsError::UnsupportedKind {
                    path: self.path.clone(),
                    name: name.to_owned(),
                    found: found.clone(),
                    advice: ADVICE,
                },
                None => missing(&self.path, name, self.entries.iter().map(|e| e.info.name.as_str())),
            });
        };
        let entry = &self.entries[i];
        let mut values = vec![0f32; entry.info.elements().expect("checked at opening")];
        convert::plain_to_f32(entry.info.dtype, self.slice(entry), &mut values);
        Ok(values)
    }

    fn raw(&self, name: &str) -> Option<(Dtype, &[u8])> {
        let entry = &self.entries[*self.by_name.get(name)?];
        Some((entry.info.dtype, self.slice(entry)))
    }

    fn config(&self) -> Result<serde_json::Value, WeightsError> {
        read_json_object(&self.folder.join("config.json"))
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.folder)
    }

    fn gguf_vocab(&self) -> Option<GgufVocab> {
        None
    }
}

/// Parses and checks a file's header. Returns it with the offset at which data begin.
fn header(file: &MappedFile) -> Result<(Metadata, usize), WeightsError> {
    let bytes = file.bytes();
    let truncated = |what: &str, needed: u64, available: u64| WeightsError::Truncated {
        path: file.path.clone(),
        what: what.to_owned(),
        needed,
        available,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("the length of the header", 8, bytes.len() as u64));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(WeightsError::Limit {
            path: file.path.clone(),
            what: "the safetensors header's length in bytes",
            found: length,
            limit: MAX_HEADER,
        });
    }
    let length = length as usize;
    let Some(json) = rest.get(..length) else {
        return Err(truncated("the header", length as u64, rest.len() as u64));
    };
    let data = &rest[length..];

    check_names(file, json)?;
    let metadata: Metadata = serde_json::from_slice(json).map_err(|e| {
        let words = e.to_string();
        // Not every error of the crate names the tensor.
        let which = contradictory(json).filter(|name| !words.contains(name)).map(|name| format!(" (tensor \"{name}\")"));
        file.malformed(format!("the safetensors header: {words}{}", which.unwrap_or_default()))
    })?;
    let needed = metadata.data_len();
    if needed > data.len() {
        return Err(truncated("the tensor data", needed as u64, data.len() as u64));
    }
    if needed < data.len() {
        return Err(
            file.malformed(format!("{} bytes follow the last tensor, whose data end at offset {needed}", data.len() - needed))
        );
    }
    Ok((metadata, 8 + length))
}

/// The first tensor of a header whose entry is none, or whose shape and kind do not make its bytes.
fn contradictory(json: &[u8]) -> Option<String> {
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    let wrong = |entry: &serde_json::Value| {
        let Ok(TensorEntry { dtype, shape, data_offsets: (start, end) }) = TensorEntry::deserialize(entry) else { return true };
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        bits.is_none() || bits != end.checked_sub(start).and_then(|bytes| bytes.checked_mul(8))
    };
    header.into_iter().find(|(name, entry)| name != "__metadata__" && wrong(entry)).map(|(name, _)| name)
}

/// Refuses names that occur twice, which a map silently merges, and names of absurd length.
fn check_names(file: &MappedFile, json: &[u8]) -> Result<(), WeightsError> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Result<(), (String, bool)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if name.len() > MAX_NAME {
                    return Ok(Err((name, false)));
                }
                if let Some(name) = seen.replace(name) {
                    return Ok(Err((name, true)));
                }
            }
            Ok(Ok(()))
        }
    }
    // Not `end()`: after an early return the rest of the object has not been read.
    let mut json = serde_json::Deserializer::from_slice(json);
    match json.deserialize_map(Names) {
        Ok(Ok(())) => Ok(()),
        Ok(Err((name, true))) => Err(WeightsError::Duplicate { name, path: file.path.clone(), other: file.path.clone() }),
        Ok(Err((name, false))) => Err(WeightsError::Limit {
            path: file.path.clone(),
            what: "a tensor name's length in bytes",
            found: name.len() as u64,
            limit: MAX_NAME as u64,
        }),
        Err(e) => Err(file.malformed(format!("the safetensors header: {e}"))),
    }
}

/// Reads a JSON file that must hold an object.
pub(crate) fn read_json_object(path: &Path) -> Result<serde_json::Value, WeightsError> {
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(WeightsError::NoConfig { path: path.to_owned() });
        }
        other => other.map_err(WeightsError::io(path, "open it"))?,
    };
    let malformed = |what: String| WeightsError::Malformed { path: path.to_owned(), what };
    if !metadata.is_file() {
        return Err(malformed("expected a regular file".into()));
    }
    if metadata.len() > MAX_CONFIG {
        return Err(WeightsError::Limit {
            path: path.to_owned(),
            what: "the file's size in bytes",
            found: metadata.len(),
            limit: MAX_CONFIG,
        });
    }
    let text = std::fs::read(path).map_err(WeightsError::io(path, "read it"))?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
    if !value.is_object() {
        return Err(malformed("expected a JSON object".into()));
    }
    Ok(value)
}
