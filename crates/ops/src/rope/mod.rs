//! Rotary position embedding (Su et al. 2021) in the half-split layout of GPT-NeoX and Llama.
//! To change it, change `reference.rs` first; `tests/elementwise.rs` holds the fast path to it.

#[cfg(feature = "cube")]
mod cube;
mod flex;
pub mod reference;

use crate::glue::operator;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use std::sync::Arc;

/// Cosines and sines of every angle, `[positions, half]` row-major; clones share them.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `scale * cos(position * inverse_frequency[i])`.
    pub cos: Arc<[f32]>,
    /// `scale * sin(position * inverse_frequency[i])`.
    pub sin: Arc<[f32]>,
    /// Number of frequencies, half of the head size.
    pub half: usize,
    /// Number of positions the table covers.
    pub positions: usize,
    /// Cosines and sines on a GPU, from the first call there on.
    #[cfg(feature = "cube")]
    on_device: Arc<std::sync::Mutex<Option<[crate::cube::CubeTensor; 2]>>>,
}

impl RopeTable {
    /// A table for positions `0..positions`. `inverse_frequencies` are in radians a position;
    /// `scale` multiplies every entry (the attention factor of YaRN and its kin, 1 elsewhere).
    /// Angles are computed in f64: at position 100 000 an f32 product is off by 0.004 rad.
    pub fn new(inverse_frequencies: &[f32], positions: usize, scale: f32) -> Self {
        let angles =
            || (0..positions).flat_map(|position| inverse_frequencies.iter().map(move |&f| position as f64 * f64::from(f)));
        let scale = f64::from(scale);
        Self {
            cos: angles().map(|angle| (scale * angle.cos()) as f32).collect(),
            sin: angles().map(|angle| (scale * angle.sin()) as f32).collect(),
            half: inverse_frequencies.len(),
            positions,
            #[cfg(feature = "cube")]
            on_device: Arc::default(),
        }
    }
}

/// Constants of one call.
#[derive(Clone, Debug)]
pub struct Options {
    table: RopeTable,
    start: usize,
    positions: Option<Arc<[u32]>>,
}

operator!(RopeBackend, Options, rope_forward, rope_backward, flex, 1, [x], cube);

/// Rotates the pair `(x[.., i], x[.., i + N/2])` by the angle of position `start + t` and
/// frequency `i`:
///
/// `y[i] = x[i] cos - x[i + N/2] sin`, `y[i + N/2] = x[i + N/2] cos + x[i] sin`.
///
/// Shapes: `x_bthn` and the result `[B, T, H, N]`. `positions`, `[B * T]` row-major, replaces
/// `start + t` where given (packed documents count from their own beginnings).
///
/// # Panics
/// When `N` is not twice `table.half`, `positions` has not `B * T` entries, or a position lies
/// beyond the table: check lengths against `table.positions` before the forward pass.
pub fn rope(x_bthn: Tensor<4>, table: &RopeTable, start: usize, positions: Option<Arc<[u32]>>) -> Tensor<4> {
    let [batch, time, _, size] = x_bthn.dims();
    assert_eq!(size, 2 * table.half, "rope: head size against a table of {} frequencies", table.half);
    let last = match &positions {
        Some(positions) => {
            assert_eq!(positions.len(), batch * time, "rope: one position a token");
            positions.iter().max().map_or(0, |&p| p as usize + 1)
        }
        None => start + time,
    };
    assert!(last <= table.positions, "rope: position {} against a table of {}", last - 1, table.positions);
    let options = Options { table: table.clone(), start, positions };
    Tensor::from_dispatch(Dispatch::rope_forward(options, x_bthn.into_dispatch()).0)
}
