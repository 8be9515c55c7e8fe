//! Names of requests, answers and states.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// `prefix` and 128 bits in hexadecimal. Keyed hashes of a counter: the keys come from the system's
/// randomness, so that nobody guesses the name of another's state.
pub(crate) fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", number(), number())
}

/// 64 bits that nobody guesses.
pub(crate) fn number() -> u64 {
    thread_local! {
        static KEYS: (RandomState, RandomState) = (RandomState::new(), RandomState::new());
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // RandomState's keys differ by one between two of a thread; the hash spreads that.
    KEYS.with(|(a, b)| a.hash_one(count).rotate_left(32) ^ b.hash_one(count))
}
