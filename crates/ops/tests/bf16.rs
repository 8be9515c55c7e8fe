//! `--precision bf16` against f32 references: attention, both recurrences and the vocabulary's
//! divergence, outputs and gradients within what rounding operands to eight bits may cost, and not those of f32 where
//! operands are rounded. The precision belongs to the process: a test program of its own. Where the processor has no
//! instructions for it, the bounds hold trivially.

mod support;

use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::attention::{self, AttentionOptions, Mask};
use recast_ops::cpu::bf16;
use recast_ops::decay::{self, decayed_sum};
use recast_ops::delta_rule::{self, Form, delta_rule};
use recast_ops::linear::{self, Precision, linear, set_precision};
use recast_ops::vocab_loss::{reference, teacher_kl};
use support::largest;

/// Largest difference in outputs, of the largest value: two or three roundings of 2^-9 each.
const OUTPUT: f32 = 1.2e-2;
/// The same in gradients, which pass through more products.
const GRADIENT: f32 = 1.5e-2;

fn random(shape: &[usize], seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 11) as f64 / (1u64 << 53) as f64
    };
    let count: usize = shape.iter().product();
    (0..count).map(|_| ((-2.0 * (1.0 - next()).ln()).sqrt() * (std::f64::consts::TAU * next()).cos()) as f32).collect()
}

/// max |x - y| / max |y|
fn difference(x: &[f32], y: &[f32]) -> f32 {
    assert_eq!(x.len(), y.len());
    let scale = y.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    largest(x.iter().zip(y).map(|(x, y)| f64::from((x - y).abs()))) as f32 / scale
}

type Inputs = Vec<(Vec<f32>, [usize; 4])>;

/// Output and gradients of `sum(output * weights)`.
fn evaluate(inputs: &Inputs, f: &dyn Fn(Vec<Tensor<4>>) -> Tensor<1>) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let numbers = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().expect("f32");
    let leaves: Vec<Tensor<4>> = inputs
        .iter()
        .map(|(data, shape)| Tensor::from_data(TensorData::new(data.clone(), *shape), &device).require_grad())
        .collect();
    let output = f(leaves.clone());
    let n = output.dims()[0];
    let weights = Tensor::<1>::from_data(TensorData::new(random(&[n], 99), [n]), &device);
    let gradients = (output.clone() * weights).sum().backward();
    let mut all = vec![numbers(output)];
    all.extend(leaves.iter().map(|x| numbers(x.grad(&gradients).expect("gradient").reshape([-1]))));
    all
}

/// `rounds`: whether this processor rounds the operator's operands.
fn compare(
    (name, rounds): (&str, bool),
    inputs: Inputs,
    fast: &dyn Fn(Vec<Tensor<4>>) -> Tensor<1>,
    slow: &dyn Fn(Vec<Tensor<4>>) -> Tensor<1>,
) {
    set_precision(Precision::Bf16);
    let rounded = evaluate(&inputs, fast);
    set_precision(Precision::F32);
    assert!(!rounds || rounded != evaluate(&inputs, fast), "{name}: bf16 is f32 to the bit");
    let exact = evaluate(&inputs, slow);
    for (i, (x, y)) in rounded.iter().zip(&exact).enumerate() {
        let (d, most) = (difference(x, y), if i == 0 { OUTPUT } else { GRADIENT });
        eprintln!("{name} {i}: {d:.1e}");
        assert!(d < most, "{name}, {}: differs by {d:e}", if i == 0 { "output".into() } else { format!("gradient {}", i - 1) });
    }
}

