//! `recast info`: what a model is, without loading its weights.

use crate::Global;
use burn::tensor::Device;
use recast_eval::report::bytes;
use recast_eval::table::{Align, Table};
use recast_models::export::Provenance;
use recast_models::mixers::LayerContext;
use recast_models::mixers::softmax::cache_is_rounded;
use recast_models::rope::Rope;
use recast_models::source::{Builder, FromCheckpoint, Missing};
use recast_models::weights::{self, Checkpoint};
use recast_models::{Diffusion, MixerSpec, ModelConfig, ModelError, Weights, families};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Lengths at which the state is stated.
const LENGTHS: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];

/// Arguments of `recast info`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Hugging Face folder or GGUF file.
    model: PathBuf,
}

#[derive(Serialize)]
struct Info {
    model: PathBuf,
    family: String,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    vocabulary: usize,
    max_positions: usize,
    tied: bool,
    mixers: Vec<Mixers>,
    /// None of a model that writes one token after the other.
    denoising: Option<Denoising>,
    parameters: Parameters,
    storage: BTreeMap<&'static str, Storage>,
    provenance: Option<Provenance>,
    state: Vec<State>,
}

/// Neighbouring layers with the same mixer.
#[derive(Serialize)]
struct Mixers {
    layers: String,
    kind: String,
    options: serde_json::Map<String, serde_json::Value>,
}

/// How a model denoises.
#[derive(Serialize)]
struct Denoising {
    /// Positions that are denoised together; none: the whole sequence.
    block: Option<usize>,
    mask_token: u32,
    shift: bool,
    /// `mask` or `uniform`.
    noise: &'static str,
}

impl From<&Diffusion> for Denoising {
    fn from(diffusion: &Diffusion) -> Self {
        let noise = if diffusion.uniform { "uniform" } else { "mask" };
        Self { block: diffusion.block, mask_token: diffusion.mask_token, shift: diffusion.shift, noise }
    }
}

/// Elements by part.
#[derive(Default, Serialize)]
struct Parameters {
    embedding: u64,
    mixers: u64,
    feed_forwards: u64,
    norms: u64,
    head: u64,
    other: u64,
    total: u64,
}

/// What is stored in one type.
#[derive(Default, Serialize)]
struct Storage {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

/// Bytes that one sequence carries.
#[derive(Serialize)]
struct State {
    tokens: usize,
    bytes: usize,
    /// The same for softmax attention over everything, in every layer.
    softmax_bytes: usize,
}

/// Runs the verb.
///
/// # Errors
/// When the files cannot be read.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let info = read(args)?;
    if global.json {
        return crate::output::json(&info);
    }
    crate::output::print(text(&info).trim_end_matches('\n'))
}

fn read(args: &Args) -> anyhow::Result<Info> {
    let checkpoint = weights::open(&crate::embedded::resolve(&args.model)?)?;
    let config = families::read(checkpoint.as_ref())?;
    config.check().map_err(|error| error.of(checkpoint.path()))?;
    let (parameters, storage) = count(checkpoint.as_ref());
    Ok(Info {
        model: args.model.clone(),
        family: config.family.clone(),
        layers: config.layers,
        hidden: config.hidden,
        intermediate: config.intermediate,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_size: config.head_size,
        vocabulary: config.vocabulary,
        max_positions: config.max_positions,
        tied: config.tied,
        mixers: compressed(&config.mixers),
        denoising: config.diffusion.as_ref().map(Denoising::from),
        parameters,
        storage,
        // A block that is not ours says nothing.
        provenance: config.raw.get("recast").and_then(|value| serde_json::from_value(value.clone()).ok()),
        state: states(&config, checkpoint.as_ref()).map_err(|error| error.of(checkpoint.path()))?,
    })
}

fn compressed(mixers: &[MixerSpec]) -> Vec<Mixers> {
    let mut out = Vec::new();
    let mut first = 0;
    for run in mixers.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        let layers = if last == first { first.to_string() } else { format!("{first}-{last}") };
        out.push(Mixers { layers, kind: run[0].kind.clone(), options: run[0].options.clone() });
        first = last + 1;
    }
    out
}

