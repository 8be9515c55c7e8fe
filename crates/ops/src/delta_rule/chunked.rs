//! Chunk by chunk: matrix products inside a chunk, one state product between chunks.
//!
//! With `G` the inclusive cumulative sum of `logw` in the chunk and `E = G - logw`
//! (`spec`: RADLADS notes 2.7; derivation by unrolling the recurrence over a chunk):
//!
//! ```text
//! Aqk[i,j] = sum_n r_i k_j e^{G_i-G_j}  (j<=i)     Aqb likewise with b
//! Aak[i,j] = sum_n a_i k_j e^{E_i-G_j}  (j<i)      Aab likewise with b
//! U  = (I - Aab)^{-1} ( (a e^E) S0 + Aak V )
//! O  = (r e^G) S0 + Aqk V + Aqb U
//! S' = diag(e^{Gc}) S0 + (k e^{Gc-G})^T V + (b e^{Gc-G})^T U
//! ```
//!
//! Every exponent is a difference of cumulative sums. Where a chunk's whole decay is moderate the
//! differences are factored around their middle, so that the four score matrices are plain
//! products; where it is not (a decay of e^-20 a token), they are taken pair by pair.

use super::heads::{Dims, Head, HeadGradients};
use crate::cpu::{Matrix, exp, matmul};

/// Largest half-range of a chunk's cumulative log decay for the factored form: e^40 leaves room
/// for products and sums in f32.
const FACTORED_LIMIT: f32 = 40.0;

/// Outputs `[T, V]`; `state` is advanced. `starts` receives the state at every chunk's start and
/// after the last one.
pub fn forward(dims: &Dims, head: &Head, state: &mut [f32], chunk: usize, mut starts: Option<&mut Vec<f32>>) -> Vec<f32> {
    let mut outputs = vec![0.0; dims.tokens * dims.value];
    for start in (0..dims.tokens).step_by(chunk) {
        if let Some(starts) = starts.as_deref_mut() {
            starts.extend_from_slice(state);
        }
        let c = Chunk::new(dims, head, start, chunk.min(dims.tokens - start), state);
        c.outputs(state, &mut outputs[start * dims.value..(start + c.len) * dims.value]);
        c.advance(state);
    }
    if let Some(starts) = starts {
        starts.extend_from_slice(state);
    }
    outputs
}

/// Gradients of a head from `d_outputs` `[T, V]` and the gradient of the final state.
pub fn backward(dims: &Dims, head: &Head, starts: &[f32], d_outputs: &[f32], d_final: Vec<f32>, chunk: usize) -> HeadGradients {
    let (key, value) = (dims.key, dims.value);
    let zeros = |width: usize| vec![0.0; dims.tokens * width];
    let mut g = HeadGradients {
        r: zeros(key),
        logw: zeros(key),
        k: zeros(key),
        v: zeros(value),
        ab: head.ab.as_ref().map(|_| (zeros(key), zeros(key))),
        state: d_final,
    };
    let size = key * value;
    for index in (0..dims.tokens.div_ceil(chunk)).rev() {
        let start = index * chunk;
        let before = &starts[index * size..(index + 1) * size];
        let after = &starts[(index + 1) * size..(index + 2) * size];
        let c = Chunk::new(dims, head, start, chunk.min(dims.tokens - start), before);
        c.backward(before, after, &d_outputs[start * value..(start + c.len) * value], &mut g, start);
    }
    g
}

/// What forward and backward of one chunk share.
struct Chunk<'a> {
    len: usize,
    key: usize,
    value: usize,
    r: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// Inclusive cumulative sum of logw, `[c, K]`.
    g: Vec<f32>,
    /// Middle of the range of `g`, `[K]`: the point around which exponents are factored.
    middle: Vec<f32>,
    factored: bool,
    aqk: Vec<f32>,
    delta: Option<Delta<'a>>,
}

/// The rank-one part.
struct Delta<'a> {
    a: &'a [f32],
    b: &'a [f32],
    /// Exclusive cumulative sum, `[c, K]`.
    e: Vec<f32>,
    aqb: Vec<f32>,
    aak: Vec<f32>,
    aab: Vec<f32>,
    /// All `sa` of the chunk, `[c, V]`.
    u: Vec<f32>,
}

