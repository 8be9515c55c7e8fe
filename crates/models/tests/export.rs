//! Students written as Hugging Face folders and read again: config keys and tensor names of the
//! released RADLADS classes where such a class exists, Recast's own form where
//! none does, the teacher's bytes wherever nothing was trained.

use burn::tensor::Device;
use recast_conformance::{randomise, same_files};
use recast_models::convert::{TiedEmbeddings, WithMaskRow, mask_row, student, student_config};
use recast_models::export::{self, Provenance, Storage};
use recast_models::param::values;
use recast_models::source::FromCheckpoint;
use recast_models::weights::{self, Checkpoint, Dtype};
use recast_models::{Diffusion, MixerSpec, Model, ModelConfig, families};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder)
}

fn open(path: &Path) -> Box<dyn Checkpoint> {
    weights::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(path: &Path) -> Model {
    Model::open(path, &Device::flex()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A student of that teacher whose new parameters are random and whose others are the teacher's.
fn student_of(teacher: &dyn Checkpoint, mixers: Vec<MixerSpec>) -> Model {
    let config = families::read(teacher).expect("the teacher's config");
    let config = student_config(&config, mixers, TiedEmbeddings::Tie).expect("student config");
    let model = student(config, &FromCheckpoint(teacher), 3, &Device::flex()).expect("student");
    let mut new = model.parameters();
    new.retain(|(name, _)| teacher.info(name).is_none());
    randomise(&new, "student");
    model
}

fn save(model: &Model, path: &Path, storage: Storage<'_>) {
    export::save(model, path, storage, None, None, None).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn config(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path.join("config.json")).expect("config.json")).expect("JSON")
}

fn logits(model: &Model) -> Vec<f32> {
    let tokens: Vec<u32> = (0..26).map(|i| (i * 7 + 3) % model.config.vocabulary as u32).collect();
    values(model.logits(model.hidden(&tokens, 2, None, None).expect("forward")))
}

/// Saves, loads, saves again: equal logits to the bit, equal files to the byte.
fn round_trip(model: &Model, original: Option<&dyn Checkpoint>, folder: &Path, what: &str) {
    let (first, second) = (folder.join("first"), folder.join("second"));
    save(model, &first, Storage { dtype: None, original });
    let loaded = load(&first);
    assert!(logits(&loaded) == logits(model), "{what}: logits change on the way through a folder");
    let checkpoint = open(&first);
    save(&loaded, &second, Storage { dtype: None, original: Some(checkpoint.as_ref()) });
    same_files(&first, &second, what);
}

/// The cartesian product of the values of each option.
fn combinations(kind: &str, options: &[(&str, Vec<Value>)]) -> Vec<MixerSpec> {
    options.iter().fold(vec![MixerSpec::new(kind)], |specs, (key, values)| {
        specs.iter().flat_map(|spec| values.iter().map(|value| spec.clone().with(key, value.clone()))).collect()
    })
}

fn flags() -> Vec<Value> {
    vec![json!(true), json!(false)]
}

fn gates() -> Vec<Value> {
    vec![json!(0), json!(1), json!(2)]
}

fn every_rwkv6() -> Vec<MixerSpec> {
    let ranks = |spec: MixerSpec| spec.with("rank_token_shift", 3).with("rank_decay", 5).with("rank_gate", 4);
    let options =
        [("balance_state", flags()), ("group_norm", flags()), ("token_shift", flags()), ("rope", flags()), ("gate", gates())];
    combinations("rwkv6", &options).into_iter().map(ranks).collect()
}

fn every_rwkv7() -> Vec<MixerSpec> {
    let ranks =
        |spec: MixerSpec| spec.with("rank_decay", 5).with("rank_iclr", 3).with("rank_value_residual", 4).with("rank_gate", 6);
    let options =
        [("balance_state", flags()), ("group_norm", flags()), ("rope", flags()), ("gate", gates()), ("value_residual", flags())];
    combinations("rwkv7", &options).into_iter().map(ranks).collect()
}

/// Names below `self_attn.` and shapes, as the released classes have them, for layer `l`.
fn released_names(spec: &MixerSpec, model: &Model, l: usize) -> BTreeMap<String, Vec<usize>> {
    let config = &model.config;
    let (c, h, n) = (config.hidden, config.heads, config.head_size);
    let (width, kv) = (h * n, config.kv_heads * n);
    let on = |key: &str| spec.options[key] == json!(true);
    let rank = |key: &str| spec.options[key].as_u64().expect("rank") as usize;
    let mut names = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        names.insert(name.to_string(), shape.to_vec());
    };
    for (name, rows, columns, bias) in [
        ("q_proj", width, c, config.qkv_bias),
        ("k_proj", kv, c, config.qkv_bias),
        ("v_proj", kv, c, config.qkv_bias),
        ("o_proj", c, width, config.output_bias),
    ] {
        add(&format!("{name}.weight"), &[rows, columns]);
        if bias {
            add(&format!("{name}.bias"), &[rows]);
        }
    }
    if config.qk_norm {
        add("q_norm.weight", &[n]);
        add("k_norm.weight", &[n]);
    }
    match spec.options["gate"].as_u64().expect("gate") {
        0 => {}
        1 => add("gate.weight", &[width, c]),
        _ => {
            add("g1", &[c, rank("rank_gate")]);
            add("g2", &[rank("rank_gate"), width]);
        }
    }
    if on("group_norm") {
        add("ln_x.weight", &[width]);
        add("ln_x.bias", &[width]);
    }
    if spec.kind == "rwkv6" {
        if on("token_shift") {
            for letter in ["x", "r", "k", "v", "w", "g"] {
                add(&format!("time_maa_{letter}"), &[1, 1, c]);
            }
            add("time_maa_w1", &[c, 5 * rank("rank_token_shift")]);
            add("time_maa_w2", &[5, rank("rank_token_shift"), c]);
        }
        add("time_decay", &[1, 1, width]);
        add("time_decay_w1", &[c, rank("rank_decay")]);
        add("time_decay_w2", &[rank("rank_decay"), width]);
        return names;
    }
    let mut low_rank = |letter: &str, rank: usize| {
        add(&format!("{letter}0"), &[1, 1, width]);
        add(&format!("{letter}1"), &[c, rank]);
        add(&format!("{letter}2"), &[rank, width]);
    };
    low_rank("w", rank("rank_decay"));
    low_rank("a", rank("rank_iclr"));
    // Layer 0 has no values before it; the class ignores what files hold there.
    if on("value_residual") && l > 0 {
        low_rank("v", rank("rank_value_residual"));
    }
    add("k_k", &[1, 1, width]);
    add("k_a", &[1, 1, width]);
    add("r_k", &[h, n]);
    names
}

fn has_the_released_names(path: &Path, spec: &MixerSpec, model: &Model, what: &str) {
    let mut found: BTreeMap<String, Vec<usize>> = open(path).infos().into_iter().map(|i| (i.name, i.shape)).collect();
    for l in 0..model.config.layers {
        let prefix = format!("model.layers.{l}.self_attn.");
        let own: BTreeMap<String, Vec<usize>> =
            found.iter().filter_map(|(name, shape)| Some((name.strip_prefix(&prefix)?.to_string(), shape.clone()))).collect();
        assert_eq!(own, released_names(spec, model, l), "{what}: tensors of layer {l}");
        found.retain(|name, _| !name.starts_with(&prefix));
        for rest in ["input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
            assert!(found.remove(&format!("model.layers.{l}.{rest}.weight")).is_some(), "{what}: {rest} of layer {l}");
        }
    }
    let mut rest: Vec<&str> = found.keys().map(String::as_str).collect();
    rest.retain(|name| *name != "lm_head.weight");
    assert_eq!(rest, ["model.embed_tokens.weight", "model.norm.weight"], "{what}: tensors outside the layers");
    assert_eq!(found.contains_key("lm_head.weight"), !model.config.tied, "{what}: head");
}

/// The released class's keys and the values that they must have.
fn released_keys(spec: &MixerSpec) -> Vec<(&'static str, Value)> {
    let option = |key: &str| spec.options.get(key).cloned().unwrap_or(Value::Null);
    let mut keys = vec![
        ("balance_state", option("balance_state")),
        ("groupnorm_att", option("group_norm")),
        ("use_rope", option("rope")),
        ("gate_rank_type", option("gate")),
        ("lora_rank_decay", option("rank_decay")),
        ("lora_rank_gate", option("rank_gate")),
    ];
    if spec.kind == "rwkv6" {
        keys.push(("model_type", json!("rwkv6qwen2")));
        keys.push(("architectures", json!(["RWKV6Qwen2ForCausalLM"])));
        keys.push(("use_tokenshift", option("token_shift")));
        keys.push(("lora_rank_tokenshift", option("rank_token_shift")));
    } else {
        keys.push(("model_type", json!("rwkv7qwen2")));
        keys.push(("architectures", json!(["RWKV7Qwen2ForCausalLM"])));
        keys.push(("use_tokenshift", json!(false)));
        keys.push(("lora_rank_iclr", option("rank_iclr")));
        keys.push(("lora_rank_value_residual_mix", option("rank_value_residual")));
        keys.push(("num_attention_layers", json!(0)));
    }
    keys
}

fn every_student(specs: &[MixerSpec], released: impl Fn(&MixerSpec, &Model) -> bool) {
    for teacher in ["qwen2_untied", "llama_gqa", "qwen3_tied"] {
        let checkpoint = open(&golden("families").join(teacher));
        let layers = families::read(checkpoint.as_ref()).expect("config").layers;
        for spec in specs {
            let what = format!("{teacher}, {}", serde_json::to_string(spec).expect("JSON"));
            let model = student_of(checkpoint.as_ref(), vec![spec.clone(); layers]);
            let folder = tempfile::tempdir().expect("temporary folder");
            round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &what);
            let path = folder.path().join("first");
            has_the_released_names(&path, spec, &model, &what);
            let config = config(&path);
            if released(spec, &model) {
                for (key, value) in released_keys(spec) {
                    assert_eq!(config[key], value, "{what}: `{key}`");
                }
                assert_eq!(config["attention_bias"], json!(model.config.qkv_bias), "{what}");
                assert_eq!(config["attention_output_bias"], json!(model.config.output_bias), "{what}");
                assert_eq!(config["head_dim"], json!(model.config.head_size), "{what}");
                assert!(config.get("mixers").is_none() && config.get("base_model_type").is_none(), "{what}: of two minds");
                // As transformers 4 has them, on which the class is built.
                assert_eq!(config["rope_theta"], json!(100.0), "{what}");
                assert!(config["rope_scaling"].is_null() && config.get("rope_parameters").is_none(), "{what}: rotations");
            } else {
                assert_eq!(config["model_type"], "recast", "{what}");
                assert_eq!(config["base_model_type"], checkpoint.config().expect("config")["model_type"], "{what}");
                assert_eq!(config["mixers"].as_array().map(Vec::len), Some(layers), "{what}");
                for (key, value) in &spec.options {
                    assert_eq!(&config["mixers"][layers - 1][key], value, "{what}: `{key}`");
                }
            }
        }
    }
}

