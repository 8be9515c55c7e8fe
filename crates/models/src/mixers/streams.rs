//! The two streams of block diffusion (arXiv 2503.09573), for any mixer: the clean tokens of a
//! sequence, and the same tokens with some masked. Clean blocks see earlier clean blocks; a noisy
//! block sees the clean ones before it and all of itself, and nobody sees it.

use super::{Call, Shared};
use crate::sight::Sight;
use crate::state::{Documents, LayerState};
use burn::tensor::Tensor;
use recast_ops::quantised::on_processor;
use std::ops::Range;

/// Inputs of one mixer for both streams, which stand at positions from 0 on.
pub struct Streams<'a> {
    /// Normed residual stream of the clean tokens, `[B, T, C]`.
    pub clean: Tensor<3>,
    /// That of the noisy ones, `[B, T, C]`.
    pub noisy: Tensor<3>,
    /// Tokens a block; the last may be shorter.
    pub block: usize,
    /// Values between layers, of the clean and the noisy stream.
    pub shared: [&'a mut Shared; 2],
    /// Boundaries within rows, for mixers that can look at them here: recurrences cannot.
    pub documents: Option<&'a Documents>,
}

/// Clean blocks one after the other, carrying the state; then the noisy blocks, as rows of one batch,
/// each behind a copy of the state at its beginning.
pub fn by_blocks(forward: impl Fn(Call<'_>) -> Tensor<3>, streams: Streams<'_>) -> [Tensor<3>; 2] {
    run(forward, streams, false)
}

/// States that a mixer without a carried state leaves behind every so many tokens, and behind the last.
pub struct Boundaries {
    /// So many tokens.
    pub every: usize,
    /// Filled in by the mixer: a state's parts, `[B * S, ..]`, each row's states behind each other.
    pub parts: Vec<Tensor<4>>,
}

impl Boundaries {
    /// What states keep of a layer's input `[B, T, C]`: its last token before each, `[B * S, 1, 1, C]`.
    pub fn last_tokens(&self, x: &Tensor<3>) -> Tensor<4> {
        let [batch, tokens, c] = x.dims();
        let at = |boundary: usize| x.clone().narrow(1, ((boundary + 1) * self.every).min(tokens) - 1, 1);
        let count = tokens.div_ceil(self.every);
        Tensor::cat((0..count).map(at).collect(), 1).reshape([batch * count, 1, 1, c])
    }
}

/// [`by_blocks`] of a recurrence: the clean stream in one go, with the states at the blocks' ends. On
/// other devices than the processor block by block, since their kernels give the last state alone.
pub fn by_boundaries(forward: impl Fn(Call<'_>, Option<&mut Boundaries>) -> Tensor<3>, streams: Streams<'_>) -> [Tensor<3>; 2] {
    if !on_processor(&streams.clean.device()) {
        return run(|call| forward(call, None), streams, true);
    }
    let Streams { clean, noisy, block, shared: [clean_shared, noisy_shared], documents } = streams;
    assert!(documents.is_none_or(|d| !d.any()), "a state is carried from block to block: no documents within rows");
    let [batch, ..] = clean.dims();
    let mut ends = Boundaries { every: block, parts: Vec::new() };
    let call = Call {
        x: clean,
        states: None,
        shared: clean_shared,
        positions: &[],
        documents: None,
        sight: Sight::Causal,
        lengths: None,
    };
    let clean = forward(call, Some(&mut ends));
    // The state before a block is that after the one before it.
    let before = |blocks: Range<usize>| {
        let part = |part: &Tensor<4>| {
            let [all, a, b, c] = part.dims();
            let ends = part.clone().reshape([batch, all / batch, a, b * c]);
            let from = blocks.start.saturating_sub(1);
            let mut states = Vec::with_capacity(2);
            if blocks.start == 0 {
                states.push(Tensor::zeros([batch, 1, a, b * c], &part.device().inner()));
            }
            if blocks.end - 1 > from {
                states.push(ends.narrow(1, from, blocks.end - 1 - from));
            }
            Tensor::cat(states, 1).reshape([batch * blocks.len(), a, b, c])
        };
        vec![LayerState { parts: ends.parts.iter().map(part).collect(), length: 0 }]
    };
    let noisy = noisy_blocks(|call| forward(call, None), noisy, block, noisy_shared, &[0], before);
    [clean, noisy]
}

/// Joined, the rows of a batch come and go as one state `[B, ..]`.
fn run(forward: impl Fn(Call<'_>) -> Tensor<3>, streams: Streams<'_>, joined: bool) -> [Tensor<3>; 2] {
    let Streams { clean, noisy, block, shared: [clean_shared, noisy_shared], documents } = streams;
    assert!(documents.is_none_or(|d| !d.any()), "a state is carried from block to block: no documents within rows");
    let [batch, tokens, _] = clean.dims();
    let piece = |x: &Tensor<3>, start: usize| x.clone().narrow(1, start, block.min(tokens - start));
    let values_of = |shared: &Shared, start: usize| Shared {
        first_value: shared.first_value.as_ref().map(|v| v.clone().narrow(1, start, block.min(tokens - start))),
    };
    let mut states = vec![LayerState::default(); if joined { 1 } else { batch }];
    let (mut outputs, mut made, mut boundaries) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..tokens).step_by(block) {
        boundaries.push(states.clone());
        let mut shared = values_of(clean_shared, start);
        outputs.push(forward(Call {
            x: piece(&clean, start),
            states: Some(states.iter_mut().collect()),
            shared: &mut shared,
            positions: &vec![start; batch],
            documents: None,
            sight: Sight::Blocks(block),
            lengths: None,
        }));
        made.extend(shared.first_value);
    }
    if clean_shared.first_value.is_none() && !made.is_empty() {
        clean_shared.first_value = Some(Tensor::cat(made, 1));
    }
    let clean = Tensor::cat(outputs, 1);

    let before = |blocks: Range<usize>| match joined {
        true => vec![beside(&boundaries[blocks])],
        false => (0..batch).flat_map(|row| boundaries[blocks.clone()].iter().map(move |states| states[row].clone())).collect(),
    };
    // The first block has no state before it.
    [clean, noisy_blocks(forward, noisy, block, noisy_shared, &[0, 1], before)]
}

/// The noisy blocks, as rows of a batch that stand behind the states `before` them. Batches begin at the
/// block numbers `begins`; a last block that is short is one of its own.
fn noisy_blocks(
    forward: impl Fn(Call<'_>) -> Tensor<3>,
    noisy: Tensor<3>,
    block: usize,
    shared: &mut Shared,
    begins: &[usize],
    before: impl Fn(Range<usize>) -> Vec<LayerState>,
) -> Tensor<3> {
    let [batch, tokens, width] = noisy.dims();
    let whole = tokens / block;
    let ends = begins.iter().skip(1).copied().chain([whole]);
    let mut groups: Vec<_> = begins.iter().zip(ends).map(|(&begin, end)| begin.min(whole)..end.min(whole)).collect();
    if !tokens.is_multiple_of(block) {
        groups.push(whole..whole + 1);
    }
    let (mut outputs, mut made) = (Vec::new(), Vec::new());
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let size = block.min(tokens - group.start * block);
        let (start, count) = (group.start * block, group.len());
        // Blocks of a row stand behind each other: [B, blocks * size, ..] is [B * blocks, size, ..].
        let rows = batch * count;
        let x = noisy.clone().narrow(1, start, count * size).reshape([rows, size, width]);
        let mut own = Shared {
            first_value: shared.first_value.as_ref().map(|v| {
                let [_, _, h, n] = v.dims();
                v.clone().narrow(1, start, count * size).reshape([rows, size, h, n])
            }),
        };
        let positions: Vec<usize> = (0..batch).flat_map(|_| group.clone().map(|at| at * block)).collect();
        let mut states = before(group);
        let y = forward(Call {
            x,
            states: Some(states.iter_mut().collect()),
            shared: &mut own,
            positions: &positions,
            documents: None,
            sight: Sight::Whole,
            lengths: None,
        });
        outputs.push(y.reshape([batch, count * size, width]));
        made.extend(own.first_value.map(|v| {
            let [_, _, h, n] = v.dims();
            v.reshape([batch, count * size, h, n])
        }));
    }
    if shared.first_value.is_none() && !made.is_empty() {
        shared.first_value = Some(Tensor::cat(made, 1));
    }
    Tensor::cat(outputs, 1)
}

/// The states `[B, ..]` at several boundaries as those of `B * boundaries` rows, each row's boundaries
/// behind each other.
fn beside(boundaries: &[Vec<LayerState>]) -> LayerState {
    let parts = boundaries[0][0].parts.len();
    let part = |index: usize| {
        let flat = boundaries.iter().map(|states| {
            let part = states[0].parts[index].clone();
            let [batch, a, b, c] = part.dims();
            part.reshape([batch, 1, a, b * c])
        });
        let [batch, a, b, c] = boundaries[0][0].parts[index].dims();
        Tensor::cat(flat.collect(), 1).reshape([batch * boundaries.len(), a, b, c])
    };
    LayerState { parts: (0..parts).map(part).collect(), length: boundaries[0][0].length }
}
