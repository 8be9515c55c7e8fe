//! From the vocabulary in a GGUF file to a `tokenizer.json`.
//!
//! GGUF names the pre-tokenizer (`tokenizer.ggml.pre`) instead of describing it, so the regexes
//! live here, after the families' own `tokenizer.json` (SmolLM2 excepted, see there). To add one, add an arm to
//! [`byte_level_shape`] and a line to [`KNOWN_PRE_TOKENIZERS`]; the tests at the end hold every
//! listed name to building a working tokenizer.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::error::{Result, TextError};

/// The `tokenizer.*` keys of a GGUF file, as its reader found them.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `"gpt2"` (byte-level BPE) or `"llama"` (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer, for `gpt2` only.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, by id; `llama` needs them.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user defined,
    /// 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.merges`, best first, as `"left right"`; `gpt2` needs them.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether `llama` puts a space before the text; yes when
    /// the key is absent.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// No tokenizer in use has a token near this length; past it, deriving merges would be quadratic
/// in a length that the file chose.
const MAX_TOKEN_BYTES: usize = 4096;

/// Names of `tokenizer.ggml.pre` that [`super::Tokenizer::from_gguf`] understands.
pub const KNOWN_PRE_TOKENIZERS: &[&str] = &[
    "codeshell",
    "command-r",
    "dbrx",
    "deepseek-r1-qwen",
    "default",
    "exaone",
    "falcon3",
    "gpt-2",
    "gpt2",
    "jais",
    "lfm2",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "megrez",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "qwen2",
    "qwen35",
    "refact",
    "smaug-bpe",
    "smollm",
    "stablelm2",
    "starcoder",
    "tekken",
];

const LLAMA3_REGEX: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_REGEX: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: as Qwen 2, with combining marks counted as letters.
const QWEN35_REGEX: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_REGEX: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a `pre` name stands for.
struct ByteLevelShape {
    pre_tokenizer: Value,
    normalizer: Value,
    /// Whether a word that is itself a token is taken whole, without following the merges.
    ignore_merges: bool,
    /// Whether a sequence starts with the beginning token when the file does not say.
    add_bos: bool,
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split_then_bytes(regex: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
        byte_level(false),
    ]})
}

fn byte_level_shape(pre: &str) -> Option<ByteLevelShape> {
    let shape = |pre_tokenizer| ByteLevelShape { pre_tokenizer, normalizer: Value::Null, ignore_merges: false, add_bos: false };
    Some(match pre {
        // "default" is what a converter writes when it knows no better; GPT-2's own splitting is
        // what byte-level BPE means without further word.
        "default" | "gpt-2" | "gpt2" | "mpt" | "olmo" | "phi-2" | "jais" => shape(byte_level(true)),
        // SmolLM2's published tokenizer.json splits off every digit first. Its vocabulary joins no
        // digits anyway; without that step, blanks before a digit and numerals such as a half sign
        // come out as in the reference ids of the GGUF file.
        "smollm" => shape(byte_level(true)),
        "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => shape(super::digits_then_bytes()),
        "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" => {
            ByteLevelShape { normalizer: json!({"type": "NFC"}), ..shape(split_then_bytes(QWEN2_REGEX)) }
        }
        "qwen35" => ByteLevelShape { normalizer: json!({"type": "NFC"}), ..shape(split_then_bytes(QWEN35_REGEX)) },
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" | "lfm2" => {
            ByteLevelShape { ignore_merges: true, add_bos: true, ..shape(split_then_bytes(LLAMA3_REGEX)) }
        }
        "dbrx" | "smaug-bpe" => shape(split_then_bytes(LLAMA3_REGEX)),
        "tekken" => ByteLevelShape { ignore_merges: true, add_bos: true, ..shape(split_then_bytes(TEKKEN_REGEX)) },
        _ => return None,
    })
}

fn problem(text: impl Into<String>) -> TextError {
    TextError::tokenizer("in GGUF", text)
}

