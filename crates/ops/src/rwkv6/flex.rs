//! CPU: head by head over the thread pool.

use super::{Constants, STRONGEST_LOG_DECAY};
use crate::cpu::{Array, View, exp, simd};
use crate::delta_rule::END;
use crate::delta_rule::heads::{Head, HeadGradients};
use crate::delta_rule::layer::{Given, Layer, Place, Rooms};

type Inputs<'a> = [View<'a>; 7];

fn layer<'a>(constants: &'a Constants, inputs: Inputs<'a>) -> Layer<'a> {
    Layer::new(&constants.layer, inputs[0], inputs[0].width(), inputs[5], inputs[6])
}

/// Inputs of the recurrence; `logw` of tokens that start a document is not yet [`END`].
fn prepare(constants: &Constants, layer: &Layer<'_>, [q, decay, bias, k, v, ..]: Inputs<'_>, place: &Place) -> Head {
    let of = |x| layer.gather(x, layer.dims.key, place);
    let mut head = Head { r: of(q), logw: of(decay), k: of(k), v: of(v), ab: None };
    decays(&mut head.logw, layer.channels(bias, place.h));
    if constants.balanced {
        balance(&mut head.k, &head.logw);
    }
    head
}

/// Ends the state where documents start.
fn end(layer: &Layer<'_>, place: &Place, head: &mut Head) {
    for (row, &start) in head.logw.chunks_mut(layer.dims.key).zip(layer.starts(place).unwrap_or_default()) {
        if start {
            row.fill(END);
        }
    }
}

pub fn forward(constants: &Constants, inputs: Inputs<'_>) -> (Array, Array) {
    let layer = layer(constants, inputs);
    layer.forward(|place| {
        let mut head = prepare(constants, &layer, inputs, place);
        end(&layer, place, &mut head);
        head
    })
}

/// One token a row; the states, one a row, are advanced in place.
pub fn step(constants: &Constants, inputs: Inputs<'_>, states: &mut [Vec<f32>]) -> Vec<f32> {
    let layer = layer(constants, inputs);
    layer.step(|place| prepare(constants, &layer, inputs, place), states)
}

pub fn backward(
    constants: &Constants,
    needs: [bool; 7],
    inputs: Inputs<'_>,
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 7] {
    /// Gradients of the recurrence's inputs turned into those of the layer's, and of the bias.
    type Of = (HeadGradients, Vec<f32>);
    let layer = layer(constants, inputs);
    let key = layer.dims.key;
    let [q, decay, _, k, v, gate, _] = inputs;
    let order = [0, 1, 3, 4, 5];
    let mut rooms = Rooms::new(&layer, order.map(|i| needs[i]), [q, decay, k, v, gate], [key; 5]);
    let [of_q, of_decay, of_k, of_v, of_gate] = &rooms.sinks(&layer);
    let given = layer.backward(
        saved,
        gradient,
        |place| {
            let mut head = prepare(constants, &layer, inputs, place);
            let logw = head.logw.clone();
            end(&layer, place, &mut head);
            (logw, head)
        },
        Some(of_gate),
        |place, logw, mut of| {
            for (row, &start) in of.logw.chunks_mut(key).zip(layer.starts(place).unwrap_or_default()) {
                if start {
                    row.fill(0.0);
                }
            }
            let mut bias = vec![0.0; key];
            let raw = layer.gather(k, key, place);
            chain(constants.balanced, &raw, &logw, &mut of.k, &mut of.logw, &mut bias);
            let HeadGradients { r, logw, k, v, .. } = &mut of;
            // SAFETY: `backward` takes a place once.
            [of_q, of_decay, of_k, of_v]
                .into_iter()
                .zip([r, logw, k, v])
                .for_each(|(sink, rows)| unsafe { sink.put(place, rows) });
            (of, bias)
        },
    );
    let mut rows = |room: usize, pick: fn(&Given<Of>) -> &[f32]| {
        let i = order[room];
        needs[i].then(|| rooms.rows(&layer, room, inputs[i], &given, pick))
    };
    let d_q = rows(0, |x| &x.of.0.r);
    let d_decay = rows(1, |x| &x.of.0.logw);
    let (d_k, d_v, d_gate) = (rows(2, |x| &x.of.0.k), rows(3, |x| &x.of.0.v), rows(4, |x| &x.gate));
    let d_bias = needs[2].then(|| layer.sums(&given, inputs[2], |x| &x.1));
    [d_q, d_decay, d_bias, d_k, d_v, d_gate, needs[6].then(|| layer.states(&given))]
}

simd! {
    fn decays(x: &mut [f32], bias: &[f32]) {
        for row in x.chunks_exact_mut(bias.len()) {
            for (x, bias) in row.iter_mut().zip(bias) {
                let w = -exp::<FMA>(*x + bias);
                *x = if w < STRONGEST_LOG_DECAY { STRONGEST_LOG_DECAY } else { w };
            }
        }
    }

    fn balance(k: &mut [f32], logw: &[f32]) {
        for (k, w) in k.iter_mut().zip(logw) {
            *k *= 1.0 - exp::<FMA>(*w);
        }
    }

    // In: gradients of k' and logw; out: those of k and of the decay before its exponential, whose
    // derivative is logw itself, and nothing where it was clamped.
    fn chain(balanced: bool, k: &[f32], logw: &[f32], d_k: &mut [f32], d_decay: &mut [f32], bias: &mut [f32]) {
        let n = bias.len();
        for t in 0..k.len() / n {
            let row = t * n..(t + 1) * n;
            let (k, logw) = (&k[row.clone()], &logw[row.clone()]);
            let (d_k, d_decay) = (&mut d_k[row.clone()], &mut d_decay[row]);
            let bias = &mut bias[..n];
            for i in 0..n {
                let mut d = d_decay[i];
                if balanced {
                    let w = exp::<FMA>(logw[i]);
                    d -= d_k[i] * k[i] * w;
                    d_k[i] *= 1.0 - w;
                }
                d_decay[i] = if logw[i] <= STRONGEST_LOG_DECAY { 0.0 } else { d * logw[i] };
                bias[i] += d_decay[i];
            }
        }
    }
}
