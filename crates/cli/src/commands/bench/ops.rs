//! `recast bench ops`: the operators at the sizes of SmolLM2-135M, sequences of 512 tokens, and the
//! recurrences from 512 to 32k tokens.

use super::{Timing, time};
use crate::{Global, output};
use burn::tensor::{Device, Distribution, Tensor};
use recast_eval::table::{Align, Table};
use recast_ops::attention::{AttentionOptions, attention};
use recast_ops::cpu::{Matrix, bf16, matmul_threads};
use recast_ops::delta_rule::{Form, delta_rule_outputs};
use recast_ops::{decay, group_norm, linear, rms_norm, rope, rwkv6, rwkv7, swiglu, token_shift, vocab_loss};
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;

const TOKENS: usize = 512;
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const VOCABULARY: usize = 49152;
const HEADS: usize = 9;
const GROUPS: usize = 3;
const HEAD: usize = 64;

/// Arguments of `recast bench ops`.
#[derive(clap::Args)]
pub struct Args {
    /// Only operators whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Times to run each, at least.
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// Sequences at a time.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Longest sequence of the recurrences.
    #[arg(long, default_value_t = 32768)]
    longest: usize,
    /// Chunk length of the recurrences; by default their own.
    #[arg(long)]
    chunk: Option<usize>,
}

#[derive(Serialize)]
struct Peaks {
    /// GFLOP/s of a large matrix product in f32, and in bf16 where there are instructions for it.
    f32: f64,
    bf16: Option<f64>,
    /// GB/s of a pass that reads two arrays and writes one, far larger than the caches.
    memory: f64,
}

#[derive(Serialize)]
struct Row {
    name: String,
    tokens: usize,
    forward: Timing,
    /// Forward and backward.
    both: Timing,
    /// Work of forward and backward: billions of operations, of bytes moved at least.
    gflop: f64,
    gigabytes: f64,
    /// Share of the peak that binds: the larger of both shares.
    share: f64,
}

struct Bench<'a> {
    args: &'a Args,
    device: Device,
    peaks: Peaks,
    rows: Vec<Row>,
}

/// Measures and prints.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    if args.batch == 0 {
        return Err(output::wrong("--batch", "at least 1", "0").into());
    }
    let device = global.device()?;
    let mut bench = Bench { args, peaks: peaks(&device), device, rows: Vec::new() };
    elementwise(&mut bench);
    products(&mut bench);
    losses(&mut bench)?;
    let mut tokens = TOKENS;
    while tokens <= args.longest {
        recurrences(&mut bench, tokens);
        tokens *= 4;
    }
    if global.json {
        return output::json(&serde_json::json!({ "peaks": bench.peaks, "operators": bench.rows }));
    }
    let mut table = Table::new(&[
        ("operator", Align::Left),
        ("tokens", Align::Right),
        ("forward, ms", Align::Right),
        ("and backward, ms", Align::Right),
        ("us a token", Align::Right),
        ("GFLOP/s", Align::Right),
        ("GB/s", Align::Right),
        ("of peak", Align::Right),
    ]);
    for row in &bench.rows {
        table.row([
            row.name.clone(),
            row.tokens.to_string(),
            format!("{:.2}", row.forward.median * 1e3),
            format!("{:.2}", row.both.median * 1e3),
            format!("{:.2}", row.both.median / row.tokens as f64 * 1e6),
            format!("{:.0}", row.gflop / row.both.median),
            format!("{:.1}", row.gigabytes / row.both.median),
            format!("{:.0} %", 100.0 * row.share),
        ]);
    }
    let bf16 = bench.peaks.bf16.map_or_else(String::new, |x| format!(", bf16 {x:.0}"));
    let Peaks { f32, memory, .. } = bench.peaks;
    output::print(format_args!("{}\nmeasured peaks: f32 {f32:.0} GFLOP/s{bf16}, memory {memory:.1} GB/s", table.plain()))
}