#[test]
fn every_rwkv6_student() {
    every_student(&every_rwkv6(), |_, model| !model.config.qk_norm);
}

#[test]
fn every_rwkv7_student() {
    let full = |spec: &MixerSpec| spec.options["value_residual"] == json!(true) && spec.options["gate"] != json!(0);
    every_student(&every_rwkv7(), |spec, model| !model.config.qk_norm && full(spec));
}

/// Ranks that the rule chose are written out: nobody computes them again.
#[test]
fn chosen_ranks_are_stored() {
    let checkpoint = open(&golden("families/qwen2_untied"));
    for kind in ["rwkv6", "rwkv7"] {
        let model = student_of(checkpoint.as_ref(), vec![MixerSpec::new(kind); 2]);
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, None, folder.path(), kind);
        let config = config(&folder.path().join("first"));
        for (key, value) in released_keys(&model.config.mixers[0]) {
            assert_eq!(config[key], value, "{kind}: `{key}`");
            assert!(!value.is_null(), "{kind}: `{key}` is left open");
        }
    }
}

/// Every way to combine mixers over layers: released where the class has it.
#[test]
fn hybrids() {
    let rwkv7 = |rope: bool| MixerSpec::new("rwkv7").with("rope", rope).with("rank_gate", 4);
    let softmax = || MixerSpec::new("softmax");
    let cases: Vec<(&str, Vec<MixerSpec>, &str)> = vec![
        ("qwen2_untied", vec![rwkv7(true), softmax()], "rwkv7qwen2"),
        ("qwen2_tied", vec![rwkv7(true), softmax()], "rwkv7qwen2"),
        // The class rotates in all layers or in none.
        ("qwen2_untied", vec![rwkv7(false), softmax().with("no_rope", true)], "rwkv7qwen2"),
        ("qwen2_untied", vec![rwkv7(false), softmax()], "recast"),
        ("qwen2_untied", vec![rwkv7(true), softmax().with("no_rope", true)], "recast"),
        // It keeps the last layers, without windows, and knows no hybrids of RAD-RWKV6.
        ("qwen2_untied", vec![rwkv7(true), softmax().with("window", 4)], "recast"),
        ("qwen2_untied", vec![softmax(), rwkv7(true)], "recast"),
        ("qwen2_untied", vec![MixerSpec::new("rwkv6"), softmax()], "recast"),
        ("qwen2_untied", vec![MixerSpec::new("rwkv6"), rwkv7(true)], "recast"),
        ("qwen2_untied", vec![rwkv7(true), rwkv7(true).with("rank_gate", 5)], "recast"),
        ("qwen2_untied", vec![softmax(), softmax().with("window", 4)], "recast"),
        ("qwen2_untied", vec![MixerSpec::new("gated_deltanet"), rwkv7(true)], "recast"),
        // Its softmax layers have Qwen2's biases.
        ("llama_tied", vec![rwkv7(true), softmax()], "recast"),
        ("llama_biases", vec![rwkv7(true), softmax()], "recast"),
    ];
    for (teacher, mixers, model_type) in cases {
        let checkpoint = open(&golden("families").join(teacher));
        let what = format!("{teacher}, {}", serde_json::to_string(&mixers).expect("JSON"));
        let model = student_of(checkpoint.as_ref(), mixers);
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &what);
        let config = config(&folder.path().join("first"));
        assert_eq!(config["model_type"], model_type, "{what}");
        if model_type == "rwkv7qwen2" {
            assert_eq!(config["num_attention_layers"], 1, "{what}");
        }
    }
}

