//! Keys of a config that is written by hand, for a model from nothing. A checkpoint's config may have any, which its own
//! program reads; whoever writes one means every key of it, and is told of what nothing here reads.

use super::FAMILIES;
use crate::config::nearest;
use serde_json::{Map, Value};

/// The keys of `rope_scaling` and `rope_parameters` (`rope.rs`).
const ROTATIONS: &[&str] = &[
    "rope_theta",
    "rope_type",
    "type",
    "factor",
    "original_max_position_embeddings",
    "mscale",
    "mscale_all_dim",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
];

/// Keys that configs of these families carry and that nothing here reads: the values, as JSON has them, that ask for nothing
/// (none named: any), and why others are refused.
const PASSED_OVER: &[(&str, &[&str], &str)] = &[
    ("_name_or_path", &[], ""),
    ("architectures", &[], ""),
    ("auto_map", &[], ""),
    ("transformers_version", &[], ""),
    ("torch_dtype", &[], ""),
    ("dtype", &[], ""),
    ("use_cache", &[], ""),
    ("bos_token_id", &[], ""),
    ("eos_token_id", &[], ""),
    ("pad_token_id", &[], ""),
    ("attention_dropout", &["0.0", "0"], NO_DROPOUT),
    ("embedding_dropout", &["0.0", "0"], NO_DROPOUT),
    ("residual_dropout", &["0.0", "0"], NO_DROPOUT),
    ("initializer_range", &["0.02"], INITIAL),
    ("init_std", &["0.02"], INITIAL),
    ("pretraining_tp", &["1"], "products are not computed in slices"),
    ("rope_interleaved", &["false"], HALVES),
    ("use_mrope", &["false"], HALVES),
    ("rope_full_precision", &["true"], "rotations are always computed so"),
    ("use_tokenshift", &["false"], "only RAD-RWKV6 has a token shift"),
    ("block_group_size", &["1"], BLOCKS),
    ("attention_layer_norm_with_affine", &["true"], BLOCKS),
    ("layer_norm_with_affine", &["true"], BLOCKS),
    ("bias_for_layer_norm", &["false"], BLOCKS),
];

const NO_DROPOUT: &str = "no stage drops activations out";
const INITIAL: &str = "initial values are the program's own";
const HALVES: &str = "channels are rotated in halves, by one position";
const BLOCKS: &str = "blocks are built in one way";

/// What is wrong with the keys of a config that was written by hand, in the table `place`: a key that its family does not
/// read, or one that nothing reads with a value that asks for something. None where there is nothing, or no family, which
/// [`parse`](super::parse) refuses.
pub fn unread(raw: &Map<String, Value>, place: &str) -> Option<String> {
    let named = |key: &str| {
        let name = raw.get(key)?.as_str()?;
        FAMILIES.iter().find(|family| family.model_type == name)
    };
    let own = named("model_type")?;
    let base = named("base_model_type").filter(|_| own.model_type == "recast");
    let lists = own.keys.iter().chain(base.iter().flat_map(|base| base.keys));
    let known: Vec<&str> = lists.flat_map(|list| list.iter().copied()).collect();
    for (key, value) in raw.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
        match PASSED_OVER.iter().find(|(name, ..)| name == key) {
            None => return Some(unknown(key, &known, place)),
            Some((_, neutral, why)) if !neutral.is_empty() && !neutral.contains(&value.to_string().as_str()) => {
                return Some(format!("`{place}.{key}` is {value}, and {why}; expected {}, or no such key", neutral[0]));
            }
            Some(_) => {}
        }
    }
    ["rope_scaling", "rope_parameters"].iter().find_map(|block| {
        let key = raw.get(*block)?.as_object()?.keys().find(|key| !ROTATIONS.contains(&key.as_str()))?;
        Some(unknown(key, ROTATIONS, &format!("{place}.{block}")))
    })
}

fn unknown(key: &str, known: &[&str], place: &str) -> String {
    let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
    let hint = nearest(key, &names).map_or_else(String::new, |name| format!("did you mean `{name}`? "));
    format!("unknown key `{place}.{key}`; {hint}known keys: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    /// Whoever copies a model's config.json into a recipe has nothing to take out of it.
    #[test]
    fn configs_as_the_originals_write_them_have_known_keys() {
        let mut seen = Vec::new();
        for folder in ["families", "released"] {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder);
            for entry in std::fs::read_dir(golden).expect("golden files") {
                let path = entry.expect("an entry").path().join("config.json");
                let config: Value = serde_json::from_slice(&std::fs::read(&path).expect("a config")).expect("JSON");
                assert_eq!(unread(&object(config.clone()), "config"), None, "{}", path.display());
                seen.push(config["model_type"].clone());
            }
        }
        // Recast's own is of no other program.
        assert!(FAMILIES.iter().all(|family| family.model_type == "recast" || seen.contains(&json!(family.model_type))));
    }

    #[test]
    fn what_nothing_reads_is_named() {
        let told = |model_type: &str, key: &str, value: Value| {
            let mut config = object(json!({"model_type": model_type, "base_model_type": "llama", "hidden_size": 8}));
            if model_type != "recast" {
                config.remove("base_model_type");
            }
            config.insert(key.into(), value);
            unread(&config, "scratch.config")
        };
        let wrong = [
            (
                "llama",
                "hiden_size",
                json!(8),
                "unknown key `scratch.config.hiden_size`; did you mean `hidden_size`? known keys: ",
            ),
            ("llama", "wibble", json!(1), "unknown key `scratch.config.wibble`; known keys: model_type, vocab_size"),
            // Of another family, and of the recipe's [student].
            ("llama", "sliding_window", json!(8), "`scratch.config.sliding_window`"),
            ("llama", "mixers", json!([]), "`scratch.config.mixers`"),
            ("rwkv7qwen2", "lora_rank_tokenshift", json!(8), "`scratch.config.lora_rank_tokenshift`"),
            ("recast", "d_model", json!(8), "`scratch.config.d_model`"),
            (
                "llama",
                "rope_scaling",
                json!({"rope_type": "linear", "facter": 2}),
                "`scratch.config.rope_scaling.facter`; did you",
            ),
            ("llama", "attention_dropout", json!(0.1), "`scratch.config.attention_dropout` is 0.1, and no stage drops"),
            ("llama", "initializer_range", json!(0.01), "expected 0.02, or no such key"),
            ("rwkv7qwen2", "use_tokenshift", json!(true), "only RAD-RWKV6"),
        ];
        for (model_type, key, value, words) in wrong {
            let message = told(model_type, key, value).unwrap_or_else(|| panic!("{key} passes"));
            assert!(message.contains(words), "{message}");
        }
        for (model_type, key, value) in [
            ("mistral", "sliding_window", json!(8)),
            ("recast", "mixers", json!([])),
            ("recast", "mlp_bias", json!(true)),
            ("llama", "attention_dropout", json!(0)),
            ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 2})),
            ("llama", "torch_dtype", json!("bfloat16")),
            // No family: `parse` has the words for it.
            ("gpt2", "n_embd", json!(8)),
        ] {
            assert_eq!(told(model_type, key, value), None, "{model_type}, {key}");
        }
    }
}
