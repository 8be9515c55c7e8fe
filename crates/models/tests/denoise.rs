//! What positions see: bidirectional and block-causal attention against plain loops and masks, the block-end
//! readout of recurrences against their equations; texts that greedy decoding writes. What holds of every mixer is
//! in `crates/conformance`.

mod variants;

use burn::tensor::Tensor;
use recast_conformance::{Body, ROUNDING, Subject, assert_close, random, spec};
use recast_models::likelihood::{self, Options};
use recast_models::mixers::{Call, LayerContext, Shared};
use recast_models::param::values;
use recast_models::sight::Sight;
use recast_models::state::{Documents, LayerState};
use recast_models::{MixerSpec, ModelError};
use std::collections::HashMap;

/// Attention by its definition, in f64, with any mask: `[T, HN]`.
fn attend(q: &[f64], k: &[f64], v: &[f64], layer: &LayerContext, sees: impl Fn(usize, usize) -> bool) -> Vec<f64> {
    let (h, g, n) = (layer.heads, layer.kv_heads, layer.head_size);
    let tokens = q.len() / (h * n);
    let mut y = vec![0.0; q.len()];
    for t in 0..tokens {
        for head in 0..h {
            let q = &q[(t * h + head) * n..][..n];
            let at = |x: usize| (x * g + head / (h / g)) * n;
            let seen: Vec<usize> = (0..tokens).filter(|&s| sees(t, s)).collect();
            let weights: Vec<f64> = seen.iter().map(|&s| (dot(q, &k[at(s)..at(s) + n]) / (n as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (&s, weight) in seen.iter().zip(&weights) {
                for i in 0..n {
                    y[(t * h + head) * n + i] += weight / total * v[at(s) + i];
                }
            }
        }
    }
    y
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// A mixer's parameters as f64, and a product with one of them.
struct Params(HashMap<String, Vec<f64>>);

impl Params {
    fn of(mixer: &dyn recast_models::mixers::Mixer) -> Self {
        Self(mixer.parameters().into_iter().map(|(n, p)| (n, p.read().into_iter().map(f64::from).collect())).collect())
    }

    /// `W x` of every row of `x`, with `W` `[out, in]`.
    fn apply(&self, name: &str, x: &[f64], width: usize) -> Vec<f64> {
        let weight = &self.0[&format!("{name}.weight")];
        x.chunks(width).flat_map(|x| weight.chunks(width).map(|row| dot(row, x)).collect::<Vec<_>>()).collect()
    }

    /// `x M` of every row of `x`, with `M` `[in, out]`.
    fn apply_in_out(&self, name: &str, x: &[f64], width: usize) -> Vec<f64> {
        let m = &self.0[name];
        let out = m.len() / width;
        x.chunks(width)
            .flat_map(|x| (0..out).map(|o| (0..width).map(|i| x[i] * m[i * out + o]).sum::<f64>()).collect::<Vec<_>>())
            .collect()
    }
}

fn f64s<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    values(x).into_iter().map(f64::from).collect()
}

fn f32s(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Every sight of softmax attention, with windows, documents and padding, against a mask written out.
#[test]
fn softmax_sees_what_the_mask_says() {
    const TOKENS: usize = 23;
    let documents = Documents::new(1, TOKENS, (0..TOKENS).map(|t| [9, 10, 17].contains(&t)).collect());
    let document = |t: usize| [9, 10, 17].iter().filter(|&&s| t >= s).count();
    for window in [None, Some(5)] {
        let mut spec = MixerSpec::new("softmax").with("no_rope", true);
        if let Some(window) = window {
            spec = spec.with("window", window);
        }
        let (mixer, layer) = Subject::new("mask", &[spec], Body::Plain).mixer(0);
        let params = Params::of(mixer.as_ref());
        let x = random([1, TOKENS, layer.hidden], "x");
        let wide = f64s(x.clone());
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| params.apply(name, &wide, layer.hidden));
        for sight in [Sight::Causal, Sight::Whole, Sight::Blocks(4), Sight::Blocks(1), Sight::Blocks(64)] {
            for (documents, length) in [(None, TOKENS), (Some(&documents), TOKENS), (None, 14)] {
                let lengths = [length];
                let lengths = (length < TOKENS).then_some(&lengths[..]);
                let mut shared = Shared::default();
                let call = Call { x: x.clone(), states: None, shared: &mut shared, positions: &[], documents, sight, lengths };
                let y = values(mixer.forward(call));
                let end = |t: usize| match sight {
                    Sight::Causal => t + 1,
                    Sight::Whole => TOKENS,
                    Sight::Blocks(size) => (t / size + 1) * size,
                };
                let sees = |t: usize, s: usize| {
                    s < end(t)
                        && (sight == Sight::Causal || s < length)
                        && window.is_none_or(|w| t < s + w && s < t + w)
                        && documents.is_none_or(|_| document(s) == document(t))
                };
                let wanted = f32s(&params.apply("o_proj", &attend(&q, &k, &v, &layer, sees), layer.width()));
                let real = length * layer.hidden;
                let name = format!("{sight:?}, window {window:?}, documents {}, length {length}", documents.is_some());
                assert_close(&y[..real], &wanted[..real], ROUNDING, &name, "softmax");
            }
        }
    }
}

/// Softmax: a noisy block behind a state is a plain bidirectional pass over prefix and block, under
/// the mask of block diffusion.
#[test]
fn softmax_denoises_as_one_masked_pass() {
    let spec = MixerSpec::new("softmax").with("no_rope", true);
    let (mixer, layer) = Subject::new("one pass", &[spec], Body::Plain).mixer(0);
    let params = Params::of(mixer.as_ref());
    let (block, prefix, total) = (5, 70, 77);
    let x = random([1, total, layer.hidden], "x");
    let wide = f64s(x.clone());
    let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| params.apply(name, &wide, layer.hidden));
    let sees = |t: usize, s: usize| if t < prefix { s < (t / block + 1) * block } else { true };
    let wanted = f32s(&params.apply("o_proj", &attend(&q, &k, &v, &layer, sees), layer.width()));
    let mut states = vec![LayerState::default()];
    let mut run = |from: usize, to: usize, sight| {
        let x = x.clone().narrow(1, from, to - from);
        let mut shared = Shared::default();
        let states = Some(states.iter_mut().collect());
        values(mixer.forward(Call { x, states, shared: &mut shared, positions: &[from], documents: None, sight, lengths: None }))
    };
    // Clean blocks in two calls, of several blocks each.
    let mut y = run(0, 30, Sight::Blocks(block));
    y.extend(run(30, prefix, Sight::Blocks(block)));
    y.extend(run(prefix, total, Sight::Whole));
    assert_close(&y, &wanted, ROUNDING, "softmax", "clean blocks, then a noisy one");
}

/// RAD-RWKV7, RAD-RWKV6 and Gated DeltaNet: every position reads the state after the block.
#[test]
fn recurrences_read_the_end_of_the_block() {
    for (kind, options) in [
        ("rwkv7", vec![("rope", 0), ("gate", 2)]),
        ("rwkv6", vec![("rope", 0), ("gate", 1), ("token_shift", 0)]),
        ("gated_deltanet", vec![("rope", 0)]),
    ] {
        let mut spec = spec(kind, &variants::of(kind)[0]);
        for (key, value) in options {
            spec = if key == "gate" { spec.with(key, value) } else { spec.with(key, value == 1) };
        }
        let (mixer, layer) = Subject::new(kind, &[spec], Body::Plain).mixer(0);
        let params = Params::of(mixer.as_ref());
        let (c, h, n) = (layer.hidden, layer.heads, layer.head_size);
        let prefix = random([1, 19, c], "prefix");
        let x = random([1, 11, c], "block");
        let mut states = vec![LayerState::default()];
        let run = |x: Tensor<3>, states: &mut Vec<LayerState>, at: usize, sight| {
            let mut shared = Shared::default();
            let states = Some(states.iter_mut().collect());
            values(mixer.forward(Call {
                x,
                states,
                shared: &mut shared,
                positions: &[at],
                documents: None,
                sight,
                lengths: None,
            }))
        };
        run(prefix, &mut states, 0, Sight::Causal);
        let mut fork = states.clone();
        let y = run(x.clone(), &mut fork, 19, Sight::Whole);
        // The state after the block, by the causal pass that other tests hold to its equations.
        run(x.clone(), &mut states, 19, Sight::Causal);
        let end = f64s(states[0].parts[0].clone());
        let x = f64s(x);
        let sigmoid = |x: &f64| 1.0 / (1.0 + (-x).exp());
        let gates: Vec<f64> = match kind {
            "rwkv7" => {
                let inner: Vec<f64> = params.apply_in_out("g1", &x, c).iter().map(sigmoid).collect();
                params.apply_in_out("g2", &inner, params.0["g1"].len() / c)
            }
            "rwkv6" => params.apply("gate", &x, c).iter().map(sigmoid).collect(),
            _ => params.apply("g_proj", &x, c).iter().map(sigmoid).collect(),
        };
        let mut q = params.apply("q_proj", &x, c);
        if kind == "gated_deltanet" {
            q.chunks_mut(n).for_each(|q| {
                let size = dot(q, q).sqrt();
                q.iter_mut().for_each(|q| *q /= size);
            });
        }
        let mut out = vec![0.0; q.len()];
        for (row, (q, out)) in q.chunks(n).zip(out.chunks_mut(n)).enumerate() {
            let state = &end[row % h * n * n..][..n * n];
            for column in 0..n {
                out[column] = (0..n).map(|key| q[key] * state[key * n + column]).sum::<f64>() / (n as f64).sqrt();
            }
            if kind == "gated_deltanet" {
                let size = (dot(out, out) / n as f64 + layer.norm_epsilon).sqrt();
                out.iter_mut().zip(&params.0["o_norm.weight"]).for_each(|(o, w)| *o *= w / size);
            }
        }
        out.iter_mut().zip(&gates).for_each(|(o, gate)| *o *= gate);
        assert_close(&y, &f32s(&params.apply("o_proj", &out, h * n)), ROUNDING, kind, "block-end readout");
    }
}

/// Softmax: documents stop both streams. Recurrences say that they cannot.
#[test]
fn two_streams_of_packed_documents() {
    let softmax =
        Subject::new("softmax", &[MixerSpec::new("softmax"), MixerSpec::new("softmax")], Body::Plain).denoising(Some(4));
    let tokens = softmax.tokens(1, 16);
    let noisy: Vec<u32> = tokens.iter().enumerate().map(|(i, &t)| if i % 2 == 0 { 28 } else { t }).collect();
    let documents = Documents::new(1, 16, (0..16).map(|t| t == 8).collect());
    let packed = softmax.model.two_streams(&tokens, &noisy, 1, 4, Some(&documents)).expect("forward").map(values);
    let alone = softmax.model.two_streams(&tokens[8..], &noisy[8..], 1, 4, None).expect("forward").map(values);
    for (stream, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
        assert_close(&packed[packed.len() / 2..], alone, ROUNDING, "softmax", &format!("stream {stream} of a second document"));
    }
    let recurrent = Subject::new("rwkv7", &[spec("rwkv7", &variants::of("rwkv7")[0])], Body::Plain).denoising(Some(4));
    let refused = recurrent.model.two_streams(&tokens, &noisy, 1, 4, Some(&documents));
    assert!(matches!(refused, Err(ModelError::StreamDocuments { .. })));
}

/// The text that greedy decoding writes, the most confident place first, is known as such, and no other is.
#[test]
fn greedy_texts_are_known() {
    for block in [None, Some(4)] {
        let mixers = [MixerSpec::new("softmax"), MixerSpec::new("softmax")];
        let subject = Subject::new("greedy", &mixers, Body::Plain).denoising(block);
        let model = &subject.model;
        let vocabulary = model.config.vocabulary;
        let mut text = subject.tokens(1, 13);
        let size = block.unwrap_or(13);
        for start in (4..13).step_by(size) {
            let span = start.max(5)..(start + size).min(13);
            let mut open: Vec<usize> = span.clone().collect();
            text[span.clone()].fill(vocabulary as u32 - 1);
            while !open.is_empty() {
                let sight = block.map_or(Sight::Whole, Sight::Blocks);
                let hidden = model.hidden_seeing(&text[..span.end], 1, sight, None, None).expect("forward");
                let logits = f64s(model.logits(hidden));
                let best = |&place: &usize| {
                    let row = &logits[place * vocabulary..][..vocabulary];
                    let token = (0..vocabulary).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a token");
                    (row.iter().map(|x| (x - row[token]).exp()).sum::<f64>(), place, token)
                };
                // The most confident: what the others add to its share is least.
                let (_, place, token) = open.iter().map(best).min_by(|a, b| a.0.total_cmp(&b.0)).expect("a place");
                text[place] = token as u32;
                open.retain(|&other| other != place);
            }
        }
        assert!(likelihood::greedy(model, &text, 5).expect("checks"), "{block:?}");
        for place in 5..13 {
            let mut other = text.clone();
            other[place] = (other[place] + 1) % vocabulary as u32;
            assert!(!likelihood::greedy(model, &other, 5).expect("checks"), "{block:?}, another at {place}");
        }
    }
}

#[test]
fn estimates_that_cannot_be_made_are_refused() {
    let mut subject = Subject::new("refused", &[MixerSpec::new("softmax")], Body::Plain).denoising(None);
    let text = subject.tokens(1, 9);
    let options = Options { samples: usize::MAX, ..Options::default() };
    let error = likelihood::estimate(&subject.model, &text, 3, options).expect_err("refused").to_string();
    assert!(error.contains("at most 65536"), "{error}");
    subject.model.config.diffusion.as_mut().expect("it denoises").uniform = true;
    let refused = [
        likelihood::estimate(&subject.model, &text, 3, Options::default()).map(drop),
        likelihood::greedy(&subject.model, &text, 3).map(drop),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(ModelError::UniformNoise))));
    subject.model.config.diffusion = None;
    assert!(matches!(likelihood::greedy(&subject.model, &text, 3), Err(ModelError::NoDiffusion)));
}
