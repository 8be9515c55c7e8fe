//! The end of a run: what was measured from stage to stage (`held_out.rs`), samples, memory, speed.

pub(super) mod held_out;

use super::progress::Screen;
use super::samples::{self, Written};
use crate::output;
use anyhow::Context;
use recast_eval::table::{Align, Table, fixed};
use recast_infer::speed::decode_speed;
use recast_text::files;
use recast_train::trainer::{BEFORE, TEACHER};
use recast_train::validate::{HeldOutLoss, LongLoss};
use recast_train::{Observer, Trainer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Its name in a run's folder.
const FILE: &str = "summary.json";
/// Tokens timed at each.
const SPEED_STEPS: usize = 64;
/// Contexts at which memory is told.
const MEMORY_CONTEXTS: [usize; 3] = [1024, 8192, 65_536];

/// Everything there is to tell.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Summary {
    /// Name of the recipe.
    pub name: String,
    /// The run's folder.
    pub folder: PathBuf,
    /// Seconds of training.
    pub seconds: f64,
    /// Tokens of training.
    pub tokens: u64,
    /// Held-out loss of teacher and student, from stage to stage.
    pub held_out: Vec<(String, HeldOutLoss)>,
    /// The same of both at the end in long windows, where a stage reads longer ones than these are measured in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_long: Option<LongLoss>,
    /// Perplexity of the finished student over the teacher's, where both are judged by the same.
    pub ratio: Option<f64>,
    /// Bytes of state, and of KV cache where there is a teacher.
    pub memory: Vec<Memory>,
    /// Decoding speed.
    pub speed: Vec<Speed>,
    /// What each model wrote.
    pub samples: Vec<Written>,
}

/// State sizes at one context.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Memory {
    /// Tokens of context.
    pub context: usize,
    /// Bytes of the student's state.
    pub student: usize,
    /// Bytes of the teacher's cache.
    pub teacher: Option<usize>,
}

/// Tokens a second at one context.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Speed {
    /// Tokens of context.
    pub context: usize,
    /// The student's.
    pub student: f64,
    /// The teacher's.
    pub teacher: Option<f64>,
}

/// What a measurement's name means to a reader.
pub fn label(name: &str) -> String {
    match name {
        TEACHER => "teacher".into(),
        BEFORE => "student, before".into(),
        stage => format!("student, after {stage}"),
    }
}

impl Summary {
    /// Measures memory and speed, and collects the rest.
    pub fn measure(trainer: &Trainer, folder: &Path, screen: &Screen) -> anyhow::Result<Self> {
        let teacher = trainer.teacher.as_ref().map(|t| &t.model);
        let contexts = &trainer.recipe.speed.contexts;
        let lengths: BTreeSet<usize> = MEMORY_CONTEXTS.iter().chain(contexts).copied().collect();
        let memory = lengths
            .into_iter()
            .map(|context| Memory {
                context,
                student: trainer.student.state_bytes(context),
                teacher: teacher.map(|t| t.state_bytes(context)),
            })
            .collect();
        let samples = samples::renewed(trainer, &screen.samples, screen.stop())?;
        let mut speeds = Vec::new();
        if !contexts.is_empty() && screen.stop() {
            let model = folder.join("model");
            output::tell(format_args!("generation is not timed; recast bench decode {} does it", model.display()));
        } else if !contexts.is_empty() {
            output::tell("timing generation");
            let student = decode_speed(&trainer.student, contexts, SPEED_STEPS)?;
            // Asked to stop meanwhile, it leaves the slower half out.
            let teacher = teacher.filter(|_| !screen.stop());
            let teacher = teacher.map(|t| decode_speed(t, contexts, SPEED_STEPS)).transpose()?;
            for (i, at) in student.iter().enumerate() {
                speeds.push(Speed {
                    context: at.context,
                    student: at.tokens_per_second,
                    teacher: teacher.as_ref().map(|t| t[i].tokens_per_second),
                });
            }
        }
        let held_out = trainer.position.held_out.clone();
        let ratio = ratio(&held_out);
        Ok(Self {
            name: trainer.recipe.name.clone(),
            folder: folder.to_owned(),
            seconds: trainer.position.seconds,
            tokens: trainer.position.tokens,
            held_out,
            held_out_long: trainer.long.clone(),
            ratio,
            memory,
            speed: speeds,
            samples,
        })
    }

