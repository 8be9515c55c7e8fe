//! How a run begins, anew or from its newest checkpoint: what it is built on is opened and told from what it was, and what
//! it is to write is held against what stands there, before the first step has cost anything.

use super::{Event, Observer, Trainer, optimizer, write};
use crate::checkpoint::{Position, Sources, Store};
use crate::error::TrainError;
use crate::fingerprint::{of_model, of_text};
use crate::pairs::Pairs;
use crate::plan::Plan;
use crate::recipe::{EMBEDDED, Embedded, Recipe};
use crate::teacher::{Teacher, check_config, from_scratch};
use crate::text::{LAYOUT, RunText};
use crate::validate::HeldOut;
use burn::tensor::Device;
use recast_models::weights::{ModelWriter, WeightsError};
use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;

/// File that the process at work holds locked.
const LOCK: &str = ".lock";
/// Folder of the tokenizer that a run from nothing trains.
const TOKENIZER: &str = "tokenizer";
/// Folder of the finished model.
const MODEL: &str = "model";
/// Files that are written while a run goes on and at its end.
const FILES: [&str; 6] = ["metrics.jsonl", "plan.json", "samples.json", "report.html", "report.json", "summary.json"];
/// What may be changed of a run that has begun.
const MAY_CHANGE: &str = "what may change of a stage under way are its rates, clip, micro_batch, recompute and validate_every, \
                          and everything of later stages";

