//! Mixers: what a block does with other positions. One file a mixer.
//!
//! To add one: write a file with its options, its parameters, how they start, its forward pass
//! and its state (see `docs/adding-a-mixer.md`), implement [`Kind`], and add one line to
//! [`BUILT_IN`] (or call [`register`] from your own crate). From that line it appears in recipes,
//! `convert`, `generate` and `eval`, and `crates/conformance` holds it to the promises:
//! chunk = tokens one by one, two chunks with a carried state = one, packed documents = separate
//! ones, a batch = its rows alone, save and load = the same, state bytes constant where claimed.

pub mod gated_deltanet;
mod projections;
pub mod rwkv6;
pub mod rwkv7;
pub mod softmax;
mod streams;

pub use projections::Projections;
pub use streams::{Boundaries, Streams, by_blocks, by_boundaries};

use crate::config::{MixerSpec, ModelConfig, nearest};
use crate::error::ModelError;
use crate::param::Named;
use crate::rope::Rope;
use crate::sight::Sight;
use crate::source::Builder;
use crate::state::{Documents, LayerState};
use burn::tensor::Tensor;
use serde_json::{Map, Value};
use std::ops::Range;
use std::sync::{Arc, RwLock};

/// The mixers of this crate, one line each.
pub static BUILT_IN: &[Registration] = &[
    Registration::of::<softmax::Softmax>(),
    Registration::of::<rwkv6::Rwkv6>(),
    Registration::of::<rwkv7::Rwkv7>(),
    Registration::of::<gated_deltanet::GatedDeltaNet>(),
];

static ADDED: RwLock<Vec<Registration>> = RwLock::new(Vec::new());

/// Where in a model a mixer stands.
#[derive(Clone, Debug)]
pub struct LayerContext {
    /// Index of the layer, from 0.
    pub index: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream (C).
    pub hidden: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head (N).
    pub head_size: usize,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub output_bias: bool,
    /// RMSNorm on each head of q and k.
    pub qk_norm: bool,
    /// Its epsilon.
    pub norm_epsilon: f64,
    /// Rotary tables, shared by the layers.
    pub rope: Arc<Rope>,
}

impl LayerContext {
    /// The place of layer `index` in a model.
    pub fn new(config: &ModelConfig, index: usize, rope: Arc<Rope>) -> Self {
        Self {
            index,
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_size: config.head_size,
            qkv_bias: config.qkv_bias,
            output_bias: config.output_bias,
            qk_norm: config.qk_norm,
            norm_epsilon: config.norm_epsilon,
            rope,
        }
    }

    /// H * N.
    pub fn width(&self) -> usize {
        self.heads * self.head_size
    }

    /// l / (L - 1), zero in a model of one layer.
    pub fn depth(&self) -> f64 {
        self.index as f64 / (self.layers - 1).max(1) as f64
    }

    /// The rank rule of the RADLADS trainer: `32 * max(1, round(C^exponent * factor / 32))`, ties
    /// to even as in Python.
    pub fn rank(&self, exponent: f64, factor: f64) -> usize {
        32 * ((self.hidden as f64).powf(exponent) * factor / 32.0).round_ties_even().max(1.0) as usize
    }
}

/// Values that layers of one forward pass hand on to later layers.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// RWKV-7: the values of layer 0, `[B, T, H, N]`.
    pub first_value: Option<Tensor<4>>,
}

/// One call of a mixer on a chunk of tokens.
pub struct Call<'a> {
    /// Normed residual stream `[B, T, C]`.
    pub x: Tensor<3>,
    /// Carried states, one a row: read, and replaced by the states after the chunk. None starts from
    /// zero and keeps nothing. A row's output does not depend on the other rows.
    pub states: Option<Vec<&'a mut LayerState>>,
    /// Values between layers.
    pub shared: &'a mut Shared,
    /// Position of each row's first token; none where all are 0.
    pub positions: &'a [usize],
    /// Boundaries at which state and attention stop and positions begin again; only without
    /// carried states, and with positions 0.
    pub documents: Option<&'a Documents>,
    /// What the tokens see of each other; of a carried state they see all. A mixer that cannot look
    /// ahead answers [`Sight::Whole`] by [`readout`], and is never asked for it with documents or
    /// lengths.
    pub sight: Sight,
    /// How long each row really is, where rows are padded on the right.
    pub lengths: Option<&'a [usize]>,
}

/// Block-end readout: every position `q` `[B, T, H, K]` reads the state `[B, H, K, V]` after the
/// block's last token, `o_t = scale S^T q_t`: how a causal recurrence lets the positions of a block see
/// the whole of it.
pub fn readout(q: Tensor<4>, state: Tensor<4>, scale: f32) -> Tensor<4> {
    q.swap_dims(1, 2).matmul(state).mul_scalar(scale).swap_dims(1, 2)
}

/// The last token `[B, 1, C]` of a chunk.
pub(crate) fn last(x: Tensor<3>) -> Tensor<3> {
    let tokens = x.dims()[1];
    x.narrow(1, tokens - 1, 1)
}