fn count(checkpoint: &dyn Checkpoint) -> (Parameters, BTreeMap<&'static str, Storage>) {
    let mut parts = Parameters::default();
    let mut storage: BTreeMap<&'static str, Storage> = BTreeMap::new();
    for tensor in checkpoint.infos() {
        // Sizes were checked against the file at opening.
        let elements = tensor.elements().unwrap_or(0) as u64;
        let part = match tensor.name.as_str() {
            name if name.contains("norm.weight") && !name.contains(".self_attn.") => &mut parts.norms,
            name if name.contains(".self_attn.") => &mut parts.mixers,
            name if name.contains(".mlp.") => &mut parts.feed_forwards,
            name if name.starts_with("model.embed_tokens.") => &mut parts.embedding,
            name if name.starts_with("lm_head.") => &mut parts.head,
            _ => &mut parts.other,
        };
        *part += elements;
        parts.total += elements;
        let stored = storage.entry(tensor.dtype.name()).or_default();
        stored.tensors += 1;
        stored.elements += elements;
        stored.bytes += tensor.bytes().unwrap_or(0) as u64;
    }
    (parts, storage)
}

/// State sizes are the mixers' own word, with weights held as they are stored; of layers alike only the first is
/// built.
fn states(config: &ModelConfig, checkpoint: &dyn Checkpoint) -> Result<Vec<State>, ModelError> {
    let rope = Arc::new(Rope::new(config.rope.clone()));
    let source = FromCheckpoint(checkpoint);
    let layers =
        Builder::new(&source, Missing::Refuse, Device::flex()).with_weights(Weights::AsStored).child("model").child("layers");
    let mut built: Vec<(&MixerSpec, Vec<usize>)> = Vec::new();
    let mut totals = vec![0; LENGTHS.len()];
    for (index, spec) in config.mixers.iter().enumerate() {
        if !built.iter().any(|(known, _)| *known == spec) {
            let layer = LayerContext::new(config, index, rope.clone());
            let mixer = spec.build(&layer, &layers.child(index).child("self_attn"))?;
            built.push((spec, LENGTHS.iter().map(|&tokens| mixer.state_bytes(tokens)).collect()));
        }
        let sizes = built.iter().find(|(known, _)| *known == spec).map(|(_, sizes)| sizes);
        for (total, size) in totals.iter_mut().zip(sizes.into_iter().flatten()) {
            *total += size;
        }
    }
    // A cache in place of every layer's state would be held as softmax layers hold theirs.
    let quantised = checkpoint.info("model.layers.0.mlp.up_proj.weight").is_some_and(|tensor| tensor.dtype.is_quantised());
    let number = if cache_is_rounded(quantised, config.head_size, &Device::flex()) { size_of::<u16>() } else { size_of::<f32>() };
    let key_values = 2 * config.layers * config.kv_heads * config.head_size * number;
    let state = |(&tokens, bytes)| State { tokens, bytes, softmax_bytes: tokens * key_values };
    Ok(LENGTHS.iter().zip(totals).map(state).collect())
}

fn text(info: &Info) -> String {
    let mixers: Vec<String> = info.mixers.iter().map(|m| format!("{} {}{}", m.layers, m.kind, window(m))).collect();
    let stored: Vec<String> =
        info.storage.iter().map(|(name, s)| format!("{name} ({} tensors, {})", s.tensors, bytes(s.bytes as f64))).collect();
    let mut about = Table::new(&[("model", Align::Left), (&info.model.display().to_string(), Align::Left)]);
    let mut fact = |name: &str, value: String| about.row([name.into(), value]);
    fact("family", info.family.clone());
    fact("shape", format!("{} layers, width {}, feed-forward {}", info.layers, info.hidden, info.intermediate));
    fact("heads", format!("{} of {} channels, {} for keys and values", info.heads, info.head_size, info.kv_heads));
    fact("mixers", mixers.join(", "));
    if let Some(d) = &info.denoising {
        let sight = d.block.map_or_else(|| "the whole sequence".into(), |block| format!("blocks of {block}"));
        let shifted = if d.shift { ", shifted" } else { "" };
        fact("denoises", format!("{sight}, {} noise, mask token {}{shifted}", d.noise, d.mask_token));
    }
    fact("vocabulary", info.vocabulary.to_string());
    fact("trained length", info.max_positions.to_string());
    fact("on disk", stored.join(", "));
    if let Some(p) = &info.provenance {
        fact("teacher", p.teacher.clone());
        fact("recipe", p.recipe_hash.clone());
        fact("stages", p.stages.join(", "));
        fact("tokens seen", p.tokens.to_string());
        fact("written by", format!("recast {}", p.version));
    }
    let mut parts = Table::new(&[("parameters", Align::Left), ("count", Align::Right), ("share", Align::Right)]);
    let p = &info.parameters;
    let head = if info.tied && p.head == 0 { "head (is the embedding)" } else { "head" };
    let named = [
        ("embedding", p.embedding),
        ("mixers", p.mixers),
        ("feed-forwards", p.feed_forwards),
        ("norms", p.norms),
        (head, p.head),
        ("other", p.other),
        ("total", p.total),
    ];
    for (name, count) in named.into_iter().filter(|(name, count)| *name != "other" || *count > 0) {
        let share = 100.0 * count as f64 / p.total.max(1) as f64;
        parts.row([name.into(), grouped(count), format!("{share:.1} %")]);
    }
    let keeps = info.denoising.as_ref().is_none_or(|denoising| denoising.block.is_some());
    let mut state = Table::new(&[
        ("tokens", Align::Right),
        (if keeps { "state of a sequence" } else { "state of a sequence, if kept" }, Align::Right),
        ("all softmax", Align::Right),
        ("ratio", Align::Right),
    ]);
    for s in &info.state {
        let ratio = s.softmax_bytes as f64 / s.bytes.max(1) as f64;
        state.row([s.tokens.to_string(), bytes(s.bytes as f64), bytes(s.softmax_bytes as f64), format!("{ratio:.1}")]);
    }
    let note = if keeps {
        ""
    } else {
        "it denoises the whole sequence: nothing is kept between steps unless asked (--keep, of attention without a window)\n"
    };
    format!("{}\n{}\n{}{note}", about.plain(), parts.plain(), state.plain())
}

