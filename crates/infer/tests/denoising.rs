//! Denoising samplers on tables of logits, where everything is known: rules, ends, holes, edits, events, refusals.

mod common;

use common::{MODELS, by, endless, fill, masked, quiet, tokenizer, unmasked_prompt};
use recast_infer::InferError;
use recast_infer::samplers::denoising::{
    Candidate, Canvas, Change, Denoised, Denoiser, Denoising, Editing, Ends, Filler, Keep, Masked, Read, Remasking, Row, Rule,
    Shape, Step, View, guide, step,
};
use recast_infer::samplers::{Event, Finish};
use std::ops::ControlFlow;

/// Logits that follow from a place and from the visible tokens.
struct Toy {
    shape: Shape,
    logits: fn(tokens: &[u32], place: usize, vocabulary: usize) -> Vec<f32>,
}

const MASK: u32 = 0;

impl Toy {
    fn new(vocabulary: usize, logits: fn(&[u32], usize, usize) -> Vec<f32>) -> Self {
        Self { shape: Shape { vocabulary, mask_token: MASK, uniform: false, block: None }, logits }
    }
}

impl Denoiser for Toy {
    type State = Vec<u32>;

    fn shape(&self) -> Shape {
        self.shape
    }

    fn begin(&self) -> Vec<u32> {
        Vec::new()
    }

    fn advance(&self, tokens: &[&[u32]], states: &mut [&mut Vec<u32>]) -> Result<(), InferError> {
        tokens.iter().zip(states).for_each(|(new, state)| state.extend(*new));
        Ok(())
    }

    fn around(&self, _: &[u32], _: std::ops::Range<usize>) -> Result<Vec<u32>, InferError> {
        unreachable!("not asked for")
    }

    fn predict(&self, views: &[View<'_, Vec<u32>>], read: &Read<'_>) -> Result<Vec<Vec<Candidate>>, InferError> {
        let of = |v: usize, view: &View<'_, Vec<u32>>| {
            let seen = [view.state, view.tokens].concat();
            let one = |(index, place): (usize, &usize)| {
                let at = view.state.len() + place;
                let mut logits = (self.logits)(&seen, at, self.shape.vocabulary);
                if let Some(blind) = &view.blind {
                    let unseen = [blind.state, blind.tokens].concat();
                    guide(&mut logits, &(self.logits)(&unseen, at, self.shape.vocabulary), blind.weight);
                }
                read(v, index, &mut logits)
            };
            view.wanted.iter().enumerate().map(one).collect()
        };
        views.iter().enumerate().map(|(v, view)| of(v, view)).collect()
    }
}

/// A number in [0, 1) of a place, a token and what is visible.
fn hash(place: usize, token: usize, seen: u64) -> f32 {
    let z = (place as u64 * 7919 + token as u64 + seen * 104_729).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((z ^ (z >> 32)) >> 40) as f32 / (1u64 << 24) as f32
}

/// Depends on all visible tokens and where they are.
fn contextual(tokens: &[u32], place: usize, vocabulary: usize) -> Vec<f32> {
    let seen = tokens.iter().enumerate().filter(|(_, t)| **t != MASK).map(|(i, t)| (i as u64 + 1) * u64::from(*t)).sum::<u64>();
    (0..vocabulary).map(|token| 8.0 * hash(place, token, seen)).collect()
}

/// Depends on nothing but the place.
fn independent(_: &[u32], place: usize, vocabulary: usize) -> Vec<f32> {
    (0..vocabulary).map(|token| 3.0 * hash(place, token, 0)).collect()
}

