//! GPU: one cube a head, one unit a channel, token after token with the state in registers.
//!
//! Forward, unit `v` owns the column `S[:, v]`: it reads what the token brings from shared memory
//! and needs nobody else. The states at the beginning of every [`CHUNK`] tokens are saved, and
//! `S^T a` of every token. Backward, unit `i` owns the row `S[i, :]` and both a row and a column of
//! the state's gradient, so that every sum runs inside one unit; the states inside a chunk are made
//! again from its beginning and kept in scratch memory. Nothing is divided by a decay.

use super::layer::{Options, States};
use crate::cube::{CubeTensor, Gpu, Together, contiguous, cubes, nothing, reshaped, room};
use burn::backend::ops::FloatTensorOps;
use cubecl::prelude::*;

/// Tokens between saved states.
const CHUNK: usize = 32;

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
}

/// Gradients of [`Inputs`], in its shapes.
pub struct Gradients {
    pub r: CubeTensor,
    pub logw: CubeTensor,
    pub k: CubeTensor,
    pub v: CubeTensor,
    pub ab: Option<(CubeTensor, CubeTensor)>,
    pub state: CubeTensor,
}

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
}

/// Outputs and, behind them, the final states where they are wanted; saved are the states at the
/// chunks' beginnings and, behind them, `S^T a` of every token.
pub fn run(options: &Options, inputs: Inputs) -> (CubeTensor, CubeTensor) {
    let sizes = Sizes::of(&inputs);
    let finals = if options.states == States::Last { sizes.pairs() * sizes.state() } else { 0 };
    let packed = room(&inputs.r, &[sizes.outputs() + finals]);
    let saved = if options.save {
        room(&inputs.r, &[sizes.pairs() * sizes.chunks() * sizes.state() + sizes.outputs()])
    } else {
        nothing(&inputs.r)
    };
    let client = inputs.r.client.clone();
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
        sizes.pairs() as u32,
        sizes.tokens as u32,
        sizes.heads as u32,
        sizes.outputs() as u32,
        sizes.key,
        sizes.value,
        sizes.decays,
        has_ab,
        options.save,
        options.states == States::Last,
    );
    (packed, saved)
}

/// The gradients of every input from that of the packed output.
pub fn gradients(options: &Options, inputs: Inputs, saved: CubeTensor, gradient: CubeTensor) -> Gradients {
    let sizes = Sizes::of(&inputs);
    let keys = inputs.k.meta.shape().to_vec();
    let mut all = Together::default();
    let [d_r, d_logw, d_k] = [(); 3].map(|()| all.add(&keys));
    let d_v = all.add(inputs.v.meta.shape());
    let d_state = all.add(inputs.state.meta.shape());
    let has_ab = inputs.ab.is_some();
    let [d_a, d_b] = [(); 2].map(|()| if has_ab { all.add(&keys) } else { 0 });
    let scratch = all.add(&[sizes.pairs() * CHUNK * sizes.state()]);
    let out = all.room(&inputs.r);
    let client = inputs.r.client.clone();
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
        out.clone().into_tensor_arg(),
        sizes.pairs() as u32,
        sizes.tokens as u32,
        sizes.heads as u32,
        sizes.outputs() as u32,
        d_r,
        d_logw,
        d_k,
        d_v,
        d_state,
        d_a,
        d_b,
        scratch,
        sizes.key,
        sizes.value,
        sizes.decays,
        has_ab,
        options.states == States::Last,
    );
    let mut parts = all.parts(&out);
    let mut next = || parts.next().expect("one part for every array that was added");
    let (d_r, d_logw, d_k, d_v, d_state) = (next(), next(), next(), next(), next());
    let d_ab = has_ab.then(|| (next(), next()));
    let d_logw = if sizes.decays == sizes.key {
        d_logw
    } else {
        let shape = [sizes.batch, sizes.tokens, sizes.heads, 1];
        reshaped(contiguous(Gpu::float_sum_dim(d_logw, 3)), &shape)
    };
    Gradients { r: d_r, logw: d_logw, k: d_k, v: d_v, ab: d_ab, state: d_state }
}

