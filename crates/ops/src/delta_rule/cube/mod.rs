//! GPU: one cube a head, one unit a channel, token after token with the state in registers.
//!
//! Forward, unit `v` owns the column `S[:, v]`: it reads what the token brings from shared memory
//! and needs nobody else. The states at the beginning of every [`CHUNK`] tokens are saved, and
//! `S^T a` of every token. Backward, unit `i` owns the row `S[i, :]` and both a row and a column of
//! the state's gradient, so that every sum runs inside one unit; the states inside a chunk are made
//! again from its beginning and kept in scratch memory. Nothing is divided by a decay.

mod kernels;

use super::layer::{Options, States};
use crate::cube::{CubeTensor, Gpu, Together, contiguous, cubes, elementwise, nothing, reshaped, room};
use burn::backend::ops::FloatTensorOps;
use cubecl::prelude::*;
use kernels::{multiplied, multiplied_backward, recurrence, recurrence_backward};

/// Tokens between saved states.
const CHUNK: usize = 32;

/// Most tokens that are fetched into shared memory at a time, and bytes that they may take there: loads of one
/// token alone are waited for longer than it is computed with.
const STAGE: usize = 8;
const STAGE_BYTES: usize = 24 << 10;

/// What the recurrence reads; `ab` is absent in a decayed sum.
#[derive(Clone)]
pub struct Inputs {
    pub r: CubeTensor,
    /// `[B, T, H, K]` or `[B, T, H, 1]`.
    pub logw: CubeTensor,
    pub k: CubeTensor,
    pub v: CubeTensor,
    pub ab: Option<(CubeTensor, CubeTensor)>,
    pub state: CubeTensor,
    /// `[B, T, H, V]`, multiplies the outputs.
    pub gate: Option<CubeTensor>,
}

/// Gradients of [`Inputs`] in one allocation, which a layer may still change and has reserved room in.
pub struct Gradients {
    pub all: CubeTensor,
    /// Where those of r, logw, k, v, a and b start in it, and what was reserved.
    pub at: At,
    parts: Together,
    gate: Option<CubeTensor>,
    sizes: Sizes,
}

/// First elements.
#[derive(Clone, Copy, Default)]
pub struct At {
    pub r: u32,
    pub logw: u32,
    pub k: u32,
    pub v: u32,
    pub a: u32,
    pub b: u32,
    pub reserved: [u32; 3],
    state: u32,
}

/// [`Gradients`] apart, in the shapes of the inputs.
pub struct Apart {
    pub r: CubeTensor,
    pub logw: CubeTensor,
    pub k: CubeTensor,
    pub v: CubeTensor,
    pub state: CubeTensor,
    pub ab: Option<(CubeTensor, CubeTensor)>,
    pub reserved: [CubeTensor; 3],
    pub gate: Option<CubeTensor>,
}

impl Gradients {
    pub fn apart(self) -> Apart {
        let [r, logw, k, v, state, a, b, reserved @ ..] = self.parts.first::<10>(&self.all);
        let sizes = self.sizes;
        let logw = if sizes.decays == sizes.key {
            logw
        } else {
            let shape = [sizes.batch, sizes.tokens, sizes.heads, 1];
            reshaped(contiguous(Gpu::float_sum_dim(logw, 3)), &shape)
        };
        let ab = (a.meta.num_elements() > 0).then_some((a, b));
        Apart { r, logw, k, v, state, ab, reserved, gate: self.gate }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    key: usize,
    value: usize,
    decays: usize,
}

impl Sizes {
    fn of(inputs: &Inputs) -> Self {
        let (r, v, w) = (inputs.r.meta.shape(), inputs.v.meta.shape(), inputs.logw.meta.shape());
        Self { batch: r[0], tokens: r[1], heads: r[2], key: r[3], value: v[3], decays: w[3] }
    }

    fn pairs(&self) -> usize {
        self.batch * self.heads
    }

    fn outputs(&self) -> usize {
        self.batch * self.tokens * self.heads * self.value
    }

    fn state(&self) -> usize {
        self.key * self.value
    }

    fn chunks(&self) -> usize {
        self.tokens.div_ceil(CHUNK)
    }

    fn units(&self) -> CubeDim {
        CubeDim::new_1d(self.key.max(self.value) as u32)
    }

