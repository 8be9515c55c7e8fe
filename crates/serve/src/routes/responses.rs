//! `/v1/responses`: conversations that the server remembers, as states. `previous_response_id` goes
//! on from the state that the earlier response left, so its text is not read again.

use super::{Asked, Id, Prepared, finish_requests, keep};
use crate::app::{App, now};
use crate::conversation::Prompt;
use crate::error::{ApiError, PREVIOUS};
use crate::fields::{Field, Fields, only, read, unused};
use crate::generation::{Answer, Generation};
use crate::ids;
use crate::options::{DENOISES, JSON_SCHEMA, OBFUSCATION, Options, of_format};
use crate::routes::chat::{concluded, turn};
use crate::stream::{self, Told};
use crate::tools::{Call, Piece, Reader, Tools};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use recast_text::Message;
use serde_json::{Value, json};
use std::sync::Arc;

/// What this endpoint has beside the sampling.
pub(crate) const FIELDS: &[Field] = &[
    read("model", r#"{"type":"string"}"#, "One of /v1/models."),
    read(
        "input",
        r##"{"oneOf":[{"type":"string"},{"type":"array","items":{"$ref":"#/components/schemas/InputItem"}}]}"##,
        "A user's text, or the new items of the conversation.",
    ),
    read("instructions", r#"{"type":"string"}"#, "A system text. It is not carried over to the next response."),
    read(PREVIOUS, r#"{"type":"string"}"#, "The response to go on from."),
    read(
        "store",
        r#"{"type":"boolean"}"#,
        "Keep the response and its state. true where nothing is given; of models that denoise false, and nothing else.",
    ),
    read("stream", r#"{"type":"boolean","default":false}"#, "Server-sent events as the text is written."),
    read("max_output_tokens", r#"{"type":"integer","minimum":1}"#, "The most tokens to write."),
    read("seed", r#"{"type":"integer"}"#, "Recast: same seed, same text, as in /v1/chat/completions."),
    DENOISES,
    read("tools", r#"{"type":"array","items":{"type":"object"}}"#, "Functions that the model may call."),
    read("tool_choice", "{}", "none, auto, required, or one function."),
    read("text", r##"{"$ref":"#/components/schemas/TextOptions"}"##, "The form of the text."),
    read("metadata", r#"{"type":"object"}"#, "For the client's own use; given back."),
    only("parallel_tool_calls", "[true]", "Not supported otherwise."),
    only("truncation", r#"["disabled"]"#, "Nothing is cut off in silence."),
    only("include", "[[]]", "Not supported."),
    read("reasoning", r##"{"$ref":"#/components/schemas/Reasoning"}"##, "Not supported; what a response says of it is taken."),
    only("background", "[false]", "Not supported."),
    only("conversation", "[]", "Not supported: use previous_response_id."),
    only("prompt", "[]", "Not supported."),
    only("max_tool_calls", "[]", "Not supported."),
    only("top_logprobs", "[0]", "Not supported here."),
    read("stream_options", r##"{"$ref":"#/components/schemas/ResponseStreamOptions"}"##, "What the events tell."),
    only("service_tier", r#"["auto","default"]"#, "There is one."),
    unused("user", r#"{"type":"string"}"#, "Who asks."),
    unused("safety_identifier", r#"{"type":"string"}"#, "Who asks."),
    unused("prompt_cache_key", r#"{"type":"string"}"#, "States of prompts are found by their tokens."),
];

/// Of `reasoning`, as a response gives it back.
pub(crate) const REASONING: &[Field] = &[
    only("effort", "[]", "Not supported."),
    only("summary", "[]", "Not supported."),
    only("generate_summary", "[]", "Not supported."),
];

/// Of `stream_options`: there is no usage to be asked for.
pub(crate) const STREAM_OPTIONS: &[Field] = &[OBFUSCATION];

/// Of `text`.
pub(crate) const TEXT: &[Field] = &[
    read("format", r##"{"$ref":"#/components/schemas/TextFormat"}"##, "The form."),
    only("verbosity", r#"["medium"]"#, "Not supported."),
];

/// Of its `format`, beside those of a schema.
pub(crate) const FORMAT: &[Field] = &[read("type", r#"{"enum":["text","json_object","json_schema"]}"#, "The form.")];

/// Of an item of `input`.
pub(crate) const ITEM: &[Field] = &[
    read("type", r#"{"enum":["message","function_call","function_call_output"]}"#, "The kind; a message where there is none."),
    read("role", r#"{"enum":["system","developer","user","assistant"]}"#, "Who speaks."),
    read(
        "content",
        r#"{"oneOf":[{"type":"string"},{"type":"array"}]}"#,
        "What is said: a text or parts of type input_text or output_text.",
    ),
    read("call_id", r#"{"type":"string"}"#, "Of a call and of what came of it."),
    read("name", r#"{"type":"string"}"#, "The function called."),
    read("arguments", r#"{"type":"string"}"#, "Its arguments, as JSON."),
    read("output", r#"{"type":"string"}"#, "What came of the call."),
    unused("id", r#"{"type":"string"}"#, "The item's id."),
    unused("status", r#"{"type":"string"}"#, "The item's status."),
];

struct Responses {
    /// The response object as it will be, but for its end.
    frame: Value,
    id: String,
    item: String,
    number: u64,
    reader: Reader,
    content: String,
    calls: Vec<Call>,
    opened: bool,
    closed: Vec<Value>,
    prompt: Prompt,
    app: Arc<App>,
    owner: Option<usize>,
    store: bool,
}

/// Answers.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    request: Request,
) -> Result<Response, ApiError> {
    super::answer(app, asked, request, prepare).await
}

/// A response that was kept.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    Id(id): Id,
) -> Result<Json<Value>, ApiError> {
    let kept = app.kept.get("response", &id, asked.owner)?;
    Ok(Json(kept.response.clone().unwrap_or_default()))
}

/// Forgets it.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    Id(id): Id,
) -> Result<Json<Value>, ApiError> {
    app.kept.delete("response", &id, asked.owner)?;
    Ok(Json(json!({"id": id, "object": "response", "deleted": true})))
}

fn prepare(app: &Arc<App>, asked: &Asked, value: &Value) -> Result<(Generation, Responses, bool), ApiError> {
    let fields = Fields::check("", value, &super::RESPONSES)?;
    let served = app.model(fields.text("model")?.ok_or_else(|| fields.missing("model", "a model's id"))?)?.clone();
    asked.record.set_model(&served.id);
    fields.object("reasoning", &[REASONING])?;
    fields.object("stream_options", &[STREAM_OPTIONS])?;
    let mut options = Options::read(&fields, served.engine.model())?;
    let denoises = served.engine.model().config.diffusion.is_some();
    let store = match fields.flag("store")? {
        Some(true) if denoises => {
            return Err(fields.wrong("store", "false or nothing, since a model that denoises leaves no state", &json!(true)));
        }
        store => store.unwrap_or(!denoises),
    };
    options.return_state = store;
    let tools = Tools::read(&fields, true)?;
    let format = fields.object("text", &[TEXT])?;
    let format = format.map(|text| text.object("format", &[FORMAT, JSON_SCHEMA])).transpose()?.flatten();
    if let Some(format) = &format {
        options.constraint = of_format(
            format.word("type", &["text", "json_object", "json_schema"])?,
            format.get("schema").cloned(),
            "text.format",
        )?;
        options.form = "text.format";
    }
    super::constrain(&mut options, tools.constraint)?;
    let previous = fields.text(PREVIOUS)?;
    let kept = app.kept.named("response", previous, PREVIOUS, asked.owner)?;
    let instructions = fields.text("instructions")?.map(|text| Message::new("system", text));
    let messages = input(&fields)?;
    let most = fields.count("max_output_tokens", 1, app.settings.max_tokens)?;
    let Prepared { prompt, request } = super::conversation(
        app,
        &served,
        kept.as_deref().map(|kept| (PREVIOUS, kept)),
        instructions,
        messages,
        tools.list.as_ref(),
        most,
    )?;
    let requests = finish_requests(app, &served, asked.owner, kept.as_deref(), vec![request], &options)?;
    let id = ids::fresh("resp_");
    let frame = json!({
        "id": id, "object": "response", "created_at": now(), "status": "in_progress", "error": null, "incomplete_details": null,
        "instructions": value["instructions"], "max_output_tokens": most, "metadata": fields.get("metadata").cloned().unwrap_or_else(|| json!({})),
        "model": served.id, "output": [], "parallel_tool_calls": true, "previous_response_id": previous,
        "reasoning": {"effort": null, "summary": null}, "store": store, "temperature": options.sampling.temperature,
        "text": {"format": format.map_or_else(|| json!({"type": "text"}), |_| value["text"]["format"].clone())},
        "tool_choice": fields.get("tool_choice").cloned().unwrap_or_else(|| "auto".into()),
        "tools": fields.get("tools").cloned().unwrap_or_else(|| json!([])), "top_p": options.sampling.top_p.unwrap_or(1.0),
        "truncation": "disabled", "usage": null, "user": null,
    });
    let teller = Responses {
        frame,
        id,
        item: ids::fresh("msg_"),
        number: 0,
        reader: Reader::new(tools.list.is_some()),
        content: String::new(),
        calls: Vec::new(),
        opened: false,
        closed: Vec::new(),
        prompt,
        app: app.clone(),
        owner: asked.owner,
        store,
    };
    let generation = Generation::submit(&served, requests, options.form, app.settings.request_seconds, &asked.record)?;
    Ok((generation, teller, options.stream))
}

/// How an answer ended, of the response and of the message that it ends with.
fn status(answer: &Answer) -> &'static str {
    if answer.finish() == Some("length") { "incomplete" } else { "completed" }
}

fn input(fields: &Fields) -> Result<Vec<Message>, ApiError> {
    let expected = "a string or a list of items";
    match fields.get("input") {
        Some(Value::String(text)) => Ok(vec![Message::new("user", text.as_str())]),
        Some(Value::Array(list)) if !list.is_empty() => list.iter().enumerate().map(|(index, item)| one(index, item)).collect(),
        Some(value) => Err(fields.wrong("input", expected, value)),
        None => Err(fields.missing("input", expected)),
    }
}

fn one(index: usize, value: &Value) -> Result<Message, ApiError> {
    let item = Fields::check(format!("input[{index}]."), value, &[ITEM])?;
    let need = |name: &str| item.text(name)?.ok_or_else(|| item.missing(name, "a string"));
    match item.word("type", &["message", "function_call", "function_call_output"])?.unwrap_or("message") {
        "function_call" => Ok(turn(
            "",
            &[Call { id: need("call_id")?.into(), name: need("name")?.into(), arguments: need("arguments")?.into() }],
        )),
        "function_call_output" => {
            let mut message = Message::new("tool", need("output")?);
            message.extra.insert("tool_call_id".into(), need("call_id")?.into());
            Ok(message)
        }
        _ => {
            let role = item.word("role", &["system", "developer", "user", "assistant"])?;
            let role = role.ok_or_else(|| item.missing("role", "system, developer, user or assistant"))?;
            let expected = "a string or a list of {\"type\": \"input_text\", \"text\": ...}";
            let content = match item.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(parts)) => {
                    let text = |part: &Value| {
                        let known = ["input_text", "output_text", "text"].iter().any(|kind| part["type"] == *kind);
                        part["text"].as_str().filter(|_| known).map(ToOwned::to_owned)
                    };
                    parts
                        .iter()
                        .map(text)
                        .collect::<Option<String>>()
                        .ok_or_else(|| item.wrong("content", expected, &parts.clone().into()))?
                }
                Some(value) => return Err(item.wrong("content", expected, value)),
                None => return Err(item.missing("content", expected)),
            };
            Ok(Message::new(if role == "developer" { "system" } else { role }, content))
        }
    }
}

impl Responses {
    fn told(&mut self, name: &'static str, mut value: Value) -> Told {
        value["type"] = name.into();
        value["sequence_number"] = self.number.into();
        self.number += 1;
        (Some(name), value)
    }

    fn part(&self) -> Value {
        json!({"type": "output_text", "text": self.content, "annotations": []})
    }

    fn message(&self, status: &str, content: Vec<Value>) -> Value {
        json!({"type": "message", "id": self.item, "status": status, "role": "assistant", "content": content})
    }

    fn pieces(&mut self, text: &str) -> Vec<Told> {
        let pieces = self.reader.push(text);
        self.take(pieces)
    }

    fn take(&mut self, pieces: Vec<Piece>) -> Vec<Told> {
        let mut told = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    told.extend(self.open());
                    self.content.push_str(&text);
                    let delta = json!({"item_id": self.item, "output_index": self.closed.len(), "content_index": 0, "delta": text, "logprobs": []});
                    told.push(self.told("response.output_text.delta", delta));
                }
                Piece::Call(call) => {
                    told.extend(self.close("completed"));
                    told.extend(self.call(call));
                }
            }
        }
        told
    }

    /// Opens the message, before its first text.
    fn open(&mut self) -> Vec<Told> {
        if std::mem::replace(&mut self.opened, true) {
            return Vec::new();
        }
        let index = self.closed.len();
        let item = self.message("in_progress", Vec::new());
        let part = self.part();
        vec![
            self.told("response.output_item.added", json!({"output_index": index, "item": item})),
            self.told(
                "response.content_part.added",
                json!({"item_id": self.item, "output_index": index, "content_index": 0, "part": part}),
            ),
        ]
    }

    /// What was held back, and the end of the message.
    fn last(&mut self, generation: &Generation) -> Vec<Told> {
        let rest = self.reader.finish();
        let mut told = self.take(rest);
        told.extend(self.close(status(&generation.answers[0])));
        told
    }

    /// Closes the message, before a call and at the end.
    fn close(&mut self, status: &str) -> Vec<Told> {
        if !std::mem::replace(&mut self.opened, false) {
            return Vec::new();
        }
        let (index, item, part) = (self.closed.len(), self.item.clone(), self.part());
        let message = self.message(status, vec![part.clone()]);
        let told = vec![
            self.told(
                "response.output_text.done",
                json!({"item_id": item, "output_index": index, "content_index": 0, "text": self.content, "logprobs": []}),
            ),
            self.told(
                "response.content_part.done",
                json!({"item_id": item, "output_index": index, "content_index": 0, "part": part}),
            ),
            self.told("response.output_item.done", json!({"output_index": index, "item": message})),
        ];
        self.closed.push(message);
        self.item = ids::fresh("msg_");
        self.content.clear();
        told
    }

    fn call(&mut self, call: Call) -> Vec<Told> {
        let (index, item) = (self.closed.len(), ids::fresh("fc_"));
        let object = |status: &str, arguments: &str| json!({"type": "function_call", "id": item, "call_id": call.id, "name": call.name, "arguments": arguments, "status": status});
        let place = json!({"item_id": item, "output_index": index});
        let with = |name: &str, value: &str| {
            let mut place = place.clone();
            place[name] = value.into();
            place
        };
        let done = object("completed", &call.arguments);
        let told = vec![
            self.told("response.output_item.added", json!({"output_index": index, "item": object("in_progress", "")})),
            self.told("response.function_call_arguments.delta", with("delta", &call.arguments)),
            self.told("response.function_call_arguments.done", with("arguments", &call.arguments)),
            self.told("response.output_item.done", json!({"output_index": index, "item": done.clone()})),
        ];
        self.closed.push(done);
        self.calls.push(call);
        told
    }

    /// The response as it is at the end; kept, if it shall be.
    fn completed(&mut self, generation: &Generation) -> Value {
        let answer = &generation.answers[0];
        let usage = generation.usage(1);
        let status = status(answer);
        let mut response = self.frame.clone();
        response["status"] = status.into();
        if status == "incomplete" {
            response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        response["output"] = self.closed.clone().into();
        response["usage"] = json!({
            "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        });
        response["recast"] = generation.speeds().into();
        if self.store {
            let content: String = self.closed.iter().filter_map(|item| item["content"][0]["text"].as_str()).collect();
            let conversation = concluded(&self.prompt, generation, answer, turn(&content, &self.calls));
            let kept = keep(&self.app, generation, self.owner, self.id.clone(), conversation, Some(response.clone()));
            // A client that wants to go on must know that it cannot.
            response["store"] = kept.is_some().into();
        }
        response
    }
}

impl stream::Teller for Responses {
    fn whole(&mut self, generation: &mut Generation) -> Value {
        let (text, _) = generation.answers[0].news();
        self.pieces(&text);
        self.last(generation);
        self.completed(generation)
    }

    fn begin(&mut self, _: &Generation) -> Vec<Told> {
        let response = json!({"response": self.frame});
        vec![self.told("response.created", response.clone()), self.told("response.in_progress", response)]
    }

    fn news(&mut self, generation: &mut Generation, index: usize) -> Vec<Told> {
        let (text, _) = generation.answers[index].news();
        self.pieces(&text)
    }

    fn end(&mut self, generation: &mut Generation) -> Vec<Told> {
        let mut told = self.last(generation);
        let response = self.completed(generation);
        let name = if response["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
        told.push(self.told(name, json!({"response": response})));
        told
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Told> {
        let mut response = self.frame.clone();
        response["status"] = "failed".into();
        response["error"] = json!({"code": error.body()["error"]["code"], "message": error.to_string()});
        vec![self.told("response.failed", json!({"response": response}))]
    }

    fn says_done(&self) -> bool {
        false
    }
}
