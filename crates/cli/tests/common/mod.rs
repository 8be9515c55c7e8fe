//! A tiny model in a folder, and the binary on it.

#![allow(dead_code)]

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa")
}

/// The golden model with a tokenizer of its 96 tokens: the printable characters and an end.
pub fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden().join(name), folder.path().join(name)).expect("copies");
    }
    // Ġ is GPT-2's letter for the space.
    let mut vocab = serde_json::Map::from_iter([("<|endoftext|>".to_string(), json!(0)), ("Ġ".to_string(), json!(1))]);
    vocab.extend(('!'..='~').enumerate().map(|(i, c)| (c.to_string(), json!(i + 2))));
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("writes");
    folder
}

/// That model, whose turns begin with the role's first letter and end with the end token.
pub fn chat_model() -> tempfile::TempDir {
    let folder = model();
    let template = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<|endoftext|>{% endfor %}\
        {% if add_generation_prompt %}a{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("writes");
    folder
}

pub fn recast(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    fed(command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()), input)
}

/// Runs a command on this standard input.
pub fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("starts");
    // The program may have ended before it read anything.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("ends")
}

pub fn stdout(arguments: &[&str], input: &str) -> String {
    let output = recast(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn json_of(arguments: &[&str], input: &str) -> Value {
    serde_json::from_str(&stdout(&[&["--json"], arguments].concat(), input)).expect("one JSON object")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
