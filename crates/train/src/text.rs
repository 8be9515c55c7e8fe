//! The recipe's text as packed batches, and the held-out side as windows.

use crate::error::TrainError;
use crate::objectives::MicroBatch;
use crate::objectives::masked_diffusion::Draw;
use crate::recipe::{Embedded, Recipe, Stage};
use recast_models::state::Documents;
use recast_text::{
    CorpusOptions, HeldOut, Packing, PackingOptions, Progress, TokenFile, TokenFileOptions, TokenStream, Tokenizer,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Raised when the same files become other documents or tokens than before, or are split in another way, so that a
/// checkpoint can say that it was the program that changed.
pub const LAYOUT: u32 = 2;

/// Tokens to measure on where a recipe names no number, of a text of ten times as many or more.
pub(crate) const HELD_OUT: u64 = 50_000;

/// Tokenised text, split into a training and a held-out side.
pub struct RunText {
    /// To train on.
    pub train: TokenStream,
    /// To measure on.
    pub held_out: TokenStream,
    /// The recipe's `text.held_out_tokens`, or what stood for it.
    pub held_out_tokens: Option<u64>,
}

impl RunText {
    /// Tokenises (or opens the cached file of) the recipe's text.
    ///
    /// # Errors
    /// When a source cannot be read, is empty, or holds ids outside the vocabulary; when there is too
    /// little to keep some out.
    pub fn open(
        recipe: &Recipe,
        embedded: &Embedded,
        tokenizer: &Tokenizer,
        cache: &Path,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, TrainError> {
        let options = |max_tokens| -> Result<TokenFileOptions, TrainError> {
            Ok(TokenFileOptions {
                corpus: CorpusOptions {
                    chat_template: tokenizer.chat_template()?,
                    // Plain text files name their boundaries as the tokenizer does.
                    split_text_at: tokenizer.document_separator().and_then(|id| tokenizer.id_to_token(id)),
                    ..recipe.text.corpus()
                },
                separator: tokenizer.document_separator(),
                max_tokens,
            })
        };
        let mut build = |sources: &[PathBuf], max| -> Result<Arc<TokenFile>, TrainError> {
            Ok(Arc::new(TokenFile::build_while(sources, tokenizer, &options(max)?, cache, progress)?))
        };
        let (train, held_out) = embedded.text(&recipe.text);
        let train = build(&train, recipe.text.max_tokens)?;
        if held_out.is_empty() {
            // Of many small documents as many are kept out as are asked for, were it nearly all there is.
            let tokens = recipe.text.held_out_tokens.unwrap_or_else(|| HELD_OUT.min(train.len() as u64 / 10).max(1));
            let split = HeldOut(tokens).split(&train, recipe.seed).map_err(|error| {
                TrainError::Recipe(format!("text.train: {error}; or name files to measure on in text.held_out"))
            })?;
            Ok(Self { train: split.train, held_out: split.held_out, held_out_tokens: Some(tokens) })
        } else {
            let held_out = build(&held_out, None)?;
            let held_out_tokens = recipe.text.held_out_tokens;
            Ok(Self { train: TokenStream::whole(train), held_out: TokenStream::whole(held_out), held_out_tokens })
        }
    }

    /// The batches of a stage; stages of one run read in different orders.
    ///
    /// # Errors
    /// When the text is too short for one sample.
    pub fn packing(&self, recipe: &Recipe, stage: usize) -> Result<Packing, TrainError> {
        let Stage { context, batch, .. } = recipe.stages[stage];
        let options =
            PackingOptions { context, batch, seed: recipe.seed.wrapping_add(stage as u64), shuffle: recipe.text.shuffle()? };
        Ok(Packing::new(self.train.clone(), options)?)
    }
}

/// The micro-batches of one step, whose losses and gradients add up to the batch's mean. `seed` is what
/// noise is drawn from.
pub fn micro_batches(packing: &Packing, stage: &Stage, seed: u64, step: u64) -> Vec<MicroBatch> {
    let batch = packing.batch(step);
    let (context, columns) = (batch.columns - 1, batch.columns);
    let rows = stage.micro_batch.unwrap_or(batch.rows);
    // Position t predicts token t + 1; it does not count when that token begins a document.
    let counts = |row: usize, t: usize| !stage.reset_documents || !batch.document_starts[row * columns + t + 1];
    let all = (0..batch.rows).flat_map(|row| (0..context).map(move |t| (row, t)));
    let denominator = all.filter(|&(row, t)| counts(row, t)).count().max(1) as f32;
    (0..batch.rows)
        .step_by(rows)
        .map(|start| {
            let rows = start..(start + rows).min(batch.rows);
            let pick = |shift: usize| -> Vec<u32> {
                rows.clone()
                    .flat_map(|row| batch.tokens[row * columns + shift..row * columns + shift + context].iter().copied())
                    .collect()
            };
            let starts = || {
                rows.clone()
                    .flat_map(|row| batch.document_starts[row * columns..row * columns + context].iter().copied())
                    .collect()
            };
            let weights = || {
                let weight = |row, t| if counts(row, t) { 1.0 } else { 0.0 };
                rows.clone().flat_map(|row| (0..context).map(move |t| weight(row, t)).collect::<Vec<f32>>()).collect()
            };
            MicroBatch {
                rows: rows.len(),
                inputs: pick(0),
                targets: pick(1).into(),
                documents: stage.reset_documents.then(|| Documents::new(rows.len(), context, starts())),
                weights: stage.reset_documents.then(weights),
                denominator,
                prompt: None,
                response_share: None,
                lengths: None,
                draw: Draw { seed, step, steps: stage.steps(), first_row: start, rows: batch.rows },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::load_text;

    const RECIPE: &str = r#"
        name = "t"
        teacher.path = "x"
        student.mixer = { kind = "rwkv7" }
        text.train = ["notes.txt", "book.txt"]
        text.held_out_tokens = 2000
        [[stages]]
        name = "align"
        objective = "output-alignment"
        train = ["self_attn"]
        tokens = 1000
        context = 10
        batch = 3
        learning_rate = 1e-3
    "#;

    #[test]
    fn most_of_a_small_text_is_trained_on() {
        let folder = tempfile::tempdir().expect("folder");
        let mut recipe = load_text(RECIPE, &[]).expect("loads");
        recipe.text.train = vec![folder.path().join("t.jsonl")];
        let lines: String = (0..300).map(|i| format!("{{\"text\": \"{}\"}}\n", "ab".repeat(40 + i % 5))).collect();
        std::fs::write(&recipe.text.train[0], lines).expect("text");
        let tokenizer = Tokenizer::train_bpe(std::iter::empty(), 257, &["<|endoftext|>"]).expect("bytes");
        let mut sides = |tokens: Option<u64>| {
            recipe.text.held_out_tokens = tokens;
            let text =
                RunText::open(&recipe, &Embedded::default(), &tokenizer, folder.path(), &mut |_| ControlFlow::Continue(()))
                    .expect("opens");
            (text.train.len(), text.held_out.len(), text.held_out_tokens)
        };
        let (train, held_out, tokens) = sides(None);
        let all = train + held_out;
        assert_eq!(tokens, Some(all as u64 / 10));
        assert!((all / 10..all / 10 + 100).contains(&held_out), "{held_out} of {all}");
        // What was resolved gives the same split, and what was asked for is what is done.
        assert_eq!(sides(tokens), (train, held_out, tokens));
        let asked = sides(Some(5000));
        assert!((5000..5100).contains(&asked.1) && asked.2 == Some(5000), "{asked:?}");
    }

    #[test]
    fn a_book_beside_notes_is_trained_on_whatever_the_seed() {
        let folder = tempfile::tempdir().expect("folder");
        let mut recipe = load_text(RECIPE, &[]).expect("loads");
        for (file, text) in recipe.text.train.iter_mut().zip(["a note\n".repeat(40), "once upon a time\n".repeat(4000)]) {
            *file = folder.path().join(&*file);
            std::fs::write(file, text).expect("text");
        }
        // No merges: a byte is a token.
        let tokenizer = Tokenizer::train_bpe(std::iter::empty(), 257, &["<|endoftext|>"]).expect("bytes");
        for seed in 0..6 {
            recipe.seed = seed;
            let text =
                RunText::open(&recipe, &Embedded::default(), &tokenizer, folder.path(), &mut |_| ControlFlow::Continue(()))
                    .expect("opens");
            // The notes with the token behind them, and the end of the book.
            assert_eq!((text.held_out.len(), text.train.len()), (2000, 281 + 68_001 - 2000), "seed {seed}");
            assert_eq!((text.held_out.document_starts(), text.train.document_starts()), (&[0, 281][..], &[0][..]));
        }
        recipe.text.train.truncate(1);
        std::fs::write(&recipe.text.train[0], "brief").expect("text");
        let refused =
            RunText::open(&recipe, &Embedded::default(), &tokenizer, folder.path(), &mut |_| ControlFlow::Continue(())).err();
        let message = refused.expect("refused").to_string();
        assert!(message.contains("too few to keep some out") && message.contains("text.held_out"), "{message}");
    }
}
