//! Uniform noise on tables of logits: the process against an exact joint distribution, what the rules decide anew, refusals.

mod common;

use common::{by, endless, fill, quiet};
use recast_infer::InferError;
use recast_infer::samplers::denoising::{
    Candidate, Canvas, Denoiser, Denoising, Editing, Ends, Filler, Read, Remasking, Row, Rule, Shape, View, step,
};
use std::cell::RefCell;
use std::ops::ControlFlow;

const MASK: u32 = 2;

/// Logits of a place from what stands everywhere and the number of passes so far; what it was shown is kept.
struct Table<F> {
    vocabulary: usize,
    logits: F,
    seen: RefCell<Vec<Vec<u32>>>,
}

impl<F: Fn(&[u32], usize, usize) -> Vec<f32>> Table<F> {
    fn new(vocabulary: usize, logits: F) -> Self {
        Self { vocabulary, logits, seen: RefCell::default() }
    }

    /// What the first row held in each pass.
    fn passes(&self) -> Vec<Vec<u32>> {
        self.seen.borrow().clone()
    }
}

impl<F: Fn(&[u32], usize, usize) -> Vec<f32>> Denoiser for Table<F> {
    type State = ();

    fn shape(&self) -> Shape {
        Shape { vocabulary: self.vocabulary, mask_token: MASK, uniform: true, block: None }
    }

    fn begin(&self) {}

    fn advance(&self, _: &[&[u32]], _: &mut [&mut ()]) -> Result<(), InferError> {
        Ok(())
    }

    fn around(&self, _: &[u32], _: std::ops::Range<usize>) -> Result<(), InferError> {
        unreachable!("not asked for")
    }

