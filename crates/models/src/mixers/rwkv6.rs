//! RAD-RWKV6 ("RADFinch"): vector-decay linear attention (RADLADS, arXiv 2505.03005, section 4).

use super::{Boundaries, Call, Kind, LayerContext, Mixer, Projections, Streams, by_boundaries, readout};
use crate::block::Linear;
use crate::error::ModelError;
use crate::param::{Named, Param};
use crate::sight::Sight;
use crate::source::{Builder, Init};
use crate::state::{Documents, join, split};
use crate::weight::Weight;
use burn::tensor::Tensor;
use recast_ops::activation::{sigmoid, tanh};
use recast_ops::delta_rule::Form;
use recast_ops::group_norm::group_norm;
use recast_ops::linear::{Layout, linear_in_out};
use recast_ops::rwkv6::{Inputs, Settings, rwkv6, rwkv6_outputs, rwkv6_states, rwkv6_step};
use recast_ops::token_shift::token_shift;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of [`Rwkv6`]; the defaults are the published `qwerky6.yaml`.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Scale keys by 1 - w, so that the state stays bounded.
    pub balance_state: bool,
    /// Normalise each head's output.
    pub group_norm: bool,
    /// Mix each token with the one before it.
    pub token_shift: bool,
    /// Rotary embedding on q and k.
    pub rope: bool,
    /// 0 none, 1 dense, 2 low rank.
    pub gate: u8,
    /// Rank of the token shift.
    pub rank_token_shift: Option<usize>,
    /// Rank of the decay.
    pub rank_decay: Option<usize>,
    /// Rank of the gate (type 2).
    pub rank_gate: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            balance_state: true,
            group_norm: false,
            token_shift: true,
            rope: false,
            gate: 1,
            rank_token_shift: None,
            rank_decay: None,
            rank_gate: None,
        }
    }
}

/// RAD-RWKV6.
pub struct Rwkv6 {
    projections: Projections,
    shift: Option<Shift>,
    time_decay: Param<1>,
    time_decay_w1: Weight,
    time_decay_w2: Weight,
    gate: Gate,
    ln_x: Option<(Param<1>, Param<1>)>,
    options: Options,
    layer: LayerContext,
}

/// The data-dependent token shift.
struct Shift {
    maa_x: Param<1>,
    /// r, k, v, w, g.
    maa: [Param<1>; 5],
    w1: Weight,
    w2: Param<3>,
}

/// The output gate, shared with RAD-RWKV7.
pub(super) enum Gate {
    None,
    Dense(Linear),
    LowRank(Weight, Weight),
}

impl Gate {
    pub(super) fn build(kind: u8, rank: Option<usize>, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let (c, width) = (layer.hidden, layer.width());
        Ok(match kind {
            0 => Gate::None,
            1 => Gate::Dense(Linear::build_with(&builder.child("gate"), c, width, false, Init::Constant(0.0))?),
            2 => {
                let rank = rank.unwrap_or(1);
                Gate::LowRank(
                    builder.weight("g1", [rank, c], Layout::InOut, Init::Constant(0.0))?,
                    builder.weight("g2", [width, rank], Layout::InOut, Init::Orthogonal(0.1))?,
                )
            }
            other => {
                return Err(ModelError::Config(format!("gate type {other}: expected 0 (none), 1 (dense) or 2 (low rank)")));
            }
        })
    }

    pub(super) fn parameters(&self) -> Vec<Named> {
        match self {
            Gate::None => Vec::new(),
            Gate::Dense(linear) => linear.parameters("gate"),
            Gate::LowRank(g1, g2) => g1.named("g1").into_iter().chain(g2.named("g2")).collect(),
        }
    }

    /// The gate `[B, T, HN]` of `x` `[B, T, C]`. Note that the sigmoid of the low-rank gate stands
    /// in the middle.
    pub(super) fn forward(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        match self {
            Gate::None => None,
            Gate::Dense(linear) => Some(sigmoid(linear.forward(x))),
            Gate::LowRank(g1, g2) => Some(g2.apply(sigmoid(g1.apply(x, None)), None)),
        }
    }
}

impl Kind for Rwkv6 {
    const NAME: &'static str = "rwkv6";
    const ABOUT: &'static str = "RAD-RWKV6: decayed linear attention, state balancing, token shift (RADLADS)";
    const CONSTANT_STATE: bool = true;
    type Options = Options;

