//! What `convert` and `train` share: a run from its recipe to its report.

mod card;
mod conditions;
mod progress;
mod report;
mod samples;
mod summary;

pub use progress::{duration, ended};
pub use summary::{Summary, bytes};

use crate::output::{tell, wrong};
use crate::{Global, embedded};
use anyhow::Context;
use progress::Screen;
use recast_models::export::{self, Provenance, Storage};
use recast_models::weights::Dtype;
use recast_train::checkpoint::Store;
use recast_train::recipe::Embedded;
use recast_train::{Recipe, TrainError, Trainer};
use std::path::{Path, PathBuf};

/// A new run, or one to go on with.
pub enum Start {
    /// By this recipe, in this folder or one of its name.
    New(Box<Recipe>, Option<PathBuf>),
    /// The run in this folder, with these keys of its recipe changed.
    Resume(PathBuf, Vec<String>),
}

/// What a verb expects of a recipe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `convert`: a teacher to learn from.
    Teacher,
    /// `train`: a model that starts from nothing, or is trained on for masked diffusion.
    Scratch,
}

impl Wanted {
    /// Refuses a recipe of the other kind.
    pub fn check(self, recipe: &Recipe) -> Result<(), TrainError> {
        match (self, recipe.teacher.is_some()) {
            (Self::Teacher, false) => {
                Err(TrainError::Recipe("there is no [teacher] to convert; `recast train` trains from nothing".into()))
            }
            // A model that becomes a diffusion model is trained on, and teaches nothing.
            (Self::Scratch, true) if recipe.student.diffusion.is_none() => {
                Err(TrainError::Recipe("there is a [teacher] to learn from; `recast convert` does that".into()))
            }
            _ => Ok(()),
        }
    }
}

/// Runs to the end: stages, model, report. Returns what there is to tell.
pub fn run(start: Start, global: &Global) -> anyhow::Result<Summary> {
    let device = global.device()?;
    let written = |recipe: &Recipe| embedded::files(recipe, &embedded::beside_runs());
    let files = match &start {
        Start::New(recipe, _) => written(recipe)?,
        Start::Resume(folder, changes) => match recast_train::recipe::load(&folder.join("recipe.toml"), changes) {
            Ok(recipe) => written(&recipe)?,
            // Refused below, where the run is opened, with what to do.
            Err(_) => Embedded::default(),
        },
    };
    let folder = match &start {
        // A file would only be told as one that exists.
        Start::New(_, Some(folder)) if folder.exists() && !folder.is_dir() => {
            return Err(wrong("--out", "a folder for the run", format!("the file {}", folder.display())).into());
        }
        Start::New(_, Some(folder)) | Start::Resume(folder, _) => folder.clone(),
        Start::New(recipe, None) => free_folder(&recipe.name)?,
    };
    let kept = match &start {
        Start::New(..) => None,
        Start::Resume(..) => conditions::Conditions::read(&folder)?,
    };
    let mut conditions = kept.clone().unwrap_or_else(|| conditions::Conditions::now(global));
    if let Start::Resume(folder, changes) = &start
        && changes.is_empty()
        && let Some(summary) = finished(folder)?
    {
        tell(format_args!("{}: finished already", folder.display()));
        return Ok(summary);
    }
    conditions.restore(global)?;
    let mut screen = Screen::new(&folder, global);
    let mut trainer = match start {
        Start::New(recipe, _) => Trainer::create(*recipe, &files, &folder, &device, &mut screen)?,
        Start::Resume(folder, changes) => Trainer::resume(&folder, &changes, &files, &device, &mut screen)?,
    };
    if kept.is_none() {
        let stages = trainer.plan.stages.iter();
        conditions.variants = stages.filter_map(|s| Some((s.name.clone(), s.variant.clone()?))).collect();
        conditions.write(&folder)?;
    }
    screen.begin(&trainer);
    trainer.run(&mut screen)?;
    screen.trained();

    let provenance = Provenance {
        teacher: trainer.recipe.teacher.as_ref().map_or_else(String::new, |t| t.path.display().to_string()),
        recipe_hash: trainer.recipe.hash(),
        stages: trainer.recipe.stages.iter().map(|s| s.name.clone()).collect(),
        tokens: trainer.position.tokens,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let dtype = match trainer.recipe.export.dtype.as_deref() {
        Some("bf16") => Dtype::BF16,
        Some("f16") => Dtype::F16,
        _ => Dtype::F32,
    };
    let original = trainer.teacher.as_ref().map(|t| t.checkpoint.as_ref());
    let card = card::card(&trainer, &provenance);
    export::save(
        &trainer.student,
        &folder.join("model"),
        Storage { dtype: Some(dtype), original },
        Some(&trainer.tokenizer),
        Some(&provenance),
        Some(&card),
    )
    .with_context(|| format!("every step is done; `convert --resume {}` goes on from there", folder.display()))?;
    let summary = Summary::measure(&trainer, &folder, &screen)?;
    report::write(&trainer, &summary, &folder, &conditions).context("writing the report")?;
    summary.write(&folder)?;
    Ok(summary)
}

/// What there was to tell of the run in this folder, if nothing is left to do.
fn finished(folder: &Path) -> anyhow::Result<Option<Summary>> {
    // Both are written after everything else.
    if !folder.join("report.html").exists() || !folder.join("model/config.json").exists() {
        return Ok(None);
    }
    let Some(summary) = Summary::read(folder) else { return Ok(None) };
    let recipe = recast_train::recipe::load(&folder.join("recipe.toml"), &[])?;
    let newest = Store::new(folder, recipe.checkpoints.keep).latest()?;
    let done = newest.is_some_and(|(_, at)| at.stage == recipe.stages.len());
    // The model says by which recipe it was made.
    let config = std::fs::read(folder.join("model/config.json"))?;
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    let same = config["recast"]["recipe_hash"] == recipe.hash();
    Ok((done && same).then_some(summary))
}

/// A folder for a run that was not given one, made: `runs/NAME`, `runs/NAME-2`, ...
fn free_folder(name: &str) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all("runs").context("cannot make the folder runs")?;
    free_in(Path::new("runs"), name)
}

fn free_in(runs: &Path, name: &str) -> anyhow::Result<PathBuf> {
    // Right below, whatever the name.
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.trim_start_matches('.').chars().map(safe).collect();
    let name = if name.is_empty() { "run" } else { &name };
    let mut candidate = runs.join(name);
    let mut n = 2;
    // Made rather than looked for: runs that start together each get their own.
    while let Err(error) = std::fs::create_dir(&candidate) {
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            return Err(error).with_context(|| format!("cannot make the folder {}", candidate.display()));
        }
        candidate = runs.join(format!("{name}-{n}"));
        n += 1;
    }
    Ok(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_right_below_the_folder_of_runs() {
        let runs = tempfile::tempdir().expect("a folder");
        for (name, folder) in [
            ("a", "a"),
            ("a", "a-2"),
            ("a", "a-3"),
            ("", "run"),
            ("..", "run-2"),
            ("a/b", "a-b"),
            ("a/b", "a-b-2"),
            ("/é.1", "-é.1"),
        ] {
            assert_eq!(free_in(runs.path(), name).expect("made"), runs.path().join(folder), "{name}");
        }
    }
}
