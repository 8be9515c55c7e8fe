//! Chunk by chunk: matrix products inside a chunk, one state product between chunks.
//!
//! With `G` the inclusive cumulative sum of `logw` in the chunk, `E = G - logw` the exclusive one
//! and `m = G_c / 2` the middle of its range, exponents are differences and factor around `m`:
//!
//! ```text
//! x_i = [r e^(G-m); a e^(E-m)]    y_j = [k e^(m-G); b e^(m-G)]    s0 = e^m S0
//! A   = x y^T, kept where j <= i (rows of r) or j < i (rows of a)
//! U   = (I - Aab)^{-1} (a e^(E-m) s0 + Aak V)          z = [V; U]
//! O   = r e^(G-m) s0 + [Aqk Aqb] z
//! S'  = e^m (s0 + y^T z)
//! ```
//!
//! (derived by unrolling the recurrence over a chunk; WY form of the delta rule). Rows of `r` and
//! `a`, and of `k` and `b`, are stacked, so that a chunk is six products instead of twelve; the
//! decayed sum is the same without `a`, `b` and `U`. A factor may reach e^20, beyond which the rounding
//! of `G` would show in the results: a chunk whose decay is stronger is taken in pieces.

use super::heads::{Dims, Head, HeadGradients};
use crate::cpu::{Matrix, exp, matmul, multiply_add, simd, transpose};
use crate::linear::{product_in_cache, rounds_in_cache};
use std::mem::MaybeUninit;

/// Largest log decay of a piece, and of one token: e^-40 = 4e-18 of a state is as good as nothing.
const STRONGEST: f32 = -40.0;

/// Outputs `[T, V]`; `state` is advanced. `starts`, unless empty, receives the state at every chunk's
/// start and after the last one.
pub fn forward(dims: &Dims, head: &Head, state: &mut [f32], chunk: usize, starts: &mut [MaybeUninit<f32>]) -> Vec<f32> {
    let mut starts = starts.chunks_exact_mut(state.len());
    let mut outputs = vec![0.0; dims.tokens * dims.value];
    let mut room = Room::new(dims, head, chunk);
    for start in (0..dims.tokens).step_by(chunk) {
        if let Some(to) = starts.next() {
            to.write_copy_of_slice(state);
        }
        for piece in pieces(dims, head, start, chunk.min(dims.tokens - start)) {
            room.enter(head, piece, state);
            room.outputs(&mut outputs[piece.start * dims.value..][..piece.len * dims.value]);
            room.advance(state);
        }
    }
    if let Some(to) = starts.next() {
        to.write_copy_of_slice(state);
    }
    outputs
}

/// Gradients of a head from `d_outputs` `[T, V]` and the gradient of the final state.
pub fn backward(dims: &Dims, head: &Head, starts: &[f32], d_outputs: &[f32], d_final: Vec<f32>, chunk: usize) -> HeadGradients {
    let zeros = |width: usize| vec![0.0; dims.tokens * width];
    let mut g = HeadGradients {
        r: zeros(dims.key),
        logw: zeros(dims.key),
        k: zeros(dims.key),
        v: zeros(dims.value),
        ab: head.ab.as_ref().map(|_| (zeros(dims.key), zeros(dims.key))),
        state: d_final,
    };
    let size = dims.key * dims.value;
    let mut room = Room::new(dims, head, chunk);
    let mut back = BackwardRoom::new(dims, &room);
    // States between the pieces of one chunk, and after the last.
    let mut states = Vec::new();
    for index in (0..dims.tokens.div_ceil(chunk)).rev() {
        let start = index * chunk;
        let pieces = pieces(dims, head, start, chunk.min(dims.tokens - start));
        states.clear();
        states.extend_from_slice(&starts[index * size..(index + 1) * size]);
        for &piece in &pieces[..pieces.len() - 1] {
            let from = states.len() - size;
            states.extend_from_within(from..);
            let (before, after) = states.split_at_mut(from + size);
            room.enter(head, piece, &before[from..]);
            room.advance(after);
        }
        states.extend_from_slice(&starts[(index + 1) * size..(index + 2) * size]);
        for (i, &piece) in pieces.iter().enumerate().rev() {
            let (before, after) = (&states[i * size..(i + 1) * size], &states[(i + 1) * size..(i + 2) * size]);
            room.enter(head, piece, before);
            let d_o = &d_outputs[piece.start * dims.value..][..piece.len * dims.value];
            back.piece(&room, head, piece, after, d_o, &mut g);
        }
    }
    g
}

