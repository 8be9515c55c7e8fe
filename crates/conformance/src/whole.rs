//! Promises of whole models.

use super::subjects::Subject;
use super::{PACKED, ROUNDING, assert_close, difference};
use burn::tensor::Device;
use recast_models::export::{self, Storage};
use recast_models::mixers;
use recast_models::param::values;
use recast_models::state::{Documents, ModelState};
use recast_models::{Model, ModelError};
use std::path::Path;

/// Longer than a chunk of the recurrences, and no multiple of one.
const LENGTH: usize = 37;

/// Logits of whole rows.
fn logits(model: &Model, tokens: &[u32], batch: usize, documents: Option<&Documents>) -> Vec<f32> {
    values(model.logits(model.hidden(tokens, batch, None, documents).expect("forward")))
}

/// Logits of the next tokens of sequences that carry a state.
fn next(model: &Model, tokens: &[u32], states: &mut [ModelState]) -> Vec<f32> {
    let mut states: Vec<&mut ModelState> = states.iter_mut().collect();
    values(model.logits(model.hidden(tokens, states.len(), Some(&mut states), None).expect("forward")))
}

/// Tokens `from..to` of every row.
fn columns(tokens: &[u32], from: usize, to: usize) -> Vec<u32> {
    tokens.chunks(LENGTH).flat_map(|row| row[from..to].to_vec()).collect()
}

/// Puts `[B, t, V]` pieces, in order, together to `[B, T, V]`.
fn joined(pieces: &[Vec<f32>], batch: usize) -> Vec<f32> {
    (0..batch)
        .flat_map(|row| pieces.iter().flat_map(move |p| p[row * p.len() / batch..(row + 1) * p.len() / batch].to_vec()))
        .collect()
}

/// Held tokens, without spare room, of every part of a layer's state.
fn held(state: &ModelState, layer: usize) -> Vec<f32> {
    let layer = &state.layers[layer];
    layer
        .parts
        .iter()
        .flat_map(|part| {
            let rows = part.dims()[1];
            // Parts with spare room are caches of a growing text.
            let part = if rows > layer.length { part.clone().narrow(1, 0, layer.length) } else { part.clone() };
            values(part)
        })
        .collect()
}

fn constant(subject: &Subject, layer: usize) -> bool {
    mixers::find(&subject.model.config.mixers[layer].kind).expect("registered").constant_state
}

fn states_agree(subject: &Subject, x: &[ModelState], y: &[ModelState], what: &str) {
    for (row, (x, y)) in x.iter().zip(y).enumerate() {
        assert_eq!(x.position, y.position, "{}: {what}: position", subject.name);
        for layer in (0..x.layers.len()).filter(|&l| constant(subject, l)) {
            let what = format!("{what}: state of layer {layer}, row {row}");
            assert_close(&held(x, layer), &held(y, layer), ROUNDING, &subject.name, &what);
        }
    }
}

/// Runs rows in pieces that end at these tokens.
fn in_pieces(subject: &Subject, tokens: &[u32], batch: usize, ends: &[usize]) -> (Vec<f32>, Vec<ModelState>) {
    let mut states = vec![subject.model.new_state(); batch];
    let mut pieces = Vec::new();
    let mut start = 0;
    for &end in ends {
        pieces.push(next(&subject.model, &columns(tokens, start, end), &mut states));
        start = end;
    }
    (joined(&pieces, batch), states)
}

pub fn chunk_equals_tokens_one_by_one(subject: &Subject) {
    let tokens = subject.tokens(2, LENGTH);
    let one = logits(&subject.model, &tokens, 2, None);
    let (carried, chunk_state) = in_pieces(subject, &tokens, 2, &[LENGTH]);
    assert_close(&carried, &one, ROUNDING, &subject.name, "a chunk that leaves a state = one that does not");
    let (by_token, state) = in_pieces(subject, &tokens, 2, &(1..=LENGTH).collect::<Vec<_>>());
    assert_close(&by_token, &one, ROUNDING, &subject.name, "a chunk = tokens one by one");
    states_agree(subject, &state, &chunk_state, "a chunk = tokens one by one");
    // The test can fail: the past matters.
    let mut other = tokens.clone();
    other[0] = (other[0] + 1) % subject.model.config.vocabulary as u32;
    let changed = logits(&subject.model, &other, 2, None);
    let vocabulary = subject.model.config.vocabulary;
    let second = vocabulary..2 * vocabulary;
    let window = subject.model.config.mixers.iter().all(|m| m.options.get("window").is_some_and(|w| *w == 1));
    assert!(window || difference(&changed[second.clone()], &one[second]) > 1e-4, "{}: token 1 ignores token 0", subject.name);
}

