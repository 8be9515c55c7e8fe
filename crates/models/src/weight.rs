//! Matrices that models multiply with: trainable f32, or quantised for inference.

use crate::param::{Handle, Named, Param};
use crate::weights::Dtype;
use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::embedding::embedding;
use recast_ops::linear::{Layout, Operand, linear, linear_in_out};
use recast_ops::quantised::{Format, QuantMatrix, linear_quantised};
use std::fmt;
use std::str::FromStr;

/// How matrices are held in memory. Norms, biases and other vectors are f32 in all of these, and so
/// are matrices whose rows do not divide into blocks. Low-rank corrections have eight bits where
/// anything is rounded on load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// As f32, whatever the file has: trainable.
    #[default]
    F32,
    /// Quantised where the file is, in its format; inference on the processor only.
    AsStored,
    /// Rounded to this format on load; likewise. A matrix that the file has in it stays as it is.
    Quantise(Format),
}

impl fmt::Display for Weights {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weights::F32 => out.write_str("f32"),
            Weights::AsStored => out.write_str("as-stored"),
            Weights::Quantise(format) => format.fmt(out),
        }
    }
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let made = Format::MADE.into_iter().find(|format| format.name() == name);
        match (name, made) {
            ("f32", _) => Ok(Weights::F32),
            ("as-stored", _) => Ok(Weights::AsStored),
            (_, Some(format)) => Ok(Weights::Quantise(format)),
            _ => Err(format!("expected f32, as-stored, {}, found {name}", Format::MADE.map(Format::name).join(", "))),
        }
    }
}

/// The format that multiplies with a file's blocks, if there is one.
pub fn format_of(dtype: Dtype) -> Option<Format> {
    Some(match dtype {
        Dtype::Q4_0 => Format::Q4_0,
        Dtype::Q4_1 => Format::Q4_1,
        Dtype::Q5_0 => Format::Q5_0,
        Dtype::Q5_1 => Format::Q5_1,
        Dtype::Q8_0 => Format::Q8_0,
        Dtype::Q4_K => Format::Q4_K,
        Dtype::Q5_K => Format::Q5_K,
        Dtype::Q6_K => Format::Q6_K,
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::Q2_K | Dtype::Q3_K => return None,
    })
}

/// A matrix. Clones share it.
#[derive(Clone)]
pub enum Weight {
    /// f32, as the checkpoint lays it out.
    Trained(Param<2>, Layout),
    /// Blocks of few bits, always `[out, in]`. Not a parameter: it is not listed, trained or saved.
    Quantised(QuantMatrix),
}

impl Weight {
    /// `[.., in]` to `[.., out]`.
    pub fn apply<const D: usize>(&self, x: Tensor<D>, bias: Option<Tensor<1>>) -> Tensor<D> {
        match self {
            Weight::Trained(weight, Layout::OutIn) => linear(x, weight.operand(), bias),
            Weight::Trained(weight, Layout::InOut) => {
                let y = linear_in_out(x, weight.operand());
                bias.map_or(y.clone(), |bias| y + bias.unsqueeze::<D>())
            }
            Weight::Quantised(weight) => linear_quantised(x, weight, bias),
        }
    }

    /// Whether it is held in blocks of few bits.
    pub fn is_quantised(&self) -> bool {
        matches!(self, Weight::Quantised(_))
    }

    /// The parameter, if it is one.
    pub fn handle(&self) -> Option<Handle> {
        match self {
            Weight::Trained(weight, _) => Some(weight.handle()),
            Weight::Quantised(_) => None,
        }
    }

    /// The parameter under this name, if it is one.
    pub fn named(&self, name: &str) -> Option<Named> {
        self.handle().map(|handle| (name.to_owned(), handle))
    }

    /// Rows `ids` of a matrix that the checkpoint lays out `[out, in]`: `[ids, in]`.
    pub fn rows(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        match self {
            Weight::Trained(weight, _) => embedding(weight.value(), ids.into()),
            Weight::Quantised(weight) => {
                let width = weight.columns();
                let mut rows = vec![0.0; ids.len() * width];
                for (row, &id) in rows.chunks_exact_mut(width).zip(ids) {
                    weight.row(id as usize, row);
                }
                Tensor::from_data(TensorData::new(rows, [ids.len(), width]), device)
            }
        }
    }

    /// [`Weight::dense`] to multiply with; what products make of a parameter that nobody trains is kept.
    pub fn operand(&self, device: &Device) -> Operand {
        match self {
            Weight::Trained(weight, _) => weight.operand(),
            Weight::Quantised(_) => self.dense(device).into(),
        }
    }

    /// The whole matrix as f32, `[out, in]` where quantised and as laid out where not. Of a quantised
    /// one this is a copy of several times its size.
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        match self {
            Weight::Trained(weight, _) => weight.value(),
            Weight::Quantised(weight) => {
                Tensor::from_data(TensorData::new(weight.values(), [weight.rows(), weight.columns()]), device)
            }
        }
    }
}
