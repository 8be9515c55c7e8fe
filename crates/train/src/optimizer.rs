//! AdamW over named parameters in groups, with global-norm clipping; moments in f32.

use recast_models::param::Named;
use recast_ops::adamw::{AdamW, global_norm};
use std::collections::HashMap;

/// Sums gradients of named parameters over micro-batches and layers.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<String, Vec<f32>>);

impl Gradients {
    /// Adds a parameter's gradient.
    pub fn add(&mut self, name: &str, gradient: Vec<f32>) {
        match self.0.get_mut(name) {
            Some(sum) => sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g),
            None => {
                self.0.insert(name.to_owned(), gradient);
            }
        }
    }

    /// The gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
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
    pub m: Vec<f32>,
    /// Second moment.
    pub v: Vec<f32>,
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
        let moments = params
            .iter()
            .map(|((_, p), _)| Moments { m: vec![0.0; p.elements()], v: vec![0.0; p.elements()] })
            .collect();
        Self { adamw, clip, params, moments }
    }

    /// The parameters it trains.
    pub fn params(&self) -> impl Iterator<Item = &Named> {
        self.params.iter().map(|(named, _)| named)
    }

    /// Norm of the gradients over all parameters, before clipping.
    pub fn norm(&self, gradients: &Gradients) -> f64 {
        let all: Vec<&[f32]> = self.params.iter().filter_map(|((name, _), _)| gradients.get(name)).collect();
        f64::from(global_norm(&all))
    }

    /// One step; `rates` holds the learning rate of each group, `t` counts from 1.
    pub fn step(&mut self, gradients: &Gradients, norm: f64, rates: &[f64], t: u64) {
        let scale = if self.clip > 0.0 { (self.clip / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        for (((name, param), group), moments) in self.params.iter().zip(&mut self.moments) {
            let Some(gradient) = gradients.get(name) else { continue };
            param.update(&mut |values| {
                self.adamw.step(values, gradient, &mut moments.m, &mut moments.v, rates[*group], t, scale);
            });
        }
    }
}
