//! The bytes of one safetensors file.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{NamedTensor, TensorData, bad, order, place};
use crate::weights::{MAX_NAME, WeightsError, check_finite, convert};

/// Values rounded and written at a time.
const CHUNK: usize = 1 << 20;

/// What to do about NaN and infinity among values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonFinite {
    /// Give [`WeightsError::NonFinite`].
    Refuse,
    /// Write them.
    Keep,
}

/// Why a plan could not be written: an error of its own, or of the place it is written to.
#[derive(Debug)]
pub(super) enum WriteError {
    Weights(WeightsError),
    Io(io::Error),
}

impl WriteError {
    /// Adds the place and the bytes that were needed there.
    pub(super) fn at(self, path: &Path, needed: u64) -> WeightsError {
        match self {
            WriteError::Weights(error) => error,
            WriteError::Io(error) => place::io_or_full(path, "write it", needed, error),
        }
    }
}

/// A safetensors file before it is written: its header and its tensors in order.
pub(super) struct Plan<'a> {
    head: Vec<u8>,
    tensors: Vec<NamedTensor<'a>>,
    tensor_bytes: u64,
}

/// The bytes a tensor will take, after a look at whether it agrees with itself.
pub(super) fn checked_bytes(tensor: &NamedTensor<'_>) -> Result<u64, WeightsError> {
    let info = &tensor.info;
    if info.name.is_empty() || info.name == "__metadata__" || info.name.len() > MAX_NAME {
        return Err(bad(&info.name, format!("not a name; expected 1 to {MAX_NAME} bytes and not __metadata__")));
    }
    if !info.dtype.is_plain() {
        return Err(bad(&info.name, format!("{} cannot be written; expected F32, F16 or BF16", info.dtype)));
    }
    let (Some(elements), Some(bytes)) = (info.elements(), info.bytes()) else {
        return Err(bad(&info.name, format!("shape {:?} is more than can be addressed", info.shape)));
    };
    match &tensor.data {
        TensorData::Raw(raw) if raw.len() != bytes => Err(bad(
            &info.name,
            format!("shape {:?} in {} needs {bytes} bytes, {} were given", info.shape, info.dtype, raw.len()),
        )),
        TensorData::F32(values) if values.len() != elements => Err(wrong_count(tensor, elements, values.len())),
        _ => Ok(bytes as u64),
    }
}

fn wrong_count(tensor: &NamedTensor<'_>, elements: usize, given: usize) -> WeightsError {
    bad(&tensor.info.name, format!("shape {:?} needs {elements} values, {given} were given", tensor.info.shape))
}

impl<'a> Plan<'a> {
    /// Orders the tensors and lays them out. `path` is for messages.
    pub(super) fn new(
        path: &Path,
        mut tensors: Vec<NamedTensor<'a>>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, WeightsError> {
        // Larger elements first: the header's length is a multiple of 8, so every tensor is aligned.
        tensors.sort_by(|a, b| {
            let size = |t: &NamedTensor<'_>| std::cmp::Reverse(t.info.dtype.block().1);
            size(a).cmp(&size(b)).then_with(|| order::by_name(&a.info.name, &b.info.name))
        });
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), json!(metadata));
        }
        let mut at = 0u64;
        for tensor in &tensors {
            let info = &tensor.info;
            let end =
                at.checked_add(checked_bytes(tensor)?).ok_or_else(|| bad(&info.name, "ends beyond what can be addressed"))?;
            let entry = json!({"dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [at, end]});
            if header.insert(info.name.clone(), entry).is_some() {
                return Err(WeightsError::Duplicate { name: info.name.clone(), path: path.to_owned(), other: path.to_owned() });
            }
            at = end;
        }
        let mut json = serde_json::to_vec(&Value::Object(header)).expect("a JSON value always has a text");
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut head = (json.len() as u64).to_le_bytes().to_vec();
        head.extend(json);
        Ok(Self { head, tensors, tensor_bytes: at })
    }

    /// Bytes of the tensors.
    pub(super) fn tensor_bytes(&self) -> u64 {
        self.tensor_bytes
    }

    /// Bytes of the whole file.
    pub(super) fn total_bytes(&self) -> u64 {
        self.head.len() as u64 + self.tensor_bytes
    }

    /// Writes the file, one tensor after another.
    pub(super) fn write(&self, sink: &mut impl Write, non_finite: NonFinite) -> Result<(), WriteError> {
        let mut sink = BufWriter::with_capacity(1 << 20, sink);
        sink.write_all(&self.head).map_err(WriteError::Io)?;
        for tensor in &self.tensors {
            match &tensor.data {
                TensorData::Raw(bytes) => sink.write_all(bytes).map_err(WriteError::Io)?,
                TensorData::F32(values) => write_values(&mut sink, tensor, values, non_finite)?,
                TensorData::Lazy(values) => {
                    let values = values().map_err(WriteError::Weights)?;
                    write_values(&mut sink, tensor, &values, non_finite)?;
                }
            }
        }
        sink.flush().map_err(WriteError::Io)
    }
}

fn write_values(
    sink: &mut impl Write,
    tensor: &NamedTensor<'_>,
    values: &[f32],
    non_finite: NonFinite,
) -> Result<(), WriteError> {
    let info = &tensor.info;
    let elements = info.elements().expect("checked by Plan::new");
    if values.len() != elements {
        return Err(WriteError::Weights(wrong_count(tensor, elements, values.len())));
    }
    if non_finite == NonFinite::Refuse {
        check_finite(&info.name, values).map_err(WriteError::Weights)?;
    }
    let size = info.dtype.block().1;
    let mut buffer = vec![0u8; values.len().min(CHUNK) * size];
    for (i, chunk) in values.chunks(CHUNK).enumerate() {
        let buffer = &mut buffer[..chunk.len() * size];
        convert::f32_to_plain(info.dtype, chunk, buffer).map_err(|at| {
            WriteError::Weights(WeightsError::Overflow {
                name: info.name.clone(),
                index: i * CHUNK + at,
                value: chunk[at],
                dtype: info.dtype,
            })
        })?;
        sink.write_all(buffer).map_err(WriteError::Io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Dtype;

    /// A disk with room for so many bytes.
    struct SmallDisk(usize);

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = bytes.len().min(self.0);
            self.0 -= written;
            if written == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(written) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_wherever_it_fills() {
        let plan = || {
            let tensors = vec![
                NamedTensor::f32("a", &[100], Dtype::F32, vec![1.0; 100]),
                NamedTensor::lazy("b", &[50], Dtype::BF16, || Ok(vec![2.0; 50])),
            ];
            Plan::new(Path::new("out"), tensors, &BTreeMap::new()).map_err(|e| e.to_string()).expect("a good plan")
        };
        let total = plan().total_bytes();
        for room in (0..total).step_by(7).chain([total - 1]) {
            let error = plan().write(&mut SmallDisk(room as usize), NonFinite::Refuse).expect_err("no room");
            match error.at(Path::new("out"), total) {
                WeightsError::StorageFull { path, needed } => {
                    assert_eq!((path.as_path(), needed), (Path::new("out"), total));
                }
                other => panic!("{other}"),
            }
        }
        assert!(plan().write(&mut SmallDisk(total as usize), NonFinite::Refuse).is_ok());
    }
}