    /// Tokens that are fetched at a time: a power of two.
    fn stage(&self, like: &CubeTensor) -> usize {
        // Of nine vectors at most.
        let token = 9 * 4 * self.key.max(self.value);
        let room = like.client.properties().hardware.max_shared_memory_size.min(STAGE_BYTES) / token;
        1 << room.clamp(1, STAGE).ilog2()
    }
}

/// Outputs and, behind them, the final states where they are wanted; saved are the states at the
/// chunks' beginnings, behind them `S^T a` of every token, and the outputs without gate and scale if there
/// is a gate.
pub fn run(options: &Options, inputs: Inputs) -> (CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&inputs);
    let finals = if options.states == States::Last { sizes.pairs() * sizes.state() } else { 0 };
    let packed = room(&inputs.r, &[sizes.outputs() + finals]);
    let gated = inputs.gate.is_some();
    let saved = if options.save {
        let a_token = sizes.outputs() * if gated { 2 } else { 1 };
        room(&inputs.r, &[sizes.pairs() * sizes.chunks() * sizes.state() + a_token])
    } else {
        nothing(&inputs.r)
    };
    let client = inputs.r.client.clone();
    let stage = sizes.stage(&inputs.r);
    let has_ab = inputs.ab.is_some();
    let (a, b) = inputs.ab.unwrap_or_else(|| (nothing(&inputs.r), nothing(&inputs.r)));
    recurrence::launch(
        &client,
        cubes(sizes.pairs()),
        sizes.units(),
        inputs.r.into_tensor_arg(),
        inputs.logw.into_tensor_arg(),
        inputs.k.into_tensor_arg(),
        inputs.v.into_tensor_arg(),
        a.into_tensor_arg(),
        b.into_tensor_arg(),
        inputs.state.into_tensor_arg(),
        packed.clone().into_tensor_arg(),
        saved.clone().into_tensor_arg(),
        options.settings.scale,
        sizes.pairs() as u32,
        sizes.tokens as u32,
        sizes.heads as u32,
        sizes.outputs() as u32,
        sizes.key,
        sizes.value,
        sizes.decays,
        stage,
        has_ab,
        options.save,
        options.save && gated,
        options.states == States::Last,
    );
    if let Some(gate) = inputs.gate {
        let (count, dim) = elementwise(sizes.outputs());
        let (gate, outputs) = (gate.into_tensor_arg(), packed.clone().into_tensor_arg());
        multiplied::launch(&client, count, dim, gate, outputs, sizes.outputs() as u32);
    }
    (packed, saved)
}

/// The gradients of every input from that of the packed output; reserves room for three more arrays.
pub fn gradients(
    options: &Options,
    inputs: Inputs,
    saved: CubeTensor,
    gradient: CubeTensor,
    reserved: [&[usize]; 3],
) -> Gradients {
    let sizes = Sizes::of(&inputs);
    let client = inputs.r.client.clone();
    let (gradient, gate) = match inputs.gate {
        Some(gate) => {
            let ungated = sizes.pairs() * sizes.chunks() * sizes.state() + sizes.outputs();
            let packed = room(&gate, gradient.meta.shape());
            let d_gate = room(&gate, gate.meta.shape());
            let (count, dim) = elementwise(gradient.meta.num_elements());
            multiplied_backward::launch(
                &client,
                count,
                dim,
                gate.into_tensor_arg(),
                saved.clone().into_tensor_arg(),
                gradient.clone().into_tensor_arg(),
                packed.clone().into_tensor_arg(),
                d_gate.clone().into_tensor_arg(),
                options.settings.scale,
                ungated as u32,
                sizes.outputs() as u32,
                gradient.meta.num_elements() as u32,
            );
            (packed, Some(d_gate))
        }
        None => (gradient, None),
    };
    let keys = inputs.k.meta.shape().to_vec();
    let mut parts = Together::default();
    let [r, logw, k] = [(); 3].map(|()| parts.add(&keys));
    let v = parts.add(inputs.v.meta.shape());
    let state = parts.add(inputs.state.meta.shape());
    let has_ab = inputs.ab.is_some();
    let [a, b] = [(); 2].map(|()| parts.add(if has_ab { &keys } else { &[0] }));
    let reserved = reserved.map(|shape| parts.add(shape));
    let at = At { r, logw, k, v, a, b, reserved, state };
    let scratch = parts.add(&[sizes.pairs() * CHUNK * sizes.state()]);
    let all = parts.room(&inputs.r);
    let stage = sizes.stage(&inputs.r);
    let (a, b) = inputs.ab.unwrap_or_else(|| (nothing(&inputs.r), nothing(&inputs.r)));
    recurrence_backward::launch(
        &client,
        cubes(sizes.pairs()),
        sizes.units(),
        inputs.r.into_tensor_arg(),
        inputs.logw.into_tensor_arg(),
        inputs.k.into_tensor_arg(),
        inputs.v.into_tensor_arg(),
        a.into_tensor_arg(),
        b.into_tensor_arg(),
        saved.into_tensor_arg(),
        gradient.into_tensor_arg(),
        all.clone().into_tensor_arg(),
        options.settings.scale,
        sizes.pairs() as u32,
        sizes.tokens as u32,
        sizes.heads as u32,
        sizes.outputs() as u32,
        at.r,
        at.logw,
        at.k,
        at.v,
        at.state,
        at.a,
        at.b,
        scratch,
        sizes.key,
        sizes.value,
        sizes.decays,
        stage,
        has_ab,
        options.states == States::Last,
    );
    Gradients { all, at, parts, gate, sizes }
}

type Tensors = [CubeTensor; 7];

fn named([r, logw, k, v, a, b, state]: Tensors) -> Inputs {
    Inputs { r, logw, k, v, ab: Some((a, b)), state, gate: None }
}

pub fn forward(options: &Options, inputs: Tensors) -> (CubeTensor, CubeTensor) {
    run(options, named(inputs))
}

pub fn backward(
    options: &Options,
    _: [bool; 7],
    inputs: Tensors,
    _output: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
) -> [Option<CubeTensor>; 7] {
    let of = gradients(options, named(inputs), saved, gradient, [&[0]; 3]).apart();
    let (a, b) = of.ab.unzip();
    [Some(of.r), Some(of.logw), Some(of.k), Some(of.v), a, b, Some(of.state)]
}