/// The published code makes RAD-RWKV7's vectors, and RAD-RWKV6's low-rank gate, of the hidden size.
#[test]
fn heads_wider_than_the_stream() {
    let checkpoint = open(&golden("families/llama_head_dim"));
    let teacher = families::read(checkpoint.as_ref()).expect("config");
    assert!(teacher.heads * teacher.head_size > teacher.hidden);
    for (spec, model_type) in [
        (MixerSpec::new("rwkv7"), "recast"),
        (MixerSpec::new("rwkv7").with("gate", 1), "recast"),
        (MixerSpec::new("rwkv6").with("gate", 2), "recast"),
        (MixerSpec::new("rwkv6").with("gate", 1), "rwkv6qwen2"),
        (MixerSpec::new("rwkv6").with("gate", 0), "rwkv6qwen2"),
    ] {
        let what = serde_json::to_string(&spec).expect("JSON");
        let model = student_of(checkpoint.as_ref(), vec![spec; teacher.layers]);
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &what);
        assert_eq!(config(&folder.path().join("first"))["model_type"], model_type, "{what}");
    }
}

/// Every scaling of rotations goes through the released form, whichever transformers wrote it.
#[test]
fn rotations_of_every_teacher() {
    let all = std::fs::read_dir(golden("families")).expect("golden files").map(|e| e.expect("entry").path());
    for path in all.filter(|p| p.join("config.json").exists()) {
        let checkpoint = open(&path);
        let layers = families::read(checkpoint.as_ref()).expect("config").layers;
        let model = student_of(checkpoint.as_ref(), vec![MixerSpec::new("rwkv7"); layers]);
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &path.display().to_string());
        let loaded = load(&folder.path().join("first"));
        assert_eq!(loaded.config.rope, model.config.rope, "{}", path.display());
        assert_eq!(loaded.config.max_positions, model.config.max_positions, "{}", path.display());
    }
}

