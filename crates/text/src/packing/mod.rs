//! Batches of fixed length out of a stream of documents.
//!
//! Here live [`Packing`] (this file) and the orders in which it visits a stream (`order.rs`). To
//! add an order, add a variant to [`Shuffle`] and its arm in `order.rs`; the property tests there
//! hold each to visiting every slot once an epoch, in an order that only the seed and the number
//! of the epoch decide.

mod order;

use crate::error::{Result, TextError};
use crate::token_stream::TokenStream;

use order::Order;
pub use order::Shuffle;

/// How a stream is cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackingOptions {
    /// Tokens a sample is trained on, T. A sample has T + 1: inputs and their successors.
    pub context: usize,
    /// Samples a batch, B.
    pub batch: usize,
    /// Decides the order of samples.
    pub seed: u64,
    /// How the order is made.
    pub shuffle: Shuffle,
}

/// Cuts a stream into slots of T tokens, as RADLADS does, and serves them in batches.
///
/// Sample i of an epoch is the slot that the shuffle gives for i, with the first token of the next
/// slot as its last target. Documents are packed one behind the other and cut where a slot ends;
/// their boundaries come with each batch. A batch depends on the stream, the options and the
/// number of the step alone, so that going on after an interruption needs no state.
#[derive(Debug, Clone)]
pub struct Packing {
    stream: TokenStream,
    options: PackingOptions,
    order: Order,
}

/// B samples of T + 1 tokens, each list row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Samples, B.
    pub rows: usize,
    /// Tokens a row, T + 1.
    pub columns: usize,
    /// Token ids, `[B, T + 1]`.
    pub tokens: Vec<u32>,
    /// Whether a document begins at this token, `[B, T + 1]`. A row usually begins inside one.
    pub document_starts: Vec<bool>,
}

impl Packing {
    /// Prepares to cut a stream.
    ///
    /// # Errors
    /// When context or batch is 0, or the stream is too short for one sample (two, for the cubic
    /// order).
    pub fn new(stream: TokenStream, options: PackingOptions) -> Result<Self> {
        let PackingOptions { context, batch, .. } = options;
        if context == 0 || batch == 0 || u32::try_from(context).is_err() {
            return Err(TextError::Request(format!(
                "context is {context} and batch {batch}; expected at least 1 of each, and a context below 2^32"
            )));
        }
        if context.checked_add(1).and_then(|columns| columns.checked_mul(batch)).is_none_or(|all| all > 1 << 32) {
            return Err(TextError::Request(format!(
                "a batch of {batch} samples of {context} tokens has more than 2^32; use a smaller batch"
            )));
        }
        let slots = (stream.len() - 1) / context;
        let order = Order::new(options.shuffle, options.seed, slots as u64).ok_or_else(|| {
            TextError::Request(format!(
                "{} tokens make {slots} samples of {context} + 1; expected at least {}. Use more text or a shorter \
                 context",
                stream.len(),
                options.shuffle.least_slots()
            ))
        })?;
        Ok(Self { stream, options, order })
    }

    /// Index in the stream of the first token of a sample, counted over all epochs from 0.
    pub fn offset(&self, sample: u128) -> usize {
        // A slot is below the stream's number of slots, which is a usize.
        self.order.slot(sample) as usize * self.options.context
    }

    /// The batch of a step, counted from 0.
    pub fn batch(&self, step: u64) -> Batch {
        let first = u128::from(step) * self.options.batch as u128;
        self.gather((0..self.options.batch).map(|row| self.offset(first + row as u128)))
    }

