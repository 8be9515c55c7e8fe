//! Conversations to prompts, by the Jinja templates that models carry.
//!
//! The template language is minijinja's, with what transformers adds to Jinja: Python's methods
//! on strings and maps, `raise_exception`, `strftime_now`, Python's JSON layout in `tojson`, and
//! the `generation` block. The tests render the published templates of four families and compare
//! with expected strings written by hand.

mod json;
mod strftime;

use std::path::Path;
use std::sync::Arc;

use minijinja::{Environment, ErrorKind, Value, syntax::SyntaxConfig};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Result, TextError};
use crate::files::read_optional;
use crate::tokenizer::folder;

/// The name of the file that holds a template by itself.
pub(crate) const FILE: &str = "chat_template.jinja";

/// Templates in use are under 30 kB.
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;
/// Steps of the template machine for one rendering; a thousand long turns take well under a
/// million. A template that loops within loops stops here.
const MAX_STEPS: u64 = 50_000_000;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What was said. In JSON also `null` (read as empty) and OpenAI's list of text parts (read
    /// as the texts, joined).
    #[serde(default, deserialize_with = "content")]
    pub content: String,
    /// Whatever else the turn has (`tool_calls`, `name`, ...); the template sees it.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: serde_json::Map::new() }
    }
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    struct Part {
        r#type: String,
        #[serde(default)]
        text: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "content must be a string, null, or a list of {\"type\": \"text\", \"text\": ...}")]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Nothing(()),
    }
    match Content::deserialize(deserializer)? {
        Content::Text(text) => Ok(text),
        Content::Nothing(()) => Ok(String::new()),
        Content::Parts(parts) => match parts.iter().find(|part| part.r#type != "text") {
            Some(part) => {
                Err(serde::de::Error::custom(format!("content part of type {:?}; only \"text\" can be read", part.r#type)))
            }
            None => Ok(parts.into_iter().map(|part| part.text).collect()),
        },
    }
}

/// A chat template, parsed once.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: String,
    bos: String,
    eos: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// From the template's text and the spelling of the begin and end tokens (empty for none).
    ///
    /// # Errors
    /// When the template does not parse; the message has the line.
    pub fn new(source: String, bos: impl Into<String>, eos: impl Into<String>) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers configures Jinja: tags leave no blank lines behind.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TextError::Template(describe(&error)))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| strftime::now(&format));
        environment.add_filter("tojson", json::tojson);
        for (name, text) in named_templates(&source) {
            environment
                .add_template_owned(name, without_generation_tags(&text))
                .map_err(|error| TextError::Template(format!("does not parse: {}", describe(&error))))?;
        }
        Ok(Self { environment: Arc::new(environment), source, bos: bos.into(), eos: eos.into() })
    }

    /// From a model folder: `chat_template.jinja`, else `chat_template` in
    /// `tokenizer_config.json`, which is a string or a list of named templates. `None` when the
    /// folder has neither (a base model).
    ///
    /// # Errors
    /// When a file cannot be read or the template does not parse.
    pub fn from_dir(path: &Path) -> Result<Option<Self>> {
        let config = folder::tokenizer_config(path)?;
        let Some(source) = source_in(path, &config)? else {
            return Ok(None);
        };
        let token = |key: &str| config.get(key).and_then(folder::token_name).unwrap_or_default();
        Self::new(source, token("bos_token"), token("eos_token")).map(Some)
    }

    /// The prompt of a conversation. `add_generation_prompt` opens the assistant's next turn;
    /// `tools` is the list of tool descriptions in OpenAI's form, where the template supports it.
    ///
    /// The begin token is the template's affair: tokenize the result without special tokens added.
    ///
    /// # Errors
    /// When the template refuses the conversation (roles that do not alternate, ...), with the
    /// template's own words.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, tools: Option<&serde_json::Value>) -> Result<String> {
        let name = if tools.is_some() && self.environment.get_template(TOOL_USE).is_ok() { TOOL_USE } else { DEFAULT };
        let template = self.environment.get_template(name).map_err(|error| TextError::Template(describe(&error)))?;
        let turns: Vec<Value> = messages.iter().map(turn).collect();
        let context = Value::from_pairs([
            ("messages", Value::from(turns)),
            ("tools", tools.map_or(Value::from(()), json::value)),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("bos_token", Value::from(self.bos.as_str())),
            ("eos_token", Value::from(self.eos.as_str())),
        ]);
        template.render(context).map_err(|error| TextError::Template(describe(&error)))
    }

    /// The text of the template, as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn turn(message: &Message) -> Value {
    let head =
        [("role".to_owned(), Value::from(message.role.as_str())), ("content".to_owned(), Value::from(message.content.as_str()))];
    let extra = message.extra.iter().map(|(key, value)| (key.clone(), json::value(value)));
    Value::from_pairs(head.into_iter().chain(extra))
}

/// The error with its causes, on one line.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The template's source in a folder: the text, or for several named ones their JSON list.
pub(crate) fn source_in(folder: &Path, config: &serde_json::Map<String, serde_json::Value>) -> Result<Option<String>> {
    let path = folder.join(FILE);
    if let Some(bytes) = read_optional(&path, MAX_TEMPLATE_BYTES)? {
        return String::from_utf8(bytes).map(Some).map_err(|_| TextError::file(&path, "expected UTF-8 text"));
    }
    match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
        Some(list @ serde_json::Value::Array(_)) if named_list(list).is_some() => Ok(Some(list.to_string())),
        Some(_) => Err(TextError::file(
            &folder.join(folder::CONFIG),
            "chat_template is neither a string nor a list of {\"name\", \"template\"} with one named \"default\"",
        )),
    }
}

fn named_list(list: &serde_json::Value) -> Option<Vec<(String, String)>> {
    let pair =
        |item: &serde_json::Value| Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()));
    let pairs: Vec<_> = list.as_array()?.iter().map(pair).collect::<Option<_>>()?;
    pairs.iter().any(|(name, _)| name == DEFAULT).then_some(pairs)
}

fn named_templates(source: &str) -> Vec<(String, String)> {
    let listed = source.trim_start().starts_with('[').then(|| serde_json::from_str(source).ok()).flatten();
    listed.as_ref().and_then(named_list).unwrap_or_else(|| vec![(DEFAULT.to_owned(), source.to_owned())])
}

/// `{% generation %}` marks the assistant's words for loss masks and prints what it encloses. An
/// `if true` block does the same and leaves every blank where it was.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_matches(|letter: char| letter.is_whitespace() || letter == '-' || letter == '+');
        let replacement = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(words) => {
                result.push_str("{%");
                result.push_str(&inner.replacen(name, &format!(" {words} "), 1));
                result.push_str("%}");
            }
            None => result.push_str(&tag[..end + 2]),
        }
        rest = &tag[end + 2..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests;