/// One test, because the precision is the process's.
#[test]
fn within_bounds() {
    // Products with weights, and those of small operands inside attention and recurrences.
    let (weights, inside) = (bf16::available(), bf16::available_in_cache(32, 32, 32));
    let normal = |shape: [usize; 4], seed| (random(&shape, seed), shape);
    for (tokens, mask) in [(65, Mask::Causal), (130, Mask::Window(40)), (300, Mask::Bidirectional)] {
        let inputs = vec![normal([2, tokens, 4, 32], 1), normal([2, tokens, 2, 32], 2), normal([2, tokens, 2, 32], 3)];
        let options = || AttentionOptions { mask, ..Default::default() };
        let three = |x: Vec<Tensor<4>>| <[Tensor<4>; 3]>::try_from(x).expect("three inputs");
        compare(
            (&format!("attention {tokens}"), inside),
            inputs,
            &|x| {
                let [q, k, v] = three(x);
                attention::attention(q, k, v, options()).reshape([-1])
            },
            &|x| {
                let [q, k, v] = three(x);
                attention::reference::attention(q, k, v, &options()).reshape([-1])
            },
        );
    }
    for (tokens, strongest) in [(65, 0.6f32), (130, 0.6), (97, 20.0)] {
        let (b, h, n) = (2, 3, 64);
        let shape = [b, tokens, h, n];
        let decays: Vec<f32> = random(&shape, 5).iter().map(|x| -strongest / (1.0 + x.exp())).collect();
        let mut away = random(&shape, 6);
        let mut write = random(&shape, 7);
        for (a, w) in away.chunks_mut(n).zip(write.chunks_mut(n)) {
            let norm = a.iter().map(|x| x * x).sum::<f32>().sqrt();
            a.iter_mut().zip(w).for_each(|(a, w)| {
                *a /= -norm;
                *w = -*a / (1.0 + (-*w).exp());
            });
        }
        let inputs = vec![
            normal(shape, 8),
            (decays, shape),
            normal(shape, 9),
            normal(shape, 10),
            (away, shape),
            (write, shape),
            normal([b, h, n, n], 11),
        ];
        let both = |(o, s): (Tensor<4>, Tensor<4>)| Tensor::cat(vec![o.reshape([-1]), s.reshape([-1])], 0);
        let seven = |x: Vec<Tensor<4>>| <[Tensor<4>; 7]>::try_from(x).expect("seven inputs");
        compare(
            (&format!("delta rule {tokens}, decay {strongest}"), inside),
            inputs.clone(),
            &|x| {
                let [r, w, k, v, a, b, s] = seven(x);
                both(delta_rule(r, w, k, v, a, b, Some(s), Form::Auto))
            },
            &|x| {
                let [r, w, k, v, a, b, s] = seven(x);
                both(delta_rule::reference::delta_rule(r, w, k, v, a, b, s))
            },
        );
        let five = |x: Vec<Tensor<4>>| <[Tensor<4>; 5]>::try_from(x).expect("five inputs");
        let inputs = [0, 1, 2, 3, 6].map(|i| inputs[i].clone()).to_vec();
        compare(
            (&format!("decayed sum {tokens}, decay {strongest}"), inside),
            inputs,
            &|x| {
                let [q, w, k, v, s] = five(x);
                both(decayed_sum(q, w, k, v, Some(s), Form::Auto))
            },
            &|x| {
                let [q, w, k, v, s] = five(x);
                both(decay::reference::decayed_sum(q, w, k, v, s))
            },
        );
    }
    let (rows, vocabulary, width) = (33, 500, 64);
    let flat = |x: Tensor<4>| -> Tensor<2> {
        let [_, _, n, c] = x.dims();
        x.reshape([n, c])
    };
    let teacher = |x: &Tensor<4>, n: usize, seed| {
        Tensor::<2>::from_data(TensorData::new(random(&[n, width], seed), [n, width]), &x.device().inner())
    };
    compare(
        ("linear", weights),
        vec![normal([1, 1, rows, width], 25), normal([1, 1, 48, width], 26)],
        &|x| linear(flat(x[0].clone()), flat(x[1].clone()), None).reshape([-1]),
        &|x| linear::reference::linear(flat(x[0].clone()), flat(x[1].clone())).reshape([-1]),
    );
    compare(
        ("teacher KL", weights),
        vec![
            normal([1, 1, rows, width], 21),
            (random(&[vocabulary, width], 22).iter().map(|x| 0.3 * x).collect(), [1, 1, vocabulary, width]),
        ],
        &|x| {
            let (h, w) = (teacher(&x[0], rows, 23), teacher(&x[0], vocabulary, 24).mul_scalar(0.3));
            teacher_kl(flat(x[0].clone()), flat(x[1].clone()), h, w, None, None).expect("sizes fit")
        },
        &|x| {
            let (h, w) = (teacher(&x[0], rows, 23), teacher(&x[0], vocabulary, 24).mul_scalar(0.3));
            reference::teacher_kl(flat(x[0].clone()), flat(x[1].clone()), h, w, &[1.0; 33], 33.0)
        },
    );
}
