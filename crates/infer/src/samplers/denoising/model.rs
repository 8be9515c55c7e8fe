//! Models as denoisers.

use super::candidate::Candidate;
use super::denoiser::{Denoiser, Read, Shape, View, guide};
use crate::error::InferError;
use burn::tensor::{Int, Tensor, TensorData};
use recast_models::param::values;
use recast_models::{Diffusion, Model, ModelState, Sight};
use recast_ops::cpu::split_rows;
use std::collections::BTreeMap;
use std::ops::Range;

/// Places whose logits exist at a time.
const ROWS: usize = 64;

/// Positions, padding included, that go through the model at once: what a step takes of memory does not
/// grow with the number of rows.
const BUDGET: usize = 4096;
/// Passes below this size may be mostly padding: a small product costs what a slightly larger one does.
const SMALL: usize = 512;

/// A model that was trained to denoise.
#[derive(Clone)]
pub struct Masked<'a> {
    model: &'a Model,
    diffusion: Diffusion,
}

/// What a row carries of a model.
#[derive(Clone)]
pub struct Carried {
    /// The state after the tokens read.
    pub state: ModelState,
    /// The unfinished hidden state `[1, C]` ([`Model::unfinished`]) of the last of them: where logits speak
    /// of the next token, it predicts the first one of a block.
    pub last: Option<Tensor<2>>,
}

impl<'a> Masked<'a> {
    /// A model of masks or of uniform noise.
    ///
    /// # Errors
    /// When its config does not say that it is one.
    pub fn new(model: &'a Model) -> Result<Self, InferError> {
        match &model.config.diffusion {
            Some(diffusion) => Ok(Self { model, diffusion: diffusion.clone() }),
            None => Err(InferError::Setting {
                name: "model",
                expected: "one that was trained to denoise (its config.json names a mask token); convert it by a recipe with a masked diffusion stage".into(),
                found: format!("a next-token model ({})", model.config.family),
            }),
        }
    }

    /// Any model, denoising in this way.
    pub fn with(model: &'a Model, diffusion: Diffusion) -> Self {
        Self { model, diffusion }
    }

    /// Reads tokens into the states of rows that have all begun, or none of which has.
    fn read_on(&self, tokens: &[&[u32]], mut rows: Vec<&mut Carried>) -> Result<(), InferError> {
        let all: Vec<u32> = tokens.concat();
        let mut own: Vec<&mut ModelState> = rows.iter_mut().map(|carried| &mut carried.state).collect();
        let hidden = self.model.unfinished(&all, tokens.len(), Some(&mut own), None)?;
        let [_, columns, width] = hidden.dims();
        if self.diffusion.shift {
            for (row, carried) in rows.iter_mut().enumerate() {
                carried.last = Some(hidden.clone().narrow(0, row, 1).narrow(1, columns - 1, 1).reshape([1, width]));
            }
        }
        Ok(())
    }

