//! The two recurrences against PyTorch in float64 (`tests/golden/kernels`, made by
//! `tests/golden/generate/kernels.py`), in every form: outputs, final state and all gradients. And
//! the printed vectors of the specification.

mod support;

use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::decay::decayed_sum;
use recast_ops::delta_rule::{Form, delta_rule};
use recast_ops::key_norm::key_norm;
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use support::largest;

/// `max |x - y| / max |y|` of outputs and final state.
const FORWARD: f64 = 1e-5;
/// The same of gradients.
const GRADIENT: f64 = 2e-5;
const FORMS: [Form; 6] = [Form::Recurrent, Form::Chunked(8), Form::Chunked(16), Form::Chunked(32), Form::Chunked(64), Form::Auto];

fn cases(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/kernels");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("golden files are part of the repository")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind)))
        .collect();
    all.sort();
    all
}

/// A tensor's values and shape, whichever float it is stored as.
fn stored(file: &SafeTensors<'_>, name: &str) -> (Vec<f64>, Vec<usize>) {
    let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let values = match tensor.dtype() {
        Dtype::F64 => tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect(),
        Dtype::F32 => tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")).into()).collect(),
        other => panic!("{name} is {other:?}"),
    };
    (values, tensor.shape().to_vec())
}

/// A stored tensor as burn's; one decay a head gets a last axis of one.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Tensor<4> {
    let (values, mut shape) = stored(file, name);
    shape.resize(4, 1);
    let shape: [usize; 4] = shape.try_into().expect("rank 4");
    let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn difference(found: Tensor<4>, expected: &[f64]) -> f64 {
    let found = found.into_data().try_into_vec::<f32>().expect("f32");
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    largest(found.iter().zip(expected).map(|(x, y)| (f64::from(*x) - y).abs())) / scale
}

/// The worst difference so far and where it was.
#[derive(Default)]
struct Worst(f64, String);

impl Worst {
    fn see(&mut self, difference: f64, limit: f64, place: String) {
        assert!(difference < limit, "{place}: differs by {difference:e}, expected at most {limit:e}");
        if difference > self.0 {
            (self.0, self.1) = (difference, place);
        }
    }
}

fn check(kind: &str, names: &[&str], expected_cases: usize, run: impl Fn(Vec<Tensor<4>>, Form) -> (Tensor<4>, Tensor<4>)) {
    let (mut forward, mut gradient) = (Worst::default(), Worst::default());
    let cases = cases(kind);
    assert_eq!(cases.len(), expected_cases, "cases of {kind}");
    for path in cases {
        let bytes = std::fs::read(&path).expect("golden file");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let case = path.file_stem().expect("name").to_string_lossy().to_string();
        for form in FORMS {
            let inputs: Vec<Tensor<4>> = names.iter().map(|n| tensor(&file, n).autodiff().require_grad()).collect();
            let (out, state) = run(inputs.clone(), form);
            for (name, found) in [("out", &out), ("state1", &state)] {
                let d = difference(found.clone().inner(), &stored(&file, name).0);
                forward.see(d, FORWARD, format!("{case}, {form:?}: {name}"));
            }
            let loss = (out * tensor(&file, "d_out")).sum() + (state * tensor(&file, "d_state1")).sum();
            let gradients = loss.backward();
            for (name, input) in names.iter().zip(&inputs) {
                let d = difference(input.grad(&gradients).expect("gradient"), &stored(&file, &format!("grad.{name}")).0);
                gradient.see(d, GRADIENT, format!("{case}, {form:?}: gradient of {name}"));
            }
        }
    }
    println!("{kind}: forward at most {:.1e} ({}), gradients at most {:.1e} ({})", forward.0, forward.1, gradient.0, gradient.1);
}

#[test]
fn delta_rule_equals_pytorch() {
    check("delta_rule", &["r", "logw", "k", "v", "a", "b", "state0"], 5, |inputs, form| {
        let [r, logw, k, v, a, b, state]: [_; 7] = inputs.try_into().expect("seven inputs");
        delta_rule(r, logw, k, v, a, b, Some(state), form)
    });
}

#[test]
fn decayed_sum_equals_pytorch() {
    check("decayed_sum", &["q", "logw", "k", "v", "state0"], 9, |inputs, form| {
        let [q, logw, k, v, state]: [_; 5] = inputs.try_into().expect("five inputs");
        decayed_sum(q, logw, k, v, Some(state), form)
    });
}

/// `sin(c + 1.3 t + 0.7 i)` for three tokens of one head of two channels.
fn wave(c: f64) -> Tensor<4> {
    let values: Vec<f32> = (0..6).map(|j| (c + 1.3 * f64::from(j / 2) + 0.7 * f64::from(j % 2)).sin() as f32).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, 1, 2]), &Device::flex())
}

