//! Tokens of a corpus, made once and kept in a file.
//!
//! Here live the [`TokenFile`] (this file), its layout on disk (`format.rs`) and how one is made
//! from text or taken from the cache (`build.rs`). The tests hold the layout to refusing every
//! flipped byte, and the cache to being rebuilt when its file is broken.

mod build;
mod format;

use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use build::{Progress, TokenFileOptions};

use crate::error::{Result, TextError};

/// A long sequence of tokens that knows where its documents begin: in memory, or mapped from a
/// file. Every token is below [`TokenFile::vocab_size`].
///
/// A mapped file must not be cut by others while it is open; replacing it by renaming is fine.
#[derive(Debug)]
pub struct TokenFile {
    tokens: Tokens,
    /// Index of the first token of each document; begins with 0 and increases.
    document_starts: Vec<u64>,
    vocab_size: usize,
    key: String,
    path: Option<PathBuf>,
}

#[derive(Debug)]
enum Tokens {
    Memory(Vec<u32>),
    Mapped { map: Mmap, range: Range<usize>, width: usize },
}

impl TokenFile {
    /// From tokens in memory. `document_starts` are the indices where documents begin: 0 first,
    /// increasing, below the number of tokens.
    ///
    /// # Errors
    /// When there are no tokens, one is not below `vocab_size`, or the starts are not as said.
    pub fn from_tokens(tokens: Vec<u32>, document_starts: Vec<u64>, vocab_size: usize) -> Result<Self> {
        if tokens.is_empty() {
            return Err(TextError::Request("a token sequence is empty; expected at least one token".into()));
        }
        if let Some(at) = tokens.iter().position(|id| *id as usize >= vocab_size) {
            return Err(TextError::Request(format!(
                "token {} at index {at} is not below the vocabulary size {vocab_size}",
                tokens[at]
            )));
        }
        check_starts(&document_starts, tokens.len() as u64).map_err(TextError::Request)?;
        Ok(Self { tokens: Tokens::Memory(tokens), document_starts, vocab_size, key: String::new(), path: None })
    }

    /// Opens a file written by [`TokenFile::build`]. Reads all of it once, to compare its
    /// checksum.
    ///
    /// # Errors
    /// When it is not such a file, or was cut or changed.
    pub fn open(path: &Path) -> Result<Self> {
        format::open(path)
    }

    /// Number of tokens, document separators included. Never 0.
    pub fn len(&self) -> usize {
        match &self.tokens {
            Tokens::Memory(tokens) => tokens.len(),
            Tokens::Mapped { range, width, .. } => range.len() / width,
        }
    }

    /// Never true; a token file has at least one token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the tokens from index `start` on.
    ///
    /// # Panics
    /// When `start + out.len()` is past the end, as slicing does.
    pub fn read(&self, start: usize, out: &mut [u32]) {
        match &self.tokens {
            Tokens::Memory(tokens) => out.copy_from_slice(&tokens[start..start + out.len()]),
            Tokens::Mapped { map, range, width } => {
                let bytes = &map[range.clone()][start * width..(start + out.len()) * width];
                for (token, bytes) in out.iter_mut().zip(bytes.chunks_exact(*width)) {
                    *token = format::token(bytes);
                }
            }
        }
    }

    /// The tokens of a range.
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn tokens(&self, range: Range<usize>) -> Vec<u32> {
        let mut out = vec![0; range.len()];
        self.read(range.start, &mut out);
        out
    }

    /// Index of the first token of each document.
    pub fn document_starts(&self) -> &[u64] {
        &self.document_starts
    }

    /// The tokens' indices of one document, its separator included.
    pub fn document(&self, number: usize) -> Range<usize> {
        let end = self.document_starts.get(number + 1).map_or(self.len(), |start| *start as usize);
        self.document_starts[number] as usize..end
    }

    /// Every token is below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// What the file was made from, as a hash: sources, tokenizer and options. Empty in memory.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// The first document begins at 0, each later one after the one before and before the end.
fn check_starts(starts: &[u64], tokens: u64) -> Result<(), String> {
    if starts.first() != Some(&0) {
        return Err("document starts must begin with 0".into());
    }
    if let Some(pair) = starts.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("document starts must increase; found {} after {}", pair[1], pair[0]));
    }
    match starts.last() {
        Some(last) if *last < tokens => Ok(()),
        last => Err(format!("document start {last:?} is past the {tokens} tokens")),
    }
}

#[cfg(test)]
mod tests;
