//! Families and mixers against Hugging Face transformers and an independent PyTorch version
//! (`tests/golden`, generators beside them).

mod differences;

use burn::tensor::{Device, Tensor, TensorData};
use differences::largest_difference;
use recast_models::mixers::{Call, LayerContext, Shared};
use recast_models::rope::{Rope, RopeConfig, Scaling};
use recast_models::sight::Sight;
use recast_models::source::{Builder, FromCheckpoint, Missing};
use recast_models::state::LayerState;
use recast_models::weights::{self, Checkpoint};
use recast_models::{MixerSpec, Model};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder)
}

fn folders(folder: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(golden(folder))
        .expect("golden files are part of the repository")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.is_dir())
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// Integer tensors are not weights, so `weights` does not read them.
fn integers(path: &Path, name: &str) -> (Vec<u32>, Vec<usize>) {
    let bytes = std::fs::read(path).expect("golden file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = file.tensor(name).expect("tensor");
    let ids = tensor.data().chunks(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as u32).collect();
    (ids, tensor.shape().to_vec())
}

#[test]
fn nan_is_no_agreement() {
    assert!(largest_difference(&[1.0, f32::NAN], &[1.0, 2.0]).is_infinite());
    assert!(largest_difference(&[f32::NAN, 1.0], &[f32::NAN, 1.0]).is_infinite());
    assert_eq!(largest_difference(&[1.0, 4.0], &[1.5, 2.0]), 2.0);
}

fn logits_equal(folder: &Path) {
    let model = Model::open(folder, &Device::flex()).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let expected = folder.join("expected.safetensors");
    let (ids, shape) = integers(&expected, "input_ids");
    let wanted = weights::open(&expected).expect("expected").read_f32("logits").expect("logits");
    let hidden = model.hidden(&ids, shape[0], None, None).expect("forward");
    let logits = recast_models::param::values(model.logits(hidden));
    let difference = largest_difference(&logits, &wanted);
    assert!(difference < 1e-4, "{}: logits differ by {difference:e}", folder.display());
}

#[test]
fn families_equal_transformers() {
    folders("families").iter().for_each(|f| logits_equal(f));
}

#[test]
fn released_radlads_classes() {
    folders("released").iter().for_each(|f| logits_equal(f));
}

struct Case {
    file: Box<dyn Checkpoint>,
    config: Value,
    path: PathBuf,
}

impl Case {
    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let shape: [usize; D] = self.file.info(name).unwrap_or_else(|| panic!("{name}")).shape.try_into().expect("rank");
        Tensor::from_data(TensorData::new(self.file.read_f32(name).expect(name), shape), &Device::flex())
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize
    }

    fn flag(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or_else(|| self.config[key].as_u64() == Some(1))
    }

    fn mixer(&self) -> (LayerContext, MixerSpec) {
        let head_size = self.size("head_dim");
        let rope = RopeConfig { theta: self.config["rope_theta"].as_f64().expect("theta"), head_size, scaling: Scaling::None };
        let layer = LayerContext {
            index: self.size("layer"),
            layers: self.size("layers"),
            hidden: self.size("hidden_size"),
            heads: self.size("heads"),
            kv_heads: self.size("kv_heads"),
            head_size,
            qkv_bias: self.file.info("q_proj.bias").is_some(),
            output_bias: self.file.info("o_proj.bias").is_some(),
            qk_norm: self.file.info("q_norm.weight").is_some(),
            norm_epsilon: self.config["rms_norm_eps"].as_f64().expect("eps"),
            rope: Arc::new(Rope::new(rope)),
        };
        let kind = self.config["mixer"].as_str().expect("mixer");
        let mut spec = MixerSpec::new(kind)
            .with("balance_state", self.flag("balance_state"))
            .with("group_norm", self.flag("groupnorm_att"))
            .with("rope", self.flag("use_rope"))
            .with("gate", self.config["gate_rank_type"].clone());
        if kind == "rwkv6" {
            spec = spec.with("token_shift", self.flag("use_tokenshift"));
        }
        let rank = |name: &str, axis: usize| self.file.info(name).map(|i| i.shape[axis]);
        let ranks = match kind {
            "rwkv6" => vec![
                ("rank_token_shift", rank("time_maa_w2", 1)),
                ("rank_decay", rank("time_decay_w1", 1)),
                ("rank_gate", rank("g1", 1)),
            ],
            _ => vec![
                ("rank_decay", rank("w1", 1)),
                ("rank_iclr", rank("a1", 1)),
                ("rank_value_residual", rank("v1", 1)),
                ("rank_gate", rank("g1", 1)),
            ],
        };
        for (key, value) in ranks {
            if let Some(value) = value {
                spec = spec.with(key, value);
            }
        }
        (layer, spec)
    }
}

fn relative(a: &[f32], b: &[f32]) -> f32 {
    let scale = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    largest_difference(a, b) / scale
}