pub fn two_chunks_equal_one(subject: &Subject) {
    let tokens = subject.tokens(2, LENGTH);
    let (one, whole) = in_pieces(subject, &tokens, 2, &[LENGTH]);
    for cuts in [vec![13, LENGTH], vec![1, LENGTH], vec![36, LENGTH], vec![33, 34, LENGTH]] {
        let (pieces, state) = in_pieces(subject, &tokens, 2, &cuts);
        assert_close(&pieces, &one, ROUNDING, &subject.name, &format!("chunks to {cuts:?} = one"));
        states_agree(subject, &state, &whole, &format!("chunks to {cuts:?} = one"));
    }
}

/// Asked for alone, behind states at different positions, a chunk's last token is what it is among all; so is the
/// state.
pub fn the_last_token_alone(subject: &Subject) {
    let tokens = subject.tokens(2, LENGTH);
    let read = |end: usize| in_pieces(subject, &tokens[LENGTH..], 1, &[end]).1.remove(0);
    let first = [read(13), read(5)];
    let (mut alone, mut among) = (first.clone(), first);
    let chunk = columns(&tokens, 13, LENGTH);
    let mut refs: Vec<&mut ModelState> = alone.iter_mut().collect();
    let last = subject.model.unfinished_last(&chunk, 2, &mut refs).expect("forward");
    let last = values(subject.model.logits(subject.model.finish(last)));
    let all = next(&subject.model, &chunk, &mut among);
    let (vocabulary, length) = (subject.model.config.vocabulary, LENGTH - 13);
    let expected: Vec<f32> = (0..2).flat_map(|row| all[((row + 1) * length - 1) * vocabulary..][..vocabulary].to_vec()).collect();
    assert_close(&last, &expected, ROUNDING, &subject.name, "the last token alone = among all");
    states_agree(subject, &alone, &among, "the last token alone = among all");
    let after = [tokens[0], tokens[1]];
    let (after_alone, after_among) = (next(&subject.model, &after, &mut alone), next(&subject.model, &after, &mut among));
    assert_close(&after_alone, &after_among, ROUNDING, &subject.name, "a token after it");
}

pub fn packed_documents_equal_separate_ones(subject: &Subject) {
    // First tokens of the documents of each row; a document of one token, one longer than a chunk
    // of the recurrences, and a row that is one document.
    const LONG: usize = 47;
    let rows: [&[usize]; 3] = [&[0, 5, 6, 13], &[0], &[0, 3, 44, 46]];
    let tokens = subject.tokens(rows.len(), LONG);
    let mut starts = vec![false; rows.len() * LONG];
    for (row, documents) in rows.iter().enumerate() {
        documents.iter().for_each(|&at| starts[row * LONG + at] = true);
    }
    // Whether the row's own beginning is flagged makes no difference.
    starts[2 * LONG] = false;
    let documents = Documents::new(rows.len(), LONG, starts);
    let packed = logits(&subject.model, &tokens, rows.len(), Some(&documents));
    let vocabulary = subject.model.config.vocabulary;
    for (row, documents) in rows.iter().enumerate() {
        for (i, &start) in documents.iter().enumerate() {
            let end = documents.get(i + 1).copied().unwrap_or(LONG);
            let (start, end) = (row * LONG + start, row * LONG + end);
            let alone = logits(&subject.model, &tokens[start..end], 1, None);
            let what = format!("document {i} of packed row {row} = the document alone");
            assert_close(&packed[start * vocabulary..end * vocabulary], &alone, PACKED, &subject.name, &what);
        }
    }
    let mut states = vec![subject.model.new_state(); rows.len()];
    let mut states: Vec<&mut ModelState> = states.iter_mut().collect();
    let refused = subject.model.hidden(&tokens, rows.len(), Some(&mut states), Some(&documents));
    assert!(matches!(refused, Err(ModelError::Documents { .. })), "{}: a state crossed a packed row", subject.name);
}

