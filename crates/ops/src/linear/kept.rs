//! Weights whose panels outlive a product.

use super::{Layout, rounds};
use crate::cpu::{Matrix, View, bf16};
use burn::tensor::Tensor;
use std::sync::{Arc, Mutex, PoisonError};

/// A weight rounded to bf16 and packed, from the first product that wants it until its owner says
/// that the weight has changed. Clones share it. Stays empty in f32, on GPUs and on processors without
/// instructions for bf16.
#[derive(Clone, Debug, Default)]
pub struct Packed(Arc<Mutex<Option<Arc<bf16::Packed>>>>);

impl Packed {
    /// Drops the panels: the weight has changed, or will not be needed for a while.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether there are panels.
    pub fn is_filled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The panels of `right`, packed now if they were not.
    pub(crate) fn of(&self, right: Matrix<'_>, lasting: bool) -> Arc<bf16::Packed> {
        let mut packed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        packed.get_or_insert_with(|| Arc::new(bf16::Packed::new(right, lasting))).clone()
    }
}

/// A weight to multiply with, and its panels if it keeps them. From a tensor alone: without.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The values.
    pub weight: Tensor<2>,
    /// Panels of these values and no others.
    pub packed: Option<Packed>,
}

impl From<Tensor<2>> for Operand {
    fn from(weight: Tensor<2>) -> Self {
        Self { weight, packed: None }
    }
}

/// What a product is told beside its operands.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the weight lies.
    pub layout: Layout,
    /// Its panels.
    pub packed: Option<Packed>,
}

/// The panels to multiply with, where the process computes in bf16 and the weight keeps them. All
/// products with such a weight, of one row as of a thousand, go through them.
pub fn panels(options: &Options, weight: View<'_>) -> Option<Arc<bf16::Packed>> {
    let packed = options.packed.as_ref()?;
    rounds(weight.shape[0].min(weight.shape[1])).then(|| packed.of(super::flex::matrix(options.layout, weight), true))
}
