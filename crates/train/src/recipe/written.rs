//! A recipe written down, and told from others: as TOML, as a hash, and as what a run has built on.

use super::{Checkpoints, Export, Recipe, Samples, Speed};
use crate::error::TrainError;
use crate::schedule::Shape;
use serde_json::{Map, Value};
use std::path::PathBuf;

impl Recipe {
    /// Refuses what cannot be written down as TOML, and so could not be resumed or told from others: tables that are
    /// handed on as they are hold an infinite number, or none, as nothing.
    pub(super) fn check_written(&self) -> Result<(), TrainError> {
        let student = &self.student;
        let mixers = student.mixers.iter().enumerate().map(|(i, mixer)| (format!("student.mixers.{i}"), &mixer.options));
        let mixer = student.mixer.iter().map(|mixer| ("student.mixer".to_owned(), &mixer.options));
        let scratch = self.scratch.iter().map(|scratch| ("scratch.config".to_owned(), &scratch.config));
        let empty = mixers.chain(mixer).chain(scratch).find_map(|(place, table)| nothing_in(table, &place));
        match empty {
            Some(key) => Err(TrainError::Recipe(format!(
                "{key} is infinite or not a number, expected a finite one; leave the key out for its default"
            ))),
            None => self.to_toml().map(|_| ()),
        }
    }

    /// The resolved recipe as TOML.
    ///
    /// # Errors
    /// When it holds what TOML has no words for, which [`Recipe::check`] refuses.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string_pretty(self).map_err(|e| TrainError::Recipe(format!("it cannot be written as TOML: {e}")))
    }

    /// What a run that stands at this step of this stage has built on: the stages that are done, and of the one
    /// under way all but its rates and the way its steps are computed. What comes later may still change,
    /// and so may what the end of the run writes. Where teacher, text and pairs lie is left out: a checkpoint
    /// knows them by their contents.
    pub fn fixed(&self, stage: usize, step: u64) -> Self {
        let mut fixed = self.fixed_with_pairs(stage, step);
        for stage in &mut fixed.stages {
            // Whether there are any stays.
            stage.pairs.truncate(1);
            stage.pairs.iter_mut().for_each(PathBuf::clear);
        }
        fixed
    }

    /// [`Recipe::fixed`] as checkpoints of earlier versions have it, where the pairs of a stage were their paths.
    pub(crate) fn fixed_with_pairs(&self, stage: usize, step: u64) -> Self {
        let mut fixed = self.clone();
        fixed.stages.truncate(stage + usize::from(step > 0));
        if let Some(under_way) = fixed.stages.get_mut(stage) {
            under_way.learning_rate = 0.0;
            under_way.final_learning_rate = None;
            under_way.schedule = Shape::default();
            (under_way.warmup, under_way.wait, under_way.end) = (0, 0.0, 1.0);
            under_way.clip = 0.0;
            under_way.groups.clear();
            under_way.micro_batch = None;
            under_way.recompute = false;
            under_way.validate_every = 0;
        }
        if let Some(teacher) = &mut fixed.teacher {
            teacher.path.clear();
        }
        fixed.text.train.clear();
        fixed.text.held_out.clear();
        fixed.text.cache = None;
        fixed.about.clear();
        fixed.checkpoints = Checkpoints::default();
        fixed.export = Export::default();
        fixed.samples = Samples::default();
        fixed.speed = Speed::default();
        fixed
    }

    /// The keys in which another recipe differs, each with its value here and there.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let [here, there] = [self, other].map(|recipe| serde_json::to_value(recipe).unwrap_or_default());
        let mut found = Vec::new();
        differing("", &here, &there, &mut found);
        found
    }

    /// sha256 of the resolved recipe.
    pub fn hash(&self) -> String {
        use sha2::{Digest, Sha256};
        // What `check` refuses has no TOML; it is told from others all the same.
        let text = self.to_toml().unwrap_or_else(|_| format!("{self:?}"));
        recast_text::files::hex(&Sha256::digest(text))
    }
}

/// Collects where two values differ. Entries of a list have their `name`, as `--set` has it, or their number.
fn differing(key: &str, here: &Value, there: &Value, found: &mut Vec<String>) {
    let below = |next: &str| if key.is_empty() { next.to_owned() } else { format!("{key}.{next}") };
    match (here, there) {
        (Value::Object(a), Value::Object(b)) => {
            for next in a.keys().chain(b.keys().filter(|next| !a.contains_key(*next))) {
                let of = |table: &Map<String, Value>| table.get(next).cloned().unwrap_or_default();
                differing(&below(next), &of(a), &of(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() && a.iter().all(Value::is_object) => {
            for (i, (here, there)) in a.iter().zip(b).enumerate() {
                let name = here["name"].as_str().filter(|_| here["name"] == there["name"]);
                differing(&below(&name.map_or_else(|| i.to_string(), String::from)), here, there, found);
            }
        }
        _ if here == there => {}
        _ => {
            let text = |value: &Value| if value.is_null() { "not set".to_owned() } else { value.to_string() };
            found.push(format!("{key} was {} and would be {}", text(here), text(there)));
        }
    }
}

/// The first key of a table, or of what is in it, that holds nothing.
fn nothing_in(table: &Map<String, Value>, place: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| nothing_at(value, &format!("{place}.{key}")))
}

fn nothing_at(value: &Value, place: &str) -> Option<String> {
    match value {
        Value::Null => Some(place.to_owned()),
        Value::Array(items) => items.iter().enumerate().find_map(|(i, item)| nothing_at(item, &format!("{place}.{i}"))),
        Value::Object(table) => nothing_in(table, place),
        _ => None,
    }
}
