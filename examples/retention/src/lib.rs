//! Retention: linear attention whose decay is fixed, one a head (Sun et al., arXiv 2307.08621).
//!
//! ```text
//! S_t = gamma_h S_{t-1} + k_t (x) v_t ;  gamma_h = 1 - 2^(-e_h) ;  o_t = N^(-1/2) S_t^T q_t
//! e_h = 5 + (slowest - 5) h / (H - 1)                                 (h = 0 .. H - 1)
//! y   = Wo ( rms_norm(o) * silu(Wg x) )
//! ```
//!
//! The paper's e_h is 5 + h; here the heads, however many there are, share out the exponents from 5 to `slowest`.
//!
//! A mixer in a crate of its own: what it needs of Recast is public.

use burn::tensor::activation::silu;
use burn::tensor::{Tensor, TensorData};
use recast_models::ModelError;
use recast_models::block::Linear;
use recast_models::mixers::{Call, Kind, LayerContext, Mixer, Projections, readout};
use recast_models::param::{Named, Param};
use recast_models::sight::Sight;
use recast_models::source::{Builder, Init};
use recast_models::state::{join, split};
use recast_ops::decay::{decayed_sum, decayed_sum_outputs};
use recast_ops::delta_rule::Form;
use recast_ops::rms_norm::rms_norm;
use serde::{Deserialize, Serialize};

/// Options of [`Retention`].
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What a token takes from the slowest head's state is 2^-`slowest`; at least 1.
    pub slowest: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { slowest: 8 }
    }
}

/// Retention.
pub struct Retention {
    projections: Projections,
    gate: Linear,
    norm: Param<1>,
    options: Options,
    layer: LayerContext,
}

impl Kind for Retention {
    const NAME: &'static str = "retention";
    const ABOUT: &'static str = "RetNet: linear attention with a fixed decay a head, rotary embedding";
    const CONSTANT_STATE: bool = true;
    type Options = Options;

    fn resolve(_: &mut Options, _: &LayerContext) {}

    fn build(options: &Options, layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        // A decay of 1 - 2^0 has no logarithm.
        if options.slowest == 0 {
            return Err(ModelError::MixerOptions {
                mixer: Self::NAME.into(),
                message: "slowest is 0, expected at least 1".into(),
            });
        }
        let gate = builder.child("g_proj");
        Ok(Self {
            projections: Projections::build(layer, builder)?,
            gate: Linear::build_with(&gate, layer.hidden, layer.width(), false, Init::Normal(0.02))?,
            norm: builder.child("o_norm").param("weight", [layer.head_size], Init::Constant(1.0))?,
            options: options.clone(),
            layer: layer.clone(),
        })
    }
}

impl Mixer for Retention {
    fn parameters(&self) -> Vec<Named> {
        let mut out = self.projections.parameters();
        out.extend(self.gate.parameters("g_proj"));
        out.push(("o_norm.weight".into(), self.norm.handle()));
        out
    }

    fn forward(&self, call: Call<'_>) -> Tensor<3> {
        let (p, x) = (&self.projections, call.x);
        let [batch, tokens, _] = x.dims();
        let (h, n) = (self.layer.heads, self.layer.head_size);
        let documents = call.documents.filter(|d| d.any());
        let q = p.rotate(p.queries(x.clone()), call.positions, documents).mul_scalar((n as f32).powf(-0.5));
        let k = p.repeat(p.rotate(p.keys(x.clone()), call.positions, documents));
        let v = p.repeat(p.values(x.clone()));

        // From 2^-5 a token at the first head to 2^-slowest at the last.
        let exponent = |head: usize| 5.0 + (self.options.slowest as f32 - 5.0) * head as f32 / (h - 1).max(1) as f32;
        let logw: Vec<f32> = (0..h).map(|head| (-(-exponent(head)).exp2()).ln_1p()).collect();
        let logw = Tensor::<4>::from_data(TensorData::new(logw, [1, 1, h, 1]), &x.device().inner());
        let mut logw = logw.repeat_dim(0, batch).repeat_dim(1, tokens);
        if let Some(documents) = documents {
            logw = documents.forget(logw);
        }
        let read_end = call.sight == Sight::Whole && tokens > 1;
        let o = match call.states {
            None if !read_end => decayed_sum_outputs(q, logw, k, v, None, Form::Auto),
            states => {
                let state = states.as_ref().and_then(|states| join(states, 0));
                let (o, last) = decayed_sum(q.clone(), logw, k, v, state, Form::Auto);
                let o = if read_end { readout(q, last.clone(), 1.0) } else { o };
                if let Some(states) = states {
                    split(states, vec![last], tokens);
                }
                o
            }
        };
        let gate = silu(self.gate.forward(x)).reshape([batch, tokens, h, n]);
        p.output(rms_norm(o, self.norm.value(), self.layer.norm_epsilon) * gate)
    }

    fn state_bytes(&self, _: usize) -> usize {
        self.layer.width() * self.layer.head_size * size_of::<f32>()
    }
}
