//! Chats, states, refusals, limits, the page, and bodies of rubbish.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{get, limits, plain, post, request, send, server, server_with};
use recast_serve::Settings;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn chat(model: &str, extra: Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_chat_has_the_published_shape() {
    let router = server().router();
    let whole = post(&router, "/v1/chat/completions", &chat("student", json!({"logprobs": true, "top_logprobs": 1}))).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    insta::assert_json_snapshot!(plain(whole.json()));
    let streamed = post(&router, "/v1/chat/completions", &chat("student", json!({"stream": true}))).await;
    let joined: String =
        streamed.chunks().iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(String::from)).collect();
    assert_eq!(joined, whole.json()["choices"][0]["message"]["content"]);
    assert_eq!(streamed.events().last().unwrap().1, "[DONE]");
}

#[tokio::test]
async fn models_and_responses_have_the_published_shape() {
    let router = server().router();
    insta::assert_json_snapshot!(plain(get(&router, "/v1/models").await.json()));
    let body = json!({"model": "teacher", "input": "Hi", "max_output_tokens": 3, "temperature": 0});
    let first = post(&router, "/v1/responses", &body).await;
    assert_eq!(first.status, 200, "{}", first.text());
    insta::assert_json_snapshot!(plain(first.json()));
    let body = json!({"model": "teacher", "input": "And?", "max_output_tokens": 3, "previous_response_id": first.json()["id"]});
    assert_eq!(post(&router, "/v1/responses", &body).await.status, 200);
    // What a response says of itself, a request may say too.
    let said = json!({"reasoning": first.json()["reasoning"], "text": first.json()["text"], "tools": first.json()["tools"],
        "truncation": first.json()["truncation"], "stream": true, "stream_options": {"include_obfuscation": false}});
    let mut again = json!({"model": "teacher", "input": "Hi", "max_output_tokens": 3});
    again.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    let reply = post(&router, "/v1/responses", &again).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let refused = async |more: Value, param: &str, code: &str| {
        let mut body = json!({"model": "student", "input": "And?"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = post(&router, "/v1/responses", &body).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status.as_u16(), &error["param"], &error["code"]), (400, &json!(param), &json!(code)), "{error}");
    };
    let field = "previous_response_id";
    refused(json!({field: "resp_unknown"}), field, "previous_response_not_found").await;
    // Of another model.
    refused(json!({field: first.json()["id"]}), field, "invalid_value").await;
    refused(json!({"reasoning": {"effort": "high"}}), "reasoning.effort", "unsupported_parameter").await;
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
    refused(usage, "stream_options.include_usage", "unknown_parameter").await;
    let pattern = json!({"type": "json_schema", "schema": {"type": "string", "pattern": "("}});
    refused(json!({"text": {"format": pattern}}), "text.format", "invalid_value").await;
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_as_all_else() {
    let router = server().router();
    for path in ["/v1/models/%ff", "/v1/responses/%ff", "/v1/states/%ff"] {
        let reply = get(&router, path).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (400, &json!("invalid_request_error")), "{path}");
    }
}

#[tokio::test]
async fn who_asks_for_the_head_alone_has_not_left() {
    let router = server().router();
    for path in ["/v1/models", "/health"] {
        let reply = send(&router, request("HEAD", path, Body::empty())).await;
        assert_eq!((reply.status.as_u16(), reply.bytes.len()), (200, 0), "{path}");
    }
    let counted = get(&router, "/metrics").await.text();
    assert!(counted.contains("route=\"/v1/models\",status=\"200\"} 1") && !counted.contains("status=\"499\""), "{counted}");
}