#[test]
fn adaptive_rules_at_their_limits_are_one_token_a_forward() {
    // Oracle (iii).
    let toy = Toy::new(40, contextual);
    let softmax = masked("families/llama_gqa", None, false);
    let softmax = Masked::new(&softmax).expect("masked");
    let canvas = Canvas::after(&[3, 5, 8], 37);
    let limits = [
        Rule::Threshold { at: 1.5 },
        Rule::Factor { at: 0.0 },
        Rule::Entropy { at: 0.0 },
        Rule::Hierarchical { high: 1.5, low: 1.5 },
    ];
    let check = |all: Vec<Denoised>| {
        for one in &all {
            assert_eq!((one.counters.forwards, one.tokens.len(), one.counters.committed), (37, 37, 37));
            assert_eq!(one.tokens, all[0].tokens);
            assert!((one.tokens_per_forward() - 1.0).abs() < 1e-12);
        }
    };
    let with = |rule| Denoising { block: Some(16), ..by(rule) };
    check(limits.iter().chain(&[Rule::Fixed { steps: 37 }]).map(|rule| fill(&toy, with(*rule), &canvas)).collect());
    check(limits.iter().chain(&[Rule::Fixed { steps: 37 }]).map(|rule| fill(&softmax, with(*rule), &canvas)).collect());
    // At the other end a block is one forward pass: three blocks of 16, the last one ragged.
    for rule in
        [Rule::Threshold { at: 0.0 }, Rule::Factor { at: 1e9 }, Rule::Entropy { at: f32::INFINITY }, Rule::Fixed { steps: 3 }]
    {
        assert_eq!(fill(&toy, with(rule), &canvas).counters.forwards, 3, "{rule:?}");
    }
}

#[test]
fn a_thousand_tokens_in_a_hundred_steps() {
    let toy = Toy::new(30, contextual);
    for (block, rule) in [
        (None, Rule::Fixed { steps: 100 }),
        (Some(1000), Rule::Fixed { steps: 100 }),
        (Some(7), Rule::Fixed { steps: 200 }),
        (Some(33), Rule::Random { steps: 100 }),
        (Some(128), Rule::Ancestral { steps: 100, remasking: Remasking::Never }),
    ] {
        let written = fill(&toy, Denoising { block, temperature: 1.0, ..by(rule) }, &Canvas::after(&[1], 1000));
        let steps = if block == Some(7) { 200 } else { 100 };
        assert_eq!((written.tokens.len(), written.counters.forwards), (1000, steps), "{block:?} {rule:?}");
        assert!(written.tokens.iter().all(|t| *t != MASK));
        // Only masked positions of the block go through the head.
        let most = block.unwrap_or(32);
        assert!(written.counters.head_rows <= steps * most);
    }
}

#[test]
fn a_seed_is_a_text() {
    let toy = Toy::new(40, contextual);
    let with = |seed| {
        let settings = Denoising { temperature: 1.0, seed, ..by(Rule::Threshold { at: 0.3 }) };
        fill(&toy, settings, &Canvas::after(&[1, 2], 40)).tokens
    };
    assert_eq!(with(3), with(3));
    assert_ne!(with(3), with(4));
}

#[test]
fn independent_tokens_come_with_their_frequencies_by_every_rule() {
    // Oracle (vi) on whole texts: where tokens are independent, any order gives the softmax.
    let toy = Toy::new(5, independent);
    // Not low confidence first: it draws a place again in every step until it is committed, and so
    // prefers likely tokens.
    let rules = [
        Rule::Random { steps: 3 },
        Rule::Ancestral { steps: 3, remasking: Remasking::Never },
        Rule::Ancestral { steps: 4, remasking: Remasking::Cap { eta: 0.3 } },
        Rule::Ancestral { steps: 4, remasking: Remasking::Rescale { eta: 0.5 } },
    ];
    for rule in rules {
        let settings = Denoising { temperature: 1.0, ..by(rule) };
        let tokenizer = endless(5);
        let filler = Filler::new(&toy, &tokenizer, settings, Vec::new()).expect("settings");
        let draws = 4000;
        let canvases = vec![Canvas::after(&[1], 4); draws];
        let all = filler.fill_batch(&canvases, &mut |_, _| ControlFlow::Continue(())).expect("fills");
        for place in 0..4 {
            let logits = independent(&[], place + 1, 5);
            // The mask token is never written.
            let weights: Vec<f64> =
                logits.iter().enumerate().map(|(t, l)| if t == 0 { 0.0 } else { f64::from(*l).exp() }).collect();
            let total: f64 = weights.iter().sum();
            for (token, weight) in weights.iter().enumerate() {
                let found = all.iter().filter(|text| text.tokens[place] == token as u32).count() as f64 / draws as f64;
                let p = weight / total;
                assert!(
                    (found - p).abs() < 4.5 * (p * (1.0 - p) / draws as f64).sqrt() + 1e-9,
                    "{rule:?} place {place} token {token}: {found} {p}"
                );
            }
        }
    }
}

