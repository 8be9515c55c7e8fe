//! `/openapi.json`: made from the tables that requests are read by, so that it promises what is
//! there. The tests below hold its schemas and references; nothing holds its paths to the router yet.

use super::{CHAT, COMPLETIONS, RESPONSES, responses};
use crate::conversation::MESSAGE;
use crate::fields::{Field, Kind, values};
use crate::options::{DENOISING, JSON_SCHEMA, RESPONSE_FORMAT, STREAM_OPTIONS};
use crate::tools::{FUNCTION, TOOL};
use axum::Json;
use serde_json::{Map, Value, json};

/// A way in: path, method, its summary, the schema of its body, whether a key is needed.
type Way = (&'static str, &'static str, &'static str, Option<&'static str>);

/// All of them.
const WAYS: &[Way] = &[
    ("/v1/models", "get", "The models that are served.", None),
    ("/v1/models/{id}", "get", "One of them.", None),
    ("/v1/completions", "post", "Continue texts.", Some("CompletionRequest")),
    ("/v1/chat/completions", "post", "Continue a conversation.", Some("ChatRequest")),
    ("/v1/responses", "post", "Continue a conversation that the server remembers.", Some("ResponseRequest")),
    ("/v1/responses/{id}", "get", "A response that was kept.", None),
    ("/v1/responses/{id}", "delete", "Forget it.", None),
    ("/v1/states/{id}", "get", "Recast: a state that was kept.", None),
    ("/v1/states/{id}", "delete", "Recast: forget it.", None),
    ("/health", "get", "The process answers.", None),
    ("/ready", "get", "Requests are taken.", None),
    ("/metrics", "get", "Counters for Prometheus.", None),
    ("/openapi.json", "get", "This document.", None),
    ("/", "get", "The page.", None),
    ("/page.css", "get", "Its style.", None),
    ("/page.js", "get", "Its script.", None),
];

/// The document.
pub(crate) async fn document() -> Json<Value> {
    Json(made())
}

pub(crate) fn made() -> Value {
    let mut paths = Map::new();
    for (path, method, summary, body) in WAYS {
        let keyed = path.starts_with("/v1/");
        let mut way = json!({"summary": summary, "responses": {"200": {"description": "Done."}}});
        if keyed {
            way["security"] = json!([{"key": []}, {}]);
            let error = json!({"description": "Why not.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}});
            way["responses"]["default"] = error;
        }
        if path.contains("{id}") {
            way["parameters"] = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if let Some(name) = body {
            let schema = json!({"$ref": format!("#/components/schemas/{name}")});
            way["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
            way["responses"]["200"]["content"] =
                json!({"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}});
        }
        let entry = paths.entry(*path).or_insert_with(|| json!({}));
        entry[*method] = way;
    }
    let text = [
        crate::fields::read("type", r#"{"const":"text"}"#, "The kind."),
        crate::fields::read("text", r#"{"type":"string"}"#, "The text."),
    ];
    let schemas: Map<String, Value> = [
        ("CompletionRequest", schema(&COMPLETIONS, &["model", "prompt"])),
        ("ChatRequest", schema(&CHAT, &["model", "messages"])),
        ("ResponseRequest", schema(&RESPONSES, &["model", "input"])),
        ("Message", schema(&[MESSAGE], &["role"])),
        ("TextPart", schema(&[&text], &["type", "text"])),
        ("Tool", schema(&[TOOL], &["type", "function"])),
        ("Function", schema(&[FUNCTION], &["name"])),
        ("StreamOptions", schema(&[STREAM_OPTIONS], &[])),
        ("Reasoning", schema(&[responses::REASONING], &[])),
        ("ResponseStreamOptions", schema(&[responses::STREAM_OPTIONS], &[])),
        ("Denoising", schema(&[DENOISING], &[])),
        ("ResponseFormat", schema(&[RESPONSE_FORMAT], &["type"])),
        ("JsonSchema", schema(&[JSON_SCHEMA], &["schema"])),
        ("TextOptions", schema(&[responses::TEXT], &[])),
        ("TextFormat", schema(&[responses::FORMAT, JSON_SCHEMA], &["type"])),
        ("InputItem", schema(&[responses::ITEM], &[])),
        ("Error", error()),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect();
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Recast", "version": env!("CARGO_PKG_VERSION"), "description": "An OpenAI-compatible server of recast models. What is Recast's own says so."},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    })
}

fn schema(tables: &[&[Field]], required: &[&str]) -> Value {
    let mut properties = Map::new();
    for field in tables.iter().copied().flatten() {
        let mut property = match field.kind {
            Kind::Read(schema) | Kind::Unused(schema) => {
                serde_json::from_str(schema).unwrap_or_else(|error| json!({"broken": error.to_string()}))
            }
            Kind::Only(list) => {
                let mut values = values(list);
                values.push(Value::Null);
                json!({"enum": values})
            }
        };
        let about = match field.kind {
            Kind::Unused(_) => format!("{} Taken and not used.", field.about),
            _ => field.about.to_owned(),
        };
        property["description"] = about.into();
        properties.insert(field.name.to_owned(), property);
    }
    json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
}

fn error() -> Value {
    let text = json!({"type": ["string", "null"]});
    json!({"type": "object", "properties": {"error": {"type": "object", "properties": {
        "message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_parses_and_every_reference_leads_somewhere() {
        let document = made();
        let text = document.to_string();
        assert!(!text.contains("\"broken\""));
        for (at, _) in text.match_indices("#/components/schemas/") {
            let name = text[at + "#/components/schemas/".len()..].split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn no_field_stands_in_two_tables_of_one_request() {
        for tables in [&COMPLETIONS[..], &CHAT, &RESPONSES] {
            let mut names: Vec<&str> = tables.iter().copied().flatten().map(|f| f.name).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
