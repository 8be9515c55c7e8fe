//! CPU: head by head over the thread pool.

use super::head::{ChannelGradients, Channels, Raw, chain, prepare};
use crate::cpu::{Array, View};
use crate::delta_rule::layer::{Given, Layer, Options, Place, Rooms};

type Inputs<'a> = [View<'a>; 14];

fn layer<'a>(options: &'a Options, inputs: Inputs<'a>) -> Layer<'a> {
    Layer::new(options, inputs[0], inputs[0].width(), inputs[12], inputs[13])
}

fn raw(layer: &Layer<'_>, inputs: Inputs<'_>, place: &Place) -> Raw {
    let [r, decay, iclr, k, v, _, _, first, mix, ..] = inputs;
    let of = |x| layer.gather(x, layer.dims.key, place);
    Raw { r: of(r), decay: of(decay), iclr: of(iclr), k: of(k), v: of(v), first: of(first), mix: of(mix) }
}

fn channels<'a>(layer: &Layer<'a>, inputs: Inputs<'a>, h: usize) -> Channels<'a> {
    let of = |x| layer.channels(x, h);
    let [_, _, _, _, _, decay, iclr, _, _, mix, k_k, k_a, ..] = inputs;
    Channels { decay: of(decay), iclr: of(iclr), k_k: of(k_k), k_a: of(k_a), mix: of(mix) }
}

pub fn forward(options: &Options, inputs: Inputs<'_>) -> (Array, Array) {
    let layer = layer(options, inputs);
    layer.forward(|place| prepare(&mut raw(&layer, inputs, place), channels(&layer, inputs, place.h), layer.starts(place)))
}

/// One token a row; the states, one a row, are advanced in place.
pub fn step(options: &Options, inputs: Inputs<'_>, states: &mut [Vec<f32>]) -> Vec<f32> {
    let layer = layer(options, inputs);
    layer.step(|place| prepare(&mut raw(&layer, inputs, place), channels(&layer, inputs, place.h), None), states)
}

pub fn backward(
    options: &Options,
    needs: [bool; 14],
    inputs: Inputs<'_>,
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 14] {
    type Of = (Raw, ChannelGradients);
    let layer = layer(options, inputs);
    let order = [0, 1, 2, 3, 4, 7, 8, 12];
    let mut rooms = Rooms::new(&layer, order.map(|i| needs[i]), order.map(|i| inputs[i]), [layer.dims.key; 8]);
    let [sinks @ .., gate] = &rooms.sinks(&layer);
    let given = layer.backward(
        saved,
        gradient,
        |place| {
            let mut raw = raw(&layer, inputs, place);
            let head = prepare(&mut raw, channels(&layer, inputs, place.h), layer.starts(place));
            (raw, head)
        },
        Some(gate),
        |place, raw, of| {
            let (mut of, sums) = chain(&raw, channels(&layer, inputs, place.h), layer.starts(place), of);
            let Raw { r, decay, iclr, k, v, first, mix } = &mut of;
            // SAFETY: `backward` takes a place once.
            sinks.iter().zip([r, decay, iclr, k, v, first, mix]).for_each(|(sink, rows)| unsafe { sink.put(place, rows) });
            (of, sums)
        },
    );
    let mut rows = |room: usize, pick: fn(&Given<Of>) -> &[f32]| {
        let i = order[room];
        needs[i].then(|| rooms.rows(&layer, room, inputs[i], &given, pick))
    };
    let [r, decay, iclr] = [rows(0, |x| &x.of.0.r), rows(1, |x| &x.of.0.decay), rows(2, |x| &x.of.0.iclr)];
    let [k, v] = [rows(3, |x| &x.of.0.k), rows(4, |x| &x.of.0.v)];
    let [first, mix, gate] = [rows(5, |x| &x.of.0.first), rows(6, |x| &x.of.0.mix), rows(7, |x| &x.gate)];
    let sums = |i: usize, pick: fn(&Of) -> &[f32]| needs[i].then(|| layer.sums(&given, inputs[i], pick));
    [
        r,
        decay,
        iclr,
        k,
        v,
        sums(5, |x| &x.1.decay),
        sums(6, |x| &x.1.iclr),
        first,
        mix,
        sums(9, |x| &x.1.mix),
        sums(10, |x| &x.1.k_k),
        sums(11, |x| &x.1.k_a),
        gate,
        needs[13].then(|| layer.states(&given)),
    ]
}
