//! `recast plan`: what a recipe will cost.

use crate::{Global, embedded, output};
use burn::tensor::Device;
use recast_eval::table::{Align, Table};
use recast_text::TextError;
use recast_train::plan::Plan;
use recast_train::recipe::{self, Embedded};
use recast_train::teacher::{Teacher, check_config, from_scratch};
use recast_train::{Recipe, TrainError};
use serde_json::{Value, json};
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
        (None, Some(scratch)) => {
            check_config(scratch)?;
            Plan::new(&recipe, None, &from_scratch(scratch, &recipe, &files, &device)?.0)?
        }
        (None, None) => unreachable!("recipes without teacher and scratch are refused on loading"),
    };
    if global.json {
        return output::json(&Told { plan: &plan, text: text.json() });
    }
    output::print(format_args!("{}\n{text}", table(&recipe, &plan)))
}

#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    text: Value,
}

/// How much text a recipe names, by its files: they are not read.
struct Text {
    /// The files to train on.
    train: Files,
    /// Those to measure on; none where some documents of the others are kept out.
    held_out: Option<Files>,
    /// Tokens kept out then, if the recipe says.
    held_out_tokens: Option<u64>,
}

/// How large some files are together.
#[derive(Clone, Copy)]
struct Files {
    /// Bytes on disk.
    stored: u64,
    /// Of those, in packed files.
    packed: u64,
    /// Bytes at least of all of them unpacked; none where a packed one does not say.
    unpacked: Option<u64>,
}

impl Files {
    fn of(paths: &[PathBuf]) -> Result<Self, TextError> {
        let mut all = Self { stored: 0, packed: 0, unpacked: Some(0) };
        for path in recast_text::expand(paths)? {
            let file = recast_text::file_size(&path)?;
            all.stored += file.stored;
            all.packed += if file.packed { file.stored } else { 0 };
            // A damaged header may say anything.
            all.unpacked = all.unpacked.zip(file.unpacked).map(|(all, file)| all.saturating_add(file));
        }
        Ok(all)
    }
}

impl fmt::Display for Files {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |count: u64| crate::run::bytes(count as usize);
        write!(out, "{}", bytes(self.stored))?;
        if self.packed == 0 {
            return Ok(());
        }
        let packed = if self.packed == self.stored { "packed".into() } else { format!("{} of it packed", bytes(self.packed)) };
        match self.unpacked {
            Some(unpacked) => write!(out, " ({packed}; at least {} unpacked)", bytes(unpacked)),
            None => write!(out, " ({packed})"),
        }
    }
}

impl Text {
    fn of(recipe: &Recipe, files: &Embedded) -> Result<Self, TextError> {
        let (train, held_out) = files.text(&recipe.text);
        let apart = !held_out.is_empty();
        Ok(Self {
            train: Files::of(&train)?,
            held_out: apart.then(|| Files::of(&held_out)).transpose()?,
            held_out_tokens: recipe.text.held_out_tokens.filter(|_| !apart),
        })
    }

    /// As machines are told.
    fn json(&self) -> Value {
        json!({
            "train_bytes": self.train.stored,
            "train_packed_bytes": self.train.packed,
            "train_unpacked_bytes": self.train.unpacked,
            "held_out_bytes": self.held_out.map(|files| files.stored),
            "held_out_packed_bytes": self.held_out.map(|files| files.packed),
            "held_out_unpacked_bytes": self.held_out.and_then(|files| files.unpacked),
            "held_out_tokens": self.held_out_tokens,
        })
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let train = self.train;
        match (self.held_out, self.held_out_tokens) {
            (Some(held_out), _) => write!(out, "text: files of {train} to train on, and of {held_out} held out"),
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
    use std::path::Path;

    /// What is told of the text of a recipe with these keys set, of files in a folder.
    fn told(folder: &Path, set: &[&str]) -> (Value, String) {
        let set: Vec<String> = set.iter().map(|set| set.replace("FOLDER", &folder.display().to_string())).collect();
        let recipe = load(None, &set).expect("a recipe");
        let text = Text::of(&recipe, &Embedded::default()).expect("files");
        (text.json(), text.to_string())
    }

    #[test]
    fn text_is_told_by_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("a.txt", 3000), ("b.jsonl", 1000), ("notes.md", 500), ("held.txt", 700)] {
            std::fs::write(folder.path().join(name), "a".repeat(bytes)).expect("writes");
        }
        let bytes = crate::run::bytes;
        let train = "text.train=['FOLDER/a.txt', 'FOLDER/b.jsonl']";
        let (json, words) = told(folder.path(), &[train, "text.held_out=['FOLDER/held.txt']"]);
        let wanted = json!({
            "train_bytes": 4000, "train_packed_bytes": 0, "train_unpacked_bytes": 4000,
            "held_out_bytes": 700, "held_out_packed_bytes": 0, "held_out_unpacked_bytes": 700, "held_out_tokens": null,
        });
        assert_eq!(json, wanted);
        assert_eq!(words, format!("text: files of {} to train on, and of {} held out", bytes(4000), bytes(700)));
        let (json, words) = told(folder.path(), &[train, "text.held_out=[]", "text.held_out_tokens=300"]);
        assert_eq!((&json["train_bytes"], &json["held_out_bytes"]), (&json!(4000), &Value::Null));
        assert!(json["held_out_tokens"] == 300 && words.ends_with("of which 300 tokens are held out"), "{words}");
    }

    #[test]
    fn packed_files_are_not_told_as_if_they_were_text() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.txt"), "a".repeat(3000)).expect("writes");
        // Headers of zstd frames: of one of 200 bytes, and of one that does not say how many.
        for (name, header) in [("sized.jsonl.zst", [0x20_u8, 200]), ("piped.jsonl.zst", [0x00, 0x58])] {
            let frame = [&[0x28, 0xb5, 0x2f, 0xfd][..], &header, &[0; 94]].concat();
            std::fs::write(folder.path().join(name), frame).expect("writes");
        }
        let held_out = "text.held_out=['FOLDER/sized.jsonl.zst']";
        let (json, words) = told(folder.path(), &["text.train=['FOLDER/sized.jsonl.zst', 'FOLDER/a.txt']", held_out]);
        let sizes = ["train_bytes", "train_packed_bytes", "train_unpacked_bytes", "held_out_unpacked_bytes"];
        assert_eq!(sizes.map(|key| json[key].as_u64()), [3100, 100, 3200, 200].map(Some));
        let [all, packed, unpacked, held_out] = [3100, 100, 3200, 200].map(crate::run::bytes);
        let wanted = format!(
            "text: files of {all} ({packed} of it packed; at least {unpacked} unpacked) to train on, and of {packed} (packed; at \
             least {held_out} unpacked) held out"
        );
        assert_eq!(words, wanted);
        let piped = "text.train=['FOLDER/piped.jsonl.zst', 'FOLDER/sized.jsonl.zst']";
        let (json, words) = told(folder.path(), &[piped, "text.held_out=[]"]);
        assert_eq!((&json["train_packed_bytes"], &json["train_unpacked_bytes"]), (&json!(200), &Value::Null));
        assert!(words.contains("files of 200 B (packed) to train on"), "{words}");
    }
}
