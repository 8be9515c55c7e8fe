//! CPU: heads as they are, through what all recurrences share.

use super::heads::{Head, HeadGradients};
use super::layer::{Given, Layer, Options, Rooms};
use crate::cpu::{Array, View};

type Inputs<'a> = [View<'a>; 7];

fn layer<'a>(options: &'a Options, [r, _, _, v, _, _, state]: Inputs<'a>) -> Layer<'a> {
    Layer::new(options, r, v.width(), View { data: &[], shape: &[0] }, state)
}

fn head(layer: &Layer<'_>, [r, logw, k, v, a, b, _]: Inputs<'_>, place: &super::layer::Place) -> Head {
    let keys = |x| layer.gather(x, layer.dims.key, place);
    Head { r: keys(r), logw: keys(logw), k: keys(k), v: layer.gather(v, layer.dims.value, place), ab: Some((keys(a), keys(b))) }
}

pub fn forward(options: &Options, inputs: Inputs<'_>) -> (Array, Array) {
    let layer = layer(options, inputs);
    layer.forward(|place| head(&layer, inputs, place))
}

pub fn backward(
    options: &Options,
    needs: [bool; 7],
    inputs: Inputs<'_>,
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 7] {
    let layer = layer(options, inputs);
    let (key, value) = (layer.dims.key, layer.dims.value);
    let [rows @ .., _] = inputs;
    let [wanted @ .., state_wanted] = needs;
    let mut rooms = Rooms::new(&layer, wanted, rows, [key, key, key, value, key, key]);
    let sinks = rooms.sinks(&layer);
    let given = layer.backward(
        saved,
        gradient,
        |place| ((), head(&layer, inputs, place)),
        None,
        |place, (), mut of| {
            let HeadGradients { r, logw, k, v, ab, .. } = &mut of;
            let (a, b) = ab.as_mut().expect("the delta rule has a and b");
            // SAFETY: `backward` takes a place once.
            sinks.iter().zip([r, logw, k, v, a, b]).for_each(|(sink, rows)| unsafe { sink.put(place, rows) });
            of
        },
    );
    let mut rows = |i: usize, pick: fn(&HeadGradients) -> &[f32]| {
        needs[i].then(|| rooms.rows(&layer, i, inputs[i], &given, |x: &Given<HeadGradients>| pick(&x.of)))
    };
    [
        rows(0, |x| &x.r),
        rows(1, |x| &x.logw),
        rows(2, |x| &x.k),
        rows(3, |x| &x.v),
        rows(4, |x| x.ab.as_ref().map_or(&[], |ab| &ab.0)),
        rows(5, |x| x.ab.as_ref().map_or(&[], |ab| &ab.1)),
        state_wanted.then(|| layer.states(&given)),
    ]
}