/// Whatever is not trained keeps the teacher's bytes, in the teacher's type, for every teacher and
/// every type of the rest.
#[test]
fn untouched_tensors_keep_their_bytes() {
    for teacher in ["llama_bf16", "qwen2_f16", "llama_sharded", "qwen2_tied", "qwen3"] {
        let checkpoint = open(&golden("families").join(teacher));
        let layers = families::read(checkpoint.as_ref()).expect("config").layers;
        let model = student_of(checkpoint.as_ref(), vec![MixerSpec::new("rwkv7"); layers]);
        // One tensor is trained, by one element.
        let trained = "model.layers.0.self_attn.q_proj.weight";
        let params = model.parameters();
        let (_, param) = params.iter().find(|(name, _)| name == trained).expect("q_proj");
        param.update(&mut |x| x[3] += 1.0);
        for dtype in [None, Some(Dtype::BF16), Some(Dtype::F16)] {
            let what = format!("{teacher} with {dtype:?}");
            let folder = tempfile::tempdir().expect("temporary folder");
            let (first, second) = (folder.path().join("first"), folder.path().join("second"));
            save(&model, &first, Storage { dtype, original: Some(checkpoint.as_ref()) });
            let written = open(&first);
            for (name, _) in &params {
                let (found, bytes) = written.raw(name).expect("written");
                match checkpoint.raw(name) {
                    Some((stored, original)) if name != trained => {
                        assert!((found, bytes) == (stored, original), "{what}: {name} changed");
                    }
                    _ => assert_eq!(found, dtype.unwrap_or(Dtype::F32), "{what}: type of {name}"),
                }
            }
            let loaded = load(&first);
            if dtype.is_none() {
                assert!(logits(&loaded) == logits(&model), "{what}: logits");
            }
            save(&loaded, &second, Storage { dtype, original: Some(written.as_ref()) });
            same_files(&first, &second, &what);
        }
    }
}

