//! What the tests of training share.

#![allow(dead_code, reason = "not every test program uses all of it")]

use burn::tensor::Device;
use recast_models::Model;
use recast_train::objectives::MicroBatch;
use std::path::{Path, PathBuf};

/// A file or folder of `tests/golden/train`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/train").join(name)
}

/// A model of that folder.
pub fn model(name: &str) -> Model {
    Model::open(&golden(name), &Device::flex()).expect("golden model")
}

/// The largest of some differences. One that is not a number is larger than all: `f64::max` would pass over it.
pub fn largest(differences: impl IntoIterator<Item = f64>) -> f64 {
    differences.into_iter().fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { most.max(d) })
}

/// Rows of text that all counts, a part of a batch of `denominator` tokens.
pub fn batch(rows: usize, inputs: Vec<u32>, denominator: usize) -> MicroBatch {
    MicroBatch {
        rows,
        targets: inputs.clone().into(),
        denominator: denominator as f32,
        inputs,
        documents: None,
        weights: None,
        prompt: None,
        response_share: None,
        lengths: None,
        draw: Default::default(),
    }
}
