//! GGUF: every block kind against the values of the `gguf` Python package, names, layouts, config.

mod weights_support;

use std::path::Path;

use recast_models::weights::gguf::dequantize;
use recast_models::weights::{Checkpoint, Dtype, WeightsError, open};
use serde_json::{Value, json};
use weights_support::{Gguf, file, ramp};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn opened(gguf: &Gguf) -> Result<Box<dyn Checkpoint>, WeightsError> {
    let (_folder, path) = file("m.gguf", &gguf.bytes());
    open(&path)
}

fn refused(gguf: &Gguf) -> WeightsError {
    opened(gguf).err().expect("should have been refused")
}

#[test]
fn every_kind_equals_the_golden_values_to_the_bit() -> Outcome {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gguf");
    let checkpoint = open(&golden.join("quants.gguf"))?;
    let want = std::fs::read(golden.join("quants.f32"))?;
    let mut at = 0;
    let mut kinds = Vec::new();
    for info in checkpoint.infos() {
        assert_eq!(info.name, info.dtype.name());
        assert_eq!(info.shape[0], 2);
        let values = checkpoint.read_f32(&info.name)?;
        assert_eq!(values.len(), info.shape[0] * info.shape[1]);
        for (i, value) in values.iter().enumerate() {
            let want = f32::from_le_bytes(want[at + 4 * i..at + 4 * i + 4].try_into()?);
            assert_eq!(value.to_bits(), want.to_bits(), "{}[{i}]: {value} and {want}", info.name);
        }
        at += 4 * values.len();
        kinds.push(info.dtype);
        assert!(checkpoint.raw(&info.name).is_none());
    }
    assert_eq!(at, want.len());
    kinds.push(Dtype::F32);
    kinds.sort();
    let mut all = Dtype::ALL.to_vec();
    all.sort();
    assert_eq!(kinds, all);
    Ok(())
}

#[test]
fn many_blocks_are_the_same_blocks_many_times() -> Outcome {
    // More than one thread's share, and a last share that is not full.
    for dtype in Dtype::ALL {
        let (block, size) = dtype.block();
        let one: Vec<u8> = (0..size).map(|i| (i * 37 % 120) as u8).collect();
        let mut want = vec![0f32; block];
        dequantize(dtype, &one, &mut want)?;
        let count = 70_000 / block;
        let mut values = vec![0f32; count * block];
        dequantize(dtype, &one.repeat(count), &mut values)?;
        assert!(values.chunks(block).all(|v| v == want), "{dtype}");
        assert!(dequantize(dtype, &one[1..], &mut want).is_err());
    }
    Ok(())
}

