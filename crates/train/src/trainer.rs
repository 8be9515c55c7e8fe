//! The trainer: runs a recipe's stages, and can be stopped and resumed at any step.

use crate::checkpoint::{self, Position, Sources, Store};
use crate::error::TrainError;
use crate::fingerprint::{of_model, of_text};
use crate::metrics::Metrics;
use crate::objectives::Loss;
use crate::optimizer::{Gradients, Optimizer};
use crate::pairs::Pairs;
use crate::plan::Plan;
use crate::recipe::{Embedded, Patterns, Recipe, Stage};
use crate::schedule::Schedule;
use crate::teacher::{Teacher, from_scratch};
use crate::text::{LAYOUT, RunText, micro_batches};
use crate::validate::{HeldOut, HeldOutLoss};
use burn::tensor::Device;
use recast_models::Model;
use recast_models::convert::TiedEmbeddings;
use recast_models::param::Named;
use recast_ops::adamw::AdamW;
use recast_text::{Packing, Progress, Tokenizer};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Name of the held-out measurement of the teacher.
pub const TEACHER: &str = "teacher";
/// Name of the held-out measurement of the student before any stage.
pub const BEFORE: &str = "before";

/// File that the process at work holds locked.
const LOCK: &str = ".lock";
/// Folder of the tokenizer that a run from nothing trains.
const TOKENIZER: &str = "tokenizer";

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
    text: RunText,
    /// Those of each stage that has some and is not done.
    pairs: Vec<Option<Pairs>>,
    held_out: HeldOut,
    /// Held as long as this process works in the folder.
    lock: Option<File>,
    store: Store,
    /// The checkpoint to go on from.
    start: Option<PathBuf>,
}

impl Trainer {
    /// Tokens of the text that is trained on, and of the held-out text.
    pub fn text_tokens(&self) -> [usize; 2] {
        [self.text.train.len(), self.text.held_out.len()]
    }

    /// Prepares a new run in `folder`, which must not hold one.
    ///
    /// # Errors
    /// When the recipe, the teacher or the text cannot be used, or the folder holds a run.
    pub fn create(
        recipe: Recipe,
        embedded: &Embedded,
        folder: &Path,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        if folder.join("recipe.toml").exists() {
            return Err(TrainError::Resume {
                path: folder.to_owned(),
                message: "already holds a run; resume it with --resume, or name another --out".into(),
            });
        }
        // They would be taken for later ones than the first of the new run.
        if let Some(left) = Store::new(folder, 1).list().pop() {
            return Err(TrainError::Resume {
                path: left,
                message: "is a checkpoint of an earlier run, whose recipe.toml is gone; remove the folder of checkpoints, or \
                          name another --out"
                    .into(),
            });
        }
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        // Whoever else works there keeps the folder and its lock.
        let lock = lock(folder)?;
        let trainer = Self::open(recipe, embedded, folder, lock, None, device, observer).inspect_err(|_| {
            // A run that never began leaves no empty folder; one with anything else in it stays.
            let _ = std::fs::remove_file(folder.join(LOCK));
            let _ = std::fs::remove_dir(folder);
        })?;
        trainer.keep_tokenizer()?;
        trainer.write_recipe()?;
        Ok(trainer)
    }

