//! Stage losses, optimiser and schedules against the PyTorch values of `tests/golden/train`.

mod support;

use burn::tensor::Device;
use recast_models::convert::{student, student_config};
use recast_models::param::Param;
use recast_models::source::{FromCheckpoint, Missing};
use recast_models::weights::{self, Checkpoint};
use recast_models::{Model, families};
use recast_ops::adamw::AdamW;
use recast_train::objectives::{MicroBatch, Objective};
use recast_train::optimizer::{Gradients, Optimizer};
use recast_train::schedule::{Schedule, Shape};
use support::{batch, golden, largest, model};

/// All tensors of a file as f64, with their shapes (the losses are stored in double precision).
struct Doubles(Vec<u8>);

impl Doubles {
    fn open(name: &str) -> Self {
        Self(std::fs::read(golden(name)).expect("golden file"))
    }

    fn names(&self) -> Vec<String> {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("safetensors");
        file.names().into_iter().map(String::from).collect()
    }

    fn get(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).expect("safetensors");
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("{name} in {:?}", self.names()));
        let data = tensor.data();
        let values = match tensor.dtype() {
            safetensors::Dtype::F64 => data.chunks(8).map(|b| f64::from_le_bytes(b.try_into().expect("8"))).collect(),
            safetensors::Dtype::F32 => data.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4")))).collect(),
            safetensors::Dtype::I64 => data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8")) as f64).collect(),
            other => panic!("{name} is {other:?}"),
        };
        (values, tensor.shape().to_vec())
    }
}

fn stored(file: &Doubles) -> MicroBatch {
    let (ids, shape) = file.get("input_ids");
    let inputs: Vec<u32> = ids.iter().map(|&x| x as u32).collect();
    let tokens = inputs.len();
    batch(shape[0], inputs, tokens)
}

fn check(objective: Objective, prefix: &str, only_mixers: bool, recompute: bool) -> f64 {
    let file = Doubles::open("losses.safetensors");
    let (teacher, student) = (model("teacher"), model("student"));
    let trainable: Vec<_> =
        student.parameters().into_iter().filter(|(name, _)| !only_mixers || name.contains(".self_attn.")).collect();
    let mut gradients = Gradients::default();
    let loss =
        objective.gradients(&student, Some(&teacher), &stored(&file), &trainable, recompute, None, &mut gradients).expect("loss");
    let (wanted, _) = file.get(prefix);
    let error = (loss.value - wanted[0]).abs() / wanted[0].abs();
    assert!(error < 1e-5, "{prefix}: {} against {}", loss.value, wanted[0]);
    let mut checked = 0;
    for name in file.names() {
        let Some(param) = name.strip_prefix(&format!("grad.{prefix}.")) else { continue };
        let (wanted, _) = file.get(&name);
        let scale = wanted.iter().fold(1e-9f64, |m, x| m.max(x.abs()));
        let zeros = vec![0.0f32; wanted.len()];
        let found = gradients.get(param).unwrap_or(zeros);
        let worst = largest(found.iter().zip(&wanted).map(|(x, y)| (f64::from(*x) - y).abs())) / scale;
        assert!(worst < 1e-3, "{prefix}: gradient of {param} differs by {worst:e}");
        checked += 1;
    }
    assert!(checked > 20, "{prefix}: {checked} gradients, file has {:?}", file.names());
    loss.value
}

#[test]
fn student_starts_from_the_teacher() {
    let device = Device::flex();
    let checkpoint = weights::open(&golden("teacher")).expect("teacher");
    let config = families::parse(&checkpoint.config().expect("config")).expect("family");
    let teacher = Model::build(config, &FromCheckpoint(checkpoint.as_ref()), Missing::Refuse, &device).expect("teacher");
    let mixers = vec![recast_models::MixerSpec::new("rwkv7"); teacher.config.layers];
    let config = student_config(&teacher.config, mixers, Default::default()).expect("config");
    let made = student(config, &FromCheckpoint(checkpoint.as_ref()), 1, &device).expect("student");
    let of = |m: &Model, name: &str| m.parameters().into_iter().find(|(n, _)| n == name).map(|(_, p)| p.read());
    for name in
        ["model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.bias", "model.layers.0.mlp.up_proj.weight"]
    {
        assert_eq!(of(&made, name), of(&teacher, name), "{name}");
        assert!(of(&made, name).is_some());
    }
    assert!(of(&made, "model.layers.1.self_attn.w2").is_some_and(|w| w.iter().any(|&x| x != 0.0)));
    let _: &dyn Checkpoint = checkpoint.as_ref();
}

#[test]
fn alignment_loss_and_gradients() {
    let value = check(Objective::OutputAlignment, "l1", true, false);
    differs(value, &["l1_wrong_squared", "l1_wrong_mean_square", "l1_wrong_no_width", "l1_wrong_own_stream"]);
}

#[test]
fn logit_kl_and_gradients() {
    let value = check(Objective::LogitKl, "l2", false, false);
    // Block by block, with the values of layer 0 used by the later ones.
    assert_eq!(check(Objective::LogitKl, "l2", false, true), value);
    differs(value, &["l2_wrong_reverse", "l2_wrong_per_sequence", "l2_wrong_temperature_2"]);
}

