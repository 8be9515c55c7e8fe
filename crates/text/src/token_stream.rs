//! All documents of a token file, or some of them, as one sequence.

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
    /// Numbers of the chosen documents, increasing.
    documents: Vec<usize>,
    /// Where each begins in this stream.
    starts: Vec<u64>,
    len: usize,
}

impl TokenStream {
    /// Every document.
    pub fn whole(file: Arc<TokenFile>) -> Self {
        Self { file, chosen: None }
    }

    /// Some documents, by number in increasing order.
    ///
    /// # Errors
    /// When there are none, or the numbers do not increase or pass the last document.
    pub fn of_documents(file: Arc<TokenFile>, documents: Vec<usize>) -> Result<Self> {
        let count = file.document_starts().len();
        if documents.is_empty() || documents.last().is_some_and(|last| *last >= count) {
            return Err(TextError::Request(format!(
                "expected at least one document, each below {count}; found {} with the last {:?}",
                documents.len(),
                documents.last()
            )));
        }
        if documents.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(TextError::Request("document numbers must increase".into()));
        }
        let (mut starts, mut len) = (Vec::with_capacity(documents.len()), 0);
        for document in &documents {
            starts.push(len as u64);
            len += file.document(*document).len();
        }
        Ok(Self { file, chosen: Some(Arc::new(Chosen { documents, starts, len })) })
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
            let range = self.file.document(chosen.documents[index]);
            let take = (range.len() - skip).min(out.len());
            let (now, later) = out.split_at_mut(take);
            self.file.read(range.start + skip, now);
            (out, skip) = (later, 0);
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_documents_follow_each_other() {
        let file = Arc::new(TokenFile::from_tokens((0..10).collect(), vec![0, 3, 4, 8], 10).unwrap());
        let stream = TokenStream::of_documents(Arc::clone(&file), vec![0, 2, 3]).unwrap();
        assert_eq!((stream.len(), stream.document_starts()), (9, &[0, 3, 7][..]));
        let all = [0, 1, 2, 4, 5, 6, 7, 8, 9];
        for start in 0..9 {
            for end in start..=9 {
                let mut out = vec![99; end - start];
                stream.read(start, &mut out);
                assert_eq!(out, all[start..end]);
            }
        }
        assert_eq!(TokenStream::whole(file).len(), 10);
    }

    #[test]
    fn wrong_choices_are_refused() {
        let file = Arc::new(TokenFile::from_tokens((0..10).collect(), vec![0, 3, 4, 8], 10).unwrap());
        for documents in [vec![], vec![4], vec![1, 1], vec![2, 0]] {
            assert!(TokenStream::of_documents(Arc::clone(&file), documents).is_err());
        }
    }
}
