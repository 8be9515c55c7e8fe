//! Over real connections: clients that leave, stall and crowd in, and the server's end. And what the
//! shapes' tests leave out: streamed responses, kept states, calls of tools, the interface's document.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{RECURRENT, TEMPLATE, get, limits, model, post, request, send, server, server_with, tokenizer, tokenizer_of};
use recast_infer::Engine;
use recast_infer::engine::Limits;
use recast_serve::{Ended, Server, Settings};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// An answer that would take minutes: the end token never comes.
fn endless(stream: bool) -> Value {
    json!({"model": "student", "prompt": "Hi", "max_tokens": 1_000_000, "stream": stream, "logit_bias": {"0": -100}})
}

fn settings() -> Settings {
    Settings { context: Some(2_000_000), ..Settings::default() }
}

struct Running {
    server: Server,
    address: SocketAddr,
    stop: mpsc::Sender<()>,
    ended: JoinHandle<std::io::Result<Ended>>,
}

async fn running(settings: Settings, limits: Limits) -> Running {
    let server = server_with(settings, limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, told) = mpsc::channel(2);
    let ended = tokio::spawn(server.clone().run(listener, told));
    Running { server, address, stop, ended }
}

impl Running {
    /// Sends a request and leaves the connection open.
    async fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    /// The whole answer, status line and all.
    async fn ask(&self, path: &str, body: &Value) -> String {
        let mut stream = self.begin(path, body).await;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Waits until a stream has said something of its answer.
async fn first_words(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("data: ") {
        let mut bytes = [0; 4096];
        let n = stream.read(&mut bytes).await.unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..n]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

async fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn who_leaves_frees_the_slot() {
    let running = running(settings(), Limits { slots: 1, queue: 1, ..limits() }).await;
    for stream in [true, false] {
        let mut client = running.begin("/v1/completions", &endless(stream)).await;
        if stream {
            first_words(&mut client).await;
        } else {
            let server = running.server.clone();
            soon("it begins", || !server.is_idle()).await;
        }
        drop(client);
        let server = running.server.clone();
        soon("the slot is free", || server.is_idle()).await;
        let short = json!({"model": "student", "prompt": "Hi", "max_tokens": 2});
        assert!(running.ask("/v1/completions", &short).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_crowd_is_told_to_come_back() {
    let running = running(settings(), Limits { slots: 1, queue: 1, ..limits() }).await;
    let mut first = running.begin("/v1/completions", &endless(true)).await;
    first_words(&mut first).await;
    let second = running.begin("/v1/completions", &endless(true)).await;
    let router = running.server.router();
    let started = Instant::now();
    while !get(&router, "/metrics").await.text().contains("recast_sequences_waiting{model=\"student\"} 1") {
        assert!(started.elapsed() < Duration::from_secs(20), "the second waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = running.ask("/v1/completions", &json!({"model": "student", "prompt": "Hi", "max_tokens": 2})).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.to_lowercase().contains("retry-after:"), "{refused}");
    drop((first, second));
}

#[tokio::test]
async fn what_takes_too_long_ends() {
    let running = running(Settings { request_seconds: 1, body_seconds: 1, ..settings() }, limits()).await;
    let late = running.ask("/v1/completions", &endless(false)).await;
    assert!(late.starts_with("HTTP/1.1 504"), "{late}");
    let late = running.ask("/v1/completions", &endless(true)).await;
    assert!(
        late.starts_with("HTTP/1.1 200") && late.contains("\"error\""),
        "a stream ends with the error: {}",
        &late[late.len().saturating_sub(300)..]
    );
    // A body that does not come.
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{")
        .await
        .unwrap();
    let mut text = vec![0; 400];
    let n = slow.read(&mut text).await.unwrap();
    let text = String::from_utf8_lossy(&text[..n]);
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    let server = running.server.clone();
    soon("nothing runs", || server.is_idle()).await;
}

#[tokio::test]
async fn the_end_waits_for_what_runs() {
    let running = running(settings(), limits()).await;
    let body = json!({"model": "student", "prompt": "Hi", "max_tokens": 3000, "stream": true, "logit_bias": {"0": -100}, "stream_options": {"include_usage": true}});
    let mut client = running.begin("/v1/completions", &body).await;
    let mut text = first_words(&mut client).await;
    running.stop.send(()).await.unwrap();
    let server = running.server.clone();
    soon("it drains", || server.is_draining()).await;
    let refused = running.ask("/v1/completions", &json!({"model": "student", "prompt": "Hi", "max_tokens": 2})).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.to_lowercase().contains("retry-after:"), "{refused}");
    client.read_to_string(&mut text).await.unwrap();
    assert!(
        text.contains("\"completion_tokens\":3000") && text.contains("[DONE]"),
        "{}",
        &text[text.len().saturating_sub(600)..]
    );
    assert_eq!(running.ended.await.unwrap().unwrap(), Ended::Drained);
}

#[tokio::test]
async fn a_second_word_ends_at_once() {
    let running = running(settings(), limits()).await;
    let mut client = running.begin("/v1/completions", &endless(true)).await;
    first_words(&mut client).await;
    running.stop.send(()).await.unwrap();
    running.stop.send(()).await.unwrap();
    assert_eq!(running.ended.await.unwrap().unwrap(), Ended::Cut);
}

#[tokio::test]
async fn who_is_cut_off_hears_of_it() {
    let running = running(Settings { drain_seconds: 0, ..settings() }, limits()).await;
    let mut whole = running.begin("/v1/completions", &endless(false)).await;
    let mut streamed = running.begin("/v1/completions", &endless(true)).await;
    first_words(&mut streamed).await;
    let router = running.server.router();
    let started = Instant::now();
    while !get(&router, "/metrics").await.text().contains("recast_sequences_running{model=\"student\"} 2") {
        assert!(started.elapsed() < Duration::from_secs(20), "both run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop.send(()).await.unwrap();
    let mut events = Vec::new();
    streamed.read_to_end(&mut events).await.unwrap();
    let events = String::from_utf8_lossy(&events);
    let last: Vec<&str> = events.lines().rev().take(10).collect();
    assert!(events.contains("shutting_down") && events.contains("data: [DONE]") && events.ends_with("0\r\n\r\n"), "{last:?}");
    let mut answer = String::new();
    whole.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("shutting_down"), "{answer}");
    assert_eq!(running.ended.await.unwrap().unwrap(), Ended::Cut);
}

#[tokio::test]
async fn responses_are_streamed_in_order() {
    let router = server().router();
    let body = json!({"model": "teacher", "input": "Hi", "max_output_tokens": 5, "temperature": 0});
    let whole = post(&router, "/v1/responses", &body).await.json();
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let reply = post(&router, "/v1/responses", &streamed).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let events = reply.events();
    let names: Vec<&str> = events.iter().filter_map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    assert!(["response.completed", "response.incomplete"].contains(names.last().unwrap()), "{names:?}");
    let chunks = reply.chunks();
    for (place, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk["sequence_number"], place);
        assert_eq!(Some(chunk["type"].as_str().unwrap()), events[place].0.as_deref());
    }
    let joined: String =
        chunks.iter().filter(|c| c["type"] == "response.output_text.delta").map(|c| c["delta"].as_str().unwrap()).collect();
    assert_eq!(joined, whole["output"][0]["content"][0]["text"]);
    assert_eq!(chunks.last().unwrap()["response"]["output"][0]["content"][0]["text"], joined);
    for response in [&whole, &chunks.last().unwrap()["response"]] {
        assert_eq!(response["output"][0]["status"], response["status"], "what is cut off does not say that it is whole");
    }
}

#[tokio::test]
async fn kept_states_are_gone_on_from_and_forgotten() {
    let router = server().router();
    let body = json!({"model": "student", "prompt": "Hello", "max_tokens": 4, "temperature": 0, "return_state": true, "logit_bias": {"0": -100}});
    let first = post(&router, "/v1/completions", &body).await.json();
    let state = first["recast"]["state"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    let path = format!("/v1/states/{state}");
    assert_eq!(get(&router, &path).await.json()["tokens"], 9);
    let next =
        json!({"model": "student", "prompt": "!", "max_tokens": 4, "temperature": 0, "state": state, "logit_bias": {"0": -100}});
    let next = post(&router, "/v1/completions", &next).await.json();
    let text = first["choices"][0]["text"].as_str().unwrap();
    let cold = json!({"model": "student", "prompt": format!("Hello{text}!"), "max_tokens": 4, "temperature": 0, "logit_bias": {"0": -100}});
    assert_eq!(post(&router, "/v1/completions", &cold).await.json()["choices"][0]["text"], next["choices"][0]["text"]);
    assert_eq!(send(&router, request("DELETE", &path, Body::empty())).await.json()["deleted"], true);
    assert_eq!(get(&router, &path).await.status, 404);
    let gone = json!({"model": "student", "prompt": "!", "state": state});
    assert_eq!(post(&router, "/v1/completions", &gone).await.status, 404);
}

#[tokio::test]
async fn a_forced_call_names_the_tool_and_keeps_to_its_schema() {
    let small = model(RECURRENT);
    let letters = tokenizer_of(small.config.vocabulary, ('a'..='z').chain('0'..='9').chain("{}[]\":,.-!".chars()));
    let engine = Engine::start(Arc::new(small), Arc::new(letters.with_chat_template(TEMPLATE)), limits()).unwrap();
    let router = Server::new(Settings::default(), vec![("student".into(), engine)]).unwrap().router();
    let tool = json!({"type": "function", "function": {"name": "sum", "description": "Adds.", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false}}});
    let body = json!({"model": "student", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "temperature": 1, "seed": 3,
        "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "sum"}}});
    let reply = post(&router, "/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let choice = &reply.json()["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "sum");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["a"].as_u64().is_some_and(|a| a <= 9), "{arguments}");
    let unspelt = post(&server().router(), "/v1/chat/completions", &body).await;
    assert_eq!(unspelt.status, 400, "no quotation marks among its tokens: {}", unspelt.text());
    let mut other = body;
    other["tool_choice"]["function"]["name"] = "product".into();
    assert_eq!(post(&router, "/v1/chat/completions", &other).await.status, 400);
}

#[tokio::test]
async fn a_template_without_a_place_for_tools_is_told_of_them_in_the_system_turn() {
    let template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<|endoftext|>{% endfor %}a";
    let small = model(RECURRENT);
    let letters = tokenizer(small.config.vocabulary).with_chat_template(template);
    let engine = Engine::start(Arc::new(small), Arc::new(letters), limits()).unwrap();
    let router = Server::new(Settings::default(), vec![("student".into(), engine)]).unwrap().router();
    let ask = async |more: Value| {
        let mut body = json!({"model": "student", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = post(&router, "/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let tools = |name: &str| json!([{"type": "function", "function": {"name": name}}]);
    let without = ask(json!({})).await;
    let short = ask(json!({"tools": tools("sum")})).await;
    assert!(short > without, "{short} tokens, and {without} without them");
    assert_eq!(ask(json!({"tools": tools("summary")})).await, short + 4);
    assert_eq!(ask(json!({"tools": tools("sum"), "tool_choice": "none"})).await, without);
    // Nor do calls that were made vanish.
    let called = |arguments: &str| {
        let call = json!({"id": "c", "type": "function", "function": {"name": "sum", "arguments": arguments}});
        let assistant = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "3"});
        json!({"messages": [{"role": "user", "content": "hi"}, assistant, result]})
    };
    let one = ask(called("{\"a\":\"x\"}")).await;
    assert_eq!(ask(called("{\"a\":\"xyz\"}")).await, one + 2);
}

/// One schema's references are to its own root, and another's to the other.
#[tokio::test]
async fn schemas_of_tools_may_refer_to_their_own_definitions() {
    let small = model(RECURRENT);
    let letters = tokenizer_of(small.config.vocabulary, ('a'..='z').chain('0'..='9').chain("{}[]\":,.-!".chars()));
    let engine = Engine::start(Arc::new(small), Arc::new(letters.with_chat_template(TEMPLATE)), limits()).unwrap();
    let router = Server::new(Settings::default(), vec![("student".into(), engine)]).unwrap().router();
    let tool = |name: &str, least: u32, more: Value| {
        let mut parameters = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/digit"}}, "required": ["a"],
            "additionalProperties": false, "$defs": {"digit": {"type": "integer", "minimum": least, "maximum": least + 4}}});
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    let older = json!({"$schema": "http://json-schema.org/draft-07/schema#"});
    let own = json!({"$id": "https://example.org/named"});
    let tools = [tool("low", 0, json!({})), tool("high", 5, older), tool("named", 0, own)];
    let mut called = std::collections::BTreeSet::new();
    let one = |name: &str| json!({"type": "function", "function": {"name": name}});
    let choices = [one("low"), one("high"), one("named"), json!("required"), json!("required"), json!("required")];
    for (seed, choice) in choices.into_iter().enumerate() {
        let body = json!({"model": "student", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "temperature": 1,
            "seed": seed, "tools": tools, "tool_choice": choice});
        let reply = post(&router, "/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{choice}: {}", reply.text());
        let call = &reply.json()["choices"][0]["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        let least = if call["name"] == "high" { 5 } else { 0 };
        assert!(arguments["a"].as_u64().is_some_and(|a| (least..=least + 4).contains(&a)), "{call}");
        called.insert(call["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(called.len(), 3, "{called:?}");
}

#[tokio::test]
async fn the_document_names_every_way_and_no_other() {
    let router = server().router();
    let document = get(&router, "/openapi.json").await.json();
    for (path, ways) in document["paths"].as_object().unwrap() {
        let place = path.replace("{id}", "student");
        for method in ["get", "post", "delete", "put"] {
            let reply = send(&router, request(&method.to_uppercase(), &place, "{}")).await;
            let there = reply.status != 405 && !reply.text().contains("unknown_url");
            assert_eq!(there, ways.get(method).is_some(), "{method} {path}: {} {}", reply.status, reply.text());
        }
    }
    let nowhere = get(&router, "/v1/nowhere").await;
    assert!(nowhere.status == 404, "{}", nowhere.text());
}

#[tokio::test]
async fn another_type_of_content_is_refused() {
    let router = server().router();
    let request = Request::builder().method("POST").uri("/v1/completions").header("content-type", "text/plain");
    let reply = send(&router, request.body(Body::from(endless(false).to_string())).unwrap()).await;
    assert_eq!(reply.status, 415, "{}", reply.text());
}
