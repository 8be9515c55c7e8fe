//! CPU: heads as they are, through what all recurrences share.

use super::heads::{Head, HeadGradients};
use super::layer::{Given, Layer, Options};
use crate::cpu::{Array, View};

type Inputs<'a> = [View<'a>; 7];

fn layer<'a>(options: &'a Options, [r, _, _, v, _, _, state]: Inputs<'a>) -> Layer<'a> {
    Layer::new(options, r, v.width(), View { data: &[], shape: &[0] }, state)
}

fn head(layer: &Layer<'_>, [r, logw, k, v, a, b, _]: Inputs<'_>, place: &super::layer::Place) -> Head {
    let keys = |x| layer.gather(x, layer.dims.key, place);
    Head {
        r: keys(r),
        logw: keys(logw),
        k: keys(k),
        v: layer.gather(v, layer.dims.value, place),
        ab: Some((keys(a), keys(b))),
    }
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
    let given = layer.backward(saved, gradient, |place| ((), head(&layer, inputs, place)), |_, (), of| of);
    let rows = |i: usize, width: usize, pick: fn(&HeadGradients) -> &[f32]| {
        needs[i].then(|| layer.rows(&given, inputs[i], width, |x: &Given<HeadGradients>| pick(&x.of)))
    };
    let key = layer.dims.key;
    [
        rows(0, key, |x| &x.r),
        rows(1, key, |x| &x.logw),
        rows(2, key, |x| &x.k),
        rows(3, layer.dims.value, |x| &x.v),
        rows(4, key, |x| x.ab.as_ref().map_or(&[], |ab| &ab.0)),
        rows(5, key, |x| x.ab.as_ref().map_or(&[], |ab| &ab.1)),
        needs[6].then(|| layer.states(&given)),
    ]
}
