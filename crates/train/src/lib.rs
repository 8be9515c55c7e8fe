//! The training floor: recipes, stages, objectives, and a trainer that can be killed at any moment.
//!
//! [`recipe`] says what is to be done, [`plan`] what it will cost, [`trainer`] does it stage by
//! stage: [`objectives`] turn a batch and two models into a loss and gradients, [`optimizer`] and
//! [`schedule`] turn gradients into new weights, [`checkpoint`] makes every step one that can be
//! returned to, [`metrics`] writes down what happened. Everything that depends on randomness is a
//! pure function of the recipe's seed and the step, so that a resumed run is the undisturbed run
//! (`tests/resume.rs` at the root).

pub mod checkpoint;
mod error;
mod fingerprint;
pub mod metrics;
pub mod objectives;
pub mod optimizer;
pub mod pairs;
pub mod plan;
pub mod recipe;
pub mod schedule;
pub mod teacher;
pub mod text;
pub mod trainer;
pub mod validate;

pub use error::TrainError;
pub use recipe::Recipe;
pub use trainer::{Event, Observer, Trainer};
