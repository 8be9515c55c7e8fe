//! Models that denoise behind the server: final text for every client, revisions for those that ask.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{ATTENTION, HYBRID, TEMPLATE, limits, masked_server, model, post, tokenizer};
use recast_infer::Engine;
use recast_models::Diffusion;
use recast_serve::{Server, Settings};
use serde_json::{Value, json};
use std::sync::Arc;

const PROMPT: &str = "Once";

fn ask(more: Value) -> Value {
    let mut body = json!({"model": "masked", "prompt": PROMPT, "max_tokens": 21, "seed": 3});
    more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

#[tokio::test]
async fn revisions_lead_to_the_text_that_everybody_gets() {
    let router = masked_server().router();
    for model in ["masked", "whole"] {
        let rule = json!({"rule": {"name": "fixed", "steps": 7}});
        let whole = post(&router, "/v1/completions", &ask(json!({"model": model, "denoising": rule}))).await.json();
        let text = whole["choices"][0]["text"].as_str().unwrap();
        let ours = &whole["recast"]["denoising"];
        assert!(ours["forwards"].as_u64().unwrap() > 0 && ours["tokens_per_forward"].as_f64().unwrap() > 0.0, "{whole}");
        assert_eq!(whole["usage"]["completion_tokens"], 21);

        let asked = ask(json!({"model": model, "denoising": rule, "stream": true, "stream_revisions": true}));
        let chunks = post(&router, "/v1/completions", &asked).await.chunks();
        let (mut cells, mut shown, mut steps) = (vec![None; 21], String::new(), 0);
        for chunk in &chunks {
            let step = &chunk["recast"]["step"];
            if step.is_null() {
                shown.push_str(chunk["choices"][0]["text"].as_str().unwrap_or_default());
                continue;
            }
            assert_eq!((&step["step"], chunk["choices"].as_array().unwrap().len()), (&json!(steps), 0));
            steps += 1;
            for change in step["changes"].as_array().unwrap() {
                let position = change["position"].as_u64().unwrap() as usize;
                assert_eq!(change["old"], json!(cells[position]));
                cells[position] = change["token"].as_u64();
                let confidence = change["confidence"].as_f64().unwrap();
                assert!(
                    (0.0..=1.0).contains(&confidence) && change["entropy"].as_f64().unwrap() >= 0.0 && change["text"].is_string()
                );
            }
        }
        assert_eq!(shown, text, "{model}");
        assert!(cells.iter().all(Option::is_some) && steps > 1);

        // Without them a stream is like any other: text when it is final.
        let plain =
            post(&router, "/v1/completions", &ask(json!({"model": model, "denoising": rule, "stream": true}))).await.chunks();
        assert!(plain.iter().all(|chunk| chunk["recast"]["step"].is_null()));
        let shown: String = plain.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(shown, text);
    }
}

#[tokio::test]
async fn a_seed_is_a_text_and_greedy_is_the_default() {
    let router = masked_server().router();
    let mut texts = Vec::new();
    for (temperature, seed) in [(Some(1.0), 1), (Some(1.0), 1), (Some(1.0), 2), (None, 1), (None, 2)] {
        let reply = post(&router, "/v1/completions", &ask(json!({"temperature": temperature, "seed": seed}))).await.json();
        texts.push(reply["choices"][0]["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);
    assert_eq!(texts[3], texts[4]);
}

#[tokio::test]
async fn a_suffix_is_seen_and_not_written() {
    let router = masked_server().router();
    let text = |reply: &Value| reply["choices"][0]["text"].as_str().unwrap().to_owned();
    for stream in [false, true] {
        let mut texts = Vec::new();
        for suffix in ["", " and all was well.", " until the snow was gone."] {
            let asked = ask(json!({"model": "whole", "suffix": suffix, "stream": stream, "denoising": {"ends": "never"}}));
            let reply = post(&router, "/v1/completions", &asked).await;
            let written = if stream {
                reply.chunks().iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str().map(str::to_owned)).collect()
            } else {
                let reply = reply.json();
                assert_eq!(reply["usage"]["completion_tokens"], 21, "{reply}");
                text(&reply)
            };
            texts.push(written);
        }
        assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    }
    // A model with blocks of four goes past the suffix in its block too.
    let reply = post(&router, "/v1/completions", &ask(json!({"suffix": "end", "max_tokens": 6}))).await.json();
    assert_eq!(reply["usage"]["completion_tokens"], 6, "{reply}");
}

#[tokio::test]
async fn no_number_is_too_large() {
    let router = masked_server().router();
    let ask_ahead = |ahead: Value| ask(json!({"model": "whole", "denoising": {"block": 4, "ahead": ahead}}));
    let all = post(&router, "/v1/completions", &ask_ahead(Value::Null)).await.json();
    let most = post(&router, "/v1/completions", &ask_ahead(u64::MAX.into())).await;
    assert_eq!(most.status, 200, "{}", most.text());
    assert_eq!(most.json()["choices"][0]["text"], all["choices"][0]["text"]);
}

#[tokio::test]
async fn responses_are_not_stored_and_say_so() {
    let mut model = model(HYBRID);
    let mask_token = model.config.vocabulary as u32 - 1;
    model.config.diffusion = Some(Diffusion { mask_token, block: Some(8), shift: true, uniform: false });
    let tokenizer = tokenizer(model.config.vocabulary).with_chat_template(TEMPLATE);
    let engine = Engine::start(Arc::new(model), Arc::new(tokenizer), limits()).unwrap();
    let settings = Settings { context: Some(4096), ..Settings::default() };
    let router = Server::new(settings, vec![("masked".into(), engine)]).unwrap().router();
    for store in [Value::Null, false.into()] {
        let body = json!({"model": "masked", "input": "hi", "max_output_tokens": 9, "store": store});
        let reply = post(&router, "/v1/responses", &body).await;
        assert_eq!(reply.status, 200, "{store}: {}", reply.text());
        assert_eq!(reply.json()["store"], false);
    }
    // How it denoises is said as everywhere.
    let fixed = |steps: u32| {
        let denoising = json!({"rule": {"name": "fixed", "steps": steps}, "ends": "never"});
        json!({"model": "masked", "input": "hi", "max_output_tokens": 8, "denoising": denoising})
    };
    let mut forwards = Vec::new();
    for steps in [1, 8] {
        let reply = post(&router, "/v1/responses", &fixed(steps)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        forwards.push(reply.json()["recast"]["denoising"]["forwards"].as_u64().unwrap());
    }
    assert!(forwards[0] < forwards[1], "{forwards:?}");
    let reply = post(&router, "/v1/responses", &fixed(0)).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("denoising")), "{}", reply.text());
    let body = json!({"model": "masked", "input": "hi", "max_output_tokens": 9, "store": true});
    let reply = post(&router, "/v1/responses", &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("store")), "{}", reply.text());
}

#[tokio::test]
async fn a_setting_that_does_not_suit_the_model_is_one_of_denoising() {
    let mut model = model(ATTENTION);
    let mask_token = model.config.vocabulary as u32 - 1;
    model.config.diffusion = Some(Diffusion { mask_token, block: None, shift: false, uniform: true });
    let tokenizer = tokenizer(model.config.vocabulary);
    let engine = Engine::start(Arc::new(model), Arc::new(tokenizer), limits()).unwrap();
    let settings = Settings { context: Some(4096), ..Settings::default() };
    let router = Server::new(settings, vec![("masked".into(), engine)]).unwrap().router();
    for (denoising, words) in [
        (json!({"guidance": 1.5}), "denoising: guidance: expected 0 (off) of a model of uniform noise"),
        (json!({"editing": {"at": 0.9, "passes": 0}}), "denoising: editing passes: expected at least 1"),
    ] {
        let reply = post(&router, "/v1/completions", &ask(json!({"denoising": denoising}))).await;
        assert!(reply.status == 400 && reply.text().contains(words), "{}", reply.text());
        assert_eq!(reply.json()["error"]["param"], "denoising", "{words}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_what_to_do() {
    let router = masked_server().router();
    let cases = [
        (json!({"model": "plain", "denoising": {}}), "found a next-token model"),
        (json!({"model": "plain", "suffix": "end"}), "suffix: expected a model that denoises"),
        (json!({"prompt": vec![5; 4080], "suffix": "end"}), "are to be written: shorten them or ask for fewer"),
        (
            json!({"prompt": vec![5; 4080]}),
            "and the prompt has 4080 and 21 are to be written: shorten the prompt or ask for fewer",
        ),
        (json!({"denoising": {"rul": 3}}), "did you mean \"denoising.rule\"?"),
        (json!({"denoising": {"rule": {"name": "fixed", "steps": 0}}}), "steps: expected at least 1"),
        (json!({"denoising": {"rule": {"name": "fixed", "step": 4}}}), "expected `steps`"),
        (json!({"denoising": {"rule": "fixed"}}), "denoising.rule: expected an object with a name"),
        (json!({"denoising": {"block": 22}}), "denoising: block: expected at most"),
        (
            json!({"denoising": {"block": 9}}),
            "denoising: block: expected at most 8, the positions that the model denoises together",
        ),
        (json!({"stream_revisions": true}), "expected stream: true"),
        (json!({"stream": true, "stream_revisions": true, "model": "plain"}), "found a next-token model"),
        (json!({"regex": "a+"}), "regex: expected a next-token model"),
        (json!({"top_k": 3}), "top_k: expected temperature, top-p and seed alone"),
        (json!({"logit_bias": {"3": 1}}), "logit_bias: expected temperature, top-p and seed alone"),
        (json!({"logprobs": 3}), "alternatives of tokens"),
        (json!({"return_state": true}), "a state to be kept"),
        (json!({"prompt": [5, 63, 6]}), "no mask token (63)"),
    ];
    for (more, words) in cases {
        let reply = post(&router, "/v1/completions", &ask(more.clone())).await;
        assert_eq!(reply.status, 400, "{more}: {}", reply.text());
        assert!(reply.text().replace("\\\"", "\"").contains(words), "{more}: {}", reply.text());
        let fields = ["suffix", "denoising", "denoising.rule", "regex", "top_k", "logit_bias"];
        for field in fields.into_iter().filter(|field| words.starts_with(&format!("{field}:"))) {
            assert_eq!(reply.json()["error"]["param"], field, "{more}");
        }
    }
}
