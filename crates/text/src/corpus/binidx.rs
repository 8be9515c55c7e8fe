//! Megatron's token files: `NAME.bin` holds tokens, `NAME.idx` says where documents begin.
//!
//! Layout of the index, little-endian, as Megatron-LM's `MMapIndexedDataset` writes it: the nine
//! bytes `MMIDIDX\0\0`, version 1 (u64), the tokens' type (u8), the number n of sequences (u64),
//! the number d of document boundaries (u64), n lengths in tokens (i32), n offsets in bytes into
//! the `.bin` (i64), d boundaries as numbers of sequences (i64), and for some multimodal sets n
//! more bytes, which are not needed here. A document is a run of sequences.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use tempfile::NamedTempFile;

use super::{Content, Document};
use crate::error::{Result, TextError};
use crate::files::{persist, temporary_beside};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER_BYTES: usize = 9 + 8 + 1 + 8 + 8;

/// A document longer than this comes in pieces; whole corpora have been written as one document.
const PIECE_TOKENS: usize = 1 << 20;

/// The types of tokens that occur; the code is Megatron's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    U8 = 1,
    I8 = 2,
    I16 = 3,
    I32 = 4,
    I64 = 5,
    U16 = 8,
}

impl TokenType {
    fn from_code(code: u8) -> Option<Self> {
        [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64, Self::U16].into_iter().find(|kind| *kind as u8 == code)
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The token in exactly [`Self::bytes`] bytes; negative ones and ones above u32 are `None`.
    fn token(self, bytes: &[u8]) -> Option<u32> {
        let mut wide = [0u8; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let value = i64::from_le_bytes(wide);
        let signed_bits = match self {
            Self::I8 => 8,
            Self::I16 => 16,
            Self::I32 => 32,
            Self::U8 | Self::U16 | Self::I64 => 64,
        };
        // Tokens are never negative: in a signed type the top bit must be clear.
        u32::try_from(value).ok().filter(|_| value >> (signed_bits - 1) == 0)
    }
}

/// An open pair of `.bin` and `.idx`.
///
/// Both files are mapped into memory: they must not be cut while this is open.
#[derive(Debug)]
pub struct Binidx {
    index_path: PathBuf,
    tokens_path: Arc<Path>,
    index: Mmap,
    /// `None` for an empty file, which cannot be mapped.
    tokens: Option<Mmap>,
    kind: TokenType,
    sequences: usize,
    boundaries: usize,
}

fn map(path: &Path) -> Result<Option<Mmap>> {
    let file = File::open(path).map_err(TextError::io("open", path))?;
    let length = file.metadata().map_err(TextError::io("read", path))?.len();
    if length == 0 {
        return Ok(None);
    }
    // SAFETY: the mapping is read-only; that nobody cuts the file meanwhile is the documented
    // condition of this type.
    unsafe { Mmap::map(&file) }.map(Some).map_err(TextError::io("map", path))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0u8; 8];
    wide.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(wide)
}

impl Binidx {
    /// Opens a pair by the path of either half, and checks the index against the tokens.
    ///
    /// # Errors
    /// When a half is missing, or the index is not one, or points outside the tokens.
    pub fn open(path: &Path) -> Result<Self> {
        let (index_path, tokens_path) = (path.with_extension("idx"), path.with_extension("bin"));
        let wrong = |problem: String| TextError::file(&index_path, problem);
        let index = map(&index_path)?.filter(|index| index.len() >= HEADER_BYTES);
        let index = index.ok_or_else(|| wrong(format!("shorter than the {HEADER_BYTES} bytes of a header")))?;
        let tokens = map(&tokens_path)?;
        if &index[..9] != MAGIC {
            return Err(wrong("expected a Megatron index, which begins with MMIDIDX".into()));
        }
        let version = number(&index, 9);
        if version != 1 {
            return Err(wrong(format!("version {version}; expected 1")));
        }
        let code = index[17];
        let kind = TokenType::from_code(code)
            .ok_or_else(|| wrong(format!("token type {code}; expected an integer type (1, 2, 3, 4, 5 or 8)")))?;
        let size = |at| usize::try_from(number(&index, at)).ok();
        let counts = size(18).zip(size(26));
        let expected = counts.and_then(|(sequences, boundaries)| {
            let tables = sequences.checked_mul(12)?.checked_add(boundaries.checked_mul(8)?)?;
            tables.checked_add(HEADER_BYTES)
        });
        let (Some((sequences, boundaries)), Some(expected)) = (counts, expected) else {
            return Err(wrong("its counts are larger than any file".into()));
        };
        // Multimodal sets have one byte a sequence more.
        if index.len() != expected && Some(index.len()) != expected.checked_add(sequences) {
            return Err(wrong(format!(
                "{sequences} sequences and {boundaries} boundaries take {expected} bytes, found {}",
                index.len()
            )));
        }
        let open = Self { index, tokens, kind, sequences, boundaries, tokens_path: tokens_path.into(), index_path };
        open.check()?;
        Ok(open)
    }

