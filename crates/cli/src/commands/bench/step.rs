//! `recast bench step`: whole training steps, weights and batches as they are in a run.

use super::{Timing, peak_memory};
use crate::commands::plan;
use crate::{Global, embedded, output};
use burn::tensor::Device;
use recast_models::Model;
use recast_models::families;
use recast_models::param::Named;
use recast_models::source::{FromParams, Missing};
use recast_ops::adamw::AdamW;
use recast_train::objectives::{MicroBatch, Objective};
use recast_train::optimizer::{Gradients, Optimizer};
use recast_train::teacher::Teacher;
use recast_train::trainer::trainable;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `recast bench step`.
#[derive(clap::Args)]
pub struct Args {
    /// A recipe with a teacher; without it, a random transformer with the sizes of SmolLM2-135M
    /// trains on the next token.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// The recipe's stage; default its first.
    #[arg(long, requires = "recipe")]
    stage: Option<String>,
    /// Change a key of the recipe: `--set teacher.path=model.gguf`.
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    /// Layers of the random transformer.
    #[arg(long, default_value_t = 6, conflicts_with = "recipe")]
    layers: usize,
    /// Sequences a step; default 2, or the stage's.
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens a sequence; default 512, or the stage's.
    #[arg(long)]
    context: Option<usize>,
    /// Run each block again for its backward pass.
    #[arg(long)]
    recompute: bool,
    /// Steps to time, after two.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
}

#[derive(Serialize)]
struct Outcome {
    what: String,
    precision: crate::Precision,
    threads: usize,
    cpu: String,
    parameters: usize,
    trainable: usize,
    batch: usize,
    context: usize,
    /// Seconds of a step.
    step: Timing,
    /// Of it: both models' forward passes, the loss and the backward pass.
    gradients: Timing,
    /// Of it: the norm of the gradients and the optimizer.
    optimizer: Timing,
    tokens_per_second: f64,
    peak_bytes: u64,
    /// Of the last step; beside a rival's it shows that the same was computed.
    loss: f64,
}

/// What is stepped.
struct Work {
    what: String,
    student: Model,
    teacher: Option<Teacher>,
    objective: Objective,
    patterns: Vec<Named>,
    adamw: AdamW,
    clip: f64,
    rate: f64,
    batch: usize,
    micro_batch: usize,
    context: usize,
    recompute: bool,
}

/// Times steps and prints.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let device = global.device()?;
    let work = match &args.recipe {
        Some(path) => stage(args, path, &device)?,
        None => transformer(args, &device)?,
    };
    let outcome = measure(&work, args.repeats)?;
    if global.json {
        return output::json(&outcome);
    }
    output::print(format_args!(
        "{}: {:.3} s a step (best {:.3}, median of {}), of it {:.3} gradients and {:.3} optimizer\n\
         {:.0} tokens/s, peak memory {}, {} x {} tokens, {} threads, {}, {}",
        outcome.what,
        outcome.step.median,
        outcome.step.best,
        outcome.step.repeats,
        outcome.gradients.median,
        outcome.optimizer.median,
        outcome.tokens_per_second,
        crate::run::bytes(outcome.peak_bytes as usize),
        outcome.batch,
        outcome.context,
        outcome.threads,
        outcome.precision,
        outcome.cpu,
    ))
}

/// Six decoder layers of SmolLM2-135M's sizes and its vocabulary, tied.
fn transformer(args: &Args, device: &Device) -> anyhow::Result<Work> {
    let config = families::parse(&serde_json::json!({
        "model_type": "llama", "num_hidden_layers": args.layers, "hidden_size": 576, "intermediate_size": 1536,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": true,
        "rms_norm_eps": 1e-5, "rope_theta": 1e4, "max_position_embeddings": 8192, "hidden_act": "silu",
    }))?;
    let student = Model::build(config, &FromParams::default(), Missing::Initialise { seed: 1 }, device)?;
    let batch = args.batch.unwrap_or(2);
    Ok(Work {
        what: format!("transformer of {} layers", args.layers),
        patterns: student.parameters(),
        student,
        teacher: None,
        objective: Objective::NextToken,
        adamw: AdamW { weight_decay: 0.01, ..Default::default() },
        clip: 0.0,
        rate: 1e-4,
        batch,
        micro_batch: batch,
        context: args.context.unwrap_or(512),
        recompute: args.recompute,
    })
}