    fn predict(&self, views: &[View<'_, ()>], read: &Read<'_>) -> Result<Vec<Vec<Candidate>>, InferError> {
        let pass = self.seen.borrow().len();
        self.seen.borrow_mut().push(views[0].tokens.to_vec());
        let one = |v: usize, index: usize| read(v, index, &mut (self.logits)(views[v].tokens, views[v].wanted[index], pass));
        (0..views.len()).map(|v| (0..views[v].wanted.len()).map(|index| one(v, index)).collect()).collect()
    }
}

/// Ids that a text may hold: [`MASK`] lies among them.
const WORDS: [u32; 4] = [0, 1, 3, 4];

/// Two words that go together: twelve times in thirteen the second is the first one's successor.
fn joint(first: usize, second: usize) -> f64 {
    let whole = if second == (first + 1) % 4 { 12.0 } else { 1.0 / 3.0 };
    whole / 13.0 * [0.1, 0.2, 0.3, 0.4][first]
}

/// The exact posterior of place `place`'s clean word, in logits, where a word has been noised with probability `1 - t`.
fn posterior(tokens: &[u32], place: usize, t: f64) -> Vec<f32> {
    let mut logits = vec![f32::NEG_INFINITY; 5];
    for (word, id) in WORDS.iter().enumerate() {
        let chance = |clean: usize, noisy: u32| t * f64::from(u8::from(WORDS[clean] == noisy)) + (1.0 - t) / 4.0;
        let sum: f64 = (0..4)
            .map(|other| {
                let [first, second] = if place == 0 { [word, other] } else { [other, word] };
                joint(first, second) * chance(first, tokens[0]) * chance(second, tokens[1])
            })
            .sum();
        logits[*id as usize] = sum.ln() as f32;
    }
    logits
}

#[test]
fn euler_steps_bring_the_joint_distribution() {
    let far = |steps: usize| -> f64 {
        let table = Table::new(5, move |tokens: &[u32], place, pass| posterior(tokens, place, pass as f64 / steps as f64));
        let tokenizer = endless(5);
        let settings = Denoising { temperature: 1.0, ..by(Rule::Ancestral { steps, remasking: Remasking::Never }) };
        let filler = Filler::new(&table, &tokenizer, settings, Vec::new()).expect("settings");
        let draws = 12_000;
        let all = filler.fill_batch(&vec![Canvas::after(&[], 2); draws], &mut |_, _| ControlFlow::Continue(())).expect("fills");
        assert!(all.iter().all(|text| text.counters.forwards == steps && text.counters.committed == 2));
        let share = |first: usize, second: usize| {
            all.iter().filter(|text| text.tokens == [WORDS[first], WORDS[second]]).count() as f64 / draws as f64
        };
        (0..16).map(|i| (share(i / 4, i % 4) - joint(i / 4, i % 4)).abs()).sum::<f64>() / 2.0
    };
    // Of 16 shares of 12,000 draws the total variation is about 0.01 by chance.
    let found = [1, 4, 64].map(far);
    assert!(found[2] < 0.03, "{found:?}");
    // In one step both words are drawn by themselves.
    assert!(found[0] > 0.4 && found[1] > 2.0 * found[2], "{found:?}");
}

/// A number in [0, 3) of a place and a token.
fn independent(_: &[u32], place: usize, _: usize) -> Vec<f32> {
    (0..40).map(|token| ((place * 7919 + token * 104_729) % 1009) as f32 / 336.0).collect()
}

#[test]
fn every_rule_ends_and_writes_what_is_likeliest_where_places_do_not_matter_to_each_other() {
    let table = Table::new(40, independent);
    let best: Vec<u32> = (3..40)
        .map(|place| {
            let logits = independent(&[], place, 0);
            let ids = (0..40u32).filter(|id| *id != MASK);
            ids.max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]).then(b.cmp(a))).expect("some")
        })
        .collect();
    let run = |block: Option<usize>, rule: Rule| {
        let found = fill(&table, Denoising { block, ..by(rule) }, &Canvas::after(&[3, 5, 8], 37));
        assert_eq!(found.tokens, best, "{rule:?}");
        assert_eq!(found.counters.committed, 37);
        found.counters.forwards
    };
    // One more a step at their limits, all at once at the others.
    for rule in [
        Rule::Threshold { at: 1.5 },
        Rule::Factor { at: 0.0 },
        Rule::Entropy { at: 0.0 },
        Rule::Hierarchical { high: 1.5, low: 1.5 },
        Rule::Fixed { steps: 37 },
        Rule::Random { steps: 37 },
    ] {
        assert_eq!(run(Some(16), rule), 37, "{rule:?}");
    }
    for rule in
        [Rule::Threshold { at: 0.0 }, Rule::Factor { at: 1e9 }, Rule::Entropy { at: f32::INFINITY }, Rule::Fixed { steps: 3 }]
    {
        assert_eq!(run(Some(16), rule), 3, "{rule:?}");
    }
    assert_eq!(run(None, Rule::Ancestral { steps: 9, remasking: Remasking::Never }), 9);
    // Steps that bring nothing are not taken.
    assert_eq!(run(Some(16), Rule::Fixed { steps: 100 }), 37);
}

#[test]
fn what_is_not_kept_is_noise_of_its_own_in_every_step() {
    let table = Table::new(40, independent);
    let mut canvas = Canvas::after(&[3, 5], 6);
    canvas.text(&[7, 8]);
    canvas.holes(4);
    let text = fill(&table, by(Rule::Fixed { steps: 10 }), &canvas).tokens;
    let passes = table.passes();
    assert_eq!(passes.len(), 10);
    let given = [(0, 3), (1, 5), (8, 7), (9, 8)];
    for (at, tokens) in passes.iter().enumerate() {
        assert!(!tokens.contains(&MASK) && given.iter().all(|&(place, token)| tokens[place] == token), "{tokens:?}");
        let kept = (2..14).filter(|&p| p != 8 && p != 9 && tokens[p] == text[p - 2]).count();
        // Random tokens are right once in 39 times.
        assert!(kept >= at && kept <= at + 3, "{at}: {kept} of {text:?} in {tokens:?}");
    }
    let fresh = (2..8).filter(|&p| passes[0][p] != passes[1][p]).count();
    assert!(fresh >= 5, "{:?}", &passes[..2]);
    // The process itself keeps its noise until it jumps.
    let table = Table::new(40, independent);
    let text = fill(&table, by(Rule::Ancestral { steps: 10, remasking: Remasking::Never }), &canvas).tokens;
    let passes = table.passes();
    for pair in passes.windows(2) {
        assert!((2..14).all(|p| pair[1][p] == pair[0][p] || pair[1][p] == text[p - 2]), "{pair:?}");
    }
}

