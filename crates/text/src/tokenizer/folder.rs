//! A tokenizer in a Hugging Face folder: reading one and writing one.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::chat_template;
use crate::error::{Result, TextError};
use crate::files::{read_limited, read_optional, write_atomic};

/// The largest tokenizer.json in use is under 40 MB.
const MAX_FILE_BYTES: u64 = 512 << 20;

const TOKENIZER: &str = "tokenizer.json";
pub(crate) const CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const GENERATION: &str = "generation_config.json";
/// Files that travel with a tokenizer when it is saved elsewhere.
const TRAVELLING: &[&str] = &[
    TOKENIZER,
    CONFIG,
    SPECIAL_TOKENS,
    GENERATION,
    chat_template::FILE,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

impl Tokenizer {
    /// From a model folder: `tokenizer.json`, and where present `tokenizer_config.json`,
    /// `special_tokens_map.json`, `generation_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, or a file is not what its name says, or a named special
    /// token is not in the vocabulary.
    pub fn from_dir(folder: &Path) -> Result<Self> {
        let path = folder.join(TOKENIZER);
        let Some(bytes) = read_optional(&path, MAX_FILE_BYTES)? else {
            return Err(TextError::file(
                &path,
                "not found; expected a Hugging Face folder with a fast tokenizer. A folder with only \
                 tokenizer.model or vocab.json can be converted with transformers' save_pretrained",
            ));
        };
        let mut tokenizer = Self::from_json(&path.display().to_string(), &bytes)?;
        let mut original = vec![(TOKENIZER.to_owned(), bytes)];
        for name in TRAVELLING.iter().filter(|name| **name != TOKENIZER) {
            if let Some(bytes) = read_optional(&folder.join(name), MAX_FILE_BYTES)? {
                original.push(((*name).to_owned(), bytes));
            }
        }
        let object = |name: &str| object_of(folder, name, &original);
        let (config, special, generation) = (object(CONFIG)?, object(SPECIAL_TOKENS)?, object(GENERATION)?);

        // Each later source overrules the one before, and a `null` there means "none".
        let named = |key: &str| {
            let value = config.get(key).or_else(|| special.get(key));
            value.map(|value| token_name(value).map(|name| tokenizer.named_id(folder, key, name)).transpose()).transpose()
        };
        let (bos, eos, pad, unknown) = (named("bos_token")?, named("eos_token")?, named("pad_token")?, named("unk_token")?);
        if let Some(bos) = bos {
            tokenizer.bos = bos;
        }
        if let Some(eos) = eos {
            tokenizer.eos = eos.into_iter().collect();
        }
        (tokenizer.pad, tokenizer.unknown) = (pad.flatten(), unknown.flatten());
        tokenizer.add_bos = config.get("add_bos_token").and_then(Value::as_bool);
        tokenizer.read_generation_config(folder, &generation)?;
        tokenizer.chat_template = chat_template::source_in(folder, &config)?;
        tokenizer.original = Arc::new(original);
        Ok(tokenizer.read_from(folder))
    }

    fn named_id(&self, folder: &Path, key: &str, name: &str) -> Result<u32> {
        self.token_to_id(name).ok_or_else(|| {
            TextError::file(
                &folder.join(CONFIG),
                format!("{key} is {name:?}, which {TOKENIZER} does not have; the two files belong to different models"),
            )
        })
    }

    /// `eos_token_id` there is what generation obeys, and may list several. Ids outside the
    /// vocabulary occur in published files (embedding rows without a token) and are kept out.
    fn read_generation_config(&mut self, folder: &Path, generation: &Map<String, Value>) -> Result<()> {
        let wrong = |key: &str, value: &Value| {
            TextError::file(&folder.join(GENERATION), format!("{key} is {value}; expected a token id or a list of them"))
        };
        let id_of =
            |key: &str, value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(key, value));
        match generation.get("eos_token_id") {
            None | Some(Value::Null) => {}
            Some(Value::Array(values)) => {
                self.eos = values.iter().map(|value| id_of("eos_token_id", value)).collect::<Result<_>>()?;
            }
            Some(value) => {
                let id = id_of("eos_token_id", value)?;
                // A single id here and another in the tokenizer's own files: both end a text.
                self.eos.retain(|other| *other != id);
                self.eos.insert(0, id);
            }
        }
        let mut eos = std::mem::take(&mut self.eos);
        eos.retain(|id| self.id_to_token(*id).is_some());
        self.eos = eos;
        Ok(())
    }

    /// Writes the tokenizer into a folder. One that was read from a folder has its files copied
    /// byte for byte; another has `tokenizer.json`, `tokenizer_config.json` (with the chat
    /// template) and `special_tokens_map.json` written. `generation_config.json`, which belongs
    /// to the model as much, is only written where there is none.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let written;
        let files = if self.original.is_empty() {
            written = self.generated_files();
            &written
        } else {
            self.original.as_ref()
        };
        for (name, bytes) in files {
            let path = folder.join(name);
            if name != GENERATION || !path.exists() {
                write_atomic(&path, bytes)?;
            }
        }
        Ok(())
    }

    fn generated_files(&self) -> Vec<(String, Vec<u8>)> {
        let name = |id: Option<u32>| id.and_then(|id| self.id_to_token(id));
        let names = [
            ("bos_token", name(self.bos)),
            ("eos_token", name(self.eos.first().copied())),
            ("pad_token", name(self.pad)),
            ("unk_token", name(self.unknown)),
        ];
        let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
        if let Some(add_bos) = self.add_bos {
            config["add_bos_token"] = add_bos.into();
        }
        let mut special = Map::new();
        for (key, token) in names {
            config[key] = token.clone().into();
            if let Some(token) = token {
                special.insert(key.to_owned(), token.into());
            }
        }
        if let Some(template) = &self.chat_template {
            config["chat_template"] = template.as_str().into();
        }
        let mut generation = json!({"eos_token_id": self.eos});
        for (key, id) in [("bos_token_id", self.bos), ("pad_token_id", self.pad)] {
            if let Some(id) = id {
                generation[key] = id.into();
            }
        }
        let pretty = |value: &Value| format!("{value:#}\n").into_bytes();
        vec![
            (TOKENIZER.into(), self.serialised().into_bytes()),
            (CONFIG.into(), pretty(&config)),
            (SPECIAL_TOKENS.into(), pretty(&Value::Object(special))),
            (GENERATION.into(), pretty(&generation)),
        ]
    }
}

