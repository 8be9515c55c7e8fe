//! Tiny models behind a server, and requests to it.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use burn::tensor::Device;
use recast_infer::Engine;
use recast_infer::engine::Limits;
use recast_models::{Diffusion, Model};
use recast_serve::{Server, Settings};
use recast_text::Tokenizer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tower::ServiceExt;

pub const ATTENTION: &str = "families/llama_gqa";
pub const RECURRENT: &str = "released/rwkv6_rope_gate2";
pub const HYBRID: &str = "released/rwkv7_hybrid";

/// A template of one letter a role: `u` and `a` before a turn, the end token after it.
pub const TEMPLATE: &str = "{% if tools %}t{% for tool in tools %}{{ tool.function.name }}{% endfor %}{% endif %}\
    {% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no bad turns') }}{% endif %}{{ m.role[0] }}{{ m.content }}<|endoftext|>{% endfor %}\
    {% if add_generation_prompt %}a{% endif %}";

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

pub fn model(folder: &str) -> Model {
    Model::open(&golden().join(folder), &Device::flex()).unwrap_or_else(|e| panic!("{folder}: {e}"))
}

/// One letter a token, as many as the model has; two more spell one character together.
pub fn tokenizer(size: usize) -> Tokenizer {
    tokenizer_of(size, ('!'..='~').rev())
}

/// Of these letters, so far as there is room.
pub fn tokenizer_of(size: usize, letters: impl Iterator<Item = char>) -> Tokenizer {
    // Bytes c3 and a9, é in UTF-8, by GPT-2's letters for bytes.
    let mut names: Vec<String> = vec!["<|endoftext|>".into(), "Ã".into(), "©".into()];
    names.extend(letters.map(String::from).take(size - 3));
    let vocab: serde_json::Map<String, Value> = names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json_bytes(json.to_string().as_bytes()).expect("a tokenizer")
}

pub fn limits() -> Limits {
    Limits { slots: 8, queue: 64, state_bytes: 64 << 20, prefix_bytes: 8 << 20, chunk: 16 }
}

pub fn engine(folder: &str, limits: Limits) -> Engine {
    let model = model(folder);
    let tokenizer = tokenizer(model.config.vocabulary).with_chat_template(TEMPLATE);
    Engine::start(Arc::new(model), Arc::new(tokenizer), limits).expect("an engine")
}

/// Two models: `teacher` with softmax, `student` recurrent; and `base` without a template.
pub fn server_with(settings: Settings, limits: Limits) -> Server {
    let base = model(ATTENTION);
    let plain = tokenizer(base.config.vocabulary);
    let base = Engine::start(Arc::new(base), Arc::new(plain), limits).expect("an engine");
    let models = vec![
        ("teacher".into(), engine(ATTENTION, limits)),
        ("student".into(), engine(RECURRENT, limits)),
        ("org/base".into(), base),
    ];
    Server::new(settings, models).expect("a server")
}

/// Three models without templates: `masked` denoises blocks of 8 on a recurrent state, `whole` the
/// whole sequence, `plain` writes token by token.
pub fn masked_server() -> Server {
    let masked = |folder: &str, diffusion: Option<(Option<usize>, bool)>| {
        let mut model = model(folder);
        let mask_token = model.config.vocabulary as u32 - 1;
        model.config.diffusion = diffusion.map(|(block, shift)| Diffusion { mask_token, block, shift, uniform: false });
        // Without an end token: what these models write would end anywhere.
        let tokenizer = tokenizer(model.config.vocabulary).with_special_tokens(None, Vec::new()).expect("no end tokens");
        Engine::start(Arc::new(model), Arc::new(tokenizer), limits()).expect("an engine")
    };
    let models = vec![
        ("masked".into(), masked(HYBRID, Some((Some(8), true)))),
        ("plain".into(), masked(ATTENTION, None)),
        ("whole".into(), masked(ATTENTION, Some((None, false)))),
    ];
    Server::new(Settings { context: Some(4096), ..Settings::default() }, models).expect("a server")
}

pub fn server() -> Server {
    server_with(Settings { context: Some(4096), ..Settings::default() }, limits())
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Data of server-sent events; the names where they have any.
    pub fn events(&self) -> Vec<(Option<String>, String)> {
        self.text()
            .split("\n\n")
            .filter(|block| !block.trim().is_empty() && !block.starts_with(':'))
            .map(|block| {
                let of = |key: &str| block.lines().find_map(|line| line.strip_prefix(key)).map(|v| v.trim().to_owned());
                (of("event:"), of("data:").unwrap_or_default())
            })
            .collect()
    }

    /// The events' JSON, without `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        self.events().iter().filter(|(_, data)| data != "[DONE]").map(|(_, data)| serde_json::from_str(data).unwrap()).collect()
    }
}

pub async fn send(router: &Router, request: Request<Body>) -> Reply {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    Reply { status: parts.status, headers: parts.headers, bytes }
}

pub fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("content-type", "application/json").body(body.into()).unwrap()
}

pub async fn post(router: &Router, path: &str, body: &Value) -> Reply {
    send(router, request("POST", path, body.to_string())).await
}

pub async fn get(router: &Router, path: &str) -> Reply {
    send(router, request("GET", path, Body::empty())).await
}

/// What differs from run to run, made equal.
pub fn plain(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, item) in map {
                    let made =
                        ["created", "created_at", "time_to_first_token", "prefill_tokens_per_second", "decode_tokens_per_second"];
                    if made.contains(&key.as_str()) && item.is_number() {
                        *item = "[number]".into();
                    } else if let Some(prefix) = ["id", "item_id", "call_id", "state", "previous_response_id"]
                        .contains(&key.as_str())
                        .then_some(item.as_str())
                        .flatten()
                        .and_then(|id| {
                            ["chatcmpl-", "cmpl-", "resp_", "msg_", "state_", "call_", "fc_"]
                                .into_iter()
                                .find(|p| id.starts_with(p))
                        })
                    {
                        *item = format!("{prefix}[id]").into();
                    } else {
                        walk(item);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Number(number) if number.is_f64() => {
                // The last bits are the machine's.
                let x = number.as_f64().unwrap_or_default();
                *value = ((x * 1e3).round() / 1e3).into();
            }
            _ => {}
        }
    }
    walk(&mut value);
    value
}