/// A stage as its recipe has it.
fn stage(args: &Args, path: &PathBuf, device: &Device) -> anyhow::Result<Work> {
    let recipe = plan::load(Some(path), &args.set)?;
    let named = recipe.teacher.as_ref().ok_or_else(|| output::wrong("--recipe", "a recipe with a teacher", "one without"))?;
    let names = || recipe.stages.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let stage = match &args.stage {
        None => recipe.stages.first(),
        Some(name) => recipe.stages.iter().find(|s| s.name == *name),
    };
    let stage = stage.ok_or_else(|| {
        output::wrong("--stage", format!("one of {}", names()), args.stage.as_deref().unwrap_or("a recipe without stages"))
    })?;
    let teacher = Teacher::open(&embedded::resolve(&named.path)?, device)?;
    let student = teacher.student(&recipe, device)?;
    let batch = args.batch.unwrap_or(stage.batch);
    Ok(Work {
        what: format!("{} of {}", stage.name, recipe.name),
        patterns: trainable(stage, &student.parameters()),
        student,
        teacher: Some(teacher),
        objective: stage.objective,
        adamw: AdamW { beta1: stage.beta1, beta2: stage.beta2, epsilon: stage.epsilon, weight_decay: stage.weight_decay },
        clip: stage.clip,
        rate: stage.learning_rate,
        batch,
        micro_batch: stage.micro_batch.unwrap_or(batch).min(batch),
        context: args.context.unwrap_or(stage.context),
        recompute: args.recompute || stage.recompute,
    })
}

fn measure(work: &Work, repeats: usize) -> anyhow::Result<Outcome> {
    let params = &work.patterns;
    let mut optimizer = Optimizer::new(work.adamw, work.clip, params.iter().map(|p| (p.clone(), 0)).collect());
    let teacher = work.teacher.as_ref().map(|t| &t.model);
    let (mut whole, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
    let mut loss = f64::NAN;
    const WARM: usize = 2;
    for step in 0..WARM + repeats.max(1) {
        let began = Instant::now();
        let mut gradients = Gradients::default();
        loss = 0.0;
        for rows in (0..work.batch).step_by(work.micro_batch.max(1)) {
            let rows = work.micro_batch.min(work.batch - rows);
            let batch = random_batch(rows, work.context, work.batch, work.student.config.vocabulary, step as u64);
            loss += work.objective.gradients(&work.student, teacher, &batch, params, work.recompute, None, &mut gradients)?.value;
        }
        let middle = Instant::now();
        let norm = optimizer.norm(&mut gradients);
        optimizer.step(gradients, norm, &[work.rate], step as u64 + 1);
        if let Some((_, param)) = params.first() {
            param.device().sync()?;
        }
        if step >= WARM {
            whole.push(began.elapsed().as_secs_f64());
            first.push((middle - began).as_secs_f64());
            second.push(middle.elapsed().as_secs_f64());
        }
    }
    let step = Timing::of(whole);
    Ok(Outcome {
        what: work.what.clone(),
        precision: crate::computed_at(work.student.device()),
        threads: recast_ops::cpu::threads(),
        cpu: format!("{:?}", recast_ops::cpu::level()),
        parameters: recast_models::param::count(&work.student.parameters()),
        trainable: recast_models::param::count(params),
        batch: work.batch,
        context: work.context,
        step,
        gradients: Timing::of(first),
        optimizer: Timing::of(second),
        tokens_per_second: (work.batch * work.context) as f64 / step.median,
        peak_bytes: peak_memory(),
        loss,
    })
}

/// Tokens that a linear congruential generator makes: the cost of a step does not depend on them.
fn random_batch(rows: usize, context: usize, batch: usize, vocabulary: usize, seed: u64) -> MicroBatch {
    let mut state = seed;
    let mut tokens = || -> Vec<u32> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocabulary.max(1) as u64) as u32
        };
        (0..rows * context).map(|_| next()).collect()
    };
    MicroBatch {
        rows,
        inputs: tokens(),
        targets: tokens().into(),
        documents: None,
        weights: None,
        prompt: None,
        response_share: None,
        lengths: None,
        draw: Default::default(),
        denominator: (batch * context) as f32,
    }
}
