//! The fast recurrences against their literal references: outputs, final state and every gradient.

use burn::tensor::{Device, Tensor, TensorData};
use recast_ops::decay::{self, decayed_sum};
use recast_ops::delta_rule::{self, Form, delta_rule};
use recast_ops::device;
use std::cell::Cell;

/// The device under test: the processor, or what `RECAST_TEST_DEVICE` names.
fn tested() -> Device {
    let kind = std::env::var("RECAST_TEST_DEVICE").map_or(device::Kind::Cpu, |name| name.parse().expect("a kind"));
    device::open(kind).expect("there is such a device")
}

thread_local! {
    /// The device's generator is shared by tests that run at once; this one is each test's own, so
    /// that every run sees the same numbers.
    static SEED: Cell<u64> = const { Cell::new(1) };
}

fn next() -> f64 {
    SEED.with(|seed| {
        let x = seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.set(x);
        (x >> 11) as f64 / (1u64 << 53) as f64
    })
}

fn uniform<const D: usize>(shape: [usize; D], low: f64, high: f64, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (low + (high - low) * next()) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Standard normal (Box-Muller).
fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let normal = || ((-2.0 * (1.0 - next()).ln()).sqrt() * (std::f64::consts::TAU * next()).cos()) as f32;
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| normal()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Fast path and reference are both f32 and sum in different orders; `kernels_golden.rs` holds the
/// fast path to float64 more tightly.
const GRADIENTS: f32 = 5e-5;

/// max |x - y| / max |y|, of tensors anywhere.
fn difference<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> f32 {
    let [x, y] = [x, y].map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("numbers"));
    assert_eq!(x.len(), y.len(), "lengths");
    assert!(x.iter().chain(&y).all(|x| !x.is_nan()), "not a number");
    let scale = y.iter().fold(1e-6f32, |most, y| most.max(y.abs()));
    x.iter().zip(&y).fold(0.0, |most: f32, (x, y)| most.max((x - y).abs())) / scale
}

/// The same on the processor, where a reference is computed: its products are of TF32 operands on some GPUs.
fn on_processor<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_data(x.into_data(), &Device::flex().autodiff())
}

fn forms() -> [Form; 5] {
    [Form::Recurrent, Form::Chunked(8), Form::Chunked(32), Form::Chunked(64), Form::Auto]
}

#[test]
fn delta_rule_equals_reference() {
    let device = tested().autodiff();
    for (tokens, key, value, strongest) in
        [(1, 8, 8, 0.6), (7, 8, 8, 0.6), (65, 16, 16, 0.6), (65, 8, 12, 20.0), (130, 16, 16, 0.6)]
    {
        let (b, h) = (2, 3);
        let kap = random([b, tokens, h, key], &device);
        let norm = kap.clone().powf_scalar(2.0).sum_dim(3).sqrt();
        let kap = kap / norm;
        let rate = uniform([b, tokens, h, key], 0.0, 1.0, &device);
        let inputs = [
            random([b, tokens, h, key], &device),
            uniform([b, tokens, h, key], -strongest, 0.0, &device),
            random([b, tokens, h, key], &device),
            random([b, tokens, h, value], &device),
            kap.clone().neg(),
            kap * rate,
            random([b, h, key, value], &device),
        ];
        let (co, cs) = (random([b, tokens, h, value], &device), random([b, h, key, value], &device));
        let leaves = || inputs.clone().map(|x| x.detach().require_grad());

        let x = inputs.clone().map(|x| on_processor(x).require_grad());
        let [r, w, k, v, a, bb, s] = x.clone();
        let (o, last) = delta_rule::reference::delta_rule(r, w, k, v, a, bb, s);
        let weights = [&co, &cs].map(|weights| on_processor(weights.clone()));
        let grads = ((o.clone() * weights[0].clone()).sum() + (last.clone() * weights[1].clone()).sum()).backward();
        let expected = x.map(|x| x.grad(&grads).expect("gradient"));
        for form in forms() {
            let x = leaves();
            let [r, w, k, v, a, bb, s] = x.clone();
            let (o2, last2) = delta_rule(r, w, k, v, a, bb, Some(s), form);
            let grads = ((o2.clone() * co.clone()).sum() + (last2.clone() * cs.clone()).sum()).backward();
            assert!(difference(o2, o.clone()) < 1e-5, "{form:?} T={tokens} outputs");
            assert!(difference(last2, last.clone()) < 1e-5, "{form:?} T={tokens} state");
            for ((x, expected), name) in x.into_iter().zip(&expected).zip(["r", "logw", "k", "v", "a", "b", "s0"]) {
                let d = difference(x.grad(&grads).expect("gradient"), expected.clone());
                assert!(d < GRADIENTS, "{form:?} T={tokens} decay {strongest}: d{name} differs by {d:e}");
            }
        }
    }
}