#[test]
fn mixers_equal_pytorch_with_all_gradients() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(golden("rad"))
        .expect("golden files")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 20);
    for path in cases {
        let bytes = std::fs::read(&path).expect("golden file");
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("header");
        let config = metadata.metadata().as_ref().expect("metadata")["config"].clone();
        let case =
            Case { file: weights::open(&path).expect("opens"), config: serde_json::from_str(&config).expect("json"), path };
        check_mixer(&case);
    }
}

fn check_mixer(case: &Case) {
    let name = case.path.file_stem().expect("name").to_string_lossy().to_string();
    let device = Device::flex();
    let (layer, spec) = case.mixer();
    let source = FromCheckpoint(case.file.as_ref());
    let builder = Builder::new(&source, Missing::Refuse, device);
    let mixer = spec.build(&layer, &builder).unwrap_or_else(|e| panic!("{name}: {e}"));
    let params = mixer.parameters();
    recast_models::param::track(&params);

    let leaf3 = |n: &str| case.tensor::<3>(n).autodiff().require_grad();
    let leaf4 = |n: &str| case.tensor::<4>(n).autodiff().require_grad();
    let x = leaf3("x");
    let [batch, _, c] = x.dims();
    let state0 = leaf4("state0");
    let shift0 = case.file.info("shift0").map(|_| case.tensor::<2>("shift0").autodiff().require_grad());
    let mut parts = vec![state0.clone()];
    parts.extend(shift0.iter().map(|shift| shift.clone().reshape([batch, 1, 1, c])));
    let row = |row| LayerState { parts: parts.iter().map(|p| p.clone().narrow(0, row, 1)).collect(), length: 1 };
    let mut states: Vec<LayerState> = (0..batch).map(row).collect();
    let (h, n) = (layer.heads, layer.head_size);
    let first = case.file.info("v_first").map(|info| {
        let raw = case.file.read_f32("v_first").expect("v_first");
        let shape = [info.shape[0], info.shape[1], h, n];
        Tensor::<4>::from_data(TensorData::new(raw, shape), &Device::flex()).autodiff().require_grad()
    });
    let mut shared = Shared { first_value: first.clone() };
    let y = mixer.forward(Call {
        x: x.clone(),
        states: Some(states.iter_mut().collect()),
        shared: &mut shared,
        positions: &vec![case.size("position0"); batch],
        documents: None,
        sight: Sight::Causal,
        lengths: None,
    });
    let last = Tensor::cat(states.into_iter().map(|mut s| s.parts.remove(0)).collect(), 0);
    let wanted = case.file.read_f32("y").expect("y");
    let difference = largest_difference(&recast_models::param::values(y.clone().inner()), &wanted);
    assert!(difference < 1e-4, "{name}: y differs by {difference:e}");
    let difference =
        largest_difference(&recast_models::param::values(last.clone().inner()), &case.file.read_f32("state1").expect("state1"));
    assert!(difference < 1e-4, "{name}: state differs by {difference:e}");

    let mut loss = (y * case.tensor::<3>("dy")).sum() + (last * case.tensor::<4>("dstate1")).sum();
    if case.file.info("dv_first_out").is_some() {
        let given = shared.first_value.clone().expect("layer 0 hands its values on");
        // The original repeats key-value heads before it hands the values on.
        let [b, t, groups, _] = given.dims();
        let wanted = case.tensor::<3>("dv_first_out").reshape([b, t, groups, h / groups, n]).sum_dim(3);
        loss = loss + (given * wanted.reshape([b, t, groups, n])).sum();
    }
    let mut gradients = loss.backward();
    let mut checked = BTreeSet::new();
    let mut check = |what: &str, found: Option<Vec<f32>>| {
        let Some(info) = case.file.info(&format!("grad.{what}")) else { return };
        let wanted = case.file.read_f32(&info.name).expect("gradient");
        let found = found.unwrap_or_else(|| vec![0.0; wanted.len()]);
        let difference = relative(&found, &wanted);
        assert!(difference < 1e-3, "{name}: gradient of {what} differs by {difference:e}");
        checked.insert(what.to_owned());
    };
    check("x", x.grad_remove(&mut gradients).map(recast_models::param::values));
    check("state0", state0.grad_remove(&mut gradients).map(recast_models::param::values));
    if let Some(shift) = shift0 {
        check("shift0", shift.grad_remove(&mut gradients).map(recast_models::param::values));
    }
    if let Some(first) = first {
        check("v_first", first.grad_remove(&mut gradients).map(recast_models::param::values));
    }
    for (what, param) in &params {
        check(what, param.take_gradient(&mut gradients).map(recast_models::param::values));
    }
    let names = case.file.infos().into_iter().filter_map(|info| Some(info.name.strip_prefix("grad.")?.to_owned()));
    let stored: BTreeSet<String> = names.collect();
    assert_eq!(checked, stored, "{name}: gradients checked, and those that are stored");
}
