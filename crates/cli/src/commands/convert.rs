//! `recast convert`: from a teacher to a student, by a recipe.

use super::plan;
use crate::run::{self, Start, Wanted};
use crate::{Global, output};
use std::path::PathBuf;

/// Arguments of `recast convert`.
#[derive(clap::Args)]
pub struct Args {
    /// The recipe; without it, the embedded teacher and its text.
    recipe: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What `convert` and `train` can be told besides the recipe.
#[derive(clap::Args)]
pub struct Options {
    /// Change a key: `--set teacher.path=model.gguf`. With --resume: rates, clip and the like of the stage under
    /// way, and anything of later ones.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run; default `runs/NAME`, or `runs/NAME-2` and so on where that is taken.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in this folder.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "out"])]
    pub resume: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    run_as(Wanted::Teacher, args.recipe.as_ref(), &args.options, global)
}

/// Runs a recipe, if it is one for this verb, or goes on with a run.
pub fn run_as(wanted: Wanted, recipe: Option<&PathBuf>, options: &Options, global: &Global) -> anyhow::Result<()> {
    let start = match &options.resume {
        Some(folder) => Start::Resume(folder.clone(), options.set.clone()),
        None => {
            let recipe = plan::load(recipe, &options.set)?;
            wanted.check(&recipe)?;
            Start::New(Box::new(recipe), options.out.clone())
        }
    };
    let summary = run::run(start, global)?;
    if global.json {
        return output::json(&summary);
    }
    summary.print()
}
