//! Tiny models and a tokenizer for them.

#![allow(dead_code, reason = "each test file uses a part")]

use burn::tensor::Device;
use recast_infer::samplers::Event;
use recast_infer::samplers::denoising::{Canvas, Denoised, Denoiser, Denoising, Filler, Rule};
use recast_models::convert::{TiedEmbeddings, student, student_config};
use recast_models::source::FromCheckpoint;
use recast_models::{Diffusion, MixerSpec, Model, Weights, families};
use recast_ops::quantised::Format;
use recast_text::Tokenizer;
use std::ops::ControlFlow;
use std::path::Path;

/// Softmax, grouped queries; a sliding window; recurrent of both RAD kinds; a hybrid; Gated DeltaNet.
pub const MODELS: &[&str] = &[
    "families/llama_gqa",
    "families/mistral_window",
    "released/rwkv6_rope_gate2",
    "released/rwkv7_keys_omitted",
    "released/rwkv7_hybrid",
    GATED_DELTANET,
];

/// The body of the first of [`MODELS`] with Gated DeltaNet in every layer, of which there is no golden model.
pub const GATED_DELTANET: &str = "gated_deltanet";

/// The embedded teacher in eight bits, whose cache is of bf16.
pub const QUANTISED: &str = "quantised";
/// The same in f32.
pub const WHOLE: &str = "whole";

/// A golden model, [`GATED_DELTANET`], [`QUANTISED`] or [`WHOLE`].
pub fn model(folder: &str) -> Model {
    if let QUANTISED | WHOLE = folder {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
        let checkpoint = recast_models::weights::open(&path).expect("the embedded teacher");
        let weights = if folder == WHOLE { Weights::F32 } else { Weights::Quantise(Format::Q8_0) };
        return Model::load(checkpoint.as_ref(), weights, &Device::flex()).unwrap_or_else(|e| panic!("{folder}: {e}"));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    if folder == GATED_DELTANET {
        return gated_deltanet(&golden.join(MODELS[0]));
    }
    Model::open(&golden.join(folder), &Device::flex()).unwrap_or_else(|e| panic!("{folder}: {e}"))
}

/// A student of that teacher, with numbers where it would start from zeros.
fn gated_deltanet(teacher: &Path) -> Model {
    let checkpoint = recast_models::weights::open(teacher).expect("a golden model");
    let teacher = families::read(checkpoint.as_ref()).expect("its config");
    let mixers = vec![MixerSpec::new(GATED_DELTANET); teacher.layers];
    let config = student_config(&teacher, mixers, TiedEmbeddings::Tie).expect("one mixer a layer");
    let model = student(config, &FromCheckpoint(checkpoint.as_ref()), 3, &Device::flex()).expect("a student");
    for (name, parameter) in model.parameters() {
        if parameter.read().iter().all(|&x| x == 0.0) {
            parameter.update(&mut |values| {
                values.iter_mut().enumerate().for_each(|(i, x)| *x = 0.1 * ((i + name.len()) as f32 * 0.7).sin());
            });
        }
    }
    model
}

/// One letter a token, as many as the model has; two more spell one character together.
pub fn tokenizer(size: usize) -> Tokenizer {
    // Bytes c3 and a9, é in UTF-8, by GPT-2's letters for bytes.
    let mut names: Vec<String> = vec!["<|endoftext|>".into(), "Ã".into(), "©".into()];
    names.extend(('!'..='~').map(String::from).take(size - 3));
    let vocab: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json_bytes(json.to_string().as_bytes()).expect("a tokenizer")
}

/// Text that never ends early.
pub fn endless(size: usize) -> Tokenizer {
    tokenizer(size).with_special_tokens(None, Vec::new()).expect("no end tokens")
}

/// Tokens that follow from the length alone.
pub fn prompt(model: &Model, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 37 + 11) % model.config.vocabulary) as u32).collect()
}

/// A tiny model that denoises so.
pub fn masked(folder: &str, block: Option<usize>, shift: bool) -> Model {
    let mut model = model(folder);
    let mask_token = model.config.vocabulary as u32 - 1;
    model.config.diffusion = Some(Diffusion { mask_token, block, shift, uniform: false });
    model
}

/// The same of uniform noise.
pub fn scattered(folder: &str, block: Option<usize>, shift: bool) -> Model {
    let mut model = masked(folder, block, shift);
    model.config.diffusion.as_mut().expect("set").uniform = true;
    model
}

/// Tokens that follow from the length alone, the mask token not among them.
pub fn unmasked_prompt(model: &Model, length: usize) -> Vec<u32> {
    let last = model.config.vocabulary as u32 - 1;
    prompt(model, length).into_iter().map(|token| if token == last { 1 } else { token }).collect()
}

/// The largest absolute difference of two lists of one length; infinite where it is NaN, which `f32::max` passes over.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(x, y)| (x - y).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// Hears everything.
pub fn quiet(_: Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Writes a canvas full.
pub fn fill<D: Denoiser>(denoiser: &D, settings: Denoising, canvas: &Canvas) -> Denoised {
    let tokenizer = endless(denoiser.shape().vocabulary.min(90));
    Filler::new(denoiser, &tokenizer, settings, Vec::new()).expect("settings").fill(canvas, &mut quiet).expect("fills")
}

/// The defaults with a rule.
pub fn by(rule: Rule) -> Denoising {
    Denoising { rule, ..Denoising::default() }
}
