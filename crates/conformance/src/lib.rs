//! What every mixer must keep (`docs/adding-a-mixer.md`), as functions on any mixer, of this repository or of
//! another crate. A test of one that is registered is a line:
//!
//! ```ignore
//! #[test]
//! fn keeps_every_promise() {
//!     mixers::register(Registration::of::<MyMixer>());
//!     recast_conformance::hold_registered("my_mixer", &[json!({}), json!({"option": 3})]);
//! }
//! ```
//!
//! Whole models in `whole.rs`, single mixers in `single.rs`, gradients in `gradients.rs`, models that denoise in
//! `denoise.rs`, what they run on in `subjects.rs`. A failed check panics and says what differs where.

mod denoise;
mod gradients;
mod single;
mod subjects;
mod whole;

pub use single::random;
pub use subjects::{Body, Subject, randomise};
pub use whole::same_files;

use recast_models::MixerSpec;
use recast_models::mixers::registered;
use serde_json::Value;

/// Equal up to the order of f32 sums: `max |x - y| / max |y|`.
pub const ROUNDING: f32 = 1e-5;
/// The same for packed documents: every boundary in a chunk adds 40 to the cumulative log decays of
/// a recurrence, and so a few 1e-6 to their rounding; the tests put three into one.
pub const PACKED: f32 = 1e-4;

/// Every promise, for these mixers in the layers of a model with that body.
///
/// # Panics
/// When one is broken, with what differs.
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
        denoise::a_block_sees_all_of_itself(&subject, layer);
    }
    denoise::states_stay_as_they_are_and_rows_are_alone(&subject);
    denoise::no_row_sees_padding(&subject);
    denoise::constant_states_look_back_only(&subject);
    denoise::two_streams_are_blocks_behind_states(&subject);
    gradients::parameters_and_inputs(&subject);
    gradients::through_the_states_of_two_streams(&subject);
}

/// Every promise, in both layers of a model, for a registered mixer with each of these tables of options, of
/// which `json!({})` is the mixer's own: the first on every body, the others on one each.
///
/// # Panics
/// When the mixer is not registered, an option is not known, or a promise is broken.
pub fn hold_registered(name: &str, options: &[Value]) {
    assert!(registered().iter().any(|r| r.name == name), "{name} is not registered");
    assert!(!options.is_empty(), "{name}: no options to try; `json!({{}})` are its own");
    for (i, options) in options.iter().enumerate() {
        let spec = spec(name, options);
        let bodies = if i == 0 { Body::ALL.to_vec() } else { vec![Body::ALL[i % Body::ALL.len()]] };
        for body in bodies {
            hold(&format!("{name} ({options})"), &[spec.clone(), spec.clone()], body);
        }
    }
}

/// A mixer with a table of options.
///
/// # Panics
/// When they are no table.
pub fn spec(name: &str, options: &Value) -> MixerSpec {
    let Value::Object(options) = options else { panic!("{name}: options are a table, not {options}") };
    MixerSpec { kind: name.into(), options: options.clone() }
}

/// `max |x - y| / max |y|`
///
/// # Panics
/// When the lengths differ.
pub fn difference(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len(), "lengths");
    let scale = y.iter().fold(1e-6f32, |m, y| m.max(y.abs()));
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) }) / scale
}

/// Fails with the subject's name when `x` and `y` differ by more than `tolerance`. With
/// `RECAST_SHOW_DIFFERENCES` set (and `--nocapture`) prints what differs by how much.
///
/// # Panics
/// Then, and when the lengths differ.
pub fn assert_close(x: &[f32], y: &[f32], tolerance: f32, subject: &str, what: &str) {
    let difference = difference(x, y);
    assert!(difference < tolerance, "{subject}: {what}: differs by {difference:e}");
    show(f64::from(difference), what, subject);
}

/// Prints a difference where asked to.
fn show(difference: f64, what: &str, subject: &str) {
    if std::env::var_os("RECAST_SHOW_DIFFERENCES").is_some() {
        println!("{difference:9.2e} {what}, {subject}");
    }
}
