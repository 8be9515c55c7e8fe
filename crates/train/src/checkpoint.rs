//! Training state on disk: every file is written beside its place and renamed into it, so that a
//! killed process leaves either the old checkpoint or the new one.
//!
//! A checkpoint is one folder `checkpoints/STAGE-STEP` with `model.safetensors` (every
//! parameter, f32), `moments.safetensors` and `state.json`, which is written last: a folder without
//! it does not count.

use crate::error::TrainError;
use crate::optimizer::{Moments, Optimizer};
use crate::validate::HeldOutLoss;
use burn::tensor::{Tensor, TensorData};
use recast_models::param::{Named, values};
use recast_models::weights::{self, Dtype, NamedTensor, write_safetensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Index of the stage.
    pub stage: usize,
    /// Steps done in it.
    pub step: u64,
    /// Tokens seen over all stages.
    pub tokens: u64,
    /// Lines of metrics.jsonl written when the checkpoint was taken.
    pub metrics: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Held-out losses after the start and after each finished stage, by name.
    pub held_out: Vec<(String, HeldOutLoss)>,
    /// Hash of what the run has built on of its recipe ([`crate::recipe::Recipe::fixed`]).
    pub recipe_hash: String,
    /// What else it was built on.
    #[serde(default)]
    pub sources: Sources,
}

/// Fingerprints of what a recipe only names. Empty where a checkpoint is older than they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    /// The text, training and held-out side.
    pub text: String,
    /// How files become text ([`crate::text::LAYOUT`]).
    #[serde(default)]
    pub layout: u32,
    /// The pairs of each stage; empty for one without.
    #[serde(default)]
    pub pairs: Vec<String>,
    /// The teacher; empty without one.
    pub teacher: String,
}

impl Position {
    /// The sources of a run that goes on from here and has found these. Those of stages that are done are not asked
    /// for again, and stay as they were; those of later ones may still change.
    ///
    /// # Errors
    /// With what was changed, and what to do.
    pub fn onward(&self, now: &Sources) -> Result<Sources, &'static str> {
        let then = &self.sources;
        if !then.text.is_empty() && then.text != now.text {
            return Err(match then.layout == now.layout {
                true => "the text was changed since the checkpoint was written; put it back, or start a new run",
                false => {
                    "another version of the program wrote the checkpoint, which made other documents or tokens of the same \
                     files (or the text was changed as well); go on with that version, or start a new run"
                }
            });
        }
        if self.step > 0 && !then.pairs.is_empty() && then.pairs.get(self.stage) != now.pairs.get(self.stage) {
            return Err("its pairs were changed since the checkpoint was written; put them back, or start a new run");
        }
        if !then.teacher.is_empty() && then.teacher != now.teacher {
            return Err("the teacher is another one than before; put it back, or start a new run");
        }
        let mut sources = now.clone();
        sources.pairs.iter_mut().zip(&then.pairs).take(self.stage).for_each(|(now, then)| now.clone_from(then));
        Ok(sources)
    }
}

const STATE: &str = "state.json";

/// The folder of checkpoints of a run.
pub struct Store {
    folder: PathBuf,
    keep: usize,
}

impl Store {
    /// Checkpoints of the run in `run`, of which the newest `keep` stay.
    pub fn new(run: &Path, keep: usize) -> Self {
        Self { folder: run.join("checkpoints"), keep: keep.max(1) }
    }

