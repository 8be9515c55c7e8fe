//! `recast serve`: models behind an OpenAI-compatible interface, with a page to try them on.

use crate::Global;
use crate::arguments::Quantize;
use crate::output::{tell, wrong};
use anyhow::Context;
use recast_infer::engine::Limits;
use recast_infer::{Engine, Loaded};
use recast_serve::{Ended, LogFormat, ServeError, Server, Settings, signals, start_logging};
use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Between two times that freed memory is given back to the system.
const GIVE_BACK: std::time::Duration = std::time::Duration::from_secs(10);
/// Threads for work that blocks: templates and tokenizing.
const BLOCKING_THREADS: usize = 16;

/// Arguments of `recast serve`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folders or GGUF files; NAME=PATH to name one otherwise than its folder or file.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    #[command(flatten)]
    quantize: Quantize,
    /// Address or name to listen on; 0.0.0.0 for every network the machine is on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: String,
    /// Port to listen on; 0 takes a free one and tells which.
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// A key that requests must bring; may be given several times. Other users of the machine can
    /// see arguments: --api-key-file hides them.
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// File with keys, one a line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Sequences of a model worked on at a time.
    #[arg(long, default_value_t = Limits::default().slots, value_name = "N")]
    slots: usize,
    /// Requests to a model that may wait; more are refused.
    #[arg(long, default_value_t = Limits::default().queue, value_name = "N")]
    queue: usize,
    /// Memory for the states of a model's running sequences.
    #[arg(long, default_value_t = Limits::default().state_bytes >> 20, value_name = "MIB")]
    state_mib: usize,
    /// Memory for kept states of a model's earlier prompts.
    #[arg(long, default_value_t = Limits::default().prefix_bytes >> 20, value_name = "MIB")]
    prefix_mib: usize,
    /// Memory for states that clients may come back to (all models together).
    #[arg(long, default_value_t = Settings::default().kept_bytes >> 20, value_name = "MIB")]
    kept_mib: usize,
    /// Prompt tokens read at a time, between two steps of the sequences that write.
    #[arg(long, default_value_t = Limits::default().chunk, value_name = "N")]
    chunk: usize,
    /// Tokens that prompt and answer may have together; default: as many as the model was trained
    /// on where its state grows with the text, else no bound.
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// The most tokens that a request may ask for.
    #[arg(long, default_value_t = Settings::default().max_tokens, value_name = "N")]
    max_tokens: usize,
    /// The longest body of a request.
    #[arg(long, default_value_t = Settings::default().body_bytes >> 10, value_name = "KIB")]
    body_kib: usize,
    /// Seconds that a request may take.
    #[arg(long, default_value_t = Settings::default().request_seconds, value_name = "N")]
    request_seconds: u64,
    /// Seconds that running requests get after SIGTERM.
    #[arg(long, default_value_t = Settings::default().drain_seconds, value_name = "N")]
    drain_seconds: u64,
    /// Connections at a time; more wait.
    #[arg(long, default_value_t = Settings::default().connections, value_name = "N")]
    connections: usize,
    /// An origin (https://example.org) whose web pages may use the API; may be given several times,
    /// `*` for all.
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Layout of the log on standard error.
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the verb.
///
/// # Errors
/// When a model cannot be opened, an option is out of range, or the address is taken.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    start_logging(match args.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    });
    let mut settings = Settings {
        api_keys: args.api_key.clone(),
        body_bytes: args.body_kib << 10,
        context: args.context,
        max_tokens: args.max_tokens,
        request_seconds: args.request_seconds,
        drain_seconds: args.drain_seconds,
        connections: args.connections,
        kept_bytes: args.kept_mib << 20,
        cors_origins: args.cors_origin.clone(),
        ..Settings::default()
    };
    if let Some(path) = &args.api_key_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the keys from {}", path.display()))?;
        let keys: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect();
        // An empty file meant to protect shall not open the server.
        if keys.is_empty() {
            return Err(wrong("--api-key-file", "a file with a key a line", format!("none in {}", path.display())).into());
        }
        settings.api_keys.extend(keys);
    }
    let limits = Limits {
        slots: args.slots,
        queue: args.queue,
        state_bytes: args.state_mib << 20,
        prefix_bytes: args.prefix_mib << 20,
        chunk: args.chunk,
    };
    let chosen: Vec<(String, PathBuf)> = args.models.iter().map(|argument| named(argument)).collect();
    check(&settings, limits, &chosen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    let places: Vec<SocketAddr> = runtime
        .block_on(tokio::net::lookup_host((args.host.as_str(), args.port)))
        .map_err(|error| wrong("--host", "an address, or a name that leads to one", format!("{} ({error})", args.host)))?
        .collect();
    // Before large models are read.
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(&places[..]))
        .with_context(|| format!("cannot listen on {}, port {}", args.host, args.port))?;
    let address = listener.local_addr()?;
    let device = global.device()?;
    let mut models = Vec::new();
    for (name, path) in chosen {
        let Loaded { model, tokenizer, .. } = args.quantize.open(&crate::embedded::resolve(&path)?, &device)?;
        tell(format_args!(
            "{name}: {} layers, weights {}, state {} at 1024 tokens",
            model.config.layers,
            crate::run::bytes(model.weight_bytes()),
            crate::run::bytes(model.state_bytes(1024))
        ));
        models.push((name, Engine::start(Arc::new(model), Arc::new(tokenizer), limits)?));
    }
    recast_ops::cpu::small_pages_from_now_on();
    let open_to_all = settings.api_keys.is_empty() && !address.ip().is_loopback();
    let server = Server::new(settings, models)?;
    if open_to_all {
        let host = &args.host;
        tell(format_args!("note: no --api-key, and {host} is not this machine alone: whoever reaches the port may use it"));
    }
    let ended = runtime.block_on(async {
        let stop = signals().context("cannot listen to signals")?;
        tokio::spawn(give_back_memory());
        tell(format_args!("serving on http://{address}"));
        if global.json {
            let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({"address": address.to_string()}));
        }
        Ok::<_, anyhow::Error>(server.run(listener, stop).await?)
    })?;
    // What blocks is not waited for: it ends with the process.
    runtime.shutdown_background();
    anyhow::ensure!(ended == Ended::Drained, "ended before every request was answered");
    Ok(())
}

