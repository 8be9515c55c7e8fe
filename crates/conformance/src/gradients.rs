//! Gradients against differences of the loss.

use super::show;
use super::single::random;
use super::subjects::Subject;
use burn::tensor::{Tensor, TensorData};
use recast_models::mixers::{Call, Shared};
use recast_models::param::{self, Named, values};
use recast_models::random::Random;
use recast_models::sight::Sight;
use recast_models::state::LayerState;

/// Steps of the differences along a direction of length 1. Large ones drown the rounding of f32;
/// small ones are for places where a norm of something short bends the loss. A wrong gradient is
/// wrong at every step.
const STEPS: [f32; 5] = [0.02, 0.005, 0.002, 0.0005, 0.0001];
/// Largest error of a directional derivative, relative to the gradient's length.
const TOLERANCE: f64 = 5e-3;
/// Below this part of the largest gradient, f32 differences say nothing.
const SMALLEST: f64 = 1e-3;

/// Slopes of the loss from values at -2, -1, 1 and 2 steps, with an error of the fourth order.
fn slopes(at: impl Fn(f32) -> f64) -> impl Iterator<Item = f64> {
    STEPS.into_iter().map(move |h| (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * f64::from(h)))
}

/// A direction of length 1 that has a good part of the gradient in it: half at random, half along
/// it, so that a slope does not vanish by chance.
fn direction(gradient: &[f32], name: &str) -> Vec<f32> {
    let mut random = Random::new(31, name);
    let unit = |x: Vec<f64>| {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-30);
        x.into_iter().map(|x| x / length).collect::<Vec<f64>>()
    };
    let along = unit(gradient.iter().map(|&g| f64::from(g)).collect());
    let across = unit(gradient.iter().map(|_| random.normal()).collect());
    unit(along.iter().zip(&across).map(|(a, b)| a + b).collect()).into_iter().map(|x| x as f32).collect()
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// A sum of products in f64: the smooth loss of some outputs.
fn dot(outputs: &Tensor<3>, weights: &[f32]) -> f64 {
    values(outputs.clone()).iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum()
}

/// Shifts a parameter while `f` runs.
fn shifted<T>(param: &Named, direction: &[f32], by: f32, f: impl Fn() -> T) -> T {
    let before = param.1.read();
    let moved: Vec<f32> = before.iter().zip(direction).map(|(x, d)| x + by * d).collect();
    param.1.write(&moved);
    let out = f();
    param.1.write(&before);
    out
}

