//! Where the mixers of a new student start, and of what ranks: RADLADS (arXiv 2505.03005) and its published trainer. The
//! expected values are worked out here, from the formulas.

use recast_conformance::Body;
use recast_models::mixers::LayerContext;
use recast_models::param::{Named, values};
use recast_models::rope::Rope;
use recast_models::source::{FromParams, Missing};
use recast_models::{MixerSpec, Model, ModelConfig, families};
use serde_json::json;
use std::sync::Arc;

/// Layers of the models here: a first, a middle and a last one.
const LAYERS: usize = 3;

/// Llama's, with this width and heads of this size.
fn config(hidden: usize, head_size: usize, mixer: &MixerSpec) -> ModelConfig {
    let mut raw = Body::Plain.config(LAYERS);
    raw["hidden_size"] = hidden.into();
    raw["head_dim"] = head_size.into();
    let mut config = families::parse(&raw).expect("a config");
    config.family = "recast".into();
    config.mixers = vec![mixer.clone(); LAYERS];
    config
}

/// A model of 64 channels with 4 heads of 12, from nothing: HN is not C.
fn model(mixer: &MixerSpec) -> Model {
    let device = burn::tensor::Device::flex();
    let missing = Missing::Initialise { seed: 3 };
    Model::build(config(64, 12, mixer), &FromParams::default(), missing, &device).expect("a model")
}

/// Columns of its mixers, HN.
const WIDTH: usize = 48;

/// Values and stored shape of a parameter of a layer's mixer.
fn of(params: &[Named], layer: usize, name: &str) -> Option<(Vec<f32>, Vec<usize>)> {
    let full = format!("model.layers.{layer}.self_attn.{name}");
    params.iter().find(|(name, _)| *name == full).map(|(_, param)| (param.read(), param.stored_shape().to_vec()))
}

/// It is there, of this shape, and every element is this.
fn constant(params: &[Named], layer: usize, name: &str, shape: &[usize], value: f32) {
    let (values, found) = of(params, layer, name).unwrap_or_else(|| panic!("layer {layer} has no {name}"));
    assert_eq!(found, shape, "layer {layer}: shape of {name}");
    assert!(values.iter().all(|x| *x == value), "layer {layer}: {name} is {values:?}, expected {value}");
}

/// It is there, and element n is `expected(n / (HN - 1))`.
fn ramp(params: &[Named], layer: usize, name: &str, expected: impl Fn(f64) -> f64) {
    let (values, shape) = of(params, layer, name).unwrap_or_else(|| panic!("layer {layer} has no {name}"));
    assert_eq!(shape.iter().product::<usize>(), WIDTH, "layer {layer}: {name}");
    for (n, x) in values.iter().enumerate() {
        let expected = expected(n as f64 / (WIDTH - 1) as f64);
        assert!((f64::from(*x) - expected).abs() < 1e-6, "layer {layer}: {name}[{n}] is {x}, expected {expected}");
    }
}

/// Rows `[rank, width]` at right angles, each of length 0.1: an orthogonal matrix times 0.1.
fn orthogonal(params: &[Named], layer: usize, name: &str, rank: usize, width: usize) {
    let (values, shape) = of(params, layer, name).unwrap_or_else(|| panic!("layer {layer} has no {name}"));
    assert_eq!(shape, [rank, width], "layer {layer}: shape of {name}");
    let rows: Vec<&[f32]> = values.chunks(width).collect();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            let dot: f32 = a.iter().zip(*b).map(|(x, y)| x * y).sum();
            let expected = if i == j { 0.01 } else { 0.0 };
            assert!((dot - expected).abs() < 1e-6, "layer {layer}: rows {i} and {j} of {name}: {dot}, expected {expected}");
        }
    }
}

/// Uniform between -0.01 and 0.01.
fn uniform(params: &[Named], layer: usize, name: &str, shape: &[usize]) {
    let (values, found) = of(params, layer, name).unwrap_or_else(|| panic!("layer {layer} has no {name}"));
    assert_eq!(found, shape, "layer {layer}: shape of {name}");
    let count = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let square = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / count;
    assert!(values.iter().all(|x| x.abs() <= 0.01), "layer {layer}: {name}");
    // Four standard errors of a mean of zero, and a variance of 1e-4 / 3 within a tenth.
    assert!(mean.abs() < 4.0 * (1e-4 / 3.0 / count).sqrt(), "layer {layer}: {name} has a mean of {mean:e}");
    assert!((square * 3e4 - 1.0).abs() < 0.1, "layer {layer}: {name} has a variance of {square:e}");
}

/// R(e, m) = 32 max(1, round(C^e m / 32)) at the widths of published models.
#[test]
fn ranks_of_published_widths() {
    for (c, low, value, gate) in [
        (896, 64, 32, 128),
        (1536, 64, 64, 224),
        (2048, 96, 64, 256),
        (3584, 96, 64, 416),
        (5120, 128, 96, 544),
        (8192, 160, 128, 800),
    ] {
        for (kind, expected) in [
            ("rwkv7", vec![("rank_decay", low), ("rank_iclr", low), ("rank_value_residual", value), ("rank_gate", gate)]),
            ("rwkv6", vec![("rank_token_shift", low), ("rank_decay", low), ("rank_gate", gate)]),
        ] {
            let mixer = MixerSpec::new(kind);
            let config = config(c, 64, &mixer);
            let layer = LayerContext::new(&config, 1, Arc::new(Rope::new(config.rope.clone())));
            let resolved = mixer.resolved(&layer).expect("resolves").options;
            for (name, rank) in expected {
                assert_eq!(resolved[name], json!(rank), "{kind} of {c} channels: {name}");
            }
        }
    }
}

