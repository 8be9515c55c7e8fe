//! Messages to prompts: checked, rendered by the model's template, continued from a kept state.

use crate::app::Served;
use crate::error::ApiError;
use crate::fields::{Field, Fields, only, read};
use crate::kept::{Conversation, Kept};
use crate::tools;
use recast_infer::engine::Snapshot;
use recast_text::{ChatTemplate, Message};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool"];

/// Of a message.
pub(crate) const MESSAGE: &[Field] = &[
    read("role", r#"{"enum":["system","developer","user","assistant","tool"]}"#, "Who speaks; developer is read as system."),
    read(
        "content",
        r##"{"oneOf":[{"type":"string"},{"type":"null"},{"type":"array","items":{"$ref":"#/components/schemas/TextPart"}}]}"##,
        "What is said.",
    ),
    read("name", r#"{"type":"string"}"#, "Who it is; for the template."),
    read("tool_calls", r#"{"type":"array","items":{"type":"object"}}"#, "Calls that an assistant's turn made."),
    read("tool_call_id", r#"{"type":"string"}"#, "The call that a tool's turn answers."),
    read("reasoning_content", r#"{"type":"string"}"#, "What was thought before; for the template."),
    only("refusal", "[null]", "Not supported."),
    only("audio", "[null]", "Not supported."),
    only("function_call", "[null]", "Not supported: use tool_calls."),
    only("annotations", "[[]]", "Not supported."),
];

/// Reads a list of messages.
pub(crate) fn messages(list: &[Value]) -> Result<Vec<Message>, ApiError> {
    list.iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: &Value) -> Result<Message, ApiError> {
    let fields = Fields::check(format!("messages[{index}]."), value, &[MESSAGE])?;
    let role = fields.word("role", ROLES)?.ok_or_else(|| fields.missing("role", format!("one of {}", ROLES.join(", "))))?;
    let mut extra = Map::new();
    for name in ["name", "tool_call_id", "reasoning_content"] {
        if let Some(text) = fields.text(name)? {
            extra.insert(name.into(), text.into());
        }
    }
    if let Some(calls) = fields.list("tool_calls")? {
        let calls: Option<Vec<Value>> = calls.iter().map(template_call).collect();
        let wrong = || {
            fields.wrong(
                "tool_calls",
                "a list of {\"type\": \"function\", \"function\": {\"name\", \"arguments\"}}",
                &value["tool_calls"],
            )
        };
        extra.insert("tool_calls".into(), calls.ok_or_else(wrong)?.into());
    }
    let content = value.get("content").cloned().unwrap_or(Value::Null);
    if content.is_null() && !extra.contains_key("tool_calls") {
        return Err(fields.missing("content", "a string or a list of text parts"));
    }
    let role = if role == "developer" { "system" } else { role };
    let parsed: Message = serde_json::from_value(json!({"role": role, "content": content})).map_err(|error| ApiError::Field {
        name: format!("messages[{index}].content"),
        expected: "a string or a list of text parts".into(),
        found: error.to_string(),
    })?;
    Ok(Message { extra, ..parsed })
}

/// A call as templates want it: the arguments are an object there and a string of JSON in the API.
pub(crate) fn template_call(call: &Value) -> Option<Value> {
    let mut call = call.as_object()?.clone();
    let function = call.get_mut("function")?.as_object_mut()?;
    function.get("name")?.as_str()?;
    if let Some(Value::String(text)) = function.get("arguments")
        && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
    {
        function.insert("arguments".into(), arguments);
    }
    Some(call.into())
}

/// A conversation ready to be read.
pub(crate) struct Prompt {
    /// Every turn but the instructions, which hold for this answer alone.
    pub messages: Vec<Message>,
    /// All of it, as the template gives it.
    pub text: String,
    /// What is to be read.
    pub tokens: Vec<u32>,
    /// After this.
    pub state: Option<Arc<Snapshot>>,
}

/// Renders a conversation, or the kept one with `new` turns after it; `instructions` come before all of it.
pub(crate) fn prompt(
    served: &Served,
    kept: Option<&Kept>,
    instructions: Option<Message>,
    new: Vec<Message>,
    tools: Option<&Value>,
) -> Result<Prompt, ApiError> {
    let earlier = kept.and_then(|kept| kept.conversation.as_ref());
    let mut messages: Vec<Message> = instructions.into_iter().collect();
    let first = messages.len();
    if let Some(earlier) = earlier {
        messages.extend_from_slice(&earlier.messages);
    }
    messages.extend(new);
    let text = render(served.template()?, &messages, tools)?;
    messages.drain(..first);
    let tokenizer = served.engine.tokenizer();
    if let (Some(kept), Some(rest)) = (kept, earlier.and_then(|earlier| rest(earlier, &text))) {
        let mut tokens = kept.unread.clone();
        let rest = tokenizer.encode_continuation(rest, kept.last());
        tokens.extend(rest.map_err(|error| ApiError::request(error.to_string()))?);
        if !tokens.is_empty() {
            return Ok(Prompt { tokens, state: Some(kept.snapshot.clone()), messages, text });
        }
    }
    let tokens = tokenizer.encode(&text, false).map_err(|error| ApiError::request(error.to_string()))?;
    Ok(Prompt { tokens, state: None, messages, text })
}

/// The text of a conversation. Where the template has no place for tools, the system turn tells of them, or the first
/// user's where it takes none; where it has none for calls, the turns that made them.
fn render(template: &ChatTemplate, messages: &[Message], tools: Option<&Value>) -> Result<String, ApiError> {
    let messages = &*with_calls(template, messages, tools);
    let text = template.render(messages, true, tools).map_err(|error| ApiError::Template(error.to_string()))?;
    let Some(tools) = tools.filter(|_| template.render(messages, true, None).is_ok_and(|without| without == text)) else {
        return Ok(text);
    };
    let words = told(tools);
    let mut messages = messages.to_vec();
    match messages.first_mut().filter(|first| first.role == "system") {
        Some(system) => system.content = format!("{}\n\n{words}", system.content),
        None => messages.insert(0, Message::new("system", words.as_str())),
    }
    let told = |messages: &[Message]| template.render(messages, true, None).ok().filter(|text| text.contains(&words));
    if let Some(text) = told(&messages) {
        return Ok(text);
    }
    // Some have no place for a system turn either: what it would say stands before what the user says.
    messages.retain(|message| message.role != "system");
    if let Some(user) = messages.iter_mut().find(|message| message.role == "user") {
        user.content = format!("{words}\n\n{}", user.content);
    }
    told(&messages).ok_or_else(|| {
        let message = "tools: the model's template has no place for tools, nor for a turn that tells of them; leave them out";
        ApiError::at("tools", message)
    })
}

/// The turns, with the calls that they made among their words where the template does not tell of calls.
fn with_calls<'a>(template: &ChatTemplate, messages: &'a [Message], tools: Option<&Value>) -> Cow<'a, [Message]> {
    if !messages.iter().any(|message| message.extra.contains_key("tool_calls")) {
        return messages.into();
    }
    let (mut silent, mut told) = (messages.to_vec(), messages.to_vec());
    for (silent, told) in silent.iter_mut().zip(&mut told) {
        let Some(Value::Array(calls)) = silent.extra.remove("tool_calls") else { continue };
        if !told.content.is_empty() && !calls.is_empty() {
            told.content.push('\n');
        }
        told.content += &tools::written(&calls);
    }
    let text = |messages: &[Message]| template.render(messages, true, tools).ok();
    if text(messages) == text(&silent) { told.into() } else { messages.into() }
}

/// Tools in the words of Qwen's templates, which ask for calls as they are read.
fn told(tools: &Value) -> String {
    let lines: String = tools.as_array().into_iter().flatten().map(|tool| format!("{tool}\n")).collect();
    format!(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{lines}</tools>\n\n\
         For each function call, return a json object with function name and arguments within <tool_call></tool_call> \
         XML tags:\n<tool_call>\n{{\"name\": <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>"
    )
}

/// What follows, in `text`, everything that the state and its unread tokens hold; none where the
/// template tells the past otherwise than it was (thoughts taken out, another system text): then all
/// is read anew.
fn rest<'a>(earlier: &Conversation, text: &'a str) -> Option<&'a str> {
    let rest = text.strip_prefix(&earlier.text).filter(|_| earlier.whole)?;
    match &earlier.end {
        Some(end) => rest.strip_prefix(end.as_str()),
        None => Some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_used_only_where_it_has_read_the_same() {
        let mut earlier = Conversation { messages: vec![], text: "<u>hi<a>hello".into(), end: Some("</a>".into()), whole: true };
        assert_eq!(rest(&earlier, "<u>hi<a>hello</a><u>more<a>"), Some("<u>more<a>"));
        assert_eq!(rest(&earlier, "<u>hi<a>hello<u>more<a>"), None);
        assert_eq!(rest(&earlier, "<s>x<u>hi<a>hello</a><u>more<a>"), None);
        earlier.end = None;
        assert_eq!(rest(&earlier, "<u>hi<a>hello</a><u>more<a>"), Some("</a><u>more<a>"));
        earlier.whole = false;
        assert_eq!(rest(&earlier, "<u>hi<a>hello</a><u>more<a>"), None);
    }

    #[test]
    fn tools_are_told_of_or_refused() {
        let said = |source: &str, roles: &[&str], tools: bool| {
            let template = ChatTemplate::new(source.into(), "", "").unwrap();
            let turns: Vec<Message> = roles.iter().map(|role| Message::new(*role, format!("I am {role}."))).collect();
            let tools = tools.then(|| json!([{"type": "function", "function": {"name": "f"}}]));
            render(&template, &turns, tools.as_ref()).map_err(|error| error.to_string())
        };
        let own = "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}";
        assert!(!said(own, &["user"], true).unwrap().contains("# Tools"));
        let plain = "{% for m in messages %}[{{ m.role }}: {{ m.content }}]{% endfor %}";
        assert_eq!(said(plain, &["user"], false).unwrap(), "[user: I am user.]");
        let alone = said(plain, &["user"], true).unwrap();
        assert!(alone.starts_with("[system: # Tools\n") && alone.ends_with("</tool_call>][user: I am user.]"), "{alone}");
        assert!(alone.contains("<tools>\n{\"type\":\"function\",\"function\":{\"name\":\"f\"}}\n</tools>"), "{alone}");
        let after = said(plain, &["system", "user"], true).unwrap();
        assert!(after.starts_with("[system: I am system.\n\n# Tools\n") && after.ends_with("][user: I am user.]"), "{after}");
        let users = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
        let strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}";
        for source in [users, strict] {
            let told = said(source, &["user"], true).unwrap();
            assert!(told.starts_with("# Tools\n") && told.ends_with("</tool_call>\n\nI am user."), "{source}: {told}");
            assert_eq!(said(source, &["user"], false).unwrap(), "I am user.");
        }
        let mute = "{% for m in messages %}[{{ m.role }}]{% endfor %}";
        assert!(said(mute, &["user"], true).unwrap_err().contains("no place for tools"));
    }

    #[test]
    fn calls_are_told_of_once() {
        let turns = messages(&[
            json!({"role": "user", "content": "Add."}),
            json!({"role": "assistant", "content": "Well.", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "sum", "arguments": "{\"a\": 1}"}},
                {"id": "d", "type": "function", "function": {"name": "sum", "arguments": "{\"a\": 2}"}}]}),
            json!({"role": "tool", "tool_call_id": "c", "content": "3"}),
        ]);
        let turns = turns.unwrap();
        let said = |source: &str| render(&ChatTemplate::new(source.into(), "", "").unwrap(), &turns, None).unwrap();
        let call = |a: usize| format!("<tool_call>\n{{\"name\": \"sum\", \"arguments\": {{\"a\":{a}}}}}\n</tool_call>");
        let plain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        assert_eq!(said(plain), format!("[Add.][Well.\n{}\n{}][3]", call(1), call(2)));
        let own = "{% for m in messages %}[{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments.a }}{% endfor %}]{% endfor %}";
        assert_eq!(said(own), "[Add.][Well.12][3]");
    }

    #[test]
    fn messages_are_checked_by_place() {
        let parse = |value: Value| messages(value.as_array().unwrap()).map_err(|e| e.to_string());
        let calls = json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}]);
        assert_eq!(parse(calls).unwrap()[0].extra["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        let wrong = parse(json!([{"role": "user", "content": "x"}, {"role": "user", "contnet": "x"}]));
        assert_eq!(wrong.unwrap_err(), "unknown field \"messages[1].contnet\"; did you mean \"messages[1].content\"?");
        assert!(
            parse(json!([{"role": "robot", "content": "x"}])).unwrap_err().contains("messages[0].role: expected one of system")
        );
        assert!(parse(json!([{"role": "user"}])).unwrap_err().contains("content"));
        assert!(parse(json!([{"role": "user", "content": [{"type": "image_url"}]}])).unwrap_err().contains("image_url"));
    }
}
