//! Reading a data file into items, with every field checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Format;
use crate::error::{EvalError, Result};

/// The most bytes of one line; real items are a few kilobytes, documents some hundreds.
const MAX_LINE: u64 = 64 << 20;
/// The most bytes of a plain text file, which is held whole.
const MAX_TEXT: u64 = 1 << 30;

/// What some programs begin UTF-8 text with; it is no part of the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The most characters of a value that are shown in an error.
const SHOWN: usize = 80;

/// What a field must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldType {
    /// A string.
    #[serde(rename = "string")]
    String,
    /// A string, or no such field.
    #[serde(rename = "string?")]
    OptionalString,
    /// A list of strings, at least one.
    #[serde(rename = "strings")]
    Strings,
    /// A whole number, not negative.
    #[serde(rename = "integer")]
    Integer,
    /// A list of `{role, content}`, or no such field.
    #[serde(rename = "messages?")]
    OptionalMessages,
}

impl FieldType {
    fn name(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::OptionalString => "a string or nothing",
            Self::Strings => "a list of strings, at least one",
            Self::Integer => "a whole number from 0",
            Self::OptionalMessages => "a list of {role, content} or nothing",
        }
    }

    fn accepts(self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::OptionalString | Self::OptionalMessages, None) => true,
            (_, None) => false,
            (Self::String | Self::OptionalString, Some(value)) => value.is_string(),
            (Self::Integer, Some(value)) => value.is_u64(),
            (Self::Strings, Some(value)) => {
                value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string))
            }
            (Self::OptionalMessages, Some(value)) => value.as_array().is_some_and(|list| {
                !list.is_empty()
                    && list.iter().all(|turn| {
                        turn.get("role").is_some_and(Value::is_string) && turn.get("content").is_some_and(Value::is_string)
                    })
            }),
        }
    }
}

/// One item of a data file, its fields checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Line it came from, from 1.
    pub line: usize,
    /// Its fields, all that the file has.
    pub fields: Map<String, Value>,
}

/// Reads all items of a file.
pub(crate) fn read(path: &Path, format: Format, fields: &BTreeMap<String, FieldType>) -> Result<Vec<Item>> {
    let file = File::open(path).map_err(EvalError::io("cannot read", path))?;
    let items = match format {
        Format::Jsonl => jsonl(path, BufReader::new(file))?,
        Format::Text | Format::Wikitext => {
            let mut bytes = Vec::new();
            file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(EvalError::io("cannot read", path))?;
            let whole = |problem: String| EvalError::Item { path: path.into(), line: 1, problem };
            if bytes.len() as u64 > MAX_TEXT {
                return Err(whole("expected at most 1 GiB of text; split the file".into()));
            }
            strip_mark(&mut bytes);
            let text = String::from_utf8(bytes).map_err(|error| whole(format!("expected UTF-8 text, found {error}")))?;
            if format == Format::Text { vec![document(1, text, String::new())] } else { articles(&text) }
        }
    };
    if items.is_empty() {
        return Err(EvalError::Item {
            path: path.into(),
            line: 1,
            problem: "expected at least one item, found an empty file".into(),
        });
    }
    for item in &items {
        for (name, kind) in fields {
            let value = item.fields.get(name);
            if !kind.accepts(value) {
                return Err(EvalError::Item {
                    path: path.into(),
                    line: item.line,
                    problem: format!(
                        "expected field `{name}` to hold {}, found {}; this line's fields are: {}",
                        kind.name(),
                        value.map_or("no such field".into(), shown),
                        item.fields.keys().map(|k| k.chars().take(40).collect()).take(20).collect::<Vec<String>>().join(", ")
                    ),
                });
            }
        }
    }
    Ok(items)
}

fn strip_mark(bytes: &mut Vec<u8>) {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
}

fn jsonl(path: &Path, mut reader: impl BufRead) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(EvalError::io("cannot read", path))?;
        if read == 0 {
            break;
        }
        let wrong = |problem: String| EvalError::Item { path: path.into(), line, problem };
        if read as u64 == MAX_LINE && bytes.last() != Some(&b'\n') {
            return Err(wrong("expected a line of at most 64 MiB".into()));
        }
        if line == 1 {
            strip_mark(&mut bytes);
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let fields = serde_json::from_slice(&bytes).map_err(|error| wrong(format!("expected a JSON object, found {error}")))?;
        items.push(Item { line, fields });
    }
    Ok(items)
}

