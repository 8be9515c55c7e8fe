//! AdamW over named parameters in groups, with global-norm clipping; gradients and moments in f32,
//! on the device of their parameters.

use burn::tensor::{Tensor, TensorData};
use recast_models::param::{Named, values};
use recast_ops::adamw::{AdamW, global_norm};
use std::collections::HashMap;

/// Sums gradients of named parameters over micro-batches and layers.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<String, Tensor<1>>);

impl Gradients {
    /// Adds a parameter's gradient.
    pub fn add(&mut self, name: &str, gradient: Tensor<1>) {
        let sum = match self.0.remove(name) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        self.0.insert(name.to_owned(), sum);
    }

    /// A copy of the gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<Vec<f32>> {
        self.0.get(name).map(|gradient| values(gradient.clone()))
    }

    /// Collects what a backward pass left on these parameters.
    pub fn collect(&mut self, params: &[Named], gradients: &mut burn::tensor::Gradients) {
        for (name, param) in params {
            if let Some(gradient) = param.take_gradient(gradients) {
                self.add(name, gradient);
            }
        }
    }
}

/// Moments of one parameter.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moment.
    pub m: Tensor<1>,
    /// Second moment.
    pub v: Tensor<1>,
}

/// The parameters of a stage, each with the index of its learning-rate group.
pub struct Optimizer {
    adamw: AdamW,
    clip: f64,
    params: Vec<(Named, usize)>,
    /// In the order of the parameters.
    pub moments: Vec<Moments>,
}

impl Optimizer {
    /// Fresh moments for these parameters.
    pub fn new(adamw: AdamW, clip: f64, params: Vec<(Named, usize)>) -> Self {
        let zeros = |(_, param): &Named| {
            let n = param.elements();
            Tensor::from_data(TensorData::new(vec![0.0f32; n], [n]), &param.device())
        };
        let moments = params.iter().map(|(named, _)| Moments { m: zeros(named), v: zeros(named) }).collect();
        Self { adamw, clip, params, moments }
    }

    /// The parameters it trains.
    pub fn params(&self) -> impl Iterator<Item = &Named> {
        self.params.iter().map(|(named, _)| named)
    }

    /// Norm of the gradients over all parameters, before clipping.
    pub fn norm(&self, gradients: &mut Gradients) -> f64 {
        let mut all: Vec<&mut Tensor<1>> = Vec::new();
        let mut by_name: HashMap<&str, &mut Tensor<1>> = gradients.0.iter_mut().map(|(n, g)| (n.as_str(), g)).collect();
        for (name, _) in self.params() {
            all.extend(by_name.remove(name.as_str()));
        }
        f64::from(global_norm(all))
    }

    /// One step; `rates` holds the learning rate of each group, `t` counts from 1.
    pub fn step(&mut self, mut gradients: Gradients, norm: f64, rates: &[f64], t: u64) {
        let scale = if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        for (((name, param), group), moments) in self.params.iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.0.remove(name) else { continue };
            let mut gradient = Some(gradient);
            param.replace(&mut |value| {
                let gradient = gradient.take().expect("a parameter is replaced once a step");
                self.adamw.step_tensors(value, gradient, &mut moments.m, &mut moments.v, rates[*group], t, scale)
            });
        }
    }
}
