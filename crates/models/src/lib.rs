//! The models floor: what was trained is what is served, because both stand on this crate.
//!
//! [`mixers`] holds one file a mixer, [`families`] one file a kind of checkpoint, [`weights`] the
//! file formats. [`model::Model`] joins them; [`convert`] makes a student of a teacher;
//! [`export`] writes a Hugging Face folder. `tests/conformance.rs` holds every registered
//! mixer to the suite in `crates/conformance`, `tests/golden.rs` families and mixers to PyTorch.

pub mod block;
pub mod config;
pub mod convert;
mod error;
pub mod export;
pub mod families;
mod forward;
pub mod likelihood;
pub mod mixers;
pub mod model;
pub mod param;
pub mod random;
pub mod rope;
pub mod sight;
pub mod source;
pub mod state;
mod tokenizer;
pub mod weight;
pub mod weights;

pub use config::{Diffusion, MixerSpec, ModelConfig};
pub use error::ModelError;
pub use model::Model;
pub use sight::Sight;
pub use state::{LayerState, ModelState};
pub use tokenizer::tokenizer;
pub use weight::{Weight, Weights};
