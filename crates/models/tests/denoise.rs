//! What positions see: bidirectional and block-causal attention against plain loops and masks, the
//! block-end readout of recurrences against their equations, noisy blocks behind clean states, and the
//! two streams that block diffusion trains on.

mod checks;

use burn::tensor::Tensor;
use checks::single::random;
use checks::subjects::{Body, Subject};
use checks::{ROUNDING, assert_close, difference, variants};
use recast_models::mixers::{Call, LayerContext, Shared, registered};
use recast_models::param::{self, values};
use recast_models::sight::Sight;
use recast_models::state::{Documents, LayerState, ModelState};
use recast_models::{Diffusion, MixerSpec, ModelError};
use std::collections::HashMap;

/// A block diffusion model of two layers of each of these.
fn subject(name: &str, spec: &MixerSpec, body: Body, block: Option<usize>) -> Subject {
    let mut subject = Subject::new(name, &[spec.clone(), spec.clone()], body);
    subject.model.config.diffusion = Some(Diffusion { mask_token: 28, block, shift: false });
    subject
}

fn all() -> Vec<(String, MixerSpec)> {
    let names = registered().into_iter().map(|m| m.name);
    names.flat_map(|name| variants::of(name).into_iter().map(move |(v, spec)| (format!("{name} {v}"), spec))).collect()
}

/// The state after these clean tokens, fed in blocks.
fn clean(subject: &Subject, tokens: &[u32], block: usize) -> (Vec<f32>, ModelState) {
    let mut state = subject.model.new_state();
    let pieces =
        tokens.chunks(block).map(|piece| values(subject.model.hidden(piece, 1, Some(&mut [&mut state]), None).expect("forward")));
    (pieces.flatten().collect(), state)
}

fn denoise(subject: &Subject, tokens: &[u32], states: &[&ModelState]) -> Vec<f32> {
    values(subject.model.denoise(tokens, states.len(), states).expect("forward"))
}

fn parts(state: &ModelState) -> Vec<Vec<f32>> {
    state.layers.iter().flat_map(|l| l.parts.iter().map(|p| values(p.clone()))).collect()
}

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
        let mut spec = variants::of(kind)[0].1.clone();
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

/// Any mixer: a noisy block's last position is what a causal pass gives there (a recurrence reads the
/// same state; attention has seen the same keys), and its first one depends on the last token.
#[test]
fn a_block_sees_all_of_itself() {
    for (name, spec) in all() {
        let subject = Subject::new(&name, &[spec], Body::Plain);
        let tokens = subject.tokens(1, 20);
        let (_, state) = clean(&subject, &tokens[..13], 13);
        let width = subject.model.config.hidden;
        let noisy = denoise(&subject, &tokens[13..], &[&state]);
        let mut going = state.clone();
        let causal = values(subject.model.hidden(&tokens[13..], 1, Some(&mut [&mut going]), None).expect("forward"));
        assert_close(&noisy[6 * width..], &causal[6 * width..], ROUNDING, &name, "the last position of a block");
        let mut other = tokens.clone();
        other[19] = (other[19] + 1) % 29;
        let changed = denoise(&subject, &other[13..], &[&state]);
        let window = name.contains("window");
        assert!(window || difference(&changed[..width], &noisy[..width]) > 1e-4, "{name}: the first position ignores the last");
        assert!(difference(&changed[6 * width..], &noisy[6 * width..]) > 1e-4, "{name}");
    }
}

#[test]
fn states_stay_as_they_are_and_rows_are_alone() {
    for (name, spec) in all() {
        let subject = subject(&name, &spec, Body::Biases, Some(4));
        let tokens = subject.tokens(3, 12);
        // Three rows at different positions.
        let states: Vec<ModelState> =
            [4, 12, 8].iter().enumerate().map(|(r, &n)| clean(&subject, &tokens[r * 12..r * 12 + n], 4).1).collect();
        let before: Vec<_> = states.iter().map(parts).collect();
        let block = subject.tokens(3, 4);
        let refs: Vec<&ModelState> = states.iter().collect();
        let together = denoise(&subject, &block, &refs);
        let size = together.len() / 3;
        for row in 0..3 {
            let alone = denoise(&subject, &block[row * 4..row * 4 + 4], &refs[row..=row]);
            assert_close(&together[row * size..(row + 1) * size], &alone, ROUNDING, &name, &format!("row {row} alone"));
            denoise(&subject, &block[row..=row], &refs[row..=row]);
        }
        let after: Vec<_> = states.iter().map(parts).collect();
        assert!(before == after, "{name}: denoising moved a state");
        assert_eq!(states.iter().map(|s| s.position).collect::<Vec<_>>(), [4, 12, 8]);
        // A block at the beginning stands behind an empty state.
        let empty = subject.model.new_state();
        denoise(&subject, &block[..4], &[&empty]);
        assert!(empty.position == 0 && empty.layers.iter().all(|l| l.parts.is_empty()));
    }
}

