//! `POST /v1/completions`: texts continued as they stand.

use super::{Asked, finish_requests, keep};
use crate::app::{App, Served, now};
use crate::error::ApiError;
use crate::fields::{Field, Fields, only, read, unused};
use crate::generation::{Generation, Written, token_text};
use crate::ids;
use crate::kept::Kept;
use crate::options::{ALTERNATIVES, Options};
use crate::stream::{self, Told};
use crate::tokens::{self, Begun};
use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use recast_infer::engine;
use recast_infer::engine::PromptToken;
use recast_text::Tokenizer;
use serde_json::{Map, Value, json};
use std::str::Chars;
use std::sync::Arc;

/// What only this endpoint has.
pub(crate) const FIELDS: &[Field] = &[
    read("model", r#"{"type":"string"}"#, "One of /v1/models."),
    read(
        "prompt",
        r##"{"oneOf":[{"type":"string"},{"type":"array","items":{"type":"string"}},{"type":"array","items":{"type":"integer"}},{"type":"array","items":{"type":"array","items":{"type":"integer"}}}]}"##,
        "A text, texts, a list of tokens, or lists of tokens.",
    ),
    read(
        "echo",
        r#"{"type":"boolean","default":false}"#,
        "Give the prompt back before the answer; with logprobs also its tokens'.",
    ),
    read(
        "logprobs",
        r#"{"type":"integer","minimum":0,"maximum":20}"#,
        "Log-probabilities of tokens, and of so many likeliest at each place.",
    ),
    read(
        "max_tokens",
        r#"{"type":"integer","minimum":0,"default":16}"#,
        "The most tokens to write; 0 only reads, to score a prompt with echo.",
    ),
    read("response_format", r##"{"$ref":"#/components/schemas/ResponseFormat"}"##, "The form of the text."),
    only("best_of", "[1]", "Not supported: use n."),
    read(
        "suffix",
        r#"{"type":"string"}"#,
        "Text behind the max_tokens tokens that are written between it and the prompt. Of models that denoise; others refuse it.",
    ),
    unused("user", r#"{"type":"string"}"#, "Who asks."),
];

/// OpenAI's default.
const DEFAULT_TOKENS: usize = 16;
/// Log-probabilities of echoed prompts that one request may ask for. Each takes a hundred bytes or two until it is sent.
const SCORES: usize = 2 << 20;

/// A prompt with its text.
struct Prompt {
    text: String,
    tokens: Vec<u32>,
}

struct Completions {
    id: String,
    created: u64,
    model: String,
    n: usize,
    prompts: Vec<Prompt>,
    echo: bool,
    logprobs: bool,
    include_usage: bool,
    /// Where to keep the state, if asked for.
    keep: Option<(Arc<App>, Option<usize>)>,
    /// How far each answer was told, for `text_offset`.
    places: Vec<Place>,
}

/// A place in a text.
#[derive(Clone, Default)]
struct Place {
    /// Characters before it.
    offset: usize,
    begun: Begun,
}

/// Answers.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(asked): Extension<Asked>,
    request: Request,
) -> Result<Response, ApiError> {
    super::answer(app, asked, request, prepare).await
}

fn prepare(app: &Arc<App>, asked: &Asked, value: &Value) -> Result<(Generation, Completions, bool), ApiError> {
    let fields = Fields::check("", value, &super::COMPLETIONS)?;
    let served = app.model(fields.text("model")?.ok_or_else(|| fields.missing("model", "a model's id"))?)?.clone();
    asked.record.set_model(&served.id);
    let options = Options::read(&fields, served.engine.model())?;
    let kept = app.kept.named("state", options.state.as_deref(), "state", asked.owner)?;
    let kept = kept.as_deref();
    let prompts = prompts(&fields, &served, kept, options.repeat_context)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    if echo && kept.is_some() {
        return Err(ApiError::at("echo", "echo: expected false with a state, whose text is not given back, found true"));
    }
    let logprobs = fields.count("logprobs", 0, ALTERNATIVES)?;
    let max_tokens = fields.count("max_tokens", 0, app.settings.max_tokens)?.unwrap_or(DEFAULT_TOKENS);
    let suffix = match fields.text("suffix")? {
        Some(text) => {
            let encoded = served.engine.tokenizer().encode_continuation(text, None);
            encoded.map_err(|error| ApiError::at("suffix", error.to_string()))?
        }
        None => Vec::new(),
    };
    super::check_answers(app, &served, prompts.len(), &options)?;
    let mut requests = Vec::new();
    for prompt in &prompts {
        let before = kept.map_or(0, |kept| kept.snapshot.tokens.len());
        let tokens: Vec<u32> =
            kept.iter().flat_map(|kept| kept.unread.iter().copied()).chain(prompt.tokens.iter().copied()).collect();
        let max_tokens = served.room(before + tokens.len(), suffix.len(), Some(max_tokens), 0)?;
        requests.push(engine::Request {
            prompt: tokens,
            suffix: suffix.clone(),
            state: kept.map(|kept| kept.snapshot.clone()),
            max_tokens,
            alternatives: logprobs.unwrap_or(0),
            score_prompt: echo && logprobs.is_some(),
            ..engine::Request::default()
        });
    }
    if let (true, Some(likeliest)) = (echo, logprobs) {
        let tokens = requests.iter().map(|request| request.prompt.len()).fold(0, usize::saturating_add);
        let scores = tokens.saturating_mul(options.n).saturating_mul(likeliest + 1);
        if scores > SCORES {
            return Err(ApiError::at(
                "logprobs",
                format!(
                    "logprobs: expected at most {SCORES} log-probabilities with echo, the prompts' tokens times n times \
                     (logprobs + 1), found {scores}: send fewer prompts at a time"
                ),
            ));
        }
    }
    let requests = finish_requests(app, &served, asked.owner, kept, requests, &options)?;
    let teller = Completions {
        id: ids::fresh("cmpl-"),
        created: now(),
        model: served.id.clone(),
        n: options.n,
        places: vec![Place::default(); requests.len()],
        prompts,
        echo,
        logprobs: logprobs.is_some(),
        include_usage: options.include_usage,
        keep: options.return_state.then(|| (app.clone(), asked.owner)),
    };
    let mut generation = Generation::submit(&served, requests, options.form, app.settings.request_seconds, &asked.record)?;
    generation.revisions = options.revisions;
    Ok((generation, teller, options.stream))
}

fn prompts(fields: &Fields, served: &Served, kept: Option<&Kept>, times: usize) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, a list of strings, a list of tokens, or a list of lists of tokens";
    let value = fields.get("prompt").ok_or_else(|| fields.missing("prompt", expected))?;
    let wrong = || fields.wrong("prompt", expected, value);
    let tokenizer = served.engine.tokenizer();
    let vocabulary = served.engine.model().config.vocabulary;
    let of_text = |text: &str| -> Result<Prompt, ApiError> {
        let text = vec![text; times].join("\n");
        let encoded = match kept {
            // A text that goes on has its beginning already.
            Some(kept) => tokenizer.encode_continuation(&text, kept.last()),
            None => tokenizer.encode(&text, true),
        };
        let mut tokens = encoded.map_err(|error| ApiError::at("prompt", error.to_string()))?;
        match kept {
            Some(kept) if tokens.is_empty() && kept.unread.is_empty() => {
                let message = "prompt: expected some text (the state has read all that it is of), found none";
                return Err(ApiError::at("prompt", message));
            }
            None if tokens.is_empty() => {
                let start = tokenizer.bos().or_else(|| tokenizer.document_separator());
                tokens.push(start.ok_or_else(|| {
                    ApiError::at("prompt", "prompt: expected some text (the model has no begin token), found none")
                })?);
            }
            _ => {}
        }
        Ok(Prompt { text, tokens })
    };
    let of_tokens = |list: &[Value]| -> Result<Prompt, ApiError> {
        let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let tokens: Vec<u32> = list.iter().map(token).collect::<Option<_>>().ok_or_else(wrong)?;
        if tokens.is_empty() {
            return Err(ApiError::at("prompt", "prompt: expected at least one token, found none"));
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(ApiError::at("prompt", format!("prompt: expected tokens below {vocabulary}, found {token}")));
        }
        let tokens = tokens.repeat(times);
        Ok(Prompt { text: tokenizer.decode(&tokens, false), tokens })
    };
    match value {
        Value::String(text) => Ok(vec![of_text(text)?]),
        Value::Array(list) => match list.first() {
            Some(Value::String(_)) => list.iter().map(|item| of_text(item.as_str().ok_or_else(wrong)?)).collect(),
            Some(Value::Array(_)) => list.iter().map(|item| of_tokens(item.as_array().ok_or_else(wrong)?)).collect(),
            _ => Ok(vec![of_tokens(list)?]),
        },
        _ => Err(wrong()),
    }
}

impl Completions {
    fn frame(&self, choices: Vec<Value>) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("id".into(), self.id.clone().into());
        map.insert("object".into(), "text_completion".into());
        map.insert("created".into(), self.created.into());
        map.insert("model".into(), self.model.clone().into());
        map.insert("choices".into(), choices.into());
        map
    }

    /// What is new of an answer: the echoed prompt first, once.
    fn choice(&mut self, generation: &mut Generation, index: usize) -> Value {
        let tokenizer = generation.tokenizer().clone();
        let prompt = &self.prompts[index / self.n];
        let mut text = String::new();
        let mut list = Scores::default();
        if self.echo && !std::mem::replace(&mut generation.answers[index].echoed, true) {
            text.push_str(&prompt.text);
            // The first answer to a prompt has its scores for those that have none of their own.
            let answers = &generation.answers;
            if let Some(tokens) = answers[index].prompt.as_ref().or(answers[index - index % self.n].prompt.as_ref()) {
                list.prompt(&tokenizer, tokens, &prompt.text, &mut self.places[index]);
            }
        }
        let answer = &mut generation.answers[index];
        let (new, written) = answer.news();
        text.push_str(&new);
        list.written(&tokenizer, &written, &mut self.places[index]);
        json!({"index": index, "text": text, "logprobs": self.logprobs.then(|| list.json()), "finish_reason": answer.finish()})
    }

    fn ours(&self, generation: &Generation) -> Value {
        let mut ours = generation.speeds();
        if let Some((app, owner)) = &self.keep
            && let Some(id) = keep(app, generation, *owner, ids::fresh("state_"), None, None)
        {
            ours.insert("state".into(), id.into());
        }
        ours.into()
    }
}

