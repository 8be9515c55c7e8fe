//! RAD-RWKV7 ("RADGoose"): the delta rule with vector decay (RADLADS, arXiv 2505.03005, eqs. 15-32).

use super::rwkv6::{Gate, output_norm, output_norm_epsilon};
use super::{Boundaries, Call, Kind, LayerContext, Mixer, Projections, Streams, by_boundaries, readout};
use crate::error::ModelError;
use crate::param::{Named, Param};
use crate::sight::Sight;
use crate::source::{Builder, Init};
use crate::state::{Documents, join, split};
use crate::weight::Weight;
use burn::tensor::Tensor;
use recast_ops::activation::tanh;
use recast_ops::delta_rule::Form;
use recast_ops::group_norm::group_norm;
use recast_ops::linear::Layout;
use recast_ops::rwkv7::{Inputs, Keys, Residual, Settings, rwkv7, rwkv7_outputs, rwkv7_states, rwkv7_step};
use serde::{Deserialize, Serialize};

/// Options of [`Rwkv7`]; the defaults are the paper's variant.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Scale keys by 1 - w + a (paper); otherwise `k_k` and `k_a` as in stock RWKV-7.
    pub balance_state: bool,
    /// Normalise each head's output (the configuration shipped since May 2025).
    pub group_norm: bool,
    /// Rotary embedding on r and k.
    pub rope: bool,
    /// 0 none, 1 dense, 2 low rank.
    pub gate: u8,
    /// Mix the values of layer 0 into every later layer.
    pub value_residual: bool,
    /// Initial v0: 1.0 as published mixes in 73 % of layer 0's values from the start; about -4 is
    /// neutral.
    pub value_residual_start: f32,
    /// Stop the gradient of later layers into layer 0's values (a deviation from the reference).
    pub detach_first_value: bool,
    /// Rank of the decay.
    pub rank_decay: Option<usize>,
    /// Rank of the in-context learning rate.
    pub rank_iclr: Option<usize>,
    /// Rank of the value residual.
    pub rank_value_residual: Option<usize>,
    /// Rank of the gate (type 2).
    pub rank_gate: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            balance_state: true,
            group_norm: false,
            rope: true,
            gate: 2,
            value_residual: true,
            value_residual_start: 1.0,
            detach_first_value: false,
            rank_decay: None,
            rank_iclr: None,
            rank_value_residual: None,
            rank_gate: None,
        }
    }
}

/// A bias with a low-rank correction, `base + f(x m1) m2`.
struct LowRank {
    base: Param<1>,
    m1: Weight,
    m2: Weight,
}

impl LowRank {
    fn build(letter: char, c: usize, rank: usize, width: usize, base: Init, builder: &Builder<'_>) -> Result<Self, ModelError> {
        Ok(Self {
            base: builder.param_stored(&format!("{letter}0"), [width], &[1, 1, width], base)?,
            m1: builder.weight(&format!("{letter}1"), [rank, c], Layout::InOut, Init::Constant(0.0))?,
            m2: builder.weight(&format!("{letter}2"), [width, rank], Layout::InOut, Init::Orthogonal(0.1))?,
        })
    }

    fn parameters(&self, letter: char) -> Vec<Named> {
        let mut out = vec![(format!("{letter}0"), self.base.handle())];
        out.extend(self.m1.named(&format!("{letter}1")));
        out.extend(self.m2.named(&format!("{letter}2")));
        out
    }

    /// Without the base, which the operator adds.
    fn forward(&self, x: Tensor<3>, inner: impl Fn(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        self.m2.apply(inner(self.m1.apply(x, None)), None)
    }
}

/// RAD-RWKV7.
pub struct Rwkv7 {
    projections: Projections,
    decay: LowRank,
    iclr: LowRank,
    value: Option<LowRank>,
    gate: Gate,
    k_k: Param<1>,
    k_a: Param<1>,
    /// Allocated by the reference for a bonus that RADLADS does not use.
    r_k: Param<2>,
    ln_x: Option<(Param<1>, Param<1>)>,
    options: Options,
    layer: LayerContext,
}

impl Kind for Rwkv7 {
    const NAME: &'static str = "rwkv7";
    const ABOUT: &'static str = "RAD-RWKV7: delta rule with vector decay, value residual, rotary embedding (RADLADS)";
    const CONSTANT_STATE: bool = true;
    type Options = Options;

