//! GPU: one cube a head, one unit a channel, token after token with the state in registers.
//!
//! Forward, unit `v` owns the column `S[:, v]`: it reads what the token brings from shared memory
//! and needs nobody else. The states at the beginning of every [`CHUNK`] tokens are saved, and
//! `S^T a` of every token. Backward, unit `i` owns the row `S[i, :]` and both a row and a column of
//! the state's gradient, so that every sum runs inside one unit; the states inside a chunk are made
//! again from its beginning and kept in scratch memory. Nothing is divided by a decay.

use super::layer::{Options, States};
use crate::cube::{CubeTensor, Gpu, Together, contiguous, cubes, elementwise, nothing, reshaped, room};
use burn::backend::ops::FloatTensorOps;
use cubecl::prelude::*;

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
        let mut parts = self.parts.parts(&self.all);
        let mut next = || parts.next().expect("one part for every array that was added");
        let (r, logw, k, v, state, a, b) = (next(), next(), next(), next(), next(), next(), next());
        let reserved = [next(), next(), next()];
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

#[cube(launch)]
fn multiplied(gate: &Tensor<f32>, packed: &mut Tensor<f32>, outputs: u32) {
    let i = ABSOLUTE_POS;
    if i < outputs as usize {
        packed[i] *= gate[i];
    }
}

// Of the outputs before the gate, which does not reach the states behind them.
#[cube(launch)]
fn multiplied_backward(
    gate: &Tensor<f32>,
    saved: &Tensor<f32>,
    gradient: &Tensor<f32>,
    packed: &mut Tensor<f32>,
    d_gate: &mut Tensor<f32>,
    scale: f32,
    ungated: u32,
    outputs: u32,
    elements: u32,
) {
    let i = ABSOLUTE_POS;
    if i < outputs as usize {
        packed[i] = gradient[i] * gate[i];
        d_gate[i] = gradient[i] * scale * saved[ungated as usize + i];
    } else if i < elements as usize {
        packed[i] = gradient[i];
    }
}

#[cube(launch)]
fn recurrence(
    r: &Tensor<f32>,
    logw: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    a: &Tensor<f32>,
    b: &Tensor<f32>,
    state: &Tensor<f32>,
    packed: &mut Tensor<f32>,
    saved: &mut Tensor<f32>,
    scale: f32,
    pairs: u32,
    tokens: u32,
    heads: u32,
    outputs: u32,
    #[comptime] key: usize,
    #[comptime] value: usize,
    #[comptime] decays: usize,
    #[comptime] stage: usize,
    #[comptime] has_ab: bool,
    #[comptime] save: bool,
    #[comptime] keep: bool,
    #[comptime] final_state: bool,
) {
    let mut r_t = Shared::new_slice(stage * key);
    let mut w_t = Shared::new_slice(stage * key);
    let mut k_t = Shared::new_slice(stage * key);
    let mut a_t = Shared::new_slice(stage * key);
    let mut b_t = Shared::new_slice(stage * key);
    let mut v_t = Shared::new_slice(stage * value);
    let pair = CUBE_POS;
    if pair < pairs as usize {
        let (tokens, heads, outputs) = (tokens as usize, heads as usize, outputs as usize);
        let i = UNIT_POS as usize;
        let first = pair / heads * tokens * heads + pair % heads;
        let chunks = tokens.div_ceil(CHUNK);
        let sas = pairs as usize * chunks * key * value;
        let mut s = Array::<f32>::new(key);
        if i < value {
            #[unroll]
            for n in 0..key {
                s[n] = state[(pair * key + n) * value + i];
            }
        }
        for fetch in 0..tokens.div_ceil(stage) {
            let start = fetch * stage;
            sync_cube();
            #[unroll]
            for j in 0..stage {
                if start + j < tokens {
                    let row = first + (start + j) * heads;
                    if i < key {
                        r_t[j * key + i] = r[row * key + i];
                        k_t[j * key + i] = k[row * key + i];
                        if comptime!(decays == 1) {
                            w_t[j * key + i] = logw[row].exp();
                        } else {
                            w_t[j * key + i] = logw[row * key + i].exp();
                        }
                        if comptime!(has_ab) {
                            a_t[j * key + i] = a[row * key + i];
                            b_t[j * key + i] = b[row * key + i];
                        }
                    }
                    if i < value {
                        v_t[j * value + i] = v[row * value + i];
                    }
                }
            }
            sync_cube();
            if i < value {
                let mut end = tokens - start;
                if end > stage {
                    end = stage.runtime();
                }
                for j in 0..end {
                    let (t, at) = (start + j, j * key);
                    let row = first + t * heads;
                    if comptime!(save) {
                        if t % CHUNK == 0 {
                            let place = (pair * chunks + t / CHUNK) * key;
                            #[unroll]
                            for n in 0..key {
                                saved[(place + n) * value + i] = s[n];
                            }
                        }
                    }
                    let mut sa = 0.0f32;
                    if comptime!(has_ab) {
                        #[unroll]
                        for n in 0..key {
                            sa += s[n] * a_t[at + n];
                        }
                    }
                    let v_i = v_t[j * value + i];
                    let mut y = 0.0f32;
                    #[unroll]
                    for n in 0..key {
                        let mut next = s[n] * w_t[at + n] + k_t[at + n] * v_i;
                        if comptime!(has_ab) {
                            next += b_t[at + n] * sa;
                        }
                        s[n] = next;
                        y += next * r_t[at + n];
                    }
                    packed[row * value + i] = y * scale;
                    if comptime!(save) {
                        saved[sas + row * value + i] = sa;
                    }
                    if comptime!(keep) {
                        saved[sas + outputs + row * value + i] = y;
                    }
                }
            }
        }
        if comptime!(final_state) {
            if i < value {
                #[unroll]
                for n in 0..key {
                    packed[outputs + (pair * key + n) * value + i] = s[n];
                }
            }
        }
    }
}

