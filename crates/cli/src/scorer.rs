//! A model as the evaluation sees it: [`ModelScorer`] answers its two kinds of question.
//!
//! Requests are packed into forward passes of at most [`BUDGET`] tokens, like lengths together,
//! padded at the end (every mixer is causal, so what follows a token does not change it). Where
//! requests share their contexts, as the choices of one question do, the state after the shared
//! part is computed once and forked. Only the positions that are asked about go through the head.
//! The tests at the end hold the answers to a plain log-softmax of each sequence alone.

use burn::tensor::{Int, Tensor, TensorData};
use recast_eval::{BoxError, Generated, ModelCard, Prompt, Request, Scored, Scorer};
use recast_infer::{Generator, Options, Sampling, prefill};
use recast_models::param::values;
use recast_models::{Model, ModelConfig, ModelState};
use recast_ops::vocab_loss::token_log_probabilities;
use recast_text::Tokenizer;
use recast_text::files::hex;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Tokens, padding included, that go through the model at once.
const BUDGET: usize = 4096;
/// How many times the tokens that are needed a forward pass may run, padding included.
const WASTE: f64 = 1.25;
/// Forward passes below this size may waste more: a small matrix product costs what a slightly
/// larger one does.
const SMALL: usize = 512;
/// A shared part shorter than this is not worth a pass of its own.
const SHARED: usize = 8;
/// Sequences written together.
const WRITERS: usize = 16;
/// Their prompts' lengths differ by at most this: it is made up token by token.
const SPREAD: usize = 48;

/// A model and its tokenizer, ready to be evaluated.
pub struct ModelScorer<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    card: ModelCard,
}

impl<'a> ModelScorer<'a> {
    /// `hash` identifies the weights (see [`weights_hash`]); precision and tokenizer are added.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, name: &str, hash: &str) -> Self {
        let precision = crate::computed_at(model.device());
        let identity = format!("{hash}\n{precision}\n{}", tokenizer.fingerprint());
        let hash = hex(Sha256::digest(identity.as_bytes()).as_slice());
        let card = ModelCard { hash, ..card(&model.config, tokenizer, name) };
        Self { model, tokenizer, card }
    }

    /// Reads no more than `room` tokens a call: as many as a model it is compared with.
    pub fn with_room(mut self, room: usize) -> Self {
        self.card.max_context = self.card.max_context.min(room);
        self
    }

    fn forward(&self, requests: &[Request], pass: &Pass, out: &mut [Option<Scored>]) -> Result<(), BoxError> {
        let rows: Vec<usize> = pass.units.iter().flat_map(Clone::clone).collect();
        let width = rows.iter().map(|&r| length(&requests[r])).max().unwrap_or(0) - pass.shared;
        let mut states = Vec::new();
        if pass.shared > 0 {
            let shared: Vec<u32> = pass.units.iter().flat_map(|u| &requests[u.start].context[..pass.shared]).copied().collect();
            let mut before = vec![self.model.new_state(); pass.units.len()];
            prefill(self.model, &mut before.iter_mut().collect::<Vec<_>>(), &shared, BUDGET)?;
            states = pass.units.iter().zip(before).flat_map(|(unit, state)| vec![state; unit.len()]).collect();
        }
        let mut tokens = Vec::with_capacity(rows.len() * width);
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (at, &row) in rows.iter().enumerate() {
            let Request { context, continuation, .. } = &requests[row];
            // The last token is asked about and never read.
            let read = &continuation[..continuation.len() - 1];
            tokens.extend(context[pass.shared..].iter().chain(read));
            tokens.resize((at + 1) * width, 0);
            let first = at * width + context.len() - 1 - pass.shared;
            places.extend((first..first + continuation.len()).map(|place| place as i32));
            targets.extend_from_slice(continuation);
        }
        let mut states: Vec<&mut ModelState> = states.iter_mut().collect();
        let states = (pass.shared > 0).then_some(&mut states[..]);
        let unfinished = self.model.unfinished(&tokens, rows.len(), states, None)?;
        let unfinished = unfinished.reshape([rows.len() * width, self.model.config.hidden]);
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), self.model.device());
        let hidden = self.model.finish(unfinished.select(0, places));
        let scores = token_log_probabilities(hidden, self.model.head_operand(), targets.into())?;
        let (logprobs, greedy) = (values(scores.log_probabilities), values(scores.greedy));
        let mut at = 0;
        for &row in &rows {
            let asked = at..at + requests[row].continuation.len();
            at = asked.end;
            out[row] = Some(Scored {
                logprobs: logprobs[asked.clone()].iter().map(|&p| at_most_certain(p)).collect(),
                greedy: greedy[asked].iter().all(|g| *g == 1.0),
            });
        }
        Ok(())
    }
}

