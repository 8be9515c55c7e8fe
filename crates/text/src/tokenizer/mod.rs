//! Text to tokens and back, over the `tokenizers` crate.
//!
//! Here live the [`Tokenizer`] that every other floor uses, its sources (a Hugging Face folder in
//! `folder.rs`, the vocabulary of a GGUF file in `gguf.rs`, training in `train.rs`) and the
//! incremental [`DecodeStream`]. To add a source, build a `tokenizer.json` value and hand it to
//! `Tokenizer::from_json`: then saving, fingerprint and special tokens work as for the others.
//! The tests at the end hold each source to round trips and to saving and loading unchanged.

mod bytes;
mod decode_stream;
pub(crate) mod folder;
mod gguf;
mod train;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

pub use decode_stream::DecodeStream;
pub use gguf::{GgufVocab, KNOWN_PRE_TOKENIZERS};

use crate::chat_template::ChatTemplate;
use crate::error::{Result, TextError};
use crate::files::sha256_hex;

/// Tokens that end a turn or a text in the families read here, for sources that name one end
/// token where the model uses two (a base model's and a chat's).
const END_TOKENS: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "</s>"];
/// Tokens put between documents, most specific first.
const SEPARATOR_TOKENS: &[&str] = &["<|endoftext|>", "<|end_of_text|>", "</s>"];
const BEGIN_TOKENS: &[&str] = &["<|begin_of_text|>", "<s>", "<bos>"];
/// What a text is put behind to be encoded as a continuation, until one does not join with its beginning.
const FRONTS: &[&str] = &["\n", "a", ".", "0"];

/// A tokenizer with its special tokens and, where it has one, its chat template.
///
/// Cloning is cheap: clones share one vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    fingerprint: Arc<OnceLock<String>>,
    special: Arc<HashSet<u32>>,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    unknown: Option<u32>,
    /// `None`: as the post-processor of `tokenizer.json` has it.
    add_bos: Option<bool>,
    chat_template: Option<String>,
    /// The folder or file it was read from, for messages.
    origin: Option<Arc<Path>>,
    /// The files it was read from, name and bytes, to be written back unchanged.
    original: Arc<Vec<(String, Vec<u8>)>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// Every digit alone, then GPT-2's splitting into words, then bytes as letters.
fn digits_then_bytes() -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]})
}

