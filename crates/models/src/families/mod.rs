//! Families: kinds of checkpoints. One file a family: config.json in and out.
//!
//! Nearly all families share Hugging Face's tensor names, so a family is how its config is read (and,
//! for the released RADLADS classes, written); LLaDA's checkpoints are shown under those names too. To add one: a file with a
//! `parse` function and the keys that it reads, and an entry in [`FAMILIES`]; `tests/golden.rs` holds its logits to the Python
//! original's, `keys.rs` those keys to the original's config.

mod body;
mod dream;
mod keys;
pub mod llada;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
pub mod radlads;
pub mod recast;

pub use keys::unread;

use crate::config::{Keys, ModelConfig};
use crate::error::ModelError;
use crate::weights::Checkpoint;
use serde_json::{Map, Value};

/// A kind of checkpoint.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// One line for lists.
    pub about: &'static str,
    /// Keys of its config that are read, in lists that families share.
    keys: &'static [&'static [&'static str]],
    parse: fn(&Map<String, Value>) -> Result<ModelConfig, ModelError>,
}

/// Every family.
pub static FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        about: "Llama 2 and 3, SmolLM2, TinyLlama",
        keys: &[body::KEYS, llama::KEYS],
        parse: llama::parse,
    },
    Family {
        model_type: "mistral",
        about: "Mistral 7B and kin: sliding window",
        keys: &[body::KEYS, mistral::KEYS],
        parse: mistral::parse,
    },
    Family {
        model_type: "qwen2",
        about: "Qwen2 and Qwen2.5: biases on q, k, v",
        keys: &[body::KEYS, qwen2::KEYS],
        parse: qwen2::parse,
    },
    Family {
        model_type: "qwen3",
        about: "Qwen3: norms on q and k",
        keys: &[body::KEYS, qwen2::KEYS, qwen3::KEYS],
        parse: qwen3::parse,
    },
    Family {
        model_type: "rwkv6qwen2",
        about: "released RADLADS students, RAD-RWKV6",
        keys: &[body::KEYS, qwen2::KEYS, radlads::KEYS, radlads::RWKV6_KEYS],
        parse: radlads::parse_rwkv6,
    },
    Family {
        model_type: "rwkv7qwen2",
        about: "released RADLADS students, RAD-RWKV7",
        keys: &[body::KEYS, qwen2::KEYS, radlads::KEYS, radlads::RWKV7_KEYS],
        parse: radlads::parse_rwkv7,
    },
    Family {
        model_type: llada::MODEL_TYPE,
        about: "LLaDA 8B and successors: masked diffusion",
        keys: &[llada::KEYS, llada::SWITCHES],
        parse: llada::parse,
    },
    Family {
        model_type: "Dream",
        about: "Dream 7B: masked diffusion on Qwen2.5's body, shifted",
        keys: &[body::KEYS, qwen2::KEYS, dream::KEYS],
        parse: dream::parse,
    },
    Family {
        model_type: "recast",
        about: "Recast's own: a `mixers` list on any of the above",
        keys: &[recast::KEYS],
        parse: recast::parse,
    },
];

/// Reads the config of an opened checkpoint, whose tensors answer what a released RADLADS config
/// may leave open.
///
/// # Errors
/// As [`parse`], or when there is no config.json, the weights have more layers than it says, or it ends texts with a
/// token outside the vocabulary.
pub fn read(checkpoint: &dyn Checkpoint) -> Result<ModelConfig, ModelError> {
    let mut config = checkpoint.config()?;
    if let Some(map) = config.as_object_mut() {
        radlads::complete(map, checkpoint);
    }
    let checked = |config: ModelConfig| -> Result<ModelConfig, ModelError> {
        every_layer(&config, checkpoint)?;
        end_tokens(&config)?;
        Ok(config)
    };
    parse(&config).and_then(checked).map_err(|error| error.of(checkpoint.path()))
}

/// Refuses weights with layers that the config does not count: without them the model is another one.
fn every_layer(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> Result<(), ModelError> {
    // Layers that predict further tokens stand behind the others, and are not run.
    let more = Keys(&config.raw).optional_size("num_nextn_predict_layers").unwrap_or_default().unwrap_or(0);
    let infos = checkpoint.infos();
    let layer = |name: &str| name.strip_prefix("model.layers.")?.split_once('.')?.0.parse::<usize>().ok();
    match infos.iter().filter_map(|info| layer(&info.name)).max() {
        Some(last) if last >= config.layers + more => Err(ModelError::Config(format!(
            "the number of layers is {}, and there are weights of layer {last}, counted from 0; correct num_hidden_layers, \
             or take those weights out",
            config.layers
        ))),
        _ => Ok(()),
    }
}

/// Refuses an `eos_token_id` that is no token, nor a list of tokens.
fn end_tokens(config: &ModelConfig) -> Result<(), ModelError> {
    // Below 0 is none, as some write it.
    let is_token = |id: &Value| id.as_i64().is_some_and(|id| id < config.vocabulary as i64);
    match config.raw.get("eos_token_id") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(ids)) if ids.iter().all(is_token) => Ok(()),
        Some(id) if is_token(id) => Ok(()),
        Some(other) => Err(ModelError::Config(format!(
            "`eos_token_id` is {other}, expected an id below the vocabulary's {}, or a list of such",
            config.vocabulary
        ))),
    }
}

/// Reads a config.json.
///
/// # Errors
/// When the `model_type` is unknown, or a key is missing or unusable.
pub fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
    let Some(map) = config.as_object() else {
        return Err(ModelError::Config("config.json is not an object".into()));
    };
    let found = map.get("model_type").and_then(Value::as_str).unwrap_or("");
    match FAMILIES.iter().find(|f| f.model_type == found) {
        Some(family) => (family.parse)(map),
        None => Err(ModelError::Family {
            found: found.into(),
            known: FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", "),
        }),
    }
}