    fn resolve(options: &mut Options, layer: &LayerContext) {
        // RADLADS trains the rank rule; the released class defaults differ, hence stored ranks.
        options.rank_token_shift.get_or_insert(layer.rank(0.5, 1.8));
        options.rank_decay.get_or_insert(layer.rank(0.5, 1.8));
        options.rank_gate.get_or_insert(layer.rank(0.8, 0.6));
    }

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let mut options = options.clone();
        Self::resolve(&mut options, layer);
        let (c, width) = (layer.hidden, layer.width());
        let (z, zd) = (options.rank_token_shift.unwrap_or(1), options.rank_decay.unwrap_or(1));
        let channel = |name: &str, size: usize, init| builder.param_stored(name, [size], &[1, 1, size], init);
        let shift = if options.token_shift {
            let maa = |name: &str| channel(name, c, Init::Constant(0.0));
            Some(Shift {
                maa_x: channel("time_maa_x", c, Init::Constant(1.0))?,
                maa: [maa("time_maa_r")?, maa("time_maa_k")?, maa("time_maa_v")?, maa("time_maa_w")?, maa("time_maa_g")?],
                w1: builder.weight("time_maa_w1", [5 * z, c], Layout::InOut, Init::Constant(0.0))?,
                w2: builder.param("time_maa_w2", [5, z, c], Init::Uniform(0.01))?,
            })
        } else {
            None
        };
        let exponent = 0.7 + 1.3 * layer.depth();
        let decay = (0..width).map(|n| (-6.0 + 5.0 * (n as f64 / (width - 1).max(1) as f64).powf(exponent)) as f32).collect();
        Ok(Self {
            projections: Projections::build(layer, builder)?,
            shift,
            time_decay: channel("time_decay", width, Init::Values(decay))?,
            time_decay_w1: builder.weight("time_decay_w1", [zd, c], Layout::InOut, Init::Constant(0.0))?,
            time_decay_w2: builder.weight("time_decay_w2", [width, zd], Layout::InOut, Init::Uniform(0.01))?,
            gate: Gate::build(options.gate, options.rank_gate, layer, builder)?,
            ln_x: output_norm(options.group_norm, layer, builder)?,
            options,
            layer: layer.clone(),
        })
    }
}

/// `ln_x`, when the variant has it.
pub(super) fn output_norm(
    wanted: bool,
    layer: &LayerContext,
    builder: &Builder<'_>,
) -> Result<Option<(Param<1>, Param<1>)>, ModelError> {
    if !wanted {
        return Ok(None);
    }
    let builder = builder.child("ln_x");
    Ok(Some((
        builder.param("weight", [layer.width()], Init::Constant(1.0))?,
        builder.param("bias", [layer.width()], Init::Constant(0.0))?,
    )))
}

/// Epsilon of the output norm: 1e-5 * N.
pub(super) fn output_norm_epsilon(layer: &LayerContext) -> f64 {
    1e-5 * layer.head_size as f64
}