#[test]
fn llama_gets_its_names_rows_and_config() -> Outcome {
    let mut gguf = Gguf::tiny("llama");
    gguf.vocab();
    gguf.tensor("blk.0.attn_q.bias", &[8], &ramp(8));
    let checkpoint = opened(&gguf)?;
    let names: Vec<String> = checkpoint.infos().into_iter().map(|i| i.name).collect();
    assert_eq!(
        names,
        [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.norm.weight",
            "model.layers.0.self_attn.q_proj.bias",
        ]
    );
    // Heads of 4 rows: stored 0 1 2 3 are the model's 0 2 1 3.
    let rows = |name: &str| -> Result<Vec<f32>, WeightsError> {
        Ok(checkpoint.read_f32(name)?.chunks(8).map(|row| (row[0] + 3.0) / 2.0).collect())
    };
    assert_eq!(rows("model.layers.0.self_attn.q_proj.weight")?, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(rows("model.layers.0.self_attn.k_proj.weight")?, [0.0, 2.0, 1.0, 3.0]);
    assert_eq!(rows("model.layers.0.self_attn.v_proj.weight")?, [0.0, 1.0, 2.0, 3.0]);
    let bias = checkpoint.read_f32("model.layers.0.self_attn.q_proj.bias")?;
    assert_eq!(bias.iter().map(|b| (b + 3.0) * 4.0).collect::<Vec<_>>(), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(
        checkpoint.config()?,
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
            "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "rope_scaling": null,
            "max_position_embeddings": 64, "vocab_size": 5, "tie_word_embeddings": true,
            "attention_bias": true, "mlp_bias": false, "bos_token_id": 0, "eos_token_id": 0,
        })
    );
    let vocab = checkpoint.gguf_vocab().ok_or("no vocabulary")?;
    assert_eq!((vocab.model.as_str(), vocab.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!(vocab.tokens, ["<|end|>", "a", "b", "ab", "\u{120}a"]);
    assert_eq!(vocab.merges, Some(vec!["a b".to_owned()]));
    assert_eq!(vocab.token_types, Some(vec![3, 1, 1, 1, 1]));
    assert_eq!(vocab.scores, Some(vec![0.0, -1.0, -2.0, -3.0, -4.0]));
    assert_eq!((vocab.bos, vocab.eos, vocab.unknown, vocab.pad), (Some(0), Some(0), None, None));
    assert_eq!((vocab.add_bos, vocab.chat_template.as_deref()), (Some(true), Some("{{ messages }}")));
    assert!(checkpoint.folder().is_none());
    Ok(())
}

#[test]
fn qwen_keeps_its_rows_and_has_biases_norms_and_its_own_output() -> Outcome {
    for architecture in ["qwen2", "qwen3"] {
        let mut gguf = Gguf::tiny(architecture);
        gguf.tensor("output.weight", &[8, 5], &ramp(40));
        gguf.tensor("blk.0.attn_k.bias", &[4], &ramp(4));
        gguf.tensor("blk.0.attn_q_norm.weight", &[4], &ramp(4));
        let checkpoint = opened(&gguf)?;
        assert_eq!(checkpoint.read_f32("model.layers.0.self_attn.q_proj.weight")?, ramp(64));
        assert_eq!(checkpoint.read_f32("model.layers.0.self_attn.k_proj.bias")?, ramp(4));
        assert_eq!(checkpoint.read_f32("model.layers.0.self_attn.q_norm.weight")?, ramp(4));
        assert_eq!(checkpoint.read_shaped("lm_head.weight", &[5, 8])?, ramp(40));
        let config = checkpoint.config()?;
        assert_eq!(config["model_type"], architecture);
        assert_eq!(config["tie_word_embeddings"], false);
        assert_eq!(config["attention_bias"], false);
    }
    let mut gguf = Gguf::tiny("qwen3");
    gguf.u32("qwen3.attention.key_length", 16);
    assert_eq!(opened(&gguf)?.config()?["head_dim"], 16);
    Ok(())
}

#[test]
fn scaled_positions_become_rope_scaling() -> Outcome {
    let scaling = |change: &dyn Fn(&mut Gguf)| -> Result<Value, WeightsError> {
        let mut gguf = Gguf::tiny("llama");
        change(&mut gguf);
        Ok(opened(&gguf)?.config()?["rope_scaling"].clone())
    };
    assert_eq!(
        scaling(&|g| {
            g.string("llama.rope.scaling.type", "linear");
            g.f32("llama.rope.scaling.factor", 2.5);
        })?,
        json!({"rope_type": "linear", "factor": 2.5})
    );
    assert_eq!(scaling(&|g| g.f32("llama.rope.scale_linear", 4.0))?, json!({"rope_type": "linear", "factor": 4.0}));
    assert_eq!(
        scaling(&|g| {
            g.string("llama.rope.scaling.type", "yarn");
            g.f32("llama.rope.scaling.factor", 4.0);
            g.u32("llama.rope.scaling.original_context_length", 32768);
        })?,
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})
    );
    assert_eq!(scaling(&|g| g.string("llama.rope.scaling.type", "none"))?, Value::Null);
    assert!(matches!(scaling(&|g| g.string("llama.rope.scaling.type", "longrope")), Err(WeightsError::Unsupported { .. })));
    assert!(matches!(scaling(&|g| g.string("llama.rope.scaling.type", "linear")), Err(WeightsError::Malformed { .. })));
    Ok(())
}

/// The factors as llama.cpp's converter computes them from a config.
fn llama3_factors(theta: f64, head_dim: usize, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor as f32
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        })
        .collect()
}

#[test]
fn llama_3_factors_become_its_parameters() -> Outcome {
    let with = |factors: &[f32]| -> Result<Value, WeightsError> {
        let mut gguf = Gguf::new("llama");
        for (key, value) in [
            ("block_count", 1),
            ("context_length", 131_072),
            ("embedding_length", 128),
            ("feed_forward_length", 12),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            gguf.u32(&format!("llama.{key}"), value);
        }
        gguf.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        gguf.f32("llama.rope.freq_base", 500_000.0);
        gguf.tensor("token_embd.weight", &[128, 2], &ramp(256));
        gguf.tensor("rope_freqs.weight", &[factors.len() as u64], factors);
        let checkpoint = opened(&gguf)?;
        assert_eq!(checkpoint.infos().len(), 1, "the factors are no weight");
        Ok(checkpoint.config()?["rope_scaling"].clone())
    };
    assert_eq!(
        with(&llama3_factors(500_000.0, 64, 32.0, 1.0, 4.0, 8192.0))?,
        json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192})
    );
    assert_eq!(
        with(&llama3_factors(500_000.0, 64, 8.0, 1.0, 16.0, 2048.0))?,
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 16.0,
               "original_max_position_embeddings": 2048})
    );
    assert_eq!(with(&[1.0; 32])?, Value::Null);
    let mut wrong = llama3_factors(500_000.0, 64, 32.0, 1.0, 4.0, 8192.0);
    wrong[3] = 1.5;
    assert!(matches!(with(&wrong), Err(WeightsError::Unsupported { .. })));
    assert!(matches!(with(&[0.0; 32]), Err(WeightsError::Malformed { .. })));
    assert!(matches!(with(&[1.0; 31]), Err(WeightsError::Shape { .. })));
    Ok(())
}

