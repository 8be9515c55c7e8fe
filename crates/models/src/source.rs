//! Where parameters come from: a checkpoint, another model, or an initial value.

use crate::error::ModelError;
use crate::param::{Named, Param};
use crate::random::Random;
use crate::weight::{Weight, Weights, format_of};
use crate::weights::{Checkpoint, WeightsError};
use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::linear::Layout;
use recast_ops::quantised::{Format, QuantMatrix};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Tensors by full checkpoint name.
pub trait Source: Sync {
    /// Shape, if the tensor is there.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// Its elements as f32, row-major.
    ///
    /// # Errors
    /// When the bytes cannot be read as numbers.
    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError>;
    /// The blocks of a matrix that is stored quantised, row by row, and their format.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    fn blocks(&self, _name: &str) -> Result<Option<(Format, Cow<'_, [u8]>)>, ModelError> {
        Ok(None)
    }
    /// All names, for messages.
    fn names(&self) -> Vec<String>;
    /// The file or folder that they are read from, for messages.
    fn origin(&self) -> Option<&Path> {
        None
    }
}

/// The tensors of an opened checkpoint.
pub struct FromCheckpoint<'a>(pub &'a dyn Checkpoint);

impl Source for FromCheckpoint<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.info(name).map(|info| info.shape)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.0.read_f32(name)?)
    }

    fn blocks(&self, name: &str) -> Result<Option<(Format, Cow<'_, [u8]>)>, ModelError> {
        Ok(self.0.blocks(name).and_then(|(dtype, bytes)| Some((format_of(dtype)?, bytes))))
    }

    fn names(&self) -> Vec<String> {
        self.0.infos().into_iter().map(|info| info.name).collect()
    }

    fn origin(&self) -> Option<&Path> {
        Some(self.0.path())
    }
}

/// The parameters of a model in memory (copied on reading), or none at all.
#[derive(Default)]
pub struct FromParams(HashMap<String, crate::param::Handle>);

impl FromParams {
    /// Reads from these.
    pub fn new(params: Vec<Named>) -> Self {
        Self(params.into_iter().collect())
    }
}

impl Source for FromParams {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|p| p.stored_shape().to_vec())
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.0.get(name) {
            Some(p) => Ok(p.read()),
            None => Err(ModelError::Missing { name: name.into(), hint: String::new() }),
        }
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// Initial value of a parameter that the source does not have.
#[derive(Clone, Debug)]
pub enum Init {
    /// Every element this.
    Constant(f32),
    /// Uniform in (-x, x).
    Uniform(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// Orthogonal with this gain (last two dimensions; leading ones are separate matrices).
    Orthogonal(f32),
    /// These very values.
    Values(Vec<f32>),
}

impl Init {
    fn values(self, shape: &[usize], seed: u64, name: &str) -> Vec<f32> {
        let count = shape.iter().product();
        let mut random = Random::new(seed, name);
        match self {
            Init::Constant(x) => vec![x; count],
            Init::Uniform(x) => (0..count).map(|_| ((2.0 * random.uniform() - 1.0) * f64::from(x)) as f32).collect(),
            Init::Normal(x) => (0..count).map(|_| (random.normal() * f64::from(x)) as f32).collect(),
            Init::Orthogonal(x) => {
                let (rows, columns) = (shape[shape.len() - 2], shape[shape.len() - 1]);
                let matrices = count / (rows * columns).max(1);
                (0..matrices).flat_map(|_| random.orthogonal(rows, columns, f64::from(x))).collect()
            }
            Init::Values(values) => values,
        }
    }
}

/// What to do about a parameter that the source lacks.
#[derive(Clone, Copy, Debug)]
pub enum Missing {
    /// An error: the checkpoint must be whole.
    Refuse,
    /// Its initial value: conversion, and training from scratch.
    Initialise {
        /// Seed of the random ones.
        seed: u64,
    },
}

/// Hands out parameters under a name prefix.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn Source,
    missing: Missing,
    device: Device,
    weights: Weights,
    /// Bytes of the matrices that were quantised.
    quantised: Arc<AtomicUsize>,
    prefix: String,
}

impl<'a> Builder<'a> {
    /// Parameters of the whole model.
    pub fn new(source: &'a dyn Source, missing: Missing, device: Device) -> Self {
        Self { source, missing, device, weights: Weights::F32, quantised: Arc::default(), prefix: String::new() }
    }

    /// With matrices held in this way.
    pub fn with_weights(self, weights: Weights) -> Self {
        Self { weights, ..self }
    }

