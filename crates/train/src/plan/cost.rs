//! Estimates of a stage's time and memory.
//!
//! Time has three parts: matrix products, by their operations; everything else, by the values that it
//! touches; the optimizer, by the parameters that train. The first two are divided by speeds that
//! are measured, in a moment, on products and an elementwise operator of the model's own sizes. The constants
//! below were fitted to measured steps (docs/results.md, "What `plan` says").

use crate::objectives::Objective;
use crate::recipe::{Recipe, Stage};
use crate::validate::says_next;
use burn::tensor::{Device, Tensor};
use recast_models::param::{Named, count};
use recast_models::{Model, ModelConfig};
use recast_ops::linear::{Precision, linear, precision_on};
use recast_ops::quantised::on_processor;
use recast_ops::swiglu::swiglu;
use recast_ops::vocab_loss::block_values;
use std::time::Instant;

/// A training step's products run at this multiple of the trial's speed.
const PRODUCTS: f64 = 1.34;
/// Seconds for a value outside products, in units of SwiGLU's for one.
const VALUE: f64 = 4.9;
/// Seconds of an optimizer step for a parameter, in the same units.
const UPDATE: f64 = 4.6;
/// Values that a layer's mixer touches for a token, forward and backward, and those of them that it keeps for its
/// backward pass, in widths of the mixer.
const RECURRENT: [f64; 2] = [45.0, 18.0];
/// The same of softmax attention, whose scores never leave the cache.
const ATTENTION: [f64; 2] = [6.0, 10.0];
/// The program, its buffers and its text.
const PROGRAM: f64 = (64 << 20) as f64;
/// Rows and columns of the trial's products at most.
const TRIAL: usize = 2048;

/// How fast this device computes.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// GFLOP/s of the three products of a linear layer: forward, and both backward.
    pub gflops: f64,
    /// Seconds for a value of SwiGLU.
    pub value: f64,
}

impl Speed {
    /// Tries a feed-forward's products and SwiGLU, on as many rows as the largest stage takes at once.
    pub fn measure(recipe: &Recipe, config: &ModelConfig, device: &Device) -> Self {
        let rows = recipe.stages.iter().map(rows).max().unwrap_or(1).min(TRIAL);
        let (c, f) = (config.hidden.min(TRIAL), config.intermediate.min(TRIAL));
        let array = |rows: usize, columns: usize| Tensor::<2>::ones([rows, columns], device) * 0.5;
        let (x, weight, y) = (array(rows, c), array(f, c), array(rows, f));
        let products = best(device, || {
            let forward = linear(x.clone(), weight.clone(), None);
            let inputs = linear(y.clone(), weight.clone().transpose(), None);
            let weights = linear(y.clone().transpose(), x.clone().transpose(), None);
            (forward, inputs, weights)
        });
        let activation = best(device, || swiglu(y.clone(), y.clone()));
        Self { gflops: 6.0 * (rows * c * f) as f64 / products / 1e9, value: activation / (rows * f) as f64 }
    }
}

/// Seconds of the fastest run, of five and of as many as a twentieth of a second holds, after one that may
/// compile or fault memory in.
fn best<T>(device: &Device, mut work: impl FnMut() -> T) -> f64 {
    let mut run = || {
        let began = Instant::now();
        let result = work();
        // A device that cannot be waited for fails where it computes next.
        let _ = device.sync();
        drop(result);
        began.elapsed().as_secs_f64()
    };
    run();
    let (mut fastest, mut spent, mut runs) = (f64::INFINITY, 0.0, 0);
    while runs < 5 || spent < 0.05 {
        let seconds = run();
        (fastest, spent, runs) = (fastest.min(seconds), spent + seconds, runs + 1);
    }
    fastest
}

/// Sequences times tokens that are computed at once.
fn rows(stage: &Stage) -> usize {
    stage.micro_batch.unwrap_or(stage.batch) * stage.context
}

/// Work for a token.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    flops: f64,
    values: f64,
}

impl Work {
    fn seconds(self, speed: Speed) -> f64 {
        self.flops / (PRODUCTS * speed.gflops * 1e9) + self.values * VALUE * speed.value
    }

    fn plus(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, values: self.values + other.values }
    }

    fn times(self, factor: f64) -> Self {
        Self { flops: self.flops * factor, values: self.values * factor }
    }
}

/// What a stage's steps and measurements cost.
pub struct Cost {
    /// Arithmetic of a training token.
    pub flops_per_token: f64,
    /// Seconds of the whole stage; of the last one, with what is measured behind it.
    pub seconds: f64,
    /// Peak memory.
    pub bytes: u64,
}

/// The models of a stage, as far as their cost goes.
pub struct Models<'a> {
    /// Parameters of the student.
    pub params: &'a [Named],
    /// Of those, in its mixers.
    pub mixing: usize,
    /// The one that learns.
    pub student: &'a Model,
    /// The one that is learned from.
    pub teacher: Option<&'a Model>,
}

