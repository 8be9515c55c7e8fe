//! Tasks: what a model is asked and how its answers are scored, as data.
//!
//! A task is a TOML file under `crates/eval/tasks/`. It names a data file and the fields it
//! needs, holds the prompt as minijinja templates and expressions over those fields, and lists
//! the metrics, the chance level and where the data came from. To add one, write the file and add
//! its line to [`BUILTIN`]; `tasks/fixtures.rs` holds every one of them to its exact prompt on a
//! two-item fixture, and fails for a task that has none. A task of the user's own is read with
//! [`Task::from_toml`] and needs no code.

mod data;
#[cfg(test)]
mod fixtures;
mod load;
mod prompt;
mod template;

pub use data::{FieldType, Item};
pub use load::{LoadOptions, Loaded, Subset};
pub use prompt::{Body, Prompted};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};
use crate::metrics::MetricKind;

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        /// Name and TOML text of every embedded task, in the order they are listed to people.
        pub const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../tasks/", $name, ".toml")))),*];
    };
}

builtin!(
    "perplexity",
    "wikitext2",
    "lambada",
    "arc_easy",
    "arc_challenge",
    "hellaswag",
    "piqa",
    "winogrande",
    "openbookqa",
    "boolq",
    "siqa",
    "mmlu",
    "mmlu_5shot",
    "blimp",
    "truthfulqa_mc1",
    "pubmedqa",
    "gsm8k",
    "xquad_en",
);

/// A task as its TOML file states it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name on the command line and in results.
    pub name: String,
    /// Raised whenever a change moves numbers; part of the journal's key.
    pub version: u32,
    /// Title for people.
    pub title: String,
    /// Where the items are.
    pub data: Data,
    /// How they are put.
    pub prompt: Prompt,
    /// How the answers are scored.
    pub score: Score,
    /// Solved examples put before the question.
    #[serde(default)]
    pub shots: Option<Shots>,
    /// Where the data came from.
    pub origin: Origin,
}

/// Where the items of a task are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// File name inside the data folder.
    pub file: String,
    /// How the file is cut into items.
    #[serde(default)]
    pub format: Format,
    /// Fields an item must have (`"string?"`: may have).
    pub fields: BTreeMap<String, FieldType>,
    /// Expression giving an item's id; the line number where absent.
    #[serde(default)]
    pub id: Option<String>,
    /// Expression giving the group that an item's result also counts for (subject, source).
    #[serde(default)]
    pub group: Option<String>,
}

/// How a data file is cut into items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// The whole file is one item with the field `text`.
    Text,
    /// WikiText: one item an article, with `text` (byte for byte) and `title`.
    Wikitext,
}

/// How an item is put to the model. Strings are minijinja templates over the item's fields;
/// those documented as expressions give a value instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Prompt {
    /// Which of several continuations is the most likely?
    MultipleChoice {
        /// Once, at the very top, before any solved example.
        #[serde(default)]
        description: String,
        /// Template, also over `choice` and `index` (for tasks where the option stands in the
        /// context, as in winogrande).
        context: String,
        /// Template over `choice` and `index`: the text that is scored.
        continuation: String,
        /// Expression: the list of choices.
        choices: String,
        /// Expression: index of the right one.
        gold: String,
    },
    /// Is the last word the model's first choice, and how likely is it?
    LastWord {
        /// Template: all before the last word.
        context: String,
        /// Template: the last word, with its space.
        target: String,
    },
    /// Is the good sentence more likely than the bad one?
    MinimalPair {
        /// Template: the good one.
        good: String,
        /// Template: the bad one.
        bad: String,
    },
    /// How likely is a whole document?
    Perplexity {
        /// Template: the document.
        text: String,
        /// Input tokens of a window.
        context: usize,
        /// New tokens scored in each window after the first.
        stride: usize,
    },
    /// What does the model write?
    Generate {
        /// Once, at the very top, before any solved example.
        #[serde(default)]
        description: String,
        /// Template: what stands before the answer.
        context: String,
        /// Template: the answer in a solved example.
        solution: String,
        /// Expression: the list of accepted answers.
        answers: String,
        /// The text is cut at the first of these.
        until: Vec<String>,
        /// The most tokens to write.
        max_tokens: usize,
        /// Which part of the text is the answer.
        extract: Extract,
    },
}

/// Which part of a written text is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// All of it.
    All,
    /// The first line that is not blank.
    FirstLine,
    /// The last number, without `$`, thousands commas and a final full stop.
    LastNumber,
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// What is reported.
    pub metrics: Vec<MetricKind>,
    /// The one that comparisons use.
    pub primary: MetricKind,
    /// What guessing reaches; absent where there is no such thing (perplexity).
    #[serde(default)]
    pub chance: Option<Chance>,
}