impl<'a> Chunk<'a> {
    fn new(dims: &Dims, head: &'a Head, start: usize, len: usize, state: &[f32]) -> Self {
        let (key, value) = (dims.key, dims.value);
        let rows = |x: &'a [f32], width: usize| &x[start * width..(start + len) * width];
        let logw = rows(&head.logw, key);
        let mut g = logw.to_vec();
        for i in key..len * key {
            g[i] += g[i - key];
        }
        let last = &g[(len - 1) * key..];
        let middle: Vec<f32> = last.iter().map(|x| 0.5 * x).collect();
        let factored = middle.iter().all(|x| x.abs() <= FACTORED_LIMIT);
        let mut c = Chunk {
            len,
            key,
            value,
            r: rows(&head.r, key),
            k: rows(&head.k, key),
            v: rows(&head.v, value),
            g,
            middle,
            factored,
            aqk: Vec::new(),
            delta: None,
        };
        c.aqk = c.scores(c.r, &c.g, c.k, false);
        if let Some((a, b)) = &head.ab {
            let (a, b) = (rows(a, key), rows(b, key));
            let e: Vec<f32> = c.g.iter().zip(logw).map(|(g, w)| g - w).collect();
            let aqb = c.scores(c.r, &c.g, b, false);
            let aak = c.scores(a, &e, c.k, true);
            let aab = c.scores(a, &e, b, true);
            let mut u = vec![0.0; len * value];
            let a0 = scaled(a, &e);
            matmul(&mut u, value, 0.0, Matrix::new(&a0, len, key), Matrix::new(state, key, value));
            matmul(&mut u, value, 1.0, Matrix::new(&aak, len, len), Matrix::new(c.v, len, value));
            solve(&aab, &mut u, len, value);
            c.delta = Some(Delta { a, b, e, aqb, aak, aab, u });
        }
        c
    }

    fn outputs(&self, state: &[f32], out: &mut [f32]) {
        let (c, key, value) = (self.len, self.key, self.value);
        let q0 = scaled(self.r, &self.g);
        matmul(out, value, 0.0, Matrix::new(&q0, c, key), Matrix::new(state, key, value));
        matmul(out, value, 1.0, Matrix::new(&self.aqk, c, c), Matrix::new(self.v, c, value));
        if let Some(d) = &self.delta {
            matmul(out, value, 1.0, Matrix::new(&d.aqb, c, c), Matrix::new(&d.u, c, value));
        }
    }

    fn advance(&self, state: &mut [f32]) {
        let (c, key, value) = (self.len, self.key, self.value);
        for (row, &total) in state.chunks_mut(value).zip(self.total()) {
            let w = exp(total);
            row.iter_mut().for_each(|s| *s *= w);
        }
        let k1 = self.to_end(self.k);
        matmul(state, value, 1.0, Matrix::new(&k1, c, key).t(), Matrix::new(self.v, c, value));
        if let Some(d) = &self.delta {
            let b1 = self.to_end(d.b);
            matmul(state, value, 1.0, Matrix::new(&b1, c, key).t(), Matrix::new(&d.u, c, value));
        }
    }

