//! A whole model: embedding, blocks, final norm, head.

use crate::block::Block;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::families;
use crate::mixers::LayerContext;
use crate::param::{Named, Param, count, values};
use crate::rope::Rope;
use crate::source::{Builder, FromCheckpoint, Init, Missing, Source};
use crate::state::{Documents, ModelState};
use crate::weight::{Weight, Weights};
use crate::weights::{self, Checkpoint};
use burn::tensor::{Device, Tensor};
use recast_ops::linear::{Layout, Operand};
use recast_ops::rms_norm::rms_norm;
use std::path::Path;
use std::sync::Arc;

/// A decoder-only language model with any mixer in any layer.
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    blocks: Vec<Block>,
    embedding: Weight,
    norm: Param<1>,
    head: Option<Weight>,
    device: Device,
    /// Bytes of the matrices that are quantised.
    quantised: usize,
}

impl Model {
    /// Opens a Hugging Face folder or a GGUF file; every parameter must be there.
    ///
    /// # Errors
    /// When the files, the config or a tensor cannot be used.
    pub fn open(path: &Path, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = weights::open(path)?;
        Self::load(checkpoint.as_ref(), Weights::F32, device)
    }

    /// The model of an opened checkpoint, with its matrices held in this way; every parameter must be
    /// there.
    ///
    /// # Errors
    /// As [`Model::open`], and when quantised weights are wanted on another device than the processor.
    pub fn load(checkpoint: &dyn Checkpoint, weights: Weights, device: &Device) -> Result<Self, ModelError> {
        let config = families::read(checkpoint)?;
        let source = FromCheckpoint(checkpoint);
        if weights != Weights::F32 && !recast_ops::quantised::on_processor(device) {
            return Err(ModelError::QuantisedDevice);
        }
        let builder = Builder::new(&source, Missing::Refuse, device.clone()).with_weights(weights);
        Self::assemble(config, &builder)
    }

    /// Builds a model of this shape from a source of tensors.
    ///
    /// # Errors
    /// When the config does not fit together, or a parameter is missing or misshapen.
    pub fn build(config: ModelConfig, source: &dyn Source, missing: Missing, device: &Device) -> Result<Self, ModelError> {
        Self::assemble(config, &Builder::new(source, missing, device.clone()))
    }

    fn assemble(config: ModelConfig, builder: &Builder<'_>) -> Result<Self, ModelError> {
        Self::parts(config, builder).map_err(|error| builder.explain(error))
    }

    fn parts(mut config: ModelConfig, builder: &Builder<'_>) -> Result<Self, ModelError> {
        config.check()?;
        let rope = Arc::new(Rope::new(config.rope.clone()));
        let layers: Vec<LayerContext> = (0..config.layers).map(|l| LayerContext::new(&config, l, rope.clone())).collect();
        config.mixers = config.mixers.iter().zip(&layers).map(|(spec, layer)| spec.resolved(layer)).collect::<Result<_, _>>()?;
        let body = builder.child("model");
        let table = [config.vocabulary, config.hidden];
        let blocks = layers
            .iter()
            .map(|layer| Block::build(&config, layer, &body.child("layers").child(layer.index)))
            .collect::<Result<_, _>>()?;
        let embedding = body.child("embed_tokens").weight("weight", table, Layout::OutIn, Init::Normal(0.02))?;
        let head = if config.tied {
            None
        } else {
            let init = if builder.has("lm_head.weight") || builder.whole() {
                Init::Normal(0.02)
            } else {
                // A head that starts as a copy of the embedding (untying).
                Init::Values(values(embedding.dense(builder.device())))
            };
            Some(builder.child("lm_head").weight("weight", table, Layout::OutIn, init)?)
        };
        Ok(Self {
            blocks,
            norm: body.child("norm").param("weight", [config.hidden], Init::Constant(1.0))?,
            embedding,
            head,
            device: builder.device().clone(),
            quantised: builder.quantised_bytes(),
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

    /// Whether some matrices are quantised, so that the model cannot be trained or saved.
    pub fn is_quantised(&self) -> bool {
        self.quantised > 0
    }

    /// Refuses a quantised model.
    ///
    /// # Errors
    /// [`ModelError::Quantised`] with what it was wanted for.
    pub fn check_whole(&self, purpose: &'static str) -> Result<(), ModelError> {
        if self.is_quantised() { Err(ModelError::Quantised { purpose }) } else { Ok(()) }
    }

    /// Bytes of all weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.quantised + size_of::<f32>() * count(&self.parameters())
    }

    /// Every parameter under its checkpoint name, in a fixed order. Neither a tied head nor quantised
    /// matrices are listed.
    pub fn parameters(&self) -> Vec<Named> {
        let mut out = Vec::new();
        out.extend(self.embedding.named("model.embed_tokens.weight"));
        for (l, block) in self.blocks.iter().enumerate() {
            out.extend(block.parameters().into_iter().map(|(name, p)| (format!("model.layers.{l}.{name}"), p)));
        }
        out.push(("model.norm.weight".into(), self.norm.handle()));
        out.extend(self.head.as_ref().and_then(|head| head.named("lm_head.weight")));
        out
    }

    /// What tells this model from others: a hash of its config and of its norms' weights, which no
    /// training leaves as they were. Equal for the same file, however its weights are held.
    pub fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&self.config.raw).unwrap_or_default());
        let norms = self.parameters().into_iter().filter(|(name, _)| name.ends_with("norm.weight"));
        for (name, norm) in norms {
            hash.update(name);
            norm.read().into_iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        recast_text::files::hex(&hash.finalize())
    }

