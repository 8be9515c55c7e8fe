//! `recast schema`: JSON Schema of recipes and of mixers' options, for editors.

use crate::{Global, output};

/// Arguments of `recast schema`.
#[derive(clap::Args)]
pub struct Args {
    /// A mixer, whose options are described; without it, recipes.
    mixer: Option<String>,
}

/// Prints the schema.
pub fn run(args: &Args, _: &Global) -> anyhow::Result<()> {
    match &args.mixer {
        None => output::json(&recast_train::Recipe::schema()),
        Some(name) => output::json(&(recast_models::mixers::find(name)?.schema)()),
    }
}
