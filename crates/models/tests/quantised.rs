//! Models whose matrices stay quantised: blocks mean what the file's values are, and a model computes
//! nearly what it does in f32, in every mixer.

mod weights_support;

use burn::tensor::Device;
use recast_models::convert::student_config;
use recast_models::export::{Storage, save};
use recast_models::param::values;
use recast_models::source::{FromCheckpoint, Missing};
use recast_models::weight::format_of;
use recast_models::weights;
use recast_models::{MixerSpec, Model, ModelError, Weights, families};
use recast_ops::quantised::{Format, QuantMatrix};
use std::path::{Path, PathBuf};
use weights_support::{Gguf, file};

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn load(path: &Path, weights: Weights) -> Model {
    let checkpoint = weights::open(path).expect("opens");
    Model::load(checkpoint.as_ref(), weights, &Device::flex()).expect("loads")
}

#[test]
fn blocks_are_the_values_of_the_file() {
    let checkpoint = weights::open(&at("tests/golden/gguf/quants.gguf")).expect("golden file");
    let mut formats = Vec::new();
    for info in checkpoint.infos() {
        let Some((dtype, bytes)) = checkpoint.blocks(&info.name) else {
            assert!(!info.dtype.is_quantised(), "{}", info.name);
            continue;
        };
        assert_eq!(dtype, info.dtype);
        let Some(format) = format_of(dtype) else { continue };
        let matrix = QuantMatrix::from_blocks(format, info.shape[0], info.shape[1], &bytes).expect("whole blocks");
        let wanted = checkpoint.read_f32(&info.name).expect("reads");
        for (i, (found, wanted)) in matrix.values().iter().zip(&wanted).enumerate() {
            // Scales are multiplied in another order.
            assert!((found - wanted).abs() <= 1e-6 * wanted.abs().max(1e-3), "{format}[{i}]: {found} and {wanted}");
        }
        formats.push(format);
    }
    assert_eq!(formats.len(), Format::ALL.len(), "{formats:?}");
}

#[test]
fn interleaved_rows_of_blocks_go_back() {
    let mut gguf = Gguf::tiny("llama");
    // Eight rows of one Q8_0 block each: scale 1, all elements the row's number.
    let rows: Vec<u8> = (0..8u8).flat_map(|row| [0x00, 0x3c].into_iter().chain([row; 32])).collect();
    gguf.tensors.retain(|tensor| tensor.0 != "blk.0.attn_q.weight");
    gguf.tensors.push(("blk.0.attn_q.weight".into(), vec![32, 8], 8, rows, None));
    let (_folder, path) = file("m.gguf", &gguf.bytes());
    let checkpoint = weights::open(&path).expect("opens");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (dtype, bytes) = checkpoint.blocks(name).expect("quantised");
    let matrix = QuantMatrix::from_blocks(format_of(dtype).expect("known"), 8, 32, &bytes).expect("whole blocks");
    assert_eq!(matrix.values(), checkpoint.read_f32(name).expect("reads"));
    let firsts: Vec<f32> = matrix.values().chunks(32).map(|row| row[0]).collect();
    assert_eq!(firsts, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert!(checkpoint.blocks("model.embed_tokens.weight").is_none());
}

/// A student of the embedded teacher with this mixer everywhere, saved in a folder.
fn student(mixer: &str) -> tempfile::TempDir {
    let checkpoint = weights::open(&at("assets/tiny/model")).expect("the embedded teacher");
    let teacher = families::read(checkpoint.as_ref()).expect("config");
    let mixers = vec![MixerSpec::new(mixer); teacher.layers];
    let config = student_config(&teacher, mixers, Default::default()).expect("config");
    let source = FromCheckpoint(checkpoint.as_ref());
    let model = Model::build(config, &source, Missing::Initialise { seed: 3 }, &Device::flex()).expect("student");
    // Zeros of the start would hide the low ranks.
    for (name, parameter) in model.parameters() {
        if parameter.read().iter().all(|&x| x == 0.0) {
            parameter.update(&mut |values| {
                values.iter_mut().enumerate().for_each(|(i, x)| *x = 0.1 * ((i + name.len()) as f32 * 0.7).sin());
            });
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    save(&model, folder.path(), Storage::default(), None, None, None).expect("saves");
    folder
}

#[test]
fn every_mixer_computes_nearly_the_same_in_eight_bits() {
    for mixer in ["softmax", "rwkv6", "rwkv7", "gated_deltanet"] {
        let folder = student(mixer);
        let (whole, held) = (load(folder.path(), Weights::F32), load(folder.path(), Weights::Quantise(Format::Q8_0)));
        assert!(held.is_quantised() && !whole.is_quantised());
        assert!(3 * held.weight_bytes() < whole.weight_bytes(), "{mixer}: {} bytes", held.weight_bytes());
        assert_eq!(held.fingerprint(), whole.fingerprint(), "{mixer}");
        let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % whole.config.vocabulary as u32).collect();
        let logits = |model: &Model| values(model.logits(model.hidden(&tokens, 1, None, None).expect("forward")));
        let (wanted, found) = (logits(&whole), logits(&held));
        let energy = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let error = energy(&mut wanted.iter().zip(&found).map(|(a, b)| a - b)) / energy(&mut wanted.iter().copied());
        assert!(error > 0.0 && error < 0.03, "{mixer}: relative error {error}");

        // One token at a time, beside another sequence, to the bit as alone.
        let other: Vec<u32> = tokens.iter().rev().copied().collect();
        let (mut alone, mut first, mut second) = (held.new_state(), held.new_state(), held.new_state());
        for (a, b) in tokens.iter().zip(&other) {
            let x = held.hidden(&[*a], 1, Some(&mut [&mut alone]), None).expect("step");
            let xs = held.hidden(&[*a, *b], 2, Some(&mut [&mut first, &mut second]), None).expect("step");
            let (x, xs) = (values(held.logits(x)), values(held.logits(xs)));
            assert_eq!(x, xs[..x.len()], "{mixer}");
        }
        let last = values(held.logits(held.hidden(&[0], 1, Some(&mut [&mut alone]), None).expect("step")));
        assert!(last.iter().all(|x| x.is_finite()));

        assert!(matches!(
            save(&held, tempfile::tempdir().expect("a folder").path(), Storage::default(), None, None, None),
            Err(ModelError::Quantised { .. })
        ));
    }
}

#[test]
fn as_stored_leaves_plain_files_alone() {
    let model = load(&at("assets/tiny/model"), Weights::AsStored);
    assert!(!model.is_quantised());
    assert_eq!(model.weight_bytes(), load(&at("assets/tiny/model"), Weights::F32).weight_bytes());
}
