//! Milliseconds of each fused operator and of its reference at the sizes of SmolLM2-135M (1024 rows
//! as 2 x 512). Not a test: `cargo test --release -p recast-ops --test fused_speed -- --ignored --nocapture`.
//! The environment variable `ONLY` picks the operators whose names contain it; `KEEP=1` calls
//! `keep_freed_memory` first.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Distribution, Tensor};
use recast_ops::attention::{AttentionOptions, attention};
use recast_ops::{attention, group_norm, key_norm, rms_norm, rope, swiglu, vocab_loss};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Processor time of all threads so far, in seconds.
fn processor() -> f64 {
    // SAFETY: an all-zero `rusage` is valid, and the call only writes it.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6).sum()
}

/// Milliseconds: the best wall time, and the mean processor time, which other jobs disturb less.
struct Cost(f64, f64);

impl std::fmt::Display for Cost {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:8.2} ms (processor {:8.2})", self.0, self.1)
    }
}

fn cost(mut f: impl FnMut()) -> Cost {
    let start = Instant::now();
    f();
    // About half a second, at least twice.
    let repeats = (0.5 / start.elapsed().as_secs_f64()).clamp(2.0, 200.0) as usize;
    let (mut best, before) = (f64::INFINITY, processor());
    for _ in 0..repeats {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    Cost(best * 1e3, (processor() - before) / repeats as f64 * 1e3)
}

type Operator<'a> = &'a dyn Fn(&[Tensor<2>]) -> Tensor<2>;

fn wanted(name: &str) -> bool {
    std::env::var("ONLY").map_or(true, |only| name.contains(&only))
}

/// Forward without a graph, and forward with backward.
fn time(name: &str, shapes: &[[usize; 2]], f: Operator) {
    if !wanted(name) {
        return;
    }
    let [plain, graph] = [Device::flex(), Device::flex().autodiff()].map(|device| {
        shapes
            .iter()
            .map(|&shape| {
                let x = Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.3), &device);
                if device.is_autodiff() { x.require_grad() } else { x }
            })
            .collect::<Vec<_>>()
    });
    let forward = cost(|| {
        black_box(f(&plain));
    });
    let upstream = f(&plain).ones_like();
    let upstream = Tensor::<2>::from_data(upstream.into_data(), &graph[0].device());
    let both = cost(|| {
        black_box((f(&graph) * upstream.clone()).sum().backward());
    });
    println!("{name:32} forward {forward}   forward and backward {both}");
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let (batch, time_steps, d, f, v) = (2, 512, 576, 1536, 49152);
    let (heads, groups, n) = (9, 3, 64);
    let rows = batch * time_steps;
    let kept = std::env::var_os("KEEP").is_some() && recast_ops::cpu::keep_freed_memory();
    println!("{} threads, {:?}, freed memory kept: {kept}", recast_ops::cpu::threads(), recast_ops::cpu::level());

    let flat_weight = |x: &Tensor<2>| x.clone().reshape([-1]);
    time("rms_norm", &[[rows, d], [1, d]], &|x| rms_norm::rms_norm(x[0].clone(), flat_weight(&x[1]), 1e-5));
    time("rms_norm reference", &[[rows, d], [1, d]], &|x| {
        rms_norm::reference::rms_norm(x[0].clone(), flat_weight(&x[1]), 1e-5)
    });
    time("swiglu", &[[rows, f], [rows, f]], &|x| swiglu::swiglu(x[0].clone(), x[1].clone()));
    time("swiglu reference", &[[rows, f], [rows, f]], &|x| swiglu::reference::swiglu(x[0].clone(), x[1].clone()));

    let frequencies: Vec<f32> = (0..n / 2).map(|i| 1e5f32.powf(-(i as f32) / (n / 2) as f32)).collect();
    let table = rope::RopeTable::new(&frequencies, 2048, 1.0);
    let positions: Vec<u32> = (0..rows).map(|row| (row % time_steps) as u32).collect();
    let four = |x: &Tensor<2>, heads| x.clone().reshape([batch, time_steps, heads, n]);
    let two = |x: Tensor<4>| x.reshape([rows as i32, -1]);
    time("rope", &[[rows, d]], &|x| two(rope::rope(four(&x[0], heads), &table, 0, None)));
    time("rope reference", &[[rows, d]], &|x| two(rope::reference::rope(four(&x[0], heads), &table, &positions)));

    let shapes = [[rows, heads * n], [rows, groups * n], [rows, groups * n]];
    let split = |x: &[Tensor<2>]| (four(&x[0], heads), four(&x[1], groups), four(&x[2], groups));
    time("attention", &shapes, &|x| {
        let (q, k, v) = split(x);
        two(attention(q, k, v, AttentionOptions::default()))
    });
    time("attention reference", &shapes, &|x| {
        let (q, k, v) = split(x);
        two(attention::reference::attention(q, k, v, &AttentionOptions::default()))
    });
    if wanted("attention decode") {
        let device = Device::flex();
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (q, k, v) = (random([1, 1, heads, n]), random([1, 2048, groups, n]), random([1, 2048, groups, n]));
        let fast = cost(|| {
            black_box(attention(q.clone(), k.clone(), v.clone(), AttentionOptions::default()));
        });
        let options = AttentionOptions::default();
        let slow = cost(|| {
            black_box(attention::reference::attention(q.clone(), k.clone(), v.clone(), &options));
        });
        println!("attention decode, 2048 keys        {fast}, reference {slow}");
    }
    time("group_norm", &[[rows, d], [1, d], [1, d]], &|x| {
        two(group_norm::group_norm(four(&x[0], heads), flat_weight(&x[1]), flat_weight(&x[2]), 1e-5))
    });
    time("group_norm reference", &[[rows, d], [1, d], [1, d]], &|x| {
        two(group_norm::reference::group_norm(four(&x[0], heads), flat_weight(&x[1]), flat_weight(&x[2]), 1e-5))
    });
    time("key_norm", &[[rows, d]], &|x| two(key_norm::key_norm(four(&x[0], heads))));
    time("key_norm reference", &[[rows, d]], &|x| two(key_norm::reference::key_norm(four(&x[0], heads))));

    let targets: Arc<[u32]> = (0..rows).map(|row| (row * 7919 % v) as u32).collect();
    let ones = vec![1.0; rows];
    let one = |loss: Tensor<1>| loss.reshape([1, 1]);
    time("cross_entropy", &[[rows, d], [v, d]], &|x| {
        one(vocab_loss::cross_entropy(x[0].clone(), x[1].clone(), targets.clone(), None, None).unwrap())
    });
    time("cross_entropy reference", &[[rows, d], [v, d]], &|x| {
        one(vocab_loss::reference::cross_entropy(x[0].clone(), x[1].clone(), &targets, &ones, rows as f32))
    });
    let teacher = || {
        let random = |shape: [usize; 2]| Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.3), &Device::flex());
        (random([rows, d]), random([v, d]))
    };
    if wanted("teacher_kl") {
        let (hidden, weight) = teacher();
        time("teacher_kl", &[[rows, d], [v, d]], &|x| {
            let teacher = (hidden.clone(), weight.clone());
            one(vocab_loss::teacher_kl(x[0].clone(), x[1].clone(), teacher.0, teacher.1, None, None).unwrap())
        });
        time("teacher_kl reference", &[[rows, d], [v, d]], &|x| {
            let teacher = (hidden.clone(), weight.clone());
            one(vocab_loss::reference::teacher_kl(x[0].clone(), x[1].clone(), teacher.0, teacher.1, &ones, rows as f32))
        });
    }
    if wanted("adamw") {
        let n = 49_600_000;
        let (mut p, g, mut m, mut s) = (vec![0.1; n], vec![0.01; n], vec![0.0; n], vec![0.0; n]);
        let optimizer = recast_ops::adamw::AdamW::default();
        let norm = cost(|| {
            black_box(recast_ops::adamw::global_norm(&[&g]));
        });
        let mut t = 0;
        let step = cost(|| {
            t += 1;
            optimizer.step(&mut p, &g, &mut m, &mut s, 1e-3, t, 1.0);
        });
        println!("adamw, 49.6 M parameters           step {step}, norm {norm}");
    }
}
