//! A state as a value: kept, copied, saved, loaded.
//!
//! The file is safetensors: `tokens` (u32), each layer's tensors as `layers.L.I` (f32 or bf16, as the model
//! holds them), and in the metadata the format, the number of tokens that each layer holds, and the model's fingerprint, so
//! that a state is not read into another model.

use crate::error::InferError;
use burn::tensor::{Bytes, DType, Tensor, TensorData};
use recast_models::state::LayerState;
use recast_models::{Model, ModelState, mixers};
use recast_ops::attention::Cache;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Name and version of the file's layout.
const FORMAT: &str = "recast-state-3";
/// The one before, which knew f32 only.
const FORMERLY: &str = "recast-state-2";

/// A state and what it has read. Going on from it does not change it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Every token that the state has read.
    pub tokens: Vec<u32>,
    /// The state after them.
    pub state: ModelState,
}

impl Snapshot {
    /// [`Snapshot::save_with`] without a note.
    ///
    /// # Errors
    /// As there.
    pub fn save(&self, model: &Model, path: &Path) -> Result<(), InferError> {
        self.save_with(model, path, "")
    }

    /// Writes a file beside its place and renames it into it. The note is the caller's own.
    ///
    /// # Errors
    /// When it cannot be written; what stood there before is untouched then.
    pub fn save_with(&self, model: &Model, path: &Path, note: &str) -> Result<(), InferError> {
        let failed = |error: &dyn std::fmt::Display| InferError::State { path: path.to_owned(), reason: error.to_string() };
        let mut tensors = vec![(
            "tokens".to_string(),
            Dtype::U32,
            vec![self.tokens.len()],
            self.tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>(),
        )];
        for (l, layer) in self.state.layers.iter().enumerate() {
            for (i, part) in layer.parts.iter().enumerate() {
                let dtype = if part.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 };
                tensors.push((format!("layers.{l}.{i}"), dtype, part.dims().to_vec(), part.to_data().bytes().to_vec()));
            }
        }
        let lengths: Vec<usize> = self.state.layers.iter().map(|layer| layer.length).collect();
        let metadata = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("model".to_string(), model.fingerprint()),
            ("note".to_string(), note.to_string()),
            ("lengths".to_string(), serde_json::json!(lengths).to_string()),
        ]);
        let views: Vec<(&str, TensorView<'_>)> = tensors
            .iter()
            .map(|(name, dtype, shape, data)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?)))
            .collect::<Result<_, safetensors::SafeTensorError>>()
            .map_err(|e| failed(&e))?;
        let content = safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))?;
        recast_text::files::replace(path, &content).map_err(|e| failed(&e))
    }

    /// [`Snapshot::load_with`], the note left out.
    ///
    /// # Errors
    /// As there.
    pub fn load(model: &Model, path: &Path) -> Result<Self, InferError> {
        Self::load_with(model, path).map(|(snapshot, _)| snapshot)
    }

    /// Reads a file that [`Snapshot::save_with`] wrote for the same model, and its note.
    ///
    /// # Errors
    /// When it cannot be read, belongs to another model, or does not hold a state of it.
    pub fn load_with(model: &Model, path: &Path) -> Result<(Self, String), InferError> {
        let failed = |reason: String| InferError::State { path: path.to_owned(), reason };
        let content = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(&content).map_err(|e| failed(format!("not a state file: {e}")))?;
        let entries = header.metadata().clone().unwrap_or_default();
        if !entries.get("format").is_some_and(|format| [FORMAT, FORMERLY].contains(&format.as_str())) {
            return Err(failed(format!("not a state file: expected the format {FORMAT} in its metadata")));
        }
        if entries.get("model") != Some(&model.fingerprint()) {
            return Err(failed("it is the state of another model".into()));
        }
        let file = SafeTensors::deserialize(&content).map_err(|e| failed(e.to_string()))?;
        let tokens = file.tensor("tokens").map_err(|e| failed(e.to_string()))?;
        if tokens.dtype() != Dtype::U32 {
            return Err(failed("its tokens are not u32".into()));
        }
        let tokens: Vec<u32> = tokens.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        model.check_tokens(&tokens)?;
        let lengths: Option<Vec<usize>> = entries.get("lengths").and_then(|text| serde_json::from_str(text).ok());
        let lengths = lengths.filter(|l| l.len() == model.blocks().len() && l.iter().all(|&n| n <= tokens.len()));
        let lengths = lengths.ok_or_else(|| failed("it does not say how many tokens each layer holds".into()))?;
        let mut state = model.new_state();
        state.position = tokens.len();
        for (l, length) in lengths.into_iter().enumerate() {
            state.layers[l] = layer(model, &file, l, length).map_err(&failed)?;
        }
        let mut snapshot = Self { tokens, state };
        snapshot.check(model).map_err(failed)?;
        Ok((snapshot, entries.get("note").cloned().unwrap_or_default()))
    }

    /// Holds every layer to what the model would have made. Keys and values of a model that was held otherwise
    /// (`--quantize`, `--precision`) become those of this one.
    fn check(&mut self, model: &Model) -> Result<(), String> {
        let Some(first) = self.tokens.first() else {
            return self.state.layers.iter().all(|l| l.parts.is_empty()).then_some(()).ok_or("parts without tokens".into());
        };
        let mut like = model.new_state();
        model.hidden(&[*first], 1, Some(&mut [&mut like]), None).map_err(|e| e.to_string())?;
        for (l, (layer, like)) in self.state.layers.iter_mut().zip(&like.layers).enumerate() {
            let kinds = |layer: &LayerState| layer.parts.iter().map(|part| (part.dtype(), part.dims())).collect::<Vec<_>>();
            let constant = mixers::find(&model.config.mixers[l].kind).is_ok_and(|kind| kind.constant_state);
            let (fits, found) = if constant {
                let found = kinds(layer);
                (found == kinds(like), found)
            } else {
                let dtype = |layer: &LayerState| layer.parts.first().map(Tensor::dtype);
                if dtype(layer) != dtype(like) && dtype(layer).is_some() {
                    let cache = Cache { pages: &layer.parts, length: layer.length };
                    if let Some(pages) = cache.converted(dtype(like) == Some(DType::BF16)) {
                        layer.parts = pages;
                    }
                }
                let page = Cache { pages: &like.parts, length: 1 }.tokens_a_page().unwrap_or(1);
                let (found, like) = (kinds(layer), kinds(like));
                // Pages of keys and values: of the same shapes, as many as the length takes.
                let pages = found.len() / 2;
                let fits = found.chunks(2).all(|pair| pair == like)
                    && layer.bytes() == model.blocks()[l].mixer().state_bytes(self.tokens.len())
                    && layer.length <= pages * page
                    && layer.length + page > pages * page;
                (fits, found)
            };
            if !fits {
                let (count, first) = (found.len(), &found[..found.len().min(2)]);
                let read = self.tokens.len();
                return Err(format!(
                    "layer {l} holds {count} parts like {first:?}, which is no state of this model after {read} tokens"
                ));
            }
        }
        Ok(())
    }
}

