//! The shape of a model, whatever file it came from.

use crate::error::ModelError;
use crate::rope::RopeConfig;
use crate::sight::Sight;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Columns of a mixer that no model comes near.
const MOST_WIDTH: usize = 1 << 20;

/// Everything the code needs to know of a model; `raw` keeps the rest of config.json for export.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `model_type` of the family that read it.
    pub family: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream (C).
    pub hidden: usize,
    /// Width inside the feed-forward.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head (N).
    pub head_size: usize,
    /// Epsilon of every RMSNorm.
    pub norm_epsilon: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the output projection of the mixer.
    pub output_bias: bool,
    /// Biases in the feed-forward.
    pub mlp_bias: bool,
    /// RMSNorm on each head of q and k.
    pub qk_norm: bool,
    /// Longest sequence that was trained.
    pub max_positions: usize,
    /// The mixer of each layer.
    pub mixers: Vec<MixerSpec>,
    /// How it denoises; none is a next-token model.
    pub diffusion: Option<Diffusion>,
    /// config.json as read.
    pub raw: Map<String, Value>,
}

/// What makes a model a masked diffusion model.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// Stands where a token is not known yet.
    pub mask_token: u32,
    /// Positions that are denoised together; none: the whole sequence, which sees itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// Whether logits at position i speak of token i + 1, as those of a next-token model do. The
    /// first token of a block is then predicted by the last clean token before it.
    #[serde(default)]
    pub shift: bool,
    /// Whether noisy positions hold random tokens instead of the mask (uniform noise: discrete flow matching).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uniform: bool,
}

impl Diffusion {
    /// What clean tokens see of each other.
    pub fn clean_sight(&self) -> Sight {
        self.block.map_or(Sight::Whole, Sight::Blocks)
    }

    /// Checks it against the size of the vocabulary.
    ///
    /// # Errors
    /// When the mask token is outside, or blocks are empty.
    pub fn check(&self, vocabulary: usize) -> Result<(), ModelError> {
        if self.mask_token as usize >= vocabulary {
            return Err(ModelError::Config(format!(
                "the mask token is {}, outside the vocabulary of {vocabulary}; name an id that no text uses, or add a row",
                self.mask_token
            )));
        }
        if self.block == Some(0) {
            return Err(ModelError::Config(
                "diffusion blocks of 0 tokens; expected at least 1, or no `block` for the whole sequence".into(),
            ));
        }
        Ok(())
    }
}

/// A mixer's registered name and its options.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, schemars::JsonSchema)]
pub struct MixerSpec {
    /// Registered name.
    pub kind: String,
    /// The mixer's own options; absent ones take their defaults.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl MixerSpec {
    /// A mixer with default options.
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.into(), options: Map::new() }
    }

    /// Sets an option.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }
}

/// Typed access to config.json with errors that name the key.
pub struct Keys<'a>(pub &'a Map<String, Value>);

impl Keys<'_> {
    /// A whole number that must be there and at least one.
    ///
    /// # Errors
    /// When it is absent, not a number, zero or absurd.
    pub fn size(&self, key: &str) -> Result<usize, ModelError> {
        match self.optional_size(key)? {
            Some(n) => Ok(n),
            None => Err(ModelError::Config(format!("`{key}` is missing"))),
        }
    }

    /// The number of layers.
    ///
    /// # Errors
    /// As [`Keys::size`], and when there are more than any model has: each costs memory before a tensor is read.
    pub fn layers(&self, key: &str) -> Result<usize, ModelError> {
        const MOST: usize = 4096;
        match self.size(key)? {
            n if n <= MOST => Ok(n),
            n => Err(ModelError::Config(format!("`{key}` is {n}, expected at most {MOST}"))),
        }
    }

    /// A whole number that may be absent or null.
    ///
    /// # Errors
    /// When it is there and not a positive number below 2^31.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(n) if (1..1 << 31).contains(&n) => Ok(Some(n as usize)),
                _ => Err(ModelError::Config(format!("`{key}` is {value}, expected a positive whole number"))),
            },
        }
    }

    /// A number, or `default` when absent or null.
    ///
    /// # Errors
    /// When it is not a finite number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| ModelError::Config(format!("`{key}` is {value}, expected a number"))),
        }
    }

    /// A truth value, or `default` when absent or null.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            // Some RADLADS configs write 0 and 1.
            Some(Value::Number(n)) if n.as_u64().is_some_and(|n| n < 2) => Ok(n.as_u64() == Some(1)),
            Some(value) => Err(ModelError::Config(format!("`{key}` is {value}, expected true or false"))),
        }
    }

    /// A string, if there.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }
}

