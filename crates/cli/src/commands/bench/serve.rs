//! `recast bench serve`: many sequences at a time through the engine, against batch and context.

mod picture;
mod rival;

use crate::arguments::Quantize;
use crate::{Global, output};
use anyhow::Context;
use burn::tensor::Device;
use recast_eval::table::{Align, Table};
use recast_infer::engine::{Limits, Message, Request};
use recast_infer::samplers::Event;
use recast_infer::{CHUNK, Engine, Loaded, Sampling, Snapshot, prefill};
use recast_models::Model;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

/// Arguments of `recast bench serve`.
#[derive(clap::Args)]
pub struct Args {
    /// Models, such as a student and its teacher: Hugging Face folders or GGUF files.
    #[arg(required = true)]
    models: Vec<PathBuf>,
    #[command(flatten)]
    quantize: Quantize,
    /// Sequences at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    batches: Vec<usize>,
    /// Tokens that every sequence has read.
    #[arg(long, value_delimiter = ',', default_value = "512,2048,8192,32768")]
    contexts: Vec<usize>,
    /// Tokens that every sequence writes.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// GiB of state that sequences may take together; what needs more is left out.
    #[arg(long, default_value_t = 12.0)]
    state_gib: f64,
    /// Also run llama.cpp on the models that are GGUF files, by this Python, which has `llama-cpp-python`.
    #[arg(long, value_name = "PYTHON", num_args = 0..=1, default_missing_value = "python3")]
    rival: Option<PathBuf>,
    /// Write speed and state against context as a picture.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Row {
    model: String,
    context: usize,
    batch: usize,
    /// Of all sequences together, while all of them write; none where the states do not fit.
    tokens_per_second: Option<f64>,
    /// All states together.
    state_bytes: usize,
    /// How many sequences of this length fit into 16 GiB of state.
    fit_in_16_gib: usize,
}

/// Measures and prints. It must not run on the compute pool: it waits while the engine computes
/// there.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let device = global.device()?;
    if args.tokens < 4 {
        return Err(output::wrong("--tokens", "at least 4", args.tokens.to_string()).into());
    }
    for (name, numbers) in [("--contexts", &args.contexts), ("--batches", &args.batches)] {
        if numbers.contains(&0) {
            return Err(output::wrong(name, "numbers of at least 1", "0").into());
        }
    }
    // Whatever the end needs is looked for before anything is measured.
    if let Some(file) = &args.svg
        // What is there already, such as standard output, is written where it is.
        && (!file.exists() || file.is_dir())
    {
        output::check_file("--svg", file)?;
    }
    let files: Vec<&PathBuf> = args.models.iter().filter(|m| m.extension().is_some_and(|e| e == "gguf")).collect();
    if let Some(python) = &args.rival {
        if files.is_empty() {
            return Err(output::wrong("--rival", "a GGUF file among the models", "none").into());
        }
        rival::check(python)?;
    }
    let mut rows = Vec::new();
    // What was measured before or after a model or a rival failed is told all the same.
    let mut failed: Option<anyhow::Error> = None;
    let mut fail = |error| {
        if let Some(earlier) = failed.replace(error) {
            output::tell(output::message(&earlier));
        }
    };
    for path in &args.models {
        if let Err(error) = model_rows(path, args, global, &device, &mut rows) {
            fail(error.context(path.display().to_string()));
        }
    }
    if let Some(python) = &args.rival {
        for file in files {
            match rival::run(python, file, args, recast_ops::cpu::threads()) {
                Ok(more) => rows.extend(more),
                Err(error) => fail(error),
            }
        }
    }
    if let Some(error) = failed.take_if(|_| rows.is_empty()) {
        return Err(error);
    }
    let drawn = args.svg.as_ref().map_or(Ok(()), |file| {
        std::fs::write(file, picture::svg(&rows)).with_context(|| format!("cannot write {}", file.display()))
    });
    let told = if global.json { serde_json::to_string_pretty(&serde_json::json!({ "serve": &rows }))? } else { table(&rows) };
    output::print_what_there_is(told, failed.map_or(drawn, Err))
}

