//! A cursor over a GGUF file and the metadata values it finds.

use std::ops::Range;

use crate::weights::WeightsError;
use crate::weights::mapped::MappedFile;

/// How deep arrays may nest. Real files do not nest them at all.
const MAX_DEPTH: usize = 4;

/// Reads little-endian numbers and strings, never past the end.
pub(super) struct Reader<'a> {
    file: &'a MappedFile,
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a MappedFile, at: usize) -> Self {
        Self { file, at }
    }

    /// Bytes left.
    pub(super) fn left(&self) -> u64 {
        (self.file.bytes().len() - self.at) as u64
    }

    /// The error for `what` needing `needed` bytes here.
    pub(super) fn truncated(&self, what: &str, needed: u64) -> WeightsError {
        WeightsError::Truncated {
            path: self.file.path.clone(),
            what: format!("{what} at offset {}", self.at),
            needed,
            available: self.left(),
        }
    }

    /// Fails unless `count` things of at least `size` bytes each can still follow. Called before
    /// anything is allocated for them.
    pub(super) fn expect_room(&self, what: &str, count: u64, size: u64) -> Result<(), WeightsError> {
        let needed = count.saturating_mul(size);
        if needed > self.left() { Err(self.truncated(what, needed)) } else { Ok(()) }
    }

    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], WeightsError> {
        self.expect_room(what, count, 1)?;
        let start = self.at;
        self.at += count as usize;
        Ok(&self.file.bytes()[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], WeightsError> {
        Ok(self.take(N as u64, what)?.try_into().expect("take gives as many bytes as asked"))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, WeightsError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, WeightsError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length and as many bytes.
    pub(super) fn blob(&mut self, what: &str) -> Result<&'a [u8], WeightsError> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    /// A string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: usize) -> Result<String, WeightsError> {
        let at = self.at;
        let bytes = self.blob(what)?;
        if bytes.len() > limit {
            return Err(WeightsError::Limit {
                path: self.file.path.clone(),
                what,
                found: bytes.len() as u64,
                limit: limit as u64,
            });
        }
        utf8(self.file, bytes, || format!("{what} at offset {at}"))
    }

    /// A metadata value of the type `kind`.
    pub(super) fn value(&mut self, kind: u32, what: &str) -> Result<Value, WeightsError> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(what)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(what)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(what)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(what)?).into()),
            4 => Value::Unsigned(self.u32(what)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(what)?).into()),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => Value::Bool(self.array::<1>(what)?[0] != 0),
            8 => {
                let bytes = self.blob(what)?;
                Value::String(utf8(self.file, bytes, || what.to_owned())?)
            }
            9 => Value::Array(self.array_value(what, 0)?),
            10 => Value::Unsigned(self.u64(what)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            other => {
                return Err(self.file.malformed(format!("{what} has type {other}; GGUF has types 0 to 12")));
            }
        })
    }

    /// Walks over an array and notes where it is. Nothing is copied until it is asked for.
    fn array_value(&mut self, what: &str, depth: usize) -> Result<Array, WeightsError> {
        let kind = self.u32(what)?;
        let count = self.u64(what)?;
        let start = self.at;
        match kind {
            0..=7 | 10..=12 => {
                let size = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    _ => 8,
                };
                self.expect_room(what, count, size)?;
                self.take(count * size, what)?;
            }
            8 => {
                self.expect_room(what, count, 8)?;
                for _ in 0..count {
                    self.blob(what)?;
                }
            }
            9 => {
                if depth + 1 >= MAX_DEPTH {
                    return Err(self.file.malformed(format!("{what} nests arrays more than {MAX_DEPTH} deep")));
                }
                self.expect_room(what, count, 12)?;
                for _ in 0..count {
                    self.array_value(what, depth + 1)?;
                }
            }
            other => {
                return Err(self.file.malformed(format!("{what} is an array of type {other}; GGUF has types 0 to 12")));
            }
        }
        Ok(Array { kind, count: count as usize, range: start..self.at })
    }
}

fn utf8(file: &MappedFile, bytes: &[u8], what: impl FnOnce() -> String) -> Result<String, WeightsError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Err(file.malformed(format!("{} is not UTF-8: {e}", what()))),
    }
}

/// A metadata value. Integers are widened.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

impl Value {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::F32(_) | Value::F64(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
        }
    }

    /// A non-negative integer.
    pub(super) fn unsigned(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(v) => Some(v),
            Value::Signed(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// A number. An f32 gives the f64 with the same shortest decimals (1e-5, not
    /// 9.999999747378752e-6): that is what the config it came from said.
    pub(super) fn number(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(v) => Some(v as f64),
            Value::Signed(v) => Some(v as f64),
            Value::F32(v) => Some(v.to_string().parse().expect("what f32 prints, f64 parses")),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }
}

/// An array of metadata that was walked over: its elements' type, their number and their bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    kind: u32,
    pub(super) count: usize,
    range: Range<usize>,
}

impl Array {
    /// The strings, if these are strings.
    pub(super) fn strings(&self, file: &MappedFile, what: &str) -> Result<Option<Vec<String>>, WeightsError> {
        if self.kind != 8 {
            return Ok(None);
        }
        let mut reader = Reader::new(file, self.range.start);
        let mut out = Vec::with_capacity(self.count);
        for i in 0..self.count {
            let bytes = reader.blob(what)?;
            out.push(utf8(file, bytes, || format!("{what}, element {i},"))?);
        }
        Ok(Some(out))
    }

    /// The numbers as `T`, if these are numbers; `None` too if one does not fit into `T`.
    pub(super) fn numbers<T>(&self, file: &MappedFile, convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        if matches!(self.kind, 8 | 9) {
            return None;
        }
        let mut reader = Reader::new(file, self.range.start);
        (0..self.count).map(|_| convert(&reader.value(self.kind, "an array").ok()?)).collect()
    }
}