impl stream::Teller for Completions {
    fn whole(&mut self, generation: &mut Generation) -> Value {
        let choices = (0..generation.answers.len()).map(|index| self.choice(generation, index)).collect();
        let mut map = self.frame(choices);
        map.insert("usage".into(), generation.usage(self.n).json());
        map.insert("recast".into(), self.ours(generation));
        map.into()
    }

    fn begin(&mut self, _: &Generation) -> Vec<Told> {
        Vec::new()
    }

    fn news(&mut self, generation: &mut Generation, index: usize) -> Vec<Told> {
        let steps = generation.revisions(index);
        if !steps.is_empty() {
            // A step comes before the text that it made final, and says nothing else.
            let tell = |step| {
                let mut map = self.frame(Vec::new());
                map.insert("recast".into(), json!({"index": index, "step": step}));
                (None, map.into())
            };
            return steps.into_iter().map(tell).collect();
        }
        let choice = self.choice(generation, index);
        let mut map = self.frame(vec![choice]);
        if self.include_usage {
            map.insert("usage".into(), Value::Null);
        }
        vec![(None, map.into())]
    }

    fn end(&mut self, generation: &mut Generation) -> Vec<Told> {
        if !self.include_usage && self.keep.is_none() {
            return Vec::new();
        }
        let mut map = self.frame(Vec::new());
        if self.include_usage {
            map.insert("usage".into(), generation.usage(self.n).json());
        }
        map.insert("recast".into(), self.ours(generation));
        vec![(None, map.into())]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Told> {
        vec![(None, error.body())]
    }

    fn says_done(&self) -> bool {
        true
    }
}

/// OpenAI's four lists.
#[derive(Default)]
struct Scores {
    tokens: Vec<String>,
    log_probabilities: Vec<Option<f32>>,
    likeliest: Vec<Value>,
    offsets: Vec<usize>,
}

impl Scores {
    /// `echo` is the text that is given back of these tokens.
    fn prompt(&mut self, tokenizer: &Tokenizer, tokens: &[PromptToken], echo: &str, place: &mut Place) {
        let mut echo = echo.chars();
        for token in tokens {
            let alternatives = token.alternatives.iter().map(|scored| (scored.token, scored.log_probability));
            self.push(tokenizer, token.token, token.log_probability, alternatives, &mut echo, place);
        }
    }

