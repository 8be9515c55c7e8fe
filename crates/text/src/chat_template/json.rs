//! JSON in templates: values in, and `tojson` out in the layout of Python's `json.dumps`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// Deeper than any tool schema; a template value can be built deeper than the stack allows.
const MAX_DEPTH: usize = 128;

/// A JSON value as a template value, map order kept.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, item)| (key.clone(), value(item)))),
    }
}

/// The `tojson` filter as transformers defines it: `json.dumps(x, ensure_ascii=False, indent=...)`,
/// that is `", "` and `": "` between things, and nothing escaped for HTML.
pub(super) fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // Accepted and without effect: transformers' own default is what its templates want.
    let _ = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut text = String::new();
    write(&mut text, value, indent.map(|indent| indent.min(64)), 0)?;
    Ok(Value::from_safe_string(text))
}

fn write(text: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested deeper than 128"));
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => text.push_str(&value.to_string()),
        ValueKind::String => text.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Map => {
            let mut items = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                items.push((Some(quoted(&key.to_string())), item));
            }
            write_items(text, ('{', '}'), items, indent, depth)?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| (None, item)).collect();
            write_items(text, ('[', ']'), items, indent, depth)?;
        }
        other => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: cannot write a value of kind {other}")));
        }
    }
    Ok(())
}

fn write_items(
    text: &mut String,
    (open, close): (char, char),
    items: Vec<(Option<String>, Value)>,
    indent: Option<usize>,
    depth: usize,
) -> Result<(), Error> {
    text.push(open);
    let empty = items.is_empty();
    for (number, (key, item)) in items.into_iter().enumerate() {
        if number > 0 {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(text, indent, depth + 1);
        if let Some(key) = key {
            text.push_str(&key);
            text.push_str(": ");
        }
        write(text, &item, indent, depth + 1)?;
    }
    if !empty {
        new_line(text, indent, depth);
    }
    text.push(close);
    Ok(())
}

fn new_line(text: &mut String, indent: Option<usize>, depth: usize) {
    if let Some(indent) = indent {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