/// An untied or re-tied head is written or left out as the config says.
#[test]
fn untied_heads() {
    let checkpoint = open(&golden("families/qwen2_tied"));
    let teacher = families::read(checkpoint.as_ref()).expect("config");
    for (tied, has_head) in [(TiedEmbeddings::Tie, false), (TiedEmbeddings::UntieKeep, true)] {
        let config = student_config(&teacher, vec![MixerSpec::new("rwkv7"); 2], tied).expect("config");
        let model = student(config, &FromCheckpoint(checkpoint.as_ref()), 3, &Device::flex()).expect("student");
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &format!("{tied:?}"));
        let path = folder.path().join("first");
        assert_eq!(open(&path).info("lm_head.weight").is_some(), has_head);
        assert_eq!(self::config(&path)["tie_word_embeddings"], !has_head);
    }
}

/// Where a student comes from stays in its config through loading and saving.
#[test]
fn provenance_stays() {
    let checkpoint = open(&golden("families/llama_gqa"));
    let model = student_of(checkpoint.as_ref(), vec![MixerSpec::new("rwkv6"); 3]);
    let folder = tempfile::tempdir().expect("temporary folder");
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let provenance =
        Provenance { teacher: "a teacher".into(), tokens: 12, stages: vec!["align".into()], ..Provenance::default() };
    export::save(&model, &first, Storage::default(), None, Some(&provenance), Some("# card")).expect("saves");
    assert_eq!(config(&first)["recast"]["teacher"], "a teacher");
    assert_eq!(std::fs::read_to_string(first.join("README.md")).expect("card"), "# card");
    export::save(&load(&first), &second, Storage::default(), None, None, Some("# card")).expect("saves");
    same_files(&first, &second, "with provenance");
}

