//! The trainer: runs a recipe's stages, and can be stopped and resumed at any step. `begin.rs` opens a run, this file
//! takes its steps. `tests/trainer.rs`, and `tests/resume.rs` at the root, hold both to it.

mod begin;

use crate::checkpoint::{Position, Store};
use crate::error::TrainError;
use crate::metrics::Metrics;
use crate::objectives::{Loss, Objective};
use crate::optimizer::{Gradients, Optimizer};
use crate::pairs::Pairs;
use crate::plan::Plan;
use crate::recipe::{Patterns, Recipe, Stage};
use crate::schedule::Schedule;
use crate::teacher::Teacher;
use crate::text::{RunText, micro_batches};
use crate::validate::{HeldOut, HeldOutLoss, LongLoss};
use recast_models::Model;
use recast_models::convert::TiedEmbeddings;
use recast_models::param::Named;
use recast_ops::adamw::AdamW;
use recast_text::{Packing, Progress, Tokenizer};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the held-out measurement of the teacher.
pub const TEACHER: &str = "teacher";
/// Name of the held-out measurement of the student before any stage.
pub const BEFORE: &str = "before";

/// Nats a token by which a stage may end above where it began before it is said to have diverged.
const DIVERGED: f64 = 1.0;

/// What happens during a run.
pub enum Event<'a> {
    /// Text is being tokenised.
    Reading(Progress),
    /// A stage begins (or goes on at `done`).
    StageStarted {
        /// The stage.
        stage: &'a Stage,
        /// Its index.
        index: usize,
        /// Elements that train.
        trainable: usize,
        /// Steps already done.
        done: u64,
    },
    /// An optimiser step was taken.
    Step {
        /// The stage.
        stage: &'a Stage,
        /// Steps done in it, this one included.
        step: u64,
        /// Loss of the batch before the step.
        loss: f64,
        /// Learning rate.
        rate: f64,
        /// Tokens read in this step: of pairs fewer than batch times context.
        tokens: u64,
    },
    /// A measurement on held-out text begins, of the model of this name.
    Measuring(&'a str),
    /// A measurement on held-out text.
    HeldOut {
        /// The stage.
        stage: &'a Stage,
        /// Steps done in it.
        step: u64,
        /// The result.
        loss: HeldOutLoss,
    },
    /// A model worth keeping a sample of: the teacher, the student before, and after each stage.
    Snapshot {
        /// `teacher`, `before`, or the stage's name.
        name: &'a str,
        /// The model.
        model: &'a Model,
        /// Its held-out loss.
        loss: HeldOutLoss,
    },
    /// Training state was saved.
    Saved(&'a Path),
}

/// Whoever watches a run.
pub trait Observer {
    /// Told of everything.
    ///
    /// # Errors
    /// An error ends the run.
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError>;
    /// Told, in words, what whoever reads along should know; without more it is a line on standard error.
    fn tell(&mut self, line: &str) {
        // That nobody is there to read it ends no run.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    /// Asked after every step; true saves and stops.
    fn stop(&self) -> bool {
        false
    }
}

/// What a stage reads.
enum Source {
    Pairs(Pairs),
    Text(Packing),
}

/// A run in progress.
pub struct Trainer {
    /// The resolved recipe.
    pub recipe: Recipe,
    /// The run's folder.
    pub folder: PathBuf,
    /// The teacher, if the recipe has one.
    pub teacher: Option<Teacher>,
    /// The model that trains.
    pub student: Model,
    /// The tokenizer of both.
    pub tokenizer: Tokenizer,
    /// What it costs.
    pub plan: Plan,
    /// Where it stands.
    pub position: Position,
    /// What [`Trainer::run`] measured last, where a stage reads more than `validation.context` tokens at a time.
    pub long: Option<LongLoss>,
    text: RunText,
    /// Those of each stage that has some and is not done.
    pairs: Vec<Option<Pairs>>,
    held_out: HeldOut,
    /// Held as long as this process works in the folder.
    lock: Option<File>,
    store: Store,
    /// The optimizer of the stage that a checkpoint interrupted, with its moments.
    resumed: Option<Optimizer>,
}

impl Trainer {
    /// Tokens of the text that is trained on, and of the held-out text.
    pub fn text_tokens(&self) -> [usize; 2] {
        [self.text.train.len(), self.text.held_out.len()]
    }

    /// Tokens a window of held-out text; fewer than were asked for where there is less text.
    pub fn held_out_context(&self) -> usize {
        self.held_out.context()
    }

    /// Runs every stage that is left. Afterwards `student` is the result.
    ///
    /// # Errors
    /// When a loss is not finite, the teacher's included, the disk is full, the observer wants to stop, or something was
    /// put where the result is to stand. The newest checkpoint is intact in every case.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // It stands behind the last checkpoint, where the history is cut off.
        let long = self.measured_long();
        let (mut metrics, lost) = Metrics::open(&self.folder, self.position.metrics, self.position.tokens)?;
        if lost > 0 {
            observer.tell(&format!(
                "{}: {lost} of the {} lines from before the checkpoint are gone; the report's curves lack those steps",
                self.folder.join(crate::metrics::FILE).display(),
                self.position.metrics
            ));
        }
        let params = self.student.parameters();
        // A run that goes on from a checkpoint has measured both.
        if self.position.held_out.is_empty() {
            if let Some(teacher) = &self.teacher {
                observer.event(&Event::Measuring(TEACHER))?;
                let loss = self.held_out(&teacher.model)?;
                if let Some(value) = loss.not_finite() {
                    let path = self.recipe.teacher.as_ref().map(|named| named.path.clone()).unwrap_or_default();
                    return Err(TrainError::Teacher { path, value });
                }
                self.position.held_out.push((TEACHER.into(), loss));
                observer.event(&Event::Snapshot { name: TEACHER, model: &teacher.model, loss })?;
            }
            observer.event(&Event::Measuring(BEFORE))?;
            let loss = self.held_out(&self.student)?;
            self.position.held_out.push((BEFORE.into(), loss));
            observer.event(&Event::Snapshot { name: BEFORE, model: &self.student, loss })?;
        }
        while self.position.stage < self.recipe.stages.len() {
            self.stage(&params, &mut metrics, observer)?;
        }
        self.tie_if_last();
        self.measure_long(long, &mut metrics, observer)?;
        self.check_targets()
    }

    /// What another process measured in long windows, of a run whose every step is done.
    fn measured_long(&self) -> Option<LongLoss> {
        if self.position.stage < self.recipe.stages.len() {
            return None;
        }
        let lines = crate::metrics::read(&self.folder).ok()?;
        lines.into_iter().rev().find_map(|line| line.held_out_long)
    }

    /// Measures the finished student and its teacher in windows as long as those that the longest stage reads, if the
    /// others are shorter and it was not done before. Every step is saved by then.
    fn measure_long(
        &mut self,
        measured: Option<LongLoss>,
        metrics: &mut Metrics,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let (Some(context), Some(last)) = (self.recipe.long_context(), self.recipe.stages.last()) else { return Ok(()) };
        if !self.held_out.speaks(&self.student, true) {
            return Ok(());
        }
        let mut long = measured.filter(|long| long.context == context);
        if long.is_none() {
            observer.event(&Event::Measuring(&last.name))?;
            let teacher = self.teacher.as_ref().map(|teacher| &teacher.model);
            long = self.held_out.long(context, &self.student, teacher)?;
        }
        match &long {
            Some(long) => metrics.held_out_long(&last.name, last.steps(), self.position.tokens, long)?,
            None => {
                // The last token is only ever a target.
                let (read, asked) = (self.text.held_out.len().saturating_sub(1), self.recipe.validation.tokens);
                let why = match asked.min(read as u64) < context as u64 {
                    true => format!(
                        "none fits into the {read} held-out tokens that another one follows and the {asked} of validation.tokens"
                    ),
                    false => "every token there begins a document".into(),
                };
                observer.tell(&format!("nothing is measured in windows of {context} tokens, as the longest stage reads: {why}"));
            }
        }
        self.long = long;
        Ok(())
    }

    /// Drops a head that was there to train, so that what is measured last is what is kept; the head of a teacher
    /// that has one of its own stays. Checkpoints hold the parameters as they trained.
    fn tie_if_last(&mut self) {
        let untied = self.recipe.student.tied == TiedEmbeddings::UntieDiscard
            && self.teacher.as_ref().is_some_and(|teacher| teacher.model.config.tied);
        if untied && self.position.stage + 1 >= self.recipe.stages.len() {
            self.student.tie();
        }
    }

    fn held_out(&self, model: &Model) -> Result<HeldOutLoss, TrainError> {
        let teacher = self.teacher.as_ref().map(|t| &t.model);
        let other = teacher.filter(|t| !std::ptr::eq(*t, model));
        self.held_out.loss(model, other, std::ptr::eq(model, &self.student))
    }

    fn stage(&mut self, params: &[Named], metrics: &mut Metrics, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let index = self.position.stage;
        let stage = self.recipe.stages[index].clone();
        let mut optimizer = self.resumed.take().unwrap_or_else(|| optimizer(&stage, params));
        let trainable: Vec<Named> = optimizer.params().cloned().collect();
        let schedules = schedules(&stage);
        let seed = self.recipe.seed.wrapping_add(index as u64);
        let noise = stage.diffusion.clone().unwrap_or_default();
        let diffusion = self.student.config.diffusion.clone();
        let block = |step| diffusion.as_ref().and_then(|d| noise.block_at(d, step, stage.steps()));
        let source = match self.pairs[index].take() {
            Some(pairs) => Source::Pairs(pairs),
            None => Source::Text(self.text.packing(&self.recipe, index)?),
        };
        let batches = |step| match &source {
            Source::Pairs(pairs) => pairs.micro_batches(&stage, noise.padding, block(step), seed, step),
            Source::Text(packing) => micro_batches(packing, &stage, seed, step),
        };
        let steps = stage.steps();
        let first = self.position.step;
        let elements = recast_models::param::count(&trainable);
        observer.event(&Event::StageStarted { stage: &stage, index, trainable: elements, done: first })?;

        let mut saved_at = Instant::now();
        for step in first..steps {
            let began = Instant::now();
            let mut gradients = Gradients::default();
            let (mut loss, mut tokens) = (Loss::default(), 0);
            for batch in batches(step) {
                tokens += batch.tokens();
                let teacher = self.teacher.as_ref().map(|t| &t.model);
                let part = stage.objective.gradients(
                    &self.student,
                    teacher,
                    &batch,
                    &trainable,
                    stage.recompute,
                    stage.diffusion.as_ref(),
                    &mut gradients,
                )?;
                loss.add(&part);
            }
            let norm = optimizer.norm(&mut gradients);
            for (what, value) in [("loss", loss.value), ("gradient norm", norm)] {
                if !value.is_finite() {
                    return Err(self.not_finite(stage.name, step, what, value));
                }
            }
            let rates: Vec<f64> = schedules.iter().map(|s| s.rate(step)).collect();
            optimizer.step(gradients, norm, &rates, step + 1);

            let seconds = began.elapsed().as_secs_f64();
            self.position.step = step + 1;
            self.position.tokens += tokens;
            self.position.seconds += seconds;
            metrics.step(&stage.name, &self.position, &loss, &rates, norm, tokens as f64 / seconds)?;
            observer.event(&Event::Step { stage: &stage, step: step + 1, loss: loss.value, rate: rates[0], tokens })?;

            let last = step + 1 == steps;
            if !last && stage.validate_every > 0 && (step + 1) % stage.validate_every == 0 {
                observer.event(&Event::Measuring(&stage.name))?;
                let loss = self.held_out(&self.student)?;
                metrics.held_out(&stage.name, &self.position, &loss)?;
                observer.event(&Event::HeldOut { stage: &stage, step: step + 1, loss })?;
            }
            let due = saved_at.elapsed().as_secs() >= self.recipe.checkpoints.every_seconds
                || self.recipe.checkpoints.every_steps.is_some_and(|n| n > 0 && (step + 1) % n == 0);
            let stop = observer.stop();
            if !last && (due || stop) {
                self.save(params, &optimizer, metrics, observer)?;
                saved_at = Instant::now();
            }
            if !last && stop {
                return Err(TrainError::Stopped { stage: stage.name, step: step + 1, path: self.folder.clone() });
            }
        }
        drop(optimizer);
        self.tie_if_last();
        observer.event(&Event::Measuring(&stage.name))?;
        let loss = self.held_out(&self.student)?;
        // The last step may have done harm that no training loss has seen; what came before is still there.
        if let Some(value) = loss.not_finite() {
            return Err(self.not_finite(stage.name, steps, "held-out loss", value));
        }
        metrics.held_out(&stage.name, &self.position, &loss)?;
        // What this stage works on: denoising costs the next token, by design.
        let judged = |held: &HeldOutLoss| match (stage.objective, held.bound) {
            (Objective::MaskedDiffusion, Some(bound)) => bound.loss,
            _ => held.loss,
        };
        let (before, after) = (self.position.held_out.last().map(|(_, before)| judged(before)), judged(&loss));
        self.position.held_out.push((stage.name.clone(), loss));
        observer.event(&Event::HeldOut { stage: &stage, step: steps, loss })?;
        observer.event(&Event::Snapshot { name: &stage.name, model: &self.student, loss })?;
        self.position.stage += 1;
        self.position.step = 0;
        // The next stage begins without moments.
        self.save(params, &Optimizer::new(AdamW::default(), 0.0, Vec::new()), metrics, observer)?;
        if let Some(before) = before.filter(|before| after > before + DIVERGED) {
            observer.tell(&self.diverged(&stage.name, index, before, after));
        }
        Ok(())
    }

    /// What is to be said of a stage that ends worse than it began: losses in nats a token.
    fn diverged(&self, stage: &str, index: usize, before: f64, after: f64) -> String {
        let key = format!("stages.{stage}.learning_rate");
        let again = match self.store.at(index, 0) {
            // Its beginning may have been removed since.
            Some(place) => format!(
                "delete the checkpoints after {} and go on from there with `convert --resume {} --set {key}=...`",
                place.display(),
                self.folder.display()
            ),
            None => format!("start a new run with a lower {key}"),
        };
        format!(
            "stage `{stage}` ends worse than it began: {after:.4} nats a held-out token, {before:.4} before it; it diverged: \
             lower its rate, and {again}"
        )
    }

    fn not_finite(&self, stage: String, step: u64, what: &'static str, value: f64) -> TrainError {
        let checkpoint = self.store.list().pop();
        TrainError::NotFinite { stage, step, what, value, checkpoint, run: self.folder.clone() }
    }

    fn save(
        &mut self,
        params: &[Named],
        optimizer: &Optimizer,
        metrics: &mut Metrics,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.position.metrics = metrics.sync()?;
        self.position.recipe_hash = self.recipe.fixed(self.position.stage, self.position.step).hash();
        let place = self.store.save(&self.position, params, optimizer)?;
        observer.event(&Event::Saved(&place))
    }
}

/// The parameters that a stage trains, in the model's order, with the index of their rate.
fn optimizer(stage: &Stage, params: &[Named]) -> Optimizer {
    let groups: Vec<Patterns> = stage.groups.iter().map(|g| Patterns::new(std::slice::from_ref(&g.pattern))).collect();
    let chosen: Vec<(Named, usize)> = trainable(stage, params)
        .into_iter()
        .map(|named| {
            let group = groups.iter().position(|g| g.matches(&named.0)).map_or(0, |i| i + 1);
            (named, group)
        })
        .collect();
    let adamw = AdamW { beta1: stage.beta1, beta2: stage.beta2, epsilon: stage.epsilon, weight_decay: stage.weight_decay };
    Optimizer::new(adamw, stage.clip, chosen)
}

/// The parameters that a stage's patterns choose.
pub fn trainable(stage: &Stage, params: &[Named]) -> Vec<Named> {
    let patterns = Patterns::new(&stage.train);
    params.iter().filter(|(name, _)| patterns.matches(name)).cloned().collect()
}

/// A group of rates that no parameter falls into.
pub fn idle_group<'a>(stage: &'a Stage, params: &[Named]) -> Option<&'a str> {
    let groups: Vec<Patterns> = stage.groups.iter().map(|g| Patterns::new(std::slice::from_ref(&g.pattern))).collect();
    let chosen = trainable(stage, params);
    let taken: Vec<usize> = chosen.iter().filter_map(|(name, _)| groups.iter().position(|g| g.matches(name))).collect();
    let idle = (0..groups.len()).find(|group| !taken.contains(group))?;
    Some(&stage.groups[idle].pattern)
}

/// Schedules of the stage's own rate and of its groups.
fn schedules(stage: &Stage) -> Vec<Schedule> {
    let steps = stage.steps();
    let own = Schedule {
        shape: stage.schedule,
        first: stage.learning_rate,
        last: stage.final_learning_rate.unwrap_or(stage.learning_rate),
        warmup: stage.warmup,
        steps,
        wait: stage.wait,
        end: stage.end,
    };
    std::iter::once(own)
        .chain(stage.groups.iter().map(|g| Schedule {
            shape: g.schedule,
            first: g.learning_rate,
            last: g.final_learning_rate.unwrap_or(g.learning_rate),
            warmup: stage.warmup,
            steps,
            wait: g.wait,
            end: g.end,
        }))
        .collect()
}

/// Writes a file of a run's folder, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    recast_text::files::replace(path, bytes).map_err(TrainError::io(path))
}
