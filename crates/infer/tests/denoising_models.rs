//! Denoising tiny models of every mixer, where caches, batches and shifts must not show.

mod common;

use common::{MODELS, by, endless, fill, largest_difference, masked, model, quiet, scattered, unmasked_prompt};
use recast_infer::samplers::denoising::{
    Candidate, Canvas, Carried, Denoised, Denoiser, Denoising, Filler, Keep, Masked, Read, Row, Rule, Shape, View, step,
};
use recast_infer::{Generator, InferError, Options, Sampling};
use recast_models::param::values;
use recast_models::{Diffusion, Model, Sight};
use std::ops::ControlFlow;

/// What the cached way must come to: everything computed anew in every step.
struct Uncached<'a>(&'a Model, Diffusion);

impl Denoiser for Uncached<'_> {
    type State = Vec<u32>;

    fn shape(&self) -> Shape {
        let Diffusion { mask_token, block, uniform, .. } = self.1;
        Shape { vocabulary: self.0.config.vocabulary, mask_token, uniform, block }
    }

    fn begin(&self) -> Vec<u32> {
        Vec::new()
    }

    fn advance(&self, tokens: &[&[u32]], states: &mut [&mut Vec<u32>]) -> Result<(), InferError> {
        tokens.iter().zip(states).for_each(|(new, state)| state.extend(*new));
        Ok(())
    }

    fn around(&self, _: &[u32], _: std::ops::Range<usize>) -> Result<Vec<u32>, InferError> {
        unreachable!("models with blocks have a state of their own")
    }

    fn predict(&self, views: &[View<'_, Vec<u32>>], read: &Read<'_>) -> Result<Vec<Vec<Candidate>>, InferError> {
        let softmax = self.0.config.mixers.iter().all(|m| m.kind == "softmax");
        let block = self.1.block.expect("blocks");
        let of = |v: usize, view: &View<'_, Vec<u32>>| {
            let all = [view.state, view.tokens].concat();
            let hidden = if softmax {
                self.0.hidden_seeing(&all, 1, Sight::Blocks(block), None, None)?
            } else {
                let mut state = self.0.new_state();
                for clean in view.state.chunks(block) {
                    self.0.hidden(clean, 1, Some(&mut [&mut state]), None)?;
                }
                self.0.denoise(view.tokens, 1, &[&state])?
            };
            let vocabulary = self.0.config.vocabulary;
            let logits = values(self.0.logits(hidden));
            let skip = if softmax { view.state.len() } else { 0 };
            let one = |(index, place): (usize, &usize)| {
                read(v, index, &mut logits[(skip + place) * vocabulary..][..vocabulary].to_vec())
            };
            view.wanted.iter().enumerate().map(one).collect()
        };
        views.iter().enumerate().map(|(v, view)| of(v, view)).collect()
    }
}

#[test]
fn a_cached_prefix_is_exact_for_models_with_blocks() {
    // Oracle (v).
    for (name, model) in MODELS.iter().flat_map(|name| [masked, scattered].map(|of| (name, of(name, Some(8), false)))) {
        let diffusion = model.config.diffusion.clone().expect("set above");
        for rule in [Rule::Fixed { steps: 15 }, Rule::Threshold { at: 0.05 }] {
            // A prompt that ends within a block, and an end that does.
            let canvas = Canvas::after(&unmasked_prompt(&model, 21), 30);
            let cached = fill(&Masked::new(&model).expect("masked"), by(rule), &canvas);
            let plain = fill(&Uncached(&model, diffusion.clone()), by(rule), &canvas);
            assert_eq!(cached.tokens, plain.tokens, "{name} {rule:?}");
            let far = largest_difference(&cached.confidences, &plain.confidences);
            assert!(far < 1e-5, "{name} {rule:?}: {far:e}");
            assert_eq!(cached.counters, plain.counters);
            // Positions 21..51 in blocks of 8: the one begun by the prompt, three whole ones, one of three.
            assert_eq!(cached.counters.refreshes, 4, "{name}");
        }
    }
}

