//! Texts of a given form: which tokens may come next.
//!
//! llguidance parses what was written and gives the set of tokens that keep it within the grammar;
//! the sampler draws among these. What it needs of the tokenizer is every token's bytes.

use crate::error::InferError;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use recast_text::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

/// The form that a text must have.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// JSON that this JSON Schema describes.
    JsonSchema(Value),
    /// Text that this regular expression matches whole.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark.
    Grammar(String),
}

/// A model's vocabulary, prepared for grammars.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Prepares a tokenizer whose model has `vocabulary` logits.
    ///
    /// # Errors
    /// When the vocabulary cannot be used.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self, InferError> {
        let mut words = tokenizer.token_bytes();
        // Rows of the head without a token are never allowed; special tokens are no text.
        words.resize(vocabulary, Vec::new());
        for (id, word) in words.iter_mut().enumerate() {
            if tokenizer.is_special(id as u32) {
                word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            }
        }
        let end = tokenizer.eos_ids().first().copied().unwrap_or(vocabulary as u32 - 1);
        let trie = TokTrie::from(&TokRxInfo::new(vocabulary as u32, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| failed(&e))?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// A text of this form, nothing of it written yet.
    ///
    /// # Errors
    /// When the schema, expression or grammar is wrong or not supported.
    pub fn begin(&self, constraint: &Constraint) -> Result<Form, InferError> {
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => {
                // The schema of any JSON has two spellings, and settings go into one of them.
                let mut schema = if *schema == Value::Bool(true) { json!({}) } else { schema.clone() };
                // With any amount of white space allowed, a model that has lost the thread writes
                // nothing else.
                if let Some(keys) = schema.as_object_mut() {
                    keys.entry("x-guidance").or_insert_with(|| json!({"whitespace_flexible": false}));
                }
                TopLevelGrammar::from_json_schema(schema)
            }
            Constraint::Regex(expression) => TopLevelGrammar::from_regex(expression),
            Constraint::Grammar(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(failed(&error)),
            None => Ok(Form(matcher)),
        }
    }
}

/// A text of a given form on its way.
pub struct Form(Matcher);

impl Form {
    /// `logits` with minus infinity for tokens that may not come next.
    ///
    /// # Errors
    /// When the grammar is too large to go on with.
    pub fn allowed(&mut self, logits: &[f32]) -> Result<Vec<f32>, InferError> {
        let mask = self.0.compute_mask_or_eos().map_err(|e| failed(&e))?;
        let allow = |(token, &logit): (usize, &f32)| if mask.is_allowed(token as u32) { logit } else { f32::NEG_INFINITY };
        Ok(logits.iter().enumerate().map(allow).collect())
    }

    /// Takes the token that was written. Whether the text is complete: nothing may follow.
    ///
    /// # Errors
    /// When the token was not allowed.
    pub fn push(&mut self, token: u32) -> Result<bool, InferError> {
        self.0.consume_token(token).map_err(|e| failed(&e))?;
        Ok(self.0.is_stopped())
    }
}

/// The first line, since the library adds its whole state; and of an expression what is wrong with it, which follows
/// lines that show the place.
fn failed(error: &dyn std::fmt::Display) -> InferError {
    let text = error.to_string();
    let reason = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    InferError::Constraint(match (text.lines().next().unwrap_or_default(), reason) {
        ("NoExtensionBias", _) => "the model has no token that could come next in this form".into(),
        (line, Some(reason)) => format!("{line} {reason}"),
        (line, None) => line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn grammars() -> (Tokenizer, Grammars) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
        let tokenizer = Tokenizer::from_dir(&folder).expect("the embedded tokenizer");
        let grammars = Grammars::new(&tokenizer, tokenizer.vocab_size()).expect("grammars");
        (tokenizer, grammars)
    }

    #[test]
    fn any_json_is_compact_however_it_is_asked_for() {
        let (tokenizer, grammars) = grammars();
        let bracket = tokenizer.token_to_id("[").expect("a bracket");
        for schema in [json!(true), json!({}), json!({"type": "array"})] {
            let mut form = grammars.begin(&Constraint::JsonSchema(schema.clone())).expect("a form");
            form.push(bracket).expect("allowed");
            let allowed = form.allowed(&vec![0.0; tokenizer.vocab_size()]).expect("a mask");
            let words = tokenizer.token_bytes().into_iter().zip(allowed).filter(|(_, logit)| logit.is_finite());
            let words: Vec<Vec<u8>> = words.map(|(word, _)| word).collect();
            let blank = words.iter().find(|word| word.first().is_some_and(u8::is_ascii_whitespace));
            assert!(!words.is_empty() && blank.is_none(), "{schema}: {blank:?}");
        }
    }

    #[test]
    fn an_error_tells_its_reason() {
        let (_, grammars) = grammars();
        let pattern = json!({"type": "string", "pattern": "a(b"});
        for wrong in [Constraint::Regex("a(b".into()), Constraint::JsonSchema(pattern)] {
            let Err(error) = grammars.begin(&wrong) else { panic!("{wrong:?} is taken") };
            let error = error.to_string();
            // Of brackets.
            assert!(error.ends_with(" group") && error.lines().count() == 1, "{error}");
        }
    }
}