    /// Complete checkpoints, oldest first.
    pub fn list(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.join(STATE).is_file() && !is_temporary(p))
            .collect();
        all.sort();
        all
    }

    /// Removes what killed processes left: checkpoints half written, and half removed.
    pub fn sweep(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
        for path in entries.filter(|p| p.is_dir() && is_ours(p) && (is_temporary(p) || !p.join(STATE).is_file())) {
            let _ = std::fs::remove_dir_all(path);
        }
    }

    /// Name of the newest checkpoint, for messages.
    pub fn newest(&self) -> String {
        self.list().last().map_or_else(|| "none yet".into(), |p| p.display().to_string())
    }

    /// Saves everything needed to go on, then removes the oldest checkpoints.
    ///
    /// # Errors
    /// When the disk refuses; older checkpoints are then untouched.
    pub fn save(&self, position: &Position, params: &[Named], optimizer: &Optimizer) -> Result<PathBuf, TrainError> {
        std::fs::create_dir_all(&self.folder).map_err(TrainError::io(&self.folder))?;
        let name = format!("{:02}-{:08}", position.stage, position.step);
        let place = self.folder.join(&name);
        let temporary = self.folder.join(format!(".{name}.tmp"));
        // Left over from a process that was killed while writing.
        let _ = std::fs::remove_dir_all(&temporary);
        let written = self.write(&temporary, position, params, optimizer);
        if let Err(error) = written {
            let _ = std::fs::remove_dir_all(&temporary);
            return Err(error);
        }
        if place.exists() {
            std::fs::remove_dir_all(&place).map_err(TrainError::io(&place))?;
        }
        std::fs::rename(&temporary, &place).map_err(TrainError::io(&place))?;
        sync(&self.folder)?;
        let all = self.list();
        for old in &all[..all.len().saturating_sub(self.keep)] {
            // Made incomplete first, so that a kill in between leaves nothing that looks whole.
            let _ = std::fs::remove_file(old.join(STATE));
            let _ = std::fs::remove_dir_all(old);
        }
        Ok(place)
    }

    fn write(&self, folder: &Path, position: &Position, params: &[Named], optimizer: &Optimizer) -> Result<(), TrainError> {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        let model =
            params.iter().map(|(name, p)| NamedTensor::lazy(name, p.stored_shape(), Dtype::F32, move || Ok(p.read()))).collect();
        write_safetensors(&folder.join("model.safetensors"), model, &BTreeMap::new())?;
        let moments = optimizer
            .params()
            .zip(&optimizer.moments)
            .flat_map(|((name, _), moments)| [(format!("{name}.m"), &moments.m), (format!("{name}.v"), &moments.v)])
            .map(|(name, tensor)| {
                let read = move || Ok(values(tensor.clone()));
                NamedTensor::lazy(&name, &tensor.dims(), Dtype::F32, read)
            })
            .collect();
        write_safetensors(&folder.join("moments.safetensors"), moments, &BTreeMap::new())?;
        let state = serde_json::to_vec_pretty(position).unwrap_or_default();
        let path = folder.join(STATE);
        std::fs::write(&path, state).map_err(TrainError::io(&path))?;
        sync(&path)?;
        sync(folder)
    }

    /// The newest complete checkpoint's position.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn latest(&self) -> Result<Option<(PathBuf, Position)>, TrainError> {
        let Some(place) = self.list().pop() else { return Ok(None) };
        let path = place.join(STATE);
        let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let position = serde_json::from_slice(&bytes).map_err(|e| TrainError::Resume {
            path,
            message: format!("not a checkpoint's state ({e}); delete that folder to go on from the one before"),
        })?;
        Ok(Some((place, position)))
    }
}

/// Puts a checkpoint's parameters back.
///
/// # Errors
/// When a parameter is missing or has another size.
pub fn load_params(place: &Path, params: &[Named]) -> Result<(), TrainError> {
    let file = weights::open(&place.join("model.safetensors"))?;
    for (name, param) in params {
        param.write(&file.read_shaped(name, param.stored_shape())?);
    }
    Ok(())
}

/// Puts a checkpoint's moments back.
///
/// # Errors
/// When a moment is missing or has another size.
pub fn load_moments(place: &Path, optimizer: &mut Optimizer) -> Result<(), TrainError> {
    let file = weights::open(&place.join("moments.safetensors"))?;
    let named: Vec<Named> = optimizer.params().cloned().collect();
    for ((name, param), moments) in named.into_iter().zip(&mut optimizer.moments) {
        let (size, device) = (param.elements(), param.device());
        let read = |kind: &str| -> Result<Tensor<1>, TrainError> {
            let values = file.read_shaped(&format!("{name}.{kind}"), &[size])?;
            Ok(Tensor::from_data(TensorData::new(values, [size]), &device))
        };
        *moments = Moments { m: read("m")?, v: read("v")? };
    }
    Ok(())
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'))
}

/// Whether a folder has the name of a checkpoint, whole (`01-00000250`) or half written (`.01-00000250.tmp`).
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let name = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")).unwrap_or(name);
    let digits = |part: &str| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_digit());
    name.split_once('-').is_some_and(|(stage, step)| digits(stage) && digits(step) && step.len() >= 8)
}

/// Flushes a file or folder to the disk.
fn sync(path: &Path) -> Result<(), TrainError> {
    std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(TrainError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str, layout: u32, pairs: [&str; 3]) -> Sources {
        Sources { text: text.into(), layout, pairs: pairs.map(String::from).to_vec(), teacher: "t".into() }
    }

    #[test]
    fn what_a_checkpoint_was_built_on_is_told_from_what_is_done_or_to_come() {
        let at = |step, text: &str, layout| Position {
            stage: 1,
            step,
            sources: sources(text, layout, ["done", "under way", "later"]),
            ..Position::default()
        };
        // Done: not read again. Later: another one.
        let now = sources("a", 1, ["", "under way", "other"]);
        assert_eq!(at(1, "a", 1).onward(&now), Ok(sources("a", 1, ["done", "under way", "other"])));
        let moved = sources("a", 1, ["", "changed", "other"]);
        assert!(at(1, "a", 1).onward(&moved).is_err_and(|what| what.contains("its pairs")));
        assert!(at(0, "a", 1).onward(&moved).is_ok(), "nothing was read of them yet");
        assert!(at(1, "b", 1).onward(&now).is_err_and(|what| what.contains("the text was changed since")));
        assert!(at(1, "b", 0).onward(&now).is_err_and(|what| what.contains("another version of the program")));
        assert!(at(1, "", 0).onward(&now).is_ok(), "older than fingerprints");
        let teacher = Sources { teacher: "u".into(), ..now };
        assert!(at(1, "a", 1).onward(&teacher).is_err_and(|what| what.contains("the teacher")));
    }
}