/// Released checkpoints, through our hands: equal logits, the same tensors less what was garbage.
#[test]
fn released_checkpoints_go_through() {
    for entry in std::fs::read_dir(golden("released")).expect("golden files") {
        let path = entry.expect("entry").path();
        let what = path.display().to_string();
        let checkpoint = open(&path);
        let model = load(&path);
        let folder = tempfile::tempdir().expect("temporary folder");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), &what);
        let first = folder.path().join("first");
        let (before, after) = (checkpoint.config().expect("config"), config(&first));
        for (key, value) in before.as_object().expect("object") {
            // Null ranks are written out; where modules live and the type of numbers may change.
            if !(value.is_null() || ["auto_map", "torch_dtype"].contains(&key.as_str())) {
                assert_eq!(&after[key], value, "{what}: `{key}`");
            }
        }
        let written = open(&first);
        for info in checkpoint.infos() {
            let garbage = ["v0", "v1", "v2"].iter().any(|v| info.name == format!("model.layers.0.self_attn.{v}"));
            assert_eq!(written.raw(&info.name), checkpoint.raw(&info.name).filter(|_| !garbage), "{what}: {}", info.name);
        }
        assert_eq!(written.infos().len(), model.parameters().len(), "{what}: more tensors than parameters");
    }
}

