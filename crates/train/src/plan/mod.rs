//! What a recipe will cost, before it costs anything.
//!
//! Parameters, tokens and steps are exact. Memory and time are estimates (`cost.rs`).

mod cost;

use crate::error::TrainError;
use crate::objectives::Objective;
use crate::objectives::masked_diffusion::Padding;
use crate::recipe::{Recipe, Stage};
use crate::trainer::{idle_group, trainable};
use burn::tensor::Device;
use cost::{Models, Speed};
use recast_models::Model;
use recast_models::param::{Named, count};
use recast_models::rope::Scaling;
use serde::{Deserialize, Serialize};
use std::io::Write;

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
    /// Measured speed of this device's matrix products.
    pub gflops: f64,
    /// Measured seconds of an elementwise operator for a value.
    #[serde(default)]
    pub seconds_per_value: f64,
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
    /// Tokens that will be read; of pairs, whose rows may be shorter than the context, at most.
    pub tokens: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens a step, of pairs at most.
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
    /// When a stage trains nothing, or asks what the models cannot give.
    pub fn new(recipe: &Recipe, teacher: Option<&Model>, student: &Model) -> Result<Self, TrainError> {
        Self::onward(recipe, teacher, student, 0)
    }

    /// The plan of a run that stands at this stage: what is done is not judged again.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn onward(recipe: &Recipe, teacher: Option<&Model>, student: &Model, from: usize) -> Result<Self, TrainError> {
        let params = student.parameters();
        for stage in recipe.stages.iter().skip(from) {
            if trainable(stage, &params).is_empty() {
                let what = format!("stage `{}`: no parameter matches {:?}", stage.name, stage.train);
                let some: Vec<&str> = params.iter().step_by(params.len() / 4 + 1).map(|(name, _)| name.as_str()).collect();
                return Err(TrainError::Recipe(format!("{what}; there are {}, ...", some.join(", "))));
            }
            if let Some(idle) = idle_group(stage, &params) {
                let what = format!("stage `{}`: the group `{idle}` has no parameter", stage.name);
                return Err(TrainError::Recipe(format!("{what}: none that trains matches it, or earlier groups have them")));
            }
            if let (true, Some(teacher)) = (stage.objective.needs_teacher(), teacher) {
                check_teacher(stage, teacher)?;
            }
            if stage.objective == Objective::MaskedDiffusion {
                check_diffusion(stage, student)?;
            }
            if let Some(what) = cold(stage) {
                let _ = writeln!(std::io::stderr(), "{what}");
            }
        }
        if let Some(teacher) = teacher
            && let Some(what) = unreplaced(recipe, teacher, student)
        {
            let _ = writeln!(std::io::stderr(), "{what}");
        }
        let device = params.first().map_or_else(Device::flex, |(_, param)| param.device());
        let speed = Speed::measure(recipe, &student.config, &device);
        let models = Models { params: &params, mixing: count(&mixers(&params)), student, teacher };
        let stages: Vec<StagePlan> = recipe.stages.iter().map(|stage| stage_plan(recipe, stage, &models, speed)).collect();
        Ok(Self {
            parameters: count(&params),
            mixer_parameters: models.mixing,
            bytes: stages.iter().map(|s| s.bytes).max().unwrap_or(0),
            seconds: stages.iter().map(|s| s.seconds).sum(),
            stages,
            gflops: speed.gflops,
            seconds_per_value: speed.value,
        })
    }
}

/// Whether a teacher's outputs under a causal mask, which alignment and distillation imitate, are what it was trained to
/// give. One that denoises shifted blocks may have had a next-token loss beside it; its config does not say.
fn check_teacher(stage: &Stage, teacher: &Model) -> Result<(), TrainError> {
    match &teacher.config.diffusion {
        Some(diffusion) if !(diffusion.shift && diffusion.block.is_some()) => Err(TrainError::Recipe(format!(
            "stage `{}`: this objective imitates a teacher that sees no later token, but the teacher denoises and was trained \
             to see them; go on with objective = \"masked-diffusion\", or name a next-token model as the teacher",
            stage.name
        ))),
        _ => Ok(()),
    }
}

/// What is to be said of a stage whose rate never gets to where its warm-up leads.
fn cold(stage: &Stage) -> Option<String> {
    let (name, warmup, steps) = (&stage.name, stage.warmup, stage.steps());
    (warmup >= steps).then(|| {
        format!(
            "stage `{name}`: the warm-up of {warmup} steps is as long as the stage, which has {steps}: the learning rate stays \
             below the one asked for; lower stages.{name}.warmup, or raise its tokens"
        )
    })
}

