//! Kept states: where a text begins like one that was read before, reading starts behind that.
//!
//! A recurrent state cannot be cut back to an earlier token, so states are kept at boundaries: chunks of a prompt (but
//! one that a short rest crosses, and of long prompts the farther apart the longer they are), its end, and the end of
//! what was written. A beginning is found by a hash of its owner and tokens and then compared token by token. The states
//! used least recently go first.

use recast_models::ModelState;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak};

/// Fewer tokens are read again sooner than their state is worth its memory.
const SHORTEST: usize = 16;
/// States of a prompt from one power of two of its tokens to the next: what is read again of a prompt that leaves
/// another's way is at most one part of so many.
const AN_OCTAVE: usize = 16;

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
    /// Those read, first in a list that the states of one text share.
    tokens: Arc<Vec<u32>>,
    length: usize,
    state: ModelState,
    logits: Option<Vec<f32>>,
    /// Without the list of tokens.
    bytes: usize,
    used: u64,
}

impl Entry {
    fn is_of(&self, owner: u64, tokens: &[u32]) -> bool {
        self.owner == owner && self.tokens[..self.length] == *tokens
    }
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

/// What is remembered of a text that is read on, so that each of its states costs what is new.
pub struct Text {
    owner: u64,
    /// Tokens hashed, and their hash.
    hashed: (usize, u64),
    /// The list that its states share, while there are any.
    tokens: Weak<Vec<u32>>,
}

impl Text {
    /// A text of this owner's.
    pub fn new(owner: u64) -> Self {
        Self { owner, hashed: (0, owner), tokens: Weak::new() }
    }
}

/// Whether a state is kept that has read `length` tokens of a prompt and goes on, the one before at `before`: where it
/// passed a multiple of a step that grows with the length. So wherever reading began, prompts that begin alike leave the
/// same states behind.
pub fn is_due(before: usize, length: usize) -> bool {
    let step = 1_usize << (length / AN_OCTAVE).max(1).ilog2();
    before / step < length / step
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

    /// Bytes kept. Pages that several states share count for each of them, the tokens of a text once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of states.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Hashes of all beginnings of `tokens`, which follow those of the hash `before`, the empty one left out.
    fn hashes<'a>(&'a self, before: u64, tokens: &'a [u32]) -> impl Iterator<Item = u64> + 'a {
        tokens.iter().scan(before, |before, &token| {
            *before = self.hash.hash_one((*before, token));
            Some(*before)
        })
    }

    /// The longest beginning of `tokens` kept for the text's owner. One that leaves nothing to read is given only with
    /// its logits.
    pub fn find(&mut self, text: &mut Text, tokens: &[u32]) -> Option<Found> {
        if self.entries.is_empty() {
            return None;
        }
        let hashes: Vec<u64> = self.hashes(text.owner, tokens).collect();
        let (length, hash) = hashes.into_iter().enumerate().map(|(i, hash)| (i + 1, hash)).rev().find(|(length, hash)| {
            let same = |e: &&Entry| e.is_of(text.owner, &tokens[..*length]);
            self.entries.get(hash).filter(same).is_some_and(|e| *length < tokens.len() || e.logits.is_some())
        })?;
        text.hashed = (length, hash);
        self.clock += 1;
        let entry = self.entries.get_mut(&hash)?;
        entry.used = self.clock;
        let logits = (length == tokens.len()).then(|| entry.logits.clone()).flatten();
        Some(Found { tokens: length, state: entry.state.clone(), logits })
    }

    /// Keeps a state that has read the first `length` of a text's `tokens`, and the logits of the token after them if
    /// they are at hand. The tokens behind are those that are known to follow.
    pub fn keep(&mut self, text: &mut Text, tokens: &[u32], length: usize, state: &ModelState, logits: Option<&[f32]>) {
        let bytes = state.bytes() + logits.map_or(0, size_of_val);
        if length < SHORTEST || bytes + size_of_val(tokens) > self.budget {
            return;
        }
        let owner = text.owner;
        let (before, hash) = text.hashed;
        let hash = self.hashes(hash, &tokens[before..length]).last().unwrap_or(hash);
        text.hashed = (length, hash);
        self.clock += 1;
        let used = self.clock;
        if let Some(entry) = self.entries.get_mut(&hash)
            && entry.is_of(owner, &tokens[..length])
            && (entry.logits.is_some() || logits.is_none())
        {
            entry.used = used;
            return;
        }
        self.remove(hash);
        let list = loop {
            // A list that is too short was made before the end was written.
            let shared = text.tokens.upgrade().filter(|list| list.len() >= length);
            let more = if shared.is_some() { 0 } else { size_of_val(tokens) };
            if self.bytes + bytes + more <= self.budget {
                self.bytes += bytes + more;
                break shared.unwrap_or_else(|| Arc::new(tokens.to_vec()));
            }
            drop(shared);
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(hash, _)| *hash) else { return };
            self.remove(oldest);
        };
        text.tokens = Arc::downgrade(&list);
        let logits = logits.map(<[f32]>::to_vec);
        self.entries.insert(hash, Entry { owner, tokens: list, length, state: state.clone(), logits, bytes, used });
    }

