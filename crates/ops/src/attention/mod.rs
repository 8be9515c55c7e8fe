//! Softmax attention with grouped queries, in blocks, without a matrix of all scores (Dao et al.
//! 2022). Masks are intervals: each query sees one run of keys. To add a mask, extend [`Mask`] or
//! `Visible::of`; `tests/fused.rs` holds the fast path to `reference.rs`.

mod backward;
#[cfg(feature = "cube")]
mod cube;
mod decode;
mod forward;
mod pages;
pub mod reference;
mod rounded;

/// The operator's two functions, where `operator!` looks for them.
mod flex {
    pub use super::backward::backward;
    pub use super::forward::forward;
}

pub use decode::{attention_over, attention_step};
pub use pages::Cache;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Which keys a query at key position `p` may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mask {
    /// Keys `..= p`.
    #[default]
    Causal,
    /// The last so many keys up to `p` itself: `p - window < key <= p`, as in `transformers`.
    Window(usize),
    /// All keys.
    Bidirectional,
    /// Keys of its own block, later ones included, and of those before; blocks of so many tokens
    /// are counted from the first key (block diffusion, arXiv 2503.09573).
    Blocks(usize),
}

/// How to attend; the default is causal, scaled by `N^(-1/2)`.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Factor on the scores, not negative; `N^(-1/2)` if absent.
    pub scale: Option<f32>,
    /// Visibility by position.
    pub mask: Mask,
    /// First key that each query sees, `[B * T]` row-major: the start of its document.
    pub first_visible: Option<Arc<[u32]>>,
    /// End (exclusive) of the keys that each query sees, `[B * T]`: the end of its document, or
    /// of a padded row, where the mask looks forward.
    pub end_visible: Option<Arc<[u32]>>,
    /// A second run of keys that each query sees beside the first, `[B * T]`: from and to (exclusive),
    /// with no key of the first run in it. Block diffusion's noisy tokens see earlier clean ones, and
    /// their own block. On the processor only.
    pub also_visible: Option<Arc<[[u32; 2]]>>,
}

/// The runs of keys that each query sees.
#[derive(Clone, Debug)]
struct Visible {
    mask: Mask,
    first: Option<Arc<[u32]>>,
    end: Option<Arc<[u32]>>,
    also: Option<Arc<[[u32; 2]]>>,
    time: usize,
    keys: usize,
}

impl Visible {
    /// How many runs there are: all queries have as many.
    fn runs(&self) -> Range<usize> {
        0..1 + usize::from(self.also.is_some())
    }

    /// Keys seen by query `time` of row `batch` in one run; empty ranges start where they end.
    fn of(&self, run: usize, batch: usize, time: usize) -> Range<usize> {
        if let (1, Some(also)) = (run, &self.also) {
            let [start, end] = also[batch * self.time + time].map(|key| (key as usize).min(self.keys));
            return start.min(end)..end;
        }
        // Queries are the last of the keys; only masks that look at it need this not to underflow.
        let after = (self.keys + time + 1).saturating_sub(self.time);
        let (mut start, mut end) = match self.mask {
            Mask::Causal => (0, after),
            Mask::Window(window) => (after.saturating_sub(window), after),
            Mask::Bidirectional => (0, self.keys),
            Mask::Blocks(size) => (0, after.next_multiple_of(size)),
        };
        let row = batch * self.time + time;
        if let Some(first) = &self.first {
            start = start.max(first[row] as usize);
        }
        if let Some(given) = &self.end {
            end = end.min(given[row] as usize);
        }
        end = end.min(self.keys);
        start.min(end)..end
    }

    /// The ranges of a block of queries in one run, and the keys that any of them sees there.
    fn block(&self, run: usize, batch: usize, times: Range<usize>) -> (Vec<Range<usize>>, Range<usize>) {
        let ranges: Vec<_> = times.map(|time| self.of(run, batch, time)).collect();
        let seen = ranges.iter().filter(|range| !range.is_empty());
        let start = seen.clone().map(|range| range.start).min().unwrap_or(0);
        let end = seen.map(|range| range.end).max().unwrap_or(0);
        (ranges, start..end)
    }
}

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    visible: Visible,
    scale: f32,
    save: bool,
}

impl AttentionOptions {
    /// The constants of a call with queries `q` and keys of shape `[B, S, G, N]`, which must suit each other.
    fn resolve(self, q: &Tensor<4>, key_shape: [usize; 4], save: bool) -> Options {
        let ([batch, time, heads, size], [key_batch, keys, groups, key_size]) = (q.dims(), key_shape);
        assert_eq!((batch, size), (key_batch, key_size), "attention: batch and head size of q against k");
        assert!(size > 0, "attention: heads of size 0");
        assert!(groups > 0 && heads % groups == 0, "attention: {heads} query heads over {groups} key heads");
        assert!(self.mask == Mask::Bidirectional || time <= keys, "attention: {time} queries are the last of {keys} keys");
        assert!(self.mask != Mask::Blocks(0), "attention: blocks of no tokens");
        for list in [&self.first_visible, &self.end_visible].into_iter().flatten() {
            assert_eq!(list.len(), batch * time, "attention: one visible key a query");
        }
        if let Some(also) = &self.also_visible {
            assert_eq!(also.len(), batch * time, "attention: one second run a query");
            assert!(crate::glue::on_cpu(q), "attention: a second run of keys is for the processor only");
        }
        let scale = self.scale.unwrap_or_else(|| (size as f32).powf(-0.5));
        assert!(scale >= 0.0, "attention: a scale of {scale}");
        Options {
            visible: Visible {
                mask: self.mask,
                first: self.first_visible,
                end: self.end_visible,
                also: self.also_visible,
                time,
                keys,
            },
            scale,
            save,
        }
    }
}

operator!(AttentionBackend, Options, attention_forward, attention_backward, flex, 3, [q, k, v], cube);

/// `y[b,t,h] = sum_s softmax_s(scale * q[b,t,h] . k[b,s,g]) v[b,s,g]` over the visible `s`, with
/// `g = h / (H / G)`: consecutive query heads share a key head.
///
/// Shapes: `q` `[B, T, H, N]`, `k` and `v` `[B, S, G, N]`; the result is `[B, T, H, N]`. Query `t`
/// stands at key position `S - T + t`, so a cache of earlier keys comes first in `k` and `v`. A
/// query that sees no key gives zeros. Keeps one number a query and head for the backward pass,
/// and none when no input is tracked.
///
/// # Panics
/// When shapes disagree, `G` does not divide `H`, the scale is negative, a mask that looks at positions has more queries
/// than keys, a visibility list has not `B * T` entries, or there is a second run on another device
/// than the processor.
pub fn attention(q_bthn: Tensor<4>, k_bsgn: Tensor<4>, v_bsgn: Tensor<4>, options: AttentionOptions) -> Tensor<4> {
    assert_eq!(k_bsgn.dims(), v_bsgn.dims(), "attention: shapes of k and v");
    let save = q_bthn.is_tracked() || k_bsgn.is_tracked() || v_bsgn.is_tracked();
    let options = options.resolve(&q_bthn, k_bsgn.dims(), save);
    let y = Dispatch::attention_forward(options, q_bthn.into_dispatch(), k_bsgn.into_dispatch(), v_bsgn.into_dispatch());
    Tensor::from_dispatch(y.0)
}
