//! One head: from projections to the inputs of the delta rule, and gradients back.

use super::DECAY_RANGE;
use crate::cpu::{dot, exp, sigmoid, simd};
use crate::delta_rule::END;
use crate::delta_rule::heads::{Head, HeadGradients};
use crate::key_norm::SHORTEST;

/// Biases and factors of one head's channels, `[N]` each; the factors are empty when the state is
/// balanced, the last is empty without a value residual.
#[derive(Clone, Copy)]
pub struct Channels<'a> {
    pub decay: &'a [f32],
    pub iclr: &'a [f32],
    pub k_k: &'a [f32],
    pub k_a: &'a [f32],
    pub mix: &'a [f32],
}

/// Projections of one head, `[T, N]` each; `first` and `mix` are empty without a value residual.
pub struct Raw {
    pub r: Vec<f32>,
    pub decay: Vec<f32>,
    pub iclr: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub first: Vec<f32>,
    pub mix: Vec<f32>,
}

/// Gradients of [`Channels`], owned.
#[derive(Default)]
pub struct ChannelGradients {
    pub decay: Vec<f32>,
    pub iclr: Vec<f32>,
    pub k_k: Vec<f32>,
    pub k_a: Vec<f32>,
    pub mix: Vec<f32>,
}

/// The delta rule's inputs of a head; `starts` names tokens that begin a document. Takes from `raw` what
/// [`chain`] does not ask for.
pub fn prepare(raw: &mut Raw, channels: Channels<'_>, starts: Option<&[bool]>) -> Head {
    let n = channels.decay.len();
    let size = raw.k.len();
    let (mut logw, mut k) = (vec![0.0; size], vec![0.0; size]);
    let (mut a, mut b) = (vec![0.0; size], vec![0.0; size]);
    prepare_keys(raw, channels, starts, &mut logw, &mut k, &mut a, &mut b);
    let v = if raw.mix.is_empty() {
        std::mem::take(&mut raw.v)
    } else {
        let mut v = vec![0.0; size];
        prepare_values(&raw.v, &raw.first, &raw.mix, channels.mix, n, &mut v);
        v
    };
    Head { r: std::mem::take(&mut raw.r), logw, k, v, ab: Some((a, b)) }
}

/// From the gradients of the delta rule's inputs to those of the projections and parameters.
pub fn chain(raw: &Raw, channels: Channels<'_>, starts: Option<&[bool]>, of: HeadGradients) -> (Raw, ChannelGradients) {
    let n = channels.decay.len();
    let size = raw.k.len();
    let (d_a, d_b) = of.ab.expect("the delta rule has a and b");
    let zeros = |wanted: bool, size: usize| vec![0.0; if wanted { size } else { 0 }];
    let (stock, residual) = (!channels.k_k.is_empty(), !raw.mix.is_empty());
    let mut out = Raw {
        r: of.r,
        decay: of.logw,
        iclr: vec![0.0; size],
        k: of.k,
        v: of.v,
        first: zeros(residual, size),
        mix: zeros(residual, size),
    };
    let mut sums = ChannelGradients {
        decay: zeros(true, n),
        iclr: zeros(true, n),
        k_k: zeros(stock, n),
        k_a: zeros(stock, n),
        mix: zeros(residual, n),
    };
    chain_keys(raw, channels, starts, &d_a, &d_b, &mut out, &mut sums);
    if residual {
        chain_values(raw, channels.mix, &mut out, &mut sums.mix);
    }
    (out, sums)
}

