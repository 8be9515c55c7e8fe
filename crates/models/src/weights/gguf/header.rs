//! The head of a GGUF file: metadata and the list of tensors. Format: ggml, `docs/gguf.md`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::reader::{Array, Reader, Value};
use crate::weights::dtype::elements_of;
use crate::weights::mapped::MappedFile;
use crate::weights::{Dtype, MAX_NAME, WeightsError};

/// Longest metadata key accepted, in bytes. The format's own limit.
const MAX_KEY: usize = (1 << 16) - 1;
/// Most axes a tensor has. ggml's own limit.
const MAX_AXES: u32 = 4;
/// Largest alignment accepted, in bytes. Real files have 32.
const MAX_ALIGNMENT: u64 = 1 << 20;

const ADVICE: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are read; \
                      use a file of such a quantisation";

/// A tensor under GGUF's own name.
#[derive(Debug)]
pub(super) struct GgufTensor {
    pub(super) name: String,
    /// Slowest axis first, the reverse of how the file has it.
    pub(super) shape: Vec<usize>,
    pub(super) dtype: Dtype,
    /// Where its bytes are in the file.
    pub(super) range: Range<usize>,
}

/// Everything before the tensors' data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<GgufTensor>,
}

impl Header {
    /// Parses the head and checks that every tensor lies in the file and none overlap.
    pub(super) fn parse(file: &MappedFile) -> Result<Self, WeightsError> {
        let mut reader = Reader::new(file, 0);
        let magic = reader.take(4, "the magic number")?;
        if magic != b"GGUF" {
            return Err(WeightsError::NotACheckpoint {
                path: file.path.clone(),
                reason: format!("a .gguf file starts with the bytes GGUF, this one with {magic:02x?}"),
            });
        }
        let version = reader.u32("the version")?;
        let unsupported = |what: String, advice| WeightsError::Unsupported { path: file.path.clone(), what, advice };
        match version {
            2 | 3 => {}
            _ if matches!(version.swap_bytes(), 1..=3) => {
                return Err(unsupported("big-endian GGUF".into(), "convert it to little-endian"));
            }
            _ => {
                return Err(unsupported(format!("GGUF version {version}"), "versions 2 and 3 are read; convert it again"));
            }
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let metadata_count = reader.u64("the number of metadata entries")?;
        let metadata = parse_metadata(file, &mut reader, metadata_count)?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(value) => match value.unsigned() {
                Some(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => a,
                _ => {
                    return Err(file.malformed(format!(
                        "general.alignment is {value:?}; expected a power of two of at most {MAX_ALIGNMENT}"
                    )));
                }
            },
        };
        let tensors = parse_tensors(file, &mut reader, tensor_count, alignment)?;
        Ok(Self { metadata, tensors })
    }

    /// A metadata value that must be a non-negative integer if it is there.
    pub(super) fn unsigned(&self, file: &MappedFile, key: &str) -> Result<Option<u64>, WeightsError> {
        self.typed(file, key, "a non-negative integer", Value::unsigned)
    }

    /// A metadata value that must be a finite number if it is there.
    pub(super) fn number(&self, file: &MappedFile, key: &str) -> Result<Option<f64>, WeightsError> {
        self.typed(file, key, "a finite number", |v| v.number().filter(|n| n.is_finite()))
    }

    /// A metadata value that must be a boolean if it is there.
    pub(super) fn boolean(&self, file: &MappedFile, key: &str) -> Result<Option<bool>, WeightsError> {
        self.typed(file, key, "a boolean", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// A metadata value that must be a string if it is there.
    pub(super) fn string(&self, file: &MappedFile, key: &str) -> Result<Option<String>, WeightsError> {
        self.typed(file, key, "a string", |v| match v {
            Value::String(s) => Some(s.clone()),
            _ => None,
        })
    }

    /// A metadata value that must be an array if it is there.
    pub(super) fn array(&self, file: &MappedFile, key: &str) -> Result<Option<&Array>, WeightsError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => Ok(Some(array)),
            Some(other) => Err(file.malformed(format!("{key} is {}; expected an array", other.kind()))),
        }
    }

    fn typed<T>(
        &self,
        file: &MappedFile,
        key: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(file.malformed(format!("{key} is {}; expected {expected}", value.kind()))),
        }
    }

    /// True if a tensor of this GGUF name is there.
    pub(super) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.iter().any(|t| t.name == name)
    }
}

