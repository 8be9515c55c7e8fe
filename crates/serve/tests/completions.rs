//! `/v1/completions`: shapes, echo and log-probabilities against the model itself, batches.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{ATTENTION, RECURRENT, get, limits, model, plain, post, server, server_with, tokenizer};
use recast_infer::Engine;
use recast_infer::engine::Limits;
use recast_models::param::values;
use recast_serve::{Server, Settings};
use recast_text::{GgufVocab, Tokenizer};
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn the_shape_of_an_answer() {
    let router = server().router();
    let reply = post(
        &router,
        "/v1/completions",
        &json!({"model": "teacher", "prompt": "Hello", "max_tokens": 4, "temperature": 0, "logprobs": 2}),
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    insta::assert_json_snapshot!(plain(reply.json()));
}

#[tokio::test]
async fn the_shape_of_a_stream() {
    let router = server().router();
    let body = json!({"model": "student", "prompt": "Hi", "max_tokens": 2, "temperature": 0, "echo": true, "stream": true, "stream_options": {"include_usage": true}});
    let reply = post(&router, "/v1/completions", &body).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert_eq!(reply.events().last().unwrap().1, "[DONE]");
    insta::assert_json_snapshot!(plain(reply.chunks().into()));
}

/// The model's own log-probabilities of `tokens[1..]`.
fn expected(folder: &str, tokens: &[u32]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let model = model(folder);
    let logits = values(model.logits(model.hidden(tokens, 1, None, None).unwrap()));
    let rows: Vec<Vec<f64>> = logits
        .chunks_exact(model.config.vocabulary)
        .map(|row| {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - largest).exp()).sum();
            row.iter().map(|x| f64::from(x - largest) - sum.ln()).collect()
        })
        .collect();
    (tokens[1..].iter().zip(&rows).map(|(t, row)| row[*t as usize]).collect(), rows)
}

#[tokio::test]
async fn echoed_log_probabilities_are_the_models_own() {
    let router = server().router();
    for (name, folder) in [("teacher", ATTENTION), ("student", RECURRENT)] {
        let vocabulary = model(folder).config.vocabulary as u32;
        let rows: Vec<Vec<u32>> = [40u32, 7, 23].iter().map(|n| (0..*n).map(|i| (i * 37 + n) % vocabulary).collect()).collect();
        for extra in [0usize, 1] {
            // As lm-evaluation-harness asks for the score of texts.
            let body = json!({"model": name, "prompt": rows, "max_tokens": extra, "logprobs": 1, "echo": true, "temperature": 0, "seed": 1234});
            let reply = post(&router, "/v1/completions", &body).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            for (row, choice) in rows.iter().zip(reply.json()["choices"].as_array().unwrap()) {
                let (wanted, all) = expected(folder, row);
                let lists = &choice["logprobs"];
                let found = lists["token_logprobs"].as_array().unwrap();
                assert_eq!(found.len(), row.len() + extra);
                assert!(found[0].is_null() && lists["top_logprobs"][0].is_null());
                for (i, wanted) in wanted.iter().enumerate() {
                    let here = found[i + 1].as_f64().unwrap();
                    assert!((here - wanted).abs() < 1e-3, "{name} {i}: {here} for {wanted}");
                    let best = all[i].iter().copied().fold(f64::MIN, f64::max);
                    let top = lists["top_logprobs"][i + 1].as_object().unwrap();
                    let most = top.values().map(|v| v.as_f64().unwrap()).fold(f64::MIN, f64::max);
                    assert!((most - best).abs() < 1e-3, "{name} {i}: {most} for {best}");
                }
            }
        }
    }
}

#[tokio::test]
async fn prompts_come_in_four_forms() {
    let router = server().router();
    let tokens = tokenizer(model(ATTENTION).config.vocabulary).encode("abc", true).unwrap();
    let run = |prompt: Value, n: usize| {
        let router = router.clone();
        async move {
            post(&router, "/v1/completions", &json!({"model": "teacher", "prompt": prompt, "n": n, "max_tokens": 6, "seed": 5}))
                .await
        }
    };
    let text = |reply: &common::Reply, i: usize| reply.json()["choices"][i]["text"].as_str().unwrap().to_owned();
    let one = run(json!("abc"), 1).await;
    for prompt in [json!(["abc"]), json!(tokens), json!([tokens])] {
        assert_eq!(text(&run(prompt, 1).await, 0), text(&one, 0));
    }
    let many = run(json!(["abc", "x"]), 2).await.json();
    assert_eq!(many["choices"].as_array().unwrap().len(), 4);
    assert_eq!(many["choices"][0]["text"], text(&one, 0));
    assert_ne!(many["choices"][0]["text"], many["choices"][1]["text"]);
    assert_eq!(many["usage"]["prompt_tokens"], 4);
    // Read twice.
    let twice = json!({"model": "teacher", "prompt": tokens, "repeat_context": 2, "max_tokens": 6, "seed": 5});
    let twice = post(&router, "/v1/completions", &twice).await;
    assert_eq!(text(&twice, 0), text(&run(json!(tokens.repeat(2)), 1).await, 0));
    assert_eq!(twice.json()["usage"]["prompt_tokens"], 6);
    // Nothing at all begins with the separator.
    assert_eq!(run(json!(""), 1).await.status, 200);
}

