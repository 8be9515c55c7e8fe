//! What a recipe's types cannot say: values that no run can have, and keys that do not go together.

use super::Recipe;
use crate::error::TrainError;
use crate::objectives::Objective;
use crate::schedule::idle;
use recast_models::likelihood;

/// Tokens of a sample that a report shows.
const MOST_WRITTEN: usize = 1 << 16;
/// Tokens of a batch, which are counted in 32 bits.
const MOST_TOKENS: usize = 1 << 32;

impl Recipe {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// With the key and what was expected.
    pub fn check(&self) -> Result<(), TrainError> {
        let fail = |message: String| Err(TrainError::Recipe(message));
        let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        // A folder is named after it, and one that begins with a point is none of a run's.
        if self.name.starts_with('.') || !plain(&self.name.replace('.', "_")) {
            return fail(format!("name is `{}`, expected letters, digits, - and _ and ., and no . at the beginning", self.name));
        }
        if self.teacher.is_some() == self.scratch.is_some() {
            return fail("expected either [teacher] or [scratch]".into());
        }
        let student = &self.student;
        if self.teacher.is_some() && student.mixer.is_none() && student.mixers.is_empty() && student.diffusion.is_none() {
            return fail("student: expected `mixer` or `mixers`, or `diffusion`".into());
        }
        let counts = [
            ("validation.samples", Some(self.validation.samples as u64)),
            ("validation.tokens", Some(self.validation.tokens)),
            ("validation.context", Some(self.validation.context as u64)),
            ("text.max_tokens", self.text.max_tokens),
            ("text.held_out_tokens", self.text.held_out_tokens),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == Some(0)) {
            return fail(format!("{key} is 0, expected at least 1"));
        }
        let (samples, tokens) = (self.validation.samples, self.samples.tokens);
        if samples > likelihood::SAMPLES {
            return fail(format!("validation.samples is {samples}, expected at most {}", likelihood::SAMPLES));
        }
        if tokens > MOST_WRITTEN {
            return fail(format!("samples.tokens is {tokens}, expected at most {MOST_WRITTEN}"));
        }
        if self.text.train.is_empty() {
            return fail("text.train is empty: expected files or folders".into());
        }
        self.text.shuffle()?;
        if self.speed.contexts.first() == Some(&0) || self.speed.contexts.windows(2).any(|w| w[0] >= w[1]) {
            return fail(format!("speed.contexts is {:?}, expected rising lengths from 1", self.speed.contexts));
        }
        if self.stages.is_empty() {
            return fail("expected at least one [[stages]]".into());
        }
        let mut names = std::collections::HashSet::new();
        for stage in &self.stages {
            let at = |key: &str| format!("stage `{}`: {key}", stage.name);
            if !plain(&stage.name) {
                return fail(format!("stage name `{}`: expected letters, digits, - and _", stage.name));
            }
            if !names.insert(&stage.name) {
                return fail(format!("two stages are named `{}`", stage.name));
            }
            if stage.context == 0 || stage.batch == 0 || stage.tokens == 0 {
                return fail(at("context, batch and tokens must be at least 1"));
            }
            for (key, count) in [("context", stage.context), ("batch", stage.batch)] {
                if count >= MOST_TOKENS {
                    return fail(at(&format!("{key} is {count}, expected below 2^32")));
                }
            }
            if (stage.context + 1).checked_mul(stage.batch).is_none_or(|all| all > MOST_TOKENS) {
                let (batch, context) = (stage.batch, stage.context);
                return fail(at(&format!("a batch of {batch} samples of {context} tokens has more than 2^32; lower its batch")));
            }
            let patterns = stage.train.iter().map(|pattern| ("train", pattern));
            let mut patterns = patterns.chain(stage.groups.iter().map(|group| ("groups.pattern", &group.pattern)));
            if let Some((key, pattern)) = patterns.find(|(_, pattern)| pattern.trim_start_matches('!').trim().is_empty()) {
                return fail(at(&format!("{key} has the pattern \"{pattern}\", expected a part of parameters' names, or *")));
            }
            if stage.micro_batch.is_some_and(|m| m == 0 || stage.batch % m != 0) {
                return fail(at(&format!("micro_batch must divide the batch of {}", stage.batch)));
            }
            let own = (String::new(), stage.schedule, stage.final_learning_rate, stage.wait, stage.end);
            let groups =
                stage.groups.iter().map(|g| (format!(" of `{}`", g.pattern), g.schedule, g.final_learning_rate, g.wait, g.end));
            for (of, shape, last, wait, end) in std::iter::once(own).chain(groups) {
                if !(0.0..=1.0).contains(&wait) || !(0.0..=1.0).contains(&end) || wait >= end {
                    return fail(at(&format!("wait{of} is {wait} and end {end}, expected 0 <= wait < end <= 1")));
                }
                if let Some((key, what)) = idle(shape, last, wait, end) {
                    return fail(at(&format!("{key}{of} has no effect: {what}")));
                }
            }
            // Steps are taken in f32, where a gradient of zero by an epsilon of zero is not a number.
            if !(stage.epsilon as f32).is_normal() || stage.epsilon < 0.0 {
                return fail(at(&format!("epsilon is {}, expected above 0 and in the range of f32", stage.epsilon)));
            }
            let sizes = [("clip", stage.clip), ("weight_decay", stage.weight_decay)];
            if let Some((key, value)) = sizes.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
                return fail(at(&format!("{key} is {value}, expected at least 0")));
            }
            for (key, value) in [("beta1", stage.beta1), ("beta2", stage.beta2)] {
                if !(0.0..1.0).contains(&value) {
                    return fail(at(&format!("{key} is {value}, expected at least 0 and below 1")));
                }
            }
            let rates = std::iter::once((stage.learning_rate, stage.final_learning_rate))
                .chain(stage.groups.iter().map(|g| (g.learning_rate, g.final_learning_rate)));
            for (first, last) in rates {
                if !(first > 0.0 && first.is_finite()) || last.is_some_and(|l| !(l > 0.0 && l.is_finite())) {
                    return fail(at("learning rates must be positive numbers"));
                }
            }
            if stage.diffusion.is_some() && stage.objective != Objective::MaskedDiffusion {
                return fail(at("diffusion: only for the objective masked-diffusion"));
            }
            if !stage.pairs.is_empty() && stage.objective != Objective::MaskedDiffusion {
                return fail(at("pairs: only for the objective masked-diffusion"));
            }
            if stage.recompute && stage.objective == Objective::MaskedDiffusion {
                return fail(at("recompute: masked-diffusion keeps its graph; lower micro_batch for less memory"));
            }
            if stage.objective.needs_teacher() && self.teacher.is_none() {
                return fail(at("this objective needs a [teacher]"));
            }
        }
        if let Some(dtype) = &self.export.dtype
            && !matches!(dtype.as_str(), "f32" | "bf16" | "f16")
        {
            return fail(format!("export.dtype is `{dtype}`, expected f32, bf16 or f16"));
        }
        self.check_written()
    }
}
