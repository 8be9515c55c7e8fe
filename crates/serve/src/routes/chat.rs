//! `POST /v1/chat/completions`: conversations, by the model's template.

use super::{Asked, Prepared, finish_requests, keep};
use crate::app::{App, now};
use crate::conversation::{self, Prompt};
use crate::error::ApiError;
use crate::fields::{Field, Fields, only, read, unused};
use crate::generation::{Answer, Generation, Written};
use crate::ids;
use crate::kept::Conversation;
use crate::options::{ALTERNATIVES, Options};
use crate::stream::{self, Told};
use crate::tokens;
use crate::tools::{Call, Piece, Reader, Tools};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use recast_infer::{Finish, engine};
use recast_text::{Message, Tokenizer};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What only this endpoint has.
pub(crate) const FIELDS: &[Field] = &[
    read("model", r#"{"type":"string"}"#, "One of /v1/models."),
    read(
        "messages",
        r##"{"type":"array","items":{"$ref":"#/components/schemas/Message"}}"##,
        "The conversation; with `state`, its new turns.",
    ),
    read("max_completion_tokens", r#"{"type":"integer","minimum":1}"#, "The most tokens to write."),
    read("max_tokens", r#"{"type":"integer","minimum":1}"#, "The same, by its older name."),
    read("logprobs", r#"{"type":"boolean","default":false}"#, "Log-probabilities of the answer's tokens."),
    read("top_logprobs", r#"{"type":"integer","minimum":0,"maximum":20}"#, "And of so many likeliest at each place."),
    read("tools", r##"{"type":"array","items":{"$ref":"#/components/schemas/Tool"}}"##, "Functions that the model may call."),
    read("tool_choice", r#"{}"#, "none, auto, required, or one function."),
    read("response_format", r##"{"$ref":"#/components/schemas/ResponseFormat"}"##, "The form of the answer."),
    only("parallel_tool_calls", "[true]", "Not supported otherwise."),
    only("functions", "[[]]", "Not supported: use tools."),
    only("function_call", r#"["none"]"#, "Not supported: use tool_choice."),
    only("modalities", r#"[["text"]]"#, "Text only."),
    only("audio", "[]", "Not supported."),
    only("prediction", "[]", "Not supported."),
    only("reasoning_effort", "[]", "Not supported."),
    only("verbosity", r#"["medium"]"#, "Not supported."),
    only("web_search_options", "[]", "Not supported."),
    only("store", "[false]", "Not supported here: use return_state, or /v1/responses."),
    only("service_tier", r#"["auto","default"]"#, "There is one."),
    unused("metadata", r#"{"type":"object"}"#, "For the client's own use."),
    unused("user", r#"{"type":"string"}"#, "Who asks."),
    unused("safety_identifier", r#"{"type":"string"}"#, "Who asks."),
    unused("prompt_cache_key", r#"{"type":"string"}"#, "States of prompts are found by their tokens."),
];

/// An answer's words and calls as far as they were read.
#[derive(Default)]
struct Turn {
    reader: Reader,
    content: String,
    calls: Vec<Call>,
    finished: bool,
}

struct Chat {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    include_usage: bool,
    turns: Vec<Turn>,
    prompt: Prompt,
    keep: Option<(Arc<App>, Option<usize>)>,
}

/// Answers.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    request: Request,
) -> Result<Response, ApiError> {
    super::answer(app, asked, request, prepare).await
}

fn prepare(app: &Arc<App>, asked: &Asked, value: &Value) -> Result<(Generation, Chat, bool), ApiError> {
    let fields = Fields::check("", value, &super::CHAT)?;
    let served = app.model(fields.text("model")?.ok_or_else(|| fields.missing("model", "a model's id"))?)?.clone();
    asked.record.set_model(&served.id);
    let mut options = Options::read(&fields, served.engine.model())?;
    let tools = Tools::read(&fields, false)?;
    super::constrain(&mut options, tools.constraint)?;
    let list = fields.list("messages")?.filter(|list| !list.is_empty());
    let mut messages = conversation::messages(list.ok_or_else(|| fields.missing("messages", "a list of at least one message"))?)?;
    if let Some(last) = messages.iter_mut().rev().find(|message| message.role == "user") {
        last.content = vec![last.content.as_str(); options.repeat_context].join("\n");
    }
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let alternatives = fields.count("top_logprobs", 0, ALTERNATIVES)?;
    if alternatives.is_some_and(|n| n > 0) && !logprobs {
        return Err(ApiError::at("top_logprobs", "top_logprobs: expected logprobs: true with it, found none"));
    }
    let most = app.settings.max_tokens;
    let max_tokens = match (fields.count("max_completion_tokens", 1, most)?, fields.count("max_tokens", 1, most)?) {
        (Some(a), Some(b)) if a != b => {
            return Err(ApiError::at(
                "max_tokens",
                format!("max_tokens: expected {a} as in max_completion_tokens, or nothing, found {b}"),
            ));
        }
        (a, b) => a.or(b),
    };
    super::check_answers(app, &served, 1, &options)?;
    let kept = app.kept.named("state", options.state.as_deref(), "state", asked.owner)?;
    let Prepared { prompt, request } = super::conversation(
        app,
        &served,
        kept.as_deref().map(|kept| ("state", kept)),
        None,
        messages,
        tools.list.as_ref(),
        max_tokens,
    )?;
    let request = engine::Request { alternatives: alternatives.unwrap_or(0), ..request };
    let requests = finish_requests(app, &served, asked.owner, kept.as_deref(), vec![request], &options)?;
    let chat = Chat {
        id: ids::fresh("chatcmpl-"),
        created: now(),
        model: served.id.clone(),
        logprobs,
        include_usage: options.include_usage,
        turns: requests.iter().map(|_| Turn { reader: Reader::new(tools.list.is_some()), ..Turn::default() }).collect(),
        prompt,
        keep: options.return_state.then(|| (app.clone(), asked.owner)),
    };
    let mut generation = Generation::submit(&served, requests, options.form, app.settings.request_seconds, &asked.record)?;
    generation.revisions = options.revisions;
    Ok((generation, chat, options.stream))
}

impl Turn {
    /// Reads what is new, and all that was held back if that was the end.
    fn read(&mut self, text: &str, ended: bool) -> Vec<Piece> {
        let mut pieces = self.reader.push(text);
        if ended && !self.finished {
            self.finished = true;
            pieces.extend(self.reader.finish());
        }
        for piece in &pieces {
            match piece {
                Piece::Text(text) => self.content.push_str(text),
                Piece::Call(call) => self.calls.push(call.clone()),
            }
        }
        pieces
    }
}

/// An assistant's turn, for the template of the next one.
pub(crate) fn turn(content: &str, calls: &[Call]) -> Message {
    let mut message = Message::new("assistant", content);
    if !calls.is_empty() {
        let calls: Vec<Value> = calls.iter().filter_map(|call| conversation::template_call(&call.json())).collect();
        message.extra.insert("tool_calls".into(), calls.into());
    }
    message
}

/// The conversation with its answer, to be gone on from.
pub(crate) fn concluded(prompt: &Prompt, generation: &Generation, answer: &Answer, turn: Message) -> Option<Conversation> {
    let finish = &answer.summary.as_ref()?.finish;
    let mut messages = prompt.messages.clone();
    messages.push(turn);
    Some(Conversation {
        messages,
        text: format!("{}{}", prompt.text, answer.text),
        end: match finish {
            Finish::EndToken(token) => Some(generation.tokenizer().decode(&[*token], false)),
            _ => None,
        },
        whole: !matches!(finish, Finish::StopString(_)),
    })
}

impl Chat {
    fn frame(&self, object: &str, choices: Vec<Value>) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("id".into(), self.id.clone().into());
        map.insert("object".into(), object.into());
        map.insert("created".into(), self.created.into());
        map.insert("model".into(), self.model.clone().into());
        map.insert("choices".into(), choices.into());
        map
    }

    fn chunk(&self, index: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Told {
        let choice = json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        let mut map = self.frame("chat.completion.chunk", vec![choice]);
        if self.include_usage {
            map.insert("usage".into(), Value::Null);
        }
        (None, map.into())
    }

    /// A step of a model that denoises, in a chunk that says nothing else.
    fn revision(&self, index: usize, step: &Value) -> Told {
        let mut map = self.frame("chat.completion.chunk", Vec::new());
        if self.include_usage {
            map.insert("usage".into(), Value::Null);
        }
        map.insert("recast".into(), json!({"index": index, "step": step}));
        (None, map.into())
    }

    fn scores(&self, generation: &Generation, written: &[Written], finish: Option<&Finish>) -> Value {
        if self.logprobs { scores(generation.tokenizer(), written, finish) } else { Value::Null }
    }

    fn ours(&self, generation: &Generation) -> Value {
        let mut ours = generation.speeds();
        if let Some((app, owner)) = &self.keep {
            let said = turn(&self.turns[0].content, &self.turns[0].calls);
            let conversation = concluded(&self.prompt, generation, &generation.answers[0], said);
            if let Some(id) = keep(app, generation, *owner, ids::fresh("state_"), conversation, None) {
                ours.insert("state".into(), id.into());
            }
        }
        ours.into()
    }
}

/// A whole call does not hide that what came behind it was cut off.
fn finish(turn: &Turn, answer: &Answer) -> Option<&'static str> {
    answer.finish().map(|word| if turn.calls.is_empty() || word == "length" { word } else { "tool_calls" })
}

/// Log-probabilities as chat tells them. The token that ended the answer is no part of it.
pub(crate) fn scores(tokenizer: &Tokenizer, written: &[Written], finish: Option<&Finish>) -> Value {
    let one = |token: u32, log_probability: f32| {
        let bytes = tokens::bytes(tokenizer, token);
        json!({"token": tokens::text(&bytes), "logprob": log_probability, "bytes": bytes})
    };
    let ends = |token: u32| tokenizer.eos_ids().contains(&token) && !matches!(finish, Some(Finish::Length));
    let content: Vec<Value> = written
        .iter()
        .filter(|written| !ends(written.token))
        .map(|written| {
            let mut entry = one(written.token, written.log_probability);
            entry["top_logprobs"] = written.alternatives.iter().map(|(token, p)| one(*token, *p)).collect();
            entry
        })
        .collect();
    json!({"content": content, "refusal": null})
}

impl stream::Teller for Chat {
    fn whole(&mut self, generation: &mut Generation) -> Value {
        let mut choices = Vec::new();
        for index in 0..generation.answers.len() {
            let (text, written) = generation.answers[index].news();
            self.turns[index].read(&text, true);
            let answer = &generation.answers[index];
            let logprobs = self.scores(generation, &written, answer.summary.as_ref().map(|s| &s.finish));
            let turn = &self.turns[index];
            let content = (!turn.content.is_empty() || turn.calls.is_empty()).then_some(turn.content.as_str());
            let mut message = json!({"role": "assistant", "content": content, "refusal": null});
            if !turn.calls.is_empty() {
                message["tool_calls"] = turn.calls.iter().map(Call::json).collect();
            }
            choices
                .push(json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish(turn, answer)}));
        }
        let mut map = self.frame("chat.completion", choices);
        map.insert("usage".into(), generation.usage(self.turns.len()).json());
        map.insert("recast".into(), self.ours(generation));
        map.into()
    }

    fn begin(&mut self, generation: &Generation) -> Vec<Told> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        (0..generation.answers.len()).map(|index| self.chunk(index, delta.clone(), Value::Null, None)).collect()
    }

    fn news(&mut self, generation: &mut Generation, index: usize) -> Vec<Told> {
        let (text, written) = generation.answers[index].news();
        let answer = &generation.answers[index];
        let ended = answer.summary.as_ref().map(|s| s.finish.clone());
        let calls_before = self.turns[index].calls.len();
        let pieces = self.turns[index].read(&text, ended.is_some());
        let mut logprobs = if written.is_empty() { Value::Null } else { self.scores(generation, &written, ended.as_ref()) };
        let mut told: Vec<Told> = Vec::new();
        for step in generation.revisions(index) {
            told.push(self.revision(index, &step));
        }
        let mut call_index = calls_before;
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => json!({"content": text}),
                Piece::Call(call) => {
                    let mut entry = call.json();
                    entry["index"] = call_index.into();
                    call_index += 1;
                    json!({"tool_calls": [entry]})
                }
            };
            told.push(self.chunk(index, delta, logprobs.take(), None));
        }
        if ended.is_some() {
            let finish = finish(&self.turns[index], &generation.answers[index]);
            told.push(self.chunk(index, json!({}), logprobs.take(), finish));
        } else if !logprobs.is_null() {
            // Text that may become a call is held back; its log-probabilities are not.
            told.push(self.chunk(index, json!({}), logprobs, None));
        }
        told
    }

    fn end(&mut self, generation: &mut Generation) -> Vec<Told> {
        if !self.include_usage && self.keep.is_none() {
            return Vec::new();
        }
        let mut map = self.frame("chat.completion.chunk", Vec::new());
        if self.include_usage {
            map.insert("usage".into(), generation.usage(self.turns.len()).json());
        }
        map.insert("recast".into(), self.ours(generation));
        vec![(None, map.into())]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Told> {
        vec![(None, error.body())]
    }

    fn says_done(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_infer::engine::Summary;

    #[test]
    fn an_answer_cut_off_behind_a_call_says_so() {
        let told = |text: &str, finish_reason: Finish| {
            let mut turn = Turn { reader: Reader::new(true), ..Turn::default() };
            turn.read(text, true);
            let summary = Summary {
                finish: finish_reason,
                prompt_tokens: 1,
                reused_tokens: 0,
                completion_tokens: 1,
                queued_seconds: 0.0,
                first_token_seconds: None,
                total_seconds: 0.0,
                state_bytes: 0,
                denoising: None,
                state: None,
            };
            let answer = Answer { summary: Some(summary), ..Answer::default() };
            (turn.calls.len(), finish(&turn, &answer))
        };
        let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        assert_eq!(told(call, Finish::EndToken(0)), (1, Some("tool_calls")));
        assert_eq!(told(call, Finish::Complete), (1, Some("tool_calls")));
        assert_eq!(told(&format!("{call}<tool_call>{{\"name\": \"f\","), Finish::Length), (1, Some("length")));
        assert_eq!(told("Well", Finish::Length), (0, Some("length")));
    }
}