#[test]
fn what_is_written_is_decided_anew() {
    // Place 1 is sure of 5; the others of 6 once it stands there, and of 3 before.
    let table = Table::new(10, |tokens: &[u32], place: usize, _| {
        let best = if place == 1 {
            5
        } else if tokens[1] == 5 {
            6
        } else {
            3
        };
        (0..10).map(|id| if id == best { if place == 1 { 9.0 } else { 6.0 } } else { 0.0 }).collect()
    });
    let with = |settings: Denoising| fill(&table, settings, &Canvas::after(&[4], 3));
    let seed = (0..).find(|&seed| {
        let row: Row<()> =
            Row::new(&table, &Canvas::after(&[4], 3), Denoising { seed, ..Denoising::default() }, &[], 0).expect("row");
        let before = table.passes().len();
        let mut row = row;
        step(&table, &mut [&mut row]).expect("steps");
        table.passes()[before][1] != 5
    });
    let settings = Denoising { seed: seed.expect("noise that is not 5"), ..by(Rule::Fixed { steps: 2 }) };
    let found = with(settings.clone());
    assert_eq!((found.tokens.as_slice(), found.counters.revised), (&[5, 6, 6][..], 1));
    // All in one pass knows nothing of that; passes behind it mend it.
    let once = Denoising { rule: Rule::Fixed { steps: 1 }, ..settings };
    assert_eq!(with(once.clone()).tokens, [5, 3, 3]);
    let mended = with(Denoising { editing: Some(Editing { at: 0.5, passes: 1 }), ..once });
    assert_eq!((mended.tokens.as_slice(), mended.counters.forwards), (&[5, 6, 6][..], 2));
}

#[test]
fn a_seed_is_a_text_and_the_steps_tell_how_it_came_about() {
    let table = Table::new(40, |tokens: &[u32], place: usize, _| {
        let all: usize = tokens.iter().enumerate().map(|(i, &token)| (i + 1) * token as usize).sum();
        (0..40).map(|id| ((place * 31 + id * 17 + all) % 97) as f32 / 12.0).collect()
    });
    let run = |rule, seed| {
        let settings = Denoising { temperature: 1.0, seed, ..by(rule) };
        let mut row: Row<()> = Row::new(&table, &Canvas::after(&[1, 0], 40), settings, &[], 0).expect("row");
        let mut standing: Vec<Option<u32>> = vec![None; 40];
        let mut revised = 0;
        while !row.is_over() {
            let taken = step(&table, &mut [&mut row]).expect("steps").pop().flatten().expect("a step");
            for change in &taken.changes {
                assert_eq!(standing[change.index], change.old);
                assert_ne!(change.old, change.new, "nothing that stays is told");
                revised += usize::from(change.old.is_some());
                standing[change.index] = change.new;
            }
            assert!(taken.ghosts.iter().all(|ghost| standing[ghost.index].is_none()));
        }
        assert_eq!(row.counters().revised, revised);
        let text: Vec<u32> = standing.into_iter().map(|token| token.expect("written")).collect();
        assert_eq!(row.settled().0, text);
        (text, revised)
    };
    for rule in [Rule::Threshold { at: 0.3 }, Rule::Ancestral { steps: 12, remasking: Remasking::Never }] {
        assert_eq!(run(rule, 3), run(rule, 3));
        assert_ne!(run(rule, 3).0, run(rule, 4).0);
        assert!(run(rule, 3).1 > 0);
    }
}