#[test]
fn guidance_is_its_formula_and_masks_the_prompt() {
    fn leaning(tokens: &[u32], _: usize, vocabulary: usize) -> Vec<f32> {
        // With the prompt 7 in sight token 2 leads, without it token 1; token 3 is liked by the prompt
        // alone.
        let seen = tokens[0] == 7;
        (0..vocabulary)
            .map(|t| match (t, seen) {
                (1, false) => 3.0,
                (2, true) => 2.0,
                (3, true) => 1.5,
                (2, false) => 1.9,
                _ => 0.0,
            })
            .collect()
    }
    let toy = Toy::new(8, leaning);
    let first = |guidance| {
        let settings = Denoising { guidance, ..by(Rule::Fixed { steps: 1 }) };
        fill(&toy, settings, &Canvas::after(&[7], 1))
    };
    assert_eq!((first(0.0).tokens, first(0.0).counters.forwards), (vec![2], 1));
    // u + (1 + w)(c - u): token 2 has 1.9 + 0.1 (1 + w), token 3 has 1.5 (1 + w).
    assert_eq!((first(1.0).tokens, first(1.0).counters.forwards), (vec![3], 2));
    let model = masked("families/llama_gqa", Some(8), true);
    let denoiser = Masked::new(&model).expect("masked");
    let canvas = Canvas::after(&unmasked_prompt(&model, 11), 14);
    let with = |guidance| fill(&denoiser, Denoising { guidance, ..by(Rule::Fixed { steps: 14 }) }, &canvas);
    assert_ne!(with(0.0).tokens, with(3.0).tokens);
    assert_eq!(with(3.0).counters.forwards, 2 * with(0.0).counters.forwards);
}

/// End token 2 is the likeliest everywhere from place 6 on, and the surest of all.
fn early_end(_: &[u32], place: usize, vocabulary: usize) -> Vec<f32> {
    (0..vocabulary).map(|t| if t == 2 && place >= 6 { 9.0 } else { 4.0 * hash(place, t, 0) }).collect()
}

