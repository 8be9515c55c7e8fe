//! One token of each of several sequences, each with a state of its own that is changed in place: what
//! a server does all day. A state that nobody else holds is not copied.

use super::heads::Head;
use super::layer::{Layer, Place};
use crate::cpu::{exp, multiply_add, simd};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// Elements of state that are worth a fork.
const FORK: usize = 1 << 18;

/// The states `[1, H, K, V]` of the rows, out of their tensors; zero at the start of a sequence.
pub fn taken(states: Vec<Option<Tensor<4>>>, size: usize) -> Vec<Vec<f32>> {
    let numbers = |state: Tensor<4>| {
        let state = state.into_data().try_into_vec::<f32>().expect("states are f32");
        assert_eq!(state.len(), size, "size of a state");
        state
    };
    states.into_iter().map(|state| state.map_or_else(|| vec![0.0; size], numbers)).collect()
}

/// Back into tensors.
pub fn given(states: Vec<Vec<f32>>, shape: [usize; 4], device: &Device) -> Vec<Tensor<4>> {
    states.into_iter().map(|state| Tensor::from_data(TensorData::new(state, shape), device)).collect()
}

impl Layer<'_> {
    /// Outputs `[B, 1, H, V]`; every row's state is advanced.
    pub fn step(&self, prepare: impl Fn(&Place) -> Head + Sync, states: &mut [Vec<f32>]) -> Vec<f32> {
        let (heads, value, size) = (self.dims.heads, self.dims.value, self.dims.key * self.dims.value);
        let mut outputs = vec![0.0; states.len() * heads * value];
        let pairs: Vec<(&mut [f32], &mut [f32])> =
            states.iter_mut().flat_map(|state| state.chunks_mut(size)).zip(outputs.chunks_mut(value)).collect();
        let work = |(pair, (state, output)): (usize, (&mut [f32], &mut [f32]))| {
            let (b, h) = self.dims.pair(pair);
            let head = prepare(&Place { b, h, tokens: 0..1 });
            match &head.ab {
                Some((a, b)) => advance_delta(&head.r, &head.logw, &head.k, &head.v, a, b, state, output),
                None => advance_sum(&head.r, &head.logw, &head.k, &head.v, state, output),
            }
        };
        if pairs.len() * size < FORK {
            pairs.into_iter().enumerate().for_each(work);
        } else {
            pairs.into_par_iter().enumerate().for_each(work);
        }
        self.finish(&mut outputs);
        outputs
    }
}

simd! {
    // S = e^logw S + b (S^T a) + k v, o = S^T r.
    fn advance_delta(
        r: &[f32], logw: &[f32], k: &[f32], v: &[f32], a: &[f32], b: &[f32], state: &mut [f32], output: &mut [f32],
    ) {
        let value = v.len();
        let mut read = vec![0.0f32; value];
        let read = &mut read[..value];
        for (a, row) in a.iter().zip(state.chunks_exact(value)) {
            for i in 0..value {
                read[i] = multiply_add::<FMA>(*a, row[i], read[i]);
            }
        }
        let (v, output) = (&v[..value], &mut output[..value]);
        for (n, row) in state.chunks_exact_mut(value).enumerate() {
            let (w, k, b, r) = (exp::<FMA>(logw[n]), k[n], b[n], r[n]);
            for i in 0..value {
                let s = multiply_add::<FMA>(w, row[i], multiply_add::<FMA>(b, read[i], k * v[i]));
                row[i] = s;
                output[i] = multiply_add::<FMA>(s, r, output[i]);
            }
        }
    }

    // S = e^logw S + k v, o = S^T r.
    fn advance_sum(r: &[f32], logw: &[f32], k: &[f32], v: &[f32], state: &mut [f32], output: &mut [f32]) {
        let value = v.len();
        let (v, output) = (&v[..value], &mut output[..value]);
        for (n, row) in state.chunks_exact_mut(value).enumerate() {
            let (w, k, r) = (exp::<FMA>(logw[n]), k[n], r[n]);
            for i in 0..value {
                let s = multiply_add::<FMA>(w, row[i], k * v[i]);
                row[i] = s;
                output[i] = multiply_add::<FMA>(s, r, output[i]);
            }
        }
    }
}
