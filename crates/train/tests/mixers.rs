//! Align and distil with every mixer, and with some layers kept: losses, gradients against differences of the loss, and
//! what must not change.

mod support;

use burn::tensor::Device;
use recast_models::convert::{TiedEmbeddings, student, student_config};
use recast_models::mixers::registered;
use recast_models::param::Named;
use recast_models::random::Random;
use recast_models::source::FromParams;
use recast_models::{MixerSpec, Model};
use recast_ops::adamw::AdamW;
use recast_train::objectives::{MicroBatch, Objective};
use recast_train::optimizer::{Gradients, Optimizer};
use support::{batch, model};

const KEPT: &str = "softmax";

/// A student of the golden teacher, whose two layers are of these kinds, away from its initial values where it differs.
fn student_of(teacher: &Model, kinds: [&str; 2]) -> Model {
    let mixers = kinds.map(MixerSpec::new).to_vec();
    let config = student_config(&teacher.config, mixers, TiedEmbeddings::Tie).expect("fits");
    let student = student(config, &FromParams::new(teacher.parameters()), 1, &Device::flex()).expect("a student");
    for (name, param) in mixing(&student).iter().filter(|(name, _)| kinds[layer(name)] != KEPT) {
        let mut random = Random::new(7, name);
        param.update(&mut |values| values.iter_mut().for_each(|x| *x += (0.1 * random.normal()) as f32));
    }
    student
}

/// The parameters that align trains.
fn mixing(model: &Model) -> Vec<Named> {
    model.parameters().into_iter().filter(|(name, _)| name.contains(".self_attn.")).collect()
}

fn layer(name: &str) -> usize {
    name.split('.').nth(2).and_then(|layer| layer.parse().ok()).expect("model.layers.N")
}

fn text() -> MicroBatch {
    batch(2, (0..24).map(|i| i * 7 % 40).collect(), 24)
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// A direction of length 1: half along the gradient, so that the slope does not vanish, half at random.
fn direction(gradient: &[f32], name: &str) -> Vec<f32> {
    let mut random = Random::new(31, name);
    let across: Vec<f32> = gradient.iter().map(|_| random.normal() as f32).collect();
    let (along, aside) = (length(gradient) as f32, length(&across) as f32);
    let sum: Vec<f32> = gradient.iter().zip(&across).map(|(g, a)| g / along + a / aside).collect();
    let whole = length(&sum) as f32;
    sum.into_iter().map(|x| x / whole).collect()
}

/// Central differences at several steps: large ones bend, small ones drown in the rounding of f32. A wrong gradient is
/// wrong at every step.
fn check(subject: &str, (name, param): &Named, gradient: &[f32], loss: impl Fn() -> f64) {
    let direction = direction(gradient, name);
    let expected: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
    let before = param.read();
    let at = |by: f32| {
        param.write(&before.iter().zip(&direction).map(|(x, d)| x + by * d).collect::<Vec<f32>>());
        loss()
    };
    let slopes: Vec<f64> = [0.05, 0.01, 0.002].map(|h| (at(h) - at(-h)) / (2.0 * f64::from(h))).to_vec();
    param.write(&before);
    let close = slopes.iter().any(|slope| (slope - expected).abs() < 0.02 * length(gradient));
    assert!(close, "{subject}: gradient of {name}: slopes {slopes:?}, by the gradient {expected}");
}

/// Both layers of every mixer that is no attention, and hybrids that keep either layer.
fn students() -> Vec<[&'static str; 2]> {
    let kinds: Vec<&str> = registered().iter().map(|mixer| mixer.name).filter(|name| *name != KEPT).collect();
    assert!(["rwkv6", "rwkv7", "gated_deltanet"].iter().all(|name| kinds.contains(name)), "{kinds:?}");
    kinds.into_iter().map(|kind| [kind; 2]).chain([[KEPT, "rwkv7"], ["rwkv6", KEPT]]).collect()
}

#[test]
fn losses_and_gradients_of_every_mixer() {
    let (teacher, batch) = (model("teacher"), text());
    for kinds in students() {
        let student = student_of(&teacher, kinds);
        let params = mixing(&student);
        for objective in [Objective::OutputAlignment, Objective::LogitKl] {
            let subject = format!("{kinds:?}, {objective:?}");
            let run = |trainable: &[Named], gradients: &mut Gradients| {
                objective.gradients(&student, Some(&teacher), &batch, trainable, false, None, gradients).expect("loss").value
            };
            let mut gradients = Gradients::default();
            let loss = run(&params, &mut gradients);
            assert!(loss.is_finite() && loss > 1e-3, "{subject}: {loss}");
            let found: Vec<Option<Vec<f32>>> = params.iter().map(|(name, _)| gradients.get(name)).collect();
            assert!(found.iter().flatten().flatten().all(|g| g.is_finite()), "{subject}: a gradient is no number");
            let largest = found.iter().flatten().map(|g| length(g)).fold(0.0, f64::max);
            // Of smaller ones f32 differences say nothing; a few of the others say enough.
            let large = params.iter().zip(&found).filter_map(|(param, g)| Some((param, g.as_ref()?)));
            let large: Vec<_> = large.filter(|(_, g)| length(g) > 0.05 * largest).collect();
            assert!(large.len() >= 4, "{subject}: {} large gradients", large.len());
            for (param, gradient) in large.iter().step_by(large.len().div_ceil(6)) {
                check(&subject, param, gradient, || run(&[], &mut Gradients::default()));
            }
        }
    }
}

#[test]
fn align_leaves_kept_layers_as_they_are() {
    let (teacher, batch) = (model("teacher"), text());
    for kinds in students().into_iter().filter(|kinds| kinds.contains(&KEPT)) {
        let student = student_of(&teacher, kinds);
        let params = mixing(&student);
        let before: Vec<Vec<f32>> = params.iter().map(|(_, param)| param.read()).collect();
        let adamw = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(adamw, 1.0, params.iter().map(|named| (named.clone(), 0)).collect());
        for step in 1..=2 {
            let mut gradients = Gradients::default();
            let loss = Objective::OutputAlignment
                .gradients(&student, Some(&teacher), &batch, &params, false, None, &mut gradients)
                .expect("loss");
            for (loss, kind) in loss.layers.iter().zip(kinds) {
                assert_eq!(*loss < 1e-12, kind == KEPT, "{kinds:?}: {kind} has a loss of {loss:e}");
            }
            let norm = optimizer.norm(&mut gradients);
            optimizer.step(gradients, norm, &[1e-3], step);
        }
        let changed = params.iter().zip(&before).filter(|((_, param), before)| param.read() != **before);
        let changed: Vec<&str> = changed.map(|((name, _), _)| name.as_str()).collect();
        assert!(!changed.is_empty() && changed.iter().all(|name| kinds[layer(name)] != KEPT), "{kinds:?}: {changed:?}");
    }
}