    fn written(&mut self, tokenizer: &Tokenizer, written: &[Written], place: &mut Place) {
        for token in written {
            // No special token is spelled out in an answer.
            let (scored, alternatives) = (Some(token.log_probability), token.alternatives.iter().copied());
            self.push(tokenizer, token.token, scored, alternatives, &mut "".chars(), place);
        }
    }

    /// `echo` is the rest of the text that is given back, from this token on.
    fn push(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        scored: Option<f32>,
        alternatives: impl Iterator<Item = (u32, f32)>,
        echo: &mut Chars<'_>,
        place: &mut Place,
    ) {
        let bytes = tokens::bytes(tokenizer, token);
        let text = tokens::text(&bytes);
        // The one that stands there is always among them, as OpenAI has it.
        let likeliest = scored.map(|own| {
            let mut map: Map<String, Value> = alternatives.map(|(id, p)| (token_text(tokenizer, id), p.into())).collect();
            map.insert(text.clone(), own.into());
            Value::from(map)
        });
        // A special token may be one that the text spells out, or one that was put before it.
        let shown = !tokenizer.is_special(token) || (!text.is_empty() && echo.as_str().starts_with(&text));
        let (within, mut begun) = if shown { place.begun.pass(&bytes) } else { (false, 0) };
        // SentencePiece's blank before the first word of a text, which the text does not show.
        if shown && place.offset == 0 && bytes.first() == Some(&b' ') && echo.clone().next().is_some_and(|first| first != ' ') {
            begun -= 1;
        }
        // A token that goes on with a character stands where that does.
        self.offsets.push(place.offset.saturating_sub(usize::from(within)));
        place.offset += begun;
        for _ in 0..begun {
            echo.next();
        }
        self.tokens.push(text);
        self.log_probabilities.push(scored);
        self.likeliest.push(likeliest.unwrap_or(Value::Null));
    }

    fn json(self) -> Value {
        json!({"tokens": self.tokens, "token_logprobs": self.log_probabilities, "top_logprobs": self.likeliest, "text_offset": self.offsets})
    }
}