/// The mistakes that are easy to make give other values.
fn differs(value: f64, wrong: &[&str]) {
    let file = Doubles::open("losses.safetensors");
    for name in wrong {
        let (other, _) = file.get(name);
        assert!((value - other[0]).abs() / value > 1e-3, "{name} is {} and so are we", other[0]);
    }
}

#[test]
fn loss_of_each_layer() {
    let file = Doubles::open("losses.safetensors");
    let (teacher, student) = (model("teacher"), model("student"));
    let loss = Objective::OutputAlignment
        .gradients(&student, Some(&teacher), &stored(&file), &[], false, None, &mut Gradients::default())
        .expect("loss");
    let (wanted, _) = file.get("l1_per_layer");
    assert_eq!(loss.layers.len(), wanted.len());
    for (x, y) in loss.layers.iter().zip(&wanted) {
        assert!((x - y).abs() / y < 1e-5, "{x} against {y}");
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let file = Doubles::open("losses.safetensors");
    let (teacher, student) = (model("teacher"), model("student"));
    let whole = stored(&file);
    for objective in [Objective::OutputAlignment, Objective::LogitKl, Objective::NextToken] {
        let trainable = student.parameters();
        let mut once = Gradients::default();
        let loss = objective.gradients(&student, Some(&teacher), &whole, &trainable, false, None, &mut once).expect("loss");
        let mut parts = Gradients::default();
        let mut sum = 0.0;
        let tokens = whole.inputs.len() / whole.rows;
        for row in 0..whole.rows {
            let inputs = whole.inputs[row * tokens..(row + 1) * tokens].to_vec();
            let part = batch(1, inputs, whole.inputs.len());
            sum += objective.gradients(&student, Some(&teacher), &part, &trainable, false, None, &mut parts).expect("loss").value;
        }
        assert!((sum - loss.value).abs() / loss.value < 1e-5, "{objective:?}");
        for (name, _) in &trainable {
            if let Some(a) = once.get(name) {
                let b = parts.get(name).expect("gradient");
                let scale = a.iter().fold(1e-7f32, |m, x| m.max(x.abs()));
                let worst = largest(a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs()))) as f32 / scale;
                assert!(worst < 1e-3, "{objective:?}: {name} differs by {worst:e}");
            }
        }
    }
}

#[test]
fn schedules() {
    let text = std::fs::read_to_string(golden("schedules.json")).expect("golden file");
    let all: serde_json::Value = serde_json::from_str(&text).expect("json");
    for (name, case) in all.as_object().expect("object") {
        let number = |key: &str, default: f64| case.get(key).and_then(serde_json::Value::as_f64).unwrap_or(default);
        let schedule = Schedule {
            shape: Shape::QuarterCosine,
            first: number("initial", 0.0),
            last: number("final", 0.0),
            warmup: number("warmup", 0.0) as u64,
            steps: number("total", 0.0) as u64,
            wait: number("wait", 0.0),
            end: number("endpoint", 1.0),
        };
        let steps = case["steps"].as_array().expect("steps");
        let rates = case["learning_rates"].as_array().expect("rates");
        for (step, rate) in steps.iter().zip(rates) {
            let (step, rate) = (step.as_u64().expect("step"), rate.as_f64().expect("rate"));
            let found = schedule.rate(step);
            assert!((found - rate).abs() / rate < 1e-9, "{name}, step {step}: {found} against {rate}");
        }
    }
}

#[test]
fn optimiser_trajectory() {
    let file = Doubles::open("adamw.safetensors");
    let f32s = |name: &str| -> Vec<f32> { file.get(name).0.iter().map(|&x| x as f32).collect() };
    let device = Device::flex();
    let param = |name: &str| {
        let values = f32s(&format!("start.{name}"));
        let size = [values.len()];
        let tensor = burn::tensor::Tensor::<1>::from_data(burn::tensor::TensorData::new(values, size), &device);
        (name.to_string(), Param::new(tensor, size.to_vec()).handle())
    };
    let params = vec![(param("matrix"), 0), (param("vector"), 0)];
    let handles: Vec<_> = params.iter().map(|(p, _)| p.clone()).collect();
    let adamw = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(adamw, 1.0, params);
    let (rates, _) = file.get("learning_rates");
    let (norms, _) = file.get("gradient_norms");
    for t in 0..5 {
        let mut gradients = Gradients::default();
        for name in ["matrix", "vector"] {
            let values = f32s(&format!("gradient{t}.{name}"));
            let size = [values.len()];
            gradients.add(name, burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(values, size), &device));
        }
        let norm = optimizer.norm(&mut gradients);
        assert!((norm - norms[t]).abs() / norms[t] < 1e-6);
        optimizer.step(gradients, norm, &[rates[t]], t as u64 + 1);
        for (name, handle) in &handles {
            let wanted = f32s(&format!("after{t}.{name}"));
            let worst = largest(handle.read().iter().zip(&wanted).map(|(x, y)| f64::from((x - y).abs())));
            assert!(worst < 1e-6, "step {t}: {name} differs by {worst:e}");
        }
    }
}