#[test]
fn end_tokens_by_each_rule() {
    let toy = Toy::new(20, early_end);
    let ending = tokenizer(20).with_special_tokens(None, vec![2]).expect("in the vocabulary");
    let run = |ends, until_end, rule| {
        let settings = Denoising { ends, until_end, block: Some(30), ..by(rule) };
        let filler = Filler::new(&toy, &ending, settings, Vec::new()).expect("settings");
        filler.fill(&Canvas::after(&[1], 30), &mut quiet).expect("fills")
    };
    let one = Rule::Fixed { steps: 30 };
    let until = run(Ends::Free, true, one);
    assert_eq!((until.tokens.len(), &until.finish), (6, &Finish::EndToken(2)));
    assert!(until.counters.forwards < 30, "the tail is not written");
    let whole = run(Ends::Free, false, one);
    assert_eq!((&whole.tokens, whole.counters.forwards), (&until.tokens, 30));
    let last = run(Ends::Last, false, one);
    assert_eq!(last.tokens, until.tokens);
    // In blocks too: those behind the end token are filled, and nothing is told before.
    let blocks = |until_end| {
        let settings = Denoising { until_end, block: Some(10), ..by(one) };
        let filler = Filler::new(&toy, &ending, settings, Vec::new()).expect("settings");
        let mut told = Vec::new();
        let done = filler.fill(&Canvas::after(&[1], 30), &mut |event| {
            match event {
                Event::Step(_) => told.push(0),
                Event::Fixed { .. } => *told.last_mut().expect("a step before") += 1,
                _ => {}
            }
            ControlFlow::Continue(())
        });
        (done.expect("fills"), told)
    };
    let (until, _) = blocks(true);
    let (whole, told) = blocks(false);
    assert_eq!((&whole.tokens, &whole.finish, whole.counters.forwards), (&until.tokens, &Finish::EndToken(2), 30));
    assert!(until.counters.forwards <= 10 && told[..29].iter().all(|told| *told == 0), "{told:?}");
    let never = run(Ends::Never, true, one);
    assert_eq!((never.tokens.len(), &never.finish), (30, &Finish::Length));
    assert!(!never.tokens.contains(&2));
    // Committed last even at a temperature.
    let settings = Denoising { ends: Ends::Last, until_end: false, temperature: 0.5, block: Some(30), ..by(one) };
    let mut order = Vec::new();
    Filler::new(&toy, &ending, settings, Vec::new())
        .expect("settings")
        .fill(&Canvas::after(&[1], 30), &mut |event| {
            if let Event::Step(step) = event {
                order.extend(step.changes.iter().filter_map(|c| c.new));
            }
            ControlFlow::Continue(())
        })
        .expect("fills");
    let first_end = order.iter().position(|t| *t == 2).expect("ends");
    assert!(order[first_end..].iter().all(|t| *t == 2), "{order:?}");
    // And what ends a turn, behind which the text goes on.
    let settings = Denoising { ends: Ends::Last, block: Some(30), ..by(one) };
    let mut row = Row::new(&toy, &Canvas::after(&[1], 30), settings, &[], 0).expect("row").with_turn_ends(&[2]);
    let mut order = Vec::new();
    while !row.is_over() {
        let steps = step(&toy, &mut [&mut row]).expect("steps");
        order.extend(steps.into_iter().flatten().flat_map(|step| step.changes).filter_map(|change| change.new));
    }
    let first_end = order.iter().position(|t| *t == 2).expect("ends a turn");
    assert!(first_end == 5 && order[first_end..].iter().all(|t| *t == 2) && order.len() == 30, "{order:?}");
}

#[test]
fn positions_are_counted_once_however_often_they_are_masked_again() {
    let toy = Toy::new(30, contextual);
    let rule = Rule::Ancestral { steps: 20, remasking: Remasking::Cap { eta: 0.5 } };
    let found = fill(&toy, Denoising { temperature: 1.0, ..by(rule) }, &Canvas::after(&[1], 40));
    assert_eq!((found.tokens.len(), found.counters.committed), (40, 40));
    assert!(found.counters.revised > 0);
}

#[test]
fn stop_strings_end_a_text_and_spare_the_rest() {
    let toy = Toy::new(60, independent);
    let tokenizer = endless(60);
    let run = |stop: Vec<String>| {
        let filler = Filler::new(&toy, &tokenizer, Denoising { block: Some(40), ..by(Rule::Fixed { steps: 40 }) }, stop)
            .expect("settings");
        filler.fill(&Canvas::after(&[5], 40), &mut quiet).expect("fills")
    };
    let free = run(Vec::new());
    let middle: String = free.text.chars().skip(6).take(2).collect();
    let at = free.text.find(&middle).expect("it is there");
    let stopped = run(vec!["nowhere".into(), middle.clone()]);
    assert_eq!((stopped.text.as_str(), stopped.finish), (&free.text[..at], Finish::StopString(middle)));
    assert!(stopped.counters.forwards < free.counters.forwards);
}