    /// Writes the chunk's gradients into `out` and turns `out.state` from the gradient of the
    /// state after the chunk into that of the state before it.
    fn backward(&self, before: &[f32], after: &[f32], d_o: &[f32], out: &mut HeadGradients, start: usize) {
        let (c, key, value) = (self.len, self.key, self.value);
        let d_o_m = Matrix::new(d_o, c, value);
        let d_after = std::mem::take(&mut out.state);
        let d_after_m = Matrix::new(&d_after, key, value);
        let before_m = Matrix::new(before, key, value);
        let v_m = Matrix::new(self.v, c, value);
        let k1 = self.to_end(self.k);
        let q0 = scaled(self.r, &self.g);

        // dV = Aqk^T dO + K_ dS' (+ Aak^T dX)
        let d_v = &mut out.v[start * value..(start + c) * value];
        matmul(d_v, value, 0.0, Matrix::new(&self.aqk, c, c).t(), d_o_m);
        matmul(d_v, value, 1.0, Matrix::new(&k1, c, key), d_after_m);

        let d_aqk = lower(product(d_o_m, v_m.t(), c, c), c, false);
        // dr, dk without the rank-one part
        let mut d_r = product(d_o_m, before_m.t(), c, key);
        scale_by_exp(&mut d_r, &self.g);
        self.add_left(&mut d_r, &self.g, &d_aqk, self.k);
        let mut d_k = product(v_m, d_after_m.t(), c, key);
        self.scale_to_end(&mut d_k);
        self.add_right(&mut d_k, &d_aqk, self.r, &self.g);

        // Gradient of the state before the chunk.
        let mut d_before = d_after.clone();
        for (row, &total) in d_before.chunks_mut(value).zip(self.total()) {
            let w = exp(total);
            row.iter_mut().for_each(|s| *s *= w);
        }
        matmul(&mut d_before, value, 1.0, Matrix::new(&q0, c, key).t(), d_o_m);

        // Reverse-cumulative terms of dlogw, filled as the gradients become known.
        let mut inclusive = vec![0.0; c * key];
        let mut exclusive = None;

        if let Some(d) = &self.delta {
            let b1 = self.to_end(d.b);
            let u_m = Matrix::new(&d.u, c, value);
            // dU = Aqb^T dO + B_ dS' ; dX = (I - Aab)^{-T} dU
            let mut d_x = product(Matrix::new(&d.aqb, c, c).t(), d_o_m, c, value);
            matmul(&mut d_x, value, 1.0, Matrix::new(&b1, c, key), d_after_m);
            solve_transposed(&d.aab, &mut d_x, c, value);
            let d_x_m = Matrix::new(&d_x, c, value);
            matmul(d_v, value, 1.0, Matrix::new(&d.aak, c, c).t(), d_x_m);

            let d_aqb = lower(product(d_o_m, u_m.t(), c, c), c, false);
            let d_aak = lower(product(d_x_m, v_m.t(), c, c), c, true);
            let d_aab = lower(product(d_x_m, u_m.t(), c, c), c, true);

            self.add_left(&mut d_r, &self.g, &d_aqb, d.b);
            let mut d_a = product(d_x_m, before_m.t(), c, key);
            scale_by_exp(&mut d_a, &d.e);
            self.add_left(&mut d_a, &d.e, &d_aak, self.k);
            self.add_left(&mut d_a, &d.e, &d_aab, d.b);
            self.add_right(&mut d_k, &d_aak, d.a, &d.e);
            let mut d_b = product(u_m, d_after_m.t(), c, key);
            self.scale_to_end(&mut d_b);
            self.add_right(&mut d_b, &d_aqb, self.r, &self.g);
            self.add_right(&mut d_b, &d_aab, d.a, &d.e);

            let a0 = scaled(d.a, &d.e);
            matmul(&mut d_before, value, 1.0, Matrix::new(&a0, c, key).t(), d_x_m);
            for i in 0..c * key {
                inclusive[i] -= d.b[i] * d_b[i];
            }
            exclusive = Some((0..c * key).map(|i| d.a[i] * d_a[i]).collect::<Vec<f32>>());
            let (out_a, out_b) = out.ab.as_mut().expect("gradients of a and b were allocated");
            out_a[start * key..(start + c) * key].copy_from_slice(&d_a);
            out_b[start * key..(start + c) * key].copy_from_slice(&d_b);
        }

        for i in 0..c * key {
            inclusive[i] += self.r[i] * d_r[i] - self.k[i] * d_k[i];
        }
        let d_logw = &mut out.logw[start * key..(start + c) * key];
        let mut running: Vec<f32> = after
            .chunks(value)
            .zip(d_after.chunks(value))
            .map(|(s, d)| s.iter().zip(d).map(|(s, d)| s * d).sum())
            .collect();
        for m in (0..c).rev() {
            for n in 0..key {
                let i = m * key + n;
                running[n] += inclusive[i];
                d_logw[i] = running[n];
                if let Some(exclusive) = &exclusive {
                    running[n] += exclusive[i];
                }
            }
        }
        out.r[start * key..(start + c) * key].copy_from_slice(&d_r);
        out.k[start * key..(start + c) * key].copy_from_slice(&d_k);
        out.state = d_before;
    }

    /// The chunk's whole log decay, `[K]`.
    fn total(&self) -> &[f32] {
        &self.g[(self.len - 1) * self.key..]
    }

    /// `x_j e^{Gc - G_j}`.
    fn to_end(&self, x: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        self.scale_to_end(&mut out);
        out
    }

    fn scale_to_end(&self, x: &mut [f32]) {
        let total = self.total();
        for (row, g) in x.chunks_mut(self.key).zip(self.g.chunks(self.key)) {
            for ((x, g), t) in row.iter_mut().zip(g).zip(total) {
                *x *= exp(t - g);
            }
        }
    }

    /// `x_i e^{at_i - middle}`: the left factor of a score.
    fn left_factor(&self, x: &[f32], at: &[f32]) -> Vec<f32> {
        let mut out = x.to_vec();
        for (row, at) in out.chunks_mut(self.key).zip(at.chunks(self.key)) {
            for ((x, at), m) in row.iter_mut().zip(at).zip(&self.middle) {
                *x *= exp(at - m);
            }
        }
        out
    }

    /// `y_j e^{middle - G_j}`: the right factor of a score.
    fn right_factor(&self, y: &[f32]) -> Vec<f32> {
        let mut out = y.to_vec();
        for (row, g) in out.chunks_mut(self.key).zip(self.g.chunks(self.key)) {
            for ((y, g), m) in row.iter_mut().zip(g).zip(&self.middle) {
                *y *= exp(m - g);
            }
        }
        out
    }