#[test]
fn decayed_sum_equals_reference() {
    let device = tested().autodiff();
    for (tokens, scalar, strongest) in [(1, false, 1.0), (7, true, 1.0), (65, false, 5.0), (65, true, 0.3), (130, false, 30.0)] {
        let (b, h, key, value) = (2, 3, 16, 8);
        let inputs = [
            random([b, tokens, h, key], &device),
            uniform([b, tokens, h, if scalar { 1 } else { key }], -strongest, 0.0, &device),
            random([b, tokens, h, key], &device),
            random([b, tokens, h, value], &device),
            random([b, h, key, value], &device),
        ];
        let (co, cs) = (random([b, tokens, h, value], &device), random([b, h, key, value], &device));
        let leaves = || inputs.clone().map(|x| x.detach().require_grad());
        let x = inputs.clone().map(|x| on_processor(x).require_grad());
        let [q, w, k, v, s] = x.clone();
        let (o, last) = decay::reference::decayed_sum(q, w, k, v, s);
        let weights = [&co, &cs].map(|weights| on_processor(weights.clone()));
        let grads = ((o.clone() * weights[0].clone()).sum() + (last.clone() * weights[1].clone()).sum()).backward();
        let expected = x.map(|x| x.grad(&grads).expect("gradient"));
        for form in forms() {
            let x = leaves();
            let [q, w, k, v, s] = x.clone();
            let (o2, last2) = decayed_sum(q, w, k, v, Some(s), form);
            let grads = ((o2.clone() * co.clone()).sum() + (last2.clone() * cs.clone()).sum()).backward();
            assert!(difference(o2, o.clone()) < 1e-5, "{form:?} T={tokens} outputs");
            assert!(difference(last2, last.clone()) < 1e-5, "{form:?} T={tokens} state");
            for ((x, expected), name) in x.into_iter().zip(&expected).zip(["q", "logw", "k", "v", "s0"]) {
                let d = difference(x.grad(&grads).expect("gradient"), expected.clone());
                assert!(d < GRADIENTS, "{form:?} T={tokens} decay {strongest}: d{name} differs by {d:e}");
            }
        }
    }
}

