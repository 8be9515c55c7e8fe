//! GPU: the recurrence's kernels between two of our own, which make its inputs from the projections, a few
//! lanes a head, and take their gradients back in place. What they made is made again for the backward pass:
//! that is cheaper than to keep it.

mod kernels;

use super::Options;
use crate::cube::{
    CubeTensor, Together, by_lanes, elementwise, flags, in_shapes, lanes, or_nothing, repeat_heads, reshaped, room, sum_heads,
    sum_rows,
};
use crate::delta_rule::cube::{self as recurrence, Inputs};
use kernels::{keys, keys_backward, values, values_backward};

type Tensors = [CubeTensor; 14];

/// The operator's inputs, and what they say of the layer.
#[derive(Clone)]
struct Layer {
    r: CubeTensor,
    decay: CubeTensor,
    iclr: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    decay_bias: CubeTensor,
    iclr_bias: CubeTensor,
    first: CubeTensor,
    mix: CubeTensor,
    mix_bias: CubeTensor,
    k_k: CubeTensor,
    k_a: CubeTensor,
    gate: Option<CubeTensor>,
    state: CubeTensor,
    starts: CubeTensor,
    documents: bool,
    residual: bool,
    stock: bool,
    /// `[B, T, H, N]`.
    shape: [usize; 4],
    /// Heads of keys and values, and of the first layer's values.
    groups: usize,
    first_groups: usize,
}

impl Layer {
    fn of(options: &Options, inputs: Tensors) -> Self {
        let [r, decay, iclr, k, v, decay_bias, iclr_bias, first, mix, mix_bias, k_k, k_a, gate, state] = inputs;
        let shape: [usize; 4] = r.meta.shape().as_slice().try_into().expect("the operator learns its sizes from r");
        let [b, t, _, n] = shape;
        let heads_of = |x: &CubeTensor| x.meta.num_elements() / (b * t * n).max(1);
        let (groups, first_groups) = (heads_of(&k), heads_of(&first));
        let (starts, documents) = flags(&r, options.settings.starts.as_deref());
        let ((first, residual), (mix, _), (mix_bias, _)) = (or_nothing(first), or_nothing(mix), or_nothing(mix_bias));
        let ((k_k, stock), (k_a, _)) = (or_nothing(k_k), or_nothing(k_a));
        let gate = (gate.meta.num_elements() > 0).then(|| reshaped(gate, &shape));
        Self {
            r,
            decay,
            iclr,
            k,
            v,
            decay_bias,
            iclr_bias,
            first,
            mix,
            mix_bias,
            k_k,
            k_a,
            gate,
            state,
            starts,
            documents,
            residual,
            stock,
            shape,
            groups,
            first_groups,
        }
    }

