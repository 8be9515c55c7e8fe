//! CPU: the delta rule's code without its rank-one part.

use crate::cpu::{Array, View};
use crate::delta_rule::heads::{Head, HeadGradients};
use crate::delta_rule::layer::{Given, Layer, Options, Place, Rooms};

type Inputs<'a> = [View<'a>; 5];

fn layer<'a>(options: &'a Options, [q, _, _, v, state]: Inputs<'a>) -> Layer<'a> {
    Layer::new(options, q, v.width(), View { data: &[], shape: &[0] }, state)
}

fn head(layer: &Layer<'_>, [q, logw, k, v, _]: Inputs<'_>, place: &Place) -> Head {
    let key = layer.dims.key;
    let mut decays = layer.gather(logw, logw.width(), place);
    if logw.width() != key {
        // One decay for all channels.
        decays = decays.iter().flat_map(|&w| std::iter::repeat_n(w, key)).collect();
    }
    Head {
        r: layer.gather(q, key, place),
        logw: decays,
        k: layer.gather(k, key, place),
        v: layer.gather(v, layer.dims.value, place),
        ab: None,
    }
}

pub fn forward(options: &Options, inputs: Inputs<'_>) -> (Array, Array) {
    let layer = layer(options, inputs);
    layer.forward(|place| head(&layer, inputs, place))
}

pub fn backward(
    options: &Options,
    needs: [bool; 5],
    inputs: Inputs<'_>,
    _output: View<'_>,
    saved: View<'_>,
    gradient: View<'_>,
) -> [Option<Array>; 5] {
    let layer = layer(options, inputs);
    let (key, width) = (layer.dims.key, inputs[1].width());
    let [rows @ .., _] = inputs;
    let [wanted @ .., state_wanted] = needs;
    let mut rooms = Rooms::new(&layer, wanted, rows, [key, width, key, layer.dims.value]);
    let sinks = rooms.sinks(&layer);
    let given = layer.backward(
        saved,
        gradient,
        |place| ((), head(&layer, inputs, place)),
        None,
        |place, (), mut of| {
            if width != key {
                // Its gradient is the sum of theirs.
                of.logw = of.logw.chunks(key).map(|row| row.iter().sum()).collect();
            }
            let HeadGradients { r, logw, k, v, .. } = &mut of;
            // SAFETY: `backward` takes a place once.
            sinks.iter().zip([r, logw, k, v]).for_each(|(sink, rows)| unsafe { sink.put(place, rows) });
            of
        },
    );
    let mut rows = |i: usize, pick: fn(&HeadGradients) -> &[f32]| {
        needs[i].then(|| rooms.rows(&layer, i, inputs[i], &given, |x: &Given<HeadGradients>| pick(&x.of)))
    };
    [rows(0, |x| &x.r), rows(1, |x| &x.logw), rows(2, |x| &x.k), rows(3, |x| &x.v), state_wanted.then(|| layer.states(&given))]
}
