//! Writes a report with made-up numbers into a folder, to look at the page.
//!
//! `cargo run -p recast-eval --example report_sample -- FOLDER`

use std::path::PathBuf;

use recast_eval::metrics::{Estimate, MetricKind, relative};
use recast_eval::report::{
    self, Fact, LayerCurve, MemoryCurve, PerplexityRow, PerplexityTable, Point, Provenance, Report, Role, Sample, SampleText,
    Speed, StageCurves, StagePlan,
};
use recast_eval::results::Comparison;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("expected a folder")?);
    std::fs::create_dir_all(&folder)?;
    report::write(&folder, &sample())?;
    Ok(())
}

/// Noise that is the same every time.
fn noise(index: usize) -> f64 {
    ((index * 7919 + 13) % 101) as f64 / 101.0 - 0.5
}

fn curve(tokens: u64, count: usize, from: f64, to: f64, rate: f64, rough: f64) -> Vec<Point> {
    (0..count)
        .map(|i| {
            let t = (i + 1) as f64 / count as f64;
            Point { tokens: (tokens as f64 * t) as u64, value: (to + (from - to) * (-rate * t).exp()) * (1.0 + rough * noise(i)) }
        })
        .collect()
}

fn stage(name: &str, quantity: &str, tokens: u64, from: f64, to: f64) -> StageCurves {
    StageCurves {
        stage: name.into(),
        quantity: quantity.into(),
        training: curve(tokens, 900, from, to, 9.0, 0.12),
        held_out: curve(tokens, 14, to + (from - to) * 0.6, to * 1.02, 6.0, 0.0),
        layers: Vec::new(),
    }
}

fn estimate(value: f64, std_error: f64) -> Estimate {
    Estimate { value, std_error: Some(std_error) }
}

fn task(title: &str, metric: MetricKind, chance: f64, teacher: f64, student: f64, items: usize) -> Comparison {
    let error = |p: f64| (p * (1.0 - p) / items as f64).sqrt();
    let (teacher, student) = (estimate(teacher, error(teacher)), estimate(student, error(student)));
    Comparison {
        task: title.into(),
        title: title.into(),
        metric,
        conditions: format!("0-shot, {items} items"),
        chance: Some(chance),
        teacher,
        student,
        relative: relative(student, teacher, chance),
    }
}

