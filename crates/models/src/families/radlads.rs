//! The classes of the released RADLADS checkpoints: `rwkv6qwen2` and `rwkv7qwen2`
//! (names and keys as those checkpoints have them). The body is Qwen2's.

use crate::config::{Keys, MixerSpec, ModelConfig};
use crate::error::ModelError;
use crate::weights::Checkpoint;
use serde_json::{Map, Value, json};

/// The keys that are read beside Qwen2's.
pub const KEYS: &[&str] = &[
    "attention_bias",
    "attention_output_bias",
    "balance_state",
    "groupnorm_att",
    "use_rope",
    "gate_rank_type",
    "lora_rank_decay",
    "lora_rank_gate",
];

/// And those of RAD-RWKV6 alone.
pub const RWKV6_KEYS: &[&str] = &["use_tokenshift", "lora_rank_tokenshift"];

/// And those of RAD-RWKV7 alone.
pub const RWKV7_KEYS: &[&str] = &["lora_rank_iclr", "lora_rank_value_residual_mix", "num_attention_layers"];

/// Says what a config leaves open and the tensors tell: a file with `ln_x`
/// under a config that does not mention `groupnorm_att` was trained with the group norm, and, unless
/// it says otherwise, without balancing, as the configuration shipped since May 2025 has it.
pub fn complete(raw: &mut Map<String, Value>, checkpoint: &dyn Checkpoint) {
    let released = matches!(raw.get("model_type").and_then(Value::as_str), Some("rwkv6qwen2" | "rwkv7qwen2"));
    if !released || raw.contains_key("groupnorm_att") {
        return;
    }
    if checkpoint.infos().iter().any(|info| info.name.ends_with(".self_attn.ln_x.weight")) {
        raw.insert("groupnorm_att".into(), true.into());
        raw.entry("balance_state").or_insert(false.into());
    }
}

/// Reads a released config.
pub fn parse_rwkv6(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = body(raw, "rwkv6qwen2")?;
    let keys = Keys(raw);
    // Ranks left null follow the released class, not the training rule: 32 and 64, doubled at
    // widths of 4096 and above.
    let wide = if config.hidden >= 4096 { 2 } else { 1 };
    let mut spec = MixerSpec::new("rwkv6")
        .with("balance_state", keys.flag("balance_state", true)?)
        .with("group_norm", keys.flag("groupnorm_att", false)?)
        .with("token_shift", keys.flag("use_tokenshift", true)?)
        .with("rope", keys.flag("use_rope", false)?)
        .with("gate", gate(raw, 1)?)
        .with("rank_token_shift", keys.optional_size("lora_rank_tokenshift")?.unwrap_or(32 * wide))
        .with("rank_decay", keys.optional_size("lora_rank_decay")?.unwrap_or(64 * wide));
    if let Some(rank) = keys.optional_size("lora_rank_gate")? {
        spec = spec.with("rank_gate", rank);
    }
    config.mixers = vec![spec; config.layers];
    Ok(config)
}

/// Reads a released config.
pub fn parse_rwkv7(raw: &Map<String, Value>) -> Result<ModelConfig, ModelError> {
    let mut config = body(raw, "rwkv7qwen2")?;
    let keys = Keys(raw);
    let mut spec = MixerSpec::new("rwkv7")
        .with("balance_state", keys.flag("balance_state", true)?)
        .with("group_norm", keys.flag("groupnorm_att", false)?)
        .with("rope", keys.flag("use_rope", false)?)
        .with("gate", gate(raw, 2)?);
    for (key, option) in RWKV7_RANKS {
        if let Some(rank) = keys.optional_size(key)? {
            spec = spec.with(option, rank);
        }
    }
    let kept = raw.get("num_attention_layers").and_then(Value::as_u64).unwrap_or(0) as usize;
    if kept > config.layers {
        return Err(ModelError::Config(format!("`num_attention_layers` is {kept} in a model of {} layers", config.layers)));
    }
    // The class hands rotations to its layers, kept ones included, only when `use_rope`.
    let rotates = keys.flag("use_rope", false)?;
    for (l, mixer) in config.mixers.iter_mut().enumerate() {
        if l < config.layers - kept {
            *mixer = spec.clone();
        } else if !rotates {
            mixer.options.insert("no_rope".into(), true.into());
        }
    }
    Ok(config)
}

const RWKV7_RANKS: [(&str, &str); 4] = [
    ("lora_rank_decay", "rank_decay"),
    ("lora_rank_iclr", "rank_iclr"),
    ("lora_rank_value_residual_mix", "rank_value_residual"),
    ("lora_rank_gate", "rank_gate"),
];

const RWKV6_RANKS: [(&str, &str); 3] =
    [("lora_rank_tokenshift", "rank_token_shift"), ("lora_rank_decay", "rank_decay"), ("lora_rank_gate", "rank_gate")];