/// Rows of one batch, and then rows of different lengths in another.
pub fn a_batch_equals_its_rows(subject: &Subject) {
    let tokens = subject.tokens(3, LENGTH);
    let mut states = vec![subject.model.new_state(); 3];
    let batch = next(&subject.model, &tokens, &mut states);
    let after = [3, 1, 4];
    // Row 1 goes one token ahead, and then with row 2, which stands before it.
    next(&subject.model, &[5], &mut states[1..2]);
    let mut chosen = [states[2].clone(), states[1].clone()];
    let mixed = next(&subject.model, &[after[2], after[1]], &mut chosen);
    for row in 0..3 {
        let mut own = vec![subject.model.new_state()];
        let alone = next(&subject.model, &tokens[row * LENGTH..(row + 1) * LENGTH], &mut own);
        let size = alone.len();
        assert_close(
            &batch[row * size..(row + 1) * size],
            &alone,
            ROUNDING,
            &subject.name,
            &format!("row {row} of a batch = the row alone"),
        );
        if let Some(place) = [2, 1].iter().position(|&r| r == row) {
            if row == 1 {
                next(&subject.model, &[5], &mut own);
            }
            let alone = next(&subject.model, &[after[row]], &mut own);
            let size = alone.len();
            let what = format!("row {row} in a batch of other lengths = the row alone");
            assert_close(&mixed[place * size..(place + 1) * size], &alone, ROUNDING, &subject.name, &what);
        }
    }
}

/// A state is a value: going on from a copy leaves the original as it was, to the bit.
pub fn a_fork_leaves_the_state_alone(subject: &Subject) {
    let tokens = subject.tokens(1, LENGTH);
    let mut state = [subject.model.new_state()];
    next(&subject.model, &tokens[..20], &mut state);
    let mut untouched = [subject.model.new_state()];
    next(&subject.model, &tokens[..20], &mut untouched);
    let mut fork = state.clone();
    for token in [1, 2, 3] {
        next(&subject.model, &[token], &mut fork);
    }
    let with_fork = next(&subject.model, &tokens[20..], &mut state);
    let without = next(&subject.model, &tokens[20..], &mut untouched);
    assert!(with_fork == without, "{}: a fork's tokens reached the state it was copied from", subject.name);
}

pub fn saving_and_loading_changes_nothing(subject: &Subject) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let save = |model: &Model, path: &Path| {
        export::save(model, path, Storage::default(), None, None, None).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
    };
    save(&subject.model, &first);
    let loaded = Model::open(&first, &Device::flex()).unwrap_or_else(|e| panic!("{}: {e}", subject.name));
    let tokens = subject.tokens(2, LENGTH);
    let (a, b) = (logits(&subject.model, &tokens, 2, None), logits(&loaded, &tokens, 2, None));
    assert!(a == b, "{}: logits change by {:e} on the way through a folder", subject.name, difference(&b, &a));
    save(&loaded, &second);
    same_files(&first, &second, &subject.name);
}

/// Whether two folders hold the same files, byte for byte.
pub fn same_files(x: &Path, y: &Path, what: &str) {
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).expect("folder");
        let mut names: Vec<_> = entries.map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(x), names(y), "{what}: files");
    for name in names(x) {
        let [a, b] = [x, y].map(|folder| std::fs::read(folder.join(&name)).expect("file"));
        assert!(a == b, "{what}: {} has other bytes", name.display());
    }
}

/// The state's bytes while tokens come one by one, for long enough that caches with a window drop
/// what they no longer need, which must not show.
pub fn state_bytes_are_as_claimed(subject: &Subject) {
    const LONG: usize = 150;
    let tokens = subject.tokens(1, LONG);
    let mut state = [subject.model.new_state()];
    let mut total = 0;
    let mut by_token = Vec::new();
    for (position, token) in tokens.iter().enumerate() {
        by_token.extend(next(&subject.model, &[*token], &mut state));
        let read = position + 1;
        if ![1, 2, 40, LONG].contains(&read) {
            continue;
        }
        total = 0;
        for (l, block) in subject.model.blocks().iter().enumerate() {
            let claimed = block.mixer().state_bytes(read);
            total += claimed;
            let what = format!("{}: layer {l} after {read} tokens", subject.name);
            assert_eq!(state[0].layers[l].bytes(), claimed, "{what}: bytes");
            if constant(subject, l) {
                assert_eq!(claimed, block.mixer().state_bytes(1), "{what}: the claim grows with the text");
                continue;
            }
            if subject.model.config.mixers[l].kind != "softmax" {
                continue;
            }
            // Keys and values of every token that a later one can still see, and room for two pages.
            let window = subject.model.config.mixers[l].options.get("window").and_then(serde_json::Value::as_u64);
            let seen = window.map_or(read, |w| read.min(w as usize));
            let a_token = 2 * subject.model.config.kv_heads * subject.model.config.head_size * 4;
            assert!(claimed >= seen * a_token && claimed < (seen + 128) * a_token, "{what}: {claimed} bytes");
        }
    }
    let chunk = logits(&subject.model, &tokens, 1, None);
    assert_close(&by_token, &chunk, ROUNDING, &subject.name, "many tokens one by one = a chunk");
    assert_eq!(subject.model.state_bytes(LONG), total, "{}: bytes of all layers", subject.name);
}
