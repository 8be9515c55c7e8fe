//! What a run's bits depend on beside its recipe: kept in its folder, so that a resumed run goes on
//! as it began.

use super::summary::held_out::many;
use crate::output::tell;
use crate::{Global, Precision};
use anyhow::Context;
use recast_text::files::replace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

const NAME: &str = "run.json";

/// How a run was begun.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Conditions {
    /// The command line.
    pub command: String,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Worker threads.
    pub threads: usize,
    /// Kind of device; none of runs older than this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Variants of the stages' objectives, in words, by the stage's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variants: BTreeMap<String, String>,
}

impl Conditions {
    /// Those of this process.
    pub fn now(global: &Global) -> Self {
        Self {
            // Paths need not be UTF-8.
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
            precision: global.precision,
            threads: recast_ops::cpu::threads(),
            device: Some(global.device.to_string()),
            variants: BTreeMap::new(),
        }
    }

    /// Those that a run was begun with. None where the file is torn or not there, as of older runs: it is told of a run,
    /// which is whole but for this and can go on.
    pub fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(NAME);
        let unknown = |why: &str| {
            tell(format_args!(
                "{}: {why}; the run goes on with the --precision, --threads and --device of this command, and its bits \
                 differ if it was begun with others",
                path.display()
            ));
        };
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if folder.join("recipe.toml").exists() {
                    unknown("not there");
                }
                return Ok(None);
            }
            other => other.with_context(|| format!("reading {}", path.display()))?,
        };
        Ok(serde_json::from_slice(&bytes).map(Some).unwrap_or_else(|error| {
            unknown(&format!("not what a run writes ({error})"));
            None
        }))
    }

    /// Writes them beside the recipe.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(NAME);
        replace(&path, &serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", path.display()))
    }

    /// Sets this process to them; threads and device are as they were started, and a difference is told.
    pub fn restore(&self, global: &Global) -> anyhow::Result<()> {
        Global { precision: self.precision, ..global.clone() }.device()?;
        self.differences(&Self::now(global)).into_iter().for_each(tell);
        Ok(())
    }

    /// What is another way now, a line each.
    fn differences(&self, now: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.precision != now.precision {
            lines.push(format!("the run was begun at precision {} and goes on so", self.precision));
        }
        if let (Some(then), Some(now)) = (&self.device, &now.device)
            && then != now
        {
            lines.push(format!(
                "the run was begun on {then} and goes on on {now}: its bits will differ; --device {then} goes on as it began"
            ));
        }
        if self.threads != now.threads {
            lines.push(format!(
                "the run was begun on {} and goes on on {}: its bits will differ",
                many(self.threads as u64, "thread"),
                now.threads
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(json: &str) -> Conditions {
        serde_json::from_str(json).expect("what a run writes")
    }

    #[test]
    fn a_torn_file_is_none_and_is_written_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        assert!(Conditions::read(run).expect("none there").is_none());
        std::fs::write(run.join(NAME), r#"{"command": "rec"#).expect("writes");
        assert!(Conditions::read(run).expect("torn").is_none());
        let now = conditions(r#"{"command": "recast", "precision": "bf16", "threads": 2}"#);
        now.write(run).expect("writes");
        let kept = Conditions::read(run).expect("reads").expect("is there");
        assert_eq!((kept.precision, kept.threads), (now.precision, 2));
        assert_eq!(std::fs::read_dir(run).expect("reads").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn another_device_is_told_and_an_unknown_one_is_not() {
        let now = conditions(r#"{"command": "recast", "precision": "f32", "threads": 2, "device": "cpu"}"#);
        let begun = Conditions { device: Some("cuda".into()), ..now.clone() };
        let lines = begun.differences(&now);
        assert!(lines.len() == 1 && lines[0].contains("begun on cuda and goes on on cpu"), "{lines:?}");
        // As runs wrote it before there was a device in it.
        let older = conditions(r#"{"command": "recast", "precision": "f32", "threads": 2}"#);
        assert_eq!((older.device.clone(), older.differences(&now)), (None, Vec::new()));
        let threads = Conditions { threads: 3, ..begun };
        assert_eq!(threads.differences(&now).len(), 2);
        let [one, two] = [1, 2].map(|threads| Conditions { threads, ..now.clone() });
        assert!(one.differences(&two)[0].contains("begun on 1 thread and goes on on 2:"));
        assert!(two.differences(&one)[0].contains("begun on 2 threads and goes on on 1:"));
    }
}
