//! Endpoints, one file each: its table of fields, what it makes of a request, how it tells the
//! answer. To add one: a file here, a line in [`router`] and one in `openapi.rs`.

pub(crate) mod chat;
pub(crate) mod completions;
mod gate;
mod health;
pub(crate) mod models;
pub(crate) mod openapi;
mod page;
pub(crate) mod responses;
mod states;

pub(crate) use gate::{Asked, Id};

use crate::app::{App, Served};
use crate::body;
use crate::conversation::{self as talk, Prompt};
use crate::error::ApiError;
use crate::fields::Field;
use crate::generation::Generation;
use crate::kept::{Conversation, Kept};
use crate::options::{EXTENSIONS, Options, PENALTIES, SAMPLING};
use crate::settings::Settings;
use crate::stream::{self, Teller};
use axum::http::{HeaderName, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, extract, middleware};
use recast_infer::engine::{Constraint, Request};
use recast_text::Message;
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Tables of fields of the three endpoints that write.
pub(crate) const COMPLETIONS: [&[Field]; 4] = [completions::FIELDS, SAMPLING, PENALTIES, EXTENSIONS];
pub(crate) const CHAT: [&[Field]; 4] = [chat::FIELDS, SAMPLING, PENALTIES, EXTENSIONS];
pub(crate) const RESPONSES: [&[Field]; 2] = [responses::FIELDS, SAMPLING];

/// Everything there is.
pub(crate) fn router(app: Arc<App>) -> Router {
    let api = Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/responses/{id}", get(responses::get).delete(responses::delete))
        .route("/v1/states/{id}", get(states::get).delete(states::delete))
        .route_layer(middleware::from_fn_with_state(app.clone(), gate::enter));
    let router = api
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/", get(page::html))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .fallback(gate::nothing_here)
        .method_not_allowed_fallback(gate::other_method)
        .layer(CatchPanicLayer::custom(gate::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), gate::record));
    match cors(&app.settings.cors_origins) {
        Some(layer) => router.layer(layer).with_state(app),
        None => router.with_state(app),
    }
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        some if some.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        some => AllowOrigin::list(some.iter().filter_map(|origin| origin.parse().ok())),
    };
    let layer = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST, Method::DELETE]);
    // OpenAI's library sends a dozen headers of its own (`x-stainless-...`), others send others. To name them would
    // protect nothing: it is the origins that are let in or not.
    let layer = layer.allow_headers(AllowHeaders::mirror_request());
    Some(layer.expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER]))
}

/// Answers a request, whole or streamed: `prepare` makes of its fields what is written, how it is told, and whether it is
/// streamed.
pub(crate) async fn answer<T: Teller>(
    app: Arc<App>,
    asked: Asked,
    request: extract::Request,
    prepare: fn(&Arc<App>, &Asked, &Value) -> Result<(Generation, T, bool), ApiError>,
) -> Result<Response, ApiError> {
    let value = body::json(&app, request).await?;
    let (mut generation, mut teller, streamed) = body::blocking(move || prepare(&app, &asked, &value)).await?;
    if streamed {
        return Ok(stream::respond(generation, teller));
    }
    generation.finish().await?;
    body::blocking(move || Ok(Json(teller.whole(&mut generation)).into_response())).await
}

/// So many answers may be asked for, and a state of one only. To begin many from one state is fine.
pub(crate) fn check_answers(app: &App, served: &Served, prompts: usize, options: &Options) -> Result<(), ApiError> {
    // They are taken together: more than can run and wait at a time never would be.
    let limits = served.engine.limits();
    let most = app.settings.answers.min(limits.slots.saturating_add(limits.queue));
    let answers = prompts.saturating_mul(options.n);
    if answers > most {
        return Err(ApiError::at("n", format!("expected at most {most} answers, prompts times n, found {answers}")));
    }
    if answers > 1 && options.return_state {
        return Err(ApiError::at("return_state", "a state belongs to one answer: expected one prompt and n: 1"));
    }
    Ok(())
}

/// One of a text's form and a call that must be made.
pub(crate) fn constrain(options: &mut Options, call: Option<Constraint>) -> Result<(), ApiError> {
    if call.is_some() && options.constraint.is_some() {
        return Err(ApiError::at("tool_choice", "a call that must be made and a form of the text exclude each other"));
    }
    if call.is_some() {
        (options.constraint, options.form) = (call, "tools");
    }
    Ok(())
}

/// A conversation on its way to the engine.
pub(crate) struct Prepared {
    pub prompt: Prompt,
    pub request: Request,
}