#[test]
fn an_end_that_was_written_too_early_may_go() {
    const END: u32 = 7;
    // The first pass is sure that the text ends at place 3, the others that it does not.
    let table = Table::new(10, |_: &[u32], place: usize, pass| {
        let (best, sure) = match (place, pass) {
            (3, 0) => (END, 9.0),
            (3, _) => (5, 9.0),
            _ => (4, 4.0),
        };
        (0..10).map(|id| if id == best { sure } else { 0.0 }).collect()
    });
    let written = |settings: Denoising| {
        table.seen.borrow_mut().clear();
        let mut row: Row<()> = Row::new(&table, &Canvas::after(&[1], 6), settings, &[END], 0).expect("row");
        let mut ended = false;
        while !row.is_over() {
            let taken = step(&table, &mut [&mut row]).expect("steps").pop().flatten().expect("a step");
            ended |= taken.changes.iter().any(|change| change.new == Some(END));
        }
        (row.settled().0.to_vec(), ended)
    };
    for until_end in [true, false] {
        let found = written(Denoising { until_end, ..by(Rule::Fixed { steps: 4 }) });
        assert_eq!(found, (vec![4, 4, 5, 4, 4, 4], true), "until_end {until_end}");
    }
    // In one pass nobody asks again; kept back, it is not written at all.
    assert_eq!(written(by(Rule::Fixed { steps: 1 })), (vec![4, 4, END], true));
    let last = Denoising { ends: Ends::Last, until_end: false, ..by(Rule::Fixed { steps: 4 }) };
    assert_eq!(written(last), (vec![4, 4, 5, 4, 4, 4], false));
}

#[test]
fn end_tokens_that_come_last_come_and_end_it() {
    // Nothing but ends is left from place 4 on.
    let table = Table::new(10, |_: &[u32], place: usize, _| {
        let best = if place < 4 { 4 } else { 7 };
        (0..10).map(|id| if id == best { 6.0 + place as f32 } else { 0.0 }).collect()
    });
    for until_end in [true, false] {
        for rule in [Rule::Fixed { steps: 8 }, Rule::Threshold { at: 0.5 }, Rule::Hierarchical { high: 0.9, low: 0.5 }] {
            let settings = Denoising { ends: Ends::Last, until_end, ..by(rule) };
            let mut row: Row<()> = Row::new(&table, &Canvas::after(&[1], 8), settings, &[7], 0).expect("row");
            while !row.is_over() {
                step(&table, &mut [&mut row]).expect("steps");
            }
            let tokens = row.settled().0;
            assert!(tokens.starts_with(&[4, 4, 4, 7]) && row.counters().forwards <= 8, "{rule:?}: {tokens:?}");
        }
    }
}

#[test]
fn what_needs_masks_is_refused() {
    let table = Table::new(40, independent);
    let tokenizer = endless(40);
    let refused = |settings: Denoising| {
        let filler = Filler::new(&table, &tokenizer, settings, Vec::new()).expect("settings");
        filler.fill(&Canvas::after(&[1], 8), &mut quiet).expect_err("refused").to_string()
    };
    let guided = refused(Denoising { guidance: 0.5, ..Denoising::default() });
    assert!(guided.contains("guidance: expected 0") && guided.contains("uniform noise"), "{guided}");
    let early = refused(Denoising { editing: Some(Editing { at: 0.5, passes: 0 }), ..Denoising::default() });
    assert!(early.contains("editing passes: expected at least 1"), "{early}");
    let remasked = refused(by(Rule::Ancestral { steps: 4, remasking: Remasking::Doubtful }));
    assert!(remasked.contains("remasking: expected none") && remasked.contains("uniform noise"), "{remasked}");
}