/// Every combination of what an RWKV-7 layer may have: shared key-value heads, a value residual in
/// either layout, both ways to scale keys, a gate, documents; at odd lengths, in every form.
#[test]
fn rwkv7_equals_reference() {
    use recast_ops::rwkv7::{self, Inputs, Keys, Residual, Settings, rwkv7};
    let device = tested().autodiff();
    let (b, h, n) = (2, 4, 8);
    for (case, (tokens, groups, residual, stock, gated, documents)) in [
        (1, 4, None, false, false, false),
        (5, 2, Some(2), false, true, false),
        (37, 1, Some(4), true, false, true),
        (65, 2, Some(2), false, true, true),
        (70, 4, Some(4), true, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        let wide = || random([b, tokens, h * n], &device);
        let channel = || random([h * n], &device);
        let leaves: Vec<Tensor<1>> = [
            random([b, tokens, h, n], &device).reshape([-1]),
            wide().reshape([-1]),
            wide().reshape([-1]),
            random([b, tokens, groups, n], &device).reshape([-1]),
            random([b, tokens, groups, n], &device).reshape([-1]),
            channel(),
            channel(),
            random([b, tokens, residual.unwrap_or(1), n], &device).reshape([-1]),
            wide().reshape([-1]),
            channel(),
            channel(),
            channel(),
            wide().reshape([-1]),
            random([b, h, n, n], &device).reshape([-1]),
        ]
        .into_iter()
        .map(|x: Tensor<1>| x.detach())
        .collect();
        let used = |i: usize| match i {
            7..=9 => residual.is_some(),
            10 | 11 => stock,
            12 => gated,
            _ => true,
        };
        let starts: Vec<bool> = (0..b * tokens).map(|t| t % tokens != 0 && t % 11 == 3).collect();
        let settings = |form| Settings { scale: 0.3, starts: documents.then(|| starts.clone().into()), form };
        let inputs = |x: &[Tensor<1>]| {
            let kv = |i: usize| x[i].clone().reshape([b, tokens, groups, n]);
            let wide = |i: usize| x[i].clone().reshape([b, tokens, h * n]);
            Inputs {
                r: x[0].clone().reshape([b, tokens, h, n]),
                decay: wide(1),
                iclr: wide(2),
                k: kv(3),
                v: kv(4),
                biases: [x[5].clone(), x[6].clone()],
                residual: residual.map(|heads| Residual {
                    first: x[7].clone().reshape([b, tokens, heads, n]),
                    mix: wide(8),
                    bias: x[9].clone(),
                }),
                keys: if stock { Keys::Stock { k_k: x[10].clone(), k_a: x[11].clone() } } else { Keys::Balanced },
                gate: gated.then(|| wide(12)),
            }
        };
        let (co, cs) = (random([b, tokens, h, n], &device), random([b, h, n, n], &device));
        let run = |processor: bool, f: &dyn Fn(Inputs, Tensor<4>) -> (Tensor<4>, Tensor<4>)| {
            let here = |x: &Tensor<1>| if processor { on_processor(x.clone()) } else { x.clone() };
            let there = |x: &Tensor<4>| if processor { on_processor(x.clone()) } else { x.clone() };
            let x: Vec<Tensor<1>> = leaves.iter().map(|x| here(x).require_grad()).collect();
            let (o, last) = f(inputs(&x), x[13].clone().reshape([b, h, n, n]));
            let grads = ((o.clone() * there(&co)).sum() + (last.clone() * there(&cs)).sum()).backward();
            let grads: Vec<Option<Tensor<1>>> = x.iter().map(|x| x.grad(&grads)).collect();
            (o, last, grads)
        };
        let (o, last, expected) = run(true, &|i, s| rwkv7::reference::rwkv7(i, s, &settings(Form::Auto)));
        for form in forms() {
            let (o2, last2, grads) = run(false, &|i, s| rwkv7(i, Some(s), settings(form)));
            assert!(difference(o2, o.clone()) < 2e-5, "case {case} {form:?}: outputs");
            assert!(difference(last2, last.clone()) < 2e-5, "case {case} {form:?}: state");
            for (i, (found, expected)) in grads.into_iter().zip(&expected).enumerate().filter(|(i, _)| used(*i)) {
                let d = difference(found.expect("gradient"), expected.clone().expect("gradient"));
                assert!(d < GRADIENTS, "case {case} {form:?}: gradient of input {i} differs by {d:e}");
            }
        }
        if !documents {
            let (o3, ..) =
                run(false, &|i, _| (rwkv7::rwkv7_outputs(i, settings(Form::Auto)), leaves[13].clone().reshape([b, h, n, n])));
            let (o4, ..) = run(false, &|i, s| rwkv7(i, Some(s.zeros_like()), settings(Form::Auto)));
            assert!(difference(o3, o4) < 1e-6, "case {case}: without a state");
        }
    }
}

/// States after every so many tokens, outputs and gradients through all of them, against one call a block.
#[test]
fn states_between_blocks_equal_a_call_a_block() {
    use recast_ops::rwkv7::{Inputs, Keys, Settings, rwkv7, rwkv7_states};
    let device = tested().autodiff();
    if !recast_ops::quantised::on_processor(&device) {
        return;
    }
    let (b, h, n) = (2, 2, 8);
    for (tokens, every) in [(1, 1), (6, 4), (5, 8), (37, 1), (37, 16), (70, 35), (300, 256), (300, 400)] {
        let shape = [b, tokens, h, n];
        let leaves: Vec<Tensor<4>> = (0..7).map(|_| random(shape, &device).detach()).collect();
        let biases = [(); 2].map(|()| random::<1>([h * n], &device));
        let blocks = tokens.div_ceil(every);
        let (co, cs) = (random(shape, &device), random([b * blocks, h, n, n], &device));
        let block = |x: &Tensor<4>, i: usize| x.clone().narrow(1, i * every, every.min(tokens - i * every));
        let settings = || Settings { scale: 0.3, starts: None, form: Form::Auto };
        let inputs = |x: &[Tensor<4>]| {
            let wide = |x: &Tensor<4>| {
                let [b, t, h, n] = x.dims();
                x.clone().reshape([b, t, h * n])
            };
            let (r, k, v) = (x[0].clone(), x[3].clone(), x[4].clone());
            Inputs {
                r,
                decay: wide(&x[1]),
                iclr: wide(&x[2]),
                k,
                v,
                biases: biases.clone(),
                residual: None,
                keys: Keys::Balanced,
                gate: Some(wide(&x[5])),
            }
        };
        let plain = |x: &[Tensor<4>]| {
            let [r, w, k, v, a, b] = [0, 1, 3, 4, 5, 6].map(|i| x[i].clone());
            // As the mixers scale them: a transition that does not grow.
            (r, w.abs().neg(), k, v, a.mul_scalar(-0.1), b.mul_scalar(0.1))
        };
        type Run<'a> = &'a dyn Fn(&[Tensor<4>]) -> (Tensor<4>, Tensor<4>);
        type Step<'a> = &'a dyn Fn(&[Tensor<4>], Option<Tensor<4>>) -> (Tensor<4>, Tensor<4>);
        let whole: [Run<'_>; 2] = [
            &|x| {
                let (r, w, k, v, a, b) = plain(x);
                delta_rule::delta_rule_states(r, w, k, v, a, b, every, Form::Auto)
            },
            &|x| rwkv7_states(inputs(x), settings(), every),
        ];
        let steps: [Step<'_>; 2] = [
            &|x, state| {
                let (r, w, k, v, a, b) = plain(x);
                delta_rule(r, w, k, v, a, b, state, Form::Auto)
            },
            &|x, state| rwkv7(inputs(x), state, settings()),
        ];
        for (which, (whole, step)) in whole.into_iter().zip(steps).enumerate() {
            let run = |f: Run<'_>| {
                let x: Vec<Tensor<4>> = leaves.iter().map(|x| x.clone().require_grad()).collect();
                let (o, states) = f(&x);
                let grads = ((o.clone() * co.clone()).sum() + (states.clone() * cs.clone()).sum()).backward();
                let used = [6, 5][which] + 1;
                let grads: Vec<_> = x.iter().take(used).filter_map(|x| x.grad(&grads)).collect();
                (o, states, grads)
            };
            let (o, states, expected) = run(&|x| {
                let (mut state, mut outputs, mut states) = (None, Vec::new(), Vec::new());
                for i in 0..blocks {
                    let x: Vec<_> = x.iter().map(|x| block(x, i)).collect();
                    let (o, last) = step(&x, state);
                    outputs.push(o);
                    states.push(last.clone().reshape([b, 1, h, n * n]));
                    state = Some(last);
                }
                (Tensor::cat(outputs, 1), Tensor::cat(states, 1).reshape([b * blocks, h, n, n]))
            });
            let (o2, states2, grads) = run(whole);
            let case = format!("{} {tokens} every {every}", ["delta rule", "rwkv7"][which]);
            assert!(difference(o2, o) < 2e-5, "{case}: outputs");
            assert!(difference(states2, states) < 2e-5, "{case}: states");
            assert_eq!(grads.len(), expected.len());
            for (i, (found, expected)) in grads.into_iter().zip(expected).enumerate() {
                let d = difference(found, expected);
                assert!(d < GRADIENTS, "{case}: gradient {i} differs by {d:e}");
            }
        }
    }
}