/// Checks the parallel lists and ids against each other; everything after relies on it.
fn check(vocab: &GgufVocab) -> Result<HashMap<&str, u32>> {
    let count = vocab.tokens.len();
    if count == 0 || u32::try_from(count).is_err() {
        return Err(problem(format!("expected between 1 and 2^32-1 tokens, found {count}")));
    }
    for (name, length) in
        [("scores", vocab.scores.as_ref().map(Vec::len)), ("token types", vocab.token_types.as_ref().map(Vec::len))]
    {
        if let Some(length) = length.filter(|length| *length != count) {
            return Err(problem(format!("expected {count} {name}, one a token, found {length}")));
        }
    }
    for (name, id) in [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unknown), ("padding", vocab.pad)] {
        if let Some(id) = id.filter(|id| *id as usize >= count) {
            return Err(problem(format!("the {name} token is {id}, but there are {count} tokens")));
        }
    }
    let mut ids = HashMap::with_capacity(count);
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(problem(format!("token {id} is {} bytes long, the longest accepted is {MAX_TOKEN_BYTES}", token.len())));
        }
        if let Some(first) = ids.insert(token.as_str(), id) {
            return Err(problem(format!("tokens {first} and {id} are both {token:?}; expected unique tokens")));
        }
    }
    Ok(ids)
}

/// The `tokenizer.json` of a GGUF vocabulary, and whether it puts the beginning token first.
pub(super) fn tokenizer_json(vocab: &GgufVocab) -> Result<(Value, bool)> {
    let ids = check(vocab)?;
    let (mut json, add_bos) = match vocab.model.as_str() {
        "gpt2" => byte_level_json(vocab, &ids)?,
        "llama" => sentence_piece_json(vocab, &ids)?,
        other => {
            return Err(problem(format!(
                "tokenizer.ggml.model is {other:?}; expected \"gpt2\" or \"llama\". Use the model's tokenizer.json instead"
            )));
        }
    };
    json["added_tokens"] = added_tokens(vocab);
    if let (true, Some(bos)) = (add_bos, vocab.bos) {
        json["post_processor"] = super::begin_with(&vocab.tokens[bos as usize], bos);
    }
    Ok((json, add_bos))
}

fn token_type(vocab: &GgufVocab, id: usize) -> i32 {
    vocab.token_types.as_ref().map_or(NORMAL, |types| types[id])
}

fn added_tokens(vocab: &GgufVocab) -> Value {
    let mut added = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        let kind = token_type(vocab, id);
        // Without types, at least the named special tokens are known to be special.
        let named = vocab.token_types.is_none() && [vocab.bos, vocab.eos, vocab.pad].contains(&u32::try_from(id).ok());
        let special = matches!(kind, CONTROL | UNKNOWN) || named;
        if (special || kind == USER_DEFINED) && !token.is_empty() {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": special,
            }));
        }
    }
    Value::Array(added)
}

fn byte_level_json(vocab: &GgufVocab, ids: &HashMap<&str, u32>) -> Result<(Value, bool)> {
    let pre = vocab.pre.as_deref().unwrap_or("default");
    let shape = byte_level_shape(pre).ok_or_else(|| {
        problem(format!(
            "tokenizer.ggml.pre is {pre:?}; expected one of {}. Use the model's tokenizer.json instead",
            KNOWN_PRE_TOKENIZERS.join(", ")
        ))
    })?;
    let lines =
        vocab.merges.as_ref().ok_or_else(|| problem("tokenizer.ggml.merges is missing; byte-level BPE (\"gpt2\") needs it"))?;
    let mut merges = Vec::with_capacity(lines.len());
    for (rank, line) in lines.iter().enumerate() {
        let pair = line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        let (left, right) =
            pair.ok_or_else(|| problem(format!("merge {rank} is {line:?}; expected two tokens with one space between")))?;
        for part in [left, right, &format!("{left}{right}")] {
            if !ids.contains_key(part) {
                return Err(problem(format!("merge {rank} ({line:?}) names {part:?}, which is not a token")));
            }
        }
        merges.push(json!([left, right]));
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": shape.normalizer,
        "pre_tokenizer": shape.pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": shape.ignore_merges, "vocab": ids_by_token(vocab), "merges": merges,
        },
    });
    Ok((json, vocab.add_bos.unwrap_or(shape.add_bos)))
}

fn ids_by_token(vocab: &GgufVocab) -> Value {
    let pairs = (0u32..).zip(&vocab.tokens);
    Value::Object(pairs.map(|(id, token)| (token.clone(), Value::from(id))).collect())
}