fn check(subject: &str, what: &str, gradient: &[f32], largest: f64, slopes: impl Iterator<Item = f64>, direction: &[f32]) {
    let expected: f64 = gradient.iter().zip(direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
    let scale = length(gradient).max(SMALLEST * largest);
    let mut tried = Vec::new();
    for slope in slopes {
        let error = (slope - expected).abs() / scale;
        tried.push(slope);
        if error < TOLERANCE {
            show(error, &format!("gradient of {what}, at step {}", tried.len()), subject);
            return;
        }
    }
    panic!("{subject}: gradient of {what}: slopes {tried:?}, by the gradient {expected}, whose length is {scale}");
}

/// Every parameter of the whole model by itself, and, layer by layer, the mixer's input and the
/// state that comes in.
pub fn parameters_and_inputs(subject: &Subject) {
    let model = &subject.model;
    const LENGTH: usize = 11;
    let tokens = subject.tokens(2, LENGTH);
    let weights = random([2, LENGTH, model.config.vocabulary], "weights");
    let plain = values(weights.clone());
    let outputs = || model.logits(model.hidden(&tokens, 2, None, None).expect("forward"));
    let params = model.parameters();
    param::track(&params);
    let mut gradients = (outputs() * weights).sum().backward();
    let gradients: Vec<Option<Vec<f32>>> = params.iter().map(|(_, p)| p.untrack(Some(&mut gradients))).collect();
    let largest = gradients.iter().flatten().map(|g| length(g)).fold(0.0, f64::max);
    for (param, gradient) in params.iter().zip(&gradients) {
        // A parameter without a gradient must not matter.
        let gradient = gradient.clone().unwrap_or_else(|| vec![0.0; param.1.elements()]);
        let direction = direction(&gradient, &param.0);
        let slopes = slopes(|by| shifted(param, &direction, by, || dot(&outputs(), &plain)));
        check(&subject.name, &param.0, &gradient, largest, slopes, &direction);
    }
    for layer in 0..model.config.layers {
        inputs(subject, layer);
    }
}

/// The mixer's input, incoming state and incoming shared values, through outputs and final state.
fn inputs(subject: &Subject, layer: usize) {
    let (mixer, context) = subject.mixer(layer);
    const LENGTH: usize = 9;
    let x = random([2, LENGTH, context.hidden], &subject.name);
    let first = random([2, LENGTH, context.heads, context.head_size], "first values");
    // A state such as arises: that of some tokens before.
    let mut before = vec![LayerState::default(); 2];
    let run = |x: Tensor<3>, first: Tensor<4>, states: &mut [LayerState], position| {
        let mut shared = Shared { first_value: (layer > 0).then_some(first) };
        let states = Some(states.iter_mut().collect());
        mixer.forward(Call {
            x,
            states,
            shared: &mut shared,
            positions: &[position; 2],
            documents: None,
            sight: Sight::Causal,
            lengths: None,
        })
    };
    run(random([2, 5, context.hidden], "before"), first.clone().narrow(1, 0, 5), &mut before, 0);
    let constant = recast_models::mixers::find(&subject.model.config.mixers[layer].kind).expect("registered").constant_state;

    // Everything that goes in, flat, in one list.
    let mut inputs = vec![("input", values(x.clone())), ("values of the first layer", values(first.clone()))];
    if constant {
        inputs.extend(before.iter().flat_map(|s| &s.parts).map(|part| ("incoming state", values(part.clone()))));
    }
    let forward = |inputs: &[Tensor<1>]| {
        let mut states = before.clone();
        if constant {
            let parts = states.iter_mut().flat_map(|s| &mut s.parts);
            parts.zip(&inputs[2..]).for_each(|(part, flat)| *part = flat.clone().reshape(part.dims()));
        }
        let y = run(inputs[0].clone().reshape(x.dims()), inputs[1].clone().reshape(first.dims()), &mut states, 5);
        let mut out = vec![y.reshape([1, 1, -1])];
        if constant {
            out.extend(states.into_iter().flat_map(|s| s.parts).map(|part| part.reshape([1, 1, -1])));
        }
        Tensor::cat(out, 2)
    };
    let device = x.device();
    let tensor = |v: &Vec<f32>| Tensor::<1>::from_data(TensorData::new(v.clone(), [v.len()]), &device);
    let leaves: Vec<Tensor<1>> = inputs.iter().map(|(_, v)| tensor(v).autodiff().require_grad()).collect();
    let outputs = forward(&leaves);
    let weights = random(outputs.dims(), "weights");
    let plain = values(weights.clone());
    let mut gradients = (outputs * weights).sum().backward();
    let gradients: Vec<Vec<f32>> = leaves
        .iter()
        .zip(&inputs)
        .map(|(leaf, (_, v))| leaf.grad_remove(&mut gradients).map_or_else(|| vec![0.0; v.len()], values))
        .collect();
    let largest = gradients.iter().map(|g| length(g)).fold(0.0, f64::max);
    for (i, (what, _)) in inputs.iter().enumerate() {
        let direction = direction(&gradients[i], what);
        let slopes = slopes(|by| {
            let mut tensors: Vec<Tensor<1>> = inputs.iter().map(|(_, v)| tensor(v)).collect();
            let moved: Vec<f32> = inputs[i].1.iter().zip(&direction).map(|(x, d)| x + by * d).collect();
            tensors[i] = tensor(&moved);
            dot(&forward(&tensors), &plain)
        });
        check(&subject.name, &format!("layer {layer}'s {what}"), &gradients[i], largest, slopes, &direction);
    }
}

/// Gradients of both streams of block diffusion reach every parameter, through the states as well.
pub fn through_the_states_of_two_streams(subject: &Subject) {
    const BLOCK: usize = 3;
    let subject = &subject.denoising(Some(BLOCK));
    let model = &subject.model;
    let clean = subject.tokens(2, 8);
    let noisy = vec![model.config.vocabulary as u32 - 1; 16];
    let weights = ["clean", "noisy"].map(|name| random([2, 8, model.config.hidden], name));
    let plain = weights.each_ref().map(|w| values(w.clone()));
    let streams = || model.two_streams(&clean, &noisy, 2, BLOCK, None).expect("forward");
    let params = model.parameters();
    param::track(&params);
    let [a, b] = streams();
    let [a_weights, b_weights] = weights;
    let mut gradients = ((a * a_weights).sum() + (b * b_weights).sum()).backward();
    let gradients: Vec<Option<Vec<f32>>> = params.iter().map(|(_, p)| p.untrack(Some(&mut gradients))).collect();
    let largest = gradients.iter().flatten().map(|g| length(g)).fold(0.0, f64::max);
    let loss = || streams().iter().zip(&plain).map(|(stream, weights)| dot(stream, weights)).sum();
    for (param, gradient) in params.iter().zip(&gradients) {
        let gradient = gradient.clone().unwrap_or_else(|| vec![0.0; param.1.elements()]);
        let direction = direction(&gradient, &param.0);
        let slopes = slopes(|by| shifted(param, &direction, by, loss));
        check(&subject.name, &format!("{} by two streams", param.0), &gradient, largest, slopes, &direction);
    }
}
