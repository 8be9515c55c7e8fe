//! CPU: one pass over the tokens each way.

use super::Options;
use crate::cpu::{Array, View, add_parts, simd, split_rows, zeros};

/// Elements that are worth a thread.
const MINIMUM: usize = 1 << 14;

/// Where a token and its neighbours are found.
struct Rows<'a> {
    tokens: usize,
    width: usize,
    x: &'a [f32],
    previous: &'a [f32],
    amount: &'a [f32],
    starts: Option<&'a [bool]>,
    zeros: Vec<f32>,
}

impl<'a> Rows<'a> {
    fn new(options: &'a Options, [x, previous, _, amount]: [View<'a>; 4]) -> Self {
        let (tokens, width) = (x.shape[1], x.width());
        let (x, previous, amount) = (x.data, previous.data, amount.data);
        Self { tokens, width, x, previous, amount, starts: options.starts.as_deref(), zeros: vec![0.0; width] }
    }

    fn row<'b>(&'b self, of: &'b [f32], row: usize) -> &'b [f32] {
        if of.is_empty() { &self.zeros } else { &of[row * self.width..(row + 1) * self.width] }
    }

    /// Whether the token reads the one before it in the sequence.
    fn joined(&self, row: usize) -> bool {
        !row.is_multiple_of(self.tokens) && !self.starts.is_some_and(|s| s[row])
    }

    /// What stands before a token.
    fn before(&self, row: usize) -> &[f32] {
        if self.joined(row) {
            self.row(self.x, row - 1)
        } else if row.is_multiple_of(self.tokens) && !self.starts.is_some_and(|s| s[row]) {
            self.row(self.previous, row / self.tokens)
        } else {
            &self.zeros
        }
    }
}

pub fn forward(options: &Options, inputs: [View<'_>; 4]) -> (Array, Array) {
    let rows = Rows::new(options, inputs);
    let [x, _, base, _] = inputs;
    let mut y = zeros(x.data.len());
    split_rows(x.rows(), MINIMUM / rows.width.max(1), [(&mut y, rows.width)], |range, [y]| {
        for (row, y) in range.zip(y.chunks_exact_mut(rows.width)) {
            mix(y, rows.row(x.data, row), rows.before(row), base.data, rows.row(rows.amount, row));
        }
    });
    (Array::new(y, x.shape), Array::nothing())
}

pub fn backward(
    options: &Options,
    needs: [bool; 4],
    inputs: [View<'_>; 4],
    _output: View<'_>,
    _saved: View<'_>,
    dy: View<'_>,
) -> [Option<Array>; 4] {
    let rows = Rows::new(options, inputs);
    let [x, previous, base, amount] = inputs;
    let (width, base_row) = (rows.width, base.data);
    let mut dx = vec![0.0; if needs[0] { x.data.len() } else { 0 }];
    let mut d_amount = vec![0.0; if needs[3] { x.data.len() } else { 0 }];
    let widths = [(needs[0]), (needs[3])].map(|needed| if needed { width } else { 0 });
    let outputs = [(&mut dx[..], widths[0]), (&mut d_amount[..], widths[1])];
    let sums = split_rows(x.rows(), MINIMUM / width.max(1), outputs, |range, [dx, d_amount]| {
        let mut d_base = vec![0.0; width];
        let mut room = vec![0.0; width];
        for (i, row) in range.enumerate() {
            let dy_row = rows.row(dy.data, row);
            if needs[2] || needs[3] {
                let out = if needs[3] { &mut d_amount[i * width..(i + 1) * width] } else { &mut room[..] };
                weight_gradient(out, dy_row, rows.row(x.data, row), rows.before(row), &mut d_base);
            }
            if needs[0] {
                let dx = &mut dx[i * width..(i + 1) * width];
                own_gradient(dx, dy_row, base_row, rows.row(rows.amount, row));
                if (row + 1) % rows.tokens != 0 && rows.joined(row + 1) {
                    before_gradient(dx, rows.row(dy.data, row + 1), base_row, rows.row(rows.amount, row + 1));
                }
            }
        }
        d_base
    });
    let d_previous = needs[1].then(|| {
        let mut out = vec![0.0; previous.data.len()];
        for (b, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let row = b * rows.tokens;
            if !rows.starts.is_some_and(|s| s[row]) {
                before_gradient(out, rows.row(dy.data, row), base_row, rows.row(rows.amount, row));
            }
        }
        Array::new(out, previous.shape)
    });
    [
        needs[0].then(|| Array::new(dx, x.shape)),
        d_previous,
        needs[2].then(|| Array::new(add_parts(sums), base.shape)),
        needs[3].then(|| Array::new(d_amount, amount.shape)),
    ]
}

simd! {
    fn mix(y: &mut [f32], x: &[f32], before: &[f32], base: &[f32], amount: &[f32]) {
        let n = y.len();
        let (x, before, base, amount) = (&x[..n], &before[..n], &base[..n], &amount[..n]);
        for i in 0..n {
            y[i] = x[i] + (before[i] - x[i]) * (base[i] + amount[i]);
        }
    }

    fn weight_gradient(out: &mut [f32], dy: &[f32], x: &[f32], before: &[f32], sum: &mut [f32]) {
        let n = out.len();
        let (dy, x, before, sum) = (&dy[..n], &x[..n], &before[..n], &mut sum[..n]);
        for i in 0..n {
            out[i] = dy[i] * (before[i] - x[i]);
            sum[i] += out[i];
        }
    }

    fn own_gradient(dx: &mut [f32], dy: &[f32], base: &[f32], amount: &[f32]) {
        let n = dx.len();
        let (dy, base, amount) = (&dy[..n], &base[..n], &amount[..n]);
        for i in 0..n {
            dx[i] = dy[i] * (1.0 - base[i] - amount[i]);
        }
    }

    fn before_gradient(dx: &mut [f32], dy: &[f32], base: &[f32], amount: &[f32]) {
        let n = dx.len();
        let (dy, base, amount) = (&dy[..n], &base[..n], &amount[..n]);
        for i in 0..n {
            dx[i] += dy[i] * (base[i] + amount[i]);
        }
    }
}