    fn resolve(options: &mut Options, layer: &LayerContext) {
        options.rank_decay.get_or_insert(layer.rank(0.5, 1.8));
        options.rank_iclr.get_or_insert(layer.rank(0.5, 1.8));
        options.rank_value_residual.get_or_insert(layer.rank(0.5, 1.3));
        options.rank_gate.get_or_insert(layer.rank(0.8, 0.6));
    }

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let mut options = options.clone();
        Self::resolve(&mut options, layer);
        let (c, width) = (layer.hidden, layer.width());
        let exponent = 0.85 + layer.depth().sqrt();
        let decay =
            (0..width).map(|n| (-7.0 + 5.0 * (n as f64 / (width - 1).max(1) as f64).powf(exponent) + 0.5) as f32).collect();
        let low_rank = |letter, rank: Option<usize>, base| LowRank::build(letter, c, rank.unwrap_or(1), width, base, builder);
        let channel = |name: &str, value| builder.param_stored(name, [width], &[1, 1, width], Init::Constant(value));
        // Layer 0 has no residual; released files may hold garbage under its names.
        let value = if options.value_residual && layer.index > 0 {
            Some(low_rank('v', options.rank_value_residual, Init::Constant(options.value_residual_start))?)
        } else {
            None
        };
        Ok(Self {
            projections: Projections::build(layer, builder)?,
            decay: low_rank('w', options.rank_decay, Init::Values(decay))?,
            iclr: low_rank('a', options.rank_iclr, Init::Constant(0.0))?,
            value,
            gate: Gate::build(options.gate, options.rank_gate, layer, builder)?,
            k_k: channel("k_k", 0.85)?,
            k_a: channel("k_a", 1.0)?,
            r_k: builder.param("r_k", [layer.heads, layer.head_size], Init::Constant(0.0))?,
            ln_x: output_norm(options.group_norm, layer, builder)?,
            options,
            layer: layer.clone(),
        })
    }
}

impl Rwkv7 {
    /// The layer; with the states at boundaries, where they are asked for.
    fn mix(&self, call: Call<'_>, boundaries: Option<&mut Boundaries>) -> Tensor<3> {
        let p = &self.projections;
        let x = call.x;
        let [batch, tokens, _] = x.dims();
        let (h, n) = (self.layer.heads, self.layer.head_size);
        let mut r = p.queries(x.clone());
        let mut k = p.keys(x.clone());
        let v = p.values(x.clone());
        let documents = call.documents.filter(|d| d.any());
        if self.options.rope {
            r = p.rotate(r, call.positions, documents);
            k = p.rotate(k, call.positions, documents);
        }
        let residual = match (&self.value, &call.shared.first_value) {
            (Some(value), Some(first)) => {
                Some(Residual { first: first.clone(), mix: value.forward(x.clone(), |x| x), bias: value.base.value() })
            }
            // The first layer that has values hands them on.
            (_, None) if self.options.value_residual => {
                call.shared.first_value = Some(if self.options.detach_first_value { v.clone().detach() } else { v.clone() });
                None
            }
            _ => None,
        };
        let read_end = call.sight == Sight::Whole && tokens > 1;
        // The output norm stands between the recurrence and the gate, and so does reading the end.
        let gate = self.gate.forward(x.clone());
        let (inner_gate, outer_gate) = if self.ln_x.is_some() || read_end { (None, gate) } else { (gate, None) };
        let queries = r.clone();
        let inputs = Inputs {
            r,
            decay: self.decay.forward(x.clone(), tanh),
            iclr: self.iclr.forward(x, |x| x),
            k,
            v,
            biases: [self.decay.base.value(), self.iclr.base.value()],
            residual,
            keys: if self.options.balance_state {
                Keys::Balanced
            } else {
                Keys::Stock { k_k: self.k_k.value(), k_a: self.k_a.value() }
            },
            gate: inner_gate,
        };
        let settings = Settings {
            scale: if self.ln_x.is_some() { 1.0 } else { (n as f32).powf(-0.5) },
            starts: documents.map(Documents::starts),
            form: Form::Auto,
        };
        let mut y = match (call.states, boundaries) {
            (None, Some(boundaries)) => {
                let (y, states) = rwkv7_states(inputs, settings, boundaries.every);
                boundaries.parts = vec![states];
                y
            }
            (None, _) if read_end => {
                let scale = settings.scale;
                readout(queries, rwkv7(inputs, None, settings).1, scale)
            }
            (None, _) => rwkv7_outputs(inputs, settings),
            // A state that nobody else holds is changed in place.
            (Some(mut states), _) if tokens == 1 && states.len() == batch => {
                let own = states.iter_mut().map(|s| std::mem::take(&mut s.parts).pop()).collect();
                let (y, last) = rwkv7_step(inputs, own, settings.scale);
                for (state, part) in states.into_iter().zip(last) {
                    state.parts = vec![part];
                    state.length += 1;
                }
                y
            }
            (Some(states), _) => {
                let scale = settings.scale;
                let (y, last) = rwkv7(inputs, join(&states, 0), settings);
                let y = if read_end { readout(queries, last.clone(), scale) } else { y };
                split(states, vec![last], tokens);
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

impl Mixer for Rwkv7 {
    fn parameters(&self) -> Vec<Named> {
        let mut out = self.projections.parameters();
        out.extend(self.decay.parameters('w'));
        out.extend(self.iclr.parameters('a'));
        if let Some(value) = &self.value {
            out.extend(value.parameters('v'));
        }
        out.extend(self.gate.parameters());
        out.push(("k_k".into(), self.k_k.handle()));
        out.push(("k_a".into(), self.k_a.handle()));
        out.push(("r_k".into(), self.r_k.handle()));
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
        self.layer.width() * self.layer.head_size * size_of::<f32>()
    }
}
