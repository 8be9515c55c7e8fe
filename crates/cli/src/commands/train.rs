//! `recast train`: a model from nothing, or one that exists for masked diffusion. The same machinery
//! as `convert`.

use super::convert::{self, Options};
use crate::Global;
use crate::run::Wanted;
use recast_train::TrainError;
use std::path::PathBuf;

/// Arguments of `recast train`.
#[derive(clap::Args)]
pub struct Args {
    /// The recipe, such as recipes/tiny-teacher.toml.
    recipe: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Runs it.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    if args.recipe.is_none() && args.options.resume.is_none() {
        return Err(TrainError::Recipe("train: expected a recipe (recipes/tiny-teacher.toml) or --resume RUN".into()).into());
    }
    convert::run_as(Wanted::Scratch, args.recipe.as_ref(), &args.options, global)
}
