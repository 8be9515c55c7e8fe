//! What a recipe will cost, before it costs anything.
//!
//! Parameters, tokens and steps are exact. Memory and time are estimates: arithmetic from the
//! formulas below, divided by this machine's speed on a matrix product that takes a moment to try.

use crate::error::TrainError;
use crate::objectives::Objective;
use crate::recipe::{Recipe, Stage};
use crate::trainer::trainable;
use recast_models::Model;
use recast_models::param::{Named, count};
use recast_ops::cpu::{Matrix, bf16, matmul_threads};
use recast_ops::linear::{Precision, on_processor};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Share of the machine's speed on large products that a training step is taken to reach: a round
/// number, not yet fitted to measured runs.
const EFFICIENCY: f64 = 0.45;

/// The whole plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Parameters of the student.
    pub parameters: usize,
    /// Of those, in its mixers.
    pub mixer_parameters: usize,
    /// The stages, in order.
    pub stages: Vec<StagePlan>,
    /// Estimated peak memory.
    pub bytes: u64,
    /// Estimated seconds in all.
    pub seconds: f64,
    /// Measured speed of this machine's matrix product.
    pub gflops: f64,
}

/// One stage of a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// What its loss asks.
    pub objective: Objective,
    /// Which variant of it, in words, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Elements that train.
    pub trainable: usize,
    /// Tensors that train.
    pub tensors: usize,
    /// Tokens that will be read.
    pub tokens: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens a step.
    pub tokens_per_step: u64,
    /// Estimated arithmetic a token.
    pub flops_per_token: f64,
    /// Estimated peak memory.
    pub bytes: u64,
    /// Estimated seconds.
    pub seconds: f64,
}

impl Plan {
    /// The plan of a recipe for these models.
    ///
    /// # Errors
    /// When a stage trains nothing.
    pub fn new(recipe: &Recipe, teacher: Option<&Model>, student: &Model) -> Result<Self, TrainError> {
        let params = student.parameters();
        for stage in &recipe.stages {
            if trainable(stage, &params).is_empty() {
                let what = format!("stage `{}`: no parameter matches {:?}", stage.name, stage.train);
                let some: Vec<&str> = params.iter().step_by(params.len() / 4 + 1).map(|(name, _)| name.as_str()).collect();
                return Err(TrainError::Recipe(format!("{what}; there are {}, ...", some.join(", "))));
            }
            if stage.objective == Objective::MaskedDiffusion {
                check_diffusion(stage, student)?;
            }
        }
        let gflops = measure();
        let stages: Vec<StagePlan> =
            recipe.stages.iter().map(|stage| stage_plan(stage, &params, teacher, student, gflops)).collect();
        Ok(Self {
            parameters: count(&params),
            mixer_parameters: count(&mixers(&params)),
            bytes: stages.iter().map(|s| s.bytes).max().unwrap_or(0),
            seconds: stages.iter().map(|s| s.seconds).sum(),
            stages,
            gflops,
        })
    }
}

/// Whether a stage of masked diffusion fits the student.
fn check_diffusion(stage: &Stage, student: &Model) -> Result<(), TrainError> {
    let fail = |what: String| Err(TrainError::Recipe(format!("stage `{}`: {what}", stage.name)));
    let Some(diffusion) = &student.config.diffusion else {
        return fail("masked-diffusion needs a mask token; set student.diffusion (an empty table will do)".into());
    };
    if let Err(what) = stage.diffusion.clone().unwrap_or_default().check(diffusion) {
        return fail(format!("diffusion.{what}"));
    }
    let recurrent = student.config.mixers.iter().find(|mixer| mixer.kind != "softmax");
    match (recurrent, diffusion.block) {
        (Some(mixer), Some(_)) if stage.reset_documents => fail(format!(
            "reset_documents: mixer `{}` carries a state from block to block and cannot stop it within a row; leave it out",
            mixer.kind
        )),
        _ => Ok(()),
    }
}