impl Scorer for ModelScorer<'_> {
    fn describe(&self) -> &ModelCard {
        &self.card
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, BoxError> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    fn loglikelihood(&mut self, requests: &[Request]) -> Result<Vec<Scored>, BoxError> {
        if let Some(index) = requests.iter().position(|r| r.context.is_empty() || r.continuation.is_empty()) {
            return Err(format!("request {index}: expected a context and a continuation, found an empty one").into());
        }
        let mut out = vec![None; requests.len()];
        for pass in plan(requests) {
            self.forward(requests, &pass, &mut out)?;
        }
        Ok(out.into_iter().map(|scored| scored.expect("every request is in one pass")).collect())
    }

    fn greedy_until(&mut self, prompts: &[Prompt]) -> Result<Vec<Generated>, BoxError> {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&i| prompts[i].tokens.len());
        let mut out = vec![None; prompts.len()];
        let together = |first: &Prompt, next: &Prompt| {
            (&first.until, first.max_tokens) == (&next.until, next.max_tokens) && next.tokens.len() - first.tokens.len() <= SPREAD
        };
        let mut rest = order.as_slice();
        while let Some(&first) = rest.first() {
            let fits = |&&i: &&usize| together(&prompts[first], &prompts[i]);
            let count = rest.iter().take(WRITERS).take_while(fits).count();
            let (batch, after) = rest.split_at(count);
            rest = after;
            let options = Options {
                sampling: Sampling::greedy(),
                max_tokens: prompts[first].max_tokens,
                stop: prompts[first].until.clone(),
                ..Options::default()
            };
            let generator = Generator::new(self.model, self.tokenizer, options)?;
            let tokens: Vec<&[u32]> = batch.iter().map(|&i| prompts[i].tokens.as_slice()).collect();
            for (&i, written) in batch.iter().zip(generator.generate_batch(&tokens)?) {
                out[i] = Some(Generated { tokens: written.tokens.len(), text: written.text });
            }
        }
        Ok(out.into_iter().map(|g| g.expect("every prompt is in one batch")).collect())
    }
}

/// What can be said of a model before its weights are read: all but its hash.
pub fn card(config: &ModelConfig, tokenizer: &Tokenizer, name: &str) -> ModelCard {
    let mut end_tokens = tokenizer.eos_ids().to_vec();
    end_tokens.sort_unstable();
    end_tokens.dedup();
    ModelCard {
        name: name.to_owned(),
        hash: String::new(),
        prefix_token: tokenizer.bos().or_else(|| tokenizer.document_separator()).unwrap_or(0),
        add_bos: tokenizer.begins_with().is_some(),
        max_context: config.max_positions,
        end_tokens,
        estimate: None,
    }
}

/// A log-probability without the hair above 0 that rounding may leave; NaN stays one, and is found out.
pub fn at_most_certain(logprob: f32) -> f32 {
    if logprob > 0.0 { 0.0 } else { logprob }
}

/// Tokens that a request reads.
fn length(request: &Request) -> usize {
    request.context.len() + request.continuation.len() - 1
}

/// One forward pass, or two where contexts are shared.
#[derive(Clone, Debug, Default)]
struct Pass {
    /// Neighbouring requests of one context each.
    units: Vec<Range<usize>>,
    /// Tokens at the start of every context that are run once a unit.
    shared: usize,
}

impl Pass {
    fn new(units: Vec<Range<usize>>, requests: &[Request]) -> Self {
        let shared = if units.iter().any(|u| u.len() > 1) {
            // The last token of a context is run with each continuation, whose first it predicts.
            units.iter().map(|u| requests[u.start].context.len() - 1).min().unwrap_or(0)
        } else {
            0
        };
        Self { units, shared: if shared < SHARED { 0 } else { shared } }
    }

    /// Tokens it runs, padding included.
    fn cost(&self, requests: &[Request]) -> usize {
        let rows = || self.units.iter().flat_map(Clone::clone);
        let longest = rows().map(|r| length(&requests[r])).max().unwrap_or(0);
        self.units.len() * self.shared + rows().count() * (longest - self.shared)
    }

    /// Tokens that must be run however it is done.
    fn needed(&self, requests: &[Request]) -> usize {
        let scored = |u: &Range<usize>| requests[u.clone()].iter().map(|r| r.continuation.len()).sum::<usize>();
        self.units.iter().map(|u| requests[u.start].context.len() - 1 + scored(u)).sum()
    }

    fn fits(&self, requests: &[Request]) -> bool {
        let cost = self.cost(requests);
        cost <= SMALL || (cost <= BUDGET && cost as f64 <= WASTE * self.needed(requests) as f64)
    }
}

