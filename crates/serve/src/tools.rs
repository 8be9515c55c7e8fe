//! Calls of tools in what a model writes: `<tool_call>{json}</tool_call>` (Hermes, Qwen), or JSON
//! alone.

use crate::error::ApiError;
use crate::fields::{Field, Fields, read, unused};
use crate::ids;
use recast_infer::engine::Constraint;
use serde_json::{Value, json};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Of a tool.
pub(crate) const TOOL: &[Field] = &[
    read("type", r#"{"const":"function"}"#, "The kind."),
    read("function", r##"{"$ref":"#/components/schemas/Function"}"##, "The function."),
];

/// Of its function.
pub(crate) const FUNCTION: &[Field] = &[
    read("name", r#"{"type":"string"}"#, "Its name."),
    read("description", r#"{"type":"string"}"#, "What it does."),
    read("parameters", r#"{"type":"object"}"#, "A JSON Schema of its arguments."),
    unused("strict", r#"{"type":"boolean"}"#, "Arguments of a forced call always keep to the schema."),
];

/// Tools that a request gives, and how far they must be used.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// For the template: OpenAI's list. None where none shall be used.
    pub list: Option<Value>,
    /// The form of a call, where one must be made.
    pub constraint: Option<Constraint>,
}

impl Tools {
    /// From the fields `tools` and `tool_choice`. `flat` is the layout of `/v1/responses`, where a
    /// tool's name stands beside its type.
    pub fn read(fields: &Fields, flat: bool) -> Result<Self, ApiError> {
        let list: Vec<Value> = fields
            .list("tools")?
            .unwrap_or_default()
            .iter()
            .enumerate()
            .map(|(i, tool)| one(i, tool, flat))
            .collect::<Result<_, _>>()?;
        let choice = fields.get("tool_choice");
        let names = |value: &Value| value["function"]["name"].as_str().map(ToOwned::to_owned);
        let expected = "none, auto, required, or a function of `tools` by its name";
        let forced: Vec<&Value> = match choice {
            None => Vec::new(),
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Vec::new(),
                "none" => return Ok(Self::default()),
                "required" if !list.is_empty() => list.iter().collect(),
                _ => return Err(fields.wrong("tool_choice", expected, &json!(word))),
            },
            Some(value) => {
                let name = if flat { value["name"].as_str().map(ToOwned::to_owned) } else { names(value) };
                let named: Vec<&Value> = list.iter().filter(|tool| name.is_some() && names(tool) == name).collect();
                if value["type"] != "function" || named.is_empty() {
                    return Err(fields.wrong("tool_choice", expected, value));
                }
                named
            }
        };
        let schemas: Vec<Value> = forced
            .iter()
            .enumerate()
            .map(|(index, tool)| {
                let function = &tool["function"];
                let arguments =
                    function.get("parameters").map_or_else(|| json!({"type": "object"}), |schema| rooted(schema, index));
                json!({"type": "object", "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                    "required": ["name", "arguments"], "additionalProperties": false})
            })
            .collect();
        let constraint = match schemas.len() {
            0 => None,
            1 => schemas.into_iter().next().map(Constraint::JsonSchema),
            _ => Some(Constraint::JsonSchema(json!({"anyOf": schemas}))),
        };
        Ok(Self { list: (!list.is_empty()).then(|| list.into()), constraint })
    }
}

/// A schema that is the root of the references in it (`#/$defs/...`), wherever it stands: such a root has an `$id`.
fn rooted(schema: &Value, index: usize) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema
        && !map.get("$id").is_some_and(Value::is_string)
    {
        // Not a URN, which schemas within that have a relative `$id` of their own could not go on from.
        map.insert("$id".into(), format!("recast:///tools/{index}/").into());
        // In drafts before 2019 an `$id` does not count beside a `$ref`.
        if map.contains_key("$ref") {
            map.remove("$schema");
        }
    }
    schema
}

fn one(index: usize, tool: &Value, flat: bool) -> Result<Value, ApiError> {
    let place = format!("tools[{index}].");
    let outer = if flat { Fields::check(place, tool, &[&TOOL[..1], FUNCTION])? } else { Fields::check(place, tool, &[TOOL])? };
    outer.word("type", &["function"])?.ok_or_else(|| outer.missing("type", "function"))?;
    let function = if flat {
        outer
    } else {
        outer.object("function", &[FUNCTION])?.ok_or_else(|| outer.missing("function", "an object"))?
    };
    let name = function.text("name")?.filter(|name| !name.is_empty()).ok_or_else(|| function.missing("name", "a name"))?;
    let mut plain = json!({"name": name});
    if let Some(text) = function.text("description")? {
        plain["description"] = text.into();
    }
    match function.get("parameters") {
        Some(value @ Value::Object(_)) => plain["parameters"] = value.clone(),
        Some(value) => return Err(function.wrong("parameters", "a JSON Schema, an object", value)),
        None => {}
    }
    function.flag("strict")?;
    Ok(json!({"type": "function", "function": plain}))
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub id: String,
    pub name: String,
    /// JSON, as text.
    pub arguments: String,
}

impl Call {
    /// As chat completions tell it.
    pub fn json(&self) -> Value {
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }
}

/// Calls of an assistant's turn, as templates have them, as a model writes them that was told of its tools.
pub(crate) fn written(calls: &[Value]) -> String {
    let one = |call: &Value| {
        let function = &call["function"];
        format!("{OPEN}\n{{\"name\": {}, \"arguments\": {}}}\n{CLOSE}", function["name"], function["arguments"])
    };
    calls.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Call(Call),
}

/// Takes text as it comes and tells calls from words. What may become a call is held back.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    held: String,
    /// Words were let through, so JSON that follows is no call.
    spoke: bool,
    /// The last thing let through was a call.
    called: bool,
    active: bool,
}

impl Reader {
    /// With tools or without; without, everything is words.
    pub fn new(active: bool) -> Self {
        Self { active, ..Self::default() }
    }

    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        if !self.active {
            return if text.is_empty() { Vec::new() } else { vec![Piece::Text(text.to_owned())] };
        }
        self.held.push_str(text);
        let mut pieces = Vec::new();
        loop {
            // JSON from the beginning on may be a call as a whole.
            if !self.spoke && self.held.trim_start().starts_with(['{', '[']) {
                return pieces;
            }
            let Some(open) = self.held.find(OPEN) else { break };
            let Some(length) = self.held[open..].find(CLOSE) else {
                let before = self.held.drain(..open).collect();
                self.speak(before, &mut pieces);
                return pieces;
            };
            let before: String = self.held.drain(..open).collect();
            let whole: String = self.held.drain(..length + CLOSE.len()).collect();
            let inner = &whole[OPEN.len()..length];
            self.speak(before, &mut pieces);
            match calls(inner) {
                Some(found) => {
                    self.called = true;
                    pieces.extend(found.into_iter().map(Piece::Call));
                }
                None => self.speak(whole, &mut pieces),
            }
        }
        // The end may be the beginning of a tag; blanks at the beginning may precede JSON.
        let keep = (1..OPEN.len()).rev().find(|n| self.held.ends_with(&OPEN[..*n])).unwrap_or(0);
        if self.spoke || !self.held.trim().is_empty() {
            let free = self.held.drain(..self.held.len() - keep).collect();
            self.speak(free, &mut pieces);
        }
        pieces
    }

    /// What is left when the text is over.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let open = held.trim_start().strip_prefix(OPEN).unwrap_or(&held);
        match calls(open).filter(|_| self.active) {
            Some(found) => found.into_iter().map(Piece::Call).collect(),
            None if held.is_empty() => Vec::new(),
            None => vec![Piece::Text(held)],
        }
    }

    fn speak(&mut self, text: String, pieces: &mut Vec<Piece>) {
        // Blank space before all else and between calls is nothing said.
        if !text.trim().is_empty() || (self.spoke && !self.called && !text.is_empty()) {
            (self.spoke, self.called) = (true, false);
            pieces.push(Piece::Text(text));
        }
    }
}

/// Calls in JSON: one, or a list of them.
fn calls(text: &str) -> Option<Vec<Call>> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |value: &Value| {
        let function = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
        let arguments = match function.get("arguments").or_else(|| function.get("parameters"))? {
            Value::String(text) => text.clone(),
            value @ Value::Object(_) => value.to_string(),
            _ => return None,
        };
        Some(Call { id: ids::fresh("call_"), name: function.get("name")?.as_str()?.to_owned(), arguments })
    };
    list.iter().map(call).collect::<Option<Vec<_>>>().filter(|calls| !calls.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and calls of a text, given in pieces of `size` bytes.
    fn read(text: &str, size: usize) -> (String, Vec<(String, String)>) {
        let mut reader = Reader::new(true);
        let mut pieces = Vec::new();
        let letters: Vec<char> = text.chars().collect();
        for part in letters.chunks(size) {
            pieces.extend(reader.push(&part.iter().collect::<String>()));
        }
        pieces.extend(reader.finish());
        let mut found = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(text) => found.0.push_str(&text),
                Piece::Call(call) => found.1.push((call.name, call.arguments)),
            }
        }
        found
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let one = ("f".to_owned(), "{\"a\":1}".to_owned());
        let tagged = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        for size in [1, 2, 5, 1000] {
            assert_eq!(read(tagged, size), (String::new(), vec![one.clone()]));
            assert_eq!(read(&format!("Well <b>.{tagged}\n{tagged}"), size), ("Well <b>.".into(), vec![one.clone(), one.clone()]));
            assert_eq!(read("{\"name\": \"f\", \"parameters\": {\"a\": 1}}", size), (String::new(), vec![one.clone()]));
            assert_eq!(read("{\"a\": 1}", size), ("{\"a\": 1}".into(), vec![]));
            assert_eq!(read("1 < 2 <tool", size), ("1 < 2 <tool".into(), vec![]));
            assert_eq!(read("<tool_call>no</tool_call> x", size), ("<tool_call>no</tool_call> x".into(), vec![]));
            assert_eq!(read("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}", size), (String::new(), vec![one.clone()]));
        }
    }

    #[test]
    fn a_forced_call_is_a_schema() {
        let body = json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": {"type": "function", "function": {"name": "f"}}});
        const TABLE: &[Field] = &[crate::fields::read("tools", "{}", ""), crate::fields::read("tool_choice", "{}", "")];
        let tools = Tools::read(&Fields::check("", &body, &[TABLE]).unwrap(), false).unwrap();
        let Some(Constraint::JsonSchema(schema)) = tools.constraint else { panic!("no schema") };
        assert_eq!(schema["properties"]["name"]["const"], "f");
        let none = json!({"tools": body["tools"], "tool_choice": "none"});
        assert!(Tools::read(&Fields::check("", &none, &[TABLE]).unwrap(), false).unwrap().list.is_none());
        let other = json!({"tools": body["tools"], "tool_choice": {"type": "function", "function": {"name": "g"}}});
        assert!(Tools::read(&Fields::check("", &other, &[TABLE]).unwrap(), false).is_err());
    }
}