/// Consecutive tokens whose decays can be factored.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    len: usize,
}

/// Cuts a chunk where its decay becomes too strong; nearly always it stays whole.
fn pieces(dims: &Dims, head: &Head, start: usize, len: usize) -> Vec<Piece> {
    let key = dims.key;
    let strongest = smallest(&head.logw[start * key..(start + len) * key]);
    if strongest * len as f32 >= STRONGEST {
        return vec![Piece { start, len }];
    }
    let mut out = Vec::with_capacity(1);
    let mut sums = vec![0.0f32; key];
    let mut first = start;
    for t in start..start + len {
        let row = &head.logw[t * key..(t + 1) * key];
        if strongest_sum(&mut sums, row) < STRONGEST && t > first {
            out.push(Piece { start: first, len: t - first });
            first = t;
            sums.copy_from_slice(row);
        }
    }
    out.push(Piece { start: first, len: start + len - first });
    out
}

/// What forward and backward of a piece share, with room for the longest; `s` is twice the piece's
/// length with a rank-one part, else once.
struct Room {
    key: usize,
    value: usize,
    delta: bool,
    /// Products round and pack their operands, and turn them meanwhile; without that the fast ones
    /// want a right side of whole rows, and transposes are made for them.
    packs: bool,
    len: usize,
    s: usize,
    /// e^(G - m) `[len + 1, K]`: row i + 1 belongs to token i, row i to its exclusive sum.
    factor: Vec<f32>,
    /// e^m `[K]`.
    middle: Vec<f32>,
    /// `[s, K]`.
    x: Vec<f32>,
    /// `[s, K]`, and transposed `[K, s]`.
    y: Vec<f32>,
    y_t: Vec<f32>,
    /// `[s, s]`.
    scores: Vec<f32>,
    /// e^m S0 `[K, V]`.
    s0: Vec<f32>,
    /// `[s, V]`: V above U.
    z: Vec<f32>,
    /// x s0 `[s, V]`: the state's part of the outputs, above what `U` began as.
    read: Vec<f32>,
}

impl Room {
    fn new(dims: &Dims, head: &Head, chunk: usize) -> Self {
        let (key, value, delta) = (dims.key, dims.value, head.ab.is_some());
        let most = chunk.min(dims.tokens);
        let s = if delta { 2 * most } else { most };
        let zeros = |size: usize| vec![0.0; size];
        Self {
            key,
            value,
            delta,
            packs: rounds_in_cache(),
            len: 0,
            s: 0,
            factor: zeros((most + 1) * key),
            middle: zeros(key),
            x: zeros(s * key),
            y: zeros(s * key),
            y_t: zeros(s * key),
            scores: zeros(s * s),
            s0: zeros(key * value),
            z: zeros(s * value),
            read: zeros(s * value),
        }
    }

    /// Computes everything from the piece's inputs and the state before it.
    fn enter(&mut self, head: &Head, piece: Piece, state: &[f32]) {
        let (key, value, c) = (self.key, self.value, piece.len);
        self.len = c;
        self.s = if self.delta { 2 * c } else { c };
        let s = self.s;
        let keys = piece.start * key..(piece.start + c) * key;
        factors(&head.logw[keys.clone()], key, &mut self.factor, &mut self.middle);
        let inclusive = &self.factor[key..(c + 1) * key];
        multiply(&mut self.x, &head.r[keys.clone()], inclusive);
        divide(&mut self.y, &head.k[keys.clone()], inclusive);
        if let Some((a, b)) = &head.ab {
            multiply(&mut self.x[c * key..], &a[keys.clone()], &self.factor[..c * key]);
            divide(&mut self.y[c * key..], &b[keys], inclusive);
        }
        let x = Matrix::new(&self.x, s, key);
        let y_t = turned(self.packs, &self.y[..s * key], key, &mut self.y_t);
        product_in_cache(&mut self.scores, s, false, x, y_t);
        mask(&mut self.scores, c, s);
        scale_rows(&mut self.s0, state, &self.middle, value);
        product_in_cache(&mut self.read, value, false, x, Matrix::new(&self.s0, key, value));
        let (v, u) = self.z.split_at_mut(c * value);
        v.copy_from_slice(&head.v[piece.start * value..][..c * value]);
        if self.delta {
            let u = &mut u[..c * value];
            u.copy_from_slice(&self.read[c * value..s * value]);
            let below = &self.scores[c * s..];
            product_in_cache(u, value, true, Matrix::strided(below, c, c, s), Matrix::new(v, c, value));
            solve(below, s, c, u, value);
        }
    }

