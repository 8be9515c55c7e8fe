//! All documents of a token file, or parts of it, as one sequence.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Result, TextError};
use crate::token_file::TokenFile;

/// Documents of a [`TokenFile`], one after the other: what [`crate::Packing`] cuts into samples.
/// Cloning is cheap.
#[derive(Debug, Clone)]
pub struct TokenStream {
    file: Arc<TokenFile>,
    chosen: Option<Arc<Chosen>>,
}

#[derive(Debug)]
struct Chosen {
    /// The file's tokens that were chosen, in order: each part is a document here.
    parts: Vec<Range<usize>>,
    /// Where each begins in this stream.
    starts: Vec<u64>,
    len: usize,
}

impl TokenStream {
    /// Every document.
    pub fn whole(file: Arc<TokenFile>) -> Self {
        Self { file, chosen: None }
    }

    /// Some documents, or parts of them, by the indices of their tokens in the file; each becomes
    /// a document of the stream. Nothing is copied.
    ///
    /// # Errors
    /// When there is no part, or one is empty, begins before the end of the one before it, or
    /// passes the end of the file.
    pub fn of_parts(file: Arc<TokenFile>, parts: Vec<Range<usize>>) -> Result<Self> {
        if parts.is_empty() {
            return Err(TextError::Request("no part of the tokens was chosen; expected at least one".into()));
        }
        let (mut starts, mut len, mut end) = (Vec::with_capacity(parts.len()), 0, 0);
        for part in &parts {
            if part.is_empty() || part.start < end || part.end > file.len() {
                return Err(TextError::Request(format!(
                    "expected a part with tokens between {end} and {}; found {part:?}",
                    file.len()
                )));
            }
            starts.push(len as u64);
            len += part.len();
            end = part.end;
        }
        Ok(Self { file, chosen: Some(Arc::new(Chosen { parts, starts, len })) })
    }

    /// Number of tokens. Never 0.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or_else(|| self.file.len(), |chosen| chosen.len)
    }

    /// Never true; a stream has at least one token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index in this stream of the first token of each document.
    pub fn document_starts(&self) -> &[u64] {
        self.chosen.as_ref().map_or_else(|| self.file.document_starts(), |chosen| &chosen.starts)
    }

    /// Every token is below this.
    pub fn vocab_size(&self) -> usize {
        self.file.vocab_size()
    }

    /// Fills `out` with the tokens from index `start` on.
    ///
    /// # Panics
    /// When `start + out.len()` is past the end, as slicing does.
    pub fn read(&self, start: usize, mut out: &mut [u32]) {
        let Some(chosen) = &self.chosen else {
            return self.file.read(start, out);
        };
        assert!(start + out.len() <= chosen.len, "{} tokens from {start} on, of {}", out.len(), chosen.len);
        // The document that holds `start`: the last that begins at or before it.
        let mut index = chosen.starts.partition_point(|begin| *begin <= start as u64).saturating_sub(1);
        let mut skip = start - chosen.starts[index] as usize;
        while !out.is_empty() {
            let part = &chosen.parts[index];
            let take = (part.len() - skip).min(out.len());
            let (now, later) = out.split_at_mut(take);
            self.file.read(part.start + skip, now);
            (out, skip) = (later, 0);
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the tokens 0 to 9, in documents of 3, 1, 4 and 2.
    fn chosen(parts: &[(usize, usize)]) -> Result<TokenStream> {
        let file = TokenFile::from_tokens((0..10).collect(), vec![0, 3, 4, 8], 10).unwrap();
        TokenStream::of_parts(Arc::new(file), parts.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn chosen_parts_follow_each_other() {
        let whole = chosen(&[(0, 3), (4, 8), (8, 10)]).unwrap();
        assert_eq!((whole.len(), whole.document_starts()), (9, &[0, 3, 7][..]));
        let cut = chosen(&[(1, 3), (4, 5), (6, 8)]).unwrap();
        assert_eq!((cut.len(), cut.document_starts()), (5, &[0, 2, 3][..]));
        for (stream, all) in [(whole, &[0, 1, 2, 4, 5, 6, 7, 8, 9][..]), (cut, &[1, 2, 4, 6, 7][..])] {
            for start in 0..all.len() {
                for end in start..=all.len() {
                    let mut out = vec![99; end - start];
                    stream.read(start, &mut out);
                    assert_eq!(out, all[start..end]);
                }
            }
        }
    }

    #[test]
    fn wrong_choices_are_refused() {
        for parts in [&[][..], &[(8, 11)], &[(10, 11)], &[(2, 2)], &[(0, 3), (2, 4)], &[(4, 8), (0, 3)]] {
            assert!(chosen(parts).is_err(), "{parts:?}");
        }
    }
}
