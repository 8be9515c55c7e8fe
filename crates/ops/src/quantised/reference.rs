//! The slow truth: the weight's values, the input as it is, sums in f64.

use super::QuantMatrix;

/// `out[r, o] = sum_i x[r, i] weight[o, i]`, `[rows, out]` of `x` `[rows, in]`, and beside each the
/// most that rounding the input may move it: half a scale of every block times the magnitudes of
/// its weights.
pub fn product(x: &[f32], weight: &QuantMatrix) -> Vec<(f64, f64)> {
    let values = weight.values();
    let mut out = Vec::new();
    for x in x.chunks_exact(weight.columns()) {
        for row in values.chunks_exact(weight.columns()) {
            let (mut sum, mut bound) = (0.0, 0.0);
            for (x, row) in x.chunks(32).zip(row.chunks(32)) {
                let scale = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                for (x, w) in x.iter().zip(row) {
                    sum += f64::from(*x) * f64::from(*w);
                    bound += 0.5 * f64::from(scale) * f64::from(w.abs());
                }
            }
            out.push((sum, bound));
        }
    }
    out
}