    /// Keeps it in the run's folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let place = folder.join(FILE);
        files::replace(&place, &serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", place.display()))
    }

    /// What was kept in the run's folder, if anything readable was.
    pub fn read(folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(folder.join(FILE)).ok()?;
        let kept: Self = serde_json::from_slice(&bytes).ok()?;
        // Of a student that denoises, earlier versions kept that of the next token.
        Some(Self { folder: folder.to_owned(), ratio: ratio(&kept.held_out), ..kept })
    }

    /// For the terminal.
    pub fn print(&self) -> anyhow::Result<()> {
        output::print(self.text().trim_end_matches('\n'))
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut table = held_out::table(&self.held_out);
        // What the columns before leave of the terminal's width.
        let left = |(_, columns): (u16, u16)| usize::from(columns).saturating_sub(table.width() + 2).max(12);
        let room = console::Term::stdout().size_checked().map_or(60, left);
        let sample = |name: &String| self.samples.iter().find(|w| &w.name == name)?.texts.first();
        let shown = |(name, _): &(String, HeldOutLoss)| sample(name).map_or_else(String::new, |(_, text)| shorten(text, room));
        table.column("writes", Align::Left, self.held_out.iter().map(shown));
        let _ = writeln!(out, "{}", table.without_empty().plain());
        let mut notes = held_out::notes(&self.held_out);
        notes.extend(self.held_out_long.as_ref().map(super::report::long_line));
        if let Some((prompt, _)) = self.samples.first().and_then(|w| w.texts.first()) {
            notes.push(format!("each continues: {}", shorten(prompt, 100)));
        }
        if !notes.is_empty() {
            let _ = writeln!(out, "{}\n", notes.join("\n"));
        }
        let mut table = Table::new(&[
            ("context", Align::Right),
            ("student's state", Align::Right),
            ("teacher's KV cache", Align::Right),
            ("student tokens/s", Align::Right),
            ("teacher tokens/s", Align::Right),
        ]);
        let contexts: BTreeSet<usize> =
            self.memory.iter().map(|m| m.context).chain(self.speed.iter().map(|s| s.context)).collect();
        for context in contexts {
            let memory = self.memory.iter().find(|m| m.context == context);
            let speed = self.speed.iter().find(|s| s.context == context);
            let text = |x: Option<String>| x.unwrap_or_default();
            table.row([
                context.to_string(),
                text(memory.map(|m| bytes(m.student))),
                text(memory.and_then(|m| m.teacher).map(bytes)),
                text(speed.map(|s| format!("{:.0}", s.student))),
                text(speed.and_then(|s| s.teacher).map(|t| format!("{t:.0}"))),
            ]);
        }
        // Speed is not measured everywhere, and not every run has a teacher.
        let _ = writeln!(out, "{}", table.without_empty().plain());
        let ratio = self.ratio.filter(|ratio| ratio.is_finite());
        let denoises = self.held_out.last().is_some_and(|(_, loss)| loss.bound.is_some());
        let what = if denoises { "the perplexity of the student's bound" } else { "the student's perplexity" };
        let ratio = ratio.map(|ratio| format!("; {what} is {} times the teacher's", fixed(ratio, 3)));
        let time = super::progress::duration(self.seconds);
        let _ = writeln!(out, "{} tokens in {time}{}", self.tokens, ratio.unwrap_or_default());
        let _ = writeln!(out, "model   {}", self.folder.join("model").display());
        let _ = writeln!(out, "report  {}", self.folder.join("report.html").display());
        out
    }
}