impl Models<'_> {
    /// Values that a token's mixers touch, forward and backward, and those that they keep.
    fn mixers(&self) -> [f64; 2] {
        let config = &self.student.config;
        [0, 1].map(|which| {
            let of = |kind: &str| if kind == "softmax" { ATTENTION[which] } else { RECURRENT[which] };
            let widths: f64 = config.mixers.iter().map(|mixer| of(&mixer.kind)).sum();
            widths * config.mixer_width() as f64 + (4 * config.layers * config.hidden) as f64
        })
    }

    /// A forward and backward pass of the student.
    fn student(&self) -> Work {
        let config = &self.student.config;
        let table = config.vocabulary * config.hidden;
        // Looking up an embedding costs nothing; the head is a product whether tied or not.
        let products = (count(self.params) - table + if config.tied { table } else { 0 }) as f64;
        let values = self.mixers()[0] + (4 * config.layers * config.intermediate) as f64;
        Work { flops: 6.0 * products, values }
    }

    /// A forward pass of the teacher's body.
    fn body(&self) -> Work {
        self.teacher.map_or_else(Work::default, |teacher| {
            let config = &teacher.config;
            let table = config.vocabulary * config.hidden * if config.tied { 1 } else { 2 };
            let values = config.layers * (8 * config.hidden + 3 * config.intermediate);
            Work { flops: 2.0 * count(&teacher.parameters()).saturating_sub(table) as f64, values: values as f64 / 3.0 }
        })
    }

    /// The teacher's head.
    fn head(&self) -> Work {
        self.teacher.map_or_else(Work::default, |teacher| {
            let config = &teacher.config;
            Work { flops: 2.0 * (config.vocabulary * config.hidden) as f64, values: 0.0 }
        })
    }

    /// A token of training.
    fn token(&self, stage: &Stage) -> Work {
        let config = &self.student.config;
        let student = if stage.recompute { self.student().times(4.0 / 3.0) } else { self.student() };
        match stage.objective {
            // Teacher's body forward, the student's mixers forward and backward.
            Objective::OutputAlignment => self.body().plus(Work { flops: 6.0 * self.mixing as f64, values: self.mixers()[0] }),
            Objective::LogitKl => student.plus(self.body()).plus(self.head()),
            Objective::NextToken => student,
            Objective::MaskedDiffusion => {
                let noise = stage.diffusion.clone().unwrap_or_default();
                let streams = if config.diffusion.as_ref().is_some_and(|d| d.block.is_some()) { 2.0 } else { 1.0 };
                let copies = if noise.complementary { 2.0 } else { 1.0 };
                let attends = config.mixers.iter().any(|mixer| mixer.kind == "softmax");
                let own_pass = if noise.next_token > 0.0 && (attends || streams < 2.0) { 1.0 } else { 0.0 };
                student.times(streams * copies + own_pass)
            }
        }
    }

    /// A token of held-out text: the student forward, for a diffusion model under every mask too, and both heads
    /// for the KL. The teacher's hidden states are kept.
    fn measured(&self, stage: &Stage, samples: usize) -> Work {
        let masks = if stage.objective == Objective::MaskedDiffusion { samples as f64 } else { 0.0 };
        self.student().times((1.0 + masks) / 3.0).plus(self.head().times(2.0))
    }

    /// A token of the long windows that end a run, where there are any: the student forward, and a teacher that says the
    /// next token.
    fn measured_long(&self, recipe: &Recipe) -> Work {
        if !recipe.says_next() && !says_next(self.student) {
            return Work::default();
        }
        let student = self.student().times(1.0 / 3.0);
        match self.teacher {
            Some(teacher) if says_next(teacher) => student.plus(self.body()).plus(self.head()),
            _ => student,
        }
    }

    fn bytes(&self, stage: &Stage, training: usize) -> f64 {
        let config = &self.student.config;
        let (c, f) = (config.hidden as f64, config.intermediate as f64);
        let (rows, layers) = (rows(stage) as f64, config.layers as f64);
        let mixers = self.mixers()[1];
        let activations = match stage.objective {
            Objective::OutputAlignment => rows * (mixers / layers + 6.0 * c + 3.0 * f),
            _ if stage.recompute => rows * (layers * c + mixers / layers + 3.0 * f),
            _ => rows * (mixers + 3.0 * layers * f),
        };
        // A block of logits; on GPUs, where it is large, the teacher's beside it.
        let device = self.params.first().map_or_else(Device::flex, |(_, param)| param.device());
        let models = if on_processor(&device) { 1.0 } else { 2.0 };
        let logits = models * block_values(config.vocabulary, &device) as f64;
        let teacher = self.teacher.map_or(0.0, |teacher| {
            let params = teacher.parameters();
            // Frozen weights are kept packed beside themselves.
            let packed = params.first().is_some_and(|(_, p)| precision_on(&p.device()) == Precision::Bf16);
            (4 + if packed { 2 } else { 0 }) as f64 * count(&params) as f64
        });
        // A gradient and two moments beside what trains.
        PROGRAM + teacher + 4.0 * count(self.params) as f64 + 12.0 * training as f64 + 4.0 * (activations + logits)
    }

    /// The estimate for a stage of which so many elements train.
    pub fn cost(&self, recipe: &Recipe, stage: &Stage, training: usize, speed: Speed) -> Cost {
        let (token, steps) = (self.token(stage), stage.steps());
        let step = (stage.batch * stage.context) as f64 * token.seconds(speed) + training as f64 * UPDATE * speed.value;
        let measurements = 1 + steps.saturating_sub(1).checked_div(stage.validate_every).unwrap_or(0);
        // No more than there is, where that is known before the text is read.
        let tokens = recipe.text.kept_out().unwrap_or(u64::MAX).min(recipe.validation.tokens);
        let measured = tokens as f64 * self.measured(stage, recipe.validation.samples).seconds(speed);
        let ends = recipe.stages.last().is_some_and(|last| last.name == stage.name);
        // Whole windows alone are read.
        let long = recipe.long_context().filter(|_| ends).map_or(0, |context| tokens - tokens % context as u64);
        let measured_long = long as f64 * self.measured_long(recipe).seconds(speed);
        Cost {
            flops_per_token: token.flops,
            seconds: steps as f64 * step + measurements as f64 * measured + measured_long,
            bytes: self.bytes(stage, training) as u64,
        }
    }
}
