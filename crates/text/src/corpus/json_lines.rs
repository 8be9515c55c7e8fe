//! JSON lines: one object a line, with `text` or with `messages`.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Content, CorpusOptions, Document, Documents, MAX_RECORD_BYTES};
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
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn parse(&self) -> Result<String> {
        let mut record: Map<String, Value> =
            serde_json::from_slice(&self.buffer).map_err(|error| self.wrong(format!("expected a JSON object, but {error}")))?;
        let field = self.options.text_field.as_str();
        match (record.remove(field), record.remove("messages")) {
            (Some(Value::String(text)), _) => Ok(text),
            (Some(other), _) => Err(self.wrong(format!("{field:?} is {}; expected a string", kind(&other)))),
            (None, Some(messages)) => {
                let Some(template) = &self.options.chat_template else {
                    return Err(self.wrong("has \"messages\", but no chat template was given to render them"));
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
