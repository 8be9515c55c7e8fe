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
    // Initial values are the program's own, whatever the original's were.
    ("initializer_range", &[], ""),
    ("init_std", &[], ""),
    ("init_fn", &[], ""),
    ("init_cutoff_factor", &[], ""),
    // How another program computes, and what is switched off by keys that are read.
    ("init_device", &[], ""),
    ("precision", &[], ""),
    ("flash_attention", &[], ""),
    ("alibi_bias_max", &[], ""),
    ("is_llama_config", &[], ""),
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
const HALVES: &str = "channels are rotated in halves, by one position";
const BLOCKS: &str = "blocks are built in one way";

/// What is wrong with the keys of a config that was written by hand, in the table `place`: a key that its family does not
/// read, or one that nothing reads with a value that asks for something. None where there is nothing, or no family, or none
/// below Recast's own, which [`parse`](super::parse) refuses.
pub fn unread(raw: &Map<String, Value>, place: &str) -> Option<String> {
    let named = |key: &str| {
        let name = raw.get(key)?.as_str()?;
        FAMILIES.iter().find(|family| family.model_type == name)
    };
    let own = named("model_type")?;
    let base = match own.model_type {
        "recast" => Some(named("base_model_type").filter(|base| base.model_type != "recast")?),
        _ => None,
    };
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

    /// Those of LLaDA-8B and SmolLM2-135M, with keys that the golden ones lack.
    const PUBLISHED: [&str; 2] = [
        r#"{
            "activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
            "attention_dropout": 0.0, "attention_layer_norm": false, "attention_layer_norm_with_affine": true,
            "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
                "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
            "bias_for_layer_norm": false, "block_group_size": 1, "block_type": "llama", "d_model": 4096,
            "embedding_dropout": 0.0, "embedding_size": 126464, "eos_token_id": 126081, "flash_attention": false,
            "include_bias": false, "include_qkv_bias": false, "init_cutoff_factor": null, "init_device": "meta",
            "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false, "layer_norm_type": "rms",
            "layer_norm_with_affine": true, "mask_token_id": 126336, "max_sequence_length": 4096,
            "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": null,
            "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081, "precision": "amp_bf16",
            "residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": true, "rope_full_precision": true,
            "rope_theta": 500000.0, "scale_logits": false, "transformers_version": "4.46.3", "use_cache": false,
            "vocab_size": 126464, "weight_tying": false
        }"#,
        r#"{
            "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576,
            "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
            "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
            "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false,
            "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1", "use_cache": true, "vocab_size": 49152
        }"#,
    ];

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    /// Whoever copies the config.json of a model into a recipe has nothing to take out of it but what is null, which TOML
    /// cannot say.
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
        for config in PUBLISHED {
            let config: Value = serde_json::from_str(config).expect("JSON");
            assert_eq!(unread(&object(config.clone()), "config"), None);
            crate::families::parse(&config).expect("a config");
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
            ("llama", "pretraining_tp", json!(2), "expected 1, or no such key"),
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
            ("llama", "initializer_range", json!(0.01)),
            ("llama", "rope_scaling", json!({"rope_type": "linear", "factor": 2})),
            ("llama", "torch_dtype", json!("bfloat16")),
            // No family: `parse` has the words for it.
            ("gpt2", "n_embd", json!(8)),
        ] {
            assert_eq!(told(model_type, key, value), None, "{model_type}, {key}");
        }
    }

    /// What its other keys mean is not known then.
    #[test]
    fn a_family_below_that_is_missing_is_not_blamed_on_other_keys() {
        for base in [None, Some("recast"), Some("gpt2")] {
            let mut config = object(json!({"model_type": "recast", "hidden_size": 8, "mixers": []}));
            config.extend(base.map(|base| ("base_model_type".into(), json!(base))));
            assert_eq!(unread(&config, "scratch.config"), None, "{base:?}");
            let refused = crate::families::parse(&Value::Object(config)).expect_err("refused").to_string();
            assert!(refused.contains(base.filter(|base| *base != "recast").unwrap_or("base_model_type")), "{refused}");
        }
    }
}