simd! {
    fn prepare_keys(
        raw: &Raw, channels: Channels<'_>, starts: Option<&[bool]>,
        logw: &mut [f32], k: &mut [f32], a: &mut [f32], b: &mut [f32],
    ) {
        let n = channels.decay.len();
        let stock = !channels.k_k.is_empty();
        for t in 0..raw.k.len() / n {
            let row = t * n..(t + 1) * n;
            let (raw_w, raw_a, raw_k) = (&raw.decay[row.clone()], &raw.iclr[row.clone()], &raw.k[row.clone()]);
            let (logw, k) = (&mut logw[row.clone()], &mut k[row.clone()]);
            let (a, b) = (&mut a[row.clone()], &mut b[row]);
            let (bias_w, bias_a) = (&channels.decay[..n], &channels.iclr[..n]);
            for i in 0..n {
                logw[i] = -DECAY_RANGE * sigmoid::<FMA>(raw_w[i] + bias_w[i]);
                b[i] = sigmoid::<FMA>(raw_a[i] + bias_a[i]);
            }
            if stock {
                let (k_k, k_a) = (&channels.k_k[..n], &channels.k_a[..n]);
                for i in 0..n {
                    a[i] = raw_k[i] * k_k[i];
                    k[i] = raw_k[i] * (1.0 + (b[i] - 1.0) * k_a[i]);
                }
            } else {
                for i in 0..n {
                    a[i] = raw_k[i];
                    k[i] = raw_k[i] * (1.0 - exp::<FMA>(logw[i]) + b[i]);
                }
            }
            let inverse = 1.0 / dot::<FMA>(a, a).sqrt().max(SHORTEST);
            let start = starts.is_some_and(|starts| starts[t]);
            let keep = if start { 0.0 } else { -1.0 };
            for i in 0..n {
                let kap = a[i] * inverse;
                a[i] = keep * kap;
                b[i] *= kap;
            }
            if start {
                logw.fill(END);
            }
        }
    }

    fn prepare_values(v: &[f32], first: &[f32], mix: &[f32], bias: &[f32], n: usize, out: &mut [f32]) {
        let rows = v.chunks_exact(n).zip(first.chunks_exact(n)).zip(mix.chunks_exact(n));
        for (((v, first), mix), out) in rows.zip(out.chunks_exact_mut(n)) {
            let (bias, first, mix, out) = (&bias[..n], &first[..n], &mix[..n], &mut out[..n]);
            for i in 0..n {
                out[i] = v[i] + (first[i] - v[i]) * sigmoid::<FMA>(mix[i] + bias[i]);
            }
        }
    }

    // In: `out.decay` holds the gradient of logw, `out.k` that of k'.
    fn chain_keys(
        raw: &Raw, channels: Channels<'_>, starts: Option<&[bool]>, d_a: &[f32], d_b: &[f32],
        out: &mut Raw, sums: &mut ChannelGradients,
    ) {
        let n = channels.decay.len();
        let stock = !channels.k_k.is_empty();
        // Of one row: kap before its norm and its gradient, sigmoids, gradient of the learning rate.
        let mut rows = vec![0.0f32; 5 * n];
        let (direction, rest) = rows.split_at_mut(n);
        let (d_kap, rest) = rest.split_at_mut(n);
        let (rate, rest) = rest.split_at_mut(n);
        let (gain, d_rate) = rest.split_at_mut(n);
        for t in 0..raw.k.len() / n {
            let row = t * n..(t + 1) * n;
            let (raw_w, raw_a, raw_k) = (&raw.decay[row.clone()], &raw.iclr[row.clone()], &raw.k[row.clone()]);
            let (d_a, d_b) = (&d_a[row.clone()], &d_b[row.clone()]);
            let (d_w, d_k, d_iclr) = (&mut out.decay[row.clone()], &mut out.k[row.clone()], &mut out.iclr[row]);
            let (bias_w, bias_a) = (&channels.decay[..n], &channels.iclr[..n]);
            let start = starts.is_some_and(|starts| starts[t]);
            let keep = if start { 0.0 } else { 1.0 };
            for i in 0..n {
                rate[i] = sigmoid::<FMA>(raw_a[i] + bias_a[i]);
                gain[i] = sigmoid::<FMA>(raw_w[i] + bias_w[i]);
                direction[i] = raw_k[i];
            }
            if stock {
                let k_k = &channels.k_k[..n];
                for i in 0..n {
                    direction[i] *= k_k[i];
                }
            }
            let length = dot::<FMA>(direction, direction).sqrt();
            let inverse = 1.0 / length.max(SHORTEST);
            // kap = direction * inverse; a = -keep kap; b = kap rate.
            for i in 0..n {
                let kap = direction[i] * inverse;
                d_kap[i] = rate[i] * d_b[i] - keep * d_a[i];
                d_rate[i] = d_b[i] * kap;
            }
            let along = if length > SHORTEST { dot::<FMA>(direction, d_kap) * inverse * inverse } else { 0.0 };
            if stock {
                let (k_k, k_a) = (&channels.k_k[..n], &channels.k_a[..n]);
                let (sum_k, sum_a) = (&mut sums.k_k[..n], &mut sums.k_a[..n]);
                for i in 0..n {
                    let d_direction = inverse * (d_kap[i] - direction[i] * along);
                    let d = d_k[i];
                    sum_k[i] += d_direction * raw_k[i];
                    sum_a[i] += d * raw_k[i] * (rate[i] - 1.0);
                    d_rate[i] += d * raw_k[i] * k_a[i];
                    d_k[i] = d * (1.0 + (rate[i] - 1.0) * k_a[i]) + d_direction * k_k[i];
                    d_w[i] *= keep;
                }
            } else {
                for i in 0..n {
                    let d_direction = inverse * (d_kap[i] - direction[i] * along);
                    let (d, w) = (d_k[i], exp::<FMA>(-DECAY_RANGE * gain[i]));
                    d_rate[i] += d * raw_k[i];
                    d_k[i] = d * (1.0 - w + rate[i]) + d_direction;
                    d_w[i] = d_w[i] * keep - d * raw_k[i] * w;
                }
            }
            let (sum_w, sum_iclr) = (&mut sums.decay[..n], &mut sums.iclr[..n]);
            for i in 0..n {
                d_w[i] *= -DECAY_RANGE * gain[i] * (1.0 - gain[i]);
                d_iclr[i] = d_rate[i] * rate[i] * (1.0 - rate[i]);
                sum_w[i] += d_w[i];
                sum_iclr[i] += d_iclr[i];
            }
        }
    }

    // In: `out.v` holds the gradient of v'.
    fn chain_values(raw: &Raw, bias: &[f32], out: &mut Raw, sum: &mut [f32]) {
        let n = bias.len();
        for t in 0..raw.v.len() / n {
            let row = t * n..(t + 1) * n;
            let (v, first, mix) = (&raw.v[row.clone()], &raw.first[row.clone()], &raw.mix[row.clone()]);
            let (d_v, d_first, d_mix) = (&mut out.v[row.clone()], &mut out.first[row.clone()], &mut out.mix[row]);
            let (bias, sum) = (&bias[..n], &mut sum[..n]);
            for i in 0..n {
                let share = sigmoid::<FMA>(mix[i] + bias[i]);
                let d = d_v[i];
                d_first[i] = d * share;
                d_v[i] = d - d_first[i];
                d_mix[i] = d * (first[i] - v[i]) * share * (1.0 - share);
                sum[i] += d_mix[i];
            }
        }
    }
}