    /// The stream from its beginning, in order and without shuffling, in batches of at most B
    /// samples; tokens at the end that fill no sample are left out. For measuring.
    pub fn sequential(&self) -> impl Iterator<Item = Batch> + '_ {
        let (context, rows) = (self.options.context, self.options.batch);
        let slots = (self.stream.len() - 1) / context;
        (0..slots).step_by(rows).map(move |first| self.gather((first..slots.min(first + rows)).map(|slot| slot * context)))
    }

    fn gather(&self, offsets: impl ExactSizeIterator<Item = usize>) -> Batch {
        let (rows, columns) = (offsets.len(), self.options.context + 1);
        let mut batch = Batch { rows, columns, tokens: vec![0; rows * columns], document_starts: vec![false; rows * columns] };
        let all_starts = self.stream.document_starts();
        for (row, offset) in offsets.enumerate() {
            let cells = row * columns..(row + 1) * columns;
            self.stream.read(offset, &mut batch.tokens[cells.clone()]);
            let from = all_starts.partition_point(|start| *start < offset as u64);
            let starts = &mut batch.document_starts[cells];
            for start in all_starts[from..].iter().take_while(|start| **start < (offset + columns) as u64) {
                starts[*start as usize - offset] = true;
            }
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::token_file::TokenFile;

    /// The numbers 0..len as tokens, with documents beginning at `starts`.
    fn stream(len: u32, starts: &[u64]) -> TokenStream {
        let file = TokenFile::from_tokens((0..len).collect(), starts.to_vec(), len as usize).unwrap();
        TokenStream::whole(Arc::new(file))
    }

    fn options(context: usize, batch: usize) -> PackingOptions {
        PackingOptions { context, batch, seed: 11, shuffle: Shuffle::Feistel }
    }

    #[test]
    fn samples_overlap_by_the_last_target() {
        let packing = Packing::new(stream(21, &[0]), options(5, 2)).unwrap();
        let mut rows: Vec<Vec<u32>> =
            (0..2).flat_map(|step| packing.batch(step).tokens.chunks(6).map(<[u32]>::to_vec).collect::<Vec<_>>()).collect();
        rows.sort();
        assert_eq!(rows, [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10], [10, 11, 12, 13, 14, 15], [15, 16, 17, 18, 19, 20]]);
    }

    #[test]
    fn boundaries_follow_documents() {
        let batch = Packing::new(stream(7, &[0, 2, 5]), options(6, 1)).unwrap().batch(0);
        assert_eq!(batch.document_starts, [true, false, true, false, false, true, false]);
    }

    #[test]
    fn rows_begin_inside_documents_too() {
        let packing = Packing::new(stream(9, &[0, 3, 4]), options(2, 4)).unwrap();
        let batch = packing.sequential().next().unwrap();
        let starts: Vec<Vec<bool>> = batch.document_starts.chunks(3).map(<[bool]>::to_vec).collect();
        assert_eq!(starts, [[true, false, false], [false, true, true], [true, false, false], [false, false, false]]);
    }

    #[test]
    fn in_sequence_every_slot_comes_once_in_order() {
        let packing = Packing::new(stream(18, &[0]), options(5, 2)).unwrap();
        let batches: Vec<Batch> = packing.sequential().collect();
        assert_eq!(batches.iter().map(|batch| batch.rows).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(batches[1].tokens, [10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (context, batch) in [(0, 1), (1, 0), (21, 1), (usize::MAX, 1), (5, usize::MAX)] {
            assert!(Packing::new(stream(21, &[0]), options(context, batch)).is_err(), "{context} {batch}");
        }
        assert!(Packing::new(stream(1, &[0]), options(1, 1)).is_err());
        let cubic = PackingOptions { shuffle: Shuffle::Cubic, ..options(20, 1) };
        assert!(Packing::new(stream(21, &[0]), cubic).is_err());
        assert!(Packing::new(stream(21, &[0]), options(20, 1)).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_step_can_be_had_without_those_before(
            len in 40u32..400, context in 1usize..9, batch in 1usize..6, seed: u64, step in 0u64..200,
            cubic: bool, cut in 1u64..39,
        ) {
            let shuffle = if cubic { Shuffle::Cubic } else { Shuffle::Feistel };
            let make = || {
                let options = PackingOptions { seed, shuffle, ..options(context, batch) };
                Packing::new(stream(len, &[0, cut]), options).unwrap()
            };
            let resumed = make().batch(step);
            let fresh = make();
            let mut last = fresh.batch(0);
            for step in 1..=step {
                last = fresh.batch(step);
            }
            prop_assert_eq!(&resumed, &last);
            // Every row is a contiguous slice at a multiple of the context.
            for row in resumed.tokens.chunks(context + 1) {
                prop_assert_eq!(row[0] as usize % context, 0);
                prop_assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1));
            }
        }
    }
}