    /// (Token, head) pairs.
    fn rows(&self) -> usize {
        self.shape[..3].iter().product()
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The delta rule's inputs.
    fn prepared(&self) -> Inputs {
        let (client, size) = (self.r.client.clone(), self.shape[3]);
        let mut parts = Together::default();
        let [logw, k, a, b] = [(); 4].map(|()| parts.add(&self.shape));
        let out = parts.room(&self.r);
        let lanes = lanes(size);
        let (count, dim) = by_lanes(self.rows(), lanes);
        keys::launch(
            &client,
            count,
            dim,
            self.decay.clone().into_tensor_arg(),
            self.iclr.clone().into_tensor_arg(),
            self.k.clone().into_tensor_arg(),
            self.decay_bias.clone().into_tensor_arg(),
            self.iclr_bias.clone().into_tensor_arg(),
            self.k_k.clone().into_tensor_arg(),
            self.k_a.clone().into_tensor_arg(),
            self.starts.clone().into_tensor_arg(),
            out.clone().into_tensor_arg(),
            logw,
            k,
            a,
            b,
            self.rows() as u32,
            self.shape[2] as u32,
            self.groups as u32,
            size as u32,
            lanes,
            self.stock,
            self.documents,
        );
        let [logw, k, a, b] = parts.first(&out);
        Inputs {
            r: self.r.clone(),
            logw,
            k,
            v: self.values(),
            ab: Some((a, b)),
            state: self.state.clone(),
            gate: self.gate.clone(),
        }
    }

    /// Values of every head, the first layer's mixed in.
    fn values(&self) -> CubeTensor {
        if !self.residual {
            return repeat_heads(self.v.clone(), self.groups, &self.shape);
        }
        let out = room(&self.r, &self.shape);
        let (count, dim) = elementwise(self.elements());
        values::launch(
            &self.r.client.clone(),
            count,
            dim,
            self.v.clone().into_tensor_arg(),
            self.first.clone().into_tensor_arg(),
            self.mix.clone().into_tensor_arg(),
            self.mix_bias.clone().into_tensor_arg(),
            out.clone().into_tensor_arg(),
            self.elements() as u32,
            self.shape[2] as u32,
            self.groups as u32,
            self.first_groups as u32,
            self.shape[3] as u32,
        );
        out
    }
}

pub fn forward(options: &Options, inputs: Tensors) -> (CubeTensor, CubeTensor) {
    recurrence::run(options, Layer::of(options, inputs).prepared())
}

pub fn backward(
    options: &Options,
    _: [bool; 14],
    inputs: Tensors,
    _output: CubeTensor,
    saved: CubeTensor,
    gradient: CubeTensor,
) -> [Option<CubeTensor>; 14] {
    let shapes = inputs.each_ref().map(|x| x.meta.shape().to_vec());
    let layer = Layer::of(options, inputs);
    let client = layer.r.client.clone();
    let [_, _, heads, size] = layer.shape;
    let channels = [heads * size];
    let (all, none): (&[usize], &[usize]) = (&layer.shape, &[0]);
    // Of k_a before its sum over tokens; of the first layer's values and of the mix before its sigmoid.
    let reserved =
        [if layer.stock { all } else { none }, if layer.residual { all } else { none }, if layer.residual { all } else { none }];
    let of = recurrence::gradients(options, layer.prepared(), saved, gradient, reserved);
    let at = of.at;
    let lanes = lanes(size);
    let (count, dim) = by_lanes(layer.rows(), lanes);
    keys_backward::launch(
        &client,
        count,
        dim,
        layer.decay.clone().into_tensor_arg(),
        layer.iclr.clone().into_tensor_arg(),
        layer.k.clone().into_tensor_arg(),
        layer.decay_bias.clone().into_tensor_arg(),
        layer.iclr_bias.clone().into_tensor_arg(),
        layer.k_k.clone().into_tensor_arg(),
        layer.k_a.clone().into_tensor_arg(),
        layer.starts.clone().into_tensor_arg(),
        of.all.clone().into_tensor_arg(),
        at.logw,
        at.k,
        at.a,
        at.b,
        at.reserved[0],
        layer.rows() as u32,
        heads as u32,
        layer.groups as u32,
        size as u32,
        lanes,
        layer.stock,
        layer.documents,
    );
    if layer.residual {
        let (count, dim) = elementwise(layer.elements());
        values_backward::launch(
            &client,
            count,
            dim,
            layer.v.clone().into_tensor_arg(),
            layer.first.clone().into_tensor_arg(),
            layer.mix.clone().into_tensor_arg(),
            layer.mix_bias.clone().into_tensor_arg(),
            of.all.clone().into_tensor_arg(),
            at.v,
            at.reserved[1],
            at.reserved[2],
            layer.elements() as u32,
            heads as u32,
            layer.groups as u32,
            layer.first_groups as u32,
            size as u32,
        );
    }
    // In the places of logw, a and b now stand the gradients of the decay, of the learning rate and of k_k.
    let of = of.apart();
    let (iclr, to_k_k) = of.ab.expect("the delta rule has a and b");
    let [to_k_a, first, mix] = of.reserved;
    let sum = |x: &CubeTensor| sum_rows(x.clone(), &channels);
    let [decay_bias, iclr_bias] = [sum(&of.logw), sum(&iclr)];
    let mix_bias = layer.residual.then(|| sum(&mix));
    let [k_k, k_a] = [to_k_k, to_k_a].map(|x| layer.stock.then(|| sum(&x)));
    let gradients = [
        Some(of.r),
        Some(of.logw),
        Some(iclr),
        Some(sum_heads(of.k, layer.groups)),
        Some(sum_heads(of.v, layer.groups)),
        Some(decay_bias),
        Some(iclr_bias),
        layer.residual.then(|| sum_heads(first, layer.first_groups)),
        layer.residual.then_some(mix),
        mix_bias,
        k_k,
        k_a,
        of.gate,
        Some(of.state),
    ];
    in_shapes(gradients, shapes)
}
