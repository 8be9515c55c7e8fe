//! The vocabulary inside a GGUF file.

use super::header::Header;
use super::reader::Value;
use crate::weights::WeightsError;
use crate::weights::mapped::MappedFile;

pub use recast_text::GgufVocab;

/// Reads the vocabulary; `None` if the file has none.
pub(super) fn vocab(file: &MappedFile, header: &Header) -> Result<Option<GgufVocab>, WeightsError> {
    let Some(model) = header.string(file, "tokenizer.ggml.model")? else {
        return Ok(None);
    };
    let strings = |key: &str| -> Result<Option<Vec<String>>, WeightsError> {
        let Some(array) = header.array(file, key)? else {
            return Ok(None);
        };
        match array.strings(file, key)? {
            Some(strings) => Ok(Some(strings)),
            None => Err(file.malformed(format!("{key} is an array of numbers; expected strings"))),
        }
    };
    let Some(tokens) = strings("tokenizer.ggml.tokens")? else {
        return Ok(None);
    };
    let per_token = |key: &str, count: usize| {
        if count == tokens.len() {
            Ok(())
        } else {
            Err(file.malformed(format!("{key} has {count} entries for {} tokens", tokens.len())))
        }
    };
    let scores = match header.array(file, "tokenizer.ggml.scores")? {
        None => None,
        Some(array) => {
            per_token("tokenizer.ggml.scores", array.count)?;
            let scores = array.numbers(file, |v| match v {
                Value::F32(v) => Some(*v),
                _ => None,
            });
            Some(scores.ok_or_else(|| file.malformed("tokenizer.ggml.scores: expected an array of f32"))?)
        }
    };
    let token_types = match header.array(file, "tokenizer.ggml.token_type")? {
        None => None,
        Some(array) => {
            per_token("tokenizer.ggml.token_type", array.count)?;
            let types = array.numbers(file, |v| match *v {
                Value::Signed(v) => v.try_into().ok(),
                Value::Unsigned(v) => v.try_into().ok(),
                _ => None,
            });
            Some(types.ok_or_else(|| file.malformed("tokenizer.ggml.token_type: expected an array of i32"))?)
        }
    };
    let id = |key: &str| token_id(file, header, key, tokens.len());
    Ok(Some(GgufVocab {
        pre: header.string(file, "tokenizer.ggml.pre")?,
        merges: strings("tokenizer.ggml.merges")?,
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        unknown: id("tokenizer.ggml.unknown_token_id")?,
        pad: id("tokenizer.ggml.padding_token_id")?,
        add_bos: header.boolean(file, "tokenizer.ggml.add_bos_token")?,
        add_space_prefix: header.boolean(file, "tokenizer.ggml.add_space_prefix")?,
        chat_template: header.string(file, "tokenizer.chat_template")?,
        model,
        scores,
        token_types,
        tokens,
    }))
}

/// A token id of the metadata. llama.cpp writes 2^32 - 1 for "none".
fn token_id(file: &MappedFile, header: &Header, key: &str, tokens: usize) -> Result<Option<u32>, WeightsError> {
    match header.unsigned(file, key)? {
        None => Ok(None),
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        Some(id) if id < tokens as u64 => Ok(Some(id as u32)),
        Some(id) => Err(file.malformed(format!("{key} is {id}; there are {tokens} tokens"))),
    }
}
