//! The kernels: a gate on the outputs, the recurrence, and both ways back.

use super::CHUNK;
use cubecl::prelude::*;

#[cube(launch)]
pub fn multiplied(gate: &Tensor<f32>, packed: &mut Tensor<f32>, outputs: u32) {
    let i = ABSOLUTE_POS;
    if i < outputs as usize {
        packed[i] *= gate[i];
    }
}

// Of the outputs before the gate, which does not reach the states behind them.
#[cube(launch)]
pub fn multiplied_backward(
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

/// What channel `i` of a head keeps of its state; some layers have one decay a head.
#[cube]
fn decay(logw: &Tensor<f32>, row: usize, i: usize, #[comptime] key: usize, #[comptime] decays: usize) -> f32 {
    if comptime!(decays == 1) { logw[row].exp() } else { logw[row * key + i].exp() }
}

#[cube(launch)]
pub fn recurrence(
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
                        w_t[j * key + i] = decay(logw, row, i, key, decays);
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
                let end = (tokens - start).min(stage);
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
pub fn recurrence_backward(
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
            let count = (tokens - start).min(CHUNK);
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
                            w_t[j * key + i] = decay(logw, row, i, key, decays);
                            if comptime!(has_ab) {
                                b_t[j * key + i] = b[row * key + i];
                            }
                        }
                    }
                }
                sync_cube();
                if i < key {
                    let end = (count - begin).min(stage);
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
                            w_t[j * key + i] = decay(logw, row, i, key, decays);
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
                let end = (count - begin).min(stage);
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
