//! Text, tokens, prompts and corpora.

mod chat_template;
mod error;
mod files;
mod tokenizer;

pub use chat_template::{ChatTemplate, Message};
pub use error::{Result, TextError};
pub use tokenizer::{DecodeStream, GgufVocab, KNOWN_PRE_TOKENIZERS, Tokenizer};
