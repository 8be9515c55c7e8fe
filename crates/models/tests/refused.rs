//! Models that are refused: which one it is, and what does not fit together in it.

use burn::tensor::Device;
use recast_models::{Model, families, tokenizer, weights};
use serde_json::{Value, json};
use std::path::Path;

/// A golden model of three layers, with another config.
fn changed(change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(golden.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copies");
    let config = std::fs::read(golden.join("config.json")).expect("reads");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    change(&mut config);
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
    folder
}

#[test]
fn what_is_refused_is_named() {
    for (key, value, says) in [
        ("hidden_size", json!(0), "`hidden_size` is 0"),
        ("model_type", json!(""), "model_type"),
        ("num_hidden_layers", json!(2), "weights of layer 2"),
        ("num_hidden_layers", json!(4), "model.layers.3."),
        ("num_key_value_heads", json!(3), "heads"),
        ("intermediate_size", json!(45), "has shape"),
        ("eos_token_id", json!(96), "`eos_token_id` is 96"),
        ("eos_token_id", json!("x"), "`eos_token_id`"),
        ("eos_token_id", json!([2, 1_000_000_000]), "`eos_token_id`"),
    ] {
        let folder = changed(|config| config[key] = value.clone());
        let error = Model::open(folder.path(), &Device::flex()).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains(&*folder.path().to_string_lossy()), "{key}: {error}");
    }
    for (key, value) in [("eos_token_id", Value::Null), ("eos_token_id", json!([2, 95])), ("eos_token_id", json!(-1))] {
        let folder = changed(|config| config[key] = value.clone());
        assert!(Model::open(folder.path(), &Device::flex()).is_ok(), "{key}: {value}");
    }
}

#[test]
fn layers_that_predict_further_tokens_may_stand_behind_the_others() {
    let folder = changed(|config| {
        config["num_hidden_layers"] = json!(2);
        config["num_nextn_predict_layers"] = json!(1);
    });
    let model = Model::open(folder.path(), &Device::flex()).expect("opens");
    assert_eq!(model.blocks().len(), 2);
}

#[test]
fn a_template_that_does_not_parse_names_its_model() {
    let folder = changed(|_| ());
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
    std::fs::copy(assets.join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("copies");
    std::fs::write(folder.path().join("chat_template.jinja"), "{% for").expect("writes");
    let checkpoint = weights::open(folder.path()).expect("opens");
    assert_eq!(families::read(checkpoint.as_ref()).expect("a config").layers, 3);
    let tokenizer = tokenizer(checkpoint.as_ref(), 4096).expect("a tokenizer");
    let error = tokenizer.chat_template().expect_err("it does not parse").to_string();
    assert!(error.contains("does not parse") && error.contains(&*folder.path().to_string_lossy()), "{error}");
}
