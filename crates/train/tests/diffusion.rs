//! Masked diffusion against its definition: oracles that know the answer (independent tokens, uniform
//! logits, autoregression), the loss worked out position by position from plain logits, and what noise
//! promises.

use burn::tensor::{Device, Tensor};
use recast_models::likelihood::{self, Options};
use recast_models::mixers::softmax::{self, Softmax};
use recast_models::mixers::{Call, Kind, LayerContext, Mixer, Registration, Streams, register};
use recast_models::param::{Named, values};
use recast_models::random::Random;
use recast_models::sight::Sight;
use recast_models::source::{Builder, FromParams, Missing};
use recast_models::state::{Documents, ModelState};
use recast_models::{Diffusion, MixerSpec, Model, ModelError, families};
use recast_text::{TokenFile, TokenStream};
use recast_train::objectives::masked_diffusion::{Draw, Noise, NoiseSchedule, Per, Shape, Source, Times, Weighting, noise};
use recast_train::objectives::{Loss, MicroBatch, Objective};
use recast_train::optimizer::Gradients;
use recast_train::recipe::Validation;
use recast_train::validate::HeldOut;
use serde_json::json;
use std::sync::Arc;

const VOCABULARY: usize = 31;
const MASK: u32 = 30;

/// A small model with random parameters.
fn model(mixer: &str, diffusion: Option<Diffusion>) -> Model {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "rms_norm_eps": 1e-5, "rope_theta": 100.0, "tie_word_embeddings": false,
    });
    let mut config = families::parse(&config).expect("config");
    config.mixers = vec![MixerSpec::new(mixer); 2];
    config.family = "recast".into();
    config.diffusion = diffusion;
    let model = Model::build(config, &FromParams::default(), Missing::Initialise { seed: 3 }, &Device::flex()).expect("model");
    for (name, param) in model.parameters() {
        let mut random = Random::new(5, &name);
        let sides: Vec<usize> = param.stored_shape().iter().copied().filter(|&n| n > 1).collect();
        let scale = if sides.len() < 2 { 0.2 } else { (2.0 / (sides[0] + sides[1]) as f64).sqrt() };
        param.update(&mut |x| x.iter_mut().for_each(|x| *x += (scale * random.normal()) as f32));
    }
    model
}

fn whole(shift: bool) -> Option<Diffusion> {
    Some(Diffusion { mask_token: MASK, block: None, shift, uniform: false })
}

fn blocks(block: usize, shift: bool) -> Option<Diffusion> {
    Some(Diffusion { mask_token: MASK, block: Some(block), shift, uniform: false })
}

fn set(model: &Model, name: &str, change: &mut dyn FnMut(&mut [f32])) {
    let params = model.parameters();
    params.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1.update(change);
}

fn batch(rows: usize, columns: usize, step: u64) -> MicroBatch {
    let mut random = Random::new(17, "tokens");
    let tokens: Vec<u32> = (0..rows * (columns + 1)).map(|_| (random.bits() % 30) as u32).collect();
    let pick = |shift: usize| tokens.chunks(columns + 1).flat_map(|row| row[shift..shift + columns].to_vec()).collect::<Vec<_>>();
    MicroBatch {
        rows,
        inputs: pick(0),
        targets: pick(1).into(),
        documents: None,
        weights: None,
        denominator: (rows * columns) as f32,
        prompt: None,
        response_share: None,
        lengths: None,
        draw: Draw { seed: 1, step, steps: 1000, first_row: 0, rows },
    }
}

fn plain() -> Noise {
    Noise { random_length: 0.0, ..Noise::default() }
}

fn run(model: &Model, batch: &MicroBatch, noise: &Noise) -> Loss {
    Objective::MaskedDiffusion.gradients(model, None, batch, &[], false, Some(noise), &mut Gradients::default()).expect("loss")
}

/// `-ln p` of every row of logits' target.
fn losses(logits: &[f32], targets: &[u32]) -> Vec<f64> {
    logits
        .chunks(VOCABULARY)
        .zip(targets)
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .collect()
}