/// A post-processor that puts one token first.
fn begin_with(token: &str, id: u32) -> Value {
    json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json` alone. Begin and end tokens are recognised by their
    /// usual names (`<s>`, `<|im_end|>`, ...); [`Self::with_special_tokens`] sets them otherwise.
    ///
    /// # Errors
    /// When the bytes are not a `tokenizer.json`.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_json("in memory", bytes)
    }

    fn from_json(origin: &str, bytes: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| TextError::tokenizer(origin, format!("expected a tokenizer.json, but {error}")))?;
        // A file saved after training may carry a length limit, which would silently cut
        // documents here, or padding, which would silently lengthen them.
        inner.with_truncation(None).map_err(|error| TextError::tokenizer(origin, error.to_string()))?;
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special: HashSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let mut tokenizer = Self {
            inner: Arc::new(inner),
            fingerprint: Arc::default(),
            special: Arc::new(special),
            bos: None,
            eos: Vec::new(),
            pad: None,
            unknown: None,
            add_bos: None,
            chat_template: None,
            origin: None,
            original: Arc::default(),
        };
        tokenizer.bos = BEGIN_TOKENS.iter().find_map(|name| tokenizer.special_id(name));
        tokenizer.eos = END_TOKENS.iter().filter_map(|name| tokenizer.special_id(name)).collect();
        Ok(tokenizer)
    }

    /// From the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// When the lists contradict each other, or the kind or pre-tokenizer is not known; the
    /// message lists those that are.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        let (json, add_bos) = gguf::tokenizer_json(&vocab)?;
        let mut tokenizer = Self::from_json("in GGUF", json.to_string().as_bytes())?;
        tokenizer.bos = vocab.bos.or(tokenizer.bos);
        if let Some(eos) = vocab.eos {
            tokenizer.eos.retain(|id| *id != eos);
            tokenizer.eos.insert(0, eos);
        }
        tokenizer.pad = vocab.pad;
        tokenizer.unknown = vocab.unknown;
        tokenizer.add_bos = Some(add_bos && tokenizer.bos.is_some());
        tokenizer.chat_template = vocab.chat_template;
        Ok(tokenizer)
    }

    /// Replaces the begin token and the end tokens (the first is the one named in files).
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn with_special_tokens(mut self, bos: Option<u32>, eos: Vec<u32>) -> Result<Self> {
        for id in bos.iter().chain(&eos) {
            if self.id_to_token(*id).is_none() {
                let size = self.vocab_size();
                return Err(TextError::tokenizer("special tokens", format!("{id} is not one of its {size} ids")));
            }
        }
        (self.bos, self.eos, self.original) = (bos, eos, Arc::default());
        Ok(self)
    }

    /// Sets the chat template, which [`Self::save`] writes.
    #[must_use]
    pub fn with_chat_template(mut self, template: impl Into<String>) -> Self {
        self.chat_template = Some(template.into());
        self.original = Arc::default();
        self
    }

    /// Says where it was read from, for messages; one of [`Self::from_dir`] knows.
    #[must_use]
    pub fn read_from(self, path: &Path) -> Self {
        Self { origin: Some(path.into()), ..self }
    }

    fn special_id(&self, name: &str) -> Option<u32> {
        self.token_to_id(name).filter(|id| self.special.contains(id))
    }

    /// Tokens of a text. `add_special` adds what the tokenizer puts around a text (a begin token,
    /// for some); the names of special tokens inside the text always become those tokens.
    ///
    /// # Errors
    /// When the model has no token for a part of the text and no unknown token.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|error| TextError::Tokenize(error.to_string()))?;
        Ok(self.settle_bos(encoding.get_ids().to_vec(), text, add_special))
    }

    /// Tokens of a text that goes on from another, whose last token is `last` (none: not known). Nothing is put before
    /// it, neither a begin token nor the blank that some tokenizers put before the first word of a text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_continuation(&self, text: &str, last: Option<u32>) -> Result<Vec<u32>> {
        if !text.is_empty() && self.marks_beginnings() {
            // Behind a special token some tokenizers begin anew; behind it the text is encoded as the whole would be.
            let special = last.filter(|id| self.is_special(*id)).and_then(|id| self.id_to_token(id));
            let mut fronts = special.iter().map(String::as_str).chain(FRONTS.iter().copied());
            if let Some(ids) = fronts.find_map(|front| self.encode_behind(front, text)) {
                return Ok(ids);
            }
        }
        self.encode(text, false)
    }

    /// Tokens of `text` behind `front`; none where the two do not stay apart, or the vocabulary cannot spell `front`.
    fn encode_behind(&self, front: &str, text: &str) -> Option<Vec<u32>> {
        let head = self.encode(front, false).ok()?;
        if !self.decode(&head, false).ends_with(front) {
            return None;
        }
        let whole = self.encode(&format!("{front}{text}"), false).ok()?;
        whole.strip_prefix(head.as_slice()).map(<[u32]>::to_vec)
    }

    /// Whether something is put before the first word of a text.
    fn marks_beginnings(&self) -> bool {
        let behind = FRONTS.iter().find_map(|front| self.encode_behind(front, "a"));
        behind.is_some_and(|behind| self.encode("a", false).is_ok_and(|alone| alone != behind))
    }

    /// [`Self::encode`] of many texts, on all threads.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], add_special: bool) -> Result<Vec<Vec<u32>>> {
        let inputs: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let encodings =
            self.inner.encode_batch_fast(inputs, add_special).map_err(|error| TextError::Tokenize(error.to_string()))?;
        let settle = |(encoding, text): (&tokenizers::Encoding, &S)| {
            self.settle_bos(encoding.get_ids().to_vec(), text.as_ref(), add_special)
        };
        Ok(encodings.iter().zip(texts).map(settle).collect())
    }

    /// `add_bos_token` in tokenizer_config.json overrules the post-processor of tokenizer.json,
    /// in both directions.
    fn settle_bos(&self, mut ids: Vec<u32>, text: &str, add_special: bool) -> Vec<u32> {
        if let (true, Some(wanted), Some(bos)) = (add_special, self.add_bos, self.bos) {
            // A text that spells the begin token itself has it from there, not from outside.
            let spelled = self.id_to_token(bos).is_some_and(|token| text.starts_with(&token));
            let present = ids.first() == Some(&bos);
            if wanted && !present {
                ids.insert(0, bos);
            } else if !wanted && present && !spelled {
                ids.remove(0);
            }
        }
        ids
    }

    /// Text of tokens. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary are
    /// left out. `skip_special` leaves special tokens out too.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        // The decoders are total on strings; the only error is an unknown decoder state, which
        // loading already refused, and an empty text is the neutral answer to it.
        self.inner.decode(ids, skip_special).unwrap_or_default()
    }

    /// An incremental decoder for one sequence; see [`DecodeStream`].
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// The same for a sequence that goes on from `before`: its text follows that of `before` letter by letter, so that
    /// the blank before its first word is not taken for the beginning of a text and dropped.
    pub fn decode_stream_after(&self, before: &[u32], skip_special: bool) -> DecodeStream {
        DecodeStream::after(self.clone(), before, skip_special)
    }

    /// The id of a token, by its spelling in the vocabulary (`Ġthe`, `<|im_end|>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Tokens in the vocabulary, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that [`Self::encode`] puts before a text, if it puts one.
    pub fn begins_with(&self) -> Option<u32> {
        let first = |add_special| self.encode("a", add_special).ok().and_then(|ids| ids.first().copied());
        self.bos.filter(|bos| first(true) == Some(*bos) && first(false) != Some(*bos))
    }

    /// The token before a text, where the model knows one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens after which generation stops; the first is the one the configuration names.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// The token for padding, where one is named.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Whether an id is a special token, which `skip_special` leaves out of a decoded text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token that training data has between documents: `<|endoftext|>` or its like where the
    /// vocabulary has it, else the end token. A chat model's end token ends a turn, not a text.
    pub fn document_separator(&self) -> Option<u32> {
        let named = SEPARATOR_TOKENS.iter().find_map(|name| self.special_id(name));
        named.or_else(|| self.eos.first().copied())
    }

    /// The source text of the chat template, if there is one.
    pub fn chat_template_source(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The chat template, ready to render, if there is one.
    ///
    /// # Errors
    /// When the template does not parse; the message names the model where it is known.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let spelled = |id: Option<u32>| id.and_then(|id| self.id_to_token(id)).unwrap_or_default();
        let of = |error: TextError| match &self.origin {
            Some(path) => TextError::file(path, error.to_string()),
            None => error,
        };
        self.chat_template
            .as_ref()
            .map(|source| ChatTemplate::new(source.clone(), spelled(self.bos), spelled(self.eos.first().copied())))
            .transpose()
            .map_err(of)
    }

    /// The `tokenizer.json` of this tokenizer, normalised: no truncation, no padding.
    fn serialised(&self) -> String {
        self.inner.to_string(false).expect("a tokenizer built from JSON serialises to JSON")
    }

    /// SHA-256, in hexadecimal, of the serialised tokenizer: equal fingerprints, equal tokens.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.get_or_init(|| sha256_hex(self.serialised().as_bytes())).clone()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A GPT-2 kind of vocabulary of the 256 byte letters and three control tokens.
    pub(crate) fn bytes_vocab() -> GgufVocab {
        let mut letters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        letters.sort_unstable();
        let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec();
        let mut token_types = vec![3; 3];
        tokens.extend(letters.into_iter().map(String::from));
        token_types.resize(tokens.len(), 1);
        GgufVocab {
            model: "gpt2".into(),
            pre: Some("smollm".into()),
            tokens,
            token_types: Some(token_types),
            merges: Some(vec![]),
            bos: Some(1),
            eos: Some(2),
            unknown: Some(0),
            pad: Some(2),
            add_bos: Some(false),
            chat_template: Some("{{ messages[0].content }}".into()),
            ..GgufVocab::default()
        }
    }

    #[test]
    fn special_tokens_are_found_and_skipped() {
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos_ids(), tokenizer.pad()), (Some(1), &[2, 0][..], Some(2)));
        assert_eq!(tokenizer.document_separator(), Some(0));
        let ids = tokenizer.encode("<|im_start|>a<|im_end|>", true).unwrap();
        assert_eq!((ids.len(), ids[0], ids[2]), (3, 1, 2));
        assert_eq!(tokenizer.decode(&ids, true), "a");
        assert_eq!(tokenizer.decode(&ids, false), "<|im_start|>a<|im_end|>");
        assert_eq!(tokenizer.vocab_size(), 259);
    }

    #[test]
    fn a_batch_is_its_rows() {
        let tokenizer = Tokenizer::from_gguf(GgufVocab { add_bos: Some(true), ..bytes_vocab() }).unwrap();
        let texts = ["", "one", "\u{e9}\u{e9}", "<|im_start|>x"];
        let batch = tokenizer.encode_batch(&texts, true).unwrap();
        for (row, text) in batch.iter().zip(texts) {
            assert_eq!(row, &tokenizer.encode(text, true).unwrap());
            assert_eq!(row[0], 1);
        }
    }

    #[test]
    fn truncation_and_padding_in_the_file_are_not_applied() {
        let mut json: Value = serde_json::from_str(&Tokenizer::from_gguf(bytes_vocab()).unwrap().serialised()).unwrap();
        let reference = Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap();
        json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        let tokenizer = Tokenizer::from_json_bytes(json.to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.encode("abcdef", false).unwrap().len(), 6);
        assert_eq!(tokenizer.fingerprint(), reference.fingerprint());
    }

    #[test]
    fn fingerprints_tell_vocabularies_apart() {
        let one = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        let two = Tokenizer::from_gguf(GgufVocab { pre: Some("qwen2".into()), ..bytes_vocab() }).unwrap();
        assert_eq!(one.fingerprint(), Tokenizer::from_gguf(bytes_vocab()).unwrap().fingerprint());
        assert_ne!(one.fingerprint(), two.fingerprint());
        assert_eq!(one.fingerprint().len(), 64);
    }

    #[test]
    fn bytes_that_are_no_tokenizer_are_an_error() {
        for bytes in [&b""[..], b"{}", b"[1,2", b"\xff\xfe", b"{\"model\": {\"type\": \"BPE\"}}"] {
            assert!(Tokenizer::from_json_bytes(bytes).is_err());
        }
    }
}
