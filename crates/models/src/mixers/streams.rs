//! The two streams of block diffusion (arXiv 2503.09573), for any mixer: the clean tokens of a
//! sequence, and the same tokens with some masked. Clean blocks see earlier clean blocks; a noisy
//! block sees the clean ones before it and all of itself, and nobody sees it.

use super::{Call, Shared};
use crate::sight::Sight;
use crate::state::{Documents, LayerState};
use burn::tensor::Tensor;

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

/// [`by_blocks`] of a mixer whose states go through [`join`](crate::state::join) and
/// [`split`](crate::state::split) alone: the rows of a batch come and go as one state `[B, ..]`, which
/// spares taking them apart at every block.
pub fn by_blocks_joined(forward: impl Fn(Call<'_>) -> Tensor<3>, streams: Streams<'_>) -> [Tensor<3>; 2] {
    run(forward, streams, true)
}

fn run(forward: impl Fn(Call<'_>) -> Tensor<3>, streams: Streams<'_>, joined: bool) -> [Tensor<3>; 2] {
    let Streams { clean, noisy, block, shared: [clean_shared, noisy_shared], documents } = streams;
    assert!(documents.is_none_or(|d| !d.any()), "a state is carried from block to block: no documents within rows");
    let [batch, tokens, width] = clean.dims();
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

    // The first block has no state before it and the last may be short: batches of their own.
    let whole = tokens / block;
    let mut groups = vec![0..1.min(whole), 1.min(whole)..whole];
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
        let mut shared = Shared {
            first_value: noisy_shared.first_value.as_ref().map(|v| {
                let [_, _, h, n] = v.dims();
                v.clone().narrow(1, start, count * size).reshape([rows, size, h, n])
            }),
        };
        let order = (0..batch).flat_map(|row| group.clone().map(move |at| (row, at)));
        let mut states: Vec<LayerState> = match joined {
            true => vec![beside(&boundaries[group.clone()])],
            false => order.clone().map(|(row, at)| boundaries[at][row].clone()).collect(),
        };
        let y = forward(Call {
            x,
            states: Some(states.iter_mut().collect()),
            shared: &mut shared,
            positions: &order.map(|(_, at)| at * block).collect::<Vec<_>>(),
            documents: None,
            sight: Sight::Whole,
            lengths: None,
        });
        outputs.push(y.reshape([batch, count * size, width]));
        made.extend(shared.first_value.map(|v| {
            let [_, _, h, n] = v.dims();
            v.reshape([batch, count * size, h, n])
        }));
    }
    if noisy_shared.first_value.is_none() && !made.is_empty() {
        noisy_shared.first_value = Some(Tensor::cat(made, 1));
    }
    [clean, Tensor::cat(outputs, 1)]
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
