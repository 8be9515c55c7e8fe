//! Retention keeps every promise of a mixer, and the program that knows it converts the embedded teacher to it.

use recast_conformance::{Body, Subject, hold, hold_registered};
use recast_models::mixers::{Registration, find, register};
use recast_models::source::{Builder, FromParams, Missing};
use recast_models::{MixerSpec, Model};
use retention::Retention;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn add() {
    register(Registration::of::<Retention>());
}

#[test]
fn keeps_every_promise() {
    add();
    hold_registered("retention", &[json!({}), json!({"slowest": 6})]);
    let mixers = ["retention", "softmax", "gated_deltanet", "retention"].map(MixerSpec::new);
    hold("retention among others", &mixers, Body::Biases);
}

#[test]
fn slips_are_named() {
    add();
    let error = find("retension").err().expect("no such mixer").to_string();
    assert!(error.contains("did you mean `retention`?"), "{error}");
}

#[test]
fn a_state_that_forgets_everything_is_refused() {
    add();
    let layer = Subject::new("retention", &[MixerSpec::new("retention")], Body::Plain).mixer(0).1;
    let source = FromParams::default();
    let builder = Builder::new(&source, Missing::Initialise { seed: 1 }, burn::tensor::Device::flex());
    let refused = MixerSpec::new("retention").with("slowest", 0).build(&layer, &builder).err();
    let message = refused.expect("refused").to_string();
    assert!(message.contains("slowest is 0, expected at least 1"), "{message}");
}

/// Runs the program in a folder; its output as JSON.
fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_recast-retention"))
        .current_dir(folder)
        .args(["--no-progress", "--json"])
        .args(arguments)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn converts_the_embedded_teacher() {
    let folder = tempfile::tempdir().expect("folder");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("retention.toml");
    let recipe = recipe.to_str().expect("a path in UTF-8");
    let mut arguments = vec!["convert", recipe, "--out", "run"];
    for set in ["stages.align.tokens=40960", "stages.distil.tokens=20480", "validation.tokens=4096"] {
        arguments.extend(["--set", set]);
    }
    let summary = run(folder.path(), &arguments);
    let kl = |held_out: &Value| held_out[1]["kl"].as_f64();
    let kls: Vec<f64> = summary["held_out"].as_array().into_iter().flatten().filter_map(kl).collect();
    let (first, last) = (kls[0], kls[kls.len() - 1]);
    assert!(last < 0.5 * first, "KL from the teacher went from {first} to {last}");

    let model = folder.path().join("run/model");
    let info = run(folder.path(), &["info", model.to_str().expect("a path in UTF-8")]);
    assert!(info.to_string().contains("retention"), "{info}");
    // The folder is a model for whoever registers the mixer.
    add();
    let model = Model::open(&model, &burn::tensor::Device::flex()).expect("opens");
    assert_eq!(model.config.mixers[0], MixerSpec::new("retention").with("slowest", 8));
    assert_eq!(model.state_bytes(10), model.state_bytes(100_000));
}