    fn outputs(&self, out: &mut [f32]) {
        out.copy_from_slice(&self.read[..out.len()]);
        product_in_cache(
            out,
            self.value,
            true,
            Matrix::new(&self.scores, self.len, self.s),
            Matrix::new(&self.z, self.s, self.value),
        );
    }

    fn advance(&self, state: &mut [f32]) {
        state.copy_from_slice(&self.s0);
        let y_t = if self.packs { Matrix::new(&self.y, self.s, self.key).t() } else { Matrix::new(&self.y_t, self.key, self.s) };
        product_in_cache(state, self.value, true, y_t, Matrix::new(&self.z, self.s, self.value));
        scale_rows_in_place(state, &self.middle, self.value);
    }
}

/// Room for a piece's gradients, named after what they belong to.
struct BackwardRoom {
    /// e^m dS' `[K, V]`, and transposed `[V, K]`.
    d_after: Vec<f32>,
    transposed: Vec<f32>,
    d_z: Vec<f32>,
    z_t: Vec<f32>,
    /// dO above the gradient of what the solve began with, `[s, V]`.
    d_read: Vec<f32>,
    d_scores: Vec<f32>,
    d_x: Vec<f32>,
    d_y: Vec<f32>,
    /// Reverse-cumulative sum of the gradient of logw, `[K]`.
    running: Vec<f32>,
}

impl BackwardRoom {
    fn new(dims: &Dims, room: &Room) -> Self {
        let size = dims.key * dims.value;
        Self {
            d_after: vec![0.0; size],
            transposed: vec![0.0; size],
            d_z: vec![0.0; room.z.len()],
            z_t: vec![0.0; room.z.len()],
            d_read: vec![0.0; room.z.len()],
            d_scores: vec![0.0; room.scores.len()],
            d_x: vec![0.0; room.x.len()],
            d_y: vec![0.0; room.y.len()],
            running: vec![0.0; dims.key],
        }
    }

