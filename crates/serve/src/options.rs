//! Fields that several endpoints have: how tokens are chosen, when a text ends, which form it has.

use crate::error::ApiError;
use crate::fields::{Field, Fields, only, read, unused};
use crate::ids;
use recast_infer::Sampling;
use recast_infer::engine::Constraint;
use recast_infer::samplers::denoising::Denoising;
use recast_models::Model;
use serde_json::{Value, json};

/// Most stop strings, and bytes of one.
const STOPS: usize = 16;
const STOP_BYTES: usize = 1024;
/// How often a prompt may be read.
const REPEATS: usize = 8;
/// Most alternatives told with a token.
pub(crate) const ALTERNATIVES: usize = 20;

/// How tokens are chosen.
pub(crate) const SAMPLING: &[Field] = &[
    read(
        "temperature",
        r#"{"type":"number","minimum":0,"maximum":100,"default":1}"#,
        "Divides the logits; 0 takes the likeliest token.",
    ),
    read(
        "top_p",
        r#"{"type":"number","minimum":0,"maximum":1,"default":1}"#,
        "Draw from the fewest likeliest tokens that together reach this probability.",
    ),
    read("top_k", r#"{"type":"integer","minimum":0}"#, "Recast: draw from so many likeliest tokens; 0 for all."),
    read(
        "min_p",
        r#"{"type":"number","minimum":0,"maximum":1}"#,
        "Recast: draw from tokens at least this fraction as likely as the likeliest.",
    ),
    read(
        "repetition_penalty",
        r#"{"type":"number","minimum":0.01,"maximum":100,"default":1}"#,
        "Recast: makes tokens that already occurred less likely; 1 does nothing.",
    ),
];

/// More of it, not in `/v1/responses`.
pub(crate) const PENALTIES: &[Field] = &[
    read(
        "frequency_penalty",
        r#"{"type":"number","minimum":-2,"maximum":2,"default":0}"#,
        "Taken from a token's logit for each time it was written.",
    ),
    read(
        "presence_penalty",
        r#"{"type":"number","minimum":-2,"maximum":2,"default":0}"#,
        "Taken from a token's logit once it was written.",
    ),
    read(
        "logit_bias",
        r#"{"type":"object","additionalProperties":{"type":"number","minimum":-100,"maximum":100}}"#,
        "Token ids and what is added to their logits.",
    ),
    read(
        "seed",
        r#"{"type":"integer"}"#,
        "Same seed, same text; without one another text each time. Behind what it wrote itself a quantised model goes on a little otherwise than behind the same text read (docs/guide/serving.md).",
    ),
    read("n", r#"{"type":"integer","minimum":1,"default":1}"#, "Answers to one prompt."),
    read(
        "stop",
        r#"{"oneOf":[{"type":"string"},{"type":"array","items":{"type":"string"},"maxItems":16}]}"#,
        "The text ends before any of these.",
    ),
    read("stream", r#"{"type":"boolean","default":false}"#, "Server-sent events as the text is written."),
    read("stream_options", r##"{"$ref":"#/components/schemas/StreamOptions"}"##, "What the events tell."),
];

/// Ours, and what it makes of a constraint.
pub(crate) const EXTENSIONS: &[Field] = &[
    read("regex", r#"{"type":"string"}"#, "Recast: a regular expression that the whole text matches."),
    read("grammar", r#"{"type":"string"}"#, "Recast: a grammar of the text, in llguidance's dialect of Lark."),
    read(
        "repeat_context",
        r#"{"type":"integer","minimum":1,"maximum":8,"default":1}"#,
        "Recast: read the prompt, or the last user's message, so many times: recurrent models recall better what they have read twice.",
    ),
    DENOISES,
    read(
        "stream_revisions",
        r#"{"type":"boolean","default":false}"#,
        "Recast: with stream, chunks that tell in `recast.step` what every step of a model that denoises changed and what it predicts beside: position, token, text, confidence, step. Without it only text comes that is final.",
    ),
    read("state", r#"{"type":"string"}"#, "Recast: the id of a state to go on from."),
    read("return_state", r#"{"type":"boolean","default":false}"#, "Recast: keep the state and tell its id in `recast.state`."),
];

/// In `/v1/responses` too.
pub(crate) const DENOISES: Field = read(
    "denoising",
    r##"{"$ref":"#/components/schemas/Denoising"}"##,
    "Recast: how a model that denoises writes. Its temperature is 0 where none is given.",
);

/// Of `denoising`; the words are those of `recast generate`.
pub(crate) const DENOISING: &[Field] = &[
    read(
        "rule",
        r#"{"type":"object","properties":{"name":{"enum":["fixed","random","threshold","factor","entropy","hierarchical","ancestral"]}}}"#,
        "Which predictions a step commits: {\"name\": \"threshold\", \"at\": 0.9}, {\"name\": \"fixed\", \"steps\": 32}, factor and entropy with `at`, hierarchical with `high` and `low`, random and ancestral with `steps`, ancestral with `remasking` too: {\"name\": \"cap\", \"eta\": 0.2}, rescale with `eta`, doubtful or never.",
    ),
    read("block", r#"{"type":"integer","minimum":1}"#, "Positions settled before the next are begun."),
    read(
        "guidance",
        r#"{"type":"number","default":0}"#,
        "Weight of guidance away from what would be written without the prompt.",
    ),
    read("ends", r#"{"enum":["free","last","never"]}"#, "End tokens: free, committed last, or never written."),
    read(
        "until_end",
        r#"{"type":"boolean","default":true}"#,
        "Whether the text is over with its first end token or stop string.",
    ),
    read("order", r#"{"enum":["probability","margin","entropy"]}"#, "What is best where the best come first."),
    read("editing", r#"{"type":"object"}"#, "Replace committed tokens: {\"at\": 0.9, \"passes\": 1}, passes at most 1024."),
    read("ahead", r#"{"type":"integer","minimum":0}"#, "Masks behind the block that the model sees; not of models with blocks."),
    read("keep", r#"{"enum":["nothing","prefix","around"]}"#, "What a model of whole sequences keeps from step to step."),
];

/// Of `stream_options`.
pub(crate) const STREAM_OPTIONS: &[Field] =
    &[read("include_usage", r#"{"type":"boolean","default":false}"#, "Before `[DONE]`, a chunk with the usage."), OBFUSCATION];

pub(crate) const OBFUSCATION: Field = only("include_obfuscation", "[false]", "Not supported.");

/// Of `response_format`.
pub(crate) const RESPONSE_FORMAT: &[Field] = &[
    read("type", r#"{"enum":["text","json_object","json_schema"]}"#, "The form."),
    read("json_schema", r##"{"$ref":"#/components/schemas/JsonSchema"}"##, "The schema, with type json_schema."),
];

/// Of `json_schema` therein.
pub(crate) const JSON_SCHEMA: &[Field] = &[
    read("schema", r#"{"type":"object"}"#, "The JSON Schema."),
    unused("name", r#"{"type":"string"}"#, "A name for it."),
    unused("description", r#"{"type":"string"}"#, "What it is for."),
    unused("strict", r#"{"type":"boolean"}"#, "The schema is always kept to."),
];

/// What they come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub sampling: Sampling,
    pub n: usize,
    pub stop: Vec<String>,
    pub stream: bool,
    pub include_usage: bool,
    pub constraint: Option<Constraint>,
    /// The field that the constraint came from.
    pub form: &'static str,
    pub repeat_context: usize,
    pub denoising: Option<Denoising>,
    pub revisions: bool,
    pub state: Option<String>,
    pub return_state: bool,
}

impl Options {
    /// Reads what `fields` has of the tables above.
    pub fn read(fields: &Fields, model: &Model) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.object("stream_options", &[STREAM_OPTIONS])? {
            Some(_) if !stream => {
                return Err(ApiError::at("stream_options", "stream_options: expected stream: true with it, found none"));
            }
            Some(options) => options.flag("include_usage")?.unwrap_or(false),
            None => false,
        };
        let revisions = fields.flag("stream_revisions")?.unwrap_or(false);
        let denoises = model.config.diffusion.is_some();
        if revisions && !(stream && denoises) {
            let found = if denoises { "stream: false" } else { "a next-token model" };
            return Err(ApiError::at(
                "stream_revisions",
                format!("stream_revisions: expected stream: true and a model that denoises, found {found}"),
            ));
        }
        let (form, constraint) = constraint(fields)?.unzip();
        Ok(Self {
            denoising: denoising(fields, denoises)?,
            revisions,
            sampling: sampling(fields, model)?,
            n: fields.count("n", 1, usize::MAX)?.unwrap_or(1),
            stop: stop(fields)?,
            stream,
            include_usage,
            constraint,
            form: form.unwrap_or_default(),
            repeat_context: fields.count("repeat_context", 1, REPEATS)?.unwrap_or(1),
            state: fields.text("state")?.map(Into::into),
            return_state: fields.flag("return_state")?.unwrap_or(false),
        })
    }
}

fn denoising(fields: &Fields, denoises: bool) -> Result<Option<Denoising>, ApiError> {
    // Checks the names.
    let Some(object) = fields.object("denoising", &[DENOISING])? else { return Ok(None) };
    if let Some(rule) = object.get("rule").filter(|rule| !rule["name"].is_string()) {
        return Err(object.wrong("rule", "an object with a name, as in {\"name\": \"fixed\", \"steps\": 32}", rule));
    }
    if !denoises {
        return Err(ApiError::at(
            "denoising",
            "denoising: expected a model that denoises, found a next-token model; leave it out",
        ));
    }
    let value = fields.get("denoising").cloned().unwrap_or_default();
    let settings: Denoising =
        serde_json::from_value(value).map_err(|error| ApiError::at("denoising", format!("denoising: {error}")))?;
    settings.check().map_err(|error| ApiError::at("denoising", format!("denoising: {error}")))?;
    Ok(Some(settings))
}

/// Most of a penalty that is a factor.
fn sampling(fields: &Fields, model: &Model) -> Result<Sampling, ApiError> {
    let defaults = Sampling::default();
    let top_p = fields.number("top_p", 0.0, 1.0)?;
    let seed = match fields.get("seed") {
        // Negative seeds are seeds too.
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(|x| x as u64))
            .ok_or_else(|| fields.wrong("seed", "a whole number of 64 bits", value))?,
        None => ids::number(),
    };
    let mut sampling = Sampling {
        temperature: fields.number("temperature", 0.0, 100.0)?.unwrap_or(if model.config.diffusion.is_some() {
            0.0
        } else {
            defaults.temperature
        }),
        top_k: fields.count("top_k", 0, usize::MAX)?.filter(|k| *k > 0),
        // Nothing reaches probability 0 but the likeliest token alone.
        top_p: top_p.map(|p| p.max(f32::MIN_POSITIVE)),
        min_p: fields.number("min_p", 0.0, 1.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.unwrap_or(defaults.repetition_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        seed,
        ..defaults
    };
    if let Some(value) = fields.get("logit_bias") {
        let expected = "an object of token ids and numbers from -100 to 100";
        let object = value.as_object().ok_or_else(|| fields.wrong("logit_bias", expected, value))?;
        for (token, bias) in object {
            let token = token.parse::<u32>().ok().filter(|t| (*t as usize) < model.config.vocabulary);
            let bias = bias.as_f64().filter(|b| (-100.0..=100.0).contains(b));
            let (Some(token), Some(bias)) = (token, bias) else {
                return Err(fields.wrong("logit_bias", format!("{expected}, ids below {}", model.config.vocabulary), value));
            };
            sampling.logit_bias.insert(token, bias as f32);
        }
    }
    Ok(sampling)
}

fn stop(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.get("stop") else { return Ok(Vec::new()) };
    let expected = || format!("a string or a list of at most {STOPS} strings, none empty or above {STOP_BYTES} bytes");
    let wrong = || fields.wrong("stop", expected(), value);
    let one = |value: &Value| value.as_str().filter(|s| !s.is_empty() && s.len() <= STOP_BYTES).map(ToOwned::to_owned);
    match value {
        Value::Array(list) if list.len() <= STOPS => list.iter().map(one).collect::<Option<_>>().ok_or_else(wrong),
        value => Ok(vec![one(value).ok_or_else(wrong)?]),
    }
}

/// The form of the text, and the field that gives it.
fn constraint(fields: &Fields) -> Result<Option<(&'static str, Constraint)>, ApiError> {
    let mut all = Vec::new();
    if let Some(format) = fields.object("response_format", &[RESPONSE_FORMAT])? {
        let kind = format.word("type", &["text", "json_object", "json_schema"])?;
        let schema = match format.object("json_schema", &[JSON_SCHEMA])? {
            Some(schema) => Some(schema.get("schema").cloned().unwrap_or_else(|| json!({"type": "object"}))),
            None => None,
        };
        all.extend(of_format(kind, schema, "response_format")?.map(|form| ("response_format", form)));
    }
    all.extend(fields.text("regex")?.map(|text| ("regex", Constraint::Regex(text.into()))));
    all.extend(fields.text("grammar")?.map(|text| ("grammar", Constraint::Grammar(text.into()))));
    if all.len() > 1 {
        return Err(ApiError::request("expected one of response_format, regex and grammar, found several"));
    }
    Ok(all.pop())
}

/// The constraint of a text format.
pub(crate) fn of_format(kind: Option<&str>, schema: Option<Value>, place: &'static str) -> Result<Option<Constraint>, ApiError> {
    match (kind, schema) {
        (Some("text"), None) => Ok(None),
        (Some("json_object"), None) => Ok(Some(Constraint::JsonSchema(json!({"type": "object"})))),
        (Some("json_schema"), Some(schema)) => Ok(Some(Constraint::JsonSchema(schema))),
        (Some("json_schema"), None) => {
            Err(ApiError::at(place, format!("{place}: expected a schema with type json_schema, found none")))
        }
        (None, _) => {
            Err(ApiError::at(place, format!("{place}.type: expected one of text, json_object, json_schema, found nothing")))
        }
        (Some(kind), Some(_)) => Err(ApiError::at(place, format!("{place}: expected no schema with type {kind}, found one"))),
        (Some(kind), None) => Err(ApiError::at(place, format!("{place}.type: {kind} is not known"))),
    }
}