#[test]
fn shifted_blocks_of_one_are_the_next_token_model() {
    for name in MODELS {
        let plain = model(name);
        let tokenizer = endless(plain.config.vocabulary);
        let tokens = unmasked_prompt(&plain, 19);
        let options = Options { sampling: Sampling::greedy(), max_tokens: 12, ..Options::default() };
        let wanted =
            Generator::new(&plain, &tokenizer, options).expect("options").generate(&tokens, &mut quiet).expect("generates");
        // The sampler never writes the mask token: one that the model does not write either.
        let free = |token: &u32| !wanted.tokens.contains(token) && !tokens.contains(token);
        let mask_token = (0..plain.config.vocabulary as u32).rev().find(free).expect("a token that is not used");
        let mut model = plain;
        model.config.diffusion = Some(Diffusion { mask_token, block: Some(1), shift: true, uniform: false });
        let found = fill(&Masked::new(&model).expect("masked"), by(Rule::Fixed { steps: 12 }), &Canvas::after(&tokens, 12));
        assert_eq!(found.tokens, wanted.tokens, "{name}");
    }
}

#[test]
fn shifted_sequences_read_the_place_before() {
    let model = masked("families/llama_gqa", None, true);
    let tokens = unmasked_prompt(&model, 6);
    let mask = model.config.diffusion.as_ref().expect("set").mask_token;
    let found = fill(&Masked::new(&model).expect("masked"), by(Rule::Threshold { at: 0.0 }), &Canvas::after(&tokens, 3));
    let all = [tokens, vec![mask; 3]].concat();
    let logits = values(model.logits(model.hidden_seeing(&all, 1, Sight::Whole, None, None).expect("forward")));
    for (i, token) in found.tokens.iter().enumerate() {
        let row = &logits[(5 + i) * model.config.vocabulary..][..model.config.vocabulary];
        let best = (0..row.len()).filter(|t| *t != mask as usize).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("some");
        assert_eq!(*token as usize, best);
    }
}

#[test]
fn a_batch_is_its_rows_in_any_order() {
    // Oracle (vii), with prompts of unequal lengths and texts that take unequally many steps.
    let mut cases: Vec<(&str, Option<usize>)> = MODELS.iter().map(|name| (*name, Some(8))).collect();
    cases.push(("families/llama_gqa", None));
    cases.push(("released/rwkv7_hybrid", None));
    let models = cases.into_iter().flat_map(|(name, block)| [masked, scattered].map(|of| (name, block, of(name, block, false))));
    for (name, block, model) in models {
        let denoiser = Masked::new(&model).expect("masked");
        let tokenizer = endless(model.config.vocabulary);
        let all = unmasked_prompt(&model, 60);
        let canvases = [
            Canvas::after(&all[..9], 20),
            Canvas::after(&all[3..8], 33),
            Canvas::after(&all[20..60], 9),
            Canvas::after(&all[10..11], 16),
        ];
        let settings = Denoising { temperature: 1.0, seed: 5, block: Some(8), ..by(Rule::Threshold { at: 0.04 }) };
        let filler = Filler::new(&denoiser, &tokenizer, settings, Vec::new()).expect("settings");
        let run = |order: &[usize]| -> Vec<Denoised> {
            let rows: Vec<(u64, &Canvas)> = order.iter().map(|&i| (i as u64, &canvases[i])).collect();
            filler.fill_streams(&rows, &mut |_, _| ControlFlow::Continue(())).expect("fills")
        };
        let together = run(&[0, 1, 2, 3]);
        for order in [[3, 2, 1, 0], [1, 3, 0, 2]] {
            for (row, &i) in run(&order).iter().zip(&order) {
                assert_eq!(
                    (&row.tokens, row.counters),
                    (&together[i].tokens, together[i].counters),
                    "{name} {block:?} {order:?}"
                );
            }
        }
        for (i, row) in together.iter().enumerate() {
            assert_eq!(run(&[i])[0].tokens, row.tokens, "{name} {block:?}, row {i} alone");
        }
    }
}

#[test]
fn a_kept_prefix_computes_less() {
    let model = masked("families/llama_gqa", None, false);
    let denoiser = Masked::new(&model).expect("masked");
    let canvas = Canvas::after(&unmasked_prompt(&model, 40), 24);
    let with =
        |keep| fill(&denoiser, Denoising { keep, ahead: Some(0), block: Some(8), ..by(Rule::Fixed { steps: 24 }) }, &canvas);
    let (plain, kept) = (with(Keep::Nothing), with(Keep::Prefix));
    assert_eq!((plain.tokens.len(), kept.tokens.len()), (24, 24));
    // Each block begins with a pass over the whole; in every step only the block's positions are computed.
    assert_eq!((kept.counters.refreshes, kept.counters.forwards), (3, plain.counters.forwards + 3));
    assert!(kept.counters.idle_positions * 8 < plain.counters.idle_positions);
    // With no prompt and one block there is nothing to keep, and nothing to differ.
    let alone = Canvas::after(&[], 8);
    let with = |keep| fill(&denoiser, Denoising { keep, ..by(Rule::Fixed { steps: 8 }) }, &alone);
    let (plain, kept) = (with(Keep::Nothing), with(Keep::Prefix));
    assert_eq!((plain.tokens, plain.counters), (kept.tokens, kept.counters));
}

