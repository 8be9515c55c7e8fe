//! `recast train`: a model without a teacher. The same machinery as `convert`.

use super::convert;
use crate::Global;

/// Arguments of `recast train`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: convert::Args,
}

/// Runs it.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    convert::run(&args.run, global)
}