fn window(mixers: &Mixers) -> String {
    match mixers.options.get("window").and_then(serde_json::Value::as_u64) {
        Some(window) => format!(" (window {window})"),
        None => String::new(),
    }
}

/// `134515008` as `134,515,008`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_string();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !out.is_empty() {
            out.push(',');
        }
        out.extend(group.iter().map(|b| char::from(*b)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use recast_models::Model;
    use std::path::Path;

    #[test]
    fn numbers_are_the_models_own() {
        for name in [
            "families/llama_gqa",
            "families/qwen2_tied",
            "families/mistral_window",
            "released/rwkv7_hybrid",
            "released/rwkv6_rope_gate2",
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
            let info = read(&Args { model: path.clone() }).expect(name);
            let model = Model::open(&path, &Device::flex()).expect(name);
            for state in &info.state {
                assert_eq!(state.bytes, model.state_bytes(state.tokens), "{name}");
            }
            let stored = recast_models::param::count(&model.parameters()) as u64;
            let p = &info.parameters;
            assert_eq!(p.total, p.embedding + p.mixers + p.feed_forwards + p.norms + p.head + p.other);
            // Released files hold tensors under layer 0 that the model does not use.
            assert!(p.total >= stored && p.total - stored < stored / 10, "{name}: {} against {stored}", p.total);
            assert_eq!(p.norms, ((2 * info.layers + 1) * info.hidden) as u64, "{name}");
            assert!(text(&info).contains("feed-forwards"));
        }
    }

    #[test]
    fn a_model_that_denoises_is_told_so() {
        let opened = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families").join(name);
            read(&Args { model: path }).expect(name)
        };
        let kept = "nothing is kept between steps unless asked (--keep";
        let mut info = opened("dream");
        let told = serde_json::json!({"block": null, "mask_token": 95, "shift": true, "noise": "mask"});
        assert_eq!(serde_json::to_value(&info).expect("JSON")["denoising"], told);
        let said = text(&info);
        assert!(said.contains("the whole sequence, mask noise, mask token 95, shifted") && said.contains(kept), "{said}");
        let blocks = Diffusion { mask_token: 7, block: Some(4), shift: false, uniform: true };
        info.denoising = Some(Denoising::from(&blocks));
        let said = text(&info);
        assert!(said.contains("blocks of 4, uniform noise, mask token 7\n") && !said.contains(kept), "{said}");
        let plain = opened("llama_gqa");
        assert!(serde_json::to_value(&plain).expect("JSON")["denoising"].is_null());
        assert!(!text(&plain).contains("denoises") && !text(&plain).contains(kept));
    }

    #[test]
    fn a_hybrid_is_told_by_its_runs_of_layers() {
        let [a, b] = [MixerSpec::new("rwkv7"), MixerSpec::new("softmax")];
        let runs = compressed(&[a.clone(), a.clone(), b, a]);
        let shown: Vec<(&str, &str)> = runs.iter().map(|m| (m.layers.as_str(), m.kind.as_str())).collect();
        assert_eq!(shown, [("0-1", "rwkv7"), ("2", "softmax"), ("3", "rwkv7")]);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([grouped(7), grouped(1234), grouped(134_515_008)], ["7", "1,234", "134,515,008"]);
    }
}
