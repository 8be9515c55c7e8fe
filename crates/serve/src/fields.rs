//! Reading JSON objects strictly: a table says which fields there are, the rest is refused by name.
//!
//! The same tables make `/openapi.json`, so that the document cannot promise what is not read.

use crate::error::ApiError;
use serde_json::{Map, Value};

/// A field of a request.
#[derive(Debug)]
pub(crate) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub about: &'static str,
}

/// What is done with a field.
#[derive(Debug)]
pub(crate) enum Kind {
    /// It is read; its JSON Schema.
    Read(&'static str),
    /// OpenAI has it and Recast does not: only these values (a JSON list), which ask for nothing.
    Only(&'static str),
    /// It has no effect on an answer, by its own definition: taken and not used.
    Unused(&'static str),
}

pub(crate) const fn read(name: &'static str, schema: &'static str, about: &'static str) -> Field {
    Field { name, kind: Kind::Read(schema), about }
}

pub(crate) const fn only(name: &'static str, values: &'static str, about: &'static str) -> Field {
    Field { name, kind: Kind::Only(values), about }
}

pub(crate) const fn unused(name: &'static str, schema: &'static str, about: &'static str) -> Field {
    Field { name, kind: Kind::Unused(schema), about }
}

/// An object whose fields are all known.
pub(crate) struct Fields<'a> {
    /// What stands before a field's name in messages: `""`, `"stream_options."`.
    place: String,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Checks the names, and the values of what is not supported. `null` is as good as absent.
    pub fn check(place: impl Into<String>, value: &'a Value, tables: &[&[Field]]) -> Result<Self, ApiError> {
        let place = place.into();
        let Value::Object(object) = value else {
            let name = place.trim_end_matches('.');
            return Err(if name.is_empty() {
                ApiError::request(format!("expected an object as the body, found {}", found(value)))
            } else {
                ApiError::Field { name: name.into(), expected: "an object".into(), found: found(value) }
            });
        };
        let known = || tables.iter().copied().flatten();
        for (name, value) in object {
            let Some(field) = known().find(|field| field.name == name) else {
                let nearest = known()
                    .map(|field| (strsim::jaro_winkler(field.name, name), field.name))
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .filter(|(likeness, _)| *likeness > 0.8)
                    .map(|(_, nearest)| format!("{place}{nearest}"));
                return Err(ApiError::UnknownField { name: format!("{place}{}", shortened(name)), nearest });
            };
            if let Kind::Only(neutral) = field.kind
                && !value.is_null()
            {
                let neutral = values(neutral);
                if !neutral.contains(value) {
                    let neutral = neutral.iter().filter(|value| !value.is_null()).map(Value::to_string);
                    let neutral = neutral.reduce(|list, value| format!("{list} or {value}"));
                    return Err(ApiError::Unsupported { name: format!("{place}{name}"), neutral });
                }
            }
        }
        Ok(Self { place, object })
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub fn wrong(&self, name: &str, expected: impl Into<String>, value: &Value) -> ApiError {
        ApiError::Field { name: format!("{}{name}", self.place), expected: expected.into(), found: found(value) }
    }

    pub fn missing(&self, name: &str, expected: impl Into<String>) -> ApiError {
        ApiError::Field { name: format!("{}{name}", self.place), expected: expected.into(), found: "nothing".into() }
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|value| value.as_str().ok_or_else(|| self.wrong(name, "a string", value))).transpose()
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name).map(|value| value.as_bool().ok_or_else(|| self.wrong(name, "true or false", value))).transpose()
    }

    /// A number from `least` to `most`.
    pub fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let inside = value.as_f64().filter(|x| (least..=most).contains(x));
        inside.map(|x| Some(x as f32)).ok_or_else(|| self.wrong(name, format!("a number from {least} to {most}"), value))
    }

    /// A whole number from `least` to `most`.
    pub fn count(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let inside = value.as_u64().and_then(|x| usize::try_from(x).ok()).filter(|x| (least..=most).contains(x));
        let expected = || {
            if most == usize::MAX {
                format!("a whole number of at least {least}")
            } else {
                format!("a whole number from {least} to {most}")
            }
        };
        inside.map(Some).ok_or_else(|| self.wrong(name, expected(), value))
    }

    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        let list = |value: &'a Value| value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(name, "a list", value));
        self.get(name).map(list).transpose()
    }

    /// An object within, its fields checked.
    pub fn object(&self, name: &str, tables: &[&[Field]]) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Fields::check(format!("{}{name}.", self.place), value, tables)).transpose()
    }

    /// One of some words.
    pub fn word(&self, name: &str, words: &[&'static str]) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let word = value.as_str().and_then(|text| words.iter().copied().find(|word| *word == text));
        word.map(Some).ok_or_else(|| self.wrong(name, format!("one of {}", words.join(", ")), value))
    }
}

/// A JSON list of the tables above.
pub(crate) fn values(list: &str) -> Vec<Value> {
    serde_json::from_str(list).expect("the tables hold JSON; the test of the OpenAPI document reads them all")
}

/// A value in an error's words: short ones as they are.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::String(text) => format!("the string {:?}", shortened(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_supported_says_what_is() {
        const TABLE: &[Field] = &[
            only("best_of", "[1]", ""),
            only("audio", "[null]", ""),
            only("tier", r#"["auto","default"]"#, ""),
            only("prompt", "[]", ""),
        ];
        let refused = |body: Value| Fields::check("", &body, &[TABLE]).err().map(|error| error.to_string());
        let said = |name: &str, rest: &str| Some(format!("{name} is not supported: leave it out{rest}"));
        assert_eq!(refused(json!({"best_of": 2})), said("best_of", ", or give 1"));
        assert_eq!(refused(json!({"tier": "flex"})), said("tier", ", or give \"auto\" or \"default\""));
        for name in ["audio", "prompt"] {
            assert_eq!(refused(json!({name: []})), said(name, ""));
        }
        assert_eq!(refused(json!({"best_of": 1, "audio": null, "tier": "auto", "prompt": null})), None);
        let body = Fields::check("", &json!([1]), &[TABLE]).err().expect("refused").body();
        assert_eq!(
            (&body["error"]["param"], body["error"]["message"].as_str()),
            (&Value::Null, Some("expected an object as the body, found a list of 1"))
        );
    }
}