    fn check(&self) -> Result<()> {
        let wrong = |record: usize, problem: String| TextError::record(&self.index_path, record as u64 + 1, problem);
        let available = self.token_bytes().len();
        for sequence in 0..self.sequences {
            let (length, offset) = (self.raw_length(sequence), self.raw_offset(sequence));
            let end = usize::try_from(length)
                .ok()
                .zip(usize::try_from(offset).ok())
                .and_then(|(length, offset)| length.checked_mul(self.kind.bytes())?.checked_add(offset));
            if end.is_none_or(|end| end > available) {
                return Err(wrong(
                    sequence,
                    format!("{length} tokens at byte {offset} do not lie in the {available} bytes of the .bin file"),
                ));
            }
        }
        let mut before = 0;
        for document in 0..self.boundaries {
            let boundary = self.raw_boundary(document);
            if boundary < before || boundary > self.sequences as u64 || (document == 0 && boundary != 0) {
                return Err(wrong(
                    document,
                    format!("document boundary {boundary} is not between {before} and {}", self.sequences),
                ));
            }
            before = boundary;
        }
        if self.boundaries > 0 && before != self.sequences as u64 {
            let count = self.sequences;
            return Err(wrong(self.boundaries - 1, format!("the last boundary is {before}; expected {count}")));
        }
        Ok(())
    }

    fn token_bytes(&self) -> &[u8] {
        self.tokens.as_deref().unwrap_or_default()
    }

    fn raw_length(&self, sequence: usize) -> i32 {
        let at = HEADER_BYTES + 4 * sequence;
        let mut bytes = [0u8; 4];
        bytes.copy_from_slice(&self.index[at..at + 4]);
        i32::from_le_bytes(bytes)
    }

    fn raw_offset(&self, sequence: usize) -> u64 {
        number(&self.index, HEADER_BYTES + 4 * self.sequences + 8 * sequence)
    }

    fn raw_boundary(&self, document: usize) -> u64 {
        number(&self.index, HEADER_BYTES + 12 * self.sequences + 8 * document)
    }

    /// The number of documents.
    pub fn documents(&self) -> usize {
        // Without boundaries each sequence stands alone.
        if self.boundaries == 0 { self.sequences } else { self.boundaries - 1 }
    }

    /// The sequences of a document.
    fn document(&self, document: usize) -> std::ops::Range<usize> {
        if self.boundaries == 0 {
            return document..document + 1;
        }
        // Checked to be at most `sequences`, which is a usize.
        self.raw_boundary(document) as usize..self.raw_boundary(document + 1) as usize
    }

    /// All documents in order; a very long one in pieces.
    pub fn into_documents(self) -> impl Iterator<Item = Result<Document>> + Send {
        Pieces { next: self.document_or_empty(0), pair: self, document: 0, inside: 0, continues: false }
    }