impl ModelConfig {
    /// What tokens that are known see of each other.
    pub fn clean_sight(&self) -> Sight {
        self.diffusion.as_ref().map_or(Sight::Causal, Diffusion::clean_sight)
    }

    /// Columns of the mixer's inside (H * N), which need not be `hidden`.
    pub fn mixer_width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Config(message));
        // Some initial values are as wide as the mixer and made before a tensor is looked at: a file must not decide
        // how much memory that takes.
        if self.heads.checked_mul(self.head_size).is_none_or(|width| width > MOST_WIDTH) {
            return fail(format!(
                "{} heads of {} channels are wider than {MOST_WIDTH}, more than any model has; look at num_attention_heads \
                 and head_dim",
                self.heads, self.head_size
            ));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return fail(format!("{} heads cannot share {} key-value heads evenly", self.heads, self.kv_heads));
        }
        if !self.head_size.is_multiple_of(2) {
            return fail(format!("head size {} is odd; rotary embedding needs pairs", self.head_size));
        }
        // Added in f32 to a mean of squares, which may be zero.
        let epsilon = self.norm_epsilon as f32;
        if !epsilon.is_finite() || epsilon <= 0.0 {
            return fail(format!("`rms_norm_eps` is {}, expected above 0 and in the range of f32", self.norm_epsilon));
        }
        if let Some(diffusion) = &self.diffusion {
            diffusion.check(self.vocabulary)?;
        }
        if self.mixers.len() != self.layers {
            return fail(format!("{} mixers for {} layers", self.mixers.len(), self.layers));
        }
        Ok(())
    }
}

/// The nearest known name, if any is near enough to be a slip.
pub fn nearest(name: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(name, k), k))
        .filter(|(score, _)| *score > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::source::{FromParams, Missing};
    use burn::tensor::Device;
    use serde_json::json;

    #[test]
    fn an_epsilon_that_makes_no_number_is_refused() {
        for (epsilon, good) in [(1e-5, true), (0.0, false), (-1.0, false), (1e-60, false)] {
            let config = json!({
                "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "rms_norm_eps": epsilon,
            });
            let found = crate::families::parse(&config).and_then(|config| config.check());
            assert_eq!(found.is_ok(), good, "{epsilon}");
            assert!(found.err().is_none_or(|error| error.to_string().contains("`rms_norm_eps`")), "{epsilon}");
        }
    }

    #[test]
    fn a_file_does_not_decide_how_much_memory_initial_values_take() {
        let most = (1u64 << 31) - 2;
        for kind in ["rwkv6", "rwkv7", "gated_deltanet"] {
            for (heads, head_size) in [(most, most), (most, 2), (2, most)] {
                let config = json!({
                    "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                    "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": head_size,
                });
                let mut config = crate::families::parse(&config).expect("parses");
                config.mixers = vec![MixerSpec::new(kind)];
                let built = Model::build(config, &FromParams::default(), Missing::Refuse, &Device::flex());
                let message = built.err().expect("refused").to_string();
                assert!(message.contains("num_attention_heads"), "{kind}, {heads} x {head_size}: {message}");
            }
        }
    }
}