/// Waits until the device has done what it was given: GPUs work while the program goes on.
fn wait(device: &Device) {
    device.sync().expect("a device that computes can be waited for");
}

fn peaks(device: &Device) -> Peaks {
    // swiglu in place of a triad: two arrays in, one out.
    let size = 32 << 20;
    let x = Tensor::<1>::ones([size], device);
    let seconds = time(5, || {
        black_box(swiglu::swiglu(x.clone(), x.clone()));
        wait(device);
    });
    // Both inputs are one array, so it is read once.
    let memory = 2.0 * 4.0 * size as f64 * 1e-9 / seconds.best;
    let (f32, bf16) = if *device == Device::flex() { cpu_products() } else { device_products(device) };
    Peaks { f32, bf16, memory }
}

/// GFLOP/s of large products on a GPU, by burn's own kernels.
fn device_products(device: &Device) -> (f64, Option<f64>) {
    let n = 4096_usize;
    let work = 2.0 * (n as f64).powi(3) * 1e-9;
    let x = Tensor::<2>::random([n, n], Distribution::Normal(0.0, 0.3), device);
    let speed = |x: Tensor<2>| {
        let seconds = time(7, || {
            black_box(x.clone().matmul(x.clone()));
            wait(device);
        });
        work / seconds.best
    };
    (speed(x.clone()), Some(speed(x.cast(burn::tensor::FloatDType::BF16))))
}

fn cpu_products() -> (f64, Option<f64>) {
    let n = 1536;
    let (a, b) = (vec![0.5f32; n * n], vec![0.25f32; n * n]);
    let mut out = vec![0.0; n * n];
    let (left, right) = (Matrix::new(&a, n, n), Matrix::new(&b, n, n));
    let work = 2.0 * (n * n * n) as f64 * 1e-9;
    let f32 = work / time(7, || matmul_threads(&mut out, n, 0.0, left, right)).best;
    let bf16 = bf16::available().then(|| work / time(7, || bf16::matmul_threads(&mut out, n, false, left, right)).best);
    (f32, bf16)
}

impl Bench<'_> {
    /// Times `f` of random inputs of these shapes. `flop` and `bytes` are those of forward and
    /// backward together; a product's operations go to its precision's peak.
    fn row(
        &mut self,
        name: &str,
        tokens: usize,
        flop: f64,
        bytes: f64,
        shapes: &[&[usize]],
        f: impl Fn(&[Tensor<1>]) -> Tensor<1>,
    ) {
        if self.args.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        let inputs = |device: &Device| -> Vec<Tensor<1>> {
            let random = |shape: &&[usize]| {
                let x = Tensor::<1>::random([shape.iter().product::<usize>()], Distribution::Normal(0.0, 0.3), device);
                if device.is_autodiff() { x.require_grad() } else { x }
            };
            shapes.iter().map(random).collect()
        };
        let device = self.device.clone();
        let (plain, graph) = (inputs(&device), inputs(&device.clone().autodiff()));
        let forward = time(self.args.repeats, || {
            black_box(f(&plain));
            wait(&device);
        });
        // The sum that a backward pass starts from costs one more pass over the output.
        let both = time(self.args.repeats, || {
            black_box(f(&graph).sum().backward());
            wait(&device);
        });
        let product = recast_ops::linear::precision() == recast_ops::linear::Precision::Bf16 && is_product(name);
        let peak = if product { self.peaks.bf16.unwrap_or(self.peaks.f32) } else { self.peaks.f32 };
        let (gflop, gigabytes) = (flop * 1e-9, bytes * 1e-9);
        let share = (gflop / both.median / peak).max(gigabytes / both.median / self.peaks.memory);
        // The table comes last: one that is stopped before has said what it knows.
        output::tell(format_args!(
            "{name}, {tokens} tokens: {:.3} ms, with backward {:.3}",
            forward.median * 1e3,
            both.median * 1e3
        ));
        self.rows.push(Row { name: name.into(), tokens, forward, both, gflop, gigabytes, share });
    }
}

