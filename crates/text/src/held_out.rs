//! Keeping documents out of training, to measure on.

use std::sync::Arc;

use crate::error::{Result, TextError};
use crate::random::mix;
use crate::token_file::TokenFile;
use crate::token_stream::TokenStream;

/// How much is kept out. Whole documents are, and which is a pure function of the seed and the
/// document's number: a document keeps its side when more are added behind it (with `Fraction`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// This share of the documents, above 0 and below 1, each by its own draw.
    Fraction(f64),
    /// As few documents, in a random order, as have this many tokens together.
    Tokens(u64),
}

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
    /// When the fraction is not between 0 and 1, or one side would have no document.
    pub fn split(self, file: &Arc<TokenFile>, seed: u64) -> Result<Split> {
        let count = file.document_starts().len();
        // The constant keeps this draw apart from others with the same seed.
        let draw = |document: usize| mix(mix(seed ^ 0x68656c64) ^ document as u64);
        let mut kept_out = vec![false; count];
        match self {
            Self::Fraction(fraction) => {
                if !(fraction > 0.0 && fraction < 1.0) {
                    return Err(TextError::Request(format!("held-out fraction is {fraction}; expected above 0 and below 1")));
                }
                for (document, kept_out) in kept_out.iter_mut().enumerate() {
                    // The upper 53 bits: exactly what an f64 holds.
                    *kept_out = ((draw(document) >> 11) as f64) < fraction * (1u64 << 53) as f64;
                }
            }
            Self::Tokens(tokens) => {
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_unstable_by_key(|document| (draw(*document), *document));
                let mut taken = 0;
                for document in order {
                    if taken >= tokens {
                        break;
                    }
                    kept_out[document] = true;
                    taken += file.document(document).len() as u64;
                }
            }
        }
        let side = |wanted: bool| -> Result<TokenStream> {
            let documents: Vec<usize> = (0..count).filter(|document| kept_out[*document] == wanted).collect();
            if documents.is_empty() {
                let side = if wanted { "held out" } else { "left to train on" };
                return Err(TextError::Request(format!(
                    "holding out {self:?} of {count} documents leaves none {side}; use more documents, or split \
                     text files at their separator"
                )));
            }
            TokenStream::of_documents(Arc::clone(file), documents)
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
        for how in [HeldOut::Fraction(0.2), HeldOut::Tokens(401)] {
            let file = file(1000);
            let split = how.split(&file, 7).unwrap();
            let mut all = [tokens(&split.train), tokens(&split.held_out)].concat();
            all.sort_unstable();
            assert_eq!(all, (0..4000).map(|at| at / 4).collect::<Vec<u32>>(), "{how:?}");
            let again = how.split(&file, 7).unwrap();
            assert_eq!(tokens(&again.held_out), tokens(&split.held_out));
            assert_ne!(tokens(&how.split(&file, 8).unwrap().held_out), tokens(&split.held_out));
        }
    }

    #[test]
    fn amounts_are_as_asked() {
        let share = HeldOut::Fraction(0.2).split(&file(1000), 1).unwrap().held_out.len();
        assert!((600..1000).contains(&share), "{share} of 4000 tokens");
        assert_eq!(HeldOut::Tokens(401).split(&file(1000), 1).unwrap().held_out.len(), 404);
    }

    #[test]
    fn documents_keep_their_side_when_more_come() {
        let held = |documents| tokens(&HeldOut::Fraction(0.3).split(&file(documents), 3).unwrap().held_out);
        let (few, many) = (held(200), held(300));
        assert_eq!(few, many[..few.len()]);
    }

    #[test]
    fn impossible_splits_are_refused() {
        for how in
            [HeldOut::Fraction(0.0), HeldOut::Fraction(1.0), HeldOut::Fraction(f64::NAN), HeldOut::Tokens(0), HeldOut::Tokens(40)]
        {
            assert!(how.split(&file(10), 1).is_err(), "{how:?}");
        }
        assert!(HeldOut::Fraction(0.5).split(&file(1), 1).is_err());
    }
}
