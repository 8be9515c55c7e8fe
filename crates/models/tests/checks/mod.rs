//! The promises of a mixer (`docs/adding-a-mixer.md`), as functions on any mixer: whole models in
//! `whole.rs`, single mixers in `single.rs`, gradients in `gradients.rs`, what they run on in
//! `subjects.rs`. `conformance.rs` runs them on every registered mixer; a new mixer needs no new
//! check, at most a line in `variants.rs`.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod gradients;
pub mod single;
pub mod subjects;
pub mod variants;
pub mod whole;

use recast_models::MixerSpec;
use recast_models::mixers::registered;
use subjects::{Body, Subject};

/// Equal up to the order of f32 sums: `max |x - y| / max |y|`.
pub const ROUNDING: f32 = 1e-5;
/// The same for packed documents: every boundary in a chunk adds 40 to the cumulative log decays of
/// a recurrence, and so a few 1e-6 to their rounding; the tests put three into one.
pub const PACKED: f32 = 1e-4;

/// Every promise, for one mixer in every layer of a model with that body.
pub fn hold(name: &str, mixers: &[MixerSpec], body: Body) {
    let subject = Subject::new(name, mixers, body);
    whole::chunk_equals_tokens_one_by_one(&subject);
    whole::two_chunks_equal_one(&subject);
    whole::packed_documents_equal_separate_ones(&subject);
    whole::a_batch_equals_its_rows(&subject);
    whole::a_fork_leaves_the_state_alone(&subject);
    whole::saving_and_loading_changes_nothing(&subject);
    whole::the_last_token_alone(&subject);
    whole::state_bytes_are_as_claimed(&subject);
    for layer in 0..mixers.len() {
        single::packed_documents_equal_separate_ones(&subject, layer);
    }
    gradients::parameters_and_inputs(&subject);
}

/// Every promise, in every layer, for every variant of the mixer of that name.
pub fn hold_registered(name: &str) {
    assert!(registered().iter().any(|r| r.name == name), "{name} is not registered");
    for (i, (variant, spec)) in variants::of(name).into_iter().enumerate() {
        let bodies = if i == 0 { Body::ALL.to_vec() } else { vec![Body::ALL[i % Body::ALL.len()]] };
        for body in bodies {
            hold(&format!("{name} ({variant})"), &[spec.clone(), spec.clone()], body);
        }
    }
}

/// `max |x - y| / max |y|`
pub fn difference(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "lengths");
    let scale = y.iter().fold(1e-6f32, |m, y| m.max(y.abs()));
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) }) / scale
}

/// Fails with the subject's name when `x` and `y` differ by more than `tolerance`. With
/// `RECAST_SHOW_DIFFERENCES` set (and `--nocapture`) prints what differs by how much.
pub fn assert_close(x: &[f32], y: &[f32], tolerance: f32, subject: &str, what: &str) {
    let difference = difference(x, y);
    assert!(difference < tolerance, "{subject}: {what}: differs by {difference:e}");
    show(f64::from(difference), what, subject);
}

/// Prints a difference where asked to.
pub fn show(difference: f64, what: &str, subject: &str) {
    if std::env::var_os("RECAST_SHOW_DIFFERENCES").is_some() {
        println!("{difference:9.2e} {what}, {subject}");
    }
}