fn object_of(folder: &Path, name: &str, files: &[(String, Vec<u8>)]) -> Result<Map<String, Value>> {
    match files.iter().find(|(other, _)| other == name) {
        None => Ok(Map::new()),
        Some((_, bytes)) => parse_object(&folder.join(name), bytes),
    }
}

fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|error| TextError::file(path, format!("expected a JSON object, but {error}")))
}

/// The whole `tokenizer_config.json` of a folder; empty when there is none.
pub(crate) fn tokenizer_config(folder: &Path) -> Result<Map<String, Value>> {
    let path = folder.join(CONFIG);
    if !path.exists() {
        return Ok(Map::new());
    }
    parse_object(&path, &read_limited(&path, MAX_FILE_BYTES)?)
}

/// A special token is named by a string, or by an object with its `content`.
pub(crate) fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}

#[cfg(test)]
mod tests {
    use super::super::tests::bytes_vocab;
    use super::*;

    fn write(folder: &Path, name: &str, value: &Value) {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }

    #[test]
    fn saved_and_loaded_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::from_gguf(bytes_vocab()).unwrap();
        tokenizer.save(folder.path()).unwrap();
        let loaded = Tokenizer::from_dir(folder.path()).unwrap();
        assert_eq!(loaded.fingerprint(), tokenizer.fingerprint());
        assert_eq!((loaded.bos(), loaded.eos_ids(), loaded.pad()), (tokenizer.bos(), tokenizer.eos_ids(), tokenizer.pad()));
        assert_eq!(loaded.chat_template_source(), tokenizer.chat_template_source());
        let text = "caf\u{e9} 12<|im_end|>";
        assert_eq!(loaded.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
    }

    #[test]
    fn files_from_a_folder_are_copied_byte_for_byte() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Tokenizer::from_gguf(bytes_vocab()).unwrap().save(from.path()).unwrap();
        // Spacing that no serialiser would produce.
        std::fs::write(from.path().join(CONFIG), b"{ \"eos_token\" :\n\n {\"content\": \"<|im_end|>\"} }").unwrap();
        std::fs::write(to.path().join(GENERATION), b"{\"mine\": 1}").unwrap();
        Tokenizer::from_dir(from.path()).unwrap().save(to.path()).unwrap();
        for name in [TOKENIZER, CONFIG, SPECIAL_TOKENS] {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert_eq!(read(from.path()), read(to.path()), "{name}");
        }
        assert_eq!(std::fs::read(to.path().join(GENERATION)).unwrap(), b"{\"mine\": 1}");
    }

    #[test]
    fn special_tokens_come_as_strings_objects_null_and_lists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join(TOKENIZER), Tokenizer::from_gguf(bytes_vocab()).unwrap().serialised()).unwrap();
        write(path, CONFIG, &json!({"bos_token": null, "eos_token": {"content": "<|im_end|>"}, "add_bos_token": false}));
        write(path, SPECIAL_TOKENS, &json!({"bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}));
        let tokenizer = Tokenizer::from_dir(path).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos_ids(), tokenizer.pad()), (None, &[2][..], Some(0)));
        write(path, GENERATION, &json!({"eos_token_id": [0, 2, 77777]}));
        assert_eq!(Tokenizer::from_dir(path).unwrap().eos_ids(), [0, 2]);
        write(path, GENERATION, &json!({"eos_token_id": 0}));
        assert_eq!(Tokenizer::from_dir(path).unwrap().eos_ids(), [0, 2]);
        write(path, GENERATION, &json!({"eos_token_id": "end"}));
        assert!(Tokenizer::from_dir(path).unwrap_err().to_string().contains(GENERATION));
    }

    #[test]
    fn add_bos_overrules_the_post_processor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let with_bos = super::super::GgufVocab { add_bos: Some(true), ..bytes_vocab() };
        std::fs::write(path.join(TOKENIZER), Tokenizer::from_gguf(with_bos).unwrap().serialised()).unwrap();
        let first = |add_bos: Value, text: &str| {
            write(path, CONFIG, &json!({"bos_token": "<|im_start|>", "add_bos_token": add_bos}));
            Tokenizer::from_dir(path).unwrap().encode(text, true).unwrap().iter().take_while(|id| **id == 1).count()
        };
        assert_eq!(first(Value::Null, "x"), 1);
        assert_eq!(first(json!(true), "x"), 1);
        assert_eq!(first(json!(false), "x"), 0);
    }

    #[test]
    fn missing_and_contradicting_files_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert!(Tokenizer::from_dir(path).unwrap_err().to_string().contains("not found"));
        std::fs::write(path.join(TOKENIZER), Tokenizer::from_gguf(bytes_vocab()).unwrap().serialised()).unwrap();
        write(path, CONFIG, &json!({"eos_token": "<|nowhere|>"}));
        assert!(Tokenizer::from_dir(path).unwrap_err().to_string().contains("<|nowhere|>"));
        std::fs::write(path.join(CONFIG), b"[1]").unwrap();
        assert!(Tokenizer::from_dir(path).is_err());
    }
}