#[test]
fn rwkv7_starts_as_published() {
    let params = model(&MixerSpec::new("rwkv7")).parameters();
    // The rule's least, at 64 channels.
    let (c, rank) = (64, 32);
    let channel = [1, 1, WIDTH];
    for layer in 0..LAYERS {
        let depth = layer as f64 / 2.0;
        ramp(&params, layer, "w0", |n| -6.5 + 5.0 * n.powf(0.85 + depth.sqrt()));
        constant(&params, layer, "a0", &channel, 0.0);
        let mut low_ranks = vec!["w", "a", "g"];
        if layer == 0 {
            assert!(["v0", "v1", "v2"].iter().all(|name| of(&params, 0, name).is_none()), "layer 0 mixes in nothing");
        } else {
            constant(&params, layer, "v0", &channel, 1.0);
            low_ranks.push("v");
        }
        for letter in low_ranks {
            constant(&params, layer, &format!("{letter}1"), &[c, rank], 0.0);
            orthogonal(&params, layer, &format!("{letter}2"), rank, WIDTH);
        }
        constant(&params, layer, "k_k", &channel, 0.85);
        constant(&params, layer, "k_a", &channel, 1.0);
        constant(&params, layer, "r_k", &[4, 12], 0.0);
        assert!(of(&params, layer, "ln_x.weight").is_none(), "the paper's variant has no output norm");
    }
    // From 760 tokens to 6: log w = -exp(-1/2) sigmoid(w0).
    let (w0, _) = of(&params, 0, "w0").expect("a decay");
    let half_life = |w0: f32| 2f64.ln() / ((-0.5f64).exp() / (1.0 + f64::from(-w0).exp()));
    assert!((half_life(w0[0]) - 760.0).abs() < 5.0 && (half_life(w0[WIDTH - 1]) - 6.3).abs() < 0.1);
    let shipped = model(&MixerSpec::new("rwkv7").with("balance_state", false).with("group_norm", true)).parameters();
    constant(&shipped, 1, "ln_x.weight", &[WIDTH], 1.0);
    constant(&shipped, 1, "ln_x.bias", &[WIDTH], 0.0);
}

#[test]
fn rwkv6_starts_as_published() {
    let params = model(&MixerSpec::new("rwkv6")).parameters();
    let (c, rank) = (64, 32);
    for layer in 0..LAYERS {
        let depth = layer as f64 / 2.0;
        ramp(&params, layer, "time_decay", |n| -6.0 + 5.0 * n.powf(0.7 + 1.3 * depth));
        constant(&params, layer, "time_decay_w1", &[c, rank], 0.0);
        uniform(&params, layer, "time_decay_w2", &[rank, WIDTH]);
        constant(&params, layer, "time_maa_x", &[1, 1, c], 1.0);
        for letter in ["r", "k", "v", "w", "g"] {
            constant(&params, layer, &format!("time_maa_{letter}"), &[1, 1, c], 0.0);
        }
        constant(&params, layer, "time_maa_w1", &[c, 5 * rank], 0.0);
        uniform(&params, layer, "time_maa_w2", &[5, rank, c]);
        constant(&params, layer, "gate.weight", &[WIDTH, c], 0.0);
        assert!(of(&params, layer, "ln_x.weight").is_none());
    }
}

/// The stock layer's ranges: A from 16 to 1, time steps from 0.1 to 0.001.
#[test]
fn gated_deltanet_starts_in_the_stock_layers_ranges() {
    let params = model(&MixerSpec::new("gated_deltanet")).parameters();
    for layer in 0..LAYERS {
        let read = |name: &str| of(&params, layer, name).expect("is there").0;
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-3, "{found} for {expected}");
        let (a, step) = (read("A_log"), read("dt_bias"));
        assert_eq!((a.len(), step.len()), (4, 4));
        near(f64::from(a[0]).exp(), 16.0);
        near(f64::from(a[3]).exp(), 1.0);
        near(f64::from(step[0]).exp().ln_1p(), 0.1);
        near(f64::from(step[3]).exp().ln_1p(), 0.001);
        for name in ["a_proj.weight", "b_proj.weight", "g_proj.weight"] {
            assert!(read(name).iter().all(|x| *x == 0.0), "{name}");
        }
        constant(&params, layer, "o_norm.weight", &[12], 1.0);
    }
}

/// What is mixed in of the token before starts as nothing, to the bit.
#[test]
fn the_token_shift_starts_as_none() {
    let tokens: Vec<u32> = (0..26).map(|i| i * 7 % 29).collect();
    let hidden = |mixer: &MixerSpec| values(model(mixer).hidden(&tokens, 2, None, None).expect("forward"));
    let shifted = hidden(&MixerSpec::new("rwkv6"));
    assert!(shifted.iter().all(|x| x.is_finite()));
    assert!(shifted == hidden(&MixerSpec::new("rwkv6").with("token_shift", false)));
}