/// One layer's parts.
fn layer(model: &Model, file: &SafeTensors<'_>, l: usize, length: usize) -> Result<LayerState, String> {
    let mut out = LayerState { parts: Vec::new(), length };
    while let Ok(part) = file.tensor(&format!("layers.{l}.{}", out.parts.len())) {
        let shape: [usize; 4] =
            part.shape().try_into().map_err(|_| format!("layer {l} has a part of other than four dimensions"))?;
        let (dtype, finite) = match part.dtype() {
            Dtype::F32 => {
                (DType::F32, part.data().chunks_exact(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()))
            }
            // All bits of the exponent stand for a NaN or an infinity.
            Dtype::BF16 => {
                (DType::BF16, part.data().chunks_exact(2).all(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7f80 != 0x7f80))
            }
            other => return Err(format!("layer {l} has a part of {other:?}, expected f32 or bf16")),
        };
        if !finite {
            return Err(format!("layer {l} holds a NaN or an infinity"));
        }
        // Words of both kinds are aligned to four bytes, which the file's need not be.
        let words: Vec<u32> = part.data().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if 4 * words.len() != part.data().len() {
            return Err(format!("layer {l} has a part of an odd number of bf16"));
        }
        if dtype == DType::BF16 && !recast_ops::quantised::on_processor(model.device()) {
            return Err(format!("layer {l} holds bf16, which states have on the processor only"));
        }
        let data = TensorData::from_bytes(Bytes::from_elems(words), shape, dtype);
        out.parts.push(Tensor::from_data(data, (model.device(), dtype)));
    }
    Ok(out)
}