    /// Hidden states `[places, C]` of the views' wanted places, in order; `blind` takes the rows of
    /// the masked prompts instead.
    fn places(&self, views: &[View<'_, Carried>], blind: bool) -> Result<Tensor<2>, InferError> {
        let row = |view: &View<'_, Carried>| -> (Vec<u32>, Carried) {
            match &view.blind {
                Some(other) if blind => (other.tokens.to_vec(), other.state.clone()),
                _ => (view.tokens.to_vec(), view.state.clone()),
            }
        };
        let rows: Vec<(Vec<u32>, Carried)> = views.iter().filter(|v| !blind || v.blind.is_some()).map(row).collect();
        let wanted: Vec<&[usize]> = views.iter().filter(|v| !blind || v.blind.is_some()).map(|v| v.wanted).collect();
        let mut found: Vec<Option<Tensor<2>>> = vec![None; rows.len()];
        // Whole sequences may be of any lengths; behind states those of one length go together, and
        // those that have read something apart from those that have not.
        let mut groups: BTreeMap<(bool, bool, usize), Vec<usize>> = BTreeMap::new();
        for (index, (tokens, carried)) in rows.iter().enumerate() {
            // Not by its position: what stands around a first block is held at position 0.
            let begun = carried.state.layers.iter().any(|layer| !layer.parts.is_empty());
            let fresh = !begun && self.diffusion.block.is_none();
            groups.entry((fresh, begun, if fresh { 0 } else { tokens.len() })).or_default().push(index);
        }
        let passes = groups.into_iter().flat_map(|((fresh, ..), mut members)| {
            members.sort_by_key(|&i| rows[i].0.len());
            let lengths: Vec<usize> = members.iter().map(|&i| rows[i].0.len()).collect();
            like_lengths(&lengths).into_iter().map(move |range| (fresh, members[range].to_vec()))
        });
        for (fresh, members) in passes {
            let lengths: Vec<usize> = members.iter().map(|&i| rows[i].0.len()).collect();
            let columns = lengths.iter().copied().max().unwrap_or(0);
            // Nobody sees what stands in the padding.
            let tokens: Vec<u32> =
                members.iter().flat_map(|&i| rows[i].0.iter().copied().chain(std::iter::repeat(0)).take(columns)).collect();
            let hidden = if fresh {
                self.model.unfinished_seeing(&tokens, members.len(), Sight::Whole, None, Some(&lengths))?
            } else {
                let states: Vec<&ModelState> = members.iter().map(|&i| &rows[i].1.state).collect();
                self.model.denoise_unfinished(&tokens, members.len(), &states)?
            };
            for (at, &index) in members.iter().enumerate() {
                found[index] = Some(self.gather(&hidden, at, wanted[index], rows[index].1.last.as_ref()));
            }
        }
        // The other positions' last feed-forward is nobody's business.
        Ok(self.model.finish(Tensor::cat(found.into_iter().flatten().collect(), 0)))
    }

    /// Unfinished hidden states `[wanted, C]` that predict the wanted places of row `row`.
    fn gather(&self, hidden: &Tensor<3>, row: usize, wanted: &[usize], last: Option<&Tensor<2>>) -> Tensor<2> {
        let [_, columns, width] = hidden.dims();
        let own = hidden.clone().narrow(0, row, 1).reshape([columns, width]);
        let source = |place: usize| if self.diffusion.shift { place.saturating_sub(1) } else { place };
        let pick = |places: &[usize]| {
            let indices: Vec<i64> = places.iter().map(|&place| source(place) as i64).collect();
            let data = TensorData::new(indices, [places.len()]);
            own.clone().select(0, Tensor::<1, Int>::from_data(data, &own.device()))
        };
        match (wanted, last) {
            // The token before the block predicts its first one.
            ([0, rest @ ..], Some(last)) if self.diffusion.shift => {
                if rest.is_empty() {
                    last.clone()
                } else {
                    Tensor::cat(vec![last.clone(), pick(rest)], 0)
                }
            }
            _ => pick(wanted),
        }
    }
}

/// Cuts rows of rising lengths into passes, padded to the longest of each, of at most [`BUDGET`] positions
/// and a fifth of padding.
fn like_lengths(lengths: &[usize]) -> Vec<Range<usize>> {
    let (mut out, mut start, mut needed) = (Vec::new(), 0, 0);
    for (at, &length) in lengths.iter().enumerate() {
        let cost = (at + 1 - start) * length;
        needed += length;
        if at > start && cost > SMALL && (cost > BUDGET || 4 * cost > 5 * needed) {
            out.push(start..at);
            (start, needed) = (at, length);
        }
    }
    out.push(start..lengths.len());
    out
}