fn sample() -> Report {
    let mut align = stage("align", "mean squared error of mixer outputs", 8_000_000, 1.4, 0.021);
    align.layers = (0..30)
        .map(|layer| LayerCurve {
            layer,
            points: curve(8_000_000, 240, 0.9 + 0.05 * layer as f64, 0.004 + 0.0018 * layer as f64, 7.0, 0.2),
        })
        .collect();
    let perplexity = |label: &str, role, tokens, a: f64, b: f64| PerplexityRow {
        label: label.into(),
        role,
        tokens,
        values: vec![Some(estimate(a, a * 0.012)), Some(estimate(b, b * 0.009))],
        bound: false,
    };
    let sample = |prompt: &str, teacher: &str, student: &str| Sample {
        prompt: prompt.into(),
        texts: vec![
            SampleText { model: "teacher".into(), role: Role::Teacher, text: teacher.into() },
            SampleText { model: "student".into(), role: Role::Student, text: student.into() },
        ],
    };
    let plan = |name: &str, objective: &str, trains: &str, n, tokens, steps, length, lr: &str| StagePlan {
        name: name.into(),
        objective: objective.into(),
        trains: trains.into(),
        trainable_parameters: n,
        total_parameters: 141_210_432,
        tokens,
        steps,
        sequence_length: length,
        learning_rate: lr.into(),
    };
    let lengths = [1, 2, 4, 8, 16, 32, 64, 128].map(|k| k * 1024);
    Report {
        title: "SmolLM2-135M-Instruct to RWKV-7 (made-up numbers)".into(),
        summary: "Thirty softmax mixers became thirty recurrences of constant size, taught by the model they replace. All numbers on this page are invented to show the page.".into(),
        provenance: Provenance {
            teacher: "SmolLM2-135M-Instruct, Q4_1".into(),
            teacher_hash: "sha256 b179c9523d0e6a0f98a330c7562b6827".into(),
            student: "rwkv7 mixers in all 30 layers".into(),
            recipe: "smollm2-rwkv7".into(),
            recipe_hash: "sha256 5d41402abc4b2a76b9719d911017c592".into(),
            command: "recast convert recipes/smollm2-rwkv7.toml --out runs/smollm2-rwkv7".into(),
            versions: vec![Fact {
                label: "recast".into(),
                value: "0.1.0".into(),
            }],
            machine: "16 cores, 128 GiB, one GPU".into(),
            started: "2026-01-02 10:00 UTC".into(),
            finished: "2026-01-02 14:31 UTC".into(),
            more: Vec::new(),
        },
        plan: vec![
            plan("align", "output alignment", "mixers", 26_542_080, 8_000_000, 977, 512, "1e-3 to 1e-5, cosine"),
            plan("distil", "logit KL", "all", 141_210_432, 24_000_000, 1465, 512, "3e-4 to 1e-5, cosine"),
            plan("extend", "next token", "all", 141_210_432, 8_000_000, 244, 4096, "1e-5, constant"),
        ],
        curves: vec![
            align,
            stage("distil", "KL to the teacher's logits", 24_000_000, 2.1, 0.19),
            stage("extend", "next token", 8_000_000, 2.9, 2.71),
        ],
        perplexity: PerplexityTable {
            sets: vec!["held-out mix".into(), "WikiText-2".into()],
            rows: vec![
                perplexity("teacher", Role::Teacher, None, 13.42, 21.87),
                perplexity("student, before", Role::Student, Some(0), 48_213.77, 61_002.4),
                perplexity("student, after align", Role::Student, Some(8_000_000), 34.91, 58.2),
                perplexity("student, after distil", Role::Student, Some(32_000_000), 15.3, 25.61),
                perplexity("student, after extend", Role::Student, Some(40_000_000), 14.88, 24.9),
            ],
            conditions: "windows of 2048, stride 1024".into(),
        },
        tasks: vec![
            task("LAMBADA", MetricKind::Acc, 0.0, 0.431, 0.378, 2582),
            task("ARC, easy", MetricKind::AccNorm, 0.25, 0.542, 0.521, 1220),
            task("ARC, challenge", MetricKind::AccNorm, 0.25, 0.281, 0.277, 546),
            task("HellaSwag", MetricKind::AccNorm, 0.25, 0.421, 0.399, 5026),
            task("PIQA", MetricKind::AccNorm, 0.5, 0.681, 0.672, 906),
            task("WinoGrande", MetricKind::Acc, 0.5, 0.513, 0.51, 641),
            task("BLiMP", MetricKind::Acc, 0.5, 0.807, 0.799, 4055),
        ],
        samples: vec![
            sample(
                "The capital of France is",
                " Paris. The city is located on the Seine River and is known for its museums, its architecture and its food.",
                " Paris. The city is located on the river Seine, and it is the largest city in the country.",
            ),
            sample(
                "Once upon a time, in a small village by the sea,",
                " there lived a young fisherman named Jack. Every morning he took his boat out before the sun rose.\n\nOne day the nets came up empty.",
                " there lived an old woman who mended nets. She had mended them for so long that no one remembered who had done it before her.",
            ),
        ],
        memory: vec![
            MemoryCurve {
                label: "KV cache, f16".into(),
                role: Role::Teacher,
                points: lengths.map(|t| (t, t * 30 * 2 * 192 * 2)).into(),
            },
            MemoryCurve {
                label: "state, f32".into(),
                role: Role::Student,
                points: lengths.map(|t| (t, 30 * 9 * 64 * 64 * 4 + 30 * 2 * 576 * 4)).into(),
            },
        ],
        speed: [1024, 8192, 32768]
            .into_iter()
            .zip([(38.0, 46.0), (21.4, 45.9), (8.3, 46.1)])
            .flat_map(|(context, (teacher, student))| {
                [("teacher", Role::Teacher, teacher), ("student", Role::Student, student)].map(
                    |(label, role, tokens_per_second)| Speed {
                        label: label.into(),
                        role,
                        context,
                        tokens_per_second,
                    },
                )
            })
            .collect(),
        notes: vec!["This page was made by an example of the crate, not by a run.".into()],
        ..Report::default()
    }
}