/// What is to be said of a student that was to have other mixers and has its teacher's own.
fn unreplaced(recipe: &Recipe, teacher: &Model, student: &Model) -> Option<&'static str> {
    let asked = recipe.student.mixer.is_some() || !recipe.student.mixers.is_empty();
    (asked && student.config.mixers == teacher.config.mixers).then_some(
        "student: every layer keeps the teacher's own mixer, so that nothing is replaced and a copy of the teacher trains; look at \
         student.mixer and student.keep_softmax",
    )
}

/// Whether a stage of masked diffusion fits the student.
fn check_diffusion(stage: &Stage, student: &Model) -> Result<(), TrainError> {
    let fail = |what: String| Err(TrainError::Recipe(format!("stage `{}`: {what}", stage.name)));
    let Some(diffusion) = &student.config.diffusion else {
        return fail("masked-diffusion needs a mask token; set student.diffusion (an empty table will do)".into());
    };
    let noise = stage.diffusion.clone().unwrap_or_default();
    if let Err(what) = noise.check(diffusion) {
        return fail(format!("diffusion.{what}"));
    }
    // Rows that nobody sees the end of are rotated by the length that they are padded to.
    if let Scaling::Dynamic { max_positions, .. } = student.config.rope.scaling
        && !stage.pairs.is_empty()
        && noise.padding != Padding::Longest
        && stage.context > max_positions
    {
        return fail(format!(
            "diffusion.padding: the model's positions depend on the length of the row beyond {max_positions} tokens, and rows \
             padded with what is not seen have none of their own; expected padding = \"longest\", or a context of at most \
             {max_positions}"
        ));
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

fn stage_plan(recipe: &Recipe, stage: &Stage, models: &Models<'_>, speed: Speed) -> StagePlan {
    let chosen = trainable(stage, models.params);
    let training = count(&chosen);
    let cost = models.cost(recipe, stage, training, speed);
    let tokens_per_step = (stage.batch * stage.context) as u64;
    StagePlan {
        name: stage.name.clone(),
        objective: stage.objective,
        variant: models.student.config.diffusion.as_ref().filter(|_| stage.objective == Objective::MaskedDiffusion).map(
            |diffusion| {
                let variant = stage.diffusion.clone().unwrap_or_default().describe(diffusion);
                let pairs = "; of pairs, whose rows end with the longest of their micro-batch: tokens are the most it may read";
                if stage.pairs.is_empty() { variant } else { variant + pairs }
            },
        ),
        trainable: training,
        tensors: chosen.len(),
        tokens: stage.steps() * tokens_per_step,
        steps: stage.steps(),
        tokens_per_step,
        flops_per_token: cost.flops_per_token,
        bytes: cost.bytes,
        seconds: cost.seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_student_that_is_a_copy_is_told() {
        let golden = |name: &str| {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/train").join(name);
            Model::open(&path, &Device::flex()).expect("golden model")
        };
        let text = "name = \"plan\"\n[teacher]\npath = \"embedded\"\n[student]\nmixer = \"rwkv7\"\n[text]\n\
                    train = [\"embedded\"]\n[[stages]]\nname = \"a\"\nobjective = \"next-token\"\ntokens = 64\n\
                    context = 16\nbatch = 4\nlearning_rate = 1e-3\n";
        let recipe = crate::recipe::load_text(text, &[]).expect("a recipe");
        let (teacher, student) = (golden("teacher"), golden("student"));
        assert_eq!(unreplaced(&recipe, &teacher, &student), None);
        let what = unreplaced(&recipe, &teacher, &teacher).expect("told");
        assert!(what.contains("nothing is replaced") && what.contains("student.keep_softmax"), "{what}");
    }

    #[test]
    fn a_warm_up_without_an_end_is_told() {
        let stage = |warmup: u64| -> Stage {
            let stage = serde_json::json!({"name": "align", "objective": "next-token", "tokens": 80, "context": 4, "batch": 2,
                "learning_rate": 1e-3, "warmup": warmup});
            serde_json::from_value(stage).expect("a stage")
        };
        assert_eq!((cold(&stage(0)), cold(&stage(9))), (None, None));
        let what = cold(&stage(10)).expect("told");
        assert!(what.contains("warm-up of 10 steps") && what.contains("stages.align.warmup"), "{what}");
    }
}
