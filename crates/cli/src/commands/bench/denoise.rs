//! `recast bench denoise`: what a text costs that is written by denoising. The cost does not depend on
//! the weights, so any model stands for one of its sizes that was trained to denoise.

use super::Timing;
use crate::arguments::Quantize;
use crate::commands::generate::arguments::keep;
use crate::{Global, output};
use anyhow::Context;
use recast_infer::samplers::denoising::{Canvas, Counters, Denoising, Ends, Keep, Masked, Row, Rule, step};
use recast_models::config::Diffusion;
use recast_models::{Model, weights};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `recast bench denoise`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder or GGUF file, or `embedded`. A next-token model is taken as one that
    /// denoises whole sequences.
    model: PathBuf,
    #[command(flatten)]
    quantize: Quantize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Tokens to write.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Forward passes for them, equal shares of tokens each; default one a token.
    #[arg(long)]
    steps: Option<usize>,
    /// Positions settled before those behind them.
    #[arg(long, default_value_t = 32)]
    block: usize,
    /// What a model of whole sequences keeps from step to step: nothing, prefix or around.
    #[arg(long, value_name = "WHAT", default_value = "nothing", value_parser = keep)]
    keep: Keep,
    /// Texts to time, after one.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
}

#[derive(Serialize)]
struct Outcome {
    prompt: usize,
    tokens: usize,
    forwards: usize,
    /// Seconds of a text.
    text: Timing,
    tokens_per_second: f64,
    milliseconds_per_forward: f64,
    counters: Counters,
    threads: usize,
    cpu: String,
}

/// Times whole texts and prints.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let device = global.device()?;
    let checkpoint = weights::open(&crate::embedded::resolve(&args.model)?)?;
    let model = Model::load(checkpoint.as_ref(), args.quantize.weights(&device), &device)?;
    let vocabulary = model.config.vocabulary as u32;
    let whole = Diffusion { mask_token: vocabulary - 1, block: None, shift: false, uniform: false };
    let diffusion = model.config.diffusion.clone().unwrap_or(whole);
    let masked = Masked::with(&model, diffusion);
    let settings = Denoising {
        rule: Rule::Fixed { steps: args.steps.unwrap_or(args.tokens) },
        block: Some(args.block),
        ends: Ends::Never,
        keep: args.keep,
        ..Denoising::default()
    };
    // Any ids but the mask's.
    let prompt: Vec<u32> = (0..args.prompt as u32).map(|i| (i * 7919 + 11) % (vocabulary - 1)).collect();
    let canvas = Canvas::after(&prompt, args.tokens);
    let (mut seconds, mut counters) = (Vec::new(), Counters::default());
    for text in 0..=args.repeats.max(1) {
        let began = Instant::now();
        let mut row = Row::new(&masked, &canvas, settings.clone(), &[], 0)?;
        while !row.is_over() {
            step(&masked, &mut [&mut row])?;
        }
        if text > 0 {
            seconds.push(began.elapsed().as_secs_f64());
        }
        counters = row.counters();
    }
    let text = Timing::of(seconds);
    let forwards = counters.forwards;
    let outcome = Outcome {
        prompt: args.prompt,
        tokens: args.tokens,
        forwards,
        text,
        tokens_per_second: args.tokens as f64 / text.median,
        milliseconds_per_forward: 1e3 * text.median / (forwards.max(1) as f64),
        counters,
        threads: recast_ops::cpu::threads(),
        cpu: format!("{:?}", recast_ops::cpu::level()),
    };
    if global.json {
        return output::json(&outcome).context("cannot write the figures");
    }
    output::print(format_args!(
        "{} tokens behind {} in {} forward passes: {:.3} s (best {:.3}, median of {}), {:.1} tokens/s, {:.1} ms a pass, {} threads, {}",
        outcome.tokens,
        outcome.prompt,
        outcome.forwards,
        outcome.text.median,
        outcome.text.best,
        outcome.text.repeats,
        outcome.tokens_per_second,
        outcome.milliseconds_per_forward,
        outcome.threads,
        outcome.cpu,
    ))
}
