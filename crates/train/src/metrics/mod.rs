//! What happened, step by step: `metrics.jsonl` is the truth, TensorBoard events stand beside it.

mod tensorboard;

use crate::checkpoint::Position;
use crate::error::TrainError;
use crate::objectives::Loss;
use crate::validate::HeldOutLoss;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use tensorboard::EventWriter;

/// Name of the file in a run's folder.
pub const FILE: &str = "metrics.jsonl";

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// Name of the stage.
    pub stage: String,
    /// Steps done in it.
    pub step: u64,
    /// Tokens seen over all stages.
    pub tokens: u64,
    /// Training loss of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Loss of each layer (alignment).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<f64>,
    /// What the loss is made of, where that is more than one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
    /// Learning rates: the stage's own, then its groups'.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<f64>,
    /// Global norm of the gradient before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<f64>,
    /// Speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Held-out loss, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_loss: Option<f64>,
    /// Held-out KL from the teacher, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_kl: Option<f64>,
    /// Held-out bound of a diffusion model, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_bound: Option<f64>,
    /// Of it, nats a masked token by the share masked, in quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_by_share: Option<[Option<f64>; 4]>,
}

/// Writes a run's metrics.
pub struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    lines: u64,
    events: EventWriter,
}

impl Metrics {
    /// Opens the run's files, keeping the first `lines` lines: what came after the checkpoint will
    /// be done again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path, lines: u64) -> Result<Self, TrainError> {
        let path = folder.join(FILE);
        let mut kept = Vec::new();
        if lines > 0 {
            let old = File::open(&path).map_err(TrainError::io(&path))?;
            for line in BufReader::new(old).lines().take(lines as usize) {
                kept.extend_from_slice(line.map_err(TrainError::io(&path))?.as_bytes());
                kept.push(b'\n');
            }
        }
        crate::trainer::write(&path, &kept)?;
        let file = File::options().append(true).open(&path).map_err(TrainError::io(&path))?;
        let events = EventWriter::create(folder).map_err(TrainError::io(folder))?;
        Ok(Self { path, file: BufWriter::new(file), lines, events })
    }

    /// Records a training step.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn step(
        &mut self,
        stage: &str,
        at: &Position,
        loss: &Loss,
        rates: &[f64],
        norm: f64,
        speed: f64,
    ) -> Result<(), TrainError> {
        let scalars = [("loss", loss.value), ("rate", rates[0]), ("norm", norm), ("tokens_per_second", speed)];
        self.scalars(stage, at, &scalars)?;
        self.line(&Line {
            stage: stage.into(),
            step: at.step,
            tokens: at.tokens,
            loss: Some(loss.value),
            layers: loss.layers.clone(),
            parts: loss.parts.iter().cloned().collect(),
            rates: rates.to_vec(),
            norm: Some(norm),
            tokens_per_second: Some(speed),
            ..Default::default()
        })
    }

    /// Records a measurement on held-out text.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn held_out(&mut self, stage: &str, at: &Position, loss: &HeldOutLoss) -> Result<(), TrainError> {
        self.scalars(stage, at, &[("held_out_loss", loss.loss)])?;
        if let Some(bound) = loss.bound {
            self.scalars(stage, at, &[("held_out_bound", bound.loss)])?;
            for (name, nats) in ["quarter", "half", "three_quarters", "all"].iter().zip(bound.by_share) {
                if let Some(nats) = nats {
                    self.scalars(stage, at, &[(&format!("held_out_masked_up_to_{name}"), nats)])?;
                }
            }
        }
        self.line(&Line {
            stage: stage.into(),
            step: at.step,
            tokens: at.tokens,
            held_out_loss: Some(loss.loss),
            held_out_kl: loss.kl,
            held_out_bound: loss.bound.map(|bound| bound.loss),
            held_out_by_share: loss.bound.map(|bound| bound.by_share),
            ..Default::default()
        })
    }

    /// Flushes to the disk; returns the number of lines there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> Result<u64, TrainError> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(TrainError::io(&self.path))?;
        Ok(self.lines)
    }

    fn line(&mut self, line: &Line) -> Result<(), TrainError> {
        let text = serde_json::to_string(line).unwrap_or_default();
        // Flushed line by line, so that a reader sees a live run.
        writeln!(self.file, "{text}").and_then(|()| self.file.flush()).map_err(TrainError::io(&self.path))?;
        self.lines += 1;
        Ok(())
    }

    fn scalars(&mut self, stage: &str, at: &Position, values: &[(&str, f64)]) -> Result<(), TrainError> {
        for (name, value) in values {
            self.events.scalar(&format!("{stage}/{name}"), at.step, *value).map_err(TrainError::io(&self.path))?;
        }
        Ok(())
    }
}

/// Reads a run's metrics; a torn last line is left out.
///
/// # Errors
/// When the file cannot be read.
pub fn read(folder: &Path) -> Result<Vec<Line>, TrainError> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