fn mean_and_error(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    (mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

/// Oracle i: where tokens are independent of all others the likelihood is known, and every estimator
/// and every variant of the loss has it as its mean.
#[test]
fn estimators_agree_with_the_exact_likelihood() {
    for (name, diffusion) in [
        ("whole", whole(false)),
        ("whole, shifted", whole(true)),
        ("blocks", blocks(8, false)),
        ("blocks, shifted", blocks(5, true)),
    ] {
        let shift = diffusion.as_ref().is_some_and(|d| d.shift);
        let model = model("softmax", diffusion.clone());
        // Every token looks alike, so no position knows anything of the others.
        set(&model, "model.embed_tokens.weight", &mut |x| {
            let first = x[..24].to_vec();
            x.chunks_mut(24).for_each(|row| row.copy_from_slice(&first));
        });
        let one = batch(1, 32, 0);
        let hidden = model.hidden_seeing(&one.inputs, 1, Sight::Causal, None, None).expect("forward");
        let each = losses(&values(model.logits(hidden)), &one.inputs);
        let exact: f64 = each[usize::from(shift)..].iter().sum();
        let found =
            likelihood::estimate(&model, &one.inputs, 0, Options { samples: 256, ..Options::default() }).expect("estimate");
        assert!((found.nats - exact).abs() < 4.0 * found.error + 1e-3, "{name}: {found:?}, exact {exact}");
        assert!(found.error > 1e-2 && found.positions == 32 - usize::from(shift), "{name}: {found:?}");
        for (variant, noise) in [
            ("LLaDA's", Noise { times: Times::Independent, time_per: Some(Per::Sequence), ..plain() }),
            ("stratified", plain()),
            ("complementary", Noise { complementary: true, ..plain() }),
            ("cosine", Noise { schedule: NoiseSchedule::Cosine, ..plain() }),
            ("square", Noise { schedule: NoiseSchedule::Square, ..plain() }),
        ] {
            if diffusion.as_ref().is_some_and(|d| d.block.is_some()) && variant == "complementary" {
                continue;
            }
            let draws: Vec<f64> = (0..60)
                .map(|step| {
                    let mut many = batch(16, 32, step);
                    many.inputs = one.inputs.repeat(16);
                    many.targets = one.targets.repeat(16).into();
                    run(&model, &many, &noise).value * 32.0
                })
                .collect();
            let (mean, error) = mean_and_error(&draws);
            // Times start at epsilon, which loses a thousandth of the mass.
            assert!((mean - exact).abs() < 4.5 * error + 3e-3 * exact, "{name}, {variant}: {mean} +- {error}, exact {exact}");
        }
    }
}

/// The exact-count form has no variance where all tokens are equally hard.
#[test]
fn equal_losses_have_no_variance() {
    let model = model("softmax", whole(false));
    set(&model, "model.embed_tokens.weight", &mut |x| {
        let first = x[..24].to_vec();
        x.chunks_mut(24).for_each(|row| row.copy_from_slice(&first));
    });
    let found = likelihood::estimate(&model, &[7; 40], 0, Options { samples: 16, ..Options::default() }).expect("estimate");
    assert!(found.error < 1e-3 * found.nats, "{found:?}");
    // However much was masked.
    let each = found.nats / found.positions as f64;
    assert!(found.quarters.means().iter().all(|nats| nats.is_some_and(|nats| (nats - each).abs() < 1e-3 * each)), "{found:?}");
}

/// Tokens are counted under the share that was masked with them.
#[test]
fn quarters_are_those_of_the_counts() {
    let model = model("softmax", whole(false));
    let found = likelihood::estimate(&model, &batch(1, 24, 0).inputs, 0, Options { samples: 24, ..Options::default() })
        .expect("estimate");
    // Every count from 1 to 24 once, each term of the bound weighing 24 / count.
    let [a, b, c, d] = found.quarters.means().map(|nats| nats.expect("masked"));
    let untrained = (VOCABULARY as f64).ln();
    assert!([a, b, c, d].iter().all(|nats| (nats - untrained).abs() < 0.5 * untrained), "{found:?}");
    let mean = [a, b, c, d].iter().sum::<f64>() / 4.0;
    assert!((mean - found.nats / 24.0).abs() < 0.1 * mean, "{mean} against {found:?}");
}

/// Oracle ii: uniform logits give ln V.
#[test]
fn uniform_logits_give_the_logarithm_of_the_vocabulary() {
    for diffusion in [whole(false), whole(true), blocks(4, false), blocks(4, true)] {
        let model = model("rwkv7", diffusion.clone());
        set(&model, "lm_head.weight", &mut |x| x.fill(0.0));
        let batch = batch(4, 24, 0);
        let wanted = (VOCABULARY as f64).ln();
        let found =
            likelihood::estimate(&model, &batch.inputs[..24], 5, Options { samples: 8, ..Options::default() }).expect("estimate");
        assert!((found.nats / found.positions as f64 - wanted).abs() < 1e-5, "{diffusion:?}: {found:?}");
        assert_eq!(found.positions, 19);
        // By the weights themselves, noise has a mean of 1 a position.
        let draws: Vec<f64> = (0..200)
            .map(|step| run(&model, &MicroBatch { draw: Draw { step, ..batch.draw }, ..self::batch(4, 24, 0) }, &plain()).value)
            .collect();
        let (mean, error) = mean_and_error(&draws);
        let share = if diffusion.as_ref().is_some_and(|d| d.shift) { 23.0 / 24.0 } else { 1.0 };
        assert!(
            (mean - wanted * share).abs() < 4.5 * error + 4e-3 * wanted,
            "{diffusion:?}: {mean} +- {error} against {}",
            wanted * share
        );
    }
}

/// Oracle iv: blocks of one token, shifted, are autoregression, whatever the noise: the loss, its gradients and the
/// likelihood are those of a next-token model of the same weights.
#[test]
fn blocks_of_one_are_autoregression() {
    for mixer in ["softmax", "rwkv7", "rwkv6", "gated_deltanet"] {
        let (diffusion, plain_model) = (model(mixer, blocks(1, true)), model(mixer, None));
        let mut batch = batch(3, 20, 0);
        let options = plain();
        let (mut found, mut wanted) = (Gradients::default(), Gradients::default());
        let loss = Objective::MaskedDiffusion
            .gradients(&diffusion, None, &batch, &diffusion.parameters(), false, Some(&options), &mut found)
            .expect("loss");
        // Of 20 tokens the last 19 are predicted.
        let mut next: Vec<u32> = batch.inputs.clone();
        next.rotate_left(1);
        batch.targets = next.into();
        batch.weights = Some((0..60).map(|i| if i % 20 == 19 { 0.0 } else { 1.0 }).collect());
        let next_token = Objective::NextToken
            .gradients(&plain_model, None, &batch, &plain_model.parameters(), false, None, &mut wanted)
            .expect("loss");
        assert!(
            (loss.value - next_token.value).abs() < 1e-5 * next_token.value,
            "{mixer}: {} against {}",
            loss.value,
            next_token.value
        );
        for noise in [
            Noise { full: 1.0, ..plain() },
            Noise { complementary: true, ..plain() },
            Noise { schedule: NoiseSchedule::Cosine, times: Times::Independent, time_per: Some(Per::Sequence), ..plain() },
        ] {
            let other = run(&diffusion, &batch, &noise).value;
            assert!((other - next_token.value).abs() < 1e-5 * next_token.value, "{mixer}, {noise:?}: {other}");
        }
        for (name, param) in plain_model.parameters() {
            let zeros = vec![0.0; param.elements()];
            let (a, b) = (found.get(&name).unwrap_or(zeros.clone()), wanted.get(&name).unwrap_or(zeros));
            let scale = b.iter().fold(1e-5f32, |m, x| m.max(x.abs()));
            let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / scale;
            assert!(worst < 1e-3, "{mixer}: gradient of {name} differs by {worst}");
        }
        let row = &batch.inputs[..20];
        let exact = likelihood::estimate(&diffusion, row, 0, Options::default()).expect("estimate");
        let hidden = plain_model.hidden(&row[..19], 1, None, None).expect("forward");
        let wanted: f64 = losses(&values(plain_model.logits(hidden)), &row[1..]).iter().sum();
        assert!(exact.exact && exact.error == 0.0 && exact.samples == 1, "{mixer}: {exact:?}");
        assert!((exact.nats - wanted).abs() < 1e-4 * wanted, "{mixer}: {exact:?} against {wanted}");
    }
}

/// The loss, position by position from plain logits: whole sequences, blocks behind their states,
/// shifted or not, with a prompt and packed documents.
#[test]
fn the_loss_is_its_definition() {
    let starts: Vec<bool> = (0..36).map(|i| i % 12 == 5).collect();
    for (mixer, diffusion) in [
        ("softmax", whole(false)),
        ("softmax", whole(true)),
        ("softmax", blocks(4, false)),
        ("softmax", blocks(5, true)),
        ("rwkv7", blocks(4, true)),
        ("rwkv6", blocks(5, false)),
        ("gated_deltanet", whole(false)),
    ] {
        let model = model(mixer, diffusion.clone());
        let Diffusion { block, shift, .. } = diffusion.expect("diffusion");
        for documents in [false, true] {
            if documents && (mixer != "softmax" || block.is_some()) {
                continue;
            }
            let mut batch = batch(3, 12, 7);
            batch.documents = documents.then(|| Documents::new(3, 12, starts.clone()));
            batch.prompt = Some((0..36).map(|i| i < 3).collect());
            let options = plain();
            let shape = Shape { columns: 12, block, mask_token: MASK, vocabulary: VOCABULARY };
            let noisy = noise(&batch.inputs, batch.prompt.as_deref(), &options, shape, batch.draw);
            let mut wanted = 0.0;
            for row in 0..3 {
                let own = row * 12..row * 12 + 12;
                let (clean, tokens) = (&batch.inputs[own.clone()], &noisy.tokens[own.clone()]);
                let logits: Vec<f32> = match block {
                    None => {
                        let documents = batch.documents.as_ref().map(|_| Documents::new(1, 12, starts[own.clone()].to_vec()));
                        values(
                            model
                                .logits(model.hidden_seeing(tokens, 1, Sight::Whole, documents.as_ref(), None).expect("forward")),
                        )
                    }
                    Some(block) => {
                        let mut state: ModelState = model.new_state();
                        let (mut out, mut before) = (Vec::new(), vec![0.0; VOCABULARY]);
                        for (tokens, clean) in tokens.chunks(block).zip(clean.chunks(block)) {
                            let mut logits = values(model.logits(model.denoise(tokens, 1, &[&state]).expect("forward")));
                            let clean =
                                values(model.logits(model.hidden(clean, 1, Some(&mut [&mut state]), None).expect("forward")));
                            if shift {
                                // Position i is predicted by i - 1, the block's first by the clean one before.
                                logits.truncate(logits.len() - VOCABULARY);
                                out.extend_from_slice(&before);
                                before = clean[clean.len() - VOCABULARY..].to_vec();
                            }
                            out.extend(logits);
                        }
                        out
                    }
                };
                for i in 0..12 {
                    let position = row * 12 + i;
                    if noisy.weights[position] == 0.0 {
                        continue;
                    }
                    let from = if block.is_none() && shift { i.wrapping_sub(1) } else { i };
                    if shift && (i == 0 || (documents && starts[position])) {
                        continue;
                    }
                    let one = losses(&logits[from * VOCABULARY..(from + 1) * VOCABULARY], &clean[i..=i])[0];
                    wanted += f64::from(noisy.weights[position]) * one / 36.0;
                }
            }
            let found = run(&model, &batch, &options).value;
            let what = format!("{mixer}, {block:?}, shift {shift}, documents {documents}");
            assert!((found - wanted).abs() < 1e-5 * wanted.max(1.0), "{what}: {found} against {wanted}");
            assert!(wanted > 0.5, "{what}: nothing was masked");
        }
    }
}

#[test]
fn noise_keeps_its_promises() {
    let clean: Vec<u32> = (0..64 * 50).map(|i| (i % 30) as u32).collect();
    let shape = Shape { columns: 50, block: None, mask_token: MASK, vocabulary: VOCABULARY };
    let draw = Draw { seed: 9, step: 4, steps: 10, first_row: 0, rows: 64 };
    let rates = |noisy: &recast_train::objectives::masked_diffusion::Noisy| -> Vec<f64> {
        noisy.noised.chunks(50).map(|row| row.iter().filter(|&&n| n).count() as f64 / 50.0).collect()
    };
    // Stratified: every sixteenth of the rates has its share of the rows, whatever the draw.
    let noisy = noise(&clean, None, &plain(), shape, draw);
    let mut times: Vec<f64> =
        noisy.weights.chunks(50).filter_map(|row| row.iter().find(|w| **w > 0.0)).map(|w| 1.0 / f64::from(*w)).collect();
    times.sort_by(f64::total_cmp);
    assert!(times.len() >= 60 && times.windows(2).all(|t| t[1] - t[0] < 2.6 / 64.0), "{times:?}");
    for (i, (&token, &noised)) in noisy.tokens.iter().zip(&noisy.noised).enumerate() {
        assert_eq!(token, if noised { MASK } else { clean[i] });
        assert_eq!(noisy.weights[i] > 0.0, noised);
    }
    // A part of the batch has the noise it has in the batch.
    let part = noise(&clean[20 * 50..30 * 50], None, &plain(), shape, Draw { first_row: 20, ..draw });
    assert_eq!(part.tokens, noisy.tokens[20 * 50..30 * 50]);
    assert_eq!(part.weights, noisy.weights[20 * 50..30 * 50]);
    // Another step has other noise.
    assert!(noise(&clean, None, &plain(), shape, Draw { step: 5, ..draw }).tokens != noisy.tokens);
    // A band of rates; complements; a prompt; all noise; blocks of their own times.
    let band = noise(&clean, None, &Noise { lowest_rate: 0.3, highest_rate: 0.6, ..plain() }, shape, draw);
    assert!(rates(&band).iter().all(|r| (0.3..=0.6).contains(r)));
    let both = noise(&clean, None, &Noise { complementary: true, ..plain() }, shape, draw);
    for pair in both.noised.chunks(100) {
        assert!((0..50).all(|i| pair[i] != pair[50 + i]));
    }
    let prompt: Vec<bool> = (0..clean.len()).map(|i| i % 50 < 20).collect();
    let kept = noise(&clean, Some(&prompt), &plain(), shape, draw);
    assert!((0..clean.len()).all(|i| !prompt[i] || (kept.tokens[i] == clean[i] && kept.weights[i] == 0.0)));
    let full = noise(&clean, None, &Noise { full: 1.0, ..plain() }, shape, draw);
    assert!(full.noised.iter().all(|&n| n) && full.weights.iter().all(|&w| w == 1.0));
    let of_blocks = noise(&clean, None, &plain(), Shape { block: Some(10), ..shape }, draw);
    let weights: Vec<f32> = of_blocks.weights[..50].chunks(10).filter_map(|b| b.iter().copied().find(|w| *w > 0.0)).collect();
    assert!(weights.windows(2).any(|w| w[0] != w[1]), "{weights:?}");
    // Uniform noise never draws the mask, and a token of clean text that is the mask has no loss by that.
    let uniform = noise(&clean, None, &Noise { source: Source::Uniform, ..plain() }, shape, draw);
    assert!(uniform.tokens.iter().all(|&t| t != MASK && (t as usize) < VOCABULARY));
    let masks = vec![MASK; 50];
    let noisy = noise(&masks, None, &plain(), shape, Draw { rows: 1, ..draw });
    assert!(noisy.noised.iter().any(|n| !n) && noisy.weights.iter().zip(&noisy.noised).all(|(w, n)| (*w > 0.0) == *n));
}

/// Losses and gradients of a batch do not depend on how it is divided.
#[test]
fn micro_batches_add_up() {
    let model = model("rwkv7", blocks(4, true));
    let options = Noise { next_token: 0.5, ..plain() };
    let all = batch(6, 12, 3);
    let trainable = model.parameters();
    let (mut once, mut parts) = (Gradients::default(), Gradients::default());
    let gradients = |batch: &MicroBatch, out: &mut Gradients| {
        Objective::MaskedDiffusion.gradients(&model, None, batch, &trainable, false, Some(&options), out).expect("loss")
    };
    let whole = gradients(&all, &mut once);
    let mut sum = Loss::default();
    for first in (0..6).step_by(2) {
        let range = first * 12..(first + 2) * 12;
        let part = MicroBatch {
            rows: 2,
            inputs: all.inputs[range.clone()].to_vec(),
            targets: all.targets[range].to_vec().into(),
            draw: Draw { first_row: first, ..all.draw },
            ..batch(2, 12, 3)
        };
        sum.add(&gradients(&part, &mut parts));
    }
    assert!((sum.value - whole.value).abs() < 1e-5 * whole.value, "{} against {}", sum.value, whole.value);
    assert_eq!(sum.parts.len(), 2);
    for (name, _) in &trainable {
        let (Some(a), Some(b)) = (once.get(name), parts.get(name)) else { continue };
        let scale = a.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
        let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / scale;
        assert!(worst < 1e-3, "{name}: {worst}");
    }
}

/// So does the next-token loss of pairs, whose rows are as long as the longest of their micro-batch.
#[test]
fn micro_batches_of_pairs_add_up() {
    const PROMPT: usize = 3;
    let model = model("rwkv7", blocks(4, true));
    let options = Noise { next_token: 0.5, ..plain() };
    let lengths: [usize; 6] = [12, 9, 8, 7, 6, 5];
    let all = batch(6, 12, 3);
    let next_token = |rows: std::ops::Range<usize>| -> f64 {
        let columns = lengths[rows.clone()].iter().copied().max().expect("rows");
        let answers = |row: usize, i: usize| (PROMPT..lengths[row]).contains(&i);
        let places: Vec<(usize, usize)> = rows.clone().flat_map(|row| (0..columns).map(move |i| (row, i))).collect();
        let pairs = MicroBatch {
            inputs: places.iter().map(|&(row, i)| all.inputs[row * 12 + i]).collect(),
            targets: places.iter().map(|&(row, i)| all.targets[row * 12 + i]).collect(),
            weights: Some(places.iter().map(|&(row, i)| if answers(row, i + 1) { 1.0 } else { 0.0 }).collect()),
            denominator: (6 * columns) as f32,
            prompt: Some(places.iter().map(|&(row, i)| !answers(row, i)).collect()),
            response_share: Some(rows.clone().map(|row| columns as f32 / (lengths[row] - PROMPT) as f32).collect()),
            draw: Draw { first_row: rows.start, ..all.draw },
            ..batch(rows.len(), columns, 3)
        };
        let loss = run(&model, &pairs, &options);
        loss.parts.iter().find(|(name, _)| name == "next-token").expect("part").1
    };
    let whole = next_token(0..6);
    let parts: f64 = [0..2, 2..4, 4..6].into_iter().map(&next_token).sum();
    assert!((parts - whole).abs() < 1e-5 * whole, "{parts} against {whole}");
    // Every response counts by its own length: of untrained logits, about ln V each.
    assert!((whole - (VOCABULARY as f64).ln()).abs() < 0.5 * whole, "{whole}");
}

/// Attention under another name: a mixer that lets clean tokens see all of their block.
struct Ahead(Softmax);

impl Mixer for Ahead {
    fn parameters(&self) -> Vec<Named> {
        self.0.parameters()
    }

    fn forward(&self, call: Call<'_>) -> Tensor<3> {
        self.0.forward(call)
    }

    fn two_streams(&self, streams: Streams<'_>) -> [Tensor<3>; 2] {
        self.0.two_streams(streams)
    }

    fn state_bytes(&self, tokens: usize) -> usize {
        self.0.state_bytes(tokens)
    }
}

impl Kind for Ahead {
    const NAME: &'static str = "ahead";
    const ABOUT: &'static str = "sees ahead in clean blocks";
    const CONSTANT_STATE: bool = false;
    type Options = softmax::Options;

    fn resolve(_: &mut softmax::Options, _: &LayerContext) {}

    fn build(options: &softmax::Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        Softmax::build(options, layer, builder).map(Self)
    }
}

/// The joint loss is the next-token loss under a causal mask, even where clean blocks see ahead.
#[test]
fn the_joint_loss_sees_nothing_ahead() {
    register(Registration::of::<Ahead>());
    for (mixer, diffusion) in [
        ("softmax", blocks(4, false)),
        ("softmax", whole(true)),
        ("rwkv7", blocks(4, true)),
        ("rwkv6", whole(false)),
        ("ahead", blocks(4, true)),
    ] {
        let model = model(mixer, diffusion.clone());
        let batch = batch(2, 12, 0);
        let loss = run(&model, &batch, &Noise { next_token: 0.25, ..plain() });
        let hidden = model.hidden_seeing(&batch.inputs, 2, Sight::Causal, None, None).expect("forward");
        let wanted = losses(&values(model.logits(hidden)), &batch.targets).iter().sum::<f64>() / 24.0;
        let part = |name: &str| loss.parts.iter().find(|(n, _)| n == name).expect("part").1;
        assert!((part("next-token") - wanted).abs() < 1e-5 * wanted, "{mixer}, {diffusion:?}");
        assert!((loss.value - part("diffusion") - 0.25 * wanted).abs() < 1e-5 * loss.value);
    }
}

/// A model whose logits speak of the token in their own place has no next-token loss: a causal pass shows it that token.
#[test]
fn what_says_no_next_token_is_measured_by_its_bound() {
    let file = Arc::new(TokenFile::from_tokens(batch(1, 129, 0).inputs, vec![0], VOCABULARY).expect("tokens"));
    let options = Validation { tokens: 64, context: 16, samples: 2 };
    let measure = |diffusion: Option<Diffusion>, next_token: bool| {
        let (student, teacher) = (model("softmax", diffusion), model("softmax", None));
        let held_out = HeldOut::new(&TokenStream::whole(file.clone()), &options, next_token, false).expect("text");
        held_out.loss(&student, Some(&teacher), true).expect("loss")
    };
    let alone = measure(whole(false), false);
    let bound = alone.bound.expect("a bound");
    assert!(bound.alone && alone.loss == bound.loss && alone.kl.is_none() && alone.tokens >= 64, "{alone:?}");
    for (diffusion, next_token) in [(whole(true), false), (whole(false), true), (None, false)] {
        let both = measure(diffusion, next_token);
        assert!(both.kl.is_some() && both.bound.is_none_or(|bound| !bound.alone && bound.loss != both.loss), "{both:?}");
    }
}

/// The generalised KL of uniform noise: its value from plain probabilities, its gradient by slopes.
#[test]
fn generalised_kl_of_uniform_noise() {
    let model = model("softmax", whole(false));
    let options = Noise { source: Source::Uniform, epsilon: 0.05, ..plain() };
    let batch = batch(2, 10, 2);
    let shape = Shape { columns: 10, block: None, mask_token: MASK, vocabulary: VOCABULARY };
    let noisy = noise(&batch.inputs, None, &options, shape, batch.draw);
    let value = || -> f64 {
        let logits = values(model.logits(model.hidden_seeing(&noisy.tokens, 2, Sight::Whole, None, None).expect("forward")));
        let (of_clean, of_noisy) = (losses(&logits, &batch.inputs), losses(&logits, &noisy.tokens));
        let each = (0..20).map(|i| {
            let changed = batch.inputs[i] != noisy.tokens[i];
            let p = (-of_noisy[i]).exp();
            f64::from(noisy.weights[i]) * -(p - f64::from(u8::from(!changed)) - if changed { of_clean[i] } else { 0.0 })
        });
        each.sum::<f64>() / 20.0
    };
    let trainable = model.parameters();
    let mut gradients = Gradients::default();
    let loss = Objective::MaskedDiffusion
        .gradients(&model, None, &batch, &trainable, false, Some(&options), &mut gradients)
        .expect("loss");
    assert!((loss.value - value()).abs() < 1e-4 * value(), "{} against {}", loss.value, value());
    for (name, param) in &trainable {
        let Some(gradient) = gradients.get(name) else { continue };
        let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        if length < 1e-3 {
            continue;
        }
        let moved = |by: f64| {
            let step = |sign: f64, x: &mut [f32]| {
                x.iter_mut().zip(&gradient).for_each(|(x, g)| *x += (sign * by * f64::from(*g) / length) as f32)
            };
            param.update(&mut |x| step(1.0, x));
            let value = value();
            param.update(&mut |x| step(-1.0, x));
            value
        };
        let good = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4]
            .iter()
            .any(|&by| ((moved(by) - moved(-by)) / (2.0 * by) - length).abs() < 3e-2 * length);
        assert!(good, "gradient of {name}, length {length}, is not the slope");
    }
    // Plain cross-entropy counts every position, noisy or not.
    let plain = run(&model, &batch, &Noise { loss: Weighting::CrossEntropy, ..options });
    assert!(plain.value > 0.0);
}
