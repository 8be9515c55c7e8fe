//! The operator floor: differentiable functions on tensors with a hand-written fast path.
//!
//! One folder an operator: `mod.rs` is the public function (maths, shapes, source), `reference.rs`
//! the slow truth from plain tensor operations, `flex.rs` the CPU code over plain slices, `cube.rs`
//! the GPU code (features `cuda`, `rocm`, `metal`, `vulkan`, `wgpu`; what is without one, as quantised
//! products, is for the processor alone). To add one, copy the smallest folder (`swiglu`), declare it with `operator!` of
//! `glue.rs` and add it to `tests/elementwise.rs` or `fused.rs`, which hold every fast path to its reference: outputs
//! and all gradients, at odd sizes, on the device that `RECAST_TEST_DEVICE` names.
//!
//! Everything internal to burn (extension traits, `FlexTensor`, `Autodiff`) stays in this crate;
//! other crates see only [`burn::Tensor`](burn::tensor::Tensor) and `Device`.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub mod decay;
pub mod delta_rule;
pub mod device;
pub mod embedding;
mod glue;
pub mod group_norm;
pub mod key_norm;
pub mod linear;
pub mod quantised;
pub mod rms_norm;
pub mod rope;
pub mod row_distance;
pub mod rwkv6;
pub mod rwkv7;
pub mod swiglu;
pub mod token_shift;
pub mod vocab_loss;