/// A mixer in memory.
pub trait Mixer: Send + Sync {
    /// Its parameters under their names below `self_attn.`.
    fn parameters(&self) -> Vec<Named>;
    /// The chunk's outputs `[B, T, C]`, after the output projection.
    fn forward(&self, call: Call<'_>) -> Tensor<3>;
    /// [`Mixer::forward`] where only the last token's outputs, `[B, 1, C]`, are asked for: states advance by the
    /// whole chunk all the same.
    fn forward_last(&self, call: Call<'_>) -> Tensor<3> {
        last(self.forward(call))
    }
    /// Outputs `[B, T, C]` of a clean and a noisy stream, for training on block diffusion: what
    /// [`Mixer::forward`] gives block by block, and differentiable through what carries over.
    fn two_streams(&self, streams: Streams<'_>) -> [Tensor<3>; 2] {
        by_blocks(|call| self.forward(call), streams)
    }
    /// Bytes of state that one sequence of `tokens` tokens needs.
    fn state_bytes(&self, tokens: usize) -> usize;
    /// Takes tokens that were read, counted from those held, out of a state, as if nothing had been read
    /// at their positions; whether it can. Attention does so with its keys, a recurrence does not.
    fn leave_out(&self, _state: &mut LayerState, _tokens: Range<usize>) -> bool {
        false
    }
}

/// What a mixer says of itself; implement it beside [`Mixer`].
pub trait Kind: Mixer + Sized + 'static {
    /// Name in recipes and configs.
    const NAME: &'static str;
    /// One line for lists.
    const ABOUT: &'static str;
    /// Whether the state's size does not depend on the number of tokens.
    const CONSTANT_STATE: bool;
    /// Options, with defaults; unknown keys are refused.
    type Options: serde::Serialize + serde::de::DeserializeOwned + schemars::JsonSchema;
    /// Fills in what depends on the model (ranks), so that a checkpoint's config is complete.
    fn resolve(options: &mut Self::Options, layer: &LayerContext);
    /// Builds the mixer; absent parameters take their initial values if the builder allows.
    ///
    /// # Errors
    /// When a parameter is missing or misshapen.
    fn build(options: &Self::Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError>;
}

/// Options with everything that follows from the layer filled in.
type Resolve = fn(&Map<String, Value>, &LayerContext) -> Result<Map<String, Value>, ModelError>;
/// A mixer of these options.
type Build = fn(&Map<String, Value>, &LayerContext, &Builder<'_>) -> Result<Box<dyn Mixer>, ModelError>;

/// A mixer in the registry.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Name in recipes and configs.
    pub name: &'static str,
    /// One line for lists.
    pub about: &'static str,
    /// Whether the state's size does not depend on the number of tokens.
    pub constant_state: bool,
    resolve: Resolve,
    build: Build,
    /// JSON Schema of the options.
    pub schema: fn() -> schemars::Schema,
}

impl Registration {
    /// The registration of a kind.
    pub const fn of<K: Kind>() -> Self {
        Self {
            name: K::NAME,
            about: K::ABOUT,
            constant_state: K::CONSTANT_STATE,
            resolve: resolve::<K>,
            build: build::<K>,
            schema: || schemars::schema_for!(K::Options),
        }
    }
}

fn options<K: Kind>(map: &Map<String, Value>) -> Result<K::Options, ModelError> {
    serde_json::from_value(Value::Object(map.clone())).map_err(|e| {
        let schema = schemars::schema_for!(K::Options);
        let known: Vec<String> =
            schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let unknown = map.keys().find(|key| !known.contains(key));
        let hint = unknown.and_then(|key| nearest(key, &known)).map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
        ModelError::MixerOptions { mixer: K::NAME.into(), message: format!("{e}{hint}") }
    })
}

fn resolve<K: Kind>(map: &Map<String, Value>, layer: &LayerContext) -> Result<Map<String, Value>, ModelError> {
    let mut options = options::<K>(map)?;
    K::resolve(&mut options, layer);
    match serde_json::to_value(options) {
        Ok(Value::Object(map)) => Ok(map),
        other => Err(ModelError::MixerOptions { mixer: K::NAME.into(), message: format!("options are {other:?}, not a table") }),
    }
}

fn build<K: Kind>(map: &Map<String, Value>, layer: &LayerContext, builder: &Builder<'_>) -> Result<Box<dyn Mixer>, ModelError> {
    Ok(Box::new(K::build(&options::<K>(map)?, layer, builder)?))
}

/// Adds a mixer from outside this crate. A name already taken is replaced.
pub fn register(registration: Registration) {
    let mut added = ADDED.write().expect("the registry's lock is never poisoned");
    added.retain(|r| r.name != registration.name);
    added.push(registration);
}

/// All registered mixers.
pub fn registered() -> Vec<Registration> {
    let added = ADDED.read().expect("the registry's lock is never poisoned");
    BUILT_IN.iter().chain(added.iter()).copied().collect()
}

/// The mixer of that name.
///
/// # Errors
/// When there is none, with the nearest name.
pub fn find(name: &str) -> Result<Registration, ModelError> {
    let all = registered();
    all.iter().rev().find(|r| r.name == name).copied().ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|r| r.name.to_string()).collect();
        ModelError::Mixer {
            found: name.into(),
            hint: nearest(name, &names).map_or_else(String::new, |n| format!(" (did you mean `{n}`?)")),
            known: names.join(", "),
        }
    })
}

impl MixerSpec {
    /// The same mixer with every option written out for its layer.
    ///
    /// # Errors
    /// When the mixer or an option is unknown.
    pub fn resolved(&self, layer: &LayerContext) -> Result<Self, ModelError> {
        Ok(Self { kind: self.kind.clone(), options: (find(&self.kind)?.resolve)(&self.options, layer)? })
    }

    /// Builds it.
    ///
    /// # Errors
    /// When the mixer or an option is unknown, or a parameter is missing or misshapen.
    pub fn build(&self, layer: &LayerContext, builder: &Builder<'_>) -> Result<Box<dyn Mixer>, ModelError> {
        (find(&self.kind)?.build)(&self.options, layer, builder)
    }
}