impl Trainer {
    /// Prepares a new run in `folder`, which must hold neither one nor a model.
    ///
    /// # Errors
    /// When the recipe, the teacher or the text cannot be used, or the folder holds a run or a model, or the teacher.
    pub fn create(
        recipe: Recipe,
        embedded: &Embedded,
        folder: &Path,
        device: &Device,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let refuse = |path: &Path, message: &str| Err(TrainError::Resume { path: path.to_owned(), message: message.into() });
        if folder.join("recipe.toml").exists() {
            return refuse(folder, "already holds a run; resume it with --resume, or name another --out");
        }
        // They would be taken for later ones than the first of the new run.
        if let Some(left) = Store::new(folder, 1).list().pop() {
            return refuse(
                &left,
                "is a checkpoint of an earlier run, whose recipe.toml is gone; remove the folder of checkpoints, or name \
                 another --out",
            );
        }
        let model = folder.join(MODEL);
        if model.symlink_metadata().is_ok() && !model.read_dir().is_ok_and(|mut entries| entries.next().is_none()) {
            return refuse(&model, "is there already, and the run would put its own model there; name another --out");
        }
        check_files(folder, "move it away, or name another --out")?;
        check_teacher(&recipe, folder)?;
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
    /// ([`Recipe::fixed`]), the text or the teacher is another one, the checkpoint is damaged, or what is not of this run
    /// stands where it is to write.
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
        check_files(folder, &onward(folder))?;
        check_teacher(&recipe, &folder.join(MODEL))?;
        let latest = Store::new(folder, recipe.checkpoints.keep).latest()?;
        let from = latest.as_ref().map(|(_, position)| position.stage);
        let mut trainer = Self::open(recipe, embedded, folder, lock, from, device, observer)?;
        trainer.check_model()?;
        let mut stands = "00-00000000".to_owned();
        if let Some((place, position)) = latest {
            let refuse = |path: &Path, message: String| Err(TrainError::Resume { path: path.to_owned(), message });
            if !position.built_on(&trainer.recipe) {
                // Without the changes of the command line.
                let kept = crate::recipe::load(&path, &[]).ok().filter(|kept| position.built_on(kept));
                let Some(kept) = kept else {
                    let what = "differs in what the checkpoint was built on";
                    return refuse(&path, format!("{what}; {MAY_CHANGE}; put the rest back, or start a new run"));
                };
                let (stage, step) = (position.stage, position.step);
                let changed = kept.fixed(stage, step).differences(&trainer.recipe.fixed(stage, step)).join(", ");
                let what = "--set changes what the checkpoint was built on";
                return refuse(folder, format!("{what}: {changed}; {MAY_CHANGE}; leave the rest out, or start a new run"));
            }
            let judged = |recipe: &Recipe| (recipe.says_next(), recipe.stages.last().is_some_and(|stage| stage.reset_documents));
            if crate::recipe::load(&path, &[]).is_ok_and(|kept| judged(&kept) != judged(&trainer.recipe)) {
                let what = "--set changes how held-out text is measured (reset_documents of the last stage, or whether the next \
                            token is trained), and the teacher was measured before";
                return refuse(folder, format!("{what}; leave it out, or start a new run"));
            }
            // Where nothing was said the first layout's programs wrote `false`, and meant what the teacher has.
            let known = trainer.teacher.as_ref().and_then(|teacher| teacher.model.config.diffusion.as_ref());
            let unsaid = trainer.recipe.student.diffusion.as_ref().is_some_and(|wanted| wanted.shift == Some(false));
            if position.sources.layout < 2 && unsaid && known.is_some_and(|known| known.shift) {
                let what = "another version of the program began this run, to which `shift = false` meant as the teacher has it";
                return refuse(&path, format!("{what}; go on with that version, or start a new run"));
            }
            if position.sources.text.is_empty() {
                observer.tell(&format!(
                    "{}: the checkpoint is too old to know its text, and this version of the program may make other documents \
                     of the same files: if there is any doubt, start a new run",
                    place.display()
                ));
            }
            let sources = match position.onward(&trainer.position.sources) {
                Ok(sources) => sources,
                Err(message) => return refuse(folder, message.into()),
            };
            let params = trainer.student.parameters();
            let under_way = trainer.recipe.stages.get(position.stage).filter(|_| position.step > 0);
            trainer.resumed = under_way.map(|stage| optimizer(stage, &params));
            trainer.store.load(&place, &position, &params, trainer.resumed.as_mut())?;
            stands = place.file_name().map_or(stands, |name| name.to_string_lossy().into_owned());
            trainer.position = Position { sources, ..position };
        } else {
            observer.tell(&format!("{}: there is no checkpoint to go on from: the run starts over", folder.display()));
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

    /// Refuses what stands where the end of the run is to write and is not of this run.
    pub(super) fn check_targets(&self) -> Result<(), TrainError> {
        check_files(&self.folder, &onward(&self.folder))?;
        self.check_model()
    }

    /// Refuses a model in the folder that this run did not write, or has more in it: either was put there since it began.
    fn check_model(&self) -> Result<(), TrainError> {
        let model = self.folder.join(MODEL);
        if model.symlink_metadata().is_err() {
            return Ok(());
        }
        let refuse = |what: &str| {
            let message = format!("will not be replaced: {what}; {}", onward(&self.folder));
            Err(TrainError::Resume { path: model.clone(), message })
        };
        let kept = tempfile::tempdir().map_err(TrainError::io(std::env::temp_dir()))?;
        self.tokenizer.save(kept.path())?;
        let files = kept.path().read_dir().map_err(TrainError::io(kept.path()))?;
        let files = files.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        let files: Vec<String> = files.chain(["config.json", "README.md"].map(String::from)).collect();
        match ModelWriter::check(&model, &files) {
            Err(WeightsError::WillNotReplace { reason, .. }) => return refuse(&reason),
            other => other?,
        }
        // An empty folder has none.
        let Ok(config) = std::fs::read(model.join("config.json")) else { return Ok(()) };
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        // As the export writes them; more stages may have come since.
        let there = config["recast"]["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = &self.recipe.stages;
        let same = there.len() <= own.len() && there.iter().zip(own).all(|(there, own)| *there == own.name);
        if there.is_empty() || !same { refuse("this run did not write it") } else { Ok(()) }
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
                match from {
                    Some(_) => scratch.tokenizer = Some(folder.join(TOKENIZER)),
                    None => check_config(&scratch)?,
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
        // No more is measured than there is.
        let mut sized = recipe.clone();
        sized.validation.tokens = sized.validation.tokens.min(text.held_out.len() as u64);
        let plan = Plan::onward(&sized, teacher.as_ref().map(|t| &t.model), &student, from.unwrap_or(0))?;
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
            long: None,
            text,
            pairs,
            held_out,
            lock,
            store,
            resumed: None,
        })
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

/// What to do about what stands in the way of a run that has begun.
fn onward(folder: &Path) -> String {
    format!("move it away, then go on with `convert --resume {}`", folder.display())
}

/// Refuses what is no file where a run is to write one. `onward` says what to do about it.
fn check_files(folder: &Path, onward: &str) -> Result<(), TrainError> {
    match FILES.iter().map(|name| folder.join(name)).find(|path| path.exists() && !path.is_file()) {
        Some(path) => {
            Err(TrainError::Resume { path, message: format!("a file is to be written there, and this is none; {onward}") })
        }
        None => Ok(()),
    }
}

/// Refuses a teacher in a folder that the run writes to.
fn check_teacher(recipe: &Recipe, folder: &Path) -> Result<(), TrainError> {
    let named = recipe.teacher.as_ref().map(|teacher| &teacher.path).filter(|path| path.as_path() != Path::new(EMBEDDED));
    let Some(path) = named else { return Ok(()) };
    match (path.canonicalize(), folder.canonicalize()) {
        (Ok(whole), Ok(within)) if whole.starts_with(&within) => Err(TrainError::Resume {
            path: path.clone(),
            message: format!(
                "teacher.path is inside {}, which the run writes to; name another --out, or move the teacher",
                folder.display()
            ),
        }),
        _ => Ok(()),
    }
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