/// Operators whose products take bf16 operands.
fn is_product(name: &str) -> bool {
    name.starts_with("linear") || name.starts_with("cross") || name.starts_with("teacher")
}

fn four(x: &Tensor<1>, tokens: usize, heads: usize) -> Tensor<4> {
    x.clone().reshape([-1, tokens as i32, heads as i32, HEAD as i32])
}

fn elementwise(bench: &mut Bench<'_>) {
    let batch = bench.args.batch;
    let rows = batch * TOKENS;
    let (stream, inner) = ([rows, HIDDEN], [rows, INNER]);
    // Bytes of forward and backward: every input and output once, every gradient once.
    let pass = |arrays: f64, shape: [usize; 2]| arrays * 4.0 * (shape[0] * shape[1]) as f64;
    bench.row("rms_norm", rows, 0.0, pass(5.0, stream), &[&stream, &[HIDDEN]], |x| {
        rms_norm::rms_norm(x[0].clone().reshape(stream), x[1].clone(), 1e-5).reshape([-1])
    });
    bench.row("group_norm", rows, 0.0, pass(5.0, stream), &[&stream, &[HIDDEN], &[HIDDEN]], |x| {
        group_norm::group_norm(four(&x[0], TOKENS, HEADS), x[1].clone(), x[2].clone(), 1e-5).reshape([-1])
    });
    bench.row("swiglu", rows, 0.0, pass(8.0, inner), &[&inner, &inner], |x| swiglu::swiglu(x[0].clone(), x[1].clone()));
    let frequencies: Vec<f32> = (0..HEAD / 2).map(|i| 1e4f32.powf(-(i as f32) / (HEAD / 2) as f32)).collect();
    let table = rope::RopeTable::new(&frequencies, TOKENS, 1.0);
    bench.row("rope", rows, 0.0, pass(4.0, stream), &[&stream], |x| {
        rope::rope(four(&x[0], TOKENS, HEADS), &table, 0, None).reshape([-1])
    });
    bench.row("token_shift", rows, 0.0, pass(8.0, stream), &[&stream, &[HIDDEN], &stream], |x| {
        let wide = |x: &Tensor<1>| x.clone().reshape([batch, TOKENS, HIDDEN]);
        token_shift::token_shift(wide(&x[0]), None, x[1].clone(), Some(wide(&x[2])), None).reshape([-1])
    });
}

fn products(bench: &mut Bench<'_>) {
    let rows = bench.args.batch * TOKENS;
    for (name, input, output) in
        [("linear 576 x 576", HIDDEN, HIDDEN), ("linear 576 x 1536", HIDDEN, INNER), ("linear 1536 x 576", INNER, HIDDEN)]
    {
        let flop = 6.0 * (rows * input * output) as f64;
        bench.row(name, rows, flop, 0.0, &[&[rows, input], &[output, input]], |x| {
            linear::linear(x[0].clone().reshape([rows, input]), x[1].clone().reshape([output, input]), None).reshape([-1])
        });
    }
    // Causal: half of the T x T products; two forward, five backward (the scores once more).
    let flop = 7.0 * (rows * HEADS * TOKENS * HEAD) as f64;
    let keys = [rows, GROUPS * HEAD];
    bench.row("attention", rows, flop, 0.0, &[&[rows, HEADS * HEAD], &keys, &keys], |x| {
        let (q, k, v) = (four(&x[0], TOKENS, HEADS), four(&x[1], TOKENS, GROUPS), four(&x[2], TOKENS, GROUPS));
        attention(q, k, v, AttentionOptions::default()).reshape([-1])
    });
}

