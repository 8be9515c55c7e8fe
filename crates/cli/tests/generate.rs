//! Where a text begins, and how it goes on from a state.

mod common;

use common::{json_of, model, recast, text};
use serde_json::{Value, json};

#[test]
fn a_text_goes_on_from_its_state_without_another_word() {
    let model = model();
    // Nothing ends a text before its length.
    std::fs::write(model.path().join("generation_config.json"), r#"{"eos_token_id": []}"#).expect("writes");
    let state = model.path().join("state");
    let write = |prompt: &str, count: &str, more: &[&str]| -> Vec<Value> {
        let arguments = ["generate", text(model.path()), "--prompt", prompt, "--temperature", "0", "--max-tokens", count];
        json_of(&[&arguments[..], more].concat(), "")["tokens"].as_array().expect("tokens").clone()
    };
    let [load, save] = [["--load-state", text(&state)], ["--save-state", text(&state)]];
    let parts = [write("abc", "5", &save), write("", "2", &[load, save].concat()), write("", "2", &load)];
    assert_eq!(parts.concat(), write("abc", "9", &[]));

    // Where nothing was written there is nothing to go on from.
    write("abc", "0", &save);
    let output = recast(&["generate", text(model.path()), "--prompt", "", "--load-state", text(&state)], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("the state has read all that there is"), "{error}");
    assert_eq!(write("d", "2", &load), write("abcd", "2", &[]));
}

#[test]
fn an_empty_prompt_begins_a_text() {
    let model = model();
    let of = |prompt| json_of(&["generate", text(model.path()), "--prompt", prompt, "--temperature", "0"], "");
    let (empty, spelled) = (of(""), of("<|endoftext|>"));
    assert_eq!((&empty["prompt_tokens"], &empty["tokens"]), (&json!(1), &spelled["tokens"]));

    // Without a token that stands before texts there is nothing to begin with.
    let file = model.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).expect("reads")).expect("JSON");
    tokenizer["added_tokens"] = json!([]);
    std::fs::write(&file, tokenizer.to_string()).expect("writes");
    let output = recast(&["generate", text(model.path()), "--prompt", ""], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("some text (the model has no begin token)"), "{error}");
    assert!(output.stdout.is_empty());
}