fn sentence_piece_json(vocab: &GgufVocab, ids: &HashMap<&str, u32>) -> Result<(Value, bool)> {
    let scores = vocab
        .scores
        .as_ref()
        .ok_or_else(|| problem("tokenizer.ggml.scores is missing; a SentencePiece vocabulary (\"llama\") needs it"))?;
    let unknown = vocab
        .unknown
        .or_else(|| (0u32..).zip(&vocab.tokens).find(|(id, _)| token_type(vocab, *id as usize) == UNKNOWN).map(|(id, _)| id));
    let space_first = vocab.add_space_prefix.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = if space_first {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"}, replace]})
    } else {
        replace
    };
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null,
            "unk_token": unknown.map(|id| vocab.tokens[id as usize].as_str()),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false,
            "vocab": ids_by_token(vocab), "merges": merges_from_scores(vocab, scores, ids),
        },
    });
    Ok((json, vocab.add_bos.unwrap_or(true)))
}

/// SentencePiece joins the two neighbours whose union has the best score. As a list of merges:
/// every way to cut a token into two tokens, ordered by the token's score.
fn merges_from_scores(vocab: &GgufVocab, scores: &[f32], ids: &HashMap<&str, u32>) -> Value {
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (id, token) in vocab.tokens.iter().enumerate() {
        if token_type(vocab, id) != NORMAL {
            continue;
        }
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((scores[id], left, right));
            }
        }
    }
    // Stable, so that equal scores keep the order of ids: the file alone decides.
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.len().cmp(&a.1.len())));
    merges.into_iter().map(|(_, left, right)| json!([left, right])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{Tokenizer, tests::bytes_vocab};

    #[test]
    fn every_listed_pre_tokenizer_builds_and_round_trips() {
        for name in KNOWN_PRE_TOKENIZERS {
            let vocab = GgufVocab { pre: Some((*name).into()), ..bytes_vocab() };
            let tokenizer = Tokenizer::from_gguf(vocab).expect(name);
            let text = "It's 1234 caf\u{e9} \u{65e5}\u{672c}\n\n  x";
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, true), text, "{name}");
        }
        let vocab = GgufVocab { pre: Some("nonsense".into()), ..bytes_vocab() };
        let message = Tokenizer::from_gguf(vocab).unwrap_err().to_string();
        assert!(message.contains("nonsense") && message.contains("smollm"), "{message}");
    }

    #[test]
    fn digits_split_as_each_family_splits_them() {
        let mut vocab = bytes_vocab();
        vocab.tokens.extend(["12".into(), "123".into()]);
        vocab.merges = Some(vec!["1 2".into(), "12 3".into()]);
        vocab.token_types = None;
        let count = |pre: &str| {
            let vocab = GgufVocab { pre: Some(pre.into()), ..vocab.clone() };
            Tokenizer::from_gguf(vocab).unwrap().encode("123123", false).unwrap().len()
        };
        assert_eq!(count("starcoder"), 6);
        assert_eq!(count("qwen2"), 6);
        assert_eq!(count("llama-bpe"), 2);
        assert_eq!(count("gpt-2"), 2);
        assert_eq!(count("smollm"), 2);
    }

    #[test]
    fn blanks_before_a_digit_follow_the_reference() {
        let mut vocab = bytes_vocab();
        vocab.tokens.push("\u{120}\u{120}".into());
        vocab.merges = Some(vec!["\u{120} \u{120}".into()]);
        vocab.token_types = None;
        let count = |pre: &str| {
            let vocab = GgufVocab { pre: Some(pre.into()), ..vocab.clone() };
            Tokenizer::from_gguf(vocab).unwrap().encode("a  2", false).unwrap().len()
        };
        // "a", " ", " ", "2" against "a", "  ", "2".
        assert_eq!((count("smollm"), count("starcoder")), (4, 3));
    }

    /// A SentencePiece vocabulary: unk, bos, eos, 256 bytes, then scored pieces.
    fn pieces() -> GgufVocab {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
        let mut types = vec![UNKNOWN, CONTROL, CONTROL];
        types.resize(tokens.len(), 6);
        let mut scores = vec![0.0; tokens.len()];
        // "ab" beats "bc" by score, so "abc" is ab+c and never a+bc.
        for (piece, score) in
            [("\u{2581}", -1e3), ("a", -1e3), ("b", -1e3), ("c", -1e3), ("bc", -2.0), ("ab", -1.0), ("\u{2581}ab", -3.0)]
        {
            tokens.push(piece.into());
            types.push(NORMAL);
            scores.push(score);
        }
        GgufVocab {
            model: "llama".into(),
            tokens,
            scores: Some(scores),
            token_types: Some(types),
            bos: Some(1),
            eos: Some(2),
            unknown: Some(0),
            ..GgufVocab::default()
        }
    }

    #[test]
    fn sentence_piece_follows_scores_and_falls_back_to_bytes() {
        let tokenizer = Tokenizer::from_gguf(pieces()).unwrap();
        let words = |text: &str, special| {
            let ids = tokenizer.encode(text, special).unwrap();
            ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(words("abc", false), ["\u{2581}ab", "c"]);
        assert_eq!(words("cabc", true), ["<s>", "\u{2581}", "c", "ab", "c"]);
        assert_eq!(words("\u{e9}", false), ["\u{2581}", "<0xC3>", "<0xA9>"]);
        assert_eq!(words("ab</s>", false), ["\u{2581}ab", "</s>"]);
        for text in ["abc", " ab", "\u{e9}t\u{e9} \u{65e5}", "a\nb"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, true).unwrap(), true), text);
        }
        let plain = Tokenizer::from_gguf(GgufVocab { add_space_prefix: Some(false), add_bos: Some(false), ..pieces() });
        assert_eq!(plain.unwrap().encode("ab", true).unwrap().len(), 1);
    }

    #[test]
    fn no_blank_is_put_before_a_text_that_goes_on() {
        let tokenizer = Tokenizer::from_gguf(pieces()).unwrap();
        let words = |text: &str, last| {
            let ids = tokenizer.encode_continuation(text, last).unwrap();
            ids.iter().map(|id| tokenizer.id_to_token(*id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(words("abc", None), ["ab", "c"]);
        assert_eq!(words(" ab", None), ["\u{2581}ab"]);
        assert_eq!(words("\nab", None), ["<0x0A>", "ab"]);
        assert_eq!(words("\u{e9}", None), ["<0xC3>", "<0xA9>"]);
        assert_eq!(words("", None), [""; 0]);
        // As in the whole text, whatever stands before.
        for (whole, text, last) in [("cab", "ab", 'c'), ("c ab", " ab", 'c'), ("c\u{e9}b", "\u{e9}b", 'c')] {
            let last = tokenizer.token_to_id(&last.to_string());
            let ids = tokenizer.encode(whole, false).unwrap();
            assert!(ids.ends_with(&tokenizer.encode_continuation(text, last).unwrap()), "{whole}");
        }
        let ids = tokenizer.encode("ab</s>abc", false).unwrap();
        assert_eq!(tokenizer.encode_continuation("abc", Some(2)).unwrap(), ids[2..]);
        // Where nothing is put before a text, it is encoded as ever.
        let plain = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        for text in ["ab", " ab", "\n\nab"] {
            assert_eq!(plain.encode_continuation(text, Some(2)).unwrap(), plain.encode(text, false).unwrap());
        }
    }

    #[test]
    fn lying_vocabularies_are_refused() {
        let good = bytes_vocab();
        let cases = [
            GgufVocab { tokens: vec![], ..good.clone() },
            GgufVocab { model: "bert".into(), ..good.clone() },
            GgufVocab { eos: Some(99_999), ..good.clone() },
            GgufVocab { token_types: Some(vec![1]), ..good.clone() },
            GgufVocab { merges: None, ..good.clone() },
            GgufVocab { merges: Some(vec!["ab".into()]), ..good.clone() },
            GgufVocab { merges: Some(vec!["a b".into()]), ..good.clone() },
            GgufVocab { tokens: vec!["a".into(), "a".into()], token_types: None, bos: None, eos: None, ..good.clone() },
            GgufVocab { tokens: vec!["x".repeat(5000)], token_types: None, bos: None, eos: None, ..good.clone() },
            GgufVocab { scores: None, ..pieces() },
        ];
        for (number, case) in cases.into_iter().enumerate() {
            assert!(Tokenizer::from_gguf(case).is_err(), "case {number}");
        }
    }
}