#[tokio::test]
async fn a_token_stands_where_its_character_does() {
    let router = server().router();
    // é is two tokens, the end token one that the text spells or that is given by its number.
    let cases = [
        (json!("aébc"), "aébc", json!([0, 1, 1, 2, 3])),
        (json!("a<|endoftext|>é"), "a<|endoftext|>é", json!([0, 1, 14, 14])),
        (json!([[0, 1, 2, 0, 5]]), "<|endoftext|>é<|endoftext|>|", json!([0, 13, 13, 14, 27])),
        // It begins a text that is empty, and is no part of it.
        (json!(""), "", json!([0])),
    ];
    for (prompt, text, offsets) in cases {
        let body = json!({"model": "teacher", "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 0});
        let reply = post(&router, "/v1/completions", &body).await.json();
        let choice = &reply["choices"][0];
        assert_eq!((&choice["text"], &choice["logprobs"]["text_offset"]), (&json!(text), &offsets), "{reply}");
    }
}

#[tokio::test]
async fn stop_strings_and_seeds() {
    let router = server().router();
    let body = json!({"model": "teacher", "prompt": "abc", "max_tokens": 30, "seed": 5, "temperature": 1.5});
    let free = post(&router, "/v1/completions", &body).await.json()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(post(&router, "/v1/completions", &body).await.json()["choices"][0]["text"], free);
    let stop: String = free.chars().skip(5).take(2).collect();
    let mut stopped = body.clone();
    stopped["stop"] = json!(["nowhere", stop]);
    let reply = post(&router, "/v1/completions", &stopped).await.json();
    assert_eq!(reply["choices"][0]["text"], free[..free.find(&stop).unwrap()]);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_state_goes_on_where_it_was() {
    let router = server().router();
    for name in ["teacher", "student"] {
        let ask = |body: Value| {
            let router = router.clone();
            async move {
                let reply = post(&router, "/v1/completions", &body).await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                reply.json()
            }
        };
        let base = json!({"model": name, "temperature": 0, "max_tokens": 5});
        let with = |more: Value| {
            let mut body = base.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let first = ask(with(json!({"prompt": "abcdef", "return_state": true}))).await;
        let state = first["recast"]["state"].as_str().expect("a state").to_owned();
        let said = first["choices"][0]["text"].as_str().unwrap().to_owned();
        let cold = ask(with(json!({"prompt": format!("abcdef{said}xyz")}))).await;
        let warm = ask(with(json!({"prompt": "xyz", "state": state}))).await;
        assert_eq!(warm["choices"][0]["text"], cold["choices"][0]["text"]);
        assert_eq!(warm["usage"]["prompt_tokens"], cold["usage"]["prompt_tokens"]);
        // Not read again: all that the state has read, and so all but the last token written.
        let read = get(&router, &format!("/v1/states/{state}")).await.json()["tokens"].as_u64().unwrap() - 1;
        assert!(read >= 6, "{read}");
        assert_eq!(warm["usage"]["prompt_tokens_details"]["cached_tokens"], read);
        // It is a value: once more, and more of it at a time.
        let again = ask(with(json!({"prompt": "xyz", "state": state, "n": 2}))).await;
        assert_eq!(again["choices"][1]["text"], cold["choices"][0]["text"]);
        assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], read, "one prompt, whatever it is answered");
    }
}

/// A model whose tokenizer marks words by the blank before them and puts one before a text.
fn of_words() -> Server {
    let tokens = ["<unk>", "\u{2581}", "a", "b", "\u{2581}a"].map(String::from).to_vec();
    let scores = Some(vec![0.0; tokens.len()]);
    let vocab = GgufVocab { model: "llama".into(), scores, tokens, unknown: Some(0), ..GgufVocab::default() };
    let engine = Engine::start(Arc::new(model(RECURRENT)), Arc::new(Tokenizer::from_gguf(vocab).unwrap()), limits()).unwrap();
    Server::new(Settings::default(), vec![("words".into(), engine)]).unwrap()
}

#[tokio::test]
async fn the_first_word_of_an_answer_keeps_its_blank() {
    let router = of_words().router();
    let body = json!({"model": "words", "prompt": "a a", "max_tokens": 2, "temperature": 0, "logit_bias": {"4": 100}});
    let reply = post(&router, "/v1/completions", &body).await.json();
    assert_eq!(reply["choices"][0]["text"], " a a", "{reply}");
    let mut echoed = body;
    echoed["echo"] = true.into();
    echoed["logprobs"] = 0.into();
    let reply = post(&router, "/v1/completions", &echoed).await.json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], "a a a a", "{reply}");
    assert_eq!(choice["logprobs"]["tokens"], json!([" a", " a", " a", " a"]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 1, 3, 5]));
}

