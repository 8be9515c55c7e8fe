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
    /// Change a key: `--set teacher.path=model.gguf`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the run; default `runs/NAME`.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the run in this folder.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["recipe", "set", "out"])]
    resume: Option<PathBuf>,
}

impl Args {
    /// Whether a recipe or a run is given, so that nothing is left to the embedded one.
    pub fn names_a_run(&self) -> bool {
        self.recipe.is_some() || self.resume.is_some()
    }
}

/// Runs it, if the recipe is one for this verb.
pub fn run(args: &Args, global: &Global, wanted: Wanted) -> anyhow::Result<()> {
    let start = match &args.resume {
        Some(folder) => Start::Resume(folder.clone()),
        None => {
            let recipe = plan::load(args.recipe.as_ref(), &args.set)?;
            wanted.check(&recipe)?;
            let folder = args.out.clone().unwrap_or_else(|| run::free_folder(&recipe.name));
            Start::New(Box::new(recipe), folder)
        }
    };
    let summary = run::run(start, global)?;
    if global.json {
        return output::json(&summary);
    }
    summary.print();
    Ok(())
}