    /// Names below `name.`.
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    /// Whether the source has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.source.shape(&format!("{}{name}", self.prefix)).is_some()
    }

    /// Shape of a tensor in the source.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&format!("{}{name}", self.prefix))
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether every parameter has to be in the source.
    pub fn whole(&self) -> bool {
        matches!(self.missing, Missing::Refuse)
    }

    /// What is wrong with a checkpoint that must be whole, with its path.
    pub(crate) fn explain(&self, error: ModelError) -> ModelError {
        match self.source.origin() {
            Some(path) if self.whole() => error.of(path),
            _ => error,
        }
    }

    /// Bytes of the matrices that were quantised so far.
    pub fn quantised_bytes(&self) -> usize {
        self.quantised.load(Ordering::Relaxed)
    }

    /// A matrix of `[out, in]`, stored in this layout, and held as was asked for
    /// ([`Builder::with_weights`]).
    ///
    /// # Errors
    /// As [`Builder::param`], and when it cannot be quantised.
    pub fn weight(&self, name: &str, [output, input]: [usize; 2], layout: Layout, init: Init) -> Result<Weight, ModelError> {
        let stored = if layout == Layout::OutIn { [output, input] } else { [input, output] };
        let full = format!("{}{name}", self.prefix);
        if self.source.shape(&full).as_deref() == Some(stored.as_slice())
            && let Some(matrix) = self.quantise(&full, [output, input], layout)?
        {
            self.quantised.fetch_add(matrix.bytes(), Ordering::Relaxed);
            return Ok(Weight::Quantised(matrix));
        }
        Ok(Weight::Trained(self.param(name, stored, init)?, layout))
    }

    /// The stored matrix in blocks, if it is to be held so and can be.
    fn quantise(&self, name: &str, [output, input]: [usize; 2], layout: Layout) -> Result<Option<QuantMatrix>, ModelError> {
        let fail = |source| ModelError::Quantise { name: name.to_owned(), source };
        let wanted = match self.weights {
            Weights::F32 => return Ok(None),
            Weights::AsStored => None,
            // Matrices in this layout correct others by low ranks: small, and decays among them.
            Weights::Quantise(_) if layout == Layout::InOut => Some(Format::Q8_0),
            Weights::Quantise(format) => Some(format),
        };
        if layout == Layout::OutIn
            && let Some((format, bytes)) = self.source.blocks(name)?
            && wanted.is_none_or(|wanted| wanted == format)
        {
            return QuantMatrix::from_blocks(format, output, input, &bytes).map(Some).map_err(fail);
        }
        match wanted {
            Some(format) if input.is_multiple_of(format.block().0) => {
                let mut values = self.source.read(name)?;
                if layout == Layout::InOut {
                    values = (0..output).flat_map(|o| values[o..].iter().step_by(output).copied()).collect();
                }
                QuantMatrix::quantise(format, output, input, &values).map(Some).map_err(fail)
            }
            _ => Ok(None),
        }
    }

    /// A parameter stored under its own shape.
    ///
    /// # Errors
    /// When it is missing and must not be, or its shape or values are wrong.
    pub fn param<const D: usize>(&self, name: &str, shape: [usize; D], init: Init) -> Result<Param<D>, ModelError> {
        self.param_stored(name, shape, &shape, init)
    }

    /// A parameter whose stored shape has extra ones.
    ///
    /// # Errors
    /// As [`Builder::param`].
    pub fn param_stored<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        stored: &[usize],
        init: Init,
    ) -> Result<Param<D>, ModelError> {
        let full = format!("{}{name}", self.prefix);
        let values = match self.source.shape(&full) {
            Some(found) => {
                if squeezed(&found) != squeezed(stored) {
                    return Err(ModelError::Shape { name: full, found, expected: stored.to_vec() });
                }
                let values = self.source.read(&full)?;
                if !values.iter().all(|x| x.is_finite()) {
                    return Err(ModelError::NotFinite { name: full });
                }
                values
            }
            // What is there but cannot be read is not missing.
            None if let Err(ModelError::Weights(error @ WeightsError::UnsupportedKind { .. })) = self.source.read(&full) => {
                return Err(error.into());
            }
            None => match self.missing {
                Missing::Initialise { seed } => init.values(&shape, seed, &full),
                Missing::Refuse => {
                    let hint = crate::config::nearest(&full, &self.source.names())
                        .map_or_else(String::new, |n| format!(" (nearest: `{n}`)"));
                    return Err(ModelError::Missing { name: full, hint });
                }
            },
        };
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        Ok(Param::new(tensor, stored.to_vec()))
    }
}

fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&n| n != 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint whose one tensor is of bytes that are not read.
    struct Eighths;

    impl Source for Eighths {
        fn shape(&self, _: &str) -> Option<Vec<usize>> {
            None
        }

        fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
            let (path, found, advice) = ("m.safetensors".into(), "F8_E4M3".into(), "convert it");
            Err(WeightsError::UnsupportedKind { path, name: name.into(), found, advice }.into())
        }

        fn names(&self) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_called_missing() {
        for missing in [Missing::Refuse, Missing::Initialise { seed: 1 }] {
            let builder = Builder::new(&Eighths, missing, Device::flex());
            let error = builder.param("weight", [2, 2], Init::Constant(1.0)).err().expect("refused").to_string();
            assert!(error.contains("F8_E4M3") && !error.contains("missing"), "{error}");
        }
    }
}