impl Rwkv6 {
    /// The layer; with the states at boundaries, where they are asked for.
    fn mix(&self, call: Call<'_>, boundaries: Option<&mut Boundaries>) -> Tensor<3> {
        let p = &self.projections;
        let [batch, tokens, c] = call.x.dims();
        let (h, n) = (self.layer.heads, self.layer.head_size);
        let documents = call.documents.filter(|d| d.any());

        let previous = call.states.as_ref().and_then(|s| join(s, 1)).map(|s| s.reshape([batch, c]));
        let [x_r, x_k, x_v, x_w, x_g] = match &self.shift {
            None => std::array::from_fn(|_| call.x.clone()),
            Some(shift) => shift.forward(call.x.clone(), previous, documents.map(Documents::starts)),
        };
        let mut q = p.queries(x_r);
        let mut k = p.keys(x_k);
        if self.options.rope {
            q = p.rotate(q, call.positions, documents);
            k = p.rotate(k, call.positions, documents);
        }
        let read_end = call.sight == Sight::Whole && tokens > 1;
        // The output norm stands between the recurrence and the gate, and so does reading the end.
        let gate = self.gate.forward(x_g);
        let (inner_gate, outer_gate) = if self.ln_x.is_some() || read_end { (None, gate) } else { (gate, None) };
        let queries = q.clone();
        let inputs = Inputs {
            q,
            decay: self.time_decay_w2.apply(tanh(self.time_decay_w1.apply(x_w, None)), None),
            bias: self.time_decay.value(),
            k,
            v: p.values(x_v),
            gate: inner_gate,
            balanced: self.options.balance_state,
        };
        let settings = Settings { scale: (n as f32).powf(-0.5), starts: documents.map(Documents::starts), form: Form::Auto };
        let mut y = match (call.states, boundaries) {
            (None, Some(boundaries)) => {
                let (y, states) = rwkv6_states(inputs, settings, boundaries.every);
                boundaries.parts = vec![states];
                if self.shift.is_some() {
                    boundaries.parts.push(boundaries.last_tokens(&call.x));
                }
                y
            }
            (None, _) if read_end => {
                let scale = settings.scale;
                readout(queries, rwkv6(inputs, None, settings).1, scale)
            }
            (None, _) => rwkv6_outputs(inputs, settings),
            // A state that nobody else holds is changed in place.
            (Some(mut states), _) if tokens == 1 && states.len() == batch => {
                let own = states.iter_mut().map(|s| std::mem::take(&mut s.parts).into_iter().next()).collect();
                let (y, last) = rwkv6_step(inputs, own, settings.scale);
                for (row, (state, part)) in states.into_iter().zip(last).enumerate() {
                    state.parts = vec![part];
                    if self.shift.is_some() {
                        state.parts.push(call.x.clone().narrow(0, row, 1).reshape([1, 1, 1, c]));
                    }
                    state.length += 1;
                }
                y
            }
            (Some(states), _) => {
                let scale = settings.scale;
                let (y, last) = rwkv6(inputs, join(&states, 0), settings);
                let y = if read_end { readout(queries, last.clone(), scale) } else { y };
                let mut parts = vec![last];
                if self.shift.is_some() {
                    parts.push(call.x.narrow(1, tokens - 1, 1).reshape([batch, 1, 1, c]));
                }
                split(states, parts, tokens);
                y
            }
        };
        if let Some((weight, bias)) = &self.ln_x {
            y = group_norm(y, weight.value(), bias.value(), output_norm_epsilon(&self.layer));
        }
        if let Some(gate) = outer_gate {
            y = y * gate.reshape([batch, tokens, h, n]);
        }
        p.output(y)
    }
}

impl Mixer for Rwkv6 {
    fn parameters(&self) -> Vec<Named> {
        let mut out = self.projections.parameters();
        if let Some(shift) = &self.shift {
            out.push(("time_maa_x".into(), shift.maa_x.handle()));
            for (name, param) in ["r", "k", "v", "w", "g"].iter().zip(&shift.maa) {
                out.push((format!("time_maa_{name}"), param.handle()));
            }
            out.extend(shift.w1.named("time_maa_w1"));
            out.push(("time_maa_w2".into(), shift.w2.handle()));
        }
        out.push(("time_decay".into(), self.time_decay.handle()));
        out.extend(self.time_decay_w1.named("time_decay_w1"));
        out.extend(self.time_decay_w2.named("time_decay_w2"));
        out.extend(self.gate.parameters());
        if let Some((weight, bias)) = &self.ln_x {
            out.push(("ln_x.weight".into(), weight.handle()));
            out.push(("ln_x.bias".into(), bias.handle()));
        }
        out
    }

    fn forward(&self, call: Call<'_>) -> Tensor<3> {
        self.mix(call, None)
    }

    fn two_streams(&self, streams: Streams<'_>) -> [Tensor<3>; 2] {
        by_boundaries(|call, boundaries| self.mix(call, boundaries), streams)
    }

    fn state_bytes(&self, _: usize) -> usize {
        let shift = if self.shift.is_some() { self.layer.hidden } else { 0 };
        (self.layer.width() * self.layer.head_size + shift) * size_of::<f32>()
    }
}

impl Shift {
    /// The five mixed inputs r, k, v, w, g, from the tokens and those before them.
    fn forward(&self, x: Tensor<3>, previous: Option<Tensor<2>>, starts: Option<Arc<[bool]>>) -> [Tensor<3>; 5] {
        let c = x.dims()[2];
        let w2 = self.w2.value();
        let z = w2.dims()[1];
        let mixed = token_shift(x.clone(), previous.clone(), self.maa_x.value(), None, starts.clone());
        let m = tanh(self.w1.apply(mixed, None));
        std::array::from_fn(|i| {
            let amount = linear_in_out(m.clone().narrow(2, i * z, z), w2.clone().narrow(0, i, 1).reshape([z, c]));
            token_shift(x.clone(), previous.clone(), self.maa[i].value(), Some(amount), starts.clone())
        })
    }
}