    fn remove(&mut self, hash: u64) {
        if let Some(Entry { tokens, bytes, .. }) = self.entries.remove(&hash) {
            self.bytes -= bytes + Arc::into_inner(tokens).map_or(0, |list| size_of_val(&list[..]));
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

    /// Keeps a state of a text that nothing is remembered of.
    fn keep(cache: &mut PrefixCache, owner: u64, tokens: &[u32], state: &ModelState, logits: Option<&[f32]>) {
        cache.keep(&mut Text::new(owner), tokens, tokens.len(), state, logits);
    }

    fn find(cache: &mut PrefixCache, owner: u64, tokens: &[u32]) -> Option<Found> {
        cache.find(&mut Text::new(owner), tokens)
    }

    #[test]
    fn the_longest_beginning_is_found_and_a_whole_text_only_with_its_logits() {
        let mut cache = PrefixCache::new(1 << 20);
        for length in [4, 20, 30] {
            keep(&mut cache, 0, &text(length), &state(length as usize), None);
        }
        let found =
            |cache: &mut PrefixCache, tokens: &[u32]| find(cache, 0, tokens).map(|f| (f.tokens, f.state.position, f.logits));
        assert_eq!(cache.len(), 2, "four tokens are not worth it");
        assert_eq!(found(&mut cache, &text(50)), Some((30, 30, None)));
        assert_eq!(found(&mut cache, &text(30)), Some((20, 20, None)));
        assert_eq!(found(&mut cache, &text(19)), None);
        let mut other = text(50);
        other[25] = 7;
        assert_eq!(found(&mut cache, &other), Some((20, 20, None)));
        keep(&mut cache, 0, &text(30), &state(30), Some(&[1.0, 2.0]));
        assert_eq!(found(&mut cache, &text(30)), Some((30, 30, Some(vec![1.0, 2.0]))));
        assert_eq!(cache.bytes(), 2 * 400 + (20 + 30) * 4 + 8);
    }

    #[test]
    fn owners_do_not_see_each_others_beginnings() {
        let mut cache = PrefixCache::new(1 << 20);
        let found = |cache: &mut PrefixCache, owner| find(cache, owner, &text(50)).map(|f| (f.tokens, f.state.position));
        keep(&mut cache, 1, &text(30), &state(1), None);
        assert_eq!([0, 1, 2].map(|owner| found(&mut cache, owner)), [None, Some((30, 1)), None]);
        // Each has its own, of one text too.
        keep(&mut cache, 2, &text(30), &state(2), None);
        assert_eq!([0, 1, 2].map(|owner| found(&mut cache, owner)), [None, Some((30, 1)), Some((30, 2))]);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_budget_holds() {
        let mut cache = PrefixCache::new(1500);
        let named = |i: u32| vec![i; 16];
        for i in 0..3 {
            keep(&mut cache, 0, &named(i), &state(i as usize), None);
        }
        let longer = |i: u32| vec![i; 17];
        assert!(find(&mut cache, 0, &longer(0)).is_some());
        keep(&mut cache, 0, &named(9), &state(9), None);
        assert!(cache.bytes() <= 1500);
        let there: Vec<bool> = [0, 1, 2, 9].map(|i| find(&mut cache, 0, &longer(i)).is_some()).to_vec();
        assert_eq!(there, [true, false, true, true]);
        keep(&mut PrefixCache::new(0), 0, &named(1), &state(1), None);
        keep(&mut cache, 0, &vec![3; 1000], &state(1), None);
        assert_eq!(cache.len(), 3, "larger than all the room: not kept, and nothing thrown out for it");
    }

    #[test]
    fn a_long_text_leaves_room_for_others() {
        let mut cache = PrefixCache::new(1 << 30);
        let (tokens, chunk) = (text(200_000), 500);
        let mut one = Text::new(0);
        for length in (chunk..=tokens.len()).step_by(chunk).filter(|&length| is_due(length - chunk, length)) {
            cache.keep(&mut one, &tokens, length, &state(length), None);
        }
        assert!((60..=100).contains(&cache.len()), "{} states", cache.len());
        assert_eq!(cache.bytes(), cache.len() * 400 + tokens.len() * 4, "the tokens once");
        // Of a text that leaves its way, little is read again.
        for left in [600, 5_000, 50_000, 199_999] {
            let mut other = tokens.clone();
            other[left] = 7;
            let found = find(&mut cache, 0, &other).expect("a beginning");
            assert!(found.tokens == found.state.position && left - found.tokens <= chunk + left / AN_OCTAVE, "{}", found.tokens);
        }
        // Wherever reading began.
        let begun_late = (150_250..170_000).step_by(chunk).filter(|&length| is_due(length - chunk, length)).count();
        assert!((1..=4).contains(&begun_late), "{begun_late}");
        // What is written behind is a list of its own, and goes with it.
        let longer = text(200_010);
        cache.keep(&mut one, &longer, longer.len(), &state(longer.len()), None);
        assert_eq!(cache.bytes(), cache.len() * 400 + (tokens.len() + longer.len()) * 4);
        let hashes: Vec<u64> = cache.entries.keys().copied().collect();
        hashes.into_iter().for_each(|hash| cache.remove(hash));
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
