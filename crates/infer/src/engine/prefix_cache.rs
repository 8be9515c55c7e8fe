//! Kept states: where a text begins like one that was read before, reading starts behind that.
//!
//! A recurrent state cannot be cut back to an earlier token, so states are kept at boundaries: every
//! chunk of a prompt (but one that a short rest crosses), its end, and the end of what was written. A beginning is found by a hash of its
//! owner and tokens and then compared token by token. The states used least recently go first.

use recast_models::ModelState;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Fewer tokens are read again sooner than their state is worth its memory.
const SHORTEST: usize = 16;

/// States by the tokens that they have read.
pub struct PrefixCache {
    entries: HashMap<u64, Entry>,
    budget: usize,
    bytes: usize,
    clock: u64,
    /// Keyed, so that nobody can choose texts that collide.
    hash: RandomState,
}

struct Entry {
    owner: u64,
    tokens: Vec<u32>,
    state: ModelState,
    logits: Option<Vec<f32>>,
    bytes: usize,
    used: u64,
}

/// A kept beginning.
pub struct Found {
    /// Tokens that the state has read.
    pub tokens: usize,
    /// The state.
    pub state: ModelState,
    /// Logits of the token after them, where they were kept: needed when nothing is left to read.
    pub logits: Option<Vec<f32>>,
}

impl PrefixCache {
    /// Keeps up to so many bytes; 0 keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self { entries: HashMap::new(), budget, bytes: 0, clock: 0, hash: RandomState::new() }
    }

    /// Whether it keeps anything at all.
    pub fn is_on(&self) -> bool {
        self.budget > 0
    }

    /// Bytes kept. Pages that several states share count for each of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Hashes of all beginnings, the empty one left out.
    fn hashes<'a>(&'a self, owner: u64, tokens: &'a [u32]) -> impl Iterator<Item = u64> + 'a {
        tokens.iter().scan(owner, |before, &token| {
            *before = self.hash.hash_one((*before, token));
            Some(*before)
        })
    }

    /// The longest beginning of `tokens` kept for this owner. One that leaves nothing to read is given only with its
    /// logits.
    pub fn find(&mut self, owner: u64, tokens: &[u32]) -> Option<Found> {
        if self.entries.is_empty() {
            return None;
        }
        let hashes: Vec<u64> = self.hashes(owner, tokens).collect();
        let (length, hash) = hashes.into_iter().enumerate().map(|(i, hash)| (i + 1, hash)).rev().find(|(length, hash)| {
            let same = |e: &&Entry| e.owner == owner && e.tokens == tokens[..*length];
            self.entries.get(hash).filter(same).is_some_and(|e| *length < tokens.len() || e.logits.is_some())
        })?;
        self.clock += 1;
        let entry = self.entries.get_mut(&hash)?;
        entry.used = self.clock;
        let logits = (length == tokens.len()).then(|| entry.logits.clone()).flatten();
        Some(Found { tokens: length, state: entry.state.clone(), logits })
    }

    /// Keeps a state that has read `tokens` for its owner, and the logits of the token after them if they are at
    /// hand.
    pub fn keep(&mut self, owner: u64, tokens: &[u32], state: &ModelState, logits: Option<&[f32]>) {
        let bytes = state.bytes() + size_of_val(tokens) + logits.map_or(0, size_of_val);
        if tokens.len() < SHORTEST || bytes > self.budget {
            return;
        }
        let Some(hash) = self.hashes(owner, tokens).last() else { return };
        self.clock += 1;
        let used = self.clock;
        if let Some(entry) = self.entries.get_mut(&hash)
            && (entry.owner, &entry.tokens[..]) == (owner, tokens)
            && (entry.logits.is_some() || logits.is_none())
        {
            entry.used = used;
            return;
        }
        self.remove(hash);
        while self.bytes + bytes > self.budget {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(hash, _)| *hash) else { break };
            self.remove(oldest);
        }
        self.bytes += bytes;
        let logits = logits.map(<[f32]>::to_vec);
        let entry = Entry { owner, tokens: tokens.to_vec(), state: state.clone(), logits, bytes, used };
        self.entries.insert(hash, entry);
    }

    fn remove(&mut self, hash: u64) {
        if let Some(entry) = self.entries.remove(&hash) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    /// 400 bytes.
    fn state(position: usize) -> ModelState {
        let mut state = ModelState::new(1);
        state.position = position;
        state.layers[0].parts = vec![Tensor::zeros([1, 1, 10, 10], &Device::flex())];
        state
    }

    fn text(length: u32) -> Vec<u32> {
        (0..length).collect()
    }

    #[test]
    fn the_longest_beginning_is_found_and_a_whole_text_only_with_its_logits() {
        let mut cache = PrefixCache::new(1 << 20);
        for length in [4, 20, 30] {
            cache.keep(0, &text(length), &state(length as usize), None);
        }
        let found =
            |cache: &mut PrefixCache, tokens: &[u32]| cache.find(0, tokens).map(|f| (f.tokens, f.state.position, f.logits));
        assert_eq!(cache.len(), 2, "four tokens are not worth it");
        assert_eq!(found(&mut cache, &text(50)), Some((30, 30, None)));
        assert_eq!(found(&mut cache, &text(30)), Some((20, 20, None)));
        assert_eq!(found(&mut cache, &text(19)), None);
        let mut other = text(50);
        other[25] = 7;
        assert_eq!(found(&mut cache, &other), Some((20, 20, None)));
        cache.keep(0, &text(30), &state(30), Some(&[1.0, 2.0]));
        assert_eq!(found(&mut cache, &text(30)), Some((30, 30, Some(vec![1.0, 2.0]))));
        assert_eq!(cache.bytes(), 2 * 400 + (20 + 30) * 4 + 8);
    }

    #[test]
    fn owners_do_not_see_each_others_beginnings() {
        let mut cache = PrefixCache::new(1 << 20);
        let found = |cache: &mut PrefixCache, owner| cache.find(owner, &text(50)).map(|f| (f.tokens, f.state.position));
        cache.keep(1, &text(30), &state(1), None);
        assert_eq!([0, 1, 2].map(|owner| found(&mut cache, owner)), [None, Some((30, 1)), None]);
        // Each has its own, of one text too.
        cache.keep(2, &text(30), &state(2), None);
        assert_eq!([0, 1, 2].map(|owner| found(&mut cache, owner)), [None, Some((30, 1)), Some((30, 2))]);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_budget_holds() {
        let mut cache = PrefixCache::new(1500);
        let named = |i: u32| vec![i; 16];
        for i in 0..3 {
            cache.keep(0, &named(i), &state(i as usize), None);
        }
        let longer = |i: u32| vec![i; 17];
        assert!(cache.find(0, &longer(0)).is_some());
        cache.keep(0, &named(9), &state(9), None);
        assert!(cache.bytes() <= 1500);
        let there: Vec<bool> = [0, 1, 2, 9].map(|i| cache.find(0, &longer(i)).is_some()).to_vec();
        assert_eq!(there, [true, false, true, true]);
        PrefixCache::new(0).keep(0, &named(1), &state(1), None);
        cache.keep(0, &vec![3; 1000], &state(1), None);
        assert_eq!(cache.len(), 3, "larger than all the room: not kept, and nothing thrown out for it");
    }
}
