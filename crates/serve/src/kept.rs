//! States that clients may come back to: bounded in number and bytes, the least recently used goes.

use crate::error::ApiError;
use recast_infer::engine::Snapshot;
use recast_text::Message;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A conversation as far as it went.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    /// Every turn, the last answer included; without instructions that were for it alone.
    pub messages: Vec<Message>,
    /// The prompt's text and the answer's, as the model saw them.
    pub text: String,
    /// Spelling of the token that ended the answer; none where it ended by length.
    pub end: Option<String>,
    /// Whether `text` is all that the state and the unread tokens hold: not where a stop string
    /// was cut off.
    pub whole: bool,
}

impl Conversation {
    /// About the bytes that it takes: its text, as one and as turns.
    pub fn bytes(&self) -> usize {
        2 * self.text.len()
    }
}

/// What is kept of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub id: String,
    /// Which key made it; others do not see it.
    pub owner: Option<usize>,
    pub model: String,
    pub snapshot: Arc<Snapshot>,
    /// Tokens written that the state has not read.
    pub unread: Vec<u32>,
    /// None of a plain completion.
    pub conversation: Option<Conversation>,
    /// What `/v1/responses/{id}` gives back.
    pub response: Option<Value>,
    /// Bytes of all that.
    pub bytes: usize,
}

impl Kept {
    /// The token that what is to come follows.
    pub fn last(&self) -> Option<u32> {
        self.unread.last().or(self.snapshot.tokens.last()).copied()
    }
}

/// The store.
pub(crate) struct Store {
    most: usize,
    most_bytes: usize,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    entries: HashMap<String, (u64, Arc<Kept>)>,
    bytes: usize,
    clock: u64,
}

impl Shelf {
    fn remove(&mut self, id: &str) {
        if let Some((_, old)) = self.entries.remove(id) {
            self.bytes -= old.bytes;
        }
    }
}

impl Store {
    pub fn new(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, shelf: Mutex::default() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps it; others make room. False where it is larger than the whole store.
    pub fn put(&self, kept: Kept) -> bool {
        if self.most == 0 || kept.bytes > self.most_bytes {
            return false;
        }
        let mut shelf = self.shelf();
        shelf.clock += 1;
        let clock = shelf.clock;
        shelf.bytes += kept.bytes;
        shelf.entries.insert(kept.id.clone(), (clock, Arc::new(kept)));
        // Few entries, and rarely one too many: a scan is cheaper than an order kept up to date.
        while shelf.entries.len() > self.most || shelf.bytes > self.most_bytes {
            let Some(oldest) = shelf.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| id.clone()) else { break };
            shelf.remove(&oldest);
        }
        true
    }

    /// What was kept under an id, by its owner.
    pub fn get(&self, kind: &'static str, id: &str, owner: Option<usize>) -> Result<Arc<Kept>, ApiError> {
        let mut shelf = self.shelf();
        shelf.clock += 1;
        let clock = shelf.clock;
        let is_kind = |kept: &Kept| (kind == "response") == kept.response.is_some();
        match shelf.entries.get_mut(id).filter(|(_, kept)| kept.owner == owner && is_kind(kept)) {
            Some((used, kept)) => {
                *used = clock;
                Ok(kept.clone())
            }
            None => Err(ApiError::NotKept { kind, id: id.chars().take(100).collect(), field: None }),
        }
    }

    /// What a request's `field` names, if it names anything.
    pub fn named(
        &self,
        kind: &'static str,
        id: Option<&str>,
        field: &'static str,
        owner: Option<usize>,
    ) -> Result<Option<Arc<Kept>>, ApiError> {
        let kept = id.map(|id| self.get(kind, id, owner)).transpose();
        kept.map_err(|error| match error {
            ApiError::NotKept { kind, id, .. } => ApiError::NotKept { kind, id, field: Some(field) },
            other => other,
        })
    }

    /// Forgets it.
    pub fn delete(&self, kind: &'static str, id: &str, owner: Option<usize>) -> Result<(), ApiError> {
        self.get(kind, id, owner)?;
        self.shelf().remove(id);
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.shelf().entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.shelf().bytes
    }
}