/// Renders and counts a conversation; what is kept comes with the field that named it.
pub(crate) fn conversation(
    app: &App,
    served: &Served,
    kept: Option<(&'static str, &Kept)>,
    instructions: Option<Message>,
    new: Vec<Message>,
    tools: Option<&Value>,
    max_tokens: Option<usize>,
) -> Result<Prepared, ApiError> {
    if let Some((field, kept)) = kept {
        same_model(kept, served, field)?;
        if kept.conversation.is_none() {
            return Err(ApiError::at(
                field,
                "the state is of a plain text: expected one of a conversation; /v1/completions goes on from it",
            ));
        }
    }
    let mut prompt = talk::prompt(served, kept.map(|(_, kept)| kept), instructions, new, tools)?;
    let before = prompt.state.as_ref().map_or(0, |state| state.tokens.len());
    let max_tokens = served.room(before + prompt.tokens.len(), 0, max_tokens, app.settings.default_tokens)?;
    let request =
        Request { prompt: std::mem::take(&mut prompt.tokens), state: prompt.state.take(), max_tokens, ..Request::default() };
    Ok(Prepared { prompt, request })
}

fn same_model(kept: &Kept, served: &Served, field: &'static str) -> Result<(), ApiError> {
    if kept.model == served.id {
        return Ok(());
    }
    Err(ApiError::at(field, format!("{field}: expected one of the model {}, found one of {}", served.id, kept.model)))
}

/// `n` requests for each, with what they have in common.
pub(crate) fn finish_requests(
    app: &App,
    served: &Served,
    owner: Option<usize>,
    kept: Option<&Kept>,
    requests: Vec<Request>,
    options: &Options,
) -> Result<Vec<Request>, ApiError> {
    // Of conversations that was seen to.
    if let Some(kept) = kept {
        same_model(kept, served, "state")?;
    }
    let deadline = Instant::now() + Settings::time(app.settings.request_seconds);
    // Keys do not learn of each other's prompts.
    let owner = owner.map_or(0, |key| key as u64 + 1);
    let all = requests.into_iter().flat_map(|request| {
        (0..options.n).map(move |stream| Request {
            sampling: options.sampling.clone(),
            denoising: options.denoising.clone(),
            stream: stream as u64,
            stop: options.stop.clone(),
            constraint: options.constraint.clone(),
            keep_state: options.return_state,
            deadline: Some(deadline),
            owner,
            // Once for all answers to a prompt; but a stream begins each with its own.
            score_prompt: request.score_prompt && (stream == 0 || options.stream),
            ..request.clone()
        })
    });
    Ok(all.collect())
}

/// Keeps the state of the first answer; its id, if there was room.
pub(crate) fn keep(
    app: &App,
    generation: &Generation,
    owner: Option<usize>,
    id: String,
    conversation: Option<Conversation>,
    response: Option<Value>,
) -> Option<String> {
    let answer = generation.answers.first()?;
    let summary = answer.summary.as_ref()?;
    let snapshot = summary.state.clone()?;
    let written = &answer.written;
    // All that was read before the answer is in the state; of the answer it lacks the end.
    let read = snapshot.tokens.len().checked_sub(generation.before() + summary.prompt_tokens)?;
    let unread = written.get(read..).unwrap_or_default().iter().map(|w| w.token).collect();
    let state = generation.served.engine.model().state_bytes(snapshot.tokens.len()) + snapshot.tokens.len() * size_of::<u32>();
    let bytes =
        state + conversation.as_ref().map_or(0, Conversation::bytes) + response.as_ref().map_or(0, |r| r.to_string().len());
    let kept =
        Kept { id: id.clone(), owner, model: generation.served.id.clone(), snapshot, unread, conversation, response, bytes };
    app.kept.put(kept).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::stream::Told;
    use axum::body::Body;
    use burn::tensor::Device;
    use recast_infer::Engine;
    use recast_infer::engine::Limits;
    use recast_models::Model;
    use recast_text::{GgufVocab, Tokenizer};
    use serde_json::json;
    use std::path::Path;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    /// Where answers were told to their end.
    static TOLD_BY: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());

    struct Witness;

    impl Teller for Witness {
        fn whole(&mut self, _: &mut Generation) -> Value {
            TOLD_BY.lock().unwrap().push(thread::current().id());
            Value::Null
        }

        fn begin(&mut self, _: &Generation) -> Vec<Told> {
            Vec::new()
        }

        fn news(&mut self, _: &mut Generation, _: usize) -> Vec<Told> {
            Vec::new()
        }

        fn end(&mut self, generation: &mut Generation) -> Vec<Told> {
            vec![(None, self.whole(generation))]
        }

        fn failed(&mut self, error: &ApiError) -> Vec<Told> {
            vec![(None, error.body())]
        }

        fn says_done(&self) -> bool {
            false
        }
    }

    fn prepare(app: &Arc<App>, asked: &Asked, value: &Value) -> Result<(Generation, Witness, bool), ApiError> {
        let request = Request { prompt: vec![2, 3], ..Request::default() };
        Ok((Generation::submit(&app.models[0], vec![request], "regex", 60, &asked.record)?, Witness, value["stream"] == true))
    }

    /// A state that is kept then may be large, and so may those that make room for it: meanwhile others are served.
    #[tokio::test]
    async fn what_an_answer_ends_with_keeps_no_connection_waiting() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/released/rwkv6_rope_gate2");
        let tokens = ["<unk>", "\u{2581}", "a", "b"].map(String::from).to_vec();
        let scores = Some(vec![0.0; tokens.len()]);
        let vocab = GgufVocab { model: "llama".into(), scores, tokens, unknown: Some(0), ..GgufVocab::default() };
        let (model, tokenizer) = (Model::open(&golden, &Device::flex()).unwrap(), Tokenizer::from_gguf(vocab).unwrap());
        let engine = Engine::start(Arc::new(model), Arc::new(tokenizer), Limits::default()).unwrap();
        let app = Arc::new(App::new(Settings::default(), vec![("m".into(), engine)]).unwrap());
        for stream in [false, true] {
            let record = Record::new(app.clone(), "req_1".into(), "POST".into(), "/v1/completions".into());
            let body = Body::from(json!({"stream": stream}).to_string());
            let request = extract::Request::builder().header("content-type", "application/json").body(body).unwrap();
            let response = answer(app.clone(), Asked { owner: None, record }, request, prepare).await.unwrap();
            let told = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(&told[..], if stream { &b"data: null\n\n"[..] } else { b"null" });
        }
        // This test has one thread that serves.
        let told_by = TOLD_BY.lock().unwrap();
        assert!(told_by.len() == 2 && !told_by.contains(&thread::current().id()), "{told_by:?}");
    }
}