impl Denoiser for Masked<'_> {
    type State = Carried;

    fn shape(&self) -> Shape {
        let Diffusion { mask_token, block, uniform, .. } = self.diffusion;
        Shape { vocabulary: self.model.config.vocabulary, mask_token, uniform, block }
    }

    fn begin(&self) -> Carried {
        Carried { state: self.model.new_state(), last: None }
    }

    fn advance(&self, tokens: &[&[u32]], states: &mut [&mut Carried]) -> Result<(), InferError> {
        // Rows that have read something apart from those that have not.
        let (begun, new): (Vec<_>, Vec<_>) = tokens
            .iter()
            .zip(states.iter_mut())
            .map(|(own, carried)| (*own, &mut **carried))
            .partition(|(_, c)| c.state.position > 0);
        for group in [begun, new] {
            if !group.is_empty() {
                let (own, rows): (Vec<&[u32]>, Vec<&mut Carried>) = group.into_iter().unzip();
                self.read_on(&own, rows)?;
            }
        }
        Ok(())
    }

    fn around(&self, tokens: &[u32], window: Range<usize>) -> Result<Carried, InferError> {
        let mut state = self.model.new_state();
        // Refused before anything is computed.
        self.model.leave_out(&mut state, 0..0)?;
        let hidden = self.model.unfinished(tokens, 1, Some(&mut [&mut state]), None)?;
        let width = hidden.dims()[2];
        let last = (self.diffusion.shift && window.start > 0).then(|| hidden.narrow(1, window.start - 1, 1).reshape([1, width]));
        self.model.leave_out(&mut state, window)?;
        Ok(Carried { state, last })
    }

    fn predict(&self, views: &[View<'_, Carried>], read: &Read<'_>) -> Result<Vec<Vec<Candidate>>, InferError> {
        let mut out: Vec<Vec<Candidate>> = views.iter().map(|v| Vec::with_capacity(v.wanted.len())).collect();
        // Which view, and which of its places.
        let order: Vec<(usize, usize)> =
            views.iter().enumerate().flat_map(|(v, view)| (0..view.wanted.len()).map(move |index| (v, index))).collect();
        if order.is_empty() {
            return Ok(out);
        }
        let vocabulary = self.model.config.vocabulary;
        let hidden = self.places(views, false)?;
        let blind = if views.iter().any(|v| v.blind.is_some()) { Some(self.places(views, true)?) } else { None };
        let mut blind_at = 0;
        for start in (0..order.len()).step_by(ROWS) {
            let count = ROWS.min(order.len() - start);
            let places = &order[start..start + count];
            let mut logits = values(self.model.logits(hidden.clone().narrow(0, start, count)));
            if let Some(blind) = &blind {
                let guided: Vec<usize> = (0..count).filter(|&i| views[places[i].0].blind.is_some()).collect();
                if !guided.is_empty() {
                    let unguided = values(self.model.logits(blind.clone().narrow(0, blind_at, guided.len())));
                    for (&i, u) in guided.iter().zip(unguided.chunks_exact(vocabulary)) {
                        let weight = views[places[i].0].blind.as_ref().map_or(0.0, |b| b.weight);
                        guide(&mut logits[i * vocabulary..(i + 1) * vocabulary], u, weight);
                    }
                    blind_at += guided.len();
                }
            }
            let parts = split_rows(count, 1, [(&mut logits, vocabulary)], |range, [logits]| {
                let rows = range.zip(logits.chunks_exact_mut(vocabulary));
                rows.map(|(i, logits)| read(places[i].0, places[i].1, logits)).collect::<Result<Vec<_>, _>>()
            });
            let mut candidates = Vec::with_capacity(count);
            for part in parts {
                candidates.extend(part?);
            }
            for ((view, _), candidate) in places.iter().zip(candidates) {
                out[*view].push(candidate);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_bounded_and_waste_little() {
        let lengths: Vec<usize> = (1..400).map(|i| i * i % 1500 / (1 + i % 3) + 1).collect();
        let mut lengths: Vec<usize> = lengths.into_iter().chain([9000; 2]).collect();
        lengths.sort_unstable();
        let passes = like_lengths(&lengths);
        assert_eq!(passes.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..lengths.len()).collect::<Vec<_>>());
        for pass in &passes {
            let cost = pass.len() * lengths[pass.end - 1];
            let needed: usize = lengths[pass.clone()].iter().sum();
            assert!(pass.len() == 1 || cost <= SMALL || (cost <= BUDGET && 4 * cost <= 5 * needed), "{pass:?}");
        }
        assert!(passes.len() < 90, "{}", passes.len());
        assert_eq!(like_lengths(&[16; 20]), [0..20]);
    }
}