/// As above for RWKV-6; decays reach the clamp.
#[test]
fn rwkv6_equals_reference() {
    use recast_ops::rwkv6::{self, Inputs, Settings, rwkv6};
    let device = tested().autodiff();
    let (b, h, n) = (2, 4, 8);
    for (case, (tokens, groups, balanced, gated, documents)) in
        [(1, 4, true, false, false), (37, 1, true, true, true), (65, 2, false, true, false), (70, 4, true, false, true)]
            .into_iter()
            .enumerate()
    {
        let shapes = [
            vec![b, tokens, h, n],
            vec![b, tokens, h * n],
            vec![h * n],
            vec![b, tokens, groups, n],
            vec![b, tokens, groups, n],
            vec![b, tokens, h * n],
            vec![b, h, n, n],
        ];
        let leaves: Vec<Tensor<1>> = shapes.iter().map(|s| random([s.iter().product()], &device).detach()).collect();
        let starts: Vec<bool> = (0..b * tokens).map(|t| t % tokens != 0 && t % 11 == 3).collect();
        let settings = |form| Settings { scale: 0.3, starts: documents.then(|| starts.clone().into()), form };
        let inputs = |x: &[Tensor<1>]| Inputs {
            q: x[0].clone().reshape([b, tokens, h, n]),
            decay: x[1].clone().reshape([b, tokens, h * n]),
            bias: x[2].clone(),
            k: x[3].clone().reshape([b, tokens, groups, n]),
            v: x[4].clone().reshape([b, tokens, groups, n]),
            gate: gated.then(|| x[5].clone().reshape([b, tokens, h * n])),
            balanced,
        };
        let (co, cs) = (random([b, tokens, h, n], &device), random([b, h, n, n], &device));
        let run = |processor: bool, f: &dyn Fn(Inputs, Tensor<4>) -> (Tensor<4>, Tensor<4>)| {
            let here = |x: &Tensor<1>| if processor { on_processor(x.clone()) } else { x.clone() };
            let there = |x: &Tensor<4>| if processor { on_processor(x.clone()) } else { x.clone() };
            let x: Vec<Tensor<1>> = leaves.iter().map(|x| here(x).require_grad()).collect();
            let (o, last) = f(inputs(&x), x[6].clone().reshape([b, h, n, n]));
            let grads = ((o.clone() * there(&co)).sum() + (last.clone() * there(&cs)).sum()).backward();
            let grads: Vec<Option<Tensor<1>>> = x.iter().map(|x| x.grad(&grads)).collect();
            (o, last, grads)
        };
        let (o, last, expected) = run(true, &|i, s| rwkv6::reference::rwkv6(i, s, &settings(Form::Auto)));
        for form in forms() {
            let (o2, last2, grads) = run(false, &|i, s| rwkv6(i, Some(s), settings(form)));
            assert!(difference(o2, o.clone()) < 2e-5, "case {case} {form:?}: outputs");
            assert!(difference(last2, last.clone()) < 2e-5, "case {case} {form:?}: state");
            for (i, (found, expected)) in grads.into_iter().zip(&expected).enumerate().filter(|(i, _)| gated || *i != 5) {
                let d = difference(found.expect("gradient"), expected.clone().expect("gradient"));
                assert!(d < GRADIENTS, "case {case} {form:?}: gradient of input {i} differs by {d:e}");
            }
        }
    }
}

