//! Steps: one forward pass for all rows.

use super::candidate::Draw;
use super::denoiser::{Blind, Denoiser, View};
use super::record::Step;
use super::row::Row;
use crate::error::InferError;
use std::collections::BTreeMap;
use std::ops::Range;

/// Reads clean tokens that rows' states lack, at most about `chunk` of each: of all rows that lack
/// equally many at a time; of models that see all of a text, which keep something of it, all of it at once. Returns how
/// many tokens were read.
///
/// # Errors
/// When the model cannot run.
pub fn read<D: Denoiser>(denoiser: &D, rows: &mut [&mut Row<D::State>], chunk: usize) -> Result<usize, InferError> {
    let mut count = 0;
    for row in rows.iter_mut() {
        if let Some((tokens, window)) = row.surroundings() {
            let state = denoiser.around(&row.tokens[..tokens], window.clone())?;
            let blind = row.blind.is_some().then(|| denoiser.around(&row.blind_tokens(0..tokens), window)).transpose()?;
            row.has_surroundings(state, blind);
            count += tokens;
        }
    }
    let block = denoiser.shape().block.unwrap_or(1);
    // Whole blocks: tokens of one see each other.
    let chunk = (chunk / block).max(1) * block;
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let unread = row.unread().len().min(chunk);
        if unread > 0 {
            groups.entry(unread).or_default().push(index);
        }
    }
    for (length, members) in groups {
        let mut group: Vec<&mut Row<D::State>> =
            rows.iter_mut().enumerate().filter(|(index, _)| members.contains(index)).map(|(_, row)| &mut **row).collect();
        let range = |row: &Row<D::State>| -> Range<usize> { row.unread().start..row.unread().start + length };
        let pieces: Vec<Vec<u32>> = group.iter().map(|row| row.tokens[range(row)].to_vec()).collect();
        let blind: Vec<Vec<u32>> =
            group.iter().filter(|row| row.blind.is_some()).map(|row| row.blind_tokens(range(row))).collect();
        let tokens: Vec<&[u32]> = pieces.iter().chain(&blind).map(Vec::as_slice).collect();
        let mut states = Vec::with_capacity(tokens.len());
        let mut blind_states = Vec::new();
        for row in &mut group {
            let Row { state, blind, .. } = &mut **row;
            states.push(state);
            blind_states.extend(blind.as_mut());
        }
        states.extend(blind_states);
        denoiser.advance(&tokens, &mut states)?;
        group.iter_mut().for_each(|row| row.has_read(length));
        count += length * members.len();
    }
    Ok(count)
}

/// One forward pass and what the rules make of it; one entry a row, none for those that are over.
/// Rows whose states lack finished blocks read those first.
///
/// # Errors
/// When the model cannot run or computes NaN.
pub fn step<D: Denoiser>(denoiser: &D, rows: &mut [&mut Row<D::State>]) -> Result<Vec<Option<Step>>, InferError> {
    while read(denoiser, rows, usize::MAX / 2)? > 0 {}
    let never = [denoiser.shape().mask_token];
    let alive: Vec<usize> = (0..rows.len()).filter(|&i| !rows[i].is_over()).collect();
    let mut out: Vec<Option<Step>> = rows.iter().map(|_| None).collect();
    if alive.is_empty() {
        return Ok(out);
    }
    let wanted: Vec<Vec<usize>> = alive.iter().map(|&i| rows[i].wanted()).collect();
    let units: Vec<Range<usize>> = alive.iter().map(|&i| rows[i].unit()).collect();
    let places: Vec<Vec<usize>> = wanted.iter().zip(&units).map(|(w, unit)| w.iter().map(|p| p - unit.start).collect()).collect();
    let blind: Vec<Vec<u32>> = alive.iter().zip(&units).map(|(&i, unit)| rows[i].blind_tokens(unit.clone())).collect();
    let candidates = {
        let shared: Vec<&Row<D::State>> = alive.iter().map(|&i| &*rows[i]).collect();
        let views: Vec<View<'_, D::State>> = shared
            .iter()
            .enumerate()
            .map(|(v, row)| View {
                tokens: &row.tokens[units[v].clone()],
                wanted: &places[v],
                state: &row.state,
                blind: row.blind.as_ref().map(|state| Blind { tokens: &blind[v], state, weight: row.settings.guidance }),
            })
            .collect();
        // Only what a candidate depends on, so that rows' states need not be shared among threads.
        let draws: Vec<Vec<Draw<'_>>> = shared
            .iter()
            .zip(&wanted)
            .map(|(row, wanted)| {
                let draw = |&position: &usize| Draw {
                    settings: &row.settings,
                    never: &never,
                    greedy: row.is_settled_at(position),
                    stream: row.stream,
                    step: row.step_number(),
                    position,
                };
                wanted.iter().map(draw).collect()
            })
            .collect();
        let ends: Vec<&[u32]> = shared.iter().map(|row| row.ends.as_slice()).collect();
        denoiser.predict(&views, &|view, index, logits| draws[view][index].candidate(logits, ends[view]))?
    };
    for ((&i, wanted), candidates) in alive.iter().zip(&wanted).zip(&candidates) {
        out[i] = Some(rows[i].take(wanted, candidates));
    }
    Ok(out)
}
