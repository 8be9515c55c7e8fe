//! Gated DeltaNet: the delta rule with one decay a head (Yang et al., arXiv 2412.06464).
//!
//! ```text
//! log alpha = -exp(A_log) softplus(Wa x + dt_bias) ;  beta = sigmoid(Wb x)      (a number a head)
//! S_t = alpha_t S_{t-1} + k_t (x) beta_t (v_t - (alpha_t S_{t-1})^T k_t) ;  o_t = N^(-1/2) S_t^T q_t
//! y   = Wo ( rms_norm(o) * sigmoid(Wg x) )
//! ```
//!
//! q and k have length 1. As a target of conversion it goes without the stock layer's convolutions,
//! as in arXiv 2512.20569; it keeps the teacher's rotary embedding, and its gate is a sigmoid, so
//! that it starts at one half.

use super::{Boundaries, Call, Kind, LayerContext, Mixer, Projections, Streams, by_boundaries, readout};
use crate::block::Linear;
use crate::error::ModelError;
use crate::param::{Named, Param};
use crate::sight::Sight;
use crate::source::{Builder, Init};
use crate::state::{join, split};
use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, sigmoid};
use recast_ops::delta_rule::{Form, delta_rule, delta_rule_outputs, delta_rule_states};
use recast_ops::key_norm::key_norm;
use recast_ops::rms_norm::rms_norm;
use serde::{Deserialize, Serialize};

/// Options of [`GatedDeltaNet`].
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Rotary embedding on q and k.
    pub rope: bool,
    /// Let beta reach 2, so that a write can turn what it overwrites around (arXiv 2411.12537).
    pub negative_eigenvalues: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rope: true, negative_eigenvalues: false }
    }
}

/// Gated DeltaNet.
pub struct GatedDeltaNet {
    projections: Projections,
    /// log A, `[H]`: how strongly a head's time step decays its state.
    a_log: Param<1>,
    /// Bias of the time step, `[H]`.
    dt_bias: Param<1>,
    /// Wa, `[H, C]`: the time step of a token.
    time_step: Linear,
    /// Wb, `[H, C]`: how much of what stands under its key a token overwrites.
    write: Linear,
    /// Wg, `[HN, C]`.
    gate: Linear,
    /// `[N]`.
    norm: Param<1>,
    options: Options,
    layer: LayerContext,
}

impl Kind for GatedDeltaNet {
    const NAME: &'static str = "gated_deltanet";
    const ABOUT: &'static str = "Gated DeltaNet: delta rule with one decay a head, rotary embedding, no convolutions";
    const CONSTANT_STATE: bool = true;
    type Options = Options;

    fn resolve(_: &mut Options, _: &LayerContext) {}

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let (c, h) = (layer.hidden, layer.heads);
        // From 0 at the first head to 1 at the last.
        let part = |head: usize| head as f32 / (h - 1).max(1) as f32;
        // A from 16 down to 1 and time steps from 0.1 down to 0.001 (whose inverse softplus is the
        // bias), the stock layer's ranges: half-lives from half a token to 700.
        let a_log = (0..h).map(|head| 16f32.ln() * (1.0 - part(head))).collect();
        let dt_bias = (0..h).map(|head| (0.1 * 0.01f32.powf(part(head))).exp_m1().ln()).collect();
        let from_zero = |name: &str, output| Linear::build_with(&builder.child(name), c, output, false, Init::Constant(0.0));
        Ok(Self {
            projections: Projections::build(layer, builder)?,
            a_log: builder.param("A_log", [h], Init::Values(a_log))?,
            dt_bias: builder.param("dt_bias", [h], Init::Values(dt_bias))?,
            time_step: from_zero("a_proj", h)?,
            write: from_zero("b_proj", h)?,
            gate: from_zero("g_proj", layer.width())?,
            norm: builder.child("o_norm").param("weight", [layer.head_size], Init::Constant(1.0))?,
            options: options.clone(),
            layer: layer.clone(),
        })
    }
}

impl GatedDeltaNet {
    /// The layer; with the states at boundaries, where they are asked for.
    fn mix(&self, call: Call<'_>, boundaries: Option<&mut Boundaries>) -> Tensor<3> {
        let (p, x) = (&self.projections, call.x);
        let [batch, tokens, _] = x.dims();
        let (h, n) = (self.layer.heads, self.layer.head_size);
        let documents = call.documents.filter(|d| d.any());

        let mut q = p.queries(x.clone());
        let mut k = p.keys(x.clone());
        if self.options.rope {
            q = p.rotate(q, call.positions, documents);
            k = p.rotate(k, call.positions, documents);
        }
        let q = key_norm(q).mul_scalar((n as f32).powf(-0.5));
        let k = key_norm(p.repeat(k));
        let v = p.repeat(p.values(x.clone()));

        // Numbers a head, `[B, T, H, 1]`.
        let per_head = |x: Tensor<3>| x.reshape([batch, tokens, h, 1]);
        let step = self.time_step.forward(x.clone()) + self.dt_bias.value().unsqueeze::<3>();
        // -softplus(s) = log sigmoid(-s), which does not overflow.
        let log_alpha = per_head(log_sigmoid(step.neg()) * self.a_log.value().exp().unsqueeze::<3>());
        let largest = if self.options.negative_eigenvalues { 2.0 } else { 1.0 };
        let beta = per_head(sigmoid(self.write.forward(x.clone())).mul_scalar(largest));

        // The rule reads the decayed state, the operator the undecayed one: hence alpha in `a`.
        let mut a = (k.clone() * log_alpha.clone().exp()).neg();
        let mut logw = log_alpha.repeat_dim(3, n);
        let k = k * beta;
        if let Some(documents) = documents {
            a = a * documents.keep(&x.device().inner());
            logw = documents.forget(logw);
        }

        let read_end = call.sight == Sight::Whole && tokens > 1;
        let o = match (call.states, boundaries) {
            (None, Some(boundaries)) => {
                let (o, states) = delta_rule_states(q, logw, k.clone(), v, a, k, boundaries.every, Form::Auto);
                boundaries.parts = vec![states];
                o
            }
            (None, None) if !read_end => delta_rule_outputs(q, logw, k.clone(), v, a, k, None, Form::Auto),
            (states, _) => {
                let state = states.as_ref().and_then(|states| join(states, 0));
                let (o, last) = delta_rule(q.clone(), logw, k.clone(), v, a, k, state, Form::Auto);
                let o = if read_end { readout(q, last.clone(), 1.0) } else { o };
                if let Some(states) = states {
                    split(states, vec![last], tokens);
                }
                o
            }
        };
        let gate = sigmoid(self.gate.forward(x)).reshape([batch, tokens, h, n]);
        p.output(rms_norm(o, self.norm.value(), self.layer.norm_epsilon) * gate)
    }
}

impl Mixer for GatedDeltaNet {
    fn parameters(&self) -> Vec<Named> {
        let mut out = self.projections.parameters();
        out.push(("A_log".into(), self.a_log.handle()));
        out.push(("dt_bias".into(), self.dt_bias.handle()));
        out.extend(self.time_step.parameters("a_proj"));
        out.extend(self.write.parameters("b_proj"));
        out.extend(self.gate.parameters("g_proj"));
        out.push(("o_norm.weight".into(), self.norm.handle()));
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