/// A copy of a released golden folder with another config.
fn with_config(from: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> tempfile::TempDir {
    let source = golden("released").join(from);
    let folder = tempfile::tempdir().expect("temporary folder");
    std::fs::copy(source.join("model.safetensors"), folder.path().join("model.safetensors")).expect("copies");
    let mut config = config(&source);
    change(config.as_object_mut().expect("object"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("writes");
    folder
}

/// A config that is silent about the group norm, beside tensors that have one (trap
/// 28).
#[test]
fn group_norm_is_read_off_the_tensors() {
    const CASE: &str = "rwkv7_groupnorm_null_ranks";
    let wanted = logits(&load(&golden("released").join(CASE)));
    let option = |folder: &tempfile::TempDir, key: &str| load(folder.path()).config.mixers[0].options[key].clone();

    let silent = with_config(CASE, |config| {
        config.remove("groupnorm_att");
        config.remove("balance_state");
    });
    assert!(logits(&load(silent.path())) == wanted, "neither key");
    // Exporting says it.
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("model");
    save(&load(silent.path()), &path, Storage::default());
    assert_eq!((&config(&path)["groupnorm_att"], &config(&path)["balance_state"]), (&json!(true), &json!(false)));

    let half = with_config(CASE, |config| {
        config.remove("groupnorm_att");
    });
    assert!(logits(&load(half.path())) == wanted, "balance_state given");

    // What the config does say holds.
    let balanced = with_config(CASE, |config| {
        config.remove("groupnorm_att");
        config.insert("balance_state".into(), true.into());
    });
    assert_eq!((option(&balanced, "balance_state"), option(&balanced, "group_norm")), (json!(true), json!(true)));
    let without = with_config(CASE, |config| {
        config.insert("groupnorm_att".into(), false.into());
        config.remove("balance_state");
    });
    assert_eq!((option(&without, "balance_state"), option(&without, "group_norm")), (json!(true), json!(false)));

    // And where there is no ln_x, silence means the class's defaults.
    let plain = with_config("rwkv7_balanced_nan", |config| {
        config.remove("groupnorm_att");
        config.remove("balance_state");
    });
    assert!(logits(&load(plain.path())) == logits(&load(&golden("released/rwkv7_balanced_nan"))), "no ln_x");
}

/// LLaDA and Dream: the family's own names and keys, and equal bytes of whatever was not trained.
#[test]
fn diffusion_families_keep_their_names_and_bytes() {
    for (name, mask_token, shift) in
        [("llada_8b", 94, false), ("llada_tied", 5, false), ("llada_bf16", 5, false), ("dream", 95, true)]
    {
        let path = golden("families").join(name);
        let checkpoint = open(&path);
        let model = load(&path);
        assert_eq!(model.config.diffusion, Some(Diffusion { mask_token, block: None, shift, uniform: false }), "{name}");
        let folder = tempfile::tempdir().expect("temporary folder");
        let first = folder.path().join("first");
        round_trip(&model, Some(checkpoint.as_ref()), folder.path(), name);
        // Byte for byte under the names in the file, which are not the names we use.
        let tensors = |path: &Path| -> BTreeMap<String, Vec<u8>> {
            let bytes = std::fs::read(path.join("model.safetensors")).expect("file");
            let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
            file.tensors().into_iter().map(|(name, tensor)| (name, tensor.data().to_vec())).collect()
        };
        assert!(tensors(&first) == tensors(&path), "{name}: tensors");
        let (mut found, mut wanted) = (config(&first), config(&path));
        for config in [&mut found, &mut wanted] {
            config.as_object_mut().expect("object").remove("torch_dtype");
        }
        assert_eq!(found, wanted, "{name}: config.json");
    }
}

/// A student of a diffusion model, and a model that becomes one, say so in Recast's own config.
#[test]
fn diffusion_goes_through_recasts_own_config() {
    let checkpoint = open(&golden("families/llada_tied"));
    let mut model = student_of(checkpoint.as_ref(), vec![MixerSpec::new("rwkv7"); 2]);
    model.config.diffusion = Some(Diffusion { mask_token: 7, block: Some(16), shift: true, uniform: true });
    let folder = tempfile::tempdir().expect("temporary folder");
    round_trip(&model, Some(checkpoint.as_ref()), folder.path(), "student of LLaDA");
    let first = folder.path().join("first");
    assert_eq!(load(&first).config.diffusion, model.config.diffusion);
    for (key, value) in [("mask_token", json!(7)), ("block", json!(16)), ("shift", json!(true)), ("uniform", json!(true))] {
        assert_eq!(config(&first)["diffusion"][key], value, "`{key}`");
    }
    // Mistakes are named.
    for (change, wanted) in [
        (json!({"mask_token": 96}), "outside the vocabulary of 96"),
        (json!({"mask_token": 3, "block": 0}), "blocks of 0 tokens"),
        (json!({"mask_token": 3, "blok": 2}), "unknown field `blok`"),
        (json!({"block": 2}), "missing field `mask_token`"),
    ] {
        let mut changed = config(&first);
        changed["diffusion"] = change;
        std::fs::write(first.join("config.json"), changed.to_string()).expect("writes");
        let error = Model::open(&first, &Device::flex()).err().expect("refused").to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

/// The mask token's row: spare, new, or the tokenizer's own.
#[test]
fn a_mask_token_is_added_safely() {
    let checkpoint = open(&golden("families/llama_tied"));
    let teacher = families::read(checkpoint.as_ref()).expect("config");
    assert_eq!(teacher.vocabulary, 96);
    assert_eq!(mask_row(96, 90, None).expect("spare"), (90, 96));
    assert_eq!(mask_row(96, 96, None).expect("new"), (96, 97));
    assert_eq!(mask_row(96, 96, Some(96)).expect("new"), (96, 97));
    assert_eq!(mask_row(96, 90, Some(3)).expect("known"), (3, 96));
    let error = mask_row(96, 90, Some(97)).expect_err("too far").to_string();
    assert!(error.contains("outside the vocabulary of 96"), "{error}");
    let source = FromCheckpoint(checkpoint.as_ref());
    let table = |model: &Model| model.parameters().remove(0).1.read();
    let before = checkpoint.read_f32("model.embed_tokens.weight").expect("embedding");
    for (used, wanted) in [(96, None), (90, None), (90, Some(3))] {
        let (mask_token, vocabulary) = mask_row(96, used, wanted).expect("row");
        let diffusion = Diffusion { mask_token, block: None, shift: false, uniform: false };
        let config = ModelConfig { vocabulary, family: "recast".into(), diffusion: Some(diffusion.clone()), ..teacher.clone() };
        let masked = WithMaskRow::new(&source, &config, used, &diffusion);
        let model = student(config.clone(), &masked, 1, &Device::flex()).expect("student");
        let after = table(&model);
        let width = teacher.hidden;
        assert_eq!(after.len(), vocabulary * width);
        for id in (0..vocabulary).filter(|&id| id != mask_token as usize) {
            assert_eq!(after[id * width..(id + 1) * width], before[id * width..(id + 1) * width], "row {id}");
        }
        let row = &after[mask_token as usize * width..][..width];
        if wanted.is_some() {
            assert_eq!(row, &before[3 * width..4 * width]);
        } else {
            for (column, x) in row.iter().enumerate() {
                let mean = (0..used).map(|id| before[id * width + column]).sum::<f32>() / used as f32;
                assert!((x - mean).abs() < 1e-5);
            }
        }
    }
}
