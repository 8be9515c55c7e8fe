//! Text on its way to a model and back: tokenizers, chat templates, corpora, token files, batches.
//!
//! The way through: [`open`] streams [`Document`]s out of files, [`TokenFile::build`] tokenizes
//! them once into a cached file, [`HeldOut`] keeps documents apart for measuring, and [`Packing`]
//! cuts the rest into [`Batch`]es. [`Tokenizer`] and [`ChatTemplate`] serve prompts as well. To
//! add a kind of corpus see `corpus/`, a source of tokenizers `tokenizer/`, an order of samples
//! `packing/`; the tests in each folder say what it must keep. Nothing here knows tensors.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod chat_template;
mod corpus;
mod error;
pub mod files;
mod held_out;
mod packing;
mod pieces;
mod random;
mod token_file;
mod token_stream;
mod tokenizer;

pub use chat_template::{ChatTemplate, Message};
pub use corpus::{Binidx, BinidxWriter, Content, Corpus, CorpusOptions, Document, FileSize, expand, file_size, open};
pub use error::{Result, TextError};
pub use held_out::{HeldOut, Split};
pub use packing::{Batch, Packing, PackingOptions, Shuffle};
pub use token_file::{Progress, TokenFile, TokenFileOptions};
pub use token_stream::TokenStream;
pub use tokenizer::{DecodeStream, GgufVocab, KNOWN_PRE_TOKENIZERS, Tokenizer};
