//! The teacher's q, k, v, o projections, which every mixer here starts from.

use super::LayerContext;
use crate::block::Linear;
use crate::error::ModelError;
use crate::param::{Named, Param};
use crate::source::{Builder, Init};
use crate::state::Documents;
use burn::tensor::Tensor;
use recast_ops::rms_norm::rms_norm;
use recast_ops::rope::rope;

/// Query, key, value and output projections with optional biases and q/k norms.
pub struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norms: Option<(Param<1>, Param<1>)>,
    layer: LayerContext,
}

impl Projections {
    /// Whether all four round their inputs to bytes.
    pub fn is_quantised(&self) -> bool {
        [&self.q, &self.k, &self.v, &self.o].into_iter().all(Linear::is_quantised)
    }

    /// Reads `q_proj`, `k_proj`, `v_proj`, `o_proj` and the norms.
    ///
    /// # Errors
    /// When one is missing or misshapen.
    pub fn build(layer: &LayerContext, builder: &Builder<'_>) -> Result<Self, ModelError> {
        let (c, width, kv) = (layer.hidden, layer.width(), layer.kv_heads * layer.head_size);
        let linear = |name, input, output, bias| Linear::build(&builder.child(name), input, output, bias);
        let norm = |name| builder.child(name).param("weight", [layer.head_size], Init::Constant(1.0));
        Ok(Self {
            q: linear("q_proj", c, width, layer.qkv_bias)?,
            k: linear("k_proj", c, kv, layer.qkv_bias)?,
            v: linear("v_proj", c, kv, layer.qkv_bias)?,
            o: linear("o_proj", width, c, layer.output_bias)?,
            norms: if layer.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None },
            layer: layer.clone(),
        })
    }

    /// Names and handles.
    pub fn parameters(&self) -> Vec<Named> {
        let mut out = Vec::new();
        for (name, linear) in [("q_proj", &self.q), ("k_proj", &self.k), ("v_proj", &self.v), ("o_proj", &self.o)] {
            out.extend(linear.parameters(name));
        }
        if let Some((q, k)) = &self.norms {
            out.push(("q_norm.weight".into(), q.handle()));
            out.push(("k_norm.weight".into(), k.handle()));
        }
        out
    }

    /// Queries `[B, T, H, N]` of `x` `[B, T, C]`: projected, with bias, normed.
    pub fn queries(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, t, _] = x.dims();
        let q = self.q.forward(x).reshape([b, t, self.layer.heads, self.layer.head_size]);
        match &self.norms {
            Some((norm, _)) => rms_norm(q, norm.value(), self.layer.norm_epsilon),
            None => q,
        }
    }

    /// Keys `[B, T, G, N]` at key-value head size: projected, with bias, normed.
    pub fn keys(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, t, _] = x.dims();
        let k = self.k.forward(x).reshape([b, t, self.layer.kv_heads, self.layer.head_size]);
        match &self.norms {
            Some((_, norm)) => rms_norm(k, norm.value(), self.layer.norm_epsilon),
            None => k,
        }
    }

    /// Values `[B, T, G, N]` at key-value head size.
    pub fn values(&self, x: Tensor<3>) -> Tensor<4> {
        let [b, t, _] = x.dims();
        self.v.forward(x).reshape([b, t, self.layer.kv_heads, self.layer.head_size])
    }

    /// Rotates q or k by their positions, which count from each row's of `positions`, or from the
    /// beginning of each document.
    pub fn rotate(&self, x: Tensor<4>, positions: &[usize], documents: Option<&Documents>) -> Tensor<4> {
        let tokens = x.dims()[1];
        let first = positions.first().copied().unwrap_or(0);
        let alike = positions.iter().all(|&p| p == first);
        let length = positions.iter().max().copied().unwrap_or(0) + tokens;
        if self.layer.rope.depends_on_length(length)
            && let Some(documents) = documents
        {
            // Each by a table of its own length, as if it stood alone.
            let row = |row: usize| {
                let piece =
                    |(start, count): (usize, usize)| self.rotate(x.clone().narrow(0, row, 1).narrow(1, start, count), &[], None);
                Tensor::cat(documents.pieces(row).into_iter().map(piece).collect(), 1)
            };
            return Tensor::cat((0..x.dims()[0]).map(row).collect(), 0);
        }
        if !alike && self.layer.rope.depends_on_length(length) {
            // Each by a table of its own length: no row knows how long the others are.
            let rows = positions.iter().enumerate();
            return Tensor::cat(rows.map(|(row, &p)| self.rotate(x.clone().narrow(0, row, 1), &[p], None)).collect(), 0);
        }
        let table = self.layer.rope.table(length);
        let own = match documents {
            Some(documents) => Some(documents.positions()),
            None if alike => None,
            None => Some(positions.iter().flat_map(|&p| (p..p + tokens).map(|p| p as u32)).collect()),
        };
        rope(x, &table, first, own)
    }

    /// Repeats each key-value head for the consecutive query heads that share it:
    /// `[B, T, G, N]` to `[B, T, H, N]`.
    pub fn repeat(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, t, g, n] = x.dims();
        let repeats = self.layer.heads / g;
        if repeats == 1 {
            return x;
        }
        x.reshape([b, t, g, 1, n]).repeat_dim(3, repeats).reshape([b, t, g * repeats, n])
    }

    /// Output projection of `[B, T, H, N]`.
    pub fn output(&self, y: Tensor<4>) -> Tensor<3> {
        let [b, t, h, n] = y.dims();
        self.o.forward(y.reshape([b, t, h * n]))
    }
}

#[cfg(test)]
mod tests {
    use crate::Model;
    use crate::param::values;
    use crate::source::{FromParams, Missing};
    use crate::state::Documents;
    use burn::tensor::Device;
    use serde_json::json;

    /// Where the table depends on a sequence's length, a document packed among others has that of its own.
    #[test]
    fn packed_documents_are_rotated_as_separate_ones() {
        let config = json!({
            "model_type": "llama", "vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "rope_theta": 100.0,
            "max_position_embeddings": 4, "rope_scaling": { "rope_type": "dynamic", "factor": 4.0 },
        });
        let config = crate::families::parse(&config).expect("config");
        let model =
            Model::build(config, &FromParams::default(), Missing::Initialise { seed: 1 }, &Device::flex()).expect("model");
        // Queries and keys large enough for positions to matter.
        for (_, param) in model.parameters().iter().filter(|(name, _)| name.contains("q_proj") || name.contains("k_proj")) {
            param.update(&mut |x| x.iter_mut().for_each(|x| *x *= 50.0));
        }
        let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 16).collect();
        let documents = Documents::new(1, 20, (0..20).map(|t| t == 12 || t == 15).collect());
        let packed = values(model.hidden(&tokens, 1, None, Some(&documents)).expect("forward"));
        for (start, end) in [(0, 12), (12, 15), (15, 20)] {
            let alone = values(model.hidden(&tokens[start..end], 1, None, None).expect("forward"));
            for (x, y) in packed[start * 8..end * 8].iter().zip(&alone) {
                assert!((x - y).abs() < 1e-4, "tokens {start} to {end}: {x} and {y}");
            }
        }
    }
}
