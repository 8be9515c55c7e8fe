//! Small models with random parameters, none of which is neutral.

use burn::tensor::Device;
use recast_models::families;
use recast_models::mixers::{LayerContext, Mixer};
use recast_models::param::Named;
use recast_models::random::Random;
use recast_models::rope::Rope;
use recast_models::source::{Builder, FromParams, Missing};
use recast_models::{Diffusion, MixerSpec, Model, ModelConfig};
use serde_json::{Value, json};
use std::sync::Arc;

/// What surrounds the mixers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Llama: grouped queries, no biases.
    Plain,
    /// Qwen2: biases on q, k, v, one key-value head, tied embeddings.
    Biases,
    /// Qwen3: norms on q and k, heads wider than the residual stream.
    Norms,
    /// Llama with `attention_bias`: a bias on the output too, as many key-value heads as heads.
    OutputBias,
}

impl Body {
    /// All of them.
    pub const ALL: [Body; 4] = [Body::Plain, Body::Biases, Body::Norms, Body::OutputBias];

    /// The config.json of a model of `layers` layers.
    pub fn config(self, layers: usize) -> Value {
        let (family, kv_heads, head_size) = match self {
            Body::Plain => ("llama", 2, 6),
            Body::Biases => ("qwen2", 1, 6),
            Body::Norms => ("qwen3", 2, 8),
            Body::OutputBias => ("llama", 4, 6),
        };
        json!({
            "model_type": family,
            "vocab_size": 29,
            "hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": kv_heads,
            "head_dim": head_size,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100.0,
            "max_position_embeddings": 256,
            "attention_bias": self == Body::OutputBias,
            "tie_word_embeddings": self == Body::Biases,
        })
    }
}

/// A model to hold to the promises.
pub struct Subject {
    /// What failures call it.
    pub name: String,
    /// The model.
    pub model: Model,
    body: Body,
}

impl Subject {
    /// A model with a layer of each of these mixers.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn new(name: &str, mixers: &[MixerSpec], body: Body) -> Self {
        let name = format!("{name}, {body:?}");
        let mut config = families::parse(&body.config(mixers.len())).expect("the body's config");
        config.family = "recast".into();
        config.mixers = mixers.to_vec();
        let model = Model::build(config, &FromParams::default(), Missing::Initialise { seed: 5 }, &Device::flex())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        randomise(&model.parameters(), &name);
        Self { name, model, body }
    }

    /// The same mixers in a model that denoises: blocks of so many tokens, or the whole sequence.
    pub fn denoising(&self, block: Option<usize>) -> Self {
        let mut subject = self.again(&self.model.config.mixers);
        let mask_token = self.model.config.vocabulary as u32 - 1;
        subject.model.config.diffusion = Some(Diffusion { mask_token, block, shift: false, uniform: false });
        subject
    }

    /// A model of one of its layers.
    pub fn alone(&self, layer: usize) -> Self {
        self.again(&self.model.config.mixers[layer..=layer])
    }

    fn again(&self, mixers: &[MixerSpec]) -> Self {
        let name = self.name.clone();
        Self { name, ..Self::new(&self.name, mixers, self.body) }
    }

    /// Whether a layer's attention has a window, so that far tokens do not matter.
    pub fn has_window(&self) -> bool {
        self.model.config.mixers.iter().any(|m| m.options.get("window").is_some_and(|w| !w.is_null()))
    }

    /// Tokens of `rows` rows of `length`.
    pub fn tokens(&self, rows: usize, length: usize) -> Vec<u32> {
        let mut random = Random::new(11, &self.name);
        (0..rows * length).map(|_| (random.bits() % self.model.config.vocabulary as u64) as u32).collect()
    }

    /// The mixer of a layer by itself, with random parameters, and its place.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn mixer(&self, layer: usize) -> (Box<dyn Mixer>, LayerContext) {
        let config: &ModelConfig = &self.model.config;
        let context = LayerContext::new(config, layer, Arc::new(Rope::new(config.rope.clone())));
        let source = FromParams::default();
        let builder = Builder::new(&source, Missing::Initialise { seed: 5 }, Device::flex());
        let mixer = config.mixers[layer].build(&context, &builder).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        randomise(&mixer.parameters(), &self.name);
        (mixer, context)
    }
}

/// Moves every parameter off its initial value: matrices by rows of length about one, the rest
/// (norms, biases, decays) by 0.3.
pub fn randomise(params: &[Named], seed: &str) {
    for (name, param) in params {
        let mut random = Random::new(7, &format!("{seed}.{name}"));
        let sides: Vec<usize> = param.stored_shape().iter().copied().filter(|&n| n > 1).collect();
        let scale = match sides.as_slice() {
            // Embeddings are rows that go in as they are.
            _ if name.ends_with("embed_tokens.weight") => 1.0,
            [] | [_] => 0.3,
            // One of the last two is the input, whichever way round the matrix is stored.
            [.., a, b] => (2.0 / (a + b) as f64).sqrt(),
        };
        param.update(&mut |values| values.iter_mut().for_each(|x| *x += (scale * random.normal()) as f32));
    }
}