/// Rows padded to a common length give what they give alone, for every sight.
#[test]
fn no_row_sees_padding() {
    for (name, spec) in all() {
        let subject = subject(&name, &spec, Body::Norms, None);
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
                assert_close(&padded[start..start + length * width], &alone, ROUNDING, &name, &format!("{sight:?}, row {row}"));
            }
        }
        let refused = subject.model.hidden_seeing(&tokens, rows, Sight::Whole, None, Some(&[11, 12, 1]));
        assert!(matches!(refused, Err(ModelError::Lengths { .. })));
        // Packed documents are separate ones.
        let documents = Documents::new(1, 11, (0..11).map(|t| t == 4).collect());
        let packed =
            values(subject.model.hidden_seeing(&tokens[..11], 1, Sight::Whole, Some(&documents), None).expect("forward"));
        let alone = values(subject.model.hidden_seeing(&tokens[4..11], 1, Sight::Whole, None, None).expect("forward"));
        assert_close(&packed[4 * width..], &alone, ROUNDING, &name, "a document seen whole");
    }
}

/// The two streams are the clean tokens block by block, and the noisy blocks behind their states.
#[test]
fn two_streams_are_blocks_behind_states() {
    for (name, spec) in all() {
        for (length, block) in [(14, 4), (12, 4), (6, 1), (3, 8)] {
            let subject = subject(&name, &spec, Body::Plain, Some(block));
            let clean_tokens = subject.tokens(2, length);
            let noisy: Vec<u32> = clean_tokens.iter().enumerate().map(|(i, &t)| if i % 3 == 0 { 28 } else { t }).collect();
            let streams = subject.model.two_streams(&clean_tokens, &noisy, 2, block, None).expect("forward");
            let [found_clean, found_noisy] = streams.map(values);
            let (mut wanted_clean, mut wanted_noisy) = (Vec::new(), Vec::new());
            for row in 0..2 {
                let mut state = subject.model.new_state();
                for start in (0..length).step_by(block) {
                    let own = row * length + start..row * length + (start + block).min(length);
                    wanted_noisy.extend(denoise(&subject, &noisy[own.clone()], &[&state]));
                    let hidden = subject.model.hidden(&clean_tokens[own], 1, Some(&mut [&mut state]), None);
                    wanted_clean.extend(values(hidden.expect("forward")));
                }
            }
            let what = format!("{length} tokens in blocks of {block}");
            assert_close(&found_clean, &wanted_clean, ROUNDING, &name, &format!("clean stream, {what}"));
            assert_close(&found_noisy, &wanted_noisy, ROUNDING, &name, &format!("noisy stream, {what}"));
        }
    }
}

/// Softmax: documents stop both streams. Recurrences say that they cannot.
#[test]
fn two_streams_of_packed_documents() {
    let softmax = subject("softmax", &MixerSpec::new("softmax"), Body::Plain, Some(4));
    let tokens = softmax.tokens(1, 16);
    let noisy: Vec<u32> = tokens.iter().enumerate().map(|(i, &t)| if i % 2 == 0 { 28 } else { t }).collect();
    let documents = Documents::new(1, 16, (0..16).map(|t| t == 8).collect());
    let packed = softmax.model.two_streams(&tokens, &noisy, 1, 4, Some(&documents)).expect("forward").map(values);
    let alone = softmax.model.two_streams(&tokens[8..], &noisy[8..], 1, 4, None).expect("forward").map(values);
    for (stream, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
        assert_close(&packed[packed.len() / 2..], alone, ROUNDING, "softmax", &format!("stream {stream} of a second document"));
    }
    let recurrent = subject("rwkv7", &variants::of("rwkv7")[0].1, Body::Plain, Some(4));
    let refused = recurrent.model.two_streams(&tokens, &noisy, 1, 4, Some(&documents));
    assert!(matches!(refused, Err(ModelError::StreamDocuments { .. })));
}

/// Gradients of the noisy stream reach every parameter, through the states as well: by slopes.
#[test]
fn gradients_go_through_the_states() {
    for name in ["softmax", "rwkv6", "rwkv7", "gated_deltanet"] {
        let subject = subject(name, &variants::of(name)[0].1, Body::Plain, Some(3));
        let model = &subject.model;
        let clean_tokens = subject.tokens(2, 8);
        let noisy = vec![28; 16];
        let weights = [random([2, 8, 24], "clean"), random([2, 8, 24], "noisy")];
        let loss = || {
            let [a, b] = model.two_streams(&clean_tokens, &noisy, 2, 3, None).expect("forward");
            (a * weights[0].clone()).sum() + (b * weights[1].clone()).sum()
        };
        let params = model.parameters();
        param::track(&params);
        let mut gradients = loss().backward();
        let gradients: Vec<_> = params.iter().map(|(_, p)| p.untrack(Some(&mut gradients))).collect();
        for ((parameter, handle), gradient) in params.iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let length = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            if length < 1e-2 {
                continue;
            }
            let moved = |by: f64| {
                handle.update(&mut |x| x.iter_mut().zip(&gradient).for_each(|(x, g)| *x += (by * f64::from(*g) / length) as f32));
                let value = f64::from(values(loss())[0]);
                handle.update(&mut |x| x.iter_mut().zip(&gradient).for_each(|(x, g)| *x -= (by * f64::from(*g) / length) as f32));
                value
            };
            let good = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4].iter().any(|&by| {
                let slope = (moved(by) - moved(-by)) / (2.0 * by);
                (slope - length).abs() < 2e-2 * length
            });
            assert!(good, "{name}: gradient of {parameter}, length {length}, is not the slope");
        }
    }
}
