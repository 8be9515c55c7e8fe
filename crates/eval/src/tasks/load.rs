//! Loading a task: data file, subset, prompts.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::prompt::{Builder, Prompted};
use super::{Chance, Prompt, Task, Uniform, data};
use crate::error::{EvalError, Result};
use crate::tasks::Body;
use crate::tokenise::Window;

/// What a user may change about a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Evaluate only this many items, drawn by `seed`.
    pub limit: Option<usize>,
    /// Seed of the subset.
    pub seed: u64,
    /// Solved examples, in place of the task's own number.
    pub shots: Option<usize>,
    /// Window of a perplexity task, in place of its own.
    pub window: Option<(usize, usize)>,
}

/// Which part of a data set was evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// Items chosen.
    pub chosen: usize,
    /// Items in the file.
    pub of: usize,
    /// Seed of the choice.
    pub seed: u64,
}

/// A task with its prompts built.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The task.
    pub task: Task,
    /// Its prompts, in the file's order.
    pub items: Vec<Prompted>,
    /// Set where not all items of the file are here.
    pub subset: Option<Subset>,
    /// Solved examples in each prompt.
    pub shots: usize,
    /// Window of a perplexity task.
    pub window: Option<Window>,
}

impl Task {
    /// Reads the task's data from `folder` and builds the prompts.
    ///
    /// # Errors
    /// Files that cannot be read, lines that lack a field, templates that fail, ids that repeat.
    pub fn load(&self, folder: &Path, options: &LoadOptions) -> Result<Loaded> {
        let path = folder.join(&self.data.file);
        let items = data::read(&path, self.data.format, &self.data.fields)?;
        let shots = match (&self.shots, options.shots) {
            (None, Some(count)) if count > 0 => {
                return Err(EvalError::Setting(format!(
                    "task `{}` has no solved examples to show; leave the number of shots out",
                    self.name
                )));
            }
            (None, _) => 0,
            (Some(shots), count) => count.unwrap_or(shots.count),
        };
        let examples = match &self.shots {
            Some(source) if shots > 0 => data::read(&folder.join(&source.file), super::Format::Jsonl, &self.data.fields)?,
            _ => Vec::new(),
        };
        let window = match (&self.prompt, options.window) {
            (Prompt::Perplexity { .. }, Some((context, stride))) => Some(Window { context, stride }),
            (&Prompt::Perplexity { context, stride, .. }, None) => Some(Window { context, stride }),
            _ => None,
        };
        let builder = Builder::new(self, &examples, shots)?;
        let at = |line: usize| {
            let path = path.clone();
            move |error: EvalError| match error {
                EvalError::Task { task, problem } => EvalError::Item { path, line, problem: format!("task `{task}`: {problem}") },
                other => other,
            }
        };
        let of = items.len();
        let mut prompts = Vec::with_capacity(of);
        let mut seen: HashMap<String, usize> = HashMap::with_capacity(of);
        for item in &items {
            let prompt = builder.build(item).map_err(at(item.line))?;
            if let Some(first) = seen.insert(prompt.id.clone(), item.line) {
                return Err(EvalError::Item {
                    path,
                    line: item.line,
                    problem: format!("expected ids that differ, found `{}` again (first on line {first})", prompt.id),
                });
            }
            prompts.push(prompt);
        }
        let mut subset = None;
        if let Some(limit) = options.limit.filter(|limit| *limit < of) {
            if limit == 0 {
                return Err(EvalError::Setting("expected a limit of at least 1 item".into()));
            }
            let chosen = choose(&self.name, &prompts, limit, options.seed);
            prompts.retain(|prompt| chosen.contains(&prompt.id));
            subset = Some(Subset { chosen: limit, of, seed: options.seed });
        }
        Ok(Loaded { task: self.clone(), items: prompts, subset, shots, window })
    }
}

impl Loaded {
    /// What guessing reaches on these items.
    #[must_use]
    pub fn chance(&self) -> Option<f64> {
        match self.task.score.chance? {
            Chance::Level(level) => Some(level),
            Chance::Named(Uniform::Uniform) => {
                let sum: f64 = self
                    .items
                    .iter()
                    .map(|item| match &item.body {
                        Body::Pairs { pairs, .. } => 1.0 / pairs.len().max(1) as f64,
                        _ => 0.0,
                    })
                    .sum();
                Some(sum / self.items.len().max(1) as f64)
            }
        }
    }
}

/// The `limit` items whose hash with the seed is smallest: it depends neither on the order of the
/// file nor on the other items, and a larger limit keeps what a smaller one chose.
fn choose(task: &str, items: &[Prompted], limit: usize, seed: u64) -> BTreeSet<String> {
    let mut ranked: Vec<([u8; 32], &str)> = items
        .iter()
        .map(|item| {
            let mut hash = Sha256::new();
            hash.update(seed.to_le_bytes());
            hash.update((task.len() as u64).to_le_bytes());
            hash.update(task);
            hash.update(&item.id);
            (hash.finalize().into(), item.id.as_str())
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(limit).map(|(_, id)| id.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(lines: impl IntoIterator<Item = String>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let text: Vec<String> = lines.into_iter().collect();
        std::fs::write(folder.path().join("piqa_valid.jsonl"), text.join("\n")).unwrap();
        folder
    }

    fn line(index: usize) -> String {
        format!(r#"{{"id":"i{index}","query":"q","choices":["a","b"],"gold":0}}"#)
    }

    fn chosen(folder: &Path, limit: usize, seed: u64) -> Vec<String> {
        let options = LoadOptions { limit: Some(limit), seed, ..LoadOptions::default() };
        let loaded = Task::builtin("piqa").unwrap().load(folder, &options).unwrap();
        assert_eq!(loaded.subset.map(|s| (s.chosen, s.of, s.seed)), (limit < 40).then_some((limit, 40, seed)));
        loaded.items.into_iter().map(|i| i.id).collect()
    }

    #[test]
    fn subset_is_stable_seeded_and_nested() {
        let forward = folder((0..40).map(line));
        let backward = folder((0..40).rev().map(line));
        let five = chosen(forward.path(), 5, 1);
        // Fixed here: another machine or a later version must choose the same items.
        assert_eq!(five, ["i7", "i8", "i10", "i22", "i39"]);
        let mut reversed = chosen(backward.path(), 5, 1);
        reversed.reverse();
        assert_eq!(five, reversed);
        let nine = chosen(forward.path(), 9, 1);
        assert!(five.iter().all(|id| nine.contains(id)));
        assert_ne!(five, chosen(forward.path(), 5, 2));
        assert_eq!(chosen(forward.path(), 400, 1).len(), 40);
    }

    #[test]
    fn repeated_ids_and_gold_out_of_range_name_the_line() {
        let task = Task::builtin("piqa").unwrap();
        let error = |lines: Vec<String>| task.load(folder(lines).path(), &LoadOptions::default()).unwrap_err().to_string();
        let message = error(vec![line(0), line(1), line(0)]);
        assert!(message.contains("line 3") && message.contains("first on line 1"), "{message}");
        let message = error(vec![line(0), line(1).replace("\"gold\":0", "\"gold\":2")]);
        assert!(message.contains("line 2") && message.contains("index below 2"), "{message}");
        let message = task.load(Path::new("nowhere"), &LoadOptions::default()).unwrap_err().to_string();
        assert!(message.contains("nowhere"), "{message}");
    }
}