/// Measures a model, row by row: those before an error stay.
fn model_rows(path: &Path, args: &Args, global: &Global, device: &Device, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let budget = (args.state_gib * f64::from(1 << 30)) as usize;
    let Loaded { model, tokenizer, .. } = args.quantize.open(&crate::embedded::resolve(path)?, device)?;
    // A text that ends by itself would end the measurement.
    let tokenizer = tokenizer.with_special_tokens(None, Vec::new())?;
    let limits = Limits {
        slots: args.batches.iter().copied().max().unwrap_or(1),
        state_bytes: usize::MAX,
        prefix_bytes: 0,
        ..Limits::default()
    };
    let engine = Engine::start(Arc::new(model), Arc::new(tokenizer), limits)?;
    for &context in &args.contexts {
        let one = engine.model().state_bytes(context + args.tokens);
        // Of contexts that hold nobody, nothing is read.
        let mut read = None;
        for &batch in &args.batches {
            let fits = batch.saturating_mul(one) <= budget;
            let speed = if fits {
                let read = read.get_or_insert_with(|| read_context(engine.model(), context));
                let snapshot = read.as_ref().map_err(|e| anyhow::anyhow!("{e}"))?;
                Some(measure(&engine, snapshot, batch, args.tokens)?)
            } else {
                None
            };
            let row = Row {
                model: name(path),
                context,
                batch,
                tokens_per_second: speed,
                state_bytes: batch * one,
                fit_in_16_gib: (16 << 30) / one.max(1),
            };
            if !global.json {
                output::tell(format_args!("{} context {context} batch {batch}: {}", row.model, shown(speed)));
            }
            rows.push(row);
        }
    }
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("context", Align::Right),
        ("batch", Align::Right),
        ("tokens/s, all", Align::Right),
        ("state, all", Align::Right),
        ("fit in 16 GiB", Align::Right),
    ]);
    for row in rows {
        table.row([
            row.model.clone(),
            row.context.to_string(),
            row.batch.to_string(),
            shown(row.tokens_per_second),
            crate::run::bytes(row.state_bytes),
            row.fit_in_16_gib.to_string(),
        ]);
    }
    table.plain()
}

fn shown(speed: Option<f64>) -> String {
    speed.map_or_else(|| "does not fit".into(), |s| format!("{s:.1}"))
}

/// The last part of a path that says something.
fn name(path: &Path) -> String {
    let folder = path.parent().and_then(Path::file_name).filter(|_| path.ends_with("model"));
    folder.or(path.file_name()).map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// A state that has read so many pseudo-random tokens.
fn read_context(model: &Model, context: usize) -> Result<Snapshot, recast_infer::InferError> {
    let token = |place: usize| (place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    let tokens: Vec<u32> = (0..context).map(|place| (token(place) % model.config.vocabulary as u64) as u32).collect();
    let mut state = model.new_state();
    recast_ops::cpu::on_worker(|| prefill(model, &mut [&mut state], &tokens, CHUNK).map(drop))?;
    Ok(Snapshot { tokens, state })
}

/// Tokens a second of `batch` sequences that each go on from a state of their own, between the moment
/// when all of them write and the moment when the first one ends.
fn measure(engine: &Engine, snapshot: &Snapshot, batch: usize, tokens: usize) -> anyhow::Result<f64> {
    let (send, receive) = channel();
    for row in 0..batch {
        let send = send.clone();
        // Copies: sequences that share pages would share the cache too.
        let state = Snapshot { tokens: snapshot.tokens.clone(), state: snapshot.state.copied() };
        let request = Request {
            prompt: vec![row as u32 % engine.model().config.vocabulary as u32],
            state: Some(Arc::new(state)),
            sampling: Sampling::greedy(),
            max_tokens: tokens,
            ..Request::default()
        };
        let listener = move |message| match message {
            Message::Event(Event::Fixed { .. }) if send.send((row, Some(Instant::now()))).is_err() => ControlFlow::Break(()),
            Message::End(Err(_)) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        engine.submit(request, Box::new(listener))?;
    }
    drop(send);
    let mut times = vec![Vec::new(); batch];
    for (row, at) in receive {
        times[row].extend(at);
    }
    let begin = times.iter().filter_map(|t| t.first()).max();
    let end = times.iter().filter_map(|t| t.last()).min();
    match (begin, end) {
        (Some(&begin), Some(&end)) if times.iter().all(|t| t.len() == tokens) && end > begin => {
            let within = times.iter().flatten().filter(|t| **t > begin && **t <= end).count();
            Ok(within as f64 / end.duration_since(begin).as_secs_f64())
        }
        _ => anyhow::bail!("{batch} sequences did not write together; give more --tokens"),
    }
}
