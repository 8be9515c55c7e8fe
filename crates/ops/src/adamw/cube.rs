//! GPU: one unit an element; parameter and moments change where they lie.

use super::Constants;
use crate::cube::{CubeTensor, contiguous, elementwise, totalled};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use cubecl::prelude::Tensor;
use cubecl::prelude::*;

/// burn's, beside the kernels' own.
type Flat = burn::tensor::Tensor<1>;

/// Backend side of the update.
#[backend_extension(Cube)]
pub trait AdamWBackend: Backend {
    /// Parameter and both moments after the step.
    fn adamw_update(
        constants: Constants,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// `sum`, `[1]`, and the squares of `x` added to it.
    fn add_squares(sum: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl AdamWBackend for burn_cubecl::CubeBackend {
    fn adamw_update(
        c: Constants,
        parameter: CubeTensor,
        gradient: CubeTensor,
        m: CubeTensor,
        v: CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [parameter, m, v] = [parameter, m, v].map(|x| {
            let x = contiguous(x);
            // Other holders keep the old values.
            if x.can_mut() { x } else { x.copy() }
        });
        let elements = parameter.meta.num_elements();
        let (count, dim) = elementwise(elements);
        adamw::launch(
            &parameter.client.clone(),
            count,
            dim,
            parameter.clone().into_tensor_arg(),
            contiguous(gradient).into_tensor_arg(),
            m.clone().into_tensor_arg(),
            v.clone().into_tensor_arg(),
            c.keep,
            c.rate,
            c.root,
            c.one_minus_beta1,
            c.beta2,
            c.one_minus_beta2,
            c.epsilon,
            c.clip_scale,
            elements as u32,
        );
        (parameter, m, v)
    }

    fn add_squares(sum: CubeTensor, x: CubeTensor) -> CubeTensor {
        totalled(x, true, Some(sum))
    }
}

/// `sum`, `[1]`, and the squares of `x` added to it: what a norm of many gradients needs, read once.
pub fn with_squares(sum: Flat, x: Flat) -> Flat {
    Flat::from_dispatch(Dispatch::add_squares(sum.into_dispatch(), x.into_dispatch()))
}

pub fn step(c: &Constants, parameter: Flat, gradient: Flat, m: &mut Flat, v: &mut Flat) -> Flat {
    let device = parameter.device();
    let take = |x: &mut Flat| std::mem::replace(x, Flat::empty([1], &device)).into_dispatch();
    let (first, second) = (take(m), take(v));
    let out = Dispatch::adamw_update(*c, parameter.into_dispatch(), gradient.into_dispatch(), first, second);
    *m = Flat::from_dispatch(out.1);
    *v = Flat::from_dispatch(out.2);
    Flat::from_dispatch(out.0)
}

#[cube(launch)]
fn adamw(
    parameter: &mut Tensor<f32>,
    gradient: &Tensor<f32>,
    m: &mut Tensor<f32>,
    v: &mut Tensor<f32>,
    keep: f32,
    rate: f32,
    root: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    clip_scale: f32,
    elements: u32,
) {
    let i = ABSOLUTE_POS;
    if i < elements as usize {
        let g = gradient[i] * clip_scale;
        let first = m[i] + one_minus_beta1 * (g - m[i]);
        let second = beta2 * v[i] + one_minus_beta2 * g * g;
        m[i] = first;
        v[i] = second;
        parameter[i] = parameter[i] * keep - rate * first / (second.sqrt() * root + epsilon);
    }
}
