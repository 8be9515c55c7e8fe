//! What happened, step by step: `metrics.jsonl` is the truth, TensorBoard events stand beside it.

mod tensorboard;

use crate::checkpoint::Position;
use crate::error::TrainError;
use crate::objectives::Loss;
use crate::validate::{HeldOutLoss, LongLoss};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
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
    /// Held-out loss of the finished student and its teacher in windows longer than those of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_long: Option<LongLoss>,
}

/// Writes a run's metrics.
pub struct Metrics {
    path: PathBuf,
    file: BufWriter<File>,
    lines: u64,
    events: EventWriter,
}

impl Metrics {
    /// Opens the run's files, keeping of the first `lines` lines those up to `tokens` trained on: what came after the
    /// checkpoint will be done again. Says how many of them are gone or damaged: they are history, which a run does not go
    /// on from.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(folder: &Path, lines: u64, tokens: u64) -> Result<(Self, u64), TrainError> {
        let path = folder.join(FILE);
        let old = match std::fs::read(&path) {
            _ if lines == 0 => Vec::new(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            old => old.map_err(TrainError::io(&path))?,
        };
        let (kept, count) = whole_lines(&old, lines, tokens);
        crate::trainer::write(&path, &kept)?;
        let file = File::options().append(true).open(&path).map_err(TrainError::io(&path))?;
        let events = EventWriter::create(folder).map_err(TrainError::io(folder))?;
        Ok((Self { path, file: BufWriter::new(file), lines: count, events }, lines - count))
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

    /// Records the measurement in long windows that ends a run, after so many steps of its last stage.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn held_out_long(&mut self, stage: &str, step: u64, tokens: u64, long: &LongLoss) -> Result<(), TrainError> {
        self.line(&Line { stage: stage.into(), step, tokens, held_out_long: Some(long.clone()), ..Default::default() })
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

/// Of the first so many lines those that are what was written, up to so many tokens, and their number.
fn whole_lines(bytes: &[u8], lines: u64, tokens: u64) -> (Vec<u8>, u64) {
    let (mut kept, mut count) = (Vec::new(), 0);
    let all = bytes.split(|&byte| byte == b'\n').take(usize::try_from(lines).unwrap_or(usize::MAX));
    for line in all.filter(|line| serde_json::from_slice::<Line>(line).is_ok_and(|line| line.tokens <= tokens)) {
        kept.extend_from_slice(line);
        kept.push(b'\n');
        count += 1;
    }
    (kept, count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_history_is_kept_and_what_is_gone_is_counted() {
        let line = |step: u64| format!("{{\"stage\":\"a\",\"step\":{step},\"tokens\":{step}}}\n").into_bytes();
        let all = [line(1), line(2), line(3)].concat();
        assert_eq!(whole_lines(&all, 3, 3), (all.clone(), 3));
        assert_eq!(whole_lines(&all, 2, 3), ([line(1), line(2)].concat(), 2), "what came after the checkpoint");
        assert_eq!(whole_lines(&all, 3, 2), whole_lines(&all, 2, 3), "the same, of a history that had lost a line");
        assert_eq!(whole_lines(&all[..all.len() - 5], 3, 3).1, 2, "a torn end");
        assert_eq!(whole_lines(b"", 3, 3), (Vec::new(), 0));
        assert_eq!(whole_lines(&[line(1), b"\xff\xfe\0\n".to_vec(), line(3)].concat(), 3, 3), ([line(1), line(3)].concat(), 2));
        let folder = tempfile::tempdir().expect("folder");
        let opened = |lines| Metrics::open(folder.path(), lines, 9).expect("opens").1;
        assert_eq!((opened(3), opened(0)), (3, 0), "nothing is there");
        std::fs::write(folder.path().join(FILE), &all).expect("writes");
        assert_eq!((opened(4), read(folder.path()).expect("reads").len()), (1, 3));
    }
}
