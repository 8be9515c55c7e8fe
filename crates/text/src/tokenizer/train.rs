//! Training a small vocabulary, as for the model that is embedded in the program.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl};

use super::Tokenizer;
use crate::error::{Result, TextError};
use crate::pieces::{PIECE_BYTES, pieces};

/// The 256 letters that stand for bytes; without all of them some text has no tokens.
const BYTE_LETTERS: usize = 256;

impl Tokenizer {
    /// Trains a byte-level BPE vocabulary: SmolLM2's splitting (each digit alone, GPT-2's words),
    /// the special tokens at ids 0, 1, ..., then the 256 bytes, then merges by frequency. Text
    /// too poor for `vocab_size` tokens gives fewer.
    ///
    /// # Errors
    /// When `vocab_size` has no room for the special tokens and the 256 bytes.
    pub fn train_bpe<T>(texts: T, vocab_size: usize, special_tokens: &[&str]) -> Result<Self>
    where
        T: Iterator<Item = String> + Send,
    {
        let least = BYTE_LETTERS + special_tokens.len();
        if vocab_size < least {
            return Err(TextError::tokenizer(
                "training",
                format!(
                    "vocab_size is {vocab_size}; expected at least {least} (256 bytes and {} special tokens)",
                    special_tokens.len()
                ),
            ));
        }
        let failed = |error: tokenizers::Error| TextError::tokenizer("training", error.to_string());
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(special_tokens.iter().map(|token| AddedToken::from(*token, true)).collect())
            .build();
        let pre_tokenizer: tokenizers::PreTokenizerWrapper =
            serde_json::from_value(super::digits_then_bytes()).map_err(|error| failed(error.into()))?;
        let mut training: TokenizerImpl<
            BPE,
            tokenizers::NormalizerWrapper,
            tokenizers::PreTokenizerWrapper,
            tokenizers::PostProcessorWrapper,
            tokenizers::DecoderWrapper,
        > = TokenizerImpl::new(BPE::default());
        training.with_pre_tokenizer(Some(pre_tokenizer));
        training.with_decoder(Some(ByteLevel::default()));
        // The words of a whole text are held at once, many times as large as it: a piece's are not.
        let texts = texts.flat_map(|text| pieces(&text, PIECE_BYTES).map(str::to_owned).collect::<Vec<String>>());
        training.train(&mut trainer, texts).map_err(failed)?;
        let json = serde_json::to_vec(&training).map_err(|error| failed(error.into()))?;
        Self::from_json("training", &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: &[&str] = &["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

    fn texts() -> impl Iterator<Item = String> + Send {
        (0..50).map(|number| format!("the cat sat on the mat {number} times, the cat did"))
    }

    #[test]
    fn training_is_repeatable_and_learns_words() {
        let tokenizer = Tokenizer::train_bpe(texts(), 300, SPECIAL).unwrap();
        let again = Tokenizer::train_bpe(texts(), 300, SPECIAL).unwrap();
        assert_eq!(tokenizer.fingerprint(), again.fingerprint());
        assert!(tokenizer.vocab_size() <= 300 && tokenizer.vocab_size() > 259);
        assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
        assert!(tokenizer.eos_ids().contains(&2) && tokenizer.eos_ids().contains(&0));
        let the = tokenizer.token_to_id("\u{120}the").expect("a frequent word is one token");
        assert_eq!(tokenizer.encode(" the the", false).unwrap(), [the, the]);
        let text = "unseen \u{65e5}\u{672c} \u{1f600} 42\n";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).unwrap(), false), text);
    }

    #[test]
    fn a_vocabulary_too_small_for_bytes_is_refused() {
        let message = Tokenizer::train_bpe(texts(), 200, SPECIAL).unwrap_err().to_string();
        assert!(message.contains("259"), "{message}");
    }
}
