//! Probes: what a mechanism can do, apart from what a model knows.
//!
//! Each file is one probe: a generator of items that gives the same ones for the same seed, and a
//! function that puts them to a [`Scorer`](crate::Scorer). To add one, add its file here; each is
//! held by its own tests to items counted by hand and to the toy model's known answers.

mod needle;
mod recall;

pub use needle::{Needle, NeedleCell, needle_grid, needle_prompt, read_needles};
pub use recall::{RecallCell, RecallItem, associative_recall, recall_item, single_tokens};

/// SplitMix64 (Steele, Lea, Flood 2014): enough for drawing items, and the same everywhere.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }

    /// `count` different members of `from`, in drawn order.
    fn choose(&mut self, from: &[u32], count: usize) -> Vec<u32> {
        let mut rest = from.to_vec();
        (0..count.min(from.len()))
            .map(|_| {
                let at = self.below(rest.len());
                rest.swap_remove(at)
            })
            .collect()
    }
}