fn body(raw: &Map<String, Value>, family: &str) -> Result<ModelConfig, ModelError> {
    let mut config = super::body::parse(raw, family)?;
    let keys = Keys(raw);
    config.qkv_bias = keys.flag("attention_bias", true)?;
    config.output_bias = keys.flag("attention_output_bias", false)?;
    super::qwen2::windows(&mut config)?;
    Ok(config)
}

fn gate(raw: &Map<String, Value>, default: u64) -> Result<u64, ModelError> {
    match raw.get("gate_rank_type") {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value
            .as_u64()
            .filter(|g| *g <= 2)
            .ok_or_else(|| ModelError::Config(format!("`gate_rank_type` is {value}, expected 0, 1 or 2"))),
    }
}

/// The released form of a student, if it has one: the same RAD mixer in every layer (RAD-RWKV7 may
/// keep the last layers softmax), with the tensors that the published code makes, on a body that those
/// classes can describe.
pub fn write(config: &ModelConfig) -> Option<Map<String, Value>> {
    if config.qk_norm || config.mlp_bias || config.diffusion.is_some() {
        return None;
    }
    let first = &config.mixers.first()?.kind;
    let options = &config.mixers[0].options;
    let get = |key: &str| options.get(key).cloned().unwrap_or(Value::Null);
    let recurrent = config.mixers.iter().take_while(|spec| **spec == config.mixers[0]).count();
    let kept = config.mixers.len() - recurrent;
    // Kept layers are Qwen2's attention, whatever the config says of biases; they rotate if the
    // others do, and have no window.
    let qwen2 = kept == 0 || (config.qkv_bias && !config.output_bias);
    let plain_tail = qwen2
        && config.mixers[recurrent..].iter().all(|s| {
            let no_rope = s.options.get("no_rope") == Some(&Value::Bool(true));
            s.kind == "softmax" && s.options.get("window").is_none_or(Value::is_null) && Value::Bool(!no_rope) == get("rope")
        });
    // The classes refuse a hidden size that does not divide into the heads. Of heads that are wider, or narrower,
    // RAD-RWKV6's low-rank gate and RAD-RWKV7's vectors and output norm would have another size there.
    let (divides, square) = (config.hidden.is_multiple_of(config.heads), config.heads * config.head_size == config.hidden);
    let gate = get("gate");
    // RAD-RWKV7's always multiplies by a gate, and always has the value residual.
    let full = gate != json!(0) && get("value_residual") != json!(false);
    let (model_type, class, ranks): (_, _, &[(&str, &str)]) = match first.as_str() {
        "rwkv6" if kept == 0 && divides && (square || gate != json!(2)) => ("rwkv6qwen2", "RWKV6Qwen2ForCausalLM", &RWKV6_RANKS),
        "rwkv7" if plain_tail && square && full => ("rwkv7qwen2", "RWKV7Qwen2ForCausalLM", &RWKV7_RANKS),
        _ => return None,
    };
    let mut raw = config.raw.clone();
    for stale in ["mixers", "diffusion", "base_model_type", "layer_types", "auto_map", "pretraining_tp"] {
        raw.shift_remove(stale);
    }
    raw.insert("model_type".into(), model_type.into());
    raw.insert("architectures".into(), json!([class]));
    // What Qwen2's class would assume otherwise is not what other families do.
    raw.insert("head_dim".into(), config.head_size.into());
    raw.insert("num_key_value_heads".into(), config.kv_heads.into());
    raw.insert("max_position_embeddings".into(), config.max_positions.into());
    raw.insert("rms_norm_eps".into(), config.norm_epsilon.into());
    raw.insert("tie_word_embeddings".into(), config.tied.into());
    raw.insert("attention_bias".into(), config.qkv_bias.into());
    raw.insert("attention_output_bias".into(), config.output_bias.into());
    // The class reads rotations where transformers 4 wrote them.
    if let Some(Value::Object(mut block)) = raw.shift_remove("rope_parameters") {
        block.shift_remove("rope_theta");
        let plain = block.get("rope_type").or(block.get("type")).is_none_or(|kind| kind == "default");
        raw.insert("rope_scaling".into(), if plain { Value::Null } else { block.into() });
    }
    raw.insert("rope_theta".into(), config.rope.theta.into());
    raw.insert("balance_state".into(), get("balance_state"));
    raw.insert("groupnorm_att".into(), get("group_norm"));
    raw.insert("use_rope".into(), get("rope"));
    raw.insert("gate_rank_type".into(), gate);
    raw.insert("use_tokenshift".into(), if first == "rwkv6" { get("token_shift") } else { false.into() });
    raw.insert("use_sliding_window".into(), false.into());
    if first == "rwkv7" {
        raw.insert("num_attention_layers".into(), kept.into());
    }
    for (key, option) in ranks {
        raw.insert((*key).into(), get(option));
    }
    Some(raw)
}
