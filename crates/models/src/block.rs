//! A block: normed mixer and normed feed-forward, each added to the residual stream.

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::mixers::{LayerContext, Mixer};
use crate::param::{Named, Param};
use crate::source::{Builder, Init};
use crate::weight::Weight;
use burn::tensor::Tensor;
use recast_ops::linear::Layout;
use recast_ops::rms_norm::rms_norm;
use recast_ops::swiglu::swiglu;

/// Standard deviation of projections in a model that starts from nothing.
const INITIAL_DEVIATION: f32 = 0.02;

/// A projection with the weight `[out, in]`, as checkpoints store it.
pub struct Linear {
    weight: Weight,
    bias: Option<Param<1>>,
}

impl Linear {
    /// Reads `weight` and, if wanted, `bias`.
    ///
    /// # Errors
    /// When one is missing or misshapen.
    pub fn build(builder: &Builder<'_>, input: usize, output: usize, bias: bool) -> Result<Self, ModelError> {
        Self::build_with(builder, input, output, bias, Init::Normal(INITIAL_DEVIATION))
    }

    /// [`Linear::build`] with a choice of initial weights.
    ///
    /// # Errors
    /// When one is missing or misshapen.
    pub fn build_with(builder: &Builder<'_>, input: usize, output: usize, bias: bool, init: Init) -> Result<Self, ModelError> {
        Ok(Self {
            weight: builder.weight("weight", [output, input], Layout::OutIn, init)?,
            bias: if bias { Some(builder.param("bias", [output], Init::Constant(0.0))?) } else { None },
        })
    }

    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.weight.apply(x, self.bias.as_ref().map(Param::value))
    }

    /// Whether its weight is quantised.
    pub fn is_quantised(&self) -> bool {
        self.weight.is_quantised()
    }

    /// Names below `name.` and handles; a quantised weight is none.
    pub fn parameters(&self, name: &str) -> Vec<Named> {
        let mut out = Vec::new();
        out.extend(self.weight.named(&format!("{name}.weight")));
        if let Some(bias) = &self.bias {
            out.push((format!("{name}.bias"), bias.handle()));
        }
        out
    }
}

/// `down(silu(gate(x)) * up(x))`.
pub struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    fn build(config: &ModelConfig, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let (c, f, bias) = (config.hidden, config.intermediate, config.mlp_bias);
        Ok(Self {
            gate: Linear::build(&builder.child("gate_proj"), c, f, bias)?,
            up: Linear::build(&builder.child("up_proj"), c, f, bias)?,
            down: Linear::build(&builder.child("down_proj"), f, c, bias)?,
        })
    }

    /// `[.., C]` to `[.., C]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.down.forward(swiglu(self.gate.forward(x.clone()), self.up.forward(x)))
    }

    fn parameters(&self) -> Vec<Named> {
        let mut out = self.gate.parameters("mlp.gate_proj");
        out.extend(self.up.parameters("mlp.up_proj"));
        out.extend(self.down.parameters("mlp.down_proj"));
        out
    }
}

/// One layer of the stack.
pub struct Block {
    input_norm: Param<1>,
    mixer: Box<dyn Mixer>,
    post_norm: Param<1>,
    feed_forward: FeedForward,
    epsilon: f64,
}

impl Block {
    /// Builds layer `layer.index`.
    ///
    /// # Errors
    /// When a parameter is missing or misshapen, or the mixer is unknown.
    pub fn build(config: &ModelConfig, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let norm = |name| builder.child(name).param("weight", [config.hidden], Init::Constant(1.0));
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            mixer: config.mixers[layer.index].build(layer, &builder.child("self_attn"))?,
            post_norm: norm("post_attention_layernorm")?,
            feed_forward: FeedForward::build(config, &builder.child("mlp"))?,
            epsilon: config.norm_epsilon,
        })
    }

    /// The mixer.
    pub fn mixer(&self) -> &dyn Mixer {
        self.mixer.as_ref()
    }

    /// What the mixer sees of the residual stream `x` `[B, T, C]`.
    pub fn mixer_input(&self, x: Tensor<3>) -> Tensor<3> {
        rms_norm(x, self.input_norm.value(), self.epsilon)
    }

    /// The residual stream after the block, from the stream `x` that entered it and the mixer's
    /// output `y`.
    pub fn after_mixer(&self, x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        self.fed(x + y)
    }

    /// The residual stream `[.., C]` after the feed-forward, position by position.
    pub fn fed<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let normed = rms_norm(x.clone(), self.post_norm.value(), self.epsilon);
        x + self.feed_forward.forward(normed)
    }

    /// Names within the layer and handles.
    pub fn parameters(&self) -> Vec<Named> {
        let mut out = vec![("input_layernorm.weight".to_string(), self.input_norm.handle())];
        out.extend(self.mixer.parameters().into_iter().map(|(name, p)| (format!("self_attn.{name}"), p)));
        out.push(("post_attention_layernorm.weight".into(), self.post_norm.handle()));
        out.extend(self.feed_forward.parameters());
        out
    }
}