/// Against a printed vector of six decimals.
fn printed(name: &str, found: Tensor<4>, expected: &[f64]) {
    let found = found.into_data().try_into_vec::<f32>().expect("f32");
    // The vectors that the specification gives in part are the last rows.
    let found = &found[found.len() - expected.len()..];
    for (x, y) in found.iter().zip(expected) {
        assert!((f64::from(*x) - y).abs() < 2e-6, "{name}: {found:?}, expected {expected:?}");
    }
}

struct Printed {
    outputs: [f64; 6],
    state: [f64; 4],
    dr: &'static [f64],
    dk: [f64; 6],
    dv: &'static [f64],
    dd: [f64; 6],
    dp: &'static [f64],
}

/// Runs a mixer's arithmetic from r, k, v, the decay before its activation d, and the rate before
/// its sigmoid p.
fn golden_vector(name: &str, expected: &Printed, run: impl Fn([Tensor<4>; 5], Form) -> (Tensor<4>, Tensor<4>)) {
    for form in FORMS {
        let inputs = [0.1, 0.5, 0.9, 1.3, 1.7].map(|c| wave(c).autodiff().require_grad());
        let (out, state) = run(inputs.clone(), form);
        printed(&format!("{name}: o"), out.clone().inner(), &expected.outputs);
        printed(&format!("{name}: S"), state.inner(), &expected.state);
        let gradients = (out * wave(2.1)).sum().backward();
        let lists: [(&str, &[f64]); 5] =
            [("dr", expected.dr), ("dk", &expected.dk), ("dv", expected.dv), ("dd", &expected.dd), ("dp", expected.dp)];
        for ((what, list), input) in lists.into_iter().zip(inputs) {
            if !list.is_empty() {
                printed(&format!("{name}: {what}"), input.grad(&gradients).expect("gradient"), list);
            }
        }
    }
}

/// -exp(-1/2) sigmoid(d)
fn log_decay(d: Tensor<4>) -> Tensor<4> {
    sigmoid(d).mul_scalar(-(-0.5f32).exp())
}

#[test]
fn golden_vectors_of_rwkv7_balanced() {
    let expected = Printed {
        outputs: [0.571609, 0.729409, 1.221652, 0.660096, 0.085762, -0.107896],
        state: [0.507295, 0.098051, 0.512816, 0.586212],
        dr: &[0.525790, 0.955273, -0.260350, -0.690171, -0.583026, -0.965781],
        dk: [-0.264448, 0.666829, -0.735435, 0.045795, 0.089435, -0.119977],
        dv: &[0.628801, 0.002172, -0.523796, -1.108916, -0.075294, -0.058189],
        dd: [-0.009135, 0.049396, 0.007890, 0.057156, 0.035527, -0.014711],
        dp: &[-0.023068, 0.137035, 0.126901, 0.046704, -0.003043, -0.026281],
    };
    golden_vector("RWKV-7 balanced", &expected, |[r, k, v, d, p], form| {
        let (logw, rate) = (log_decay(d), sigmoid(p));
        let kap = key_norm(k.clone());
        let k = k * (rate.clone().add_scalar(1.0) - logw.clone().exp());
        delta_rule(r, logw, k, v, kap.clone().neg(), kap * rate, None, form)
    });
}

#[test]
fn golden_vectors_of_rwkv7_with_key_scales() {
    let expected = Printed {
        outputs: [0.374440, 0.477809, 0.770330, 0.424260, 0.053635, -0.069694],
        state: [0.319841, 0.063057, 0.325031, 0.378193],
        dr: &[],
        dk: [-0.177822, 0.435928, -0.462343, 0.031944, 0.050758, -0.077579],
        dv: &[],
        dd: [0.0, 0.0, 0.052229, 0.046732, 0.021157, -0.019702],
        dp: &[],
    };
    golden_vector("RWKV-7 with k_k and k_a", &expected, |[r, k, v, d, p], form| {
        let (logw, rate) = (log_decay(d), sigmoid(p));
        let kap = key_norm(k.clone().mul_scalar(0.85));
        // k_a = 1: k (1 + (rate - 1) k_a)
        let k = k * rate.clone();
        delta_rule(r, logw, k, v, kap.clone().neg(), kap * rate, None, form)
    });
}

#[test]
fn golden_vectors_of_rwkv6() {
    let expected = Printed {
        outputs: [0.363986, 0.464469, 0.834770, 0.461997, 0.044925, -0.039925],
        state: [0.420725, 0.150579, 0.455016, 0.472791],
        dr: &[],
        dk: [-0.106521, 0.303302, -0.375389, -0.069866, 0.122300, -0.057266],
        dv: &[],
        dd: [-0.010499, 0.063962, -0.002534, 0.106228, 0.088058, -0.012952],
        dp: &[],
    };
    golden_vector("RAD-RWKV6", &expected, |[r, k, v, d, _], form| {
        let logw = d.exp().neg().clamp_min(-5.0);
        let k = k * (logw.clone().exp().neg().add_scalar(1.0));
        let (out, state) = decayed_sum(r, logw, k, v, None, form);
        (out.mul_scalar(0.5f32.sqrt()), state)
    });
}