    /// Writes the piece's gradients into `out` and turns `out.state` from the gradient of the state
    /// after the piece into that of the state before it.
    fn piece(&mut self, room: &Room, head: &Head, piece: Piece, after: &[f32], d_o: &[f32], out: &mut HeadGradients) {
        let (key, value, c, s) = (room.key, room.value, room.len, room.s);
        let keys = piece.start * key..(piece.start + c) * key;
        row_products(&mut self.running, after, &out.state, value);
        scale_rows(&mut self.d_after, &out.state, &room.middle, value);
        let d_after = Matrix::new(&self.d_after, key, value);
        let above = Matrix::new(&room.scores, c, s);

        // From O and S' to z, and through the solve to what U was made of.
        product_in_cache(&mut self.d_z, value, false, above.t(), Matrix::new(d_o, c, value));
        product_in_cache(&mut self.d_z, value, true, Matrix::new(&room.y, s, key), d_after);
        self.d_read[..c * value].copy_from_slice(d_o);
        let (d_v, d_u) = self.d_z[..s * value].split_at_mut(c * value);
        if room.delta {
            let below = &room.scores[c * s..];
            solve_transposed(below, s, c, d_u, value);
            product_in_cache(d_v, value, true, Matrix::strided(below, c, c, s).t(), Matrix::new(d_u, c, value));
            self.d_read[c * value..s * value].copy_from_slice(d_u);
        }
        out.v[piece.start * value..][..c * value].copy_from_slice(d_v);

        // To the scores, and from them and the states to x and y.
        let d_read = Matrix::new(&self.d_read, s, value);
        let z_t = turned(room.packs, &room.z[..s * value], value, &mut self.z_t);
        product_in_cache(&mut self.d_scores, s, false, d_read, z_t);
        mask(&mut self.d_scores, c, s);
        let d_scores = Matrix::new(&self.d_scores, s, s);
        product_in_cache(&mut self.d_x, key, false, d_scores, Matrix::new(&room.y, s, key));
        let s0_t = turned(room.packs, &room.s0, value, &mut self.transposed);
        product_in_cache(&mut self.d_x, key, true, d_read, s0_t);
        product_in_cache(&mut self.d_y, key, false, d_scores.t(), Matrix::new(&room.x, s, key));
        let d_after_t = turned(room.packs, &self.d_after, value, &mut self.transposed);
        let z = Matrix::new(&room.z, s, value);
        product_in_cache(&mut self.d_y, key, true, z, d_after_t);

        // The state before.
        out.state.copy_from_slice(&self.d_after);
        product_in_cache(&mut out.state, value, true, Matrix::new(&room.x, s, key).t(), d_read);
        scale_rows_in_place(&mut out.state, &room.middle, value);

        // From the factored rows to the inputs.
        let inclusive = &room.factor[key..(c + 1) * key];
        multiply(&mut out.r[keys.clone()], &self.d_x, inclusive);
        divide(&mut out.k[keys.clone()], &self.d_y, inclusive);
        let mut rank_one = None;
        if let (Some((a, b)), Some((d_a, d_b))) = (&head.ab, &mut out.ab) {
            let (d_a, d_b) = (&mut d_a[keys.clone()], &mut d_b[keys.clone()]);
            multiply(d_a, &self.d_x[c * key..], &room.factor[..c * key]);
            divide(d_b, &self.d_y[c * key..], inclusive);
            rank_one = Some([&a[keys.clone()], &*d_a, &b[keys.clone()], &*d_b]);
        }
        let [r, d_r] = [&head.r[keys.clone()], &out.r[keys.clone()]];
        let [k, d_k] = [&head.k[keys.clone()], &out.k[keys.clone()]];
        decay_gradient(&mut out.logw[keys], [r, d_r, k, d_k], rank_one, &mut self.running);
    }
}

/// `x <- (I - A)^{-1} x` for strictly lower `A` (whose columns begin at `size` in rows of `stride`),
/// by forward substitution.
fn solve(a: &[f32], stride: usize, size: usize, x: &mut [f32], width: usize) {
    for i in 1..size {
        let (done, rest) = x.split_at_mut(i * width);
        let weights = &a[i * stride + size..][..i];
        let done = Matrix::new(done, i, width);
        matmul(&mut rest[..width], width, 1.0, Matrix::new(weights, 1, i), done);
    }
}

/// `x <- (I - A)^{-T} x`.
fn solve_transposed(a: &[f32], stride: usize, size: usize, x: &mut [f32], width: usize) {
    for i in (0..size.saturating_sub(1)).rev() {
        let (rest, done) = x.split_at_mut((i + 1) * width);
        let below = Matrix::strided(&a[(i + 1) * stride + size + i..], size - i - 1, 1, stride);
        matmul(&mut rest[i * width..], width, 1.0, below.t(), Matrix::new(done, size - i - 1, width));
    }
}

/// Zeroes what lies after a row's own token: in rows of `r` (the first `c`) later tokens, in rows
/// of `a` the token itself too. By selection: an entry there may be infinite, and 0 * inf is not 0.
fn mask(scores: &mut [f32], c: usize, s: usize) {
    for (i, row) in scores[..s * s].chunks_exact_mut(s).enumerate() {
        let visible = if i < c { i + 1 } else { i - c };
        row.chunks_exact_mut(c).for_each(|part| part[visible..].fill(0.0));
    }
}

