//! Every registered mixer, in every variant, against the promises of `crates/conformance`.

mod variants;

use burn::tensor::Device;
use recast_conformance::{Body, ROUNDING, assert_close, hold, hold_registered, randomise};
use recast_models::mixers::registered;
use recast_models::param::values;
use recast_models::source::{FromParams, Missing};
use recast_models::{MixerSpec, Model, ModelError, ModelState, families};

fn held(name: &str) {
    hold_registered(name, &variants::of(name));
}

#[test]
fn softmax() {
    held("softmax");
}

#[test]
fn rwkv6() {
    held("rwkv6");
}

#[test]
fn rwkv7() {
    held("rwkv7");
}

/// Whatever else is registered, so that a new mixer needs no line here.
#[test]
fn all_others() {
    for mixer in registered().iter().filter(|m| !["softmax", "rwkv6", "rwkv7"].contains(&m.name)) {
        held(mixer.name);
    }
}

/// Models that mix mixers, with either kind in layer 0.
#[test]
fn mixed() {
    let spec = |name: &str, variant: usize| recast_conformance::spec(name, &variants::of(name)[variant]);
    hold(
        "softmax, rwkv7, rwkv6, rwkv7",
        &[spec("softmax", 0), spec("rwkv7", 0), spec("rwkv6", 0), spec("rwkv7", 2)],
        Body::Plain,
    );
    hold("rwkv7, windowed softmax, rwkv6", &[spec("rwkv7", 0), spec("softmax", 1), spec("rwkv6", 6)], Body::Biases);
    hold("rwkv6, rwkv7, softmax without positions", &[spec("rwkv6", 0), spec("rwkv7", 1), spec("softmax", 4)], Body::Norms);
    // All that are registered, in one model, first to last and last to first.
    let mut all: Vec<MixerSpec> = registered().iter().map(|m| spec(m.name, 0)).collect();
    hold("one of each", &all, Body::Plain);
    all.reverse();
    hold("one of each, reversed", &all, Body::Biases);
}

/// That the checks notice: an option that drops a part of the gradient, by intention.
#[test]
#[should_panic(expected = "gradient of")]
fn a_dropped_gradient_is_noticed() {
    let spec = recast_conformance::spec("rwkv7", &variants::of("rwkv7")[0]);
    hold("rwkv7, layer 0 detached", &[spec.clone().with("detach_first_value", true), spec], Body::Plain);
}

/// With frequencies that depend on the length, a short sequence does not feel a long one beside it.
#[test]
fn dynamic_rope_is_each_rows_own() {
    let mut config = Body::Plain.config(1);
    config["rope_scaling"] = serde_json::json!({"rope_type": "dynamic", "factor": 4.0});
    config["max_position_embeddings"] = 8.into();
    let config = families::parse(&config).expect("config");
    let model = Model::build(config, &FromParams::default(), Missing::Initialise { seed: 5 }, &Device::flex()).expect("model");
    randomise(&model.parameters(), "dynamic");
    let after = |tokens: &[u32]| {
        let mut state = model.new_state();
        model.hidden(tokens, 1, Some(&mut [&mut state]), None).expect("forward");
        state
    };
    let next = |tokens: &[u32], states: &mut [ModelState]| {
        let mut states: Vec<&mut ModelState> = states.iter_mut().collect();
        values(model.hidden(tokens, states.len(), Some(&mut states), None).expect("forward"))
    };
    let states = [after(&[3, 1, 4]), after(&[2; 40])];
    let together = next(&[5, 6], &mut states.clone());
    let width = together.len() / 2;
    for (row, token) in [5, 6].into_iter().enumerate() {
        let alone = next(&[token], &mut states[row..=row].to_vec());
        assert_close(&together[row * width..(row + 1) * width], &alone, ROUNDING, "dynamic rope", &format!("row {row}"));
    }
}

#[test]
fn absurd_numbers_of_layers_are_refused() {
    let mut config = Body::Plain.config(1);
    config["num_hidden_layers"] = 2_000_000_000.into();
    assert!(matches!(families::parse(&config), Err(ModelError::Config(found)) if found.contains("at most")));
}