#[cube(launch)]
fn recurrence_backward(
    r: &Tensor<f32>,
    logw: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    a: &Tensor<f32>,
    b: &Tensor<f32>,
    saved: &Tensor<f32>,
    gradient: &Tensor<f32>,
    out: &mut Tensor<f32>,
    scale: f32,
    pairs: u32,
    tokens: u32,
    heads: u32,
    outputs: u32,
    // Where each gradient starts in `out`, and the states inside a chunk.
    d_r: u32,
    d_logw: u32,
    d_k: u32,
    d_v: u32,
    d_state: u32,
    d_a: u32,
    d_b: u32,
    scratch: u32,
    #[comptime] key: usize,
    #[comptime] value: usize,
    #[comptime] decays: usize,
    #[comptime] stage: usize,
    #[comptime] has_ab: bool,
    #[comptime] final_state: bool,
) {
    let mut r_t = Shared::new_slice(stage * key);
    let mut w_t = Shared::new_slice(stage * key);
    let mut k_t = Shared::new_slice(stage * key);
    let mut a_t = Shared::new_slice(stage * key);
    let mut b_t = Shared::new_slice(stage * key);
    let mut v_t = Shared::new_slice(stage * value);
    let mut d_y = Shared::new_slice(stage * value);
    let mut sa = Shared::new_slice(stage * value);
    let mut d_sa = Shared::new_slice(stage * value);
    let pair = CUBE_POS;
    if pair < pairs as usize {
        let (tokens, heads, outputs) = (tokens as usize, heads as usize, outputs as usize);
        let (d_r, d_logw, d_k, d_v) = (d_r as usize, d_logw as usize, d_k as usize, d_v as usize);
        let (d_state, d_a, d_b, scratch) = (d_state as usize, d_a as usize, d_b as usize, scratch as usize);
        let i = UNIT_POS as usize;
        let first = pair / heads * tokens * heads + pair % heads;
        let chunks = tokens.div_ceil(CHUNK);
        let sas = pairs as usize * chunks * key * value;
        // Unit i's row of the state, and its row and column of the gradient.
        let mut s = Array::<f32>::new(value);
        let mut d_row = Array::<f32>::new(value);
        let mut d_column = Array::<f32>::new(key);
        #[unroll]
        for j in 0..value {
            d_row[j] = 0.0f32;
        }
        #[unroll]
        for n in 0..key {
            d_column[n] = 0.0f32;
        }
        if comptime!(final_state) {
            let place = outputs + pair * key * value;
            if i < key {
                #[unroll]
                for j in 0..value {
                    d_row[j] = gradient[place + i * value + j];
                }
            }
            if i < value {
                #[unroll]
                for n in 0..key {
                    d_column[n] = gradient[place + n * value + i];
                }
            }
        }
        for back in 0..chunks {
            let chunk = chunks - 1 - back;
            let start = chunk * CHUNK;
            let mut count = tokens - start;
            if count > CHUNK {
                count = CHUNK.runtime();
            }
            let fetches = count.div_ceil(stage);
            // The states before each token of the chunk.
            if i < key {
                let place = (pair * chunks + chunk) * key;
                #[unroll]
                for j in 0..value {
                    s[j] = saved[(place + i) * value + j];
                }
            }
            for fetch in 0..fetches {
                let begin = fetch * stage;
                sync_cube();
                #[unroll]
                for j in 0..stage {
                    if begin + j < count {
                        let row = first + (start + begin + j) * heads;
                        if i < value {
                            v_t[j * value + i] = v[row * value + i];
                            sa[j * value + i] = saved[sas + row * value + i];
                        }
                        // Its own channel is all that a unit asks of these here.
                        if i < key {
                            k_t[j * key + i] = k[row * key + i];
                            if comptime!(decays == 1) {
                                w_t[j * key + i] = logw[row].exp();
                            } else {
                                w_t[j * key + i] = logw[row * key + i].exp();
                            }
                            if comptime!(has_ab) {
                                b_t[j * key + i] = b[row * key + i];
                            }
                        }
                    }
                }
                sync_cube();
                if i < key {
                    let mut end = count - begin;
                    if end > stage {
                        end = stage.runtime();
                    }
                    for t in 0..end {
                        let place = (pair * CHUNK + begin + t) * value;
                        let (w, k_i) = (w_t[t * key + i], k_t[t * key + i]);
                        let mut b_i = 0.0f32;
                        if comptime!(has_ab) {
                            b_i = b_t[t * key + i];
                        }
                        let at = t * value;
                        #[unroll]
                        for j in 0..value {
                            out[scratch + (place + j) * key + i] = s[j];
                            s[j] = s[j] * w + k_i * v_t[at + j] + b_i * sa[at + j];
                        }
                    }
                }
            }
            for back in 0..fetches {
                let begin = (fetches - 1 - back) * stage;
                sync_cube();
                #[unroll]
                for j in 0..stage {
                    if begin + j < count {
                        let row = first + (start + begin + j) * heads;
                        if i < key {
                            r_t[j * key + i] = r[row * key + i];
                            k_t[j * key + i] = k[row * key + i];
                            if comptime!(decays == 1) {
                                w_t[j * key + i] = logw[row].exp();
                            } else {
                                w_t[j * key + i] = logw[row * key + i].exp();
                            }
                            if comptime!(has_ab) {
                                a_t[j * key + i] = a[row * key + i];
                                b_t[j * key + i] = b[row * key + i];
                            }
                        }
                        if i < value {
                            v_t[j * value + i] = v[row * value + i];
                            d_y[j * value + i] = scale * gradient[row * value + i];
                            sa[j * value + i] = saved[sas + row * value + i];
                        }
                    }
                }
                sync_cube();
                let mut end = count - begin;
                if end > stage {
                    end = stage.runtime();
                }
                for later in 0..end {
                    let t = end - 1 - later;
                    let row = first + (start + begin + t) * heads;
                    let (of_key, of_value) = (t * key, t * value);
                    if i < key {
                        let place = (pair * CHUNK + begin + t) * value;
                        let r_i = r_t[of_key + i];
                        let mut to_r = 0.0f32;
                        let mut to_w = 0.0f32;
                        let mut to_k = 0.0f32;
                        let mut to_b = 0.0f32;
                        #[unroll]
                        for j in 0..value {
                            to_r += s[j] * d_y[of_value + j];
                            let d = d_row[j] + r_i * d_y[of_value + j];
                            d_row[j] = d;
                            // From now on the state before this token.
                            s[j] = out[scratch + (place + j) * key + i];
                            to_w += d * s[j];
                            to_k += d * v_t[of_value + j];
                            to_b += d * sa[of_value + j];
                        }
                        out[d_r + row * key + i] = to_r;
                        out[d_logw + row * key + i] = to_w * w_t[of_key + i];
                        out[d_k + row * key + i] = to_k;
                        if comptime!(has_ab) {
                            out[d_b + row * key + i] = to_b;
                        }
                    }
                    if i < value {
                        let d_y_i = d_y[of_value + i];
                        let mut to_v = 0.0f32;
                        let mut to_sa = 0.0f32;
                        #[unroll]
                        for n in 0..key {
                            let d = d_column[n] + r_t[of_key + n] * d_y_i;
                            d_column[n] = d;
                            to_v += d * k_t[of_key + n];
                            if comptime!(has_ab) {
                                to_sa += d * b_t[of_key + n];
                            }
                        }
                        out[d_v + row * value + i] = to_v;
                        d_sa[of_value + i] = to_sa;
                        #[unroll]
                        for n in 0..key {
                            let mut d = d_column[n] * w_t[of_key + n];
                            if comptime!(has_ab) {
                                d += a_t[of_key + n] * to_sa;
                            }
                            d_column[n] = d;
                        }
                    }
                    if comptime!(has_ab) {
                        // Every token's has a place of its own: one barrier is enough.
                        sync_cube();
                    }
                    if i < key {
                        let w_i = w_t[of_key + i];
                        let mut a_i = 0.0f32;
                        if comptime!(has_ab) {
                            a_i = a_t[of_key + i];
                        }
                        let mut to_a = 0.0f32;
                        #[unroll]
                        for j in 0..value {
                            let mut d = d_row[j] * w_i;
                            if comptime!(has_ab) {
                                to_a += s[j] * d_sa[of_value + j];
                                d += a_i * d_sa[of_value + j];
                            }
                            d_row[j] = d;
                        }
                        if comptime!(has_ab) {
                            out[d_a + row * key + i] = to_a;
                        }
                    }
                }
            }
        }
        if i < key {
            #[unroll]
            for j in 0..value {
                out[d_state + (pair * key + i) * value + j] = d_row[j];
            }
        }
    }
}
