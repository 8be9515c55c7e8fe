//! Promises of models that denoise: what a noisy block behind clean states sees, and the two streams that block
//! diffusion trains on.

use super::subjects::Subject;
use super::{ROUNDING, assert_close, difference};
use recast_models::ModelError;
use recast_models::mixers::find;
use recast_models::param::values;
use recast_models::sight::Sight;
use recast_models::state::{Documents, ModelState};

/// The state after these clean tokens, fed in blocks.
fn clean(subject: &Subject, tokens: &[u32], block: usize) -> ModelState {
    let mut state = subject.model.new_state();
    for piece in tokens.chunks(block) {
        subject.model.hidden(piece, 1, Some(&mut [&mut state]), None).expect("forward");
    }
    state
}

fn denoise(subject: &Subject, tokens: &[u32], states: &[&ModelState]) -> Vec<f32> {
    values(subject.model.denoise(tokens, states.len(), states).expect("forward"))
}

fn parts(state: &ModelState) -> Vec<Vec<f32>> {
    state.layers.iter().flat_map(|l| l.parts.iter().map(|p| values(p.clone()))).collect()
}

/// A noisy block's last position is what a causal pass gives there (a recurrence reads the same state;
/// attention has seen the same keys), and its first one depends on the last token. Of one layer.
pub fn a_block_sees_all_of_itself(subject: &Subject, layer: usize) {
    let subject = &subject.alone(layer);
    let tokens = subject.tokens(1, 20);
    let state = clean(subject, &tokens[..13], 13);
    let width = subject.model.config.hidden;
    let noisy = denoise(subject, &tokens[13..], &[&state]);
    let mut going = state.clone();
    let causal = values(subject.model.hidden(&tokens[13..], 1, Some(&mut [&mut going]), None).expect("forward"));
    assert_close(&noisy[6 * width..], &causal[6 * width..], ROUNDING, &subject.name, "the last position of a noisy block");
    let mut other = tokens.clone();
    other[19] = (other[19] + 1) % subject.model.config.vocabulary as u32;
    let changed = denoise(subject, &other[13..], &[&state]);
    let differs = |at: usize| difference(&changed[at * width..][..width], &noisy[at * width..][..width]) > 1e-4;
    assert!(subject.has_window() || differs(0), "{}: a noisy block's first position ignores its last", subject.name);
    assert!(differs(6), "{}: a noisy block's last position ignores its token", subject.name);
}

pub fn states_stay_as_they_are_and_rows_are_alone(subject: &Subject) {
    let subject = &subject.denoising(Some(4));
    let tokens = subject.tokens(3, 12);
    // Three rows at different positions.
    let states: Vec<ModelState> =
        [4, 12, 8].iter().enumerate().map(|(r, &n)| clean(subject, &tokens[r * 12..r * 12 + n], 4)).collect();
    let before: Vec<_> = states.iter().map(parts).collect();
    let block = subject.tokens(3, 4);
    let refs: Vec<&ModelState> = states.iter().collect();
    let together = denoise(subject, &block, &refs);
    let size = together.len() / 3;
    for row in 0..3 {
        let alone = denoise(subject, &block[row * 4..row * 4 + 4], &refs[row..=row]);
        let what = format!("noisy row {row} alone");
        assert_close(&together[row * size..(row + 1) * size], &alone, ROUNDING, &subject.name, &what);
        denoise(subject, &block[row..=row], &refs[row..=row]);
    }
    let after: Vec<_> = states.iter().map(parts).collect();
    assert!(before == after, "{}: denoising moved a state", subject.name);
    assert_eq!(states.iter().map(|s| s.position).collect::<Vec<_>>(), [4, 12, 8]);
    // A block at the beginning stands behind an empty state.
    let empty = subject.model.new_state();
    denoise(subject, &block[..4], &[&empty]);
    assert!(empty.position == 0 && empty.layers.iter().all(|l| l.parts.is_empty()));
}