fn document(line: usize, text: String, title: String) -> Item {
    let fields = [("text", text), ("title", title)].into_iter().map(|(k, v)| (k.to_string(), Value::String(v))).collect();
    Item { line, fields }
}

/// Cuts a WikiText file at its article headings: ` = Title = ` with a blank line after it (one
/// article ends without a blank line before the next, and one holds a formula that looks like a
/// heading but for that). The texts joined are the file, byte for byte.
fn articles(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut begin = (0, 1, String::new());
    let mut offset = 0;
    let mut lines = text.split_inclusive('\n').zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        let after_is_blank = lines.peek().is_none_or(|(next, _)| next.trim().is_empty());
        if after_is_blank && let Some(title) = heading(line) {
            if !text[begin.0..offset].trim().is_empty() {
                items.push(document(begin.1, text[begin.0..offset].into(), begin.2));
                begin = (offset, number, title);
            } else {
                begin.2 = title;
            }
        }
        offset += line.len();
    }
    if begin.0 < text.len() {
        items.push(document(begin.1, text[begin.0..].into(), begin.2));
    }
    items
}

fn heading(line: &str) -> Option<String> {
    let inner = line.trim().strip_prefix("= ")?.strip_suffix(" =")?;
    let deeper = inner.starts_with('=') || inner.ends_with('=') || inner.is_empty();
    (!deeper).then(|| inner.to_string())
}

/// A value as the file has it, cut where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Item>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, text).unwrap();
        let fields = [
            ("q".to_string(), FieldType::String),
            ("c".to_string(), FieldType::Strings),
            ("g".to_string(), FieldType::Integer),
            ("m".to_string(), FieldType::OptionalMessages),
        ];
        read(&path, Format::Jsonl, &fields.into())
    }

    #[test]
    fn fields_are_checked_by_line() {
        let good = r#"{"q":"?","c":["a"],"g":0}"#;
        assert_eq!(parse(&format!("{good}\n\n{good}")).unwrap().len(), 2);
        for (bad, says) in [
            (r#"{"q":"?","c":["a"]}"#, "field `g`"),
            (r#"{"q":"?","c":[],"g":0}"#, "a list of strings, at least one, found []"),
            (r#"{"q":"?","c":["a",1],"g":0}"#, r#"found ["a",1]"#),
            (r#"{"q":"?","c":["a"],"g":-1}"#, "a whole number from 0, found -1"),
            (r#"{"q":"?","c":["a"],"g":1.5}"#, "found 1.5"),
            (r#"{"q":null,"c":["a"],"g":1}"#, "found null"),
            (r#"{"q":"?","c":["a"],"g":1,"m":[{"role":"x"}]}"#, "role"),
            (r#"{"q":"?""#, "JSON object"),
            ("[1]", "JSON object"),
            ("\u{0}\u{1}", "JSON object"),
        ] {
            let error = parse(&format!("{good}\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
            assert!(error.contains(says), "{error}");
        }
        assert!(parse("").unwrap_err().to_string().contains("empty"));
        assert_eq!(parse(&format!("\u{feff}{good}\n")).unwrap().len(), 1);
        let long = format!(r#"{{"q":"?","c":["a"],"g":"{}"}}"#, "é".repeat(500));
        let message = parse(&long).unwrap_err().to_string();
        assert!(message.contains("éé...;") && message.chars().count() < 400, "{message}");
    }

    #[test]
    fn wikitext_is_cut_at_articles_and_loses_no_byte() {
        let text = " = One = \n \n a\n \n = = Sub = = \n \n b\n \n = 1 rad / s = \n c \n = Two = \n \n d\n";
        let items = articles(text);
        let field = |i: usize, key: &str| items[i].fields[key].as_str().unwrap().to_string();
        assert_eq!(items.len(), 2);
        assert_eq!(field(0, "title"), "One");
        assert_eq!(field(1, "title"), "Two");
        assert_eq!(items[1].line, 11);
        assert_eq!(field(0, "text") + &field(1, "text"), text);
        assert_eq!(articles("no heading").len(), 1);
        assert!(articles("").is_empty());
    }
}
