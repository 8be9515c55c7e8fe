//! Constrained output: whatever the model would say, the text has its form.

use burn::tensor::Device;
use recast_infer::engine::{Constraint, Limits, Message, Request};
use recast_infer::samplers::{Event, Finish};
use recast_infer::{Engine, Sampling, open};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

fn engine() -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
    let loaded = open(&path, &Device::flex()).expect("the embedded teacher");
    Engine::start(Arc::new(loaded.model), Arc::new(loaded.tokenizer), Limits::default()).expect("starts")
}

fn write(engine: &Engine, constraint: Constraint, seed: u64, temperature: f32, max_tokens: usize) -> (String, Finish) {
    let prompt = engine.tokenizer().encode("One morning in winter", true).expect("encodes");
    let (send, receive) = channel();
    let request = Request {
        prompt,
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        max_tokens,
        constraint: Some(constraint),
        ..Request::default()
    };
    let listener = Box::new(move |message| {
        let _ = send.send(message);
        ControlFlow::Continue(())
    });
    engine.submit(request, listener).expect("taken");
    let mut text = String::new();
    for message in receive {
        match message {
            Message::Event(Event::Text(piece)) => text.push_str(&piece),
            Message::End(end) => return (text, end.expect("no error").finish),
            _ => {}
        }
    }
    panic!("the engine fell silent");
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % sides
    }
}

fn schema(dice: &mut Dice, depth: u32) -> Value {
    match dice.roll(if depth == 0 { 6 } else { 8 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "integer", "minimum": -(dice.roll(50) as i64), "maximum": dice.roll(1000)}),
        2 => json!({"type": "string", "maxLength": 1 + dice.roll(12)}),
        3 => {
            let choices = [json!("red"), json!("grün"), json!(3), json!(null), json!(true)];
            json!({"enum": choices[..1 + dice.roll(5) as usize]})
        }
        4 => json!({"type": "null"}),
        5 => json!({"type": "string", "pattern": "^[a-c]{2,5}$"}),
        6 => json!({"type": "array", "items": schema(dice, depth - 1), "minItems": dice.roll(2), "maxItems": 2 + dice.roll(2)}),
        _ => {
            let names = ["name", "näme", "a b", "x"];
            let count = 1 + dice.roll(4) as usize;
            let properties: serde_json::Map<String, Value> =
                names[..count].iter().map(|n| ((*n).to_string(), schema(dice, depth - 1))).collect();
            let required: Vec<&str> = names[..count].iter().filter(|_| dice.roll(2) == 0).copied().collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        }
    }
}

/// Whether the schema (of the kinds above) describes the value.
fn describes(schema: &Value, value: &Value) -> bool {
    if let Some(choices) = schema["enum"].as_array() {
        return choices.contains(value);
    }
    let bound = |name: &str, default: i64| schema[name].as_i64().unwrap_or(default);
    match schema["type"].as_str() {
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("integer") => value.as_i64().is_some_and(|x| x >= bound("minimum", i64::MIN) && x <= bound("maximum", i64::MAX)),
        Some("string") => value.as_str().is_some_and(|text| {
            let letters = text.chars().count() as i64;
            let pattern =
                schema["pattern"].is_null() || ((2..=5).contains(&letters) && text.chars().all(|c| ('a'..='c').contains(&c)));
            letters <= bound("maxLength", i64::MAX) && pattern
        }),
        Some("array") => value.as_array().is_some_and(|items| {
            let count = items.len() as i64;
            count >= bound("minItems", 0)
                && count <= bound("maxItems", i64::MAX)
                && items.iter().all(|x| describes(&schema["items"], x))
        }),
        _ => value.as_object().is_some_and(|object| {
            let required = schema["required"].as_array().expect("given");
            required.iter().all(|name| object.contains_key(name.as_str().expect("a name")))
                && object.iter().all(|(name, x)| schema["properties"].get(name).is_some_and(|schema| describes(schema, x)))
        }),
    }
}

#[test]
fn two_hundred_schemas_give_what_they_describe() {
    let engine = engine();
    let mut dice = Dice(1);
    for seed in 0..200 {
        let schema = schema(&mut dice, 2);
        let temperature = [0.0, 0.7, 1.0, 1.5][dice.roll(4) as usize];
        let (text, finish) = write(&engine, Constraint::JsonSchema(schema.clone()), seed, temperature, 1000);
        assert!(!matches!(finish, Finish::Length), "{schema}: {text} does not end");
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{schema}: {text}: {e}"));
        assert!(describes(&schema, &value), "{schema} does not describe {value}");
    }
}

#[test]
fn expressions_and_grammars_hold_and_wrong_ones_are_refused() {
    let engine = engine();
    let (text, finish) = write(&engine, Constraint::Regex("[0-9]{3}-[a-f]+!".into()), 1, 1.0, 200);
    let (digits, rest) = text.split_once('-').expect("a dash");
    assert!(digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()), "{text}");
    assert!(rest.ends_with('!') && rest.trim_end_matches('!').bytes().all(|b| (b'a'..=b'f').contains(&b)), "{text}");
    assert_eq!(finish, Finish::Complete);
    let lark = "start: \"yes\" | \"no\"";
    assert!(["yes", "no"].contains(&write(&engine, Constraint::Grammar(lark.into()), 2, 1.0, 50).0.as_str()));
    let quiet = || Box::new(|_| ControlFlow::Continue(()));
    for wrong in [
        Constraint::Regex("(".into()),
        Constraint::Grammar("start: nothing".into()),
        Constraint::JsonSchema(json!({"type": "fish"})),
    ] {
        let request = Request { prompt: vec![1], max_tokens: 5, constraint: Some(wrong.clone()), ..Request::default() };
        let error = engine.submit(request, quiet()).expect_err("refused").to_string();
        assert!(error.starts_with("constraint: "), "{wrong:?}: {error}");
    }
}
