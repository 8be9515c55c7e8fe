//! Verbs, one file each: its arguments (clap) and a `run`. Results go to standard output, talk to
//! standard error. To add one: a file here and a line in `lib.rs`.

pub mod bench;
pub mod chat;
pub mod convert;
pub mod eval;
pub mod generate;
pub mod info;
pub mod logits;
pub mod plan;
pub mod replay;
pub mod schema;
pub mod serve;
pub mod train;
