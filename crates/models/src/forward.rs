//! The passes of a whole model: sequences with any sight, chunks behind carried states, noisy blocks
//! behind clean states, and the two streams that block diffusion is trained on.

use crate::config::Diffusion;
use crate::error::ModelError;
use crate::mixers::{Call, Shared, Streams, last};
use crate::model::Model;
use crate::sight::Sight;
use crate::state::{Documents, LayerState, ModelState};
use burn::tensor::Tensor;
use std::ops::Range;

impl Model {
    /// How a model of masks denoises.
    ///
    /// # Errors
    /// When it is a next-token model or one of uniform noise, whose texts no estimate of masks judges.
    pub fn masked_diffusion(&self) -> Result<&Diffusion, ModelError> {
        match &self.config.diffusion {
            None => Err(ModelError::NoDiffusion),
            Some(diffusion) if diffusion.uniform => Err(ModelError::UniformNoise),
            Some(diffusion) => Ok(diffusion),
        }
    }

    /// Normed hidden states `[batch, T, C]` of whole sequences, without a state. Rows of unequal length
    /// are padded on the right to a common one and `lengths` says how long each really is: no row sees
    /// padding, and what stands at padded positions means nothing.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the tokens do not divide into `batch` rows, or `documents`
    /// or `lengths` do not fit them.
    pub fn hidden_seeing(
        &self,
        tokens: &[u32],
        batch: usize,
        sight: Sight,
        documents: Option<&Documents>,
        lengths: Option<&[usize]>,
    ) -> Result<Tensor<3>, ModelError> {
        Ok(self.finish(self.unfinished_seeing(tokens, batch, sight, documents, lengths)?))
    }

    /// [`Model::hidden_seeing`] up to the last layer's feed-forward; see [`Model::unfinished`].
    ///
    /// # Errors
    /// As [`Model::hidden_seeing`].
    pub fn unfinished_seeing(
        &self,
        tokens: &[u32],
        batch: usize,
        sight: Sight,
        documents: Option<&Documents>,
        lengths: Option<&[usize]>,
    ) -> Result<Tensor<3>, ModelError> {
        let mut x = self.embed(tokens, batch)?;
        let columns = tokens.len() / batch;
        check_documents(documents, (batch, columns), false)?;
        if let Some(lengths) = lengths
            && (lengths.len() != batch || lengths.iter().any(|&n| n == 0 || n > columns))
        {
            return Err(ModelError::Lengths { lengths: lengths.to_vec(), batch, columns });
        }
        let lengths = lengths.filter(|lengths| lengths.iter().any(|&n| n < columns));
        let documents = documents.filter(|d| d.any());
        // A recurrence's positions all read the state after the last token: of each piece by itself.
        let recurrent = || self.config.mixers.iter().any(|mixer| mixer.kind != "softmax");
        if sight == Sight::Whole && (lengths.is_some() || documents.is_some()) && recurrent() {
            return self.piece_by_piece(tokens, batch, documents, lengths);
        }
        let mut shared = Shared::default();
        for (l, block) in self.blocks().iter().enumerate() {
            x = self.fed_before(l, x);
            let input = block.mixer_input(x.clone());
            let call = Call { x: input, states: None, shared: &mut shared, positions: &[], documents, sight, lengths };
            x = x + block.mixer().forward(call);
        }
        Ok(x)
    }

    /// The stream that enters layer `l`, of one that has not been through the feed-forward before it.
    fn fed_before(&self, l: usize, x: Tensor<3>) -> Tensor<3> {
        match l.checked_sub(1) {
            Some(before) => self.blocks()[before].fed(x),
            None => x,
        }
    }

    /// Every document of every row by itself, seeing all of itself; unfinished.
    fn piece_by_piece(
        &self,
        tokens: &[u32],
        batch: usize,
        documents: Option<&Documents>,
        lengths: Option<&[usize]>,
    ) -> Result<Tensor<3>, ModelError> {
        let columns = tokens.len() / batch;
        let mut rows = Vec::with_capacity(batch);
        for row in 0..batch {
            let length = lengths.map_or(columns, |lengths| lengths[row]);
            let whole = vec![(0, columns)];
            let mut parts = Vec::new();
            for (start, count) in documents.map_or(whole, |d| d.pieces(row)) {
                let count = count.min(length.saturating_sub(start));
                if count > 0 {
                    let own = &tokens[row * columns + start..row * columns + start + count];
                    parts.push(self.unfinished_seeing(own, 1, Sight::Whole, None, None)?);
                }
            }
            if length < columns {
                parts.push(Tensor::zeros([1, columns - length, self.config.hidden], self.device()));
            }
            rows.push(Tensor::cat(parts, 1));
        }
        Ok(Tensor::cat(rows, 0))
    }