/// `[rows, width]` seen as `[width, rows]`, through `room` where products want whole rows.
fn turned<'a>(packs: bool, from: &'a [f32], width: usize, room: &'a mut [f32]) -> Matrix<'a> {
    let rows = from.len() / width;
    if packs {
        return Matrix::new(from, rows, width).t();
    }
    transpose(from, width, room);
    Matrix::new(room, width, rows)
}

simd! {
    fn smallest(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for x in x.chunks(16) {
            for (least, x) in lanes.iter_mut().zip(x) {
                *least = if *x < *least { *x } else { *least };
            }
        }
        lanes.into_iter().fold(0.0, f32::min)
    }

    // Adds a row to the sums and returns the smallest.
    fn strongest_sum(sums: &mut [f32], row: &[f32]) -> f32 {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x;
        }
        let mut least = f32::INFINITY;
        for sum in sums {
            least = if *sum < least { *sum } else { least };
        }
        least
    }

    // e^(G - m) from row 1 on, e^(-m) in row 0; e^m.
    fn factors(logw: &[f32], key: usize, factor: &mut [f32], middle: &mut [f32]) {
        let tokens = logw.len() / key;
        let middle = &mut middle[..key];
        middle.fill(0.0);
        for row in logw.chunks_exact(key) {
            for (m, w) in middle.iter_mut().zip(row) {
                *m += w.max(STRONGEST);
            }
        }
        for (first, m) in factor[..key].iter_mut().zip(middle.iter_mut()) {
            *m *= 0.5;
            *first = -*m;
        }
        for t in 0..tokens {
            let (before, row) = factor[t * key..(t + 2) * key].split_at_mut(key);
            for ((g, before), w) in row.iter_mut().zip(before).zip(&logw[t * key..(t + 1) * key]) {
                *g = *before + w.max(STRONGEST);
            }
        }
        for g in &mut factor[..(tokens + 1) * key] {
            *g = exp::<FMA>(*g);
        }
        for m in middle {
            *m = exp::<FMA>(*m);
        }
    }

    fn multiply(out: &mut [f32], x: &[f32], by: &[f32]) {
        for ((out, x), by) in out.iter_mut().zip(x).zip(by) {
            *out = x * by;
        }
    }

    fn divide(out: &mut [f32], x: &[f32], by: &[f32]) {
        for ((out, x), by) in out.iter_mut().zip(x).zip(by) {
            *out = x / by;
        }
    }

    fn scale_rows(out: &mut [f32], x: &[f32], by: &[f32], width: usize) {
        for ((out, x), by) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(by) {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * by;
            }
        }
    }

    fn scale_rows_in_place(x: &mut [f32], by: &[f32], width: usize) {
        for (x, by) in x.chunks_exact_mut(width).zip(by) {
            for x in x {
                *x *= by;
            }
        }
    }

    // Inner product of each row of one with the same row of the other.
    fn row_products(out: &mut [f32], x: &[f32], y: &[f32], width: usize) {
        for ((out, x), y) in out.iter_mut().zip(x.chunks_exact(width)).zip(y.chunks_exact(width)) {
            *out = crate::cpu::dot::<FMA>(x, y);
        }
    }

    // `running` enters as the products of the state after with its gradient.
    fn decay_gradient(
        out: &mut [f32], of_rk: [&[f32]; 4], of_ab: Option<[&[f32]; 4]>, running: &mut [f32],
    ) {
        let key = running.len();
        for t in (0..out.len() / key).rev() {
            let row = t * key..(t + 1) * key;
            let out = &mut out[row.clone()];
            let [r, d_r, k, d_k] = of_rk.map(|x| &x[row.clone()]);
            for n in 0..key {
                running[n] += multiply_add::<FMA>(r[n], d_r[n], -k[n] * d_k[n]);
            }
            match of_ab {
                None => out.copy_from_slice(running),
                Some(parts) => {
                    let [a, d_a, b, d_b] = parts.map(|x| &x[row.clone()]);
                    for ((running, b), d_b) in running.iter_mut().zip(b).zip(d_b) {
                        *running -= b * d_b;
                    }
                    out.copy_from_slice(running);
                    for ((running, a), d_a) in running.iter_mut().zip(a).zip(d_a) {
                        *running += a * d_a;
                    }
                }
            }
        }
    }
}
