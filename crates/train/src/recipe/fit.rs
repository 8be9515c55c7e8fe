//! Holds a recipe's values to its schema: unknown keys, wrong types, and the forms that people write.
//!
//! One value stands for a list of one, `1e6` for a whole number, and a mixer's name for a mixer
//! without options.

use super::Recipe;
use crate::error::TrainError;
use recast_models::config::nearest;
use serde_json::Value;
use toml::{Table, Value as Toml};

/// Brings a recipe's table into the form that its schema asks for.
///
/// # Errors
/// When a key is unknown (with the nearest known one) or a value has another type.
pub fn fit(table: &mut Table) -> Result<(), TrainError> {
    let schema = Recipe::schema();
    let root = Schema { here: &schema, all: &schema };
    let mut value = Toml::Table(std::mem::take(table));
    root.fit(&mut value, "")?;
    if let Toml::Table(fitted) = value {
        *table = fitted;
    }
    Ok(())
}

/// A part of a JSON Schema, with the whole that its references point into.
#[derive(Clone, Copy)]
struct Schema<'a> {
    here: &'a Value,
    all: &'a Value,
}

impl<'a> Schema<'a> {
    fn at(self, here: &'a Value) -> Self {
        Self { here, ..self }.resolved()
    }

    fn get(self, key: &str) -> Option<&'a Value> {
        self.here.get(key)
    }

    /// Follows references and the branch of an optional value that is not null.
    fn resolved(self) -> Self {
        let branch = self.get("anyOf").and_then(Value::as_array).and_then(|b| b.iter().find(|s| s["type"] != "null"));
        let pointer = self.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        match branch.or_else(|| self.all.pointer(pointer?)) {
            Some(here) => self.at(here),
            None => self,
        }
    }

    /// The type that is asked for, in JSON Schema's words.
    fn kind(self) -> &'a str {
        match self.get("type") {
            Some(Value::String(kind)) => kind,
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|k| *k != "null").unwrap_or(""),
            _ => "",
        }
    }

    fn fit(self, value: &mut Toml, path: &str) -> Result<(), TrainError> {
        if let Some(choices) = self.get("oneOf").and_then(Value::as_array) {
            return choose(value, choices, path);
        }
        let expected =
            |what: &str, found: &Toml| Err(TrainError::Recipe(format!("`{path}`: expected {what}, found {}", describe(found))));
        match (self.kind(), &mut *value) {
            ("object", Toml::Table(table)) => self.table(table, path),
            ("object", Toml::String(name)) if self.here.pointer("/properties/kind").is_some() => {
                let kind = std::mem::take(name);
                *value = Toml::Table(Table::from_iter([("kind".to_string(), Toml::String(kind))]));
                Ok(())
            }
            ("object", other) => expected("a table", other),
            ("array", Toml::Array(items)) => {
                let Some(item) = self.get("items").map(|s| self.at(s)) else { return Ok(()) };
                items.iter_mut().enumerate().try_for_each(|(i, value)| {
                    // As `--set` names it.
                    let name = value.get("name").and_then(Toml::as_str).map_or_else(|| i.to_string(), String::from);
                    item.fit(value, &format!("{path}.{name}"))
                })
            }
            ("array", other) => {
                let one = std::mem::replace(other, Toml::Array(Vec::new()));
                *other = Toml::Array(vec![one]);
                self.fit(other, path)
            }
            ("integer", Toml::Float(x)) if x.fract() == 0.0 && x.abs() < 2f64.powi(53) => {
                *value = Toml::Integer(*x as i64);
                self.fit(value, path)
            }
            ("integer", Toml::Integer(n)) if *n < 0 && self.get("minimum").is_some() => {
                expected("a whole number of at least 0", value)
            }
            ("integer", Toml::Integer(_)) | ("number", Toml::Integer(_) | Toml::Float(_)) => Ok(()),
            ("boolean", Toml::Boolean(_)) | ("string", Toml::String(_)) => Ok(()),
            ("integer", other) => expected("a whole number", other),
            ("number", other) => expected("a number", other),
            ("boolean", other) => expected("true or false", other),
            ("string", other) => expected("text", other),
            _ => Ok(()),
        }
    }

    fn table(self, table: &mut Table, path: &str) -> Result<(), TrainError> {
        let Some(properties) = self.get("properties").and_then(Value::as_object) else { return Ok(()) };
        // A table that takes anything else (a mixer's options) is checked by its owner.
        let open = self.get("additionalProperties") != Some(&Value::Bool(false));
        for (key, value) in table.iter_mut() {
            let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match properties.get(key) {
                Some(schema) => self.at(schema).fit(value, &here)?,
                None if open => {}
                None => {
                    let known: Vec<String> = properties.keys().cloned().collect();
                    let hint = nearest(key, &known)
                        .map_or_else(|| format!("known keys: {}", known.join(", ")), |n| format!("did you mean `{n}`?"));
                    return Err(TrainError::Recipe(format!("unknown key `{here}`; {hint}")));
                }
            }
        }
        let required = self.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        match required.into_iter().find(|key| !table.contains_key(*key)) {
            Some(key) => {
                let place = if path.is_empty() { "the recipe".into() } else { format!("`{path}`") };
                Err(TrainError::Recipe(format!("{place} lacks the key `{key}`")))
            }
            None => Ok(()),
        }
    }
}

/// One of a few words.
fn choose(value: &Toml, choices: &[Value], path: &str) -> Result<(), TrainError> {
    let words: Vec<String> = choices.iter().filter_map(|c| c["const"].as_str().map(String::from)).collect();
    match value {
        Toml::String(word) if words.contains(word) => Ok(()),
        other => {
            let hint = other
                .as_str()
                .and_then(|word| nearest(word, &words))
                .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
            Err(TrainError::Recipe(format!("`{path}`: expected one of {}, found {}{hint}", words.join(", "), describe(other))))
        }
    }
}

/// A value as a reader would name it.
fn describe(value: &Toml) -> String {
    match value {
        Toml::Table(_) => "a table".into(),
        Toml::Array(_) => "a list".into(),
        plain => plain.to_string(),
    }
}
