//! Denoising: a text begins as masks, a forward pass predicts all of them, and a rule commits those
//! that are sure enough. Of models of uniform noise it begins as random tokens (`row/uniform.rs`).
//!
//! [`Row`] is one text on its way: a [`Canvas`] of fixed text and holes, worked through block by
//! block. [`step`] makes one forward pass for many rows, [`commit`] holds the rules, [`Draw`] draws a
//! token from the logits of a position. A model is a [`Denoiser`] by way of
//! [`Masked`]; a table of logits is one in the tests. [`Filler`] makes texts, alone or in batches; the
//! engine does it for many requests at a time.
//!
//! To add a rule: a variant of [`Rule`], its range in [`Denoising::check`], its lines in `commit.rs`
//! and a test beside them. `tests/denoising.rs` holds all rules to the limits at which they write one
//! token a step, `tests/denoising_models.rs` caches to what was computed without, and rows to what they
//! write alone.

mod candidate;
mod canvas;
mod commit;
mod denoiser;
mod filler;
mod model;
mod noise;
mod record;
mod row;
mod run;
mod settings;
pub mod trace;

pub use candidate::{Candidate, Draw};
pub use canvas::{Canvas, POSITIONS};
pub use commit::{Placed, commit};
pub use denoiser::{Blind, Denoiser, Read, Shape, View, guide};
pub use filler::{Denoised, Filler};
pub(crate) use filler::{stop_within, turn_ends};
pub use model::{Carried, Masked};
pub use noise::Noise;
pub use record::{Change, Ghost, Step};
pub use row::{Counters, Row};
pub use run::{read, step};
pub use settings::{BLOCK, Denoising, Editing, Ends, Keep, Order, Remasking, Rule};
