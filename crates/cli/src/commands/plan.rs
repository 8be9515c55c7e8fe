//! `recast plan`: what a recipe will cost.

use crate::{Global, embedded, output};
use burn::tensor::Device;
use recast_eval::table::{Align, Table};
use recast_train::plan::Plan;
use recast_train::recipe::{self, Embedded};
use recast_train::teacher::{Teacher, from_scratch};
use recast_train::{Recipe, TrainError};
use std::path::PathBuf;

/// Arguments of `recast plan`.
#[derive(clap::Args)]
pub struct Args {
    /// The recipe; without it, the embedded one.
    recipe: Option<PathBuf>,
    /// Change a key: `--set stages.align.tokens=1000000`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Reads a recipe, or the embedded one.
pub fn load(path: Option<&PathBuf>, set: &[String]) -> anyhow::Result<Recipe> {
    Ok(match path {
        Some(path) => recipe::load(path, set)?,
        None => recipe::load_text(embedded::QUICKSTART, set)?,
    })
}

/// Prints the plan.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let recipe = load(args.recipe.as_ref(), &args.set)?;
    let device: Device = global.device()?;
    let files = embedded::files(&recipe)?;
    check_text(&recipe, &files)?;
    let plan = match (&recipe.teacher, &recipe.scratch) {
        (Some(named), _) => {
            let teacher = Teacher::open(&files.teacher(&named.path), &device)?;
            let student = teacher.student(&recipe, &device)?;
            Plan::new(&recipe, Some(&teacher.model), &student)?
        }
        (None, Some(scratch)) => Plan::new(&recipe, None, &from_scratch(scratch, &recipe, &files, &device)?.0)?,
        (None, None) => unreachable!("recipes without teacher and scratch are refused on loading"),
    };
    if global.json {
        return output::json(&plan);
    }
    output::print(table(&recipe, &plan))
}

/// Refuses text that is not there.
fn check_text(recipe: &Recipe, files: &Embedded) -> Result<(), TrainError> {
    let (train, held_out) = files.text(&recipe.text);
    for (key, paths) in [("train", train), ("held_out", held_out)] {
        if let Some(path) = paths.iter().find(|path| !path.exists()) {
            return Err(TrainError::Recipe(format!("text.{key}: there is no {}", path.display())));
        }
    }
    Ok(())
}

/// The plan as a table.
pub fn table(recipe: &Recipe, plan: &Plan) -> String {
    let mut table = Table::new(&[
        ("stage", Align::Left),
        ("objective", Align::Left),
        ("trains", Align::Right),
        ("tokens", Align::Right),
        ("steps", Align::Right),
        ("batch", Align::Right),
        ("memory", Align::Right),
        ("time", Align::Right),
    ]);
    for (stage, plan) in recipe.stages.iter().zip(&plan.stages) {
        table.row([
            plan.name.clone(),
            serde_json::to_value(plan.objective).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default(),
            count(plan.trainable as f64),
            count(plan.tokens as f64),
            plan.steps.to_string(),
            format!("{} x {}", stage.batch, stage.context),
            format!("~{}", crate::run::bytes(plan.bytes as usize)),
            format!("~{}", crate::run::duration(plan.seconds)),
        ]);
    }
    format!(
        "{}: {} parameters, {} in mixers\n{}\nmemory and time are estimates for this machine ({:.0} GFLOP/s)",
        recipe.name,
        count(plan.parameters as f64),
        count(plan.mixer_parameters as f64),
        table.plain(),
        plan.gflops
    )
}

/// 1234567 as `1.23M`.
fn count(x: f64) -> String {
    match x {
        x if x < 1e4 => format!("{x:.0}"),
        x if x < 1e6 => format!("{:.0}k", x / 1e3),
        x if x < 1e9 => format!("{:.2}M", x / 1e6),
        x => format!("{:.2}B", x / 1e9),
    }
}