/// Packs requests into passes; every request is in exactly one. A function of the requests alone.
fn plan(requests: &[Request]) -> Vec<Pass> {
    let mut units: Vec<Range<usize>> = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        match units.last_mut() {
            Some(unit) if requests[unit.start].context == request.context => unit.end = index + 1,
            _ => units.push(index..index + 1),
        }
    }
    let (mut shared, mut single): (Vec<_>, Vec<_>) = units.into_iter().partition(|unit| unit.len() > 1);
    shared.sort_by_key(|unit| std::cmp::Reverse(requests[unit.start].context.len()));
    single.sort_by_key(|unit| std::cmp::Reverse(length(&requests[unit.start])));
    let mut passes = Vec::new();
    for units in [shared, single] {
        let mut open = Pass::default();
        for unit in units {
            let mut more = open.units.clone();
            more.push(unit.clone());
            let wider = Pass::new(more, requests);
            if open.units.is_empty() || wider.fits(requests) {
                open = wider;
            } else {
                passes.push(std::mem::replace(&mut open, Pass::new(vec![unit], requests)));
            }
        }
        if !open.units.is_empty() {
            passes.push(open);
        }
    }
    passes
}

/// SHA-256 over the config and the weights at `path`, a folder or a file.
///
/// # Errors
/// When a file cannot be read.
pub fn weights_hash(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context;
    let mut files: Vec<PathBuf> = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>())
            .with_context(|| format!("cannot list {}", path.display()))?;
        files.retain(|file| {
            let weights = file.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
            weights || file.file_name().is_some_and(|n| n == "config.json")
        });
        files.sort();
    }
    let mut hash = Sha256::new();
    for file in files {
        let length = std::fs::File::open(&file)
            .and_then(|mut opened| std::io::copy(&mut opened, &mut hash))
            .with_context(|| format!("cannot read {}", file.display()))?;
        hash.update(length.to_le_bytes());
    }
    Ok(hex(hash.finalize().as_slice()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::Device;

    const MODELS: &[&str] = &["families/llama_gqa", "released/rwkv6_rope_gate2", "released/rwkv7_hybrid"];

    fn model(folder: &str) -> Model {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder);
        Model::open(&path, &Device::flex()).expect("a golden model")
    }

    /// Letters as tokens; enough for a card.
    pub fn tokenizer() -> Tokenizer {
        let vocab: serde_json::Map<String, serde_json::Value> =
            ('A'..='Z').chain('a'..='z').enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [], "pre_tokenizer": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        Tokenizer::from_json_bytes(json.to_string().as_bytes()).expect("a tokenizer")
    }

    fn tokens(from: usize, count: usize) -> Vec<u32> {
        (from..from + count).map(|i| ((i * i * 7 + i * 13) % 50) as u32).collect()
    }

    fn request(context: &[u32], continuation: &[u32]) -> Request {
        Request { context: context.into(), continuation: continuation.into(), greedy: true }
    }

    /// Shared contexts long and short, a context of one token, single requests of unlike lengths.
    fn requests() -> Vec<Request> {
        let mut out = Vec::new();
        for (item, context) in [30, 3, 31, 45, 1].into_iter().enumerate() {
            for choice in 0..3 {
                out.push(request(&tokens(item * 9, context), &tokens(100 + item + choice, 1 + 2 * choice)));
            }
        }
        out.extend((0..6).map(|i| request(&tokens(i, 1 + 11 * i), &tokens(i + 50, 1 + i))));
        out
    }

    fn alone(model: &Model, request: &Request) -> Scored {
        let all: Vec<u32> = request.context.iter().chain(request.continuation.iter()).copied().collect();
        let logits = values(model.logits(model.hidden(&all, 1, None, None).expect("forward")));
        let rows: Vec<&[f32]> = logits.chunks(model.config.vocabulary).collect();
        let mut scored = Scored { logprobs: Vec::new(), greedy: true };
        for (at, &token) in request.continuation.iter().enumerate() {
            let row = rows[request.context.len() - 1 + at];
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            scored.logprobs.push((f64::from(row[token as usize]) - sum.ln()) as f32);
            scored.greedy &= row.iter().all(|x| *x <= row[token as usize]);
        }
        scored
    }

    #[test]
    fn scores_are_the_log_softmax_of_each_sequence_alone() {
        let tokenizer = tokenizer();
        for name in MODELS {
            let model = model(name);
            let mut scorer = ModelScorer::new(&model, &tokenizer, name, "");
            let mut requests = requests();
            // One whose continuation is the model's own choice.
            let hidden = model.hidden(&tokens(5, 20), 1, None, None).expect("forward");
            let logits = values(model.logits(hidden));
            let last = &logits[logits.len() - model.config.vocabulary..];
            let best = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).expect("a vocabulary");
            requests.push(request(&tokens(5, 20), &[best as u32]));
            let found = scorer.loglikelihood(&requests).expect("scores");
            assert_eq!(found.len(), requests.len());
            assert!(found.last().is_some_and(|s| s.greedy));
            for (index, (request, found)) in requests.iter().zip(&found).enumerate() {
                let wanted = alone(&model, request);
                assert_eq!(found.greedy, wanted.greedy, "{name}, request {index}");
                assert_eq!(found.logprobs.len(), wanted.logprobs.len());
                for (a, b) in found.logprobs.iter().zip(&wanted.logprobs) {
                    assert!((a - b).abs() < 1e-3, "{name}, request {index}: {a} instead of {b}");
                }
            }
            assert_eq!(found, scorer.loglikelihood(&requests).expect("scores"));
            assert!(scorer.loglikelihood(&[request(&[], &[1])]).is_err());
            assert!(scorer.loglikelihood(&[request(&[1 << 20], &[1])]).is_err());
        }
    }

    #[test]
    fn passes_hold_every_request_once_within_the_budget() {
        let mut requests = requests();
        requests.extend((0..40).map(|i| request(&tokens(i, 20 * (i + 1)), &tokens(0, 30))));
        requests.extend((0..80).map(|i| request(&tokens(i / 4, 200 + i / 4), &tokens(0, 5 + i % 4))));
        let passes = plan(&requests);
        let mut seen: Vec<usize> = passes.iter().flat_map(|p| p.units.iter().flat_map(Clone::clone)).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..requests.len()).collect::<Vec<_>>());
        assert!(passes.iter().all(|p| p.fits(&requests)));
        // Four choices of one question cost little more than one: the context is run once.
        let four: Vec<Request> = (0..4).map(|i| request(&tokens(0, 400), &tokens(i, 10))).collect();
        assert_eq!(plan(&four).iter().map(|p| p.cost(&four)).sum::<usize>(), 399 + 4 * 10);
        assert!(plan(&[]).is_empty());
    }

    #[test]
    fn writing_together_is_writing_alone() {
        let tokenizer = tokenizer();
        let model = model("released/rwkv7_hybrid");
        let mut scorer = ModelScorer::new(&model, &tokenizer, "m", "");
        let prompt = |from, count, max_tokens| Prompt { tokens: tokens(from, count), until: vec!["Q".into()], max_tokens };
        let prompts = [prompt(0, 9, 12), prompt(4, 80, 12), prompt(2, 5, 12), prompt(1, 5, 3)];
        let together = scorer.greedy_until(&prompts).expect("writes");
        for (prompt, found) in prompts.iter().zip(&together) {
            let alone = scorer.greedy_until(std::slice::from_ref(prompt)).expect("writes");
            assert_eq!(found, &alone[0]);
        }
        assert_eq!(together[3].tokens, 3);
    }

    #[test]
    fn a_card_changes_with_the_weights() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
        write("config.json", "{}");
        write("model.safetensors", "one");
        let first = weights_hash(folder.path()).expect("hashes");
        write("notes.txt", "no weights");
        assert_eq!(first, weights_hash(folder.path()).expect("hashes"));
        write("model.safetensors", "two");
        assert_ne!(first, weights_hash(folder.path()).expect("hashes"));
        assert!(weights_hash(&folder.path().join("absent")).is_err());
        let (model, tokenizer) = (model("families/llama_gqa"), tokenizer());
        let hash = |weights| ModelScorer::new(&model, &tokenizer, "m", weights).describe().hash.clone();
        assert_ne!(hash("a"), hash("b"));
        assert_eq!(hash("a"), hash("a"));
        // What ends a text is neither in the weights nor in the tokens, and stands on the card by itself.
        let ends = tokenizer.clone().with_special_tokens(None, vec![5, 2]).expect("ids of its own");
        assert_eq!(ModelScorer::new(&model, &ends, "m", "a").describe().end_tokens, [2, 5]);
        // And how much is read.
        let room = |most| ModelScorer::new(&model, &tokenizer, "m", "a").with_room(most).describe().max_context;
        assert_eq!((room(8), room(1 << 20)), (8, model.config.max_positions));
    }

    #[test]
    fn no_number_is_no_certainty() {
        assert_eq!([1e-6, 0.0, -2.5].map(at_most_certain), [0.0, 0.0, -2.5]);
        assert!(at_most_certain(f32::NAN).is_nan());
    }
}