/// Rows padded to a common length give what they give alone, for every sight.
pub fn no_row_sees_padding(subject: &Subject) {
    let subject = &subject.denoising(None);
    let (rows, columns, lengths) = (3, 11, [11, 4, 7]);
    let tokens = subject.tokens(rows, columns);
    let width = subject.model.config.hidden;
    for sight in [Sight::Whole, Sight::Blocks(3), Sight::Causal] {
        let hidden = |tokens: &[u32], batch, lengths: Option<&[usize]>| {
            values(subject.model.hidden_seeing(tokens, batch, sight, None, lengths).expect("forward"))
        };
        let padded = hidden(&tokens, rows, Some(&lengths));
        for (row, &length) in lengths.iter().enumerate() {
            let alone = hidden(&tokens[row * columns..row * columns + length], 1, None);
            let start = row * columns * width;
            let what = format!("{sight:?}, padded row {row}");
            // Sums over other lengths, through every layer.
            assert_close(&padded[start..start + length * width], &alone, 3.0 * ROUNDING, &subject.name, &what);
        }
    }
    let refused = subject.model.hidden_seeing(&tokens, rows, Sight::Whole, None, Some(&[11, 12, 1]));
    assert!(matches!(refused, Err(ModelError::Lengths { .. })));
    // Packed documents are separate ones.
    let documents = Documents::new(1, 11, (0..11).map(|t| t == 4).collect());
    let packed = values(subject.model.hidden_seeing(&tokens[..11], 1, Sight::Whole, Some(&documents), None).expect("forward"));
    let alone = values(subject.model.hidden_seeing(&tokens[4..11], 1, Sight::Whole, None, None).expect("forward"));
    assert_close(&packed[4 * width..], &alone, ROUNDING, &subject.name, "a document seen whole");
}

/// A state of one size looks back only: clean tokens in blocks give what they give under a causal mask, which a
/// next-token loss beside the diffusion loss relies on.
pub fn constant_states_look_back_only(subject: &Subject) {
    let constant = |kind: &str| find(kind).is_ok_and(|registration| registration.constant_state);
    if !subject.model.config.mixers.iter().all(|mixer| constant(&mixer.kind)) {
        return;
    }
    let subject = &subject.denoising(Some(4));
    let tokens = subject.tokens(2, 11);
    let hidden = |sight| values(subject.model.hidden_seeing(&tokens, 2, sight, None, None).expect("forward"));
    let (blocks, causal) = (hidden(Sight::Blocks(4)), hidden(Sight::Causal));
    assert_close(&blocks, &causal, ROUNDING, &subject.name, "clean tokens in blocks, against a causal pass");
}

/// The two streams are the clean tokens block by block, and the noisy blocks behind their states.
pub fn two_streams_are_blocks_behind_states(subject: &Subject) {
    for (length, block) in [(14, 4), (12, 4), (6, 1), (3, 8)] {
        let subject = &subject.denoising(Some(block));
        let clean_tokens = subject.tokens(2, length);
        let mask = subject.model.config.vocabulary as u32 - 1;
        let noisy: Vec<u32> = clean_tokens.iter().enumerate().map(|(i, &t)| if i % 3 == 0 { mask } else { t }).collect();
        let streams = subject.model.two_streams(&clean_tokens, &noisy, 2, block, None).expect("forward");
        let [found_clean, found_noisy] = streams.map(values);
        let (mut wanted_clean, mut wanted_noisy) = (Vec::new(), Vec::new());
        for row in 0..2 {
            let mut state = subject.model.new_state();
            for start in (0..length).step_by(block) {
                let own = row * length + start..row * length + (start + block).min(length);
                wanted_noisy.extend(denoise(subject, &noisy[own.clone()], &[&state]));
                let hidden = subject.model.hidden(&clean_tokens[own], 1, Some(&mut [&mut state]), None);
                wanted_clean.extend(values(hidden.expect("forward")));
            }
        }
        let what = format!("{length} tokens in blocks of {block}");
        assert_close(&found_clean, &wanted_clean, ROUNDING, &subject.name, &format!("clean stream, {what}"));
        assert_close(&found_noisy, &wanted_noisy, ROUNDING, &subject.name, &format!("noisy stream, {what}"));
    }
}