#[test]
fn holes_anywhere_and_what_is_given_stays() {
    let mut canvas = Canvas::default();
    canvas.text(&[4, 9]);
    canvas.holes(5);
    canvas.text(&[11, 12, 13]);
    canvas.holes(2);
    canvas.text(&[7]);
    assert_eq!(canvas.prompt(), 2);
    let toy = Toy::new(30, contextual);
    for block in [None, Some(3), Some(8)] {
        let found = fill(&toy, Denoising { block, ..by(Rule::Fixed { steps: 7 }) }, &canvas);
        assert_eq!((found.tokens.len(), &found.tokens[5..8], found.tokens[10]), (11, &[11, 12, 13][..], 7), "{block:?}");
        // What was given is not counted as written.
        assert_eq!((found.written, found.tokens_per_forward()), (7, 1.0), "{block:?}");
        assert!(!found.tokens.contains(&MASK));
        assert!(found.confidences[5..8].iter().all(|p| *p == 1.0));
    }
    // What is behind a hole is seen in it.
    let other = {
        let mut canvas = Canvas::default();
        canvas.text(&[4, 9]);
        canvas.holes(5);
        canvas.text(&[14, 12, 13]);
        canvas.holes(2);
        canvas.text(&[7]);
        canvas
    };
    let with = |canvas| fill(&toy, Denoising { ahead: Some(0), ..by(Rule::Fixed { steps: 7 }) }, canvas).tokens;
    assert_ne!(with(&canvas)[..5], with(&other)[..5]);
    // A hole at the very beginning, in a model with blocks, and whole blocks of given text.
    for name in MODELS {
        let model = masked(name, Some(4), false);
        let mut canvas = Canvas::default();
        canvas.holes(3);
        canvas.text(&unmasked_prompt(&model, 10));
        canvas.holes(2);
        let found = fill(&Masked::new(&model).expect("masked"), by(Rule::Fixed { steps: 5 }), &canvas);
        assert_eq!((found.tokens.len(), &found.tokens[3..13]), (15, &unmasked_prompt(&model, 10)[..]), "{name}");
    }
    // Nothing to fill.
    let full = fill(&toy, by(Rule::Fixed { steps: 1 }), &Canvas::after(&[3, 4], 0));
    assert_eq!((full.tokens.len(), full.counters.forwards, full.finish), (0, 0, Finish::Length));
}

/// Prefers 3, and 4 where a 3 is visible.
fn changeable(tokens: &[u32], _: usize, vocabulary: usize) -> Vec<f32> {
    let best = if tokens.contains(&3) || tokens.contains(&4) { 4 } else { 3 };
    (0..vocabulary as u32).map(|t| if t == best { 9.0 } else { 0.0 }).collect()
}

#[test]
fn committed_tokens_are_edited_and_masked_again() {
    let toy = Toy::new(10, changeable);
    let canvas = Canvas::after(&[1], 6);
    let plain = fill(&toy, by(Rule::Fixed { steps: 6 }), &canvas);
    assert_eq!(plain.tokens, [3, 4, 4, 4, 4, 4]);
    let edited = fill(&toy, Denoising { editing: Some(Editing { at: 0.9, passes: 2 }), ..by(Rule::Fixed { steps: 6 }) }, &canvas);
    assert_eq!((edited.tokens.as_slice(), edited.counters.revised), (&[4; 6][..], 1));
    // A pass that changes nothing is the last, however many were asked for.
    assert_eq!(edited.counters.forwards, 7);
    // At once, so that only a pass behind the last mask can correct it.
    let late =
        |passes| fill(&toy, Denoising { editing: Some(Editing { at: 0.9, passes }), ..by(Rule::Threshold { at: 0.5 }) }, &canvas);
    assert_eq!((late(0).tokens, late(1).tokens), (vec![3; 6], vec![4; 6]));
    assert_eq!([0, 1, 2, 3, 1000].map(|passes| late(passes).counters.forwards), [1, 2, 3, 3, 3]);
    let remasked = |remasking| fill(&toy, Denoising { seed: 4, ..by(Rule::Ancestral { steps: 30, remasking }) }, &canvas);
    for remasking in [Remasking::Cap { eta: 0.5 }, Remasking::Rescale { eta: 0.5 }, Remasking::Doubtful] {
        let found = remasked(remasking);
        assert!(found.counters.revised > 0 && !found.tokens.contains(&MASK), "{remasking:?}");
        assert_eq!((found.tokens.len(), found.counters.forwards <= 30), (6, true));
    }
    assert_eq!(remasked(Remasking::Never).counters.revised, 0);
}

