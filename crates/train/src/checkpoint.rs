//! Training state on disk: every file is written beside its place and renamed into it, so that a
//! killed process leaves either the old checkpoint or the new one.
//!
//! A checkpoint is one folder `checkpoints/STAGE-STEP` with `model.safetensors` (every
//! parameter, f32), `moments.safetensors` and `state.json`, which is written last: a folder without
//! it does not count. It holds digests of the other two, so that a bit that a disk has lost is not trained on.

use crate::error::TrainError;
use crate::optimizer::{Moments, Optimizer};
use crate::recipe::Recipe;
use crate::validate::HeldOutLoss;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use recast_models::param::{Named, values};
use recast_models::weights::{self, Dtype, NamedTensor, WeightsError, write_safetensors};
use recast_text::files::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
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
    /// Digests of the checkpoint's other files, by name; empty where it is older than they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
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
    /// Whether what was done until here is what this recipe asks for.
    pub fn built_on(&self, recipe: &Recipe) -> bool {
        // The others are as checkpoints of earlier versions have it.
        let fixed = [recipe.fixed(self.stage, self.step), recipe.fixed_with_pairs(self.stage, self.step), recipe.clone()];
        fixed.iter().any(|fixed| fixed.hash() == self.recipe_hash)
    }

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
            return Err(match then.layout == now.layout {
                true => "its pairs were changed since the checkpoint was written; put them back, or start a new run",
                false => {
                    "another version of the program wrote the checkpoint, which made other tokens of the same pairs (or they \
                     were changed as well); go on with that version, or start a new run"
                }
            });
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
const PARAMS: &str = "model.safetensors";
const MOMENTS: &str = "moments.safetensors";
/// Bytes that are hashed at a time.
const PIECE: u64 = 4 << 20;

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

    /// The complete checkpoint of this step of this stage, if it is there.
    pub fn at(&self, stage: usize, step: u64) -> Option<PathBuf> {
        Some(self.folder.join(name(stage, step))).filter(|place| place.join(STATE).is_file())
    }

    /// What goes on where a checkpoint cannot be used.
    fn without(&self, place: &Path) -> String {
        let next = match self.list().into_iter().rfind(|other| other.as_path() < place) {
            Some(before) => format!("go on from {}", before.display()),
            None => "start over: there is none before it".into(),
        };
        format!("delete the folder {} to {next}", place.display())
    }

    /// Saves everything needed to go on, then removes the oldest checkpoints.
    ///
    /// # Errors
    /// When the disk refuses; older checkpoints are then untouched.
    pub fn save(&self, position: &Position, params: &[Named], optimizer: &Optimizer) -> Result<PathBuf, TrainError> {
        std::fs::create_dir_all(&self.folder).map_err(TrainError::io(&self.folder))?;
        let name = name(position.stage, position.step);
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
        write_safetensors(&folder.join(PARAMS), model, &BTreeMap::new())?;
        let moments = optimizer
            .params()
            .zip(&optimizer.moments)
            .flat_map(|((name, _), moments)| [(format!("{name}.m"), &moments.m), (format!("{name}.v"), &moments.v)])
            .map(|(name, tensor)| {
                let read = move || Ok(values(tensor.clone()));
                NamedTensor::lazy(&name, &tensor.dims(), Dtype::F32, read)
            })
            .collect();
        write_safetensors(&folder.join(MOMENTS), moments, &BTreeMap::new())?;
        let digest = |file: &str| {
            let path = folder.join(file);
            digest(&path).map(|digest| (file.to_owned(), digest)).map_err(TrainError::io(path))
        };
        let position = Position { digests: BTreeMap::from([digest(PARAMS)?, digest(MOMENTS)?]), ..position.clone() };
        let state = serde_json::to_vec_pretty(&position).unwrap_or_default();
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
            message: format!("not a checkpoint's state ({e}); {}", self.without(&place)),
        })?;
        Ok(Some((place, position)))
    }

    /// Puts the parameters of a checkpoint that stands at `position` back, and the moments of the stage under way.
    ///
    /// # Errors
    /// When a file is damaged, or a tensor is missing or has another size.
    pub fn load(
        &self,
        place: &Path,
        position: &Position,
        params: &[Named],
        optimizer: Option<&mut Optimizer>,
    ) -> Result<(), TrainError> {
        let damaged = |file: &str, what: String| TrainError::Resume {
            path: place.join(file),
            message: format!("{what}; {}", self.without(place)),
        };
        for (file, written) in &position.digests {
            match digest(&place.join(file)) {
                Ok(found) if found == *written => {}
                Ok(_) => return Err(damaged(file, "other bytes than were written".into())),
                Err(error) => return Err(damaged(file, format!("cannot be read ({error})"))),
            }
        }
        // Checkpoints without digests are found damaged here, if at all.
        let told = |file: &str, error| match error {
            WeightsError::Truncated { .. } => damaged(file, "truncated".into()),
            other => damaged(file, other.to_string()),
        };
        load_params(place, params).map_err(|error| told(PARAMS, error))?;
        optimizer.map_or(Ok(()), |optimizer| load_moments(place, optimizer).map_err(|error| told(MOMENTS, error)))
    }
}

/// The name of a checkpoint's folder.
fn name(stage: usize, step: u64) -> String {
    format!("{stage:02}-{step:08}")
}

/// SHA-256 of the SHA-256 of a file's pieces. The pieces are hashed on all cores, each at half a gigabyte a second or more,
/// behind a write to the disk that it does not make much longer.
fn digest(path: &Path) -> io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    let piece = |index: u64| -> io::Result<_> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(index * PIECE))?;
        let mut piece = Vec::new();
        file.take(PIECE).read_to_end(&mut piece)?;
        Ok(Sha256::digest(piece))
    };
    let pieces: Vec<_> = (0..bytes.div_ceil(PIECE)).into_par_iter().map(piece).collect::<io::Result<_>>()?;
    let whole = pieces.iter().fold(Sha256::new(), |whole, piece| whole.chain_update(piece));
    Ok(hex(&whole.finalize()))
}

fn load_params(place: &Path, params: &[Named]) -> Result<(), WeightsError> {
    let file = weights::open(&place.join(PARAMS))?;
    for (name, param) in params {
        param.write(&file.read_shaped(name, param.stored_shape())?);
    }
    Ok(())
}

fn load_moments(place: &Path, optimizer: &mut Optimizer) -> Result<(), WeightsError> {
    let file = weights::open(&place.join(MOMENTS))?;
    let named: Vec<Named> = optimizer.params().cloned().collect();
    for ((name, param), moments) in named.into_iter().zip(&mut optimizer.moments) {
        let (size, device) = (param.elements(), param.device());
        let read = |kind: &str| -> Result<Tensor<1>, WeightsError> {
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

    /// Every byte counts, those of the last piece of a file too.
    #[test]
    fn a_digest_knows_every_piece_of_a_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("m");
        let mut bytes = vec![1u8; PIECE as usize + 3];
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("writes");
            digest(&path).expect("reads")
        };
        let whole = of(&bytes);
        assert_eq!((whole.len(), of(&bytes)), (64, whole.clone()));
        for place in [0, PIECE as usize - 1, PIECE as usize + 2] {
            bytes[place] = 0xff;
            assert_ne!(of(&bytes), whole, "byte {place}");
            bytes[place] = 1;
        }
        assert_ne!(of(&bytes[..PIECE as usize]), whole);
        assert_ne!(of(&[]), whole);
        assert!(digest(&folder.path().join("none")).is_err());
    }

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