    /// [`Model::unfinished`] of the next chunk behind carried states, which advance, or of its last token alone.
    pub(crate) fn carried(
        &self,
        tokens: &[u32],
        batch: usize,
        states: &mut [&mut ModelState],
        documents: Option<&Documents>,
        sight: Sight,
        last_only: bool,
    ) -> Result<Tensor<3>, ModelError> {
        let mut x = self.embed(tokens, batch)?;
        if states.len() != batch {
            return Err(ModelError::States { states: states.len(), batch });
        }
        check_documents(documents, (batch, tokens.len() / batch), true)?;
        let positions: Vec<usize> = states.iter().map(|s| s.position).collect();
        let mut shared = Shared::default();
        for (l, block) in self.blocks().iter().enumerate() {
            let own: Vec<&mut LayerState> = states.iter_mut().map(|s| &mut s.layers[l]).collect();
            x = self.fed_before(l, x);
            let call = Call {
                x: block.mixer_input(x.clone()),
                states: Some(own),
                shared: &mut shared,
                positions: &positions,
                documents: None,
                sight,
                lengths: None,
            };
            x = if last_only && l + 1 == self.blocks().len() {
                last(x) + block.mixer().forward_last(call)
            } else {
                x + block.mixer().forward(call)
            };
        }
        for state in states {
            state.position += tokens.len() / batch;
        }
        Ok(x)
    }

    /// Takes tokens out of the state of a sequence that was read from its beginning, and puts the state at
    /// the first of them: what comes next stands in their place, between those before and those behind.
    ///
    /// # Errors
    /// When a mixer cannot (recurrences, attention with a window), or so many were not read; layers before
    /// it are changed then.
    pub fn leave_out(&self, state: &mut ModelState, tokens: Range<usize>) -> Result<(), ModelError> {
        for (layer, block) in state.layers.iter_mut().zip(self.blocks()) {
            if !block.mixer().leave_out(layer, tokens.clone()) {
                return Err(ModelError::LeaveOut);
            }
        }
        state.position = tokens.start;
        Ok(())
    }

    /// Normed hidden states `[batch, T, C]` of one noisy block a row, placed behind its clean state:
    /// every position sees the whole block and all that the state holds. The states stay as they are.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the tokens do not divide into `batch` rows, or there is
    /// not one state a row.
    pub fn denoise(&self, tokens: &[u32], batch: usize, states: &[&ModelState]) -> Result<Tensor<3>, ModelError> {
        Ok(self.finish(self.denoise_unfinished(tokens, batch, states)?))
    }

    /// [`Model::denoise`] up to the last layer's feed-forward; see [`Model::unfinished`].
    ///
    /// # Errors
    /// As [`Model::denoise`].
    pub fn denoise_unfinished(&self, tokens: &[u32], batch: usize, states: &[&ModelState]) -> Result<Tensor<3>, ModelError> {
        // Clones share their tensors until they are advanced.
        let mut forks: Vec<ModelState> = states.iter().map(|&state| state.clone()).collect();
        let mut forks: Vec<&mut ModelState> = forks.iter_mut().collect();
        self.carried(tokens, batch, &mut forks, None, Sight::Whole, false)
    }

    /// Normed hidden states `[batch, T, C]` of two streams: the clean tokens of whole sequences, which
    /// see their own and earlier blocks (recurrences: what came before), and noisy versions of them,
    /// every block behind the clean ones before it. That is what [`Model::hidden`] gives block by
    /// block, and [`Model::denoise`] before each of its blocks, in one differentiable pass.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the streams are not of one shape, or there are
    /// `documents` and a recurrent mixer.
    pub fn two_streams(
        &self,
        clean: &[u32],
        noisy: &[u32],
        batch: usize,
        block: usize,
        documents: Option<&Documents>,
    ) -> Result<[Tensor<3>; 2], ModelError> {
        let mut streams = [self.embed(clean, batch)?, self.embed(noisy, batch)?];
        let columns = clean.len() / batch;
        if noisy.len() != clean.len() || block == 0 {
            return Err(ModelError::Streams { clean: clean.len(), noisy: noisy.len(), block });
        }
        check_documents(documents, (batch, columns), false)?;
        let documents = documents.filter(|d| d.any());
        if let (Some(_), Some(mixer)) = (documents, self.config.mixers.iter().find(|m| m.kind != "softmax")) {
            return Err(ModelError::StreamDocuments { mixer: mixer.kind.clone() });
        }
        let (mut clean_shared, mut noisy_shared) = (Shared::default(), Shared::default());
        for layer in self.blocks() {
            let [clean, noisy] = streams.each_ref().map(|x| layer.mixer_input(x.clone()));
            let shared = [&mut clean_shared, &mut noisy_shared];
            let [clean, noisy] = layer.mixer().two_streams(Streams { clean, noisy, block, shared, documents });
            let [x, y] = streams;
            streams = [layer.after_mixer(x, clean), layer.after_mixer(y, noisy)];
        }
        Ok(streams.map(|x| self.final_norm(x)))
    }
}

fn check_documents(documents: Option<&Documents>, expected: (usize, usize), state: bool) -> Result<(), ModelError> {
    match documents {
        Some(documents) if documents.shape() != expected || state => {
            Err(ModelError::Documents { found: documents.shape(), expected, state })
        }
        _ => Ok(()),
    }
}