#[test]
fn events_tell_the_whole_story() {
    let toy = Toy::new(40, contextual);
    let tokenizer = endless(40);
    let settings = Denoising { block: Some(8), editing: Some(Editing { at: 0.2, passes: 1 }), ..by(Rule::Fixed { steps: 12 }) };
    let filler = Filler::new(&toy, &tokenizer, settings, Vec::new()).expect("settings");
    let mut standing: Vec<Option<u32>> = vec![None; 20];
    let (mut fixed, mut text, mut steps) = (Vec::new(), String::new(), Vec::<Step>::new());
    let mut done = None;
    let written = filler
        .fill(&Canvas::after(&[1, 2, 3], 20), &mut |event| {
            match event {
                Event::Step(step) => {
                    for Change { index, old, new, confidence, entropy } in step.changes.iter().copied() {
                        assert_eq!(standing[index], old);
                        assert!((0.0..=1.0).contains(&confidence) && entropy >= 0.0);
                        assert!(index >= fixed.len(), "what is final does not change");
                        standing[index] = new;
                    }
                    for ghost in &step.ghosts {
                        assert!(standing[ghost.index].is_none() && index_in_block(ghost.index, step.block));
                    }
                    steps.push(step);
                }
                Event::Fixed { index, token, .. } => {
                    assert_eq!((index, standing[index]), (fixed.len(), Some(token)));
                    fixed.push(token);
                }
                Event::Text(piece) => text.push_str(&piece),
                Event::Done(finish) => done = Some(finish),
            }
            ControlFlow::Continue(())
        })
        .expect("fills");
    assert_eq!((&fixed, &text, done), (&written.tokens, &written.text, Some(written.finish.clone())));
    assert_eq!(text, tokenizer.decode(&fixed, true));
    assert!(
        steps.windows(2).all(|w| w[0].step + 1 == w[1].step && w[0].forwards < w[1].forwards && w[0].settled <= w[1].settled)
    );
    assert_eq!((steps.last().map(|s| (s.forwards, s.settled))), Some((written.counters.forwards, 20)));
    assert!(steps.iter().any(|s| !s.ghosts.is_empty()));
    // A listener may end it.
    let ended = filler.fill(&Canvas::after(&[1, 2, 3], 20), &mut |event| match event {
        Event::Step(step) if step.step == 6 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(ended.expect("fills").finish, Finish::Cancelled);
}

fn index_in_block(index: usize, block: usize) -> bool {
    index / 8 == block
}

#[test]
fn bad_input_is_refused_with_what_to_do() {
    let toy = Toy::new(10, contextual);
    let tokenizer = endless(10);
    let refused = |toy: &Toy, settings: Denoising, canvas: Canvas| -> String {
        let filler = match Filler::new(toy, &tokenizer, settings, Vec::new()) {
            Ok(filler) => filler,
            Err(error) => return error.to_string(),
        };
        filler.fill(&canvas, &mut quiet).expect_err("refused").to_string()
    };
    let plain = || Canvas::after(&[1, 2], 6);
    let zero = refused(&toy, by(Rule::Fixed { steps: 0 }), plain());
    assert!(zero.contains("steps: expected at least 1") && zero.contains("found 0"), "{zero}");
    let long = refused(&toy, Denoising { block: Some(7), ..Denoising::default() }, plain());
    assert!(long.contains("block: expected at most the 6 positions") && long.contains("found 7"), "{long}");
    let holding = refused(&toy, Denoising::default(), Canvas::after(&[1, MASK, 2], 6));
    assert!(holding.contains("prompt: expected no mask token (0)") && holding.contains("position 1"), "{holding}");
    let mut outside = Toy::new(10, contextual);
    outside.shape.mask_token = 10;
    let outside = refused(&outside, Denoising::default(), plain());
    assert!(
        outside.contains("mask token: expected an id below the model's 10 tokens") && outside.contains("found 10"),
        "{outside}"
    );
    let strange = refused(&toy, Denoising::default(), Canvas::after(&[1, 77], 6));
    assert!(strange.contains("tokens below 10") && strange.contains("77 at position 1"), "{strange}");
    assert!(refused(&toy, Denoising::default(), Canvas::default()).contains("empty"));
    let many = refused(&toy, Denoising::default(), Canvas::after(&[1], usize::MAX));
    assert!(many.contains("text: expected at most 1048576 positions"), "{many}");
    for settings in [
        by(Rule::Threshold { at: f32::NAN }),
        by(Rule::Factor { at: -1.0 }),
        by(Rule::Entropy { at: -0.1 }),
        by(Rule::Hierarchical { high: 0.2, low: 0.9 }),
        by(Rule::Ancestral { steps: 5, remasking: Remasking::Cap { eta: 2.0 } }),
        Denoising { ends: Ends::Last, ..by(Rule::Ancestral { steps: 5, remasking: Remasking::Never }) },
        Denoising { block: Some(0), ..Denoising::default() },
        Denoising { temperature: -1.0, ..Denoising::default() },
        Denoising { top_p: Some(0.0), ..Denoising::default() },
        Denoising { guidance: -1.0, ..Denoising::default() },
        Denoising { editing: Some(Editing { at: 1.5, passes: 0 }), ..Denoising::default() },
        Denoising { editing: Some(Editing { at: 0.5, passes: 1025 }), ..Denoising::default() },
    ] {
        assert!(settings.check().is_err(), "{settings:?}");
    }
    // A block longer than the model's own, and a model that does not denoise.
    let model = masked("families/llama_gqa", Some(4), false);
    let denoiser = Masked::new(&model).expect("masked");
    let filler =
        Filler::new(&denoiser, &tokenizer, Denoising { block: Some(8), ..Denoising::default() }, Vec::new()).expect("settings");
    let error = filler.fill(&Canvas::after(&[1], 20), &mut quiet).expect_err("refused").to_string();
    assert!(error.contains("at most 4") && error.contains("found 8"), "{error}");
    // What only models of whole sequences can do.
    for (settings, words) in [
        (
            Denoising { keep: Keep::Around, ..Denoising::default() },
            ["keep: expected nothing of a model with blocks", "found around"],
        ),
        (Denoising { ahead: Some(0), ..Denoising::default() }, ["ahead: expected none of a model with blocks", "found 0"]),
    ] {
        let filler = Filler::new(&denoiser, &tokenizer, settings, Vec::new()).expect("settings");
        let error = filler.fill(&Canvas::after(&[1], 20), &mut quiet).expect_err("refused").to_string();
        assert!(words.iter().all(|words| error.contains(words)), "{error}");
    }
    let next_token = common::model("families/llama_gqa");
    let error = Masked::new(&next_token).err().expect("refused").to_string();
    assert!(error.contains("trained to denoise") && error.contains("next-token"), "{error}");
    // Broken weights.
    let broken = Toy::new(10, |_, _, vocabulary| vec![f32::NAN; vocabulary]);
    assert!(refused(&broken, Denoising::default(), plain()).contains("NaN"));
    // Unknown settings.
    assert!(serde_json::from_str::<Denoising>(r#"{"rule": {"name": "fixed", "steps": 3}, "blok": 4}"#).is_err());
    assert!(serde_json::from_str::<Denoising>(r#"{"rule": {"name": "fixed", "step": 3}}"#).is_err());
    assert_eq!(
        serde_json::from_str::<Denoising>(r#"{"rule": {"name": "entropy", "at": 0.1}}"#).expect("reads").rule,
        Rule::Entropy { at: 0.1 }
    );
}
