//! `recast bench`: how fast this machine trains and decodes, part by part and as a whole. Every
//! figure is a median; `benches/compare.py` runs the same work in PyTorch beside it.

mod decode;
mod denoise;
mod ops;
mod serve;
mod step;

use crate::Global;
use std::time::Instant;

/// Arguments of `recast bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// One training step: of a random transformer, or of a recipe's stage.
    Step(step::Args),
    /// Each operator: time, throughput, share of this machine's measured peak.
    Ops(ops::Args),
    /// Decoding one sequence at given context lengths.
    Decode(decode::Args),
    /// Writing one text by denoising, at a fixed number of forward passes.
    Denoise(denoise::Args),
    /// Decoding many sequences at a time, against batch and context.
    Serve(serve::Args),
}

impl Args {
    /// Whether it waits for an engine instead of computing itself.
    pub fn waits(&self) -> bool {
        matches!(self.what, What::Serve(_))
    }
}

/// Measures and prints.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    match &args.what {
        What::Step(args) => step::run(args, global),
        What::Ops(args) => ops::run(args, global),
        What::Decode(args) => decode::run(args, global),
        What::Denoise(args) => denoise::run(args, global),
        What::Serve(args) => serve::run(args, global),
    }
}

/// Median and best of a sample of seconds.
#[derive(Clone, Copy, serde::Serialize)]
struct Timing {
    median: f64,
    best: f64,
    repeats: usize,
}

impl Timing {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let repeats = seconds.len();
        let middle = |i: usize| seconds.get(i).copied().unwrap_or(f64::NAN);
        Self { median: 0.5 * (middle((repeats.max(1) - 1) / 2) + middle(repeats / 2)), best: middle(0), repeats }
    }
}

/// Runs `f` once to warm up, then at least `repeats` times and for at least a quarter of a second.
fn time(repeats: usize, mut f: impl FnMut()) -> Timing {
    f();
    let mut seconds = Vec::new();
    let began = Instant::now();
    while seconds.len() < repeats || (began.elapsed().as_secs_f64() < 0.25 && seconds.len() < 1000) {
        let start = Instant::now();
        f();
        seconds.push(start.elapsed().as_secs_f64());
    }
    Timing::of(seconds)
}

/// Largest resident size of this process so far, in bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Timing::of(vec![3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Timing::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(time(7, || ()).repeats.min(7), 7);
    }
}
