//! The binary on recipes of masked diffusion: what it writes down, what it refuses, and going on from a
//! diffusion model to fine-tuning.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn recast(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_recast"))
        .current_dir(folder)
        .arg("--no-progress")
        .args(arguments)
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).expect("JSON")
}

const RECIPE: &str = r#"
name = "small"
[teacher]
path = "embedded"
[student.diffusion]
block = 4
shift = true
[text]
train = ["embedded"]
[validation]
tokens = 256
context = 64
samples = 2
[[stages]]
name = "denoise"
objective = "masked-diffusion"
tokens = 512
context = 32
batch = 4
micro_batch = 2
learning_rate = 1e-3
[stages.diffusion]
blocks = [1, 4]
next_token = 0.5
"#;

fn folder_with(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("r.toml"), recipe).expect("recipe");
    folder
}

#[test]
fn a_conversion_says_what_it_did() {
    for mixer in [None, Some("student.mixer=rwkv7")] {
        let folder = folder_with(RECIPE);
        let mut arguments = vec!["train", "r.toml", "--out", "run"];
        arguments.extend(mixer.iter().flat_map(|mixer| ["--set", mixer]));
        let output = recast(folder.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let run = folder.path().join("run");
        let said = text(&output.stderr);
        let variant = "masked diffusion: blocks of 1, then 4, mask noise, linear schedule, stratified time a block";
        assert!(said.contains(variant) && said.contains("diffusion bound"), "{said}");
        assert!(text(&output.stdout).contains("diffusion bound"), "{}", text(&output.stdout));
        let config = json(&run.join("model/config.json"));
        assert_eq!(config["diffusion"], serde_json::json!({"mask_token": 2048, "block": 4, "shift": true}));
        assert_eq!(config["vocab_size"], 2049);
        for (file, pointer) in [("run.json", "/variants/denoise"), ("plan.json", "/stages/0/variant")] {
            let value = json(&run.join(file));
            let found = value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            assert!(found.starts_with(variant) && found.ends_with("next-token loss times 0.5"), "{file}: {found}");
        }
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
        let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[..4].iter().all(|l| l["parts"]["diffusion"].is_number() && l["parts"]["next-token"].is_number()));
        assert!(lines[4]["held_out_bound"].as_f64().is_some_and(|x| x > 0.5) && lines[4]["held_out_loss"].is_number());

        // Fine-tuning goes on from it, with the mask token that it knows.
        std::fs::write(
            folder.path().join("pairs.jsonl"),
            "{\"prompt\": \"Nell had a cat.\", \"response\": \" It was grey.\"}\n{\"prompt\": \"Tom\", \"response\": \" ran home to his mother.\"}\n",
        )
        .expect("pairs");
        for padding in ["longest", "block"] {
            let out = format!("tuned-{padding}");
            let padding = format!("stages.denoise.diffusion.padding={padding}");
            let arguments = [
                "train",
                "r.toml",
                "--out",
                &out,
                "--set",
                "teacher.path=run/model",
                "--set",
                "student={ diffusion = {} }",
                "--set",
                "stages.denoise.pairs=pairs.jsonl",
                "--set",
                &padding,
            ];
            let output = recast(folder.path(), &arguments);
            assert!(output.status.success(), "{}", text(&output.stderr));
            let tuned = json(&folder.path().join(&out).join("model/config.json"));
            assert_eq!(tuned["diffusion"], config["diffusion"]);
            assert_eq!(tuned["vocab_size"], 2049);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_model() {
    let folder = folder_with(RECIPE);
    let run = |arguments: &[&str]| recast(folder.path(), arguments);
    for name in ["one", "two"] {
        let output = run(&["train", "r.toml", "--out", name]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let model = |name: &str| std::fs::read(folder.path().join(name).join("model/model.safetensors")).expect("model");
    assert!(model("one") == model("two"), "the same recipe, other bits");
}

#[test]
fn impossible_recipes_are_refused() {
    let folder = folder_with(RECIPE);
    for (set, wanted) in [
        ("student.diffusion.mask_token=4000", "outside the vocabulary of 2048"),
        ("student.diffusion.block=0", "the model has none"),
        ("student.diffusion.block=8", "blocks ends with 4, the model denoises blocks of 8"),
        ("stages.denoise.recompute=true", "lower micro_batch"),
        ("stages.denoise.diffusion.lowest_rate=2", "expected from 0 to 1"),
        ("stages.denoise.diffusion.padding=none", "expected block or longest"),
        ("stages.denoise.diffusion.mask=1", "unknown key"),
        ("stages.denoise.pairs=nothing.jsonl", "nothing.jsonl"),
        ("student={ mixer = \"rwkv7\" }", "needs a mask token"),
    ] {
        let output = recast(folder.path(), &["convert", "r.toml", "--out", "run", "--set", set]);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{set}: {said}");
        let _ = std::fs::remove_dir_all(folder.path().join("run"));
    }
}