#[tokio::test]
async fn instructions_are_for_one_response() {
    let router = server().router();
    let ask = async |input: &str, instructions: &str, previous: &Value| {
        let instructions = Some(instructions).filter(|text| !text.is_empty());
        let body = json!({"model": "teacher", "input": input, "instructions": instructions, "previous_response_id": previous,
            "max_output_tokens": 3, "temperature": 0});
        let reply = post(&router, "/v1/responses", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let tokens = |response: &Value, name: &str| response["usage"][name].as_u64().unwrap();
    // The template's end of the answer, where it did not come to one itself, and its next turn.
    let next = |response: &Value| if response["status"] == "incomplete" { 7 } else { 6 };
    let first = ask("Hi", "Be", &Value::Null).await;
    assert_eq!(tokens(&first, "input_tokens"), 9);
    // The same go on from the state, and do not pile up.
    let mut last = first.clone();
    for _ in 0..2 {
        let response = ask("And", "Be", &last["id"]).await;
        assert_eq!(tokens(&response, "input_tokens"), tokens(&last, "total_tokens") + next(&last));
        let cached = &response["usage"]["input_tokens_details"]["cached_tokens"];
        assert_eq!(*cached, tokens(&last, "total_tokens") - 1, "all but the last token written: {response}");
        last = response;
    }
    // None, or others, and those before are gone.
    for instructions in ["", "Nothing"] {
        let said = first["output"][0]["content"][0]["text"].as_str().unwrap_or_default();
        let system = (!instructions.is_empty()).then_some(("system", instructions));
        let turns = system.into_iter().chain([("user", "Hi"), ("assistant", said), ("user", "And")]);
        let messages: Vec<Value> = turns.map(|(role, text)| json!({"role": role, "content": text})).collect();
        let chat = json!({"model": "teacher", "messages": messages, "max_tokens": 1});
        let chat = post(&router, "/v1/chat/completions", &chat).await.json();
        let response = ask("And", instructions, &first["id"]).await;
        assert_eq!(tokens(&response, "input_tokens"), tokens(&chat, "prompt_tokens"), "{instructions}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_send_headers_of_their_own() {
    let settings = Settings { cors_origins: vec!["https://app.example".into()], ..Settings::default() };
    let router = server_with(settings, limits()).router();
    let asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count";
    let before = |origin: &str| {
        let request = Request::builder().method("OPTIONS").uri("/v1/chat/completions").header("origin", origin);
        let request = request.header("access-control-request-method", "POST").header("access-control-request-headers", asked);
        request.body(Body::empty()).unwrap()
    };
    let reply = send(&router, before("https://app.example")).await;
    assert_eq!((reply.status.as_u16(), reply.headers["access-control-allow-headers"].to_str().unwrap()), (200, asked));
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example");
    assert!(!send(&router, before("https://other.example")).await.headers.contains_key("access-control-allow-origin"));
    // All is all, whatever else is named.
    let settings = Settings { cors_origins: vec!["https://app.example".into(), "*".into()], ..Settings::default() };
    let open = send(&server_with(settings, limits()).router(), before("https://other.example")).await;
    assert_eq!(open.headers["access-control-allow-origin"], "*");
    let mut request = request("GET", "/v1/models", Body::empty());
    request.headers_mut().insert("origin", "https://app.example".parse().unwrap());
    let exposed = send(&router, request).await.headers["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("retry-after") && exposed.contains("x-request-id"), "{exposed}");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let router = server().router();
    let refused = async |body: Value, status: u16, words: &str| {
        let reply = post(&router, "/v1/chat/completions", &body).await;
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(words), "{message}");
    };
    refused(chat("student", json!({"temprature": 1})), 400, "temperature").await;
    refused(chat("student", json!({"temperature": "hot"})), 400, "temperature").await;
    refused(chat("student", json!({"temperature": -1})), 400, "temperature").await;
    refused(chat("nobody", json!({})), 404, "nobody").await;
    refused(chat("org/base", json!({})), 400, "chat template").await;
    refused(chat("student", json!({"max_tokens": 1_000_000})), 400, "ask for fewer").await;
    refused(json!({"messages": []}), 400, "model").await;
    assert_eq!(get(&router, "/nowhere").await.status, 404);
    assert_eq!(get(&router, "/v1/chat/completions").await.status, 405);
}

fn keyed(key: &str, method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = request(method, path, body);
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

#[tokio::test]
async fn keys_and_limits() {
    let settings = Settings { api_keys: vec!["secret".into()], body_bytes: 2000, ..Settings::default() };
    let server = server_with(settings, limits());
    let router = server.router();
    let with_key = |key: &str, body: String| keyed(key, "POST", "/v1/chat/completions", body);
    let body = chat("student", json!({})).to_string();
    assert_eq!(send(&router, request("POST", "/v1/chat/completions", body.clone())).await.status, 401);
    assert_eq!(send(&router, with_key("wrong", body.clone())).await.status, 401);
    assert_eq!(send(&router, with_key("secret", body.clone())).await.status, 200);
    let long = chat("student", json!({"user": "x".repeat(3000)})).to_string();
    assert_eq!(send(&router, with_key("secret", long)).await.status, 413);
    assert_eq!(get(&router, "/health").await.status, 200, "no key for who looks whether it lives");
    assert_eq!(get(&router, "/ready").await.status, 200);
    server.drain();
    let late = send(&router, with_key("secret", body)).await;
    assert_eq!(late.status, 503);
    assert!(late.headers.contains_key("retry-after"));
    assert_eq!(get(&router, "/ready").await.status, 503);
}

#[tokio::test]
async fn keys_share_neither_states_nor_prompts() {
    let settings = Settings { api_keys: vec!["one".into(), "two".into()], ..Settings::default() };
    let router = server_with(settings, limits()).router();
    let ask =
        async |key: &str, method: &str, path: &str, body: &Value| send(&router, keyed(key, method, path, body.to_string())).await;
    let completion = json!({"model": "student", "prompt": "What nobody else is to know", "max_tokens": 2, "return_state": true});
    let first = ask("one", "POST", "/v1/completions", &completion).await.json();
    let state = first["recast"]["state"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    let said = json!({"model": "student", "input": "Hi", "max_output_tokens": 2});
    let said = ask("one", "POST", "/v1/responses", &said).await.json();
    let response = said["id"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();

    let paths = [format!("/v1/states/{state}"), format!("/v1/responses/{response}")];
    for (method, path) in paths.iter().flat_map(|path| [("GET", path), ("DELETE", path)]) {
        let reply = ask("two", method, path, &Value::Null).await;
        assert_eq!(reply.status, 404, "{method} {path}: {}", reply.text());
        assert_eq!(ask("one", "GET", path, &Value::Null).await.status, 200, "{path} after the other's {method}");
    }
    let onward = [
        ("/v1/completions", json!({"model": "student", "prompt": "x", "max_tokens": 1, "state": state})),
        ("/v1/chat/completions", chat("student", json!({"state": state}))),
        ("/v1/responses", json!({"model": "student", "input": "x", "max_output_tokens": 1, "previous_response_id": response})),
    ];
    for ((path, body), status) in onward.iter().zip([404, 404, 400]) {
        let reply = ask("two", "POST", path, body).await;
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
    for (path, body) in [&onward[0], &onward[2]] {
        let reply = ask("one", "POST", path, body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    // Who finds a prompt read already knows that somebody asked it.
    let cached = async |key: &str| {
        let usage = ask(key, "POST", "/v1/completions", &completion).await.json()["usage"].clone();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{usage}"))
    };
    assert_eq!(cached("two").await, 0);
    assert!(cached("one").await >= 16);
    for path in &paths {
        assert_eq!(ask("one", "DELETE", path, &Value::Null).await.status, 200);
        assert_eq!(ask("one", "GET", path, &Value::Null).await.status, 404);
    }
}

#[tokio::test]
async fn the_page_comes_whole_and_asks_nobody_else() {
    let router = server().router();
    let page = get(&router, "/").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(page.text().contains("<title>Recast</title>") && !page.text().contains("http"), "no address in the page");
    for (path, kind) in [("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let file = get(&router, path).await;
        assert!(file.headers["content-type"].to_str().unwrap().starts_with(kind) && file.bytes.len() > 500, "{path}");
    }
    let metrics = get(&router, "/metrics").await.text();
    assert!(
        metrics
            .lines()
            .filter(|l| !l.starts_with('#'))
            .all(|l| l.rsplit_once(' ').is_some_and(|(_, x)| x.parse::<f64>().is_ok()))
    );
}

/// What the guide says of metrics is what `/metrics` says of itself.
#[tokio::test]
async fn the_guide_lists_every_metric() {
    let page = get(&server().router(), "/metrics").await.text();
    let of = |word: &str| -> BTreeMap<String, String> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(word)?.split_once(' '));
        lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
    };
    let (kinds, abouts) = (of("# TYPE "), of("# HELP "));
    let told: Vec<[String; 3]> = kinds.into_iter().map(|(name, kind)| [name.clone(), kind, abouts[&name].clone()]).collect();
    let guide = include_str!("../../../docs/guide/serving.md");
    let cells = |row: &str| -> Vec<String> {
        row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<Vec<String>> =
        guide.lines().skip_while(|line| *line != "## Metrics").filter(|line| line.starts_with("| `")).map(cells).collect();
    let mut listed: Vec<[String; 3]> = Vec::new();
    for row in rows {
        let [name, kind, unit, about] = &row[..] else { panic!("{row:?} has not four columns") };
        assert!(!unit.is_empty() && (!name.ends_with("_bytes") || unit == "bytes"), "{row:?}");
        listed.push([name.clone(), kind.clone(), about.clone()]);
    }
    listed.sort();
    // Some systems do not tell of memory.
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert_eq!(told, listed);
    }
    assert!(told.iter().all(|metric| listed.contains(metric)), "{told:?}");
}

/// Numbers from a seed (SplitMix64).
fn rolls(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |sides| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) as usize % sides.max(1)
    }
}

#[tokio::test]
async fn rubbish_is_refused_and_nothing_stays_behind() {
    let server = server();
    let router = server.router();
    let mut roll = rolls(7);
    let seeds = [
        (
            "/v1/chat/completions",
            chat(
                "student",
                json!({"stop": ["a"], "logit_bias": {"3": 1}, "response_format": {"type": "json_object"}, "seed": 1}),
            )
            .to_string(),
        ),
        (
            "/v1/completions",
            json!({"model": "teacher", "prompt": [[1, 2], [3]], "max_tokens": 2, "echo": true, "logprobs": 1, "n": 2})
                .to_string(),
        ),
        (
            "/v1/responses",
            json!({"model": "teacher", "input": [{"role": "user", "content": "Hi"}], "max_output_tokens": 2}).to_string(),
        ),
    ];
    let pieces = ["null", "-1", "1e99", "\"\"", "[]", "{}", "[[]]", "true", "\u{0}", "\\ud800", "999999999999999999999"];
    for _ in 0..3000 {
        let (path, body) = &seeds[roll(seeds.len())];
        let mut bytes = body.clone().into_bytes();
        for _ in 0..1 + roll(3) {
            let place = roll(bytes.len());
            match roll(4) {
                0 => bytes[place] ^= 1 << roll(8),
                1 => bytes.truncate(place.max(1)),
                2 => drop(bytes.splice(place..(place + roll(8)).min(bytes.len()), pieces[roll(pieces.len())].bytes())),
                _ => bytes.insert(place, roll(256) as u8),
            }
        }
        let request = Request::builder().method("POST").uri(*path).header("content-type", "application/json");
        let reply = send(&router, request.body(Body::from(bytes.clone())).unwrap()).await;
        assert!(reply.status.as_u16() < 500, "{path} {}: {}", String::from_utf8_lossy(&bytes), reply.text());
    }
    for _ in 0..500 {
        if server.is_idle() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("something still runs");
}