#[test]
fn versions_kinds_and_architectures_that_are_not_read_are_named() -> Outcome {
    let mut gguf = Gguf::tiny("llama");
    gguf.version = 2;
    assert_eq!(opened(&gguf)?.infos().len(), 5);
    gguf.version = 1;
    assert!(refused(&gguf).to_string().contains("GGUF version 1"));
    gguf.version = 3u32.swap_bytes();
    assert!(refused(&gguf).to_string().contains("big-endian"));

    let mut gguf = Gguf::tiny("llama");
    gguf.tensors[1].2 = 16;
    assert!(refused(&gguf).to_string().contains("\"blk.0.attn_q.weight\" is stored as IQ2_XXS"));
    gguf.tensors[1].2 = 15;
    assert!(refused(&gguf).to_string().contains("Q8_K"));
    gguf.tensors[1].2 = 999;
    assert!(refused(&gguf).to_string().contains("ggml type 999"));

    assert!(refused(&Gguf::tiny("gemma")).to_string().contains("\"gemma\""));
    let mut gguf = Gguf::tiny("llama");
    gguf.u32("llama.expert_count", 8);
    assert!(refused(&gguf).to_string().contains("mixture of experts"));
    let mut gguf = Gguf::tiny("llama");
    gguf.u32("split.count", 3);
    assert!(refused(&gguf).to_string().contains("merge"));
    let mut gguf = Gguf::tiny("llama");
    gguf.u32("llama.rope.dimension_count", 2);
    assert!(refused(&gguf).to_string().contains("rotated"));
    Ok(())
}

#[test]
fn alignment_overlap_and_duplicates() -> Outcome {
    let mut gguf = Gguf::tiny("llama");
    gguf.u32("general.alignment", 128);
    gguf.alignment = 128;
    assert_eq!(opened(&gguf)?.read_f32("model.norm.weight")?, ramp(8));
    let mut gguf = Gguf::tiny("llama");
    gguf.u32("general.alignment", 24);
    assert!(refused(&gguf).to_string().contains("power of two"));

    let mut gguf = Gguf::tiny("llama");
    gguf.tensors[1].4 = Some(33);
    assert!(refused(&gguf).to_string().contains("alignment"));
    gguf.tensors[1].4 = Some(32);
    assert!(refused(&gguf).to_string().contains("overlap"));
    gguf.tensors[1].4 = Some(u64::MAX - 31);
    assert!(matches!(refused(&gguf), WeightsError::Truncated { .. }));

    let mut gguf = Gguf::tiny("llama");
    gguf.tensor("blk.0.attn_q.weight", &[8, 8], &ramp(64));
    assert!(matches!(refused(&gguf), WeightsError::Duplicate { .. }));
    // Two names of GGUF's for one of ours.
    let mut gguf = Gguf::tiny("llama");
    gguf.tensor("model.norm.weight", &[8], &ramp(8));
    assert!(matches!(refused(&gguf), WeightsError::Duplicate { .. }));
    let mut gguf = Gguf::tiny("llama");
    gguf.string("general.architecture", "qwen2");
    assert!(refused(&gguf).to_string().contains("twice"));
    Ok(())
}

#[test]
fn counts_that_lie_are_refused_before_anything_is_allocated() {
    let mut gguf = Gguf::tiny("llama");
    gguf.array("x", 8, 1 << 60, &[]);
    assert!(matches!(refused(&gguf), WeightsError::Truncated { .. }));
    let mut gguf = Gguf::tiny("llama");
    gguf.array("x", 12, u64::MAX / 4, &[]);
    assert!(matches!(refused(&gguf), WeightsError::Truncated { .. }));
    let mut gguf = Gguf::tiny("llama");
    let nested: Vec<u8> = (0..10_000).flat_map(|_| [9u8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).collect();
    gguf.array("x", 9, 1, &nested);
    assert!(refused(&gguf).to_string().contains("nests"));
    let mut gguf = Gguf::tiny("llama");
    gguf.tensors[0].1 = vec![1 << 40, 1 << 40];
    assert!(matches!(refused(&gguf), WeightsError::Malformed { .. }));
    let mut gguf = Gguf::tiny("llama");
    gguf.tensors[0].1 = vec![1 << 40];
    assert!(matches!(refused(&gguf), WeightsError::Truncated { .. }));
    let mut gguf = Gguf::tiny("llama");
    gguf.tensors[1].1 = vec![8, 6];
    assert!(refused(&gguf).to_string().contains("need as many rows"));
    let mut gguf = Gguf::tiny("llama");
    gguf.vocab();
    gguf.u32("tokenizer.ggml.padding_token_id", 5);
    assert!(refused(&gguf).to_string().contains("there are 5 tokens"));
}