fn mixers(params: &[Named]) -> Vec<Named> {
    params.iter().filter(|(name, _)| name.contains(".self_attn.")).cloned().collect()
}

fn stage_plan(stage: &Stage, params: &[Named], teacher: Option<&Model>, student: &Model, gflops: f64) -> StagePlan {
    let chosen = trainable(stage, params);
    let (all, mixing, training) = (count(params), count(&mixers(params)), count(&chosen));
    let config = &student.config;
    let table = config.vocabulary * config.hidden;
    // Looking up an embedding costs nothing; the head is a product whether tied or not.
    let student_products = (all - table + if config.tied { table } else { 0 }) as f64;
    let teacher_products = teacher.map_or(0.0, |t| (count(&t.parameters()) - if t.config.tied { 0 } else { table }) as f64);
    let flops_per_token = match stage.objective {
        // Teacher's body forward, the student's mixers forward and backward.
        Objective::OutputAlignment => 2.0 * (teacher_products - table as f64).max(0.0) + 6.0 * mixing as f64,
        Objective::LogitKl => 2.0 * teacher_products + 6.0 * student_products,
        Objective::NextToken => 6.0 * student_products,
        Objective::MaskedDiffusion => {
            let noise = stage.diffusion.clone().unwrap_or_default();
            let streams = if config.diffusion.as_ref().is_some_and(|d| d.block.is_some()) { 2.0 } else { 1.0 };
            let copies = if noise.complementary { 2.0 } else { 1.0 };
            let attends = config.mixers.iter().any(|mixer| mixer.kind == "softmax");
            let own_pass = if noise.next_token > 0.0 && (attends || streams < 2.0) { 1.0 } else { 0.0 };
            6.0 * student_products * (streams * copies + own_pass)
        }
    };
    let rows = (stage.micro_batch.unwrap_or(stage.batch) * stage.context) as f64;
    let (c, f, layers) = (config.hidden as f64, config.intermediate as f64, config.layers as f64);
    // Activations kept a token and layer: about 30 rows of the mixer's width, 4 of the residual
    // stream, 4 of the feed-forward.
    let width = config.mixer_width() as f64;
    let per_layer = 30.0 * width + 4.0 * c;
    let activations = match stage.objective {
        Objective::OutputAlignment => rows * (per_layer + 6.0 * c + 3.0 * f),
        _ => rows * layers * (per_layer + 4.0 * f) + 256.0 * config.vocabulary as f64,
    };
    let teacher_bytes = teacher.map_or(0, |t| 4 * count(&t.parameters()));
    let bytes = teacher_bytes as f64 + 4.0 * all as f64 + 12.0 * training as f64 + 4.0 * activations;
    let tokens_per_step = (stage.batch * stage.context) as u64;
    let tokens = stage.steps() * tokens_per_step;
    StagePlan {
        name: stage.name.clone(),
        objective: stage.objective,
        variant: config
            .diffusion
            .as_ref()
            .filter(|_| stage.objective == Objective::MaskedDiffusion)
            .map(|diffusion| stage.diffusion.clone().unwrap_or_default().describe(diffusion)),
        trainable: training,
        tensors: chosen.len(),
        tokens,
        steps: stage.steps(),
        tokens_per_step,
        flops_per_token,
        bytes: bytes as u64,
        seconds: tokens as f64 * flops_per_token / (gflops * 1e9 * EFFICIENCY),
    }
}

/// GFLOP/s of a product of the kind that training does most.
fn measure() -> f64 {
    let (m, k, n) = (512, 512, 1024);
    let (a, b) = (vec![0.5f32; m * k], vec![0.5f32; n * k]);
    let mut out = vec![0.0; m * n];
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let began = Instant::now();
        let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t());
        if on_processor() == Precision::Bf16 {
            bf16::matmul_threads(&mut out, n, false, left, right);
        } else {
            matmul_threads(&mut out, n, 0.0, left, right);
        }
        best = best.min(began.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}