/// Perplexity of the finished student over the teacher's, of what both are judged by: none where one is judged by its
/// bound and the other by the next token.
fn ratio(held_out: &[(String, HeldOutLoss)]) -> Option<f64> {
    let (_, teacher) = held_out.iter().find(|(name, _)| name == TEACHER)?;
    let (_, student) = held_out.last()?;
    match (teacher.bound, student.bound) {
        (None, None) => Some(student.perplexity() / teacher.perplexity()),
        // Bounds of masks and of uniform noise are of different processes.
        (Some(teacher), Some(student)) if teacher.uniform == student.uniform => Some((student.loss - teacher.loss).exp()),
        _ => None,
    }
}

/// One line of at most so many characters.
fn shorten(text: &str, most: usize) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if line.chars().count() <= most { line } else { line.chars().take(most - 1).chain(['…']).collect() }
}

/// Bytes as the report shows them.
pub fn bytes(count: usize) -> String {
    recast_eval::report::bytes(count as f64)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use recast_train::validate::Bound;

    /// A run of so many seconds with these losses.
    pub fn summary(seconds: f64, held_out: Vec<(String, HeldOutLoss)>) -> Summary {
        Summary {
            name: "small".into(),
            folder: "runs/small".into(),
            seconds,
            tokens: 512,
            ratio: ratio(&held_out),
            held_out,
            held_out_long: None,
            memory: Vec::new(),
            speed: Vec::new(),
            samples: Vec::new(),
        }
    }

    #[test]
    fn a_perplexity_is_set_against_one_of_its_kind() {
        // Of one that denoises and says the next token too, that is at 3.
        let of = |loss, alone: Option<bool>| {
            let bound = alone.map(|alone| Bound { loss, alone, ..Bound::default() });
            HeldOutLoss { loss: if alone == Some(false) { 3.0 } else { loss }, bound, ..HeldOutLoss::default() }
        };
        let told = |teacher, student| summary(1.0, vec![(TEACHER.into(), teacher), ("denoise".into(), student)]);
        let close = |found: Option<f64>| found.is_some_and(|ratio| (ratio - 0.25f64.exp()).abs() < 1e-9);
        for kinds in [None, Some(false), Some(true)] {
            let summary = told(of(1.0, kinds), of(1.25, kinds));
            assert!(close(summary.ratio) && summary.text().contains("1.284 times the teacher's"), "{}", summary.text());
            assert_eq!(summary.text().contains("perplexity of the student's bound"), kinds.is_some());
        }
        let mut noisy = of(1.25, Some(true));
        noisy.bound = noisy.bound.map(|bound| Bound { uniform: true, ..bound });
        assert_eq!(told(of(1.0, Some(true)), noisy).ratio, None, "bounds of two processes");
        // A bound beside a teacher's next token, whether the student says that too or not.
        for kind in [Some(false), Some(true)] {
            let summary = told(of(1.0, None), of(1.25, kind));
            assert_eq!(summary.ratio, None);
            let text = summary.text();
            assert!(text.contains("diffusion bound") && text.contains("no comparison") && !text.contains("times"), "{text}");
        }
        assert_eq!(self::summary(1.0, vec![("denoise".into(), of(1.0, None))]).ratio, None);
        // Of a student that diverged.
        let text = told(of(1.0, None), of(171.0, None)).text();
        assert!(text.contains("1.8e74") && text.contains("perplexity is 6.8e73 times the teacher's"), "{text}");
    }

    #[test]
    fn columns_of_what_was_not_measured_are_left_out() {
        let losses = vec![(BEFORE.to_owned(), HeldOutLoss::default())];
        let memory = |teacher| vec![Memory { context: 1024, student: 4096, teacher }];
        let speed = |teacher| vec![Speed { context: 1024, student: 41.3, teacher }];
        let told = |memory, speed| Summary { memory, speed, ..summary(1.0, losses.clone()) }.text();
        let all = ["context", "student's state", "teacher's KV cache", "student tokens/s", "teacher tokens/s", "writes"];
        for (text, there) in [
            (told(memory(Some(8192)), Vec::new()), [true, true, true, false, false, false]),
            (told(memory(None), speed(None)), [true, true, false, true, false, false]),
            (told(memory(Some(8192)), speed(Some(38.0))), [true, true, true, true, true, false]),
        ] {
            assert_eq!(all.map(|column| text.contains(column)), there, "{text}");
        }
    }
}