    fn document_or_empty(&self, document: usize) -> std::ops::Range<usize> {
        if document < self.documents() { self.document(document) } else { 0..0 }
    }
}

struct Pieces {
    pair: Binidx,
    document: usize,
    /// The sequences of the document still to be given, and the tokens of the first that were.
    next: std::ops::Range<usize>,
    inside: usize,
    continues: bool,
}

impl Pieces {
    fn piece(&mut self) -> Result<Content> {
        let (mut ids, width) = (Vec::new(), self.pair.kind.bytes());
        while ids.len() < PIECE_TOKENS && !self.next.is_empty() {
            let sequence = self.next.start;
            // Both checked on opening to lie inside the file.
            let (length, offset) = (self.pair.raw_length(sequence) as usize, self.pair.raw_offset(sequence) as usize);
            let take = (length - self.inside).min(PIECE_TOKENS - ids.len());
            let from = offset + self.inside * width;
            for bytes in self.pair.token_bytes()[from..from + take * width].chunks_exact(width) {
                ids.push(self.pair.kind.token(bytes).ok_or_else(|| {
                    let number = self.document as u64 + 1;
                    TextError::record(&self.pair.tokens_path, number, "has a token that is negative or above 2^32-1")
                })?);
            }
            self.inside += take;
            if self.inside == length {
                self.next.start += 1;
                self.inside = 0;
            }
        }
        Ok(Content::Tokens { ids, continues: self.continues })
    }
}

impl Iterator for Pieces {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.document >= self.pair.documents() {
            return None;
        }
        let piece = self.piece();
        let (source, record) = (Arc::clone(&self.pair.tokens_path), self.document as u64 + 1);
        if self.next.is_empty() {
            self.document += 1;
            self.next = self.pair.document_or_empty(self.document);
            self.continues = false;
        } else {
            self.continues = true;
        }
        Some(piece.map(|content| Document { content, source, record }))
    }
}

/// Writes a `.bin` and `.idx` pair, one sequence a document.
#[derive(Debug)]
pub struct BinidxWriter {
    index_path: PathBuf,
    tokens_path: PathBuf,
    tokens: BufWriter<NamedTempFile>,
    kind: TokenType,
    lengths: Vec<i32>,
}

impl BinidxWriter {
    /// Starts the pair `path` with the extensions `.bin` and `.idx`. Tokens are u16 where the
    /// vocabulary allows it, else i32.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(path: &Path, vocab_size: usize) -> Result<Self> {
        let tokens_path = path.with_extension("bin");
        Ok(Self {
            index_path: path.with_extension("idx"),
            tokens: BufWriter::new(temporary_beside(&tokens_path)?),
            tokens_path,
            kind: if vocab_size <= 1 << 16 { TokenType::U16 } else { TokenType::I32 },
            lengths: Vec::new(),
        })
    }

    /// Adds a document.
    ///
    /// # Errors
    /// When a token does not fit the type, the document has 2^31 tokens or more, or the disk is full.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let record = self.lengths.len() as u64 + 1;
        let most = if self.kind == TokenType::U16 { u32::from(u16::MAX) } else { i32::MAX as u32 };
        if let Some(id) = ids.iter().find(|id| **id > most) {
            let problem = format!("token {id} does not fit the vocabulary size the file was created for");
            return Err(TextError::record(&self.tokens_path, record, problem));
        }
        let length = i32::try_from(ids.len())
            .map_err(|_| TextError::record(&self.tokens_path, record, "2^31 tokens or more in one document"))?;
        let width = self.kind.bytes();
        for id in ids {
            let written = self.tokens.write_all(&id.to_le_bytes()[..width]);
            written.map_err(TextError::io("write", &self.tokens_path))?;
        }
        self.lengths.push(length);
        Ok(())
    }

    /// Writes the index and renames both files into place.
    ///
    /// # Errors
    /// When the disk is full or the files cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let mut index = BufWriter::new(temporary_beside(&self.index_path)?);
        self.write_index(&mut index).map_err(TextError::io("write", &self.index_path))?;
        let flushed = |error: std::io::IntoInnerError<_>, path: &Path| TextError::io("write", path)(error.into_error());
        let tokens = self.tokens.into_inner().map_err(|error| flushed(error, &self.tokens_path))?;
        let index = index.into_inner().map_err(|error| flushed(error, &self.index_path))?;
        // The index last: without it there is no pair.
        persist(tokens, &self.tokens_path)?;
        persist(index, &self.index_path)
    }

    fn write_index(&self, out: &mut impl Write) -> std::io::Result<()> {
        let count = self.lengths.len() as u64;
        out.write_all(MAGIC)?;
        out.write_all(&1u64.to_le_bytes())?;
        out.write_all(&[self.kind as u8])?;
        out.write_all(&count.to_le_bytes())?;
        out.write_all(&(count + 1).to_le_bytes())?;
        for length in &self.lengths {
            out.write_all(&length.to_le_bytes())?;
        }
        let mut offset = 0u64;
        for length in &self.lengths {
            out.write_all(&offset.to_le_bytes())?;
            offset += u64::from(length.unsigned_abs()) * self.kind.bytes() as u64;
        }
        for document in 0..=count {
            out.write_all(&document.to_le_bytes())?;
        }
        Ok(())
    }
}
