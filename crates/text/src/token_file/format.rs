//! The layout of a token file.
//!
//! All numbers little-endian. A header of 128 bytes: magic `RECASTTK`, version (u32), bytes a
//! token (u32: 2 or 4), vocabulary size (u64), number of tokens (u64), number of documents (u64),
//! key (32 bytes), SHA-256 of everything after the header (32 bytes), and the first 24 bytes of
//! the SHA-256 of the header up to there. Then the tokens, zeros up to a multiple of 8, and the
//! document starts (u64 each).

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{TokenFile, Tokens, check_starts};
use crate::error::{Result, TextError};
use crate::files::{hex, persist, temporary_beside};

const MAGIC: &[u8; 8] = b"RECASTTK";
/// Part of the cache key too, so that a change of layout never meets an old file.
pub(super) const VERSION: u32 = 1;
const HEADER: usize = 128;
/// The header's own checksum covers the bytes before it.
const HEADER_SUM: usize = 104;

/// A token in 2 or 4 bytes.
pub(super) fn token(bytes: &[u8]) -> u32 {
    let mut wide = [0u8; 4];
    wide[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(wide)
}

fn width_for(vocab_size: usize) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0u8; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Writes a token file piece by piece; nothing is seen under its name until it is finished.
pub(super) struct Writer {
    out: BufWriter<NamedTempFile>,
    sum: Sha256,
    vocab_size: usize,
    width: usize,
    count: u64,
    starts: Vec<u64>,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn create(path: &Path, vocab_size: usize) -> Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 20, temporary_beside(path)?);
        out.write_all(&[0; HEADER]).map_err(TextError::io("write", path))?;
        Ok(Self {
            out,
            sum: Sha256::new(),
            vocab_size,
            width: width_for(vocab_size),
            count: 0,
            starts: Vec::new(),
            buffer: Vec::new(),
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn documents(&self) -> u64 {
        self.starts.len() as u64
    }

    pub(super) fn begin_document(&mut self) {
        // A document without tokens leaves no trace.
        if self.starts.last() != Some(&self.count) {
            self.starts.push(self.count);
        }
    }

    /// Adds tokens, each checked by the caller to be in the vocabulary.
    pub(super) fn push(&mut self, ids: &[u32], path: &Path) -> Result<()> {
        self.buffer.clear();
        for id in ids {
            self.buffer.extend_from_slice(&id.to_le_bytes()[..self.width]);
        }
        self.count += ids.len() as u64;
        self.write_buffer(path)
    }

    fn write_buffer(&mut self, path: &Path) -> Result<()> {
        self.sum.update(&self.buffer);
        self.out.write_all(&self.buffer).map_err(TextError::io("write", path))
    }

    pub(super) fn finish(mut self, key: &[u8; 32], path: &Path) -> Result<()> {
        if self.starts.last() == Some(&self.count) {
            self.starts.pop();
        }
        let padding = (8 - self.count as usize * self.width % 8) % 8;
        self.buffer = vec![0; padding];
        for start in &self.starts {
            self.buffer.extend_from_slice(&start.to_le_bytes());
        }
        self.write_buffer(path)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(self.width as u32).to_le_bytes());
        for number in [self.vocab_size as u64, self.count, self.starts.len() as u64] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(key);
        header.extend_from_slice(&self.sum.finalize());
        let sum = Sha256::digest(&header);
        header.extend_from_slice(&sum[..HEADER - HEADER_SUM]);
        let written = |error| TextError::io("write", path)(error);
        self.out.seek(SeekFrom::Start(0)).map_err(written)?;
        self.out.write_all(&header).map_err(written)?;
        let file = self.out.into_inner().map_err(|error| written(error.into_error()))?;
        persist(file, path)
    }
}

pub(super) fn open(path: &Path) -> Result<TokenFile> {
    let wrong = |problem: String| TextError::file(path, format!("{problem}; delete it to have it made again"));
    let file = File::open(path).map_err(TextError::io("open", path))?;
    let length = file.metadata().map_err(TextError::io("read", path))?.len();
    if length < HEADER as u64 {
        return Err(wrong(format!("{length} bytes are too few for a token file")));
    }
    // SAFETY: the mapping is read-only; that nobody cuts the file meanwhile is the documented
    // condition of `TokenFile`.
    let map = unsafe { Mmap::map(&file) }.map_err(TextError::io("map", path))?;
    if &map[..8] != MAGIC {
        return Err(wrong("expected a token file, which begins with RECASTTK".into()));
    }
    if Sha256::digest(&map[..HEADER_SUM])[..HEADER - HEADER_SUM] != map[HEADER_SUM..HEADER] {
        return Err(wrong("the header is damaged".into()));
    }
    let version = u32::from_le_bytes(field(&map, 8));
    if version != VERSION {
        return Err(wrong(format!("version {version}, expected {VERSION}")));
    }
    let width = u32::from_le_bytes(field(&map, 12)) as usize;
    let size = |at| usize::try_from(u64::from_le_bytes(field(&map, at)));
    let (Ok(vocab_size), Ok(count), Ok(documents)) = (size(16), size(24), size(32)) else {
        return Err(wrong("its counts are larger than any file".into()));
    };
    if width != width_for(vocab_size) {
        return Err(wrong(format!("{width} bytes a token do not go with {vocab_size} tokens in the vocabulary")));
    }
    let starts_at =
        count.checked_mul(width).and_then(|bytes| bytes.checked_add(HEADER)).and_then(|bytes| bytes.checked_next_multiple_of(8));
    let end = starts_at.and_then(|at| documents.checked_mul(8)?.checked_add(at));
    let (Some(starts_at), Some(true)) = (starts_at, end.map(|end| end == map.len())) else {
        return Err(wrong(format!(
            "{count} tokens and {documents} documents do not fill its {} bytes exactly; it was cut",
            map.len()
        )));
    };
    if Sha256::digest(&map[HEADER..])[..] != map[72..HEADER_SUM] {
        return Err(wrong("the checksum does not match; it was changed".into()));
    }
    let range = HEADER..HEADER + count * width;
    if let Some(at) = map[range.clone()].chunks_exact(width).position(|bytes| token(bytes) as usize >= vocab_size) {
        return Err(wrong(format!("the token at index {at} is not below the vocabulary size {vocab_size}")));
    }
    let document_starts: Vec<u64> = map[starts_at..].chunks_exact(8).map(|bytes| u64::from_le_bytes(field(bytes, 0))).collect();
    check_starts(&document_starts, count as u64).map_err(wrong)?;
    let key = hex(&map[40..72]);
    Ok(TokenFile {
        tokens: Tokens::Mapped { map, range, width },
        document_starts,
        vocab_size,
        key,
        path: Some(path.to_path_buf()),
    })
}