#[test]
fn what_is_kept_of_a_sequence_is_exact_in_a_blocks_first_step() {
    for (family, shift, prompt) in [
        ("families/llama_gqa", false, 21),
        ("families/llama_gqa", true, 21),
        ("families/qwen2_tied", true, 21),
        ("families/llama_gqa", false, 0),
        ("families/llama_gqa", true, 0),
    ] {
        let model = masked(family, None, shift);
        let noisy = scattered(family, None, shift);
        let denoiser = Masked::new(&model).expect("masked");
        // Text behind the holes, and before them or not.
        let mut canvas = Canvas::after(&unmasked_prompt(&model, prompt), 24);
        canvas.text(&unmasked_prompt(&model, 7));
        let with = |keep, steps, guidance, ahead| {
            let settings = Denoising { keep, guidance, ahead, block: Some(8), ..by(Rule::Fixed { steps }) };
            fill(&denoiser, settings, &canvas)
        };
        // Random tokens around the block are what they were when it began.
        let plain = |keep| {
            fill(
                &Masked::new(&noisy).expect("noisy"),
                Denoising { keep, block: Some(8), ..by(Rule::Fixed { steps: 3 }) },
                &canvas,
            )
            .tokens
        };
        assert_eq!(plain(Keep::Nothing), plain(Keep::Around), "{family}");
        assert_eq!(plain(Keep::Nothing), plain(Keep::Prefix), "{family}");
        for (guidance, ahead) in [(0.0, None), (0.0, Some(3)), (0.5, None)] {
            // One step a block: each is the block's first.
            let plain = with(Keep::Nothing, 3, guidance, ahead);
            for keep in [Keep::Prefix, Keep::Around] {
                let kept = with(keep, 3, guidance, ahead);
                assert_eq!(plain.tokens, kept.tokens, "{family}, {keep:?}");
                let far = largest_difference(&plain.confidences, &kept.confidences);
                assert!(far < 1e-5, "{family}, {keep:?}: {far:e}");
            }
            // Blocks of several steps compute their own positions alone.
            let kept = with(Keep::Around, 24, guidance, ahead);
            let passes = if guidance == 0.0 { 1 } else { 2 };
            assert_eq!((kept.counters.refreshes, kept.counters.forwards), (3 * passes, 27 * passes));
            assert!(kept.counters.idle_positions < 24 * 8 * passes);
        }
    }
    // A recurrence cannot leave out what it has read, and says so.
    let model = masked("released/rwkv7_hybrid", None, false);
    let denoiser = Masked::new(&model).expect("masked");
    let canvas = Canvas::after(&unmasked_prompt(&model, 16), 8);
    for keep in [Keep::Prefix, Keep::Around] {
        let settings = Denoising { keep, ..by(Rule::Fixed { steps: 8 }) };
        let mut row: Row<Carried> = Row::new(&denoiser, &canvas, settings, &[], 0).expect("row");
        let error = step(&denoiser, &mut [&mut row]).expect_err("refused").to_string();
        assert!(error.contains("keep nothing"), "{error}");
    }
}

#[test]
fn states_are_not_advanced_by_denoising() {
    let model = masked("released/rwkv7_hybrid", Some(8), false);
    let denoiser = Masked::new(&model).expect("masked");
    let canvas = Canvas::after(&unmasked_prompt(&model, 16), 8);
    let mut row: Row<Carried> = Row::new(&denoiser, &canvas, by(Rule::Fixed { steps: 8 }), &[], 0).expect("row");
    step(&denoiser, &mut [&mut row]).expect("steps");
    let bytes = row.state_bytes();
    let before = row.counters().committed;
    for _ in 0..3 {
        step(&denoiser, &mut [&mut row]).expect("steps");
        assert_eq!(row.state_bytes(), bytes);
    }
    assert_eq!(row.counters().committed, before + 3);
}