fn parse_metadata(file: &MappedFile, reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, Value>, WeightsError> {
    // A key's length, a type and a byte of value.
    reader.expect_room("the metadata", count, 13)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = reader.string("a metadata key's length in bytes", MAX_KEY)?;
        let kind = reader.u32("a metadata type")?;
        let value = reader.value(kind, &key)?;
        if metadata.contains_key(&key) {
            return Err(file.malformed(format!("metadata key {key} is there twice")));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn parse_tensors(
    file: &MappedFile,
    reader: &mut Reader<'_>,
    count: u64,
    alignment: u64,
) -> Result<Vec<GgufTensor>, WeightsError> {
    // A name's length, the number of axes, a kind and an offset.
    reader.expect_room("the list of tensors", count, 24)?;
    let mut tensors: Vec<GgufTensor> = Vec::new();
    let mut names = HashSet::new();
    let mut offsets = Vec::new();
    for _ in 0..count {
        let name = reader.string("a tensor name's length in bytes", MAX_NAME)?;
        if !names.insert(name.clone()) {
            return Err(WeightsError::Duplicate { name, path: file.path.clone(), other: file.path.clone() });
        }
        let axes = reader.u32("a tensor's number of axes")?;
        if axes > MAX_AXES {
            return Err(WeightsError::Limit {
                path: file.path.clone(),
                what: "a tensor's number of axes",
                found: axes.into(),
                limit: MAX_AXES.into(),
            });
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            shape.push(reader.u64("a tensor's shape")? as usize);
        }
        let kind = reader.u32("a tensor's kind")?;
        let offset = reader.u64("a tensor's offset")?;
        let Some(dtype) = dtype_of(kind) else {
            return Err(WeightsError::UnsupportedKind {
                path: file.path.clone(),
                name,
                found: unread_kind(kind),
                advice: ADVICE,
            });
        };
        let row = shape.first().copied().unwrap_or(1);
        if row % dtype.block().0 != 0 {
            return Err(file.malformed(format!(
                "tensor \"{name}\" has rows of {row} elements, which blocks of {} ({dtype}) do not fill",
                dtype.block().0
            )));
        }
        shape.reverse();
        let Some(bytes) = elements_of(&shape).and_then(|n| dtype.bytes_for(n)) else {
            return Err(file.malformed(format!("tensor \"{name}\" has shape {shape:?}, more than can be addressed")));
        };
        if !offset.is_multiple_of(alignment) {
            return Err(file.malformed(format!(
                "tensor \"{name}\" is at offset {offset}, which is no multiple of the alignment {alignment}"
            )));
        }
        offsets.push((offset, bytes as u64));
        tensors.push(GgufTensor { name, shape, dtype, range: 0..0 });
    }

    // Data begin at the first aligned byte after the list.
    let data_start = (reader.at as u64).next_multiple_of(alignment);
    let length = file.bytes().len() as u64;
    for (tensor, (offset, bytes)) in tensors.iter_mut().zip(offsets) {
        let start = data_start.saturating_add(offset);
        let end = start.saturating_add(bytes);
        if end > length && bytes > 0 {
            return Err(WeightsError::Truncated {
                path: file.path.clone(),
                what: format!("tensor \"{}\" at offset {start}", tensor.name),
                needed: bytes,
                available: length.saturating_sub(start),
            });
        }
        tensor.range = if bytes == 0 { 0..0 } else { start as usize..end as usize };
    }
    check_overlap(file, &tensors)?;
    Ok(tensors)
}

fn check_overlap(file: &MappedFile, tensors: &[GgufTensor]) -> Result<(), WeightsError> {
    let mut order: Vec<&GgufTensor> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    order.sort_by_key(|t| t.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            return Err(file.malformed(format!("the bytes of \"{}\" and \"{}\" overlap", pair[0].name, pair[1].name)));
        }
    }
    Ok(())
}

/// The kind behind a number of `enum ggml_type`.
fn dtype_of(kind: u32) -> Option<Dtype> {
    Some(match kind {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::Q4_0,
        3 => Dtype::Q4_1,
        6 => Dtype::Q5_0,
        7 => Dtype::Q5_1,
        8 => Dtype::Q8_0,
        10 => Dtype::Q2_K,
        11 => Dtype::Q3_K,
        12 => Dtype::Q4_K,
        13 => Dtype::Q5_K,
        14 => Dtype::Q6_K,
        30 => Dtype::BF16,
        _ => return None,
    })
}

/// The name of a kind that is known and not read.
fn unread_kind(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        other => return format!("ggml type {other}"),
    };
    name.to_owned()
}
