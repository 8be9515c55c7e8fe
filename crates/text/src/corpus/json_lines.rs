//! JSON lines: one object a line, with `text` or with `messages`.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{BYTE_ORDER_MARK, Content, CorpusOptions, Document, Documents, MAX_RECORD_BYTES};
use crate::chat_template::Message;
use crate::error::{Result, TextError};

struct JsonLines {
    source: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    options: Arc<CorpusOptions>,
    line: u64,
    buffer: Vec<u8>,
}

pub(super) fn documents(path: &Path, reader: Box<dyn BufRead + Send>, options: &Arc<CorpusOptions>) -> Documents {
    Box::new(JsonLines { source: path.into(), reader, options: Arc::clone(options), line: 0, buffer: Vec::new() })
}

impl JsonLines {
    fn wrong(&self, problem: impl Into<String>) -> TextError {
        TextError::record(&self.source, self.line, problem)
    }

    /// The next line that is not blank.
    fn fill(&mut self) -> Result<bool> {
        loop {
            self.line += 1;
            self.buffer.clear();
            let mut limited = (&mut self.reader).take(MAX_RECORD_BYTES + 1);
            let read = limited.read_until(b'\n', &mut self.buffer);
            let read = read.map_err(|error| self.wrong(format!("cannot be read: {error}")))?;
            if read as u64 > MAX_RECORD_BYTES {
                return Err(self.wrong("a line longer than 1 GiB; expected one JSON object a line"));
            }
            if read == 0 {
                return Ok(false);
            }
            if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK.as_bytes()) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn parse(&self) -> Result<String> {
        let mut record: Map<String, Value> = serde_json::from_slice(&self.buffer)
            .map_err(|error| self.wrong(format!("expected a JSON object, but {}", reason(&error))))?;
        let field = self.options.text_field.as_str();
        match (record.remove(field), record.remove("messages")) {
            (Some(Value::String(text)), _) => Ok(text),
            (Some(other), _) => Err(self.wrong(format!("{field:?} is {}; expected a string", kind(&other)))),
            (None, Some(messages)) => {
                let Some(template) = &self.options.chat_template else {
                    return Err(self.wrong(format!(
                        "has \"messages\", which the model's chat template turns into text, and its tokenizer has none; use a \
                         model that has (one tuned for chat), or text with the field {field:?}"
                    )));
                };
                let turns: Vec<Message> = serde_json::from_value(messages)
                    .map_err(|error| self.wrong(format!("\"messages\" is not a list of turns: {error}")))?;
                let tools = record.get("tools").filter(|tools| !tools.is_null());
                template.render(&turns, false, tools).map_err(|error| self.wrong(error.to_string()))
            }
            (None, None) => {
                let keys: Vec<&str> = record.keys().map(String::as_str).take(8).collect();
                Err(self.wrong(format!("expected the field {field:?} or \"messages\", found {keys:?}")))
            }
        }
    }
}

/// What is wrong in a line, without where it is: serde counts every line as the first.
fn reason(error: &serde_json::Error) -> String {
    let (words, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    words.strip_suffix(&place).map_or_else(|| words.clone(), str::to_owned)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl Iterator for JsonLines {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.fill() {
            Ok(false) => None,
            Err(error) => Some(Err(error)),
            Ok(true) => Some(self.parse().map(|text| Document {
                content: Content::Text(text),
                source: Arc::clone(&self.source),
                record: self.line,
            })),
        }
    }
}