    /// Checks ids against the vocabulary.
    ///
    /// # Errors
    /// With the first id outside it.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        match tokens.iter().position(|&t| t as usize >= self.config.vocabulary) {
            Some(position) => Err(ModelError::Token { id: tokens[position], position, vocabulary: self.config.vocabulary }),
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
        let x = self.embedding.rows(tokens, &self.device);
        Ok(x.reshape([batch, tokens.len() / batch, self.config.hidden]))
    }

    /// Final norm of the residual stream.
    pub fn final_norm<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        rms_norm(x, self.norm.value(), self.config.norm_epsilon)
    }

    /// The head's weight `[V, C]`. Of a quantised model this is a copy several times its size: for
    /// logits, ask for [`Model::logits`].
    pub fn head(&self) -> Tensor<2> {
        self.head.as_ref().unwrap_or(&self.embedding).dense(&self.device)
    }

    /// [`Model::head`] for losses that pass no gradient to it; see [`Weight::operand`].
    pub fn head_operand(&self) -> Operand {
        self.head.as_ref().unwrap_or(&self.embedding).operand(&self.device)
    }

    /// Normed hidden states `[batch, T, C]` of whole sequences, or of their next chunk when states
    /// are carried: one a row, each advanced. Rows may stand at different positions, and none
    /// depends on the others. Tokens see each other as the model's clean tokens do
    /// ([`ModelConfig::clean_sight`]): a block diffusion model has to be given whole blocks.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the tokens do not divide into `batch` rows, there is not
    /// one state a row, or `documents` are of another shape or come with states.
    pub fn hidden(
        &self,
        tokens: &[u32],
        batch: usize,
        states: Option<&mut [&mut ModelState]>,
        documents: Option<&Documents>,
    ) -> Result<Tensor<3>, ModelError> {
        Ok(self.finish(self.unfinished(tokens, batch, states, documents)?))
    }

    /// [`Model::hidden`] up to the last layer's feed-forward, which works position by position: whoever
    /// asks about a few positions only takes those and has them finished by [`Model::finish`].
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn unfinished(
        &self,
        tokens: &[u32],
        batch: usize,
        states: Option<&mut [&mut ModelState]>,
        documents: Option<&Documents>,
    ) -> Result<Tensor<3>, ModelError> {
        let sight = self.config.clean_sight();
        match states {
            Some(states) => self.carried(tokens, batch, states, documents, sight, false),
            None => self.unfinished_seeing(tokens, batch, sight, documents, None),
        }
    }

    /// [`Model::unfinished`] of the last token of a chunk, `[batch, 1, C]`, behind carried states, which advance by all
    /// of it: in the last layer nobody else asks what it sees.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn unfinished_last(&self, tokens: &[u32], batch: usize, states: &mut [&mut ModelState]) -> Result<Tensor<3>, ModelError> {
        self.carried(tokens, batch, states, None, self.config.clean_sight(), true)
    }

    /// Normed hidden states `[.., C]` of positions whose pass ended before the last feed-forward.
    pub fn finish<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.final_norm(match self.blocks.last() {
            Some(block) => block.fed(x),
            None => x,
        })
    }

    /// Logits `[.., V]` of hidden states.
    pub fn logits<const D: usize>(&self, hidden: Tensor<D>) -> Tensor<D> {
        self.head.as_ref().unwrap_or(&self.embedding).apply(hidden, None)
    }

    /// A state before the first token.
    pub fn new_state(&self) -> ModelState {
        ModelState::new(self.blocks.len())
    }

    /// Bytes of state that one sequence of `tokens` tokens needs; the largest number there is where they are more.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        self.blocks.iter().map(|b| b.mixer().state_bytes(tokens)).fold(0, usize::saturating_add)
    }
}
