//! How the elements of a tensor are stored.

use std::fmt;

/// Storage of a tensor's elements.
///
/// The first three are stored one by one; the rest are GGUF's block quantisations, in which a
/// block of 32 or 256 neighbours along the last axis shares one scale. Layouts: ggml,
/// `ggml-common.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the kinds' own names")]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 4 bits, one scale.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, one scale.
    Q5_0,
    /// 5 bits, scale and minimum.
    Q5_1,
    /// 8 bits, one scale.
    Q8_0,
    /// 2 bits, 16 scales and minima of 4 bits.
    Q2_K,
    /// 3 bits, 16 scales of 6 bits.
    Q3_K,
    /// 4 bits, 8 scales and minima of 6 bits.
    Q4_K,
    /// 5 bits, 8 scales and minima of 6 bits.
    Q5_K,
    /// 6 bits, 16 scales of 8 bits.
    Q6_K,
}

impl Dtype {
    /// All of them, plain ones first.
    pub const ALL: [Dtype; 13] = [
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::Q4_0,
        Dtype::Q4_1,
        Dtype::Q5_0,
        Dtype::Q5_1,
        Dtype::Q8_0,
        Dtype::Q2_K,
        Dtype::Q3_K,
        Dtype::Q4_K,
        Dtype::Q5_K,
        Dtype::Q6_K,
    ];

    /// Elements in one block, and the block's size in bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Dtype::F32 => (1, 4),
            Dtype::F16 | Dtype::BF16 => (1, 2),
            Dtype::Q4_0 => (32, 18),
            Dtype::Q4_1 => (32, 20),
            Dtype::Q5_0 => (32, 22),
            Dtype::Q5_1 => (32, 24),
            Dtype::Q8_0 => (32, 34),
            Dtype::Q2_K => (256, 84),
            Dtype::Q3_K => (256, 110),
            Dtype::Q4_K => (256, 144),
            Dtype::Q5_K => (256, 176),
            Dtype::Q6_K => (256, 210),
        }
    }

    /// True of the kinds that safetensors can hold: [`Dtype::F32`], [`Dtype::F16`], [`Dtype::BF16`].
    pub const fn is_plain(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The name both formats use, in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::Q4_0 => "Q4_0",
            Dtype::Q4_1 => "Q4_1",
            Dtype::Q5_0 => "Q5_0",
            Dtype::Q5_1 => "Q5_1",
            Dtype::Q8_0 => "Q8_0",
            Dtype::Q2_K => "Q2_K",
            Dtype::Q3_K => "Q3_K",
            Dtype::Q4_K => "Q4_K",
            Dtype::Q5_K => "Q5_K",
            Dtype::Q6_K => "Q6_K",
        }
    }

    /// Whether blocks of elements share their scales.
    pub fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes that `elements` take, or `None` if they do not fill whole blocks or the product
    /// overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let (block, bytes) = self.block();
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(bytes)).flatten()
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Name, shape and storage of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Sizes, slowest axis first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Storage of the elements.
    pub dtype: Dtype,
}

impl TensorInfo {
    /// Number of elements, or `None` on overflow.
    pub fn elements(&self) -> Option<usize> {
        elements_of(&self.shape)
    }

    /// Bytes the tensor takes as stored, or `None` on overflow or broken blocks.
    pub fn bytes(&self) -> Option<usize> {
        self.dtype.bytes_for(self.elements()?)
    }
}

/// Product of the sizes, or `None` on overflow. A zero anywhere does not hide an overflow
/// elsewhere: `[0, usize::MAX, 2]` is refused.
pub(crate) fn elements_of(shape: &[usize]) -> Option<usize> {
    let nonzero = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |a, &d| a.checked_mul(d))?;
    Some(if shape.contains(&0) { 0 } else { nonzero })
}