type Tensors = [CubeTensor; 7];

fn named([r, logw, k, v, a, b, state]: Tensors) -> Inputs {
    Inputs { r, logw, k, v, ab: Some((a, b)), state }
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
    let of = gradients(options, named(inputs), saved, gradient);
    let (a, b) = of.ab.unzip();
    [Some(of.r), Some(of.logw), Some(of.k), Some(of.v), a, b, Some(of.state)]
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
    pairs: u32,
    tokens: u32,
    heads: u32,
    outputs: u32,
    #[comptime] key: usize,
    #[comptime] value: usize,
    #[comptime] decays: usize,
    #[comptime] has_ab: bool,
    #[comptime] save: bool,
    #[comptime] final_state: bool,
) {
    let mut r_t = Shared::new_slice(key);
    let mut w_t = Shared::new_slice(key);
    let mut k_t = Shared::new_slice(key);
    let mut a_t = Shared::new_slice(key);
    let mut b_t = Shared::new_slice(key);
    let pair = CUBE_POS;
    if pair < pairs as usize {
        let (tokens, heads, outputs) = (tokens as usize, heads as usize, outputs as usize);
        let i = UNIT_POS as usize;
        let first = pair / heads * tokens * heads + pair % heads;
        let chunks = tokens.div_ceil(CHUNK);
        let mut s = Array::<f32>::new(key);
        if i < value {
            for n in 0..key {
                s[n] = state[(pair * key + n) * value + i];
            }
        }
        for t in 0..tokens {
            let row = first + t * heads;
            sync_cube();
            if i < key {
                r_t[i] = r[row * key + i];
                k_t[i] = k[row * key + i];
                if comptime!(decays == 1) {
                    w_t[i] = logw[row].exp();
                } else {
                    w_t[i] = logw[row * key + i].exp();
                }
                if comptime!(has_ab) {
                    a_t[i] = a[row * key + i];
                    b_t[i] = b[row * key + i];
                }
            }
            sync_cube();
            if i < value {
                if comptime!(save) {
                    if t % CHUNK == 0 {
                        let place = (pair * chunks + t / CHUNK) * key;
                        for n in 0..key {
                            saved[(place + n) * value + i] = s[n];
                        }
                    }
                }
                let mut sa = 0.0f32;
                if comptime!(has_ab) {
                    for n in 0..key {
                        sa += s[n] * a_t[n];
                    }
                }
                let v_t = v[row * value + i];
                let mut y = 0.0f32;
                for n in 0..key {
                    let mut next = s[n] * w_t[n] + k_t[n] * v_t;
                    if comptime!(has_ab) {
                        next += b_t[n] * sa;
                    }
                    s[n] = next;
                    y += next * r_t[n];
                }
                packed[row * value + i] = y;
                if comptime!(save) {
                    saved[pairs as usize * chunks * key * value + row * value + i] = sa;
                }
            }
        }
        if comptime!(final_state) {
            if i < value {
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
    #[comptime] has_ab: bool,
    #[comptime] final_state: bool,
) {
    let mut r_t = Shared::new_slice(key);
    let mut w_t = Shared::new_slice(key);
    let mut k_t = Shared::new_slice(key);
    let mut a_t = Shared::new_slice(key);
    let mut b_t = Shared::new_slice(key);
    let mut v_t = Shared::new_slice(value);
    let mut d_y = Shared::new_slice(value);
    let mut sa = Shared::new_slice(value);
    let mut d_sa = Shared::new_slice(value);
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
        for j in 0..value {
            d_row[j] = 0.0f32;
        }
        for n in 0..key {
            d_column[n] = 0.0f32;
        }
        if comptime!(final_state) {
            let place = outputs + pair * key * value;
            if i < key {
                for j in 0..value {
                    d_row[j] = gradient[place + i * value + j];
                }
            }
            if i < value {
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
            // The states before each token of the chunk.
            if i < key {
                let place = (pair * chunks + chunk) * key;
                for j in 0..value {
                    s[j] = saved[(place + i) * value + j];
                }
            }
            for t in 0..count {
                let row = first + (start + t) * heads;
                sync_cube();
                if i < value {
                    v_t[i] = v[row * value + i];
                    sa[i] = saved[sas + row * value + i];
                }
                sync_cube();
                if i < key {
                    let place = (pair * CHUNK + t) * value;
                    let w = if comptime!(decays == 1) { logw[row].exp() } else { logw[row * key + i].exp() };
                    let k_i = k[row * key + i];
                    let mut b_i = 0.0f32;
                    if comptime!(has_ab) {
                        b_i = b[row * key + i];
                    }
                    for j in 0..value {
                        out[scratch + (place + j) * key + i] = s[j];
                        s[j] = s[j] * w + k_i * v_t[j] + b_i * sa[j];
                    }
                }
            }
            for later in 0..count {
                let t = count - 1 - later;
                let row = first + (start + t) * heads;
                sync_cube();
                if i < key {
                    r_t[i] = r[row * key + i];
                    k_t[i] = k[row * key + i];
                    if comptime!(decays == 1) {
                        w_t[i] = logw[row].exp();
                    } else {
                        w_t[i] = logw[row * key + i].exp();
                    }
                    if comptime!(has_ab) {
                        a_t[i] = a[row * key + i];
                        b_t[i] = b[row * key + i];
                    }
                }
                if i < value {
                    v_t[i] = v[row * value + i];
                    d_y[i] = gradient[row * value + i];
                    sa[i] = saved[sas + row * value + i];
                }
                sync_cube();
                if i < key {
                    let place = (pair * CHUNK + t) * value;
                    let mut to_r = 0.0f32;
                    let mut to_w = 0.0f32;
                    let mut to_k = 0.0f32;
                    let mut to_b = 0.0f32;
                    for j in 0..value {
                        to_r += s[j] * d_y[j];
                        let d = d_row[j] + r_t[i] * d_y[j];
                        d_row[j] = d;
                        // From now on the state before this token.
                        s[j] = out[scratch + (place + j) * key + i];
                        to_w += d * s[j];
                        to_k += d * v_t[j];
                        to_b += d * sa[j];
                    }
                    out[d_r + row * key + i] = to_r;
                    out[d_logw + row * key + i] = to_w * w_t[i];
                    out[d_k + row * key + i] = to_k;
                    if comptime!(has_ab) {
                        out[d_b + row * key + i] = to_b;
                    }
                }
                if i < value {
                    let mut to_v = 0.0f32;
                    let mut to_sa = 0.0f32;
                    for n in 0..key {
                        let d = d_column[n] + r_t[n] * d_y[i];
                        d_column[n] = d;
                        to_v += d * k_t[n];
                        if comptime!(has_ab) {
                            to_sa += d * b_t[n];
                        }
                    }
                    out[d_v + row * value + i] = to_v;
                    d_sa[i] = to_sa;
                    for n in 0..key {
                        let mut d = d_column[n] * w_t[n];
                        if comptime!(has_ab) {
                            d += a_t[n] * to_sa;
                        }
                        d_column[n] = d;
                    }
                }
                sync_cube();
                if i < key {
                    let mut to_a = 0.0f32;
                    for j in 0..value {
                        let mut d = d_row[j] * w_t[i];
                        if comptime!(has_ab) {
                            to_a += s[j] * d_sa[j];
                            d += a_t[i] * d_sa[j];
                        }
                        d_row[j] = d;
                    }
                    if comptime!(has_ab) {
                        out[d_a + row * key + i] = to_a;
                    }
                }
            }
        }
        if i < key {
            for j in 0..value {
                out[d_state + (pair * key + i) * value + j] = d_row[j];
            }
        }
    }
}