#[test]
fn token_shift_equals_reference() {
    use recast_ops::token_shift::{self, token_shift};
    let device = tested().autodiff();
    for (b, t, c) in [(1, 1, 3), (3, 7, 5), (2, 65, 40)] {
        let leaves = [random([b * t * c], &device), random([b * c], &device), random([c], &device), random([b * t * c], &device)];
        let starts: Vec<bool> = (0..b * t).map(|i| i % 5 == 4).collect();
        let weights = random([b, t, c], &device);
        let run = |f: &dyn Fn(Tensor<3>, Tensor<2>, Tensor<1>, Tensor<3>) -> Tensor<3>| {
            let x = leaves.clone().map(|x: Tensor<1>| x.detach().require_grad());
            let [a, p, base, amount] = x.clone();
            let y = f(a.reshape([b, t, c]), p.reshape([b, c]), base, amount.reshape([b, t, c]));
            let grads = (y.clone() * weights.clone()).sum().backward();
            (y, x.map(|x| x.grad(&grads).expect("gradient")))
        };
        let (y, expected) = run(&|x, p, base, amount| token_shift::reference::token_shift(x, p, base, amount, &starts));
        let (y2, found) = run(&|x, p, base, amount| token_shift(x, Some(p), base, Some(amount), Some(starts.clone().into())));
        assert!(difference(y2, y) < 1e-6);
        for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            let d = difference(found, expected);
            assert!(d < 1e-5, "{b}x{t}x{c}: gradient of input {i} differs by {d:e}");
        }
        let [x, _, base, _] = leaves.clone();
        let y = token_shift(x.clone().reshape([b, t, c]), None, base.clone(), None, None);
        let (x, zero) = (x.reshape([b, t, c]), Tensor::zeros([b, t, c], &device));
        let plain = token_shift::reference::token_shift(x, Tensor::zeros([b, c], &device), base, zero, &vec![false; b * t]);
        assert!(difference(y, plain) < 1e-6);
    }
}

#[test]
fn no_decay_and_infinite_decay() {
    let device = tested();
    let (b, t, h, n) = (1, 40, 1, 4);
    let x = |_| random([b, t, h, n], &device);
    for log_decay in [0.0f32, -1e4] {
        let w = Tensor::<4>::full([b, t, h, n], log_decay, &device);
        let (q, k, v) = (x(0), x(1), x(2));
        let s = random([b, h, n, n], &device);
        let (o, _) = decayed_sum(q.clone(), w.clone(), k.clone(), v.clone(), Some(s.clone()), Form::Chunked(32));
        let [q, w, k, v, s] = [q, w, k, v, s].map(on_processor);
        let (o2, _) = decay::reference::decayed_sum(q, w, k, v, s);
        let d = difference(o, o2);
        assert!(d < 1e-5, "log decay {log_decay}: {d:e}");
    }
}
