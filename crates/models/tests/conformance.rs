//! Every registered mixer, in every variant, against the promises of `checks/mod.rs`.

mod checks;

use checks::subjects::Body;
use checks::{hold, hold_registered, variants};
use recast_models::MixerSpec;
use recast_models::mixers::registered;

#[test]
fn softmax() {
    hold_registered("softmax");
}

#[test]
fn rwkv6() {
    hold_registered("rwkv6");
}

#[test]
fn rwkv7() {
    hold_registered("rwkv7");
}

/// Whatever else is registered, so that a new mixer needs no line here.
#[test]
fn all_others() {
    for mixer in registered().iter().filter(|m| !["softmax", "rwkv6", "rwkv7"].contains(&m.name)) {
        hold_registered(mixer.name);
    }
}

/// Models that mix mixers, with either kind in layer 0.
#[test]
fn mixed() {
    let spec = |name: &str, variant: usize| -> MixerSpec { variants::of(name)[variant].1.clone() };
    hold(
        "softmax, rwkv7, rwkv6, rwkv7",
        &[spec("softmax", 0), spec("rwkv7", 0), spec("rwkv6", 0), spec("rwkv7", 2)],
        Body::Plain,
    );
    hold("rwkv7, windowed softmax, rwkv6", &[spec("rwkv7", 0), spec("softmax", 1), spec("rwkv6", 6)], Body::Biases);
    hold("rwkv6, rwkv7, softmax without positions", &[spec("rwkv6", 0), spec("rwkv7", 1), spec("softmax", 4)], Body::Norms);
    // All that are registered, in one model, first to last and last to first.
    let mut all: Vec<MixerSpec> = registered().iter().map(|m| variants::of(m.name)[0].1.clone()).collect();
    hold("one of each", &all, Body::Plain);
    all.reverse();
    hold("one of each, reversed", &all, Body::Biases);
}

/// That the checks notice: an option that drops a part of the gradient, by intention.
#[test]
#[should_panic(expected = "gradient of")]
fn a_dropped_gradient_is_noticed() {
    let spec = variants::of("rwkv7")[0].1.clone();
    hold("rwkv7, layer 0 detached", &[spec.clone().with("detach_first_value", true), spec], Body::Plain);
}
