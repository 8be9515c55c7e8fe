//! `recast`: convert, train, run and judge language models. One file a verb in `commands/`.
//!
//! A library so that a program of your own can be `recast` with your mixers in it:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     recast_models::mixers::register(Registration::of::<MyMixer>());
//!     recast::main()
//! }
//! ```

mod arguments;
mod commands;
mod diffusion_scorer;
mod embedded;
mod output;
#[cfg(test)]
mod reference;
mod run;
mod scorer;

use clap::{Parser, Subcommand};
use recast_ops::device::Kind;
use std::fmt;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Once;

#[global_allocator]
static MEMORY: recast_ops::cpu::HugePages = recast_ops::cpu::HugePages;

/// Converts pretrained softmax transformers into recurrent models, and runs and judges them.
#[derive(Parser)]
#[command(name = "recast", version, propagate_version = true, after_help = output::EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Global {
    /// Print one JSON object with the results on standard output.
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads to compute on, 1024 at most; default all cores. Results are bit-equal for equal counts.
    #[arg(long, global = true, value_name = "N", value_parser = threads)]
    pub threads: Option<NonZeroUsize>,
    /// Precision of matrix products: f32, or bf16 operands with f32 accumulation (and keys and values
    /// held in bf16) where the processor has instructions for it that are faster.
    #[arg(long, global = true, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Device to compute on: cpu, cuda, rocm, metal, vulkan or wgpu (those the binary was built for).
    #[arg(long, global = true, value_name = "DEVICE", default_value_t = Kind::Cpu)]
    pub device: Kind,
    /// No progress bars.
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// More threads than any machine here has cores; a hundred times as many bring it to a stand.
const MOST_THREADS: usize = 1024;

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST_THREADS);
    count.ok_or_else(|| format!("expected a number from 1 to {MOST_THREADS}"))
}

/// Precision of matrix products.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Precision {
    /// 32-bit throughout.
    F32,
    /// Operands rounded to bfloat16.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl Global {
    /// The device, after the precision is set for the process; tells where it cannot be kept.
    pub fn device(&self) -> anyhow::Result<burn::tensor::Device> {
        recast_ops::linear::set_precision(match self.precision {
            Precision::F32 => recast_ops::linear::Precision::F32,
            Precision::Bf16 => recast_ops::linear::Precision::Bf16,
        });
        let device = recast_ops::device::open(self.device)?;
        if self.precision == Precision::Bf16 && computed_at(&device) == Precision::F32 {
            static TOLD: Once = Once::new();
            TOLD.call_once(|| {
                let level = recast_ops::cpu::level();
                output::tell(format_args!("no instructions for bf16 that beat f32 at {level:?}: products are computed in f32"));
            });
        }
        Ok(device)
    }
}

/// What products on this device are computed at, of what was asked for.
pub(crate) fn computed_at(device: &burn::tensor::Device) -> Precision {
    match recast_ops::linear::precision_on(device) {
        recast_ops::linear::Precision::F32 => Precision::F32,
        recast_ops::linear::Precision::Bf16 => Precision::Bf16,
    }
}

#[derive(Subcommand)]
enum Verb {
    /// Convert a teacher into a student by a recipe (without arguments: the embedded teacher).
    Convert(commands::convert::Args),
    /// Show what a recipe will cost, before it costs anything.
    Plan(commands::plan::Args),
    /// Train a model from nothing, or one that exists for masked diffusion.
    Train(commands::train::Args),
    /// Continue a prompt.
    Generate(commands::generate::Args),
    /// Make a page that plays how a text settled, from a trace of `generate --trace`.
    Replay(commands::replay::Args),
    /// Talk with a model in the terminal.
    Chat(commands::chat::Args),
    /// Serve models over an OpenAI-compatible interface, with a page to try them on.
    Serve(commands::serve::Args),
    /// Score a model on tasks, against its teacher if given.
    Eval(commands::eval::Args),
    /// Write the logits of a text or of token ids.
    Logits(commands::logits::Args),
    /// Describe a model: family, mixers, parameters, state sizes.
    Info(commands::info::Args),
    /// Print the JSON Schema of recipes, or of a mixer's options.
    Schema(commands::schema::Args),
    /// Measure training steps, operators and decoding.
    Bench(commands::bench::Args),
}

/// The program: reads the command line, does what it says, and returns the exit code. Once a process.
pub fn main() -> ExitCode {
    closed_pipes_end_it(true);
    // Activations are allocated and freed at every operator; returning such blocks to the kernel
    // each time cost a fifth of a training step in page faults.
    recast_ops::cpu::keep_freed_memory();
    let Arguments { global, verb } = Arguments::parse();
    // A client that closes its connection must not end the server, nor a pipe for progress hours of work.
    if matches!(verb, Verb::Serve(_) | Verb::Convert(_) | Verb::Train(_) | Verb::Eval(_) | Verb::Bench(_)) {
        closed_pipes_end_it(false);
    }
    let result = recast_ops::cpu::set_threads(global.threads).map_err(anyhow::Error::from).and_then(|()| match &verb {
        // These wait for an engine, which computes on the pool: they must not hold a worker.
        Verb::Chat(_) | Verb::Serve(_) => run(&verb, &global),
        Verb::Bench(args) if args.waits() => run(&verb, &global),
        _ => recast_ops::cpu::on_worker(|| run(&verb, &global)),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(format_args!("recast: {}", output::message(&error)));
            ExitCode::from(output::exit_code(&error))
        }
    }
}

/// Whether writing to a closed pipe (`recast ... | head`) ends the program, quietly and at once, or is an error
/// where it is written.
pub(crate) fn closed_pipes_end_it(ends: bool) {
    #[cfg(unix)]
    // SAFETY: either is an action that POSIX defines, and no handler of ours is replaced.
    unsafe {
        libc::signal(libc::SIGPIPE, if ends { libc::SIG_DFL } else { libc::SIG_IGN });
    }
    #[cfg(not(unix))]
    let _ = ends;
}

fn run(verb: &Verb, global: &Global) -> anyhow::Result<()> {
    match verb {
        Verb::Convert(args) => commands::convert::run(args, global),
        Verb::Plan(args) => commands::plan::run(args, global),
        Verb::Train(args) => commands::train::run(args, global),
        Verb::Generate(args) => commands::generate::run(args, global),
        Verb::Replay(args) => commands::replay::run(args, global),
        Verb::Chat(args) => commands::chat::run(args, global),
        Verb::Serve(args) => commands::serve::run(args, global),
        Verb::Eval(args) => commands::eval::run(args, global),
        Verb::Logits(args) => commands::logits::run(args, global),
        Verb::Info(args) => commands::info::run(args, global),
        Verb::Schema(args) => commands::schema::run(args, global),
        Verb::Bench(args) => commands::bench::run(args, global),
    }
}