/// Refuses what engines and servers refuse, before large models are read.
fn check(settings: &Settings, limits: Limits, models: &[(String, PathBuf)]) -> anyhow::Result<()> {
    settings.check()?;
    for (name, value) in [("--slots", limits.slots), ("--chunk", limits.chunk), ("--state-mib", limits.state_bytes)] {
        if value == 0 {
            return Err(wrong(name, "at least 1", "0").into());
        }
    }
    let mut names = HashSet::new();
    for (name, _) in models {
        if !names.insert(name) {
            return Err(ServeError::SameName(name.clone()).into());
        }
    }
    Ok(())
}

/// Keeps the process as large as what it holds: states and prompts come and go in all sizes.
async fn give_back_memory() {
    let mut interval = tokio::time::interval(GIVE_BACK);
    loop {
        interval.tick().await;
        // Ends with the runtime; nothing waits for it.
        let _ = tokio::task::spawn_blocking(recast_ops::cpu::give_back_freed_memory).await;
    }
}

/// `NAME=PATH`, or a path whose last part is the name.
fn named(argument: &str) -> (String, PathBuf) {
    if let Some((name, path)) = argument.split_once('=')
        && !name.is_empty()
        && !name.contains(['/', '\\'])
        && !Path::new(argument).exists()
    {
        return (name.to_owned(), PathBuf::from(path));
    }
    let path = PathBuf::from(argument);
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    let last = if real.is_dir() { real.file_name() } else { real.file_stem() };
    (last.map_or_else(|| argument.to_owned(), |name| name.to_string_lossy().into_owned()), path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// What stands behind the verb.
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        global: Global,
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_model_that_is_not_there_is_named_once() {
        let Line { global, args } = Line::parse_from(["serve", "no-such-model", "--port", "0"]);
        let error = run(&args, &global).expect_err("there is none");
        let told = crate::output::message(&error);
        assert_eq!(told.matches("no-such-model").count(), 1, "{told}");
        assert_eq!(crate::output::exit_code(&error), 2, "{told}");
    }

    #[test]
    fn models_are_named() {
        assert_eq!(named("student=runs/x/model"), ("student".into(), PathBuf::from("runs/x/model")));
        assert_eq!(named("models/SmolLM2.Q4_1.gguf").0, "SmolLM2.Q4_1");
        assert_eq!(named("embedded").0, "embedded");
        assert_eq!(named("a/b=c.gguf").0, "b=c");
    }
}
