//! A whole model: embedding, blocks, final norm, head.

use crate::block::Block;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::mixers::{Call, LayerContext, Shared};
use crate::param::{Named, Param};
use crate::rope::Rope;
use crate::source::{Builder, FromCheckpoint, Init, Missing, Source};
use crate::state::{Documents, ModelState};
use crate::{families, weights};
use burn::tensor::{Device, Int, Tensor, TensorData};
use recast_ops::linear::linear;
use recast_ops::rms_norm::rms_norm;
use std::path::Path;
use std::sync::Arc;

/// A decoder-only language model with any mixer in any layer.
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    blocks: Vec<Block>,
    embedding: Param<2>,
    norm: Param<1>,
    head: Option<Param<2>>,
    device: Device,
}

impl Model {
    /// Opens a Hugging Face folder or a GGUF file; every parameter must be there.
    ///
    /// # Errors
    /// When the files, the config or a tensor cannot be used.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = weights::open(path)?;
        let config = families::read(checkpoint.as_ref())?;
        Self::build(config, &FromCheckpoint(checkpoint.as_ref()), Missing::Refuse, device)
    }

    /// Builds a model of this shape from a source of tensors.
    ///
    /// # Errors
    /// When the config does not fit together, or a parameter is missing or misshapen.
    pub fn build(config: ModelConfig, source: &dyn Source, missing: Missing, device: &Device) -> Result<Self, ModelError> {
        let mut config = config;
        config.check()?;
        let rope = Arc::new(Rope::new(config.rope.clone()));
        let builder = Builder::new(source, missing, device.clone());
        let layers: Vec<LayerContext> =
            (0..config.layers).map(|l| LayerContext::new(&config, l, rope.clone())).collect();
        config.mixers = config
            .mixers
            .iter()
            .zip(&layers)
            .map(|(spec, layer)| spec.resolved(layer))
            .collect::<Result<_, _>>()?;
        let body = builder.child("model");
        let table = [config.vocabulary, config.hidden];
        let blocks = layers
            .iter()
            .map(|layer| Block::build(&config, layer, &body.child("layers").child(layer.index)))
            .collect::<Result<_, _>>()?;
        let embedding = body.child("embed_tokens").param("weight", table, Init::Normal(0.02))?;
        let head = if config.tied {
            None
        } else if builder.has("lm_head.weight") || matches!(missing, Missing::Refuse) {
            Some(builder.child("lm_head").param("weight", table, Init::Normal(0.02))?)
        } else {
            // A head that starts as a copy of the embedding (untying).
            let values = crate::param::values(embedding.value());
            Some(builder.child("lm_head").param("weight", table, Init::Values(values))?)
        };
        Ok(Self {
            blocks,
            norm: body.child("norm").param("weight", [config.hidden], Init::Constant(1.0))?,
            embedding,
            head,
            device: device.clone(),
            config,
        })
    }

    /// Drops the head and ties it to the embedding again.
    pub fn tie(&mut self) {
        self.head = None;
        self.config.tied = true;
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Every parameter under its checkpoint name, in a fixed order. A tied head is not listed.
    pub fn parameters(&self) -> Vec<Named> {
        let mut out = vec![("model.embed_tokens.weight".to_string(), self.embedding.handle())];
        for (l, block) in self.blocks.iter().enumerate() {
            out.extend(block.parameters().into_iter().map(|(name, p)| (format!("model.layers.{l}.{name}"), p)));
        }
        out.push(("model.norm.weight".into(), self.norm.handle()));
        if let Some(head) = &self.head {
            out.push(("lm_head.weight".into(), head.handle()));
        }
        out
    }

    /// Checks ids against the vocabulary.
    ///
    /// # Errors
    /// With the first id outside it.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        match tokens.iter().position(|&t| t as usize >= self.config.vocabulary) {
            Some(position) => {
                Err(ModelError::Token { id: tokens[position], position, vocabulary: self.config.vocabulary })
            }
            None => Ok(()),
        }
    }

    /// Embeddings `[batch, T, C]` of `tokens`, `[batch * T]` row-major.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, or the tokens do not divide into `batch` rows.
    pub fn embed(&self, tokens: &[u32], batch: usize) -> Result<Tensor<3>, ModelError> {
        self.check_tokens(tokens)?;
        if tokens.is_empty() || batch == 0 || !tokens.len().is_multiple_of(batch) {
            return Err(ModelError::Batch { tokens: tokens.len(), batch });
        }
        let ids: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [tokens.len()]), &self.device);
        let x = self.embedding.value().select(0, ids);
        Ok(x.reshape([batch, tokens.len() / batch, self.config.hidden]))
    }

    /// Final norm of the residual stream.
    pub fn final_norm(&self, x: Tensor<3>) -> Tensor<3> {
        rms_norm(x, self.norm.value(), self.config.norm_epsilon)
    }

    /// The head's weight `[V, C]`.
    pub fn head(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).value()
    }

    /// Normed hidden states `[batch, T, C]` of whole sequences, or of their next chunk when states
    /// are carried: one a row, each advanced. Rows may stand at different positions, and none
    /// depends on the others.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the tokens do not divide into `batch` rows, there is not
    /// one state a row, or `documents` are of another shape or come with states.
    pub fn hidden(
        &self,
        tokens: &[u32],
        batch: usize,
        mut states: Option<&mut [&mut ModelState]>,
        documents: Option<&Documents>,
    ) -> Result<Tensor<3>, ModelError> {
        let mut x = self.embed(tokens, batch)?;
        let positions: Vec<usize> = match &states {
            Some(states) if states.len() != batch => return Err(ModelError::States { states: states.len(), batch }),
            Some(states) => states.iter().map(|s| s.position).collect(),
            None => vec![0; batch],
        };
        if let Some(documents) = documents {
            let expected = (batch, tokens.len() / batch);
            if documents.shape() != expected || states.is_some() {
                return Err(ModelError::Documents { found: documents.shape(), expected, state: states.is_some() });
            }
        }
        let mut shared = Shared::default();
        for (l, block) in self.blocks.iter().enumerate() {
            let y = block.mixer().forward(Call {
                x: block.mixer_input(x.clone()),
                states: states.as_mut().map(|s| s.iter_mut().map(|s| &mut s.layers[l]).collect()),
                shared: &mut shared,
                positions: &positions,
                documents,
            });
            x = block.after_mixer(x, y);
        }
        for state in states.into_iter().flatten() {
            state.position += tokens.len() / batch;
        }
        Ok(self.final_norm(x))
    }

    /// Logits `[.., V]` of hidden states.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        linear(hidden, self.head(), None)
    }

    /// A state before the first token.
    pub fn new_state(&self) -> ModelState {
        ModelState::new(self.blocks.len())
    }

    /// Bytes of state that one sequence of `tokens` tokens needs.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        self.blocks.iter().map(|b| b.mixer().state_bytes(tokens)).sum()
    }
}