/// Bytes that are no character are shown as one each, and what follows stands behind them.
#[tokio::test]
async fn offsets_count_what_the_text_shows() {
    let router = server().router();
    // Tokens 1 and 2 are the bytes c3 and a9.
    let letter = tokenizer(model(ATTENTION).config.vocabulary).encode("d", false).unwrap()[0];
    for (prompt, offsets) in
        [(vec![letter, 2, letter], [0, 1, 2]), (vec![1, 2, letter], [0, 0, 1]), (vec![1, letter, 2], [0, 1, 2])]
    {
        let body = json!({"model": "teacher", "prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 0});
        let choice = post(&router, "/v1/completions", &body).await.json()["choices"][0].clone();
        assert_eq!(choice["logprobs"]["text_offset"], json!(offsets), "{choice}");
    }
}

#[tokio::test]
async fn nothing_is_put_before_a_text_that_goes_on() {
    let router = of_words().router();
    let body = json!({"model": "words", "prompt": "a", "max_tokens": 0, "return_state": true});
    let state = post(&router, "/v1/completions", &body).await.json()["recast"]["state"].clone();
    let next = |prompt: &str| json!({"model": "words", "prompt": prompt, "state": state, "max_tokens": 0});
    let whole = post(&router, "/v1/completions", &json!({"model": "words", "prompt": "ab", "max_tokens": 0})).await.json();
    let reply = post(&router, "/v1/completions", &next("b")).await.json();
    assert_eq!(reply["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"], "no blank before b: {reply}");
    // Nor a begin token, where nothing is to be read at all.
    let reply = post(&router, "/v1/completions", &next("")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("prompt")), "{}", reply.text());
}

#[tokio::test]
async fn a_prompt_is_scored_once_for_all_its_answers() {
    let router = server().router();
    let long: Vec<u32> = (1..=20).collect();
    let body = json!({"model": "teacher", "prompt": [long, [5, 6, 7]], "n": 3, "max_tokens": 2, "echo": true, "logprobs": 1,
        "seed": 5, "logit_bias": {"0": -100}});
    let whole = post(&router, "/v1/completions", &body).await.json();
    // Of the two that need no scores one finds what the other has read.
    assert!(whole["recast"]["reused_tokens"].as_u64().unwrap() >= 16, "{whole}");
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let first = &whole["choices"][index / 3 * 3];
        let length = if index < 3 { 20 } else { 3 };
        let scores = |choice: &Value| choice["logprobs"]["token_logprobs"].as_array().unwrap()[..length].to_vec();
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), length + 2, "{choice}");
        assert_eq!(scores(choice), scores(first), "{index}");
    }
    // A stream tells of each by itself.
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let chunks = post(&router, "/v1/completions", &streamed).await.chunks();
    for index in 0..6 {
        let of = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index);
        let tokens: usize = of.map(|chunk| chunk["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len()).sum();
        assert_eq!(tokens, if index < 3 { 22 } else { 5 }, "{index}");
    }
    let many = json!({"model": "teacher", "prompt": vec![7; 4000], "n": 32, "max_tokens": 0, "echo": true, "logprobs": 20});
    let reply = post(&router, "/v1/completions", &many).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("logprobs")), "{}", reply.text());
}

#[tokio::test]
async fn more_than_can_wait_is_refused_and_as_many_as_can_are_taken() {
    let router = server_with(Settings::default(), Limits { slots: 2, queue: 3, ..limits() }).router();
    for (n, status) in [(5, 200), (6, 400)] {
        let body = json!({"model": "student", "prompt": "Hi", "n": n, "max_tokens": 1});
        let reply = post(&router, "/v1/completions", &body).await;
        assert_eq!(reply.status, status, "{n}: {}", reply.text());
    }
}

#[tokio::test]
async fn no_time_is_too_long() {
    let settings = Settings { request_seconds: u64::MAX, body_seconds: u64::MAX, stall_seconds: u64::MAX, ..Settings::default() };
    let router = server_with(settings, limits()).router();
    let reply = post(&router, "/v1/completions", &json!({"model": "student", "prompt": "Hi", "max_tokens": 1})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}