    /// Goes on with the run in `folder` from its newest checkpoint, with some keys of its recipe changed
    /// (`stages.distil.learning_rate=1e-5`). The recipe as it was stays beside the new one.
    ///
    /// # Errors
    /// When the folder holds no run, when something was changed that the checkpoint was built on
    /// ([`Recipe::fixed`]), or the text or the teacher is another one.
    pub fn resume(
        folder: &Path,
        changes: &[String],
        embedded: &Embedded,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let path = folder.join("recipe.toml");
        if !path.exists() {
            return Err(TrainError::Resume { path: folder.to_owned(), message: "holds no run (there is no recipe.toml)".into() });
        }
        let lock = lock(folder)?;
        let recipe = crate::recipe::load(&path, changes)?;
        let latest = Store::new(folder, recipe.checkpoints.keep).latest()?;
        let from = latest.as_ref().map(|(_, position)| position.stage);
        let mut trainer = Self::open(recipe, embedded, folder, lock, from, device, observer)?;
        let mut stands = "00-00000000".to_owned();
        if let Some((place, position)) = latest {
            let changed = |path: &Path, message: &str| Err(TrainError::Resume { path: path.to_owned(), message: message.into() });
            let recipe = &trainer.recipe;
            let fixed = recipe.fixed(position.stage, position.step);
            // As checkpoints of earlier versions have it.
            let others = [recipe.fixed_with_pairs(position.stage, position.step).hash(), recipe.hash()];
            if position.recipe_hash != fixed.hash() && !others.contains(&position.recipe_hash) {
                return changed(
                    &path,
                    "differs in what the checkpoint was built on; what may change of a stage under way are its rates, clip, \
                     micro_batch, recompute and validate_every, and everything of later stages; put the rest back, or start a \
                     new run",
                );
            }
            if position.sources.text.is_empty() {
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: the checkpoint is too old to know its text, and this version of the program may make other documents \
                     of the same files: if there is any doubt, start a new run",
                    place.display()
                );
            }
            let sources = match position.onward(&trainer.position.sources) {
                Ok(sources) => sources,
                Err(message) => return changed(folder, message),
            };
            stands = place.file_name().map_or(stands, |name| name.to_string_lossy().into_owned());
            trainer.position = Position { sources, ..position };
            trainer.start = Some(place);
        } else {
            trainer.keep_tokenizer()?;
        }
        // Without a lock somebody may be writing what looks left over.
        if trainer.lock.is_some() {
            trainer.store.sweep();
        }
        if !changes.is_empty() {
            // The first of several changes at one place is from the recipe that led there.
            let before = folder.join(format!("recipe-until-{stands}.toml"));
            if !before.exists() {
                write(&before, &std::fs::read(&path).map_err(TrainError::io(&path))?)?;
            }
            trainer.write_recipe()?;
        }
        Ok(trainer)
    }

    /// Keeps the tokenizer that a run from nothing trained, for whenever it goes on.
    fn keep_tokenizer(&self) -> Result<(), TrainError> {
        if self.recipe.scratch.is_some() {
            let kept = self.folder.join(TOKENIZER);
            std::fs::create_dir_all(&kept).map_err(TrainError::io(&kept))?;
            self.tokenizer.save(&kept)?;
        }
        Ok(())
    }

    fn write_recipe(&self) -> Result<(), TrainError> {
        write(&self.folder.join("recipe.toml"), self.recipe.to_toml()?.as_bytes())?;
        let plan = serde_json::to_vec_pretty(&self.plan).unwrap_or_default();
        write(&self.folder.join("plan.json"), &plan)
    }

    /// `from` is the stage that a checkpoint stands at, if there is one to go on from.
    fn open(
        mut recipe: Recipe,
        embedded: &Embedded,
        folder: &Path,
        lock: Option<File>,
        from: Option<usize>,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        recipe.check()?;
        let (teacher, student, tokenizer) = match (&recipe.teacher, &recipe.scratch) {
            (Some(named), _) => {
                let teacher = Teacher::open(&embedded.teacher(&named.path), device)?;
                let student = teacher.student(&recipe, device)?;
                let tokenizer = teacher.tokenizer.clone();
                (Some(teacher), student, tokenizer)
            }
            (None, Some(scratch)) => {
                // What a checkpoint was built on stays; before there is one, the recipe may ask for another.
                let mut scratch = scratch.clone();
                if from.is_some() {
                    scratch.tokenizer = Some(folder.join(TOKENIZER));
                }
                let (model, tokenizer) = from_scratch(&scratch, &recipe, embedded, device)?;
                (None, model, tokenizer)
            }
            (None, None) => return Err(TrainError::Recipe("expected [teacher] or [scratch]".into())),
        };
        let cache = recipe.text.cache.clone().unwrap_or_else(|| folder.parent().unwrap_or(Path::new(".")).join(".text"));
        std::fs::create_dir_all(&cache).map_err(TrainError::io(&cache))?;
        let mut failed = None;
        let text = RunText::open(&recipe, embedded, &tokenizer, &cache, &mut |progress| {
            failed = observer.event(&Event::Reading(progress)).err();
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let text = text?;
        // Resolved, so that the split stays what it is.
        recipe.text.held_out_tokens = text.held_out_tokens;
        // As the finished student is to read, and all alike.
        let reset = recipe.stages.last().is_some_and(|stage| stage.reset_documents);
        let held_out = HeldOut::new(&text.held_out, &recipe.validation, recipe.says_next(), reset)?;
        let plan = Plan::onward(&recipe, teacher.as_ref().map(|t| &t.model), &student, from.unwrap_or(0))?;
        // Whatever a later stage could be refused for is found before the first one has cost anything.
        let pairs = recipe.stages.iter().enumerate().map(|(index, stage)| {
            let opened = match stage.pairs.is_empty() {
                // It is done, and its text may be gone.
                _ if from.is_some_and(|from| index < from) => Ok(None),
                true => text.packing(&recipe, index).map(|_| None),
                false => Pairs::open(&stage.pairs, &tokenizer, stage.context).map(Some),
            };
            opened.map_err(|error| error.of_stage(&stage.name))
        });
        let pairs = pairs.collect::<Result<Vec<_>, TrainError>>()?;
        let store = Store::new(folder, recipe.checkpoints.keep);
        let sources = Sources {
            text: of_text(&[&text.train, &text.held_out]),
            layout: LAYOUT,
            pairs: pairs.iter().map(|pairs| pairs.as_ref().map(Pairs::fingerprint).unwrap_or_default()).collect(),
            teacher: teacher.as_ref().map(|t| of_model(&t.model)).unwrap_or_default(),
        };
        let position = Position { sources, ..Default::default() };
        Ok(Self {
            recipe,
            folder: folder.to_owned(),
            teacher,
            student,
            tokenizer,
            plan,
            position,
            text,
            pairs,
            held_out,
            lock,
            store,
            start: None,
        })
    }

    /// Runs every stage that is left. Afterwards `student` is the result.
    ///
    /// # Errors
    /// When a loss is not finite, the disk is full, or the observer wants to stop. The newest
    /// checkpoint is intact in every case.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let mut metrics = Metrics::open(&self.folder, self.position.metrics)?;
        let params = self.student.parameters();
        if let Some(place) = &self.start {
            checkpoint::load_params(place, &params)?;
        } else {
            if let Some(teacher) = &self.teacher {
                observer.event(&Event::Measuring(TEACHER))?;
                let loss = self.held_out(&teacher.model)?;
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
        let mut optimizer = optimizer(&stage, params);
        if let Some(place) = self.start.take()
            && self.position.step > 0
        {
            checkpoint::load_moments(&place, &mut optimizer)?;
        }
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
        self.position.held_out.push((stage.name.clone(), loss));
        observer.event(&Event::HeldOut { stage: &stage, step: steps, loss })?;
        observer.event(&Event::Snapshot { name: &stage.name, model: &self.student, loss })?;
        self.position.stage += 1;
        self.position.step = 0;
        // The next stage begins without moments.
        self.save(params, &Optimizer::new(AdamW::default(), 0.0, Vec::new()), metrics, observer)
    }

    fn not_finite(&self, stage: String, step: u64, what: &'static str, value: f64) -> TrainError {
        TrainError::NotFinite { stage, step, what, value, checkpoint: self.store.newest(), run: self.folder.clone() }
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

/// Keeps other processes out of a run's folder: two that write one history would cut it short.
/// None where the file system has no locks.
fn lock(folder: &Path) -> Result<Option<File>, TrainError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(TrainError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(TrainError::Resume {
            path: folder.to_owned(),
            message: "another process is working on this run; wait for it, or stop it first".into(),
        }),
        Err(TryLockError::Error(_)) => Ok(None),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_belongs_to_one_process() {
        let folder = std::env::temp_dir().join(format!("recast-lock-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("temporary folder");
        let first = lock(&folder).expect("nobody else is there");
        let Err(TrainError::Resume { message, .. }) = lock(&folder) else { panic!("locked twice") };
        assert!(message.contains("another process"));
        drop(first);
        assert!(lock(&folder).is_ok());
        std::fs::remove_dir_all(&folder).expect("removes it");
    }
}
