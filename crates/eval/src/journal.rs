//! The journal of an evaluation: one JSON line an item, so that a killed evaluation goes on where
//! it stopped.
//!
//! A line holds what the model answered, not how it was scored, under a key of task, task
//! version, item, model hash and prompt hash. Change any of these and the item is asked again;
//! change a metric and nothing is. A last line cut off by the kill is dropped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};

/// The most bytes of one line; a written text of some thousand tokens stays far below.
const MAX_LINE: u64 = 16 << 20;
/// How every line begins; a torn one that does not is not ours to cut.
const BEGIN: &[u8] = b"{\"task\":";

/// What identifies an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Task name.
    pub task: String,
    /// Task version.
    pub version: u32,
    /// Item id.
    pub item: String,
    /// Hash on the model's card.
    pub model: String,
    /// Hash of all text shown and the settings it was shown under.
    pub prompt: String,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To (context, continuation) pairs, in their order.
    Pairs {
        /// Sum of `ln p` over the continuation's tokens.
        loglikelihoods: Vec<f64>,
        /// Tokens of the continuation.
        tokens: Vec<usize>,
        /// Whether all of them were the first choice.
        greedy: Vec<bool>,
    },
    /// To a document.
    Text {
        /// Sum of `ln p` over its tokens.
        loglikelihood: f64,
        /// Its tokens.
        tokens: usize,
    },
    /// To a request for text.
    Generated {
        /// The text, cut at the stop string.
        text: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    outcome: Outcome,
}

/// Answers given so far.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entries: HashMap<Key, Outcome>,
    damaged: usize,
}

impl Journal {
    /// Opens a journal, or begins one. A torn last line is cut off the file; damaged lines
    /// elsewhere are left alone and their items asked again.
    ///
    /// # Errors
    /// The file cannot be read or written, is in use by another evaluation, or is no journal at
    /// all (not one line of it reads as one).
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |problem: String| EvalError::Journal { path: path.into(), problem };
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(EvalError::io("cannot open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(wrong("another evaluation is writing it; wait for that or name another journal".into()));
            }
            // Some file systems have no locks; one writer is then the user's care.
            Err(TryLockError::Error(_)) => {}
        }
        let mut entries = HashMap::new();
        let (mut damaged, mut good_end) = (0, 0);
        let mut reader = BufReader::new(&file);
        let mut bytes = Vec::new();
        let mut missing_newline = false;
        loop {
            bytes.clear();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(EvalError::io("cannot read", path))?;
            if read == 0 {
                break;
            }
            if read as u64 == MAX_LINE {
                return Err(wrong("expected lines of at most 16 MiB; this is no journal".into()));
            }
            let whole = bytes.last() == Some(&b'\n');
            match serde_json::from_slice::<Line>(&bytes) {
                Ok(line) => {
                    entries.insert(line.key, line.outcome);
                }
                Err(_) if !whole && (bytes.starts_with(BEGIN) || BEGIN.starts_with(&bytes)) => {
                    break;
                }
                Err(_) if bytes.iter().all(u8::is_ascii_whitespace) => {}
                Err(_) => damaged += 1,
            }
            missing_newline = !whole;
            good_end += read as u64;
        }
        let length = file.metadata().map_err(EvalError::io("cannot read", path))?.len();
        if entries.is_empty() && damaged > 0 {
            return Err(wrong(format!(
                "expected lines of an evaluation journal, found {damaged} that are not; name another file"
            )));
        }
        drop(reader);
        let mut journal = Self { path: path.into(), file, entries, damaged };
        if good_end < length {
            journal
                .file
                .set_len(good_end)
                .and_then(|()| journal.file.seek(SeekFrom::End(0)))
                .map_err(EvalError::io("cannot cut the torn last line of", path))?;
        }
        if missing_newline {
            journal.file.write_all(b"\n").map_err(EvalError::io("cannot write", path))?;
        }
        Ok(journal)
    }

    /// The answer recorded under a key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Outcome> {
        self.entries.get(key)
    }

    /// Answers recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lines, the last apart, that could not be read.
    #[must_use]
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Writes an answer down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, key: Key, outcome: Outcome) -> Result<()> {
        let line = Line { key, outcome };
        let mut bytes = serde_json::to_vec(&line)
            .map_err(|error| EvalError::Journal { path: self.path.clone(), problem: error.to_string() })?;
        bytes.push(b'\n');
        // One write a line: a kill tears at most the last.
        self.file.write_all(&bytes).map_err(EvalError::io("cannot write", &self.path))?;
        self.entries.insert(line.key, line.outcome);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(item: &str) -> Key {
        Key { task: "t".into(), version: 1, item: item.into(), model: "m".into(), prompt: "p".into() }
    }

    fn outcome(value: f64) -> Outcome {
        Outcome::Text { loglikelihood: value, tokens: 3 }
    }

    #[test]
    fn every_cut_of_the_file_keeps_the_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.record(key("a"), outcome(-1.0 / 3.0)).unwrap();
        journal.record(key("b é\n\""), outcome(-2.0)).unwrap();
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        let first = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            let whole = usize::from(cut + 1 >= first) + usize::from(cut + 1 >= bytes.len());
            assert_eq!(journal.len(), whole, "cut at {cut}");
            journal.record(key("c"), outcome(-4.0)).unwrap();
            drop(journal);
            let journal = Journal::open(&path).unwrap();
            assert_eq!((journal.len(), journal.damaged()), (whole + 1, 0), "cut at {cut}");
            assert_eq!(journal.get(&key("c")), Some(&outcome(-4.0)));
            if whole > 0 {
                assert_eq!(journal.get(&key("a")), Some(&outcome(-1.0 / 3.0)));
            }
        }
    }

    #[test]
    fn damage_inside_is_counted_and_a_stranger_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.record(key("a"), outcome(-1.0)).unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\xff\xfe not json\n\n");
        std::fs::write(&path, &bytes).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!((journal.len(), journal.damaged()), (1, 1));
        drop(journal);
        std::fs::write(&path, "# notes\nmine\n").unwrap();
        assert!(matches!(Journal::open(&path), Err(EvalError::Journal { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# notes\nmine\n");
        std::fs::write(&path, "mine, without a newline").unwrap();
        assert!(matches!(Journal::open(&path), Err(EvalError::Journal { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine, without a newline");
    }

    #[test]
    fn two_writers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let _first = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("another evaluation"), "{error}");
    }
}
