//! `recast train`: a model without a teacher. The same machinery as `convert`.

use super::convert;
use crate::Global;
use crate::run::Wanted;
use recast_train::TrainError;

/// Arguments of `recast train`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: convert::Args,
}

/// Runs it.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    if !args.run.names_a_run() {
        return Err(TrainError::Recipe("train: expected a recipe (recipes/tiny-teacher.toml) or --resume RUN".into()).into());
    }
    convert::run(&args.run, global, Wanted::Scratch)
}