fn losses(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let rows = bench.args.batch * TOKENS;
    let head = [VOCABULARY, HIDDEN];
    let product = 2.0 * (rows * VOCABULARY * HIDDEN) as f64;
    let targets: Arc<[u32]> = (0..rows).map(|row| (row * 7919 % VOCABULARY) as u32).collect();
    let shape =
        |x: &[Tensor<1>], i: usize| (x[i].clone().reshape([rows, HIDDEN]), x[i + 1].clone().reshape([VOCABULARY, HIDDEN]));
    bench.row("cross_entropy", rows, 3.0 * product, 0.0, &[&[rows, HIDDEN], &head], |x| {
        let (hidden, weight) = shape(x, 0);
        vocab_loss::cross_entropy(hidden, weight, targets.clone(), None, None).expect("targets are in the vocabulary")
    });
    bench.row("teacher_kl", rows, 4.0 * product, 0.0, &[&[rows, HIDDEN], &head, &[rows, HIDDEN], &head], |x| {
        let ((hidden, weight), (teacher, teacher_weight)) = (shape(x, 0), shape(x, 2));
        vocab_loss::teacher_kl(hidden, weight, teacher, teacher_weight, None, None).expect("shapes fit")
    });
    Ok(())
}

fn recurrences(bench: &mut Bench<'_>, tokens: usize) {
    // The same number of sequences at every length: an odd number of heads would leave one of two cores idle.
    let batch = bench.args.batch;
    let (rows, wide) = (batch * tokens, HEADS * HEAD);
    // Multiply-adds a token and head of the recurrent form, forward; backward twice that.
    let state = (HEAD * HEAD) as f64;
    let flop = |per_state: f64| 3.0 * per_state * state * (rows * HEADS) as f64;
    let (r, kv, channels) = ([rows, wide], [rows, GROUPS * HEAD], [wide]);
    let three = |x: &Tensor<1>| x.clone().reshape([batch, tokens, wide]);
    let form = bench.args.chunk.map_or(Form::Auto, Form::Chunked);
    let settings = || rwkv7::Settings { scale: 0.125, starts: None, form };
    let decays = |x: &Tensor<1>| four(&x.clone().abs().neg(), tokens, HEADS);

    bench.row("decayed sum", rows, flop(4.0), 0.0, &[&r, &r, &r, &r], |x| {
        let of = |i: usize| four(&x[i], tokens, HEADS);
        decay::decayed_sum_outputs(of(0), decays(&x[1]), of(2), of(3), None, form).reshape([-1])
    });
    bench.row("delta rule", rows, flop(8.0), 0.0, &[&r, &r, &r, &r, &r], |x| {
        let of = |i: usize| four(&x[i], tokens, HEADS);
        // Directions of length about one and learning rates below one keep the state bounded.
        let kap = of(4).mul_scalar(0.4);
        delta_rule_outputs(of(0), decays(&x[1]), of(2), of(3), kap.clone().neg(), kap.mul_scalar(0.5), None, form).reshape([-1])
    });
    bench.row("rwkv6", rows, flop(4.0), 0.0, &[&r, &r, &channels, &kv, &kv, &r], |x| {
        let inputs = rwkv6::Inputs {
            q: four(&x[0], tokens, HEADS),
            decay: three(&x[1]),
            bias: x[2].clone().sub_scalar(3.0),
            k: four(&x[3], tokens, GROUPS),
            v: four(&x[4], tokens, GROUPS),
            gate: Some(three(&x[5])),
            balanced: true,
        };
        rwkv6::rwkv6_outputs(inputs, settings()).reshape([-1])
    });
    bench.row("rwkv7", rows, flop(8.0), 0.0, &[&r, &r, &r, &kv, &kv, &channels, &channels, &kv, &r, &channels, &r], |x| {
        let inputs = rwkv7::Inputs {
            r: four(&x[0], tokens, HEADS),
            decay: three(&x[1]),
            iclr: three(&x[2]),
            k: four(&x[3], tokens, GROUPS),
            v: four(&x[4], tokens, GROUPS),
            biases: [x[5].clone(), x[6].clone()],
            residual: Some(rwkv7::Residual { first: four(&x[7], tokens, GROUPS), mix: three(&x[8]), bias: x[9].clone() }),
            keys: rwkv7::Keys::Balanced,
            gate: Some(three(&x[10])),
        };
        rwkv7::rwkv7_outputs(inputs, settings()).reshape([-1])
    });
}
