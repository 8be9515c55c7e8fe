//! The binary on real files: converting, freezing, refusing.

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

const RECIPE: &str = r#"
name = "small"
[teacher]
path = "embedded"
[student]
mixer = { kind = "rwkv7" }
[text]
train = ["embedded"]
[validation]
tokens = 256
context = 128
[[stages]]
name = "align"
objective = "output-alignment"
train = ["self_attn"]
tokens = 512
context = 64
batch = 2
learning_rate = 1e-3
[[stages]]
name = "distil"
objective = "logit-kl"
tokens = 512
context = 64
batch = 2
learning_rate = 1e-3
"#;

fn folder_with(recipe: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("r.toml"), recipe).expect("recipe");
    folder
}

fn tensors(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    file.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec())).collect()
}

#[test]
fn align_changes_mixers_only_and_distil_everything() {
    let folder = folder_with(RECIPE);
    let run = |name: &str, sets: &[&str]| {
        let mut arguments = vec!["convert", "r.toml", "--out", name];
        for set in sets {
            arguments.extend(["--set", set]);
        }
        let output = recast(folder.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        tensors(&folder.path().join(name).join("model/model.safetensors"))
    };
    let align_only = RECIPE.split("[[stages]]\nname = \"distil\"").next().expect("two stages");
    std::fs::write(folder.path().join("align.toml"), align_only).expect("recipe");
    let output = recast(folder.path(), &["convert", "align.toml", "--out", "a"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let aligned = tensors(&folder.path().join("a/model/model.safetensors"));
    let teacher = tensors(&folder.path().join("runs/.embedded/model/model.safetensors"));
    for (name, bytes) in &teacher {
        let mixer = name.contains(".self_attn.");
        assert_eq!(&aligned[name] == bytes, !mixer, "{name} after align");
    }
    let distilled = run("d", &[]);
    for (name, bytes) in &teacher {
        assert!(&distilled[name] != bytes, "{name} did not change in distil");
    }
    // Parameters without a role in this variant have no gradient and may stay.
    for (name, bytes) in &aligned {
        if !["k_k", "k_a", "r_k"].iter().any(|p| name.ends_with(p)) {
            assert!(&distilled[name] != bytes, "{name} did not change in distil");
        }
    }
    let config = std::fs::read_to_string(folder.path().join("d/model/config.json")).expect("config");
    let config: serde_json::Value = serde_json::from_str(&config).expect("json");
    assert_eq!(config["model_type"], "rwkv7qwen2");
    assert_eq!(config["use_rope"], true);
    for file in
        ["report.html", "report.json", "plan.json", "recipe.toml", "metrics.jsonl", "model/tokenizer.json", "model/README.md"]
    {
        assert!(folder.path().join("d").join(file).is_file(), "{file}");
    }
    // The exported student runs.
    let output =
        recast(folder.path(), &["generate", "d/model", "--prompt", "Once", "--max-tokens", "5", "--temperature", "0", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("one JSON object");
    let output = recast(folder.path(), &["info", "d/model", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    // A run is not its model.
    let output = recast(folder.path(), &["info", "d"]);
    assert!(text(&output.stderr).contains("its model is d/model"), "{}", text(&output.stderr));
    // A finished run is told again, not made again.
    let model = folder.path().join("d/model/model.safetensors");
    let written = || std::fs::metadata(&model).and_then(|m| m.modified()).expect("a date");
    let before = written();
    let output = recast(folder.path(), &["convert", "--resume", "d", "--json"]);
    assert!(text(&output.stderr).contains("finished already"), "{}", text(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(summary["name"], "small");
    assert_eq!(written(), before);
}

fn refused(recipe: &str, arguments: &[&str], code: i32, wanted: &str) {
    let folder = folder_with(recipe);
    let output = recast(folder.path(), arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(wanted), "expected `{wanted}` in:\n{message}");
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    refused("name = \"x\"\nstagse = 1\n", &["convert", "r.toml"], 2, "did you mean `stages`");
    refused(RECIPE, &["convert", "r.toml", "--set", "stages.align.contxt=3"], 2, "did you mean `context`");
    refused(RECIPE, &["convert", "r.toml", "--set", "student.mixer.kind=rwkv8"], 2, "did you mean `rwkv");
    refused(RECIPE, &["convert", "r.toml", "--set", "student.mixer.blance_state=true"], 2, "did you mean `balance_state`");
    refused(RECIPE, &["convert", "r.toml", "--set", "teacher.path=nowhere.gguf"], 2, "nowhere.gguf");
    refused(RECIPE, &["convert", "r.toml", "--set", "text.train=[\"empty.txt\"]"], 2, "empty.txt");
    refused(RECIPE, &["convert", "r.toml", "--set", "stages.align.train=nothing"], 2, "no parameter matches");
    refused(RECIPE, &["plan", "r.toml", "--set", "text.train=nowhere.txt"], 2, "there is no nowhere.txt");
    refused(RECIPE, &["train", "r.toml"], 2, "recast convert");
    refused(RECIPE, &["convert", "--resume", "nothing"], 2, "holds no run");
    refused(RECIPE, &["convert", "r.toml", "--threads", "0"], 2, "--threads");
}

#[test]
fn empty_text_and_a_taken_folder() {
    let folder = folder_with(RECIPE);
    std::fs::write(folder.path().join("empty.txt"), "").expect("file");
    let output = recast(folder.path(), &["convert", "r.toml", "--set", "text.train=[\"empty.txt\"]", "--out", "e"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(!folder.path().join("e").exists(), "a run that never began left its folder");
    std::fs::write(folder.path().join("short.txt"), "Once upon a time.").expect("file");
    let output = recast(folder.path(), &["plan", "r.toml", "--set", "text.train=short.txt"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = recast(folder.path(), &["convert", "r.toml", "--set", "text.train=short.txt"]);
    assert!(text(&output.stderr).contains("too few to keep some out"), "{}", text(&output.stderr));
    std::fs::create_dir(folder.path().join("taken")).expect("folder");
    std::fs::write(folder.path().join("taken/recipe.toml"), "x").expect("file");
    let output = recast(folder.path(), &["convert", "r.toml", "--out", "taken"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--resume"));
}

/// Makes a run that diverges in its second stage; the error it ends with.
fn diverged(folder: &Path, sets: &[&str]) -> String {
    let mut arguments = vec!["convert", "r.toml", "--out", "n"];
    let own = ["checkpoints.every_steps=1", "checkpoints.keep=9", "stages.distil.learning_rate=1e30", "stages.distil.clip=0.0"];
    for set in own.iter().chain(sets) {
        arguments.extend(["--set", set]);
    }
    let output = recast(folder, &arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    message
}

#[test]
fn a_diverging_run_stops_with_its_checkpoint_intact_and_goes_on_at_a_lower_rate() {
    let folder = folder_with(RECIPE);
    let message = diverged(folder.path(), &["stages.distil.tokens=2048"]);
    assert!(message.contains("is intact") && message.contains("--set stages.distil.learning_rate"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    let run = folder.path().join("n");
    let checkpoints = run.join("checkpoints");
    // The steps before the one that failed have done their harm.
    for entry in std::fs::read_dir(&checkpoints).expect("checkpoints").map(|e| e.expect("entry").path()) {
        if entry.file_name().is_some_and(|name| &*name.to_string_lossy() > "01-00000000") {
            std::fs::remove_dir_all(entry).expect("removes it");
        }
    }
    // What killed processes leave, and what somebody else put there.
    for rest in [".01-00000099.tmp", "00-00000777", "best"] {
        std::fs::create_dir(checkpoints.join(rest)).expect("folder");
    }
    let output = recast(folder.path(), &["convert", "--resume", "n", "--set", "seed=2"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("built on: seed was 1337 and would be 2"), "{}", text(&output.stderr));
    let changes = ["--set", "stages.distil.learning_rate=1e-3", "--set", "stages.distil.clip=1.0"];
    let output = recast(folder.path(), &[&["convert", "--resume", "n"][..], &changes].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(run.join("recipe-until-01-00000000.toml").is_file());
    let is_there = [".01-00000099.tmp", "00-00000777", "best"].map(|rest| checkpoints.join(rest).exists());
    assert_eq!(is_there, [false, false, true]);
    // The end of a finished run can be written again, otherwise.
    let changes = ["--set", "export.dtype=bf16", "--set", "samples.prompts=[\"One\"]", "--set", "samples.tokens=4"];
    let output = recast(folder.path(), &[&["convert", "--resume", "n"][..], &changes].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let samples = std::fs::read(run.join("samples.json")).expect("samples");
    let samples: serde_json::Value = serde_json::from_slice(&samples).expect("JSON");
    let written = samples.as_array().expect("a list").iter().map(|of| (of["name"].as_str(), of["texts"][0][0].as_str()));
    assert_eq!(written.collect::<Vec<_>>(), [(Some("teacher"), Some("One")), (Some("distil"), Some("One"))]);
    let bytes = std::fs::read(run.join("model/model.safetensors")).expect("model");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(file.tensor(name).expect("a projection").dtype(), safetensors::Dtype::BF16);
    let output = recast(folder.path(), &["convert", "--resume", "n"]);
    assert!(text(&output.stderr).contains("finished already"), "{}", text(&output.stderr));
}

/// The embedded teacher as a folder of one's own.
fn teacher_in(folder: &Path) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model");
    std::fs::create_dir_all(folder).expect("folder");
    for entry in std::fs::read_dir(model).expect("the teacher").map(|entry| entry.expect("an entry").path()) {
        std::fs::copy(&entry, folder.join(entry.file_name().expect("a name"))).expect("copies");
    }
}

#[test]
fn a_model_in_the_folder_of_a_new_run_stays() {
    let folder = folder_with(RECIPE);
    let model = folder.path().join("y/model");
    teacher_in(&model);
    std::fs::write(model.join("notes.txt"), "precious").expect("writes");
    for sets in [&[][..], &["--set", "teacher.path=y/model"]] {
        let output = recast(folder.path(), &[&["convert", "r.toml", "--out", "y"][..], sets].concat());
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("y/model: is there already"), "{}", text(&output.stderr));
    }
    assert_eq!(std::fs::read(model.join("notes.txt")).expect("is there"), b"precious");
    assert!(!folder.path().join("y/recipe.toml").exists());
}

#[test]
fn a_teacher_that_computes_no_number_is_not_learned_from() {
    let folder = folder_with(RECIPE);
    let model = folder.path().join("t");
    teacher_in(&model);
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let norm = {
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let data = file.tensor("model.norm.weight").expect("the last norm").data();
        let at = data.as_ptr() as usize - bytes.as_ptr() as usize;
        at..at + data.len()
    };
    // The largest of numbers, in F32 and BF16: their products are none.
    bytes[norm].fill(0x7f);
    std::fs::write(&weights, bytes).expect("writes");
    let output = recast(folder.path(), &["convert", "r.toml", "--out", "n", "--set", "teacher.path=t"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("t: the teacher's loss on held-out text is") && message.contains("teacher.path"), "{message}");
    let config = model.join("config.json");
    let mut keys: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).expect("config")).expect("JSON");
    keys["rms_norm_eps"] = (-1).into();
    std::fs::write(&config, keys.to_string()).expect("writes");
    let output = recast(folder.path(), &["plan", "r.toml", "--set", "teacher.path=t"]);
    assert!(text(&output.stderr).contains("`rms_norm_eps` is -1"), "{}", text(&output.stderr));
}

#[test]
fn changed_text_is_not_gone_on_with() {
    let folder = folder_with(RECIPE);
    let line = |i: usize| {
        format!("{{\"text\": \"Tale {i}. Once upon a time there were {i} geese at the pond, and {} more.\"}}\n", i * 7)
    };
    let lines: String = (0..400).map(line).collect();
    let path = folder.path().join("t.jsonl");
    std::fs::write(&path, &lines).expect("text");
    diverged(folder.path(), &["text.train=t.jsonl", "text.held_out_tokens=600"]);
    std::fs::write(&path, lines.clone() + &line(400)).expect("text");
    let resume = ["convert", "--resume", "n", "--set", "stages.distil.learning_rate=1e-3"];
    let output = recast(folder.path(), &resume);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the text was changed"), "{}", text(&output.stderr));
}

#[test]
fn what_a_later_stage_cannot_do_is_found_first() {
    let folder = folder_with(RECIPE);
    let output = recast(folder.path(), &["convert", "r.toml", "--out", "n", "--set", "stages.distil.context=100000000"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("stage `distil`"), "{message}");
    assert!(!folder.path().join("n").exists(), "a run that never began left its folder");
    let group = "stages.distil.groups=[{pattern=\"self-attn\",learning_rate=1e-4}]";
    refused(RECIPE, &["convert", "r.toml", "--set", group], 2, "`self-attn` has no parameter");
    refused(RECIPE, &["convert", "r.toml", "--set", "stages.distil.wait=1.0"], 2, "wait is 1");
}

#[test]
fn a_second_start_leaves_the_first_alone() {
    let folder = folder_with(RECIPE);
    let run = folder.path().join("n");
    std::fs::create_dir(&run).expect("folder");
    let lock = std::fs::File::create(run.join(".lock")).expect("lock");
    lock.lock().expect("nobody else is there");
    let output = recast(folder.path(), &["convert", "r.toml", "--out", "n"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("another process"), "{}", text(&output.stderr));
    assert!(run.join(".lock").exists(), "the first one's lock is gone");
}

/// A head that is there only to train is dropped before the student is measured: what was measured is what was
/// written.
#[test]
fn a_discarded_head_is_not_measured() {
    let folder = folder_with(RECIPE);
    let summary = |arguments: &[&str]| -> serde_json::Value {
        let output = recast(folder.path(), &[&["--json"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let loss = |summary: &serde_json::Value, name: &str| {
        let all = summary["held_out"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|of| of[0] == name).unwrap_or_else(|| panic!("no {name} in {summary}"));
        found[1]["loss"].as_f64().expect("a loss")
    };
    let tied = ["--set", "student.tied=untie-discard", "--set", "stages.distil.learning_rate=0.01"];
    let first = summary(&[&["convert", "r.toml", "--out", "a"][..], &tied].concat());
    let second = summary(&["convert", "r.toml", "--out", "b", "--set", "teacher.path=a/model"]);
    let (said, found) = (loss(&first, "distil"), loss(&second, "teacher"));
    assert!((said - found).abs() < 1e-4, "the student was said to have {said}; what was written has {found}");
    // A teacher with a head of its own keeps it.
    summary(&["convert", "r.toml", "--out", "k", "--set", "student.tied=untie-keep"]);
    let of_untied = ["--set", "teacher.path=k/model", "--set", "student.tied=untie-discard"];
    summary(&[&["convert", "r.toml", "--out", "u"][..], &of_untied].concat());
    assert!(tensors(&folder.path().join("u/model/model.safetensors")).contains_key("lm_head.weight"));
}

/// A limit on the size of files stands in for a full disk: a write fails half way.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let folder = folder_with(RECIPE);
    std::fs::create_dir(folder.path().join("n")).expect("folder");
    // `ulimit -f` counts in kB: no file above 12 MB can be written, which is less than the moments
    // of the distil stage.
    let script = format!(
        "trap '' XFSZ; ulimit -f 12000; exec {} --no-progress convert r.toml --out n/run --set checkpoints.every_steps=1",
        env!("CARGO_BIN_EXE_recast")
    );
    let output = Command::new("bash").current_dir(folder.path()).args(["-c", &script]).output().expect("bash");
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    // Without the limit it goes on from what is there.
    let output = recast(folder.path(), &["convert", "--resume", "n/run"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}