    /// `A[i,j] = sum_n x_i y_j e^{at_i - G_j}` below the diagonal (and on it unless `strict`).
    fn scores(&self, x: &[f32], at: &[f32], y: &[f32], strict: bool) -> Vec<f32> {
        let (c, key) = (self.len, self.key);
        if self.factored {
            let (x, y) = (self.left_factor(x, at), self.right_factor(y));
            return lower(product(Matrix::new(&x, c, key), Matrix::new(&y, c, key).t(), c, c), c, strict);
        }
        let mut out = vec![0.0; c * c];
        self.pairs(strict, |i, j| {
            out[i * c + j] = (0..key)
                .map(|n| x[i * key + n] * y[j * key + n] * exp(at[i * key + n] - self.g[j * key + n]))
                .sum();
        });
        out
    }

    /// `out_i += sum_j A[i,j] e^{at_i - G_j} y_j`.
    fn add_left(&self, out: &mut [f32], at: &[f32], scores: &[f32], y: &[f32]) {
        let (c, key) = (self.len, self.key);
        if self.factored {
            let y = self.right_factor(y);
            let sums = product(Matrix::new(scores, c, c), Matrix::new(&y, c, key), c, key);
            let sums = self.left_factor(&sums, at);
            out.iter_mut().zip(&sums).for_each(|(o, s)| *o += s);
            return;
        }
        self.pairs(false, |i, j| {
            let score = scores[i * c + j];
            if score != 0.0 {
                for n in 0..key {
                    out[i * key + n] += score * exp(at[i * key + n] - self.g[j * key + n]) * y[j * key + n];
                }
            }
        });
    }

    /// `out_j += sum_i A[i,j] e^{at_i - G_j} x_i`.
    fn add_right(&self, out: &mut [f32], scores: &[f32], x: &[f32], at: &[f32]) {
        let (c, key) = (self.len, self.key);
        if self.factored {
            let x = self.left_factor(x, at);
            let sums = product(Matrix::new(scores, c, c).t(), Matrix::new(&x, c, key), c, key);
            let sums = self.right_factor(&sums);
            out.iter_mut().zip(&sums).for_each(|(o, s)| *o += s);
            return;
        }
        self.pairs(false, |i, j| {
            let score = scores[i * c + j];
            if score != 0.0 {
                for n in 0..key {
                    out[j * key + n] += score * exp(at[i * key + n] - self.g[j * key + n]) * x[i * key + n];
                }
            }
        });
    }

    /// Every causal pair `(i, j)`.
    fn pairs(&self, strict: bool, mut f: impl FnMut(usize, usize)) {
        for i in 0..self.len {
            for j in 0..if strict { i } else { i + 1 } {
                f(i, j);
            }
        }
    }
}

fn product(left: Matrix<'_>, right: Matrix<'_>, rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    matmul(&mut out, columns, 0.0, left, right);
    out
}

/// Zeroes what lies above the diagonal (and on it when `strict`), by selection: an entry there may
/// be infinite, and 0 * inf is not 0.
fn lower(mut matrix: Vec<f32>, size: usize, strict: bool) -> Vec<f32> {
    for i in 0..size {
        matrix[i * size + i + usize::from(!strict)..(i + 1) * size].fill(0.0);
    }
    matrix
}

fn scaled(x: &[f32], log_scale: &[f32]) -> Vec<f32> {
    x.iter().zip(log_scale).map(|(x, g)| x * exp(*g)).collect()
}

fn scale_by_exp(x: &mut [f32], log_scale: &[f32]) {
    x.iter_mut().zip(log_scale).for_each(|(x, g)| *x *= exp(*g));
}

/// `x <- (I - A)^{-1} x` for strictly lower `A`, by forward substitution.
fn solve(a: &[f32], x: &mut [f32], size: usize, width: usize) {
    for i in 1..size {
        let (done, rest) = x.split_at_mut(i * width);
        let row = &mut rest[..width];
        for j in 0..i {
            let scale = a[i * size + j];
            row.iter_mut().zip(&done[j * width..(j + 1) * width]).for_each(|(x, y)| *x += scale * y);
        }
    }
}

/// `x <- (I - A)^{-T} x`.
fn solve_transposed(a: &[f32], x: &mut [f32], size: usize, width: usize) {
    for j in (1..size).rev() {
        let (rest, done) = x.split_at_mut(j * width);
        let source = &done[..width];
        for i in 0..j {
            let scale = a[j * size + i];
            rest[i * width..(i + 1) * width].iter_mut().zip(source).for_each(|(x, y)| *x += scale * y);
        }
    }
}
