//! `recast plan`: what a recipe will cost.

use crate::{Global, embedded, output};
use anyhow::Context;
use burn::tensor::Device;
use recast_eval::table::{Align, Table};
use recast_train::plan::Plan;
use recast_train::recipe::{self, Embedded};
use recast_train::teacher::{Teacher, from_scratch};
use recast_train::{Recipe, TrainError};
use std::fmt;
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
    let files = embedded::files(&recipe, &embedded::cache())?;
    check_text(&recipe, &files)?;
    let text = Text::of(&recipe, &files)?;
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
        return output::json(&Told { plan: &plan, text: &text });
    }
    output::print(format_args!("{}\n{text}", table(&recipe, &plan)))
}

#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    text: &'a Text,
}

/// How much text a recipe names, by its files: they are not read.
#[derive(serde::Serialize)]
struct Text {
    /// Bytes on disk of the files to train on.
    train_bytes: u64,
    /// Of those to measure on; none where some documents of the others are kept out.
    held_out_bytes: Option<u64>,
    /// Tokens kept out then, if the recipe says.
    held_out_tokens: Option<u64>,
}

impl Text {
    fn of(recipe: &Recipe, files: &Embedded) -> anyhow::Result<Self> {
        let (train, held_out) = files.text(&recipe.text);
        let bytes = |paths: &[PathBuf]| -> anyhow::Result<u64> {
            let length = |path: &PathBuf| {
                let about = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()));
                about.map(|about| about.len())
            };
            recast_text::expand(paths)?.iter().map(length).sum()
        };
        let apart = !held_out.is_empty();
        Ok(Self {
            train_bytes: bytes(&train)?,
            held_out_bytes: apart.then(|| bytes(&held_out)).transpose()?,
            held_out_tokens: recipe.text.held_out_tokens.filter(|_| !apart),
        })
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |count: u64| crate::run::bytes(count as usize);
        let train = bytes(self.train_bytes);
        match (self.held_out_bytes, self.held_out_tokens) {
            (Some(held_out), _) => write!(out, "text: files of {train} to train on, and of {} held out", bytes(held_out)),
            (None, Some(tokens)) => write!(out, "text: files of {train} to train on, of which {tokens} tokens are held out"),
            (None, None) => write!(out, "text: files of {train} to train on, of which some is held out"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_by_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("a.txt", 3000), ("b.jsonl", 1000), ("notes.md", 500), ("held.txt", 700)] {
            std::fs::write(folder.path().join(name), "a".repeat(bytes)).expect("writes");
        }
        let told = |set: &[&str]| {
            let path = |name: &str| folder.path().join(name).display().to_string();
            let all = [format!("text.train={:?}", [path("a.txt"), path("b.jsonl")])];
            let set: Vec<String> = all.into_iter().chain(set.iter().map(|set| set.replace("HELD", &path("held.txt")))).collect();
            let recipe = load(None, &set).expect("a recipe");
            let text = Text::of(&recipe, &Embedded::default()).expect("files");
            (serde_json::to_value(&text).expect("JSON"), text.to_string())
        };
        let (json, words) = told(&["text.held_out=[\"HELD\"]"]);
        assert_eq!(json, serde_json::json!({"train_bytes": 4000, "held_out_bytes": 700, "held_out_tokens": null}));
        assert!(words.contains(&crate::run::bytes(4000)) && words.contains(&crate::run::bytes(700)), "{words}");
        let (json, words) = told(&["text.held_out=[]", "text.held_out_tokens=300"]);
        assert_eq!(json, serde_json::json!({"train_bytes": 4000, "held_out_bytes": null, "held_out_tokens": 300}));
        assert!(words.ends_with("of which 300 tokens are held out"), "{words}");
    }
}
