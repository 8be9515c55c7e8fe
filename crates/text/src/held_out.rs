//! Keeping documents out of training, to measure on.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Result, TextError};
use crate::random::mix;
use crate::token_file::TokenFile;
use crate::token_stream::TokenStream;

/// How many tokens are kept out: as few documents, in a random order, as have this many together. Which they are is a
/// pure function of the seed and the documents.
///
/// A document is passed over that has more than half of all tokens, or with which there would be more than twice as many
/// as asked for and more than a tenth of all; where too few are left without those, the end of the longest of them is
/// kept out, at most a tenth of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldOut(pub u64);

/// The two sides of a split: to train on, and held out.
#[derive(Debug, Clone)]
pub struct Split {
    /// To train on.
    pub train: TokenStream,
    /// To measure on.
    pub held_out: TokenStream,
}

impl HeldOut {
    /// Splits the documents of a file.
    ///
    /// # Errors
    /// When no tokens are asked for, or one side would have none.
    pub fn split(self, file: &Arc<TokenFile>, seed: u64) -> Result<Split> {
        let Self(tokens) = self;
        if tokens == 0 {
            return Err(TextError::Request("0 tokens are to be held out; expected at least 1".into()));
        }
        let count = file.document_starts().len();
        // The constant keeps this draw apart from others with the same seed.
        let draw = |document: usize| mix(mix(seed ^ 0x68656c64) ^ document as u64);
        // From where on a document is kept out: from its end, as long as it is not.
        let mut cuts: Vec<usize> = (0..count).map(|document| file.document(document).end).collect();
        let all = file.len() as u64;
        // A document comes behind fewer than `tokens` tokens, so that one of at most that many never goes above this: of
        // many small documents those at the beginning of the order are taken, whatever the limits, and runs made earlier
        // keep their split.
        let most = tokens.saturating_mul(2).max(all / 10);
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_unstable_by_key(|document| (draw(*document), *document));
        let mut taken = 0;
        let mut longest: Option<(u64, usize)> = None;
        for document in order {
            if taken >= tokens {
                break;
            }
            let Range { start, end } = file.document(document);
            let len = (end - start) as u64;
            if taken + len > most || 2 * len > all {
                longest = longest.max(Some((len, document)));
                continue;
            }
            cuts[document] = start;
            taken += len;
        }
        if let Some((len, document)) = longest
            && taken < tokens
        {
            cuts[document] -= (len / 10).min(tokens - taken) as usize;
        }
        let side = |wanted: bool| -> Result<TokenStream> {
            let part = |(document, cut): (usize, &usize)| {
                let Range { start, end } = file.document(document);
                if wanted { *cut..end } else { start..*cut }
            };
            let parts: Vec<Range<usize>> = cuts.iter().enumerate().map(part).filter(|part| !part.is_empty()).collect();
            if parts.is_empty() {
                let side = if wanted { "held out" } else { "left to train on" };
                return Err(TextError::Request(format!(
                    "holding out {tokens} tokens of {count} documents with {} tokens leaves none {side}: they are too few to \
                     keep some out; use more text, hold out less, or split text files at their separator",
                    file.len()
                )));
            }
            TokenStream::of_parts(Arc::clone(file), parts)
        };
        Ok(Split { train: side(false)?, held_out: side(true)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Documents of four tokens, each its own number.
    fn file(documents: u32) -> Arc<TokenFile> {
        let tokens = (0..4 * documents).map(|at| at / 4).collect();
        let starts = (0..u64::from(documents)).map(|document| 4 * document).collect();
        Arc::new(TokenFile::from_tokens(tokens, starts, documents as usize).unwrap())
    }

    fn tokens(stream: &TokenStream) -> Vec<u32> {
        let mut out = vec![0; stream.len()];
        stream.read(0, &mut out);
        out
    }

    #[test]
    fn sides_are_disjoint_and_complete() {
        let file = file(1000);
        let split = |seed| HeldOut(401).split(&file, seed).unwrap();
        let first = split(7);
        let mut all = [tokens(&first.train), tokens(&first.held_out)].concat();
        all.sort_unstable();
        assert_eq!(all, (0..4000).map(|at| at / 4).collect::<Vec<u32>>());
        assert_eq!(tokens(&split(7).held_out), tokens(&first.held_out));
        assert_ne!(tokens(&split(8).held_out), tokens(&first.held_out));
        assert_eq!(first.held_out.len(), 404, "as few documents as have what was asked for");
    }

    /// Documents of these lengths, each token its document's number.
    fn lengths(lengths: &[usize]) -> Arc<TokenFile> {
        let tokens = (0u32..).zip(lengths).flat_map(|(document, len)| vec![document; *len]).collect();
        let starts = (0..lengths.len()).map(|document| lengths[..document].iter().sum::<usize>() as u64).collect();
        Arc::new(TokenFile::from_tokens(tokens, starts, lengths.len()).unwrap())
    }

    #[test]
    fn large_documents_are_not_kept_out() {
        for seed in 0..10 {
            let split = |documents: &[usize], wish| HeldOut(wish).split(&lengths(documents), seed).unwrap();
            // Notes and a book: the notes, and the end of the book for what they lack.
            let notes = split(&[20, 5000], 100);
            assert_eq!(tokens(&notes.held_out), [vec![0u32; 20], vec![1; 80]].concat());
            assert_eq!(tokens(&notes.train), [1; 4920]);
            assert_eq!((notes.held_out.document_starts(), notes.train.document_starts()), (&[0, 20][..], &[0][..]));
            // A book not much longer than what is asked for would be all the same nearly all there is.
            assert_eq!(split(&[20, 180], 100).held_out.len(), 20 + 18);
            // Only books: one ends earlier.
            let books = split(&[700; 6], 50);
            assert_eq!((books.held_out.len(), books.held_out.document_starts()), (50, &[0][..]));
            assert_eq!((books.train.len(), books.train.document_starts().len()), (4150, 6));
            // Books among small documents are passed over.
            let mixed = split(&[vec![900usize; 2], vec![10; 100]].concat(), 100);
            assert_eq!(mixed.held_out.len(), 100);
            assert!(tokens(&mixed.held_out).iter().all(|document| *document > 1));
            // A tenth of the text may be one document, however little was asked for.
            assert_eq!(split(&[300; 20], 50).held_out.len(), 300);
        }
    }

    #[test]
    fn of_one_document_the_end_is_kept_out() {
        let file = Arc::new(TokenFile::from_tokens((0..5000).collect(), vec![0], 5000).unwrap());
        for (wish, from) in [(100, 4900), (50_000, 4500), (u64::MAX, 4500)] {
            let split = HeldOut(wish).split(&file, 1).unwrap();
            assert_eq!(tokens(&split.train), (0..from).collect::<Vec<u32>>());
            assert_eq!(tokens(&split.held_out), (from..5000).collect::<Vec<u32>>());
        }
        let message = HeldOut(100).split(&lengths(&[9]), 1).unwrap_err().to_string();
        assert!(message.contains("9 tokens") && message.contains("too few to keep some out"), "{message}");
    }

    #[test]
    fn small_documents_are_those_first_in_the_order() {
        let sizes: Vec<usize> = (0..300).map(|document| 1 + document * 7 % 19).collect();
        for (wish, seed) in [(1, 1), (19, 2), (200, 3), (1500, 4), (2900, 5)] {
            let mut order: Vec<usize> = (0..300).collect();
            order.sort_unstable_by_key(|document| mix(mix(seed ^ 0x68656c64) ^ *document as u64));
            let mut taken = 0;
            order.retain(|document| {
                let more = taken < wish;
                taken += if more { sizes[*document] as u64 } else { 0 };
                more
            });
            order.sort_unstable();
            let expected: Vec<u32> = order.iter().flat_map(|document| vec![*document as u32; sizes[*document]]).collect();
            let split = HeldOut(wish).split(&lengths(&sizes), seed).unwrap();
            assert_eq!(tokens(&split.held_out), expected, "{wish}");
        }
    }

    #[test]
    fn impossible_splits_are_refused() {
        for tokens in [0, 40] {
            assert!(HeldOut(tokens).split(&file(10), 1).is_err(), "{tokens}");
        }
        assert!(HeldOut(1).split(&file(1), 1).is_err());
    }
}