/// What guessing reaches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Chance {
    /// This value.
    Level(f64),
    /// One over the number of choices, averaged over the items.
    Named(Uniform),
}

/// The word `uniform`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uniform {
    /// One over the number of choices.
    Uniform,
}

/// Solved examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shots {
    /// JSON lines file inside the data folder, with the task's own fields.
    pub file: String,
    /// How many to show, the first that match.
    pub count: usize,
    /// Expression: only examples for which it equals the item's are shown.
    #[serde(default, rename = "match")]
    pub matching: Option<String>,
    /// Text between examples.
    #[serde(default = "blank_line")]
    pub separator: String,
}

fn blank_line() -> String {
    "\n\n".into()
}

/// Where the data came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Who made it.
    pub source: String,
    /// Its licence.
    pub licence: String,
    /// What a reader of the number should know.
    #[serde(default)]
    pub note: String,
}

impl Task {
    /// Reads and checks a task description. `file` names it in errors.
    ///
    /// # Errors
    /// Unknown or missing keys, templates that do not parse, metrics that do not fit the kind.
    pub fn from_toml(text: &str, file: &str) -> Result<Self> {
        let task: Self =
            toml::from_str(text).map_err(|error| EvalError::Task { task: file.into(), problem: error.to_string() })?;
        task.check()?;
        Ok(task)
    }

    /// The embedded task of that name.
    ///
    /// # Errors
    /// No such task.
    pub fn builtin(name: &str) -> Result<Self> {
        match BUILTIN.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::from_toml(text, name),
            None => Err(EvalError::UnknownTask {
                name: name.into(),
                known: BUILTIN.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// The kind's name, as in the TOML.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.prompt {
            Prompt::MultipleChoice { .. } => "multiple_choice",
            Prompt::LastWord { .. } => "last_word",
            Prompt::MinimalPair { .. } => "minimal_pair",
            Prompt::Perplexity { .. } => "perplexity",
            Prompt::Generate { .. } => "generate",
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |problem: String| Err(EvalError::Task { task: self.name.clone(), problem });
        let file_name = |file: &str| {
            let path = std::path::Path::new(file);
            path.file_name() == Some(path.as_os_str())
        };
        let shots_file = self.shots.as_ref().map(|s| s.file.as_str());
        for file in std::iter::once(self.data.file.as_str()).chain(shots_file) {
            if !file_name(file) {
                return wrong(format!("expected a plain file name inside the data folder, found `{file}`"));
            }
        }
        if self.shots.is_some() && !matches!(self.prompt, Prompt::MultipleChoice { .. } | Prompt::Generate { .. }) {
            return wrong(format!("[shots] does not go with kind `{}`", self.kind()));
        }
        if let Some(metric) = self.score.metrics.iter().find(|m| !m.fits(&self.prompt)) {
            return wrong(format!(
                "metric `{metric}` does not go with kind `{}`; those that do: {}",
                self.kind(),
                MetricKind::ALL.iter().filter(|m| m.fits(&self.prompt)).map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
        if !self.score.metrics.contains(&self.score.primary) {
            return wrong(format!("the primary metric `{}` is not among its metrics", self.score.primary));
        }
        if let Prompt::Perplexity { context, stride, .. } = self.prompt
            && !(1..=context).contains(&stride)
        {
            return wrong(format!("expected a stride from 1 to the context of {context}, found {stride}"));
        }
        template::Templates::new(self)?.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_parses_under_its_own_name() {
        for (name, _) in BUILTIN {
            assert_eq!(Task::builtin(name).unwrap().name, *name);
        }
        let error = Task::builtin("arc").unwrap_err().to_string();
        assert!(error.contains("arc_easy"), "{error}");
    }

    #[test]
    fn wrong_descriptions_are_refused_with_a_reason() {
        let good = BUILTIN.iter().find(|(n, _)| *n == "piqa").unwrap().1;
        let expect = |from: &str, to: &str, says: &str| {
            assert!(good.contains(from), "fixture lacks {from}");
            let error = Task::from_toml(&good.replace(from, to), "mine.toml").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        expect("version = 2", "version = 2\nnmae = 2", "nmae");
        expect("multiple_choice", "many_choice", "many_choice");
        expect("choices = \"choices\"", "choices = \"choices[\"", "choices");
        expect("{{ query }}", "{{ query", "context");
        expect("piqa_valid.jsonl", "../piqa.jsonl", "plain file name");
        expect("\"acc\", ", "\"f1\", ", "those that do");
        expect("primary = \"acc\"", "primary = \"bits_per_byte\"", "not among");
    }
}
