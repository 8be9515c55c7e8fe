//! The verbs that run a model, from outside: the binary on files.

mod common;

use common::{golden, json_of, model, recast, stdout, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn generate_prints_the_text_alone_and_the_same_for_the_same_seed() {
    let model = model();
    let with = |more: &[&'static str]| [&["generate", text(model.path()), "--max-tokens", "20"], more].concat();
    let shown = stdout(&with(&["--prompt", "abc", "--seed", "5", "--temperature", "1.5"]), "");
    let object = json_of(&with(&["--prompt", "abc", "--seed", "5", "--temperature", "1.5"]), "");
    assert_eq!(shown, format!("{}\n", object["text"].as_str().expect("a text")));
    assert_eq!(object["prompt_tokens"], 3);
    let other = json_of(&with(&["--prompt", "abc", "--seed", "6", "--temperature", "1.5"]), "");
    assert_ne!(object["tokens"], other["tokens"]);
    // Standard input, with the line break that a shell adds.
    assert_eq!(shown, stdout(&with(&["--seed", "5", "--temperature", "1.5"]), "abc\n"));
    let greedy = stdout(&with(&["--prompt", "abc", "--temperature", "0"]), "");
    assert_eq!(greedy, stdout(&with(&["--prompt", "abc", "--temperature", "0", "--seed", "9"]), ""));
}

#[test]
fn generate_refuses_what_it_cannot_do() {
    let model = model();
    for (arguments, said) in [
        (&["--prompt", "a", "--top-p", "2"][..], "top-p"),
        (&["--prompt", "a", "--temperature", "-1"], "temperature"),
        (&["--prompt", "a", "--chat"], "no chat template"),
    ] {
        let output = recast(&[&["generate", text(model.path())], arguments].concat(), "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
}

/// What could only fail at the end is refused at the beginning, before a model is read: there is none here.
#[test]
fn what_cannot_be_done_is_said_before_the_work() {
    for (arguments, said) in [
        (&["logits", "no-model", "--ids", "2", "--out", "nodir/x"][..], "--out"),
        (&["generate", "no-model", "--prompt", "a", "--save-state", "nodir/x"], "--save-state"),
        (&["bench", "serve", "no-model", "--svg", "nodir/x.svg"], "--svg"),
        (&["chat", "no-model", "--json"], "--json"),
        (&["info", "no-model", "--threads", "100000"], "1 to 1024"),
        (&["eval", "no-model", "--tasks", "openbookqa", "--data", ".", "--samples", "100000"], "--samples"),
    ] {
        let output = recast(arguments, "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(said) && output.stdout.is_empty(), "{arguments:?}: {error}");
    }
    let output = recast(&["bench", "serve", "no-model.gguf", "--rival", "no-such-python"], "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("starting no-such-python"), "{error}");
}

#[test]
fn what_is_not_there_is_code_2_for_every_verb() {
    let folder = tempfile::tempdir().expect("a folder");
    let is_none = folder.path().join("notes.md");
    std::fs::write(&is_none, "no model").expect("writes");
    for arguments in [
        &["info", "nowhere"][..],
        &["info", text(&is_none)],
        &["info", text(folder.path())],
        &["logits", "nowhere.gguf", "--ids", "2", "--out", "x"],
        &["plan", "nowhere.toml"],
        &["convert", "nowhere.toml"],
        &["convert", "--out", text(&is_none)],
        &["generate", "embedded", "--prompt", "a", "--load-state", "nowhere"],
        &["chat", "embedded", "--load", "nowhere"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_recast")).current_dir(folder.path()).args(arguments).output();
        let output = output.expect("runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(arguments.iter().any(|word| error.contains(word)), "{arguments:?}: {error}");
    }
}

#[test]
fn verbs_that_make_no_run_leave_nothing_where_one_stands() {
    let [here, cache] = [(), ()].map(|()| tempfile::tempdir().expect("a folder"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
        command.current_dir(here.path()).env("XDG_CACHE_HOME", cache.path()).args(arguments);
        let output = command.output().expect("runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["info", "embedded"]);
    run(&["plan"]);
    assert_eq!(std::fs::read_dir(here.path()).expect("reads").count(), 0);
    for name in ["model/config.json", "text.jsonl.zst"] {
        assert!(cache.path().join("recast/embedded").join(name).is_file(), "{name}");
    }
}

/// The binary where no file can hold a byte, as on a full disk.
#[cfg(target_os = "linux")]
fn on_a_full_disk(arguments: &[&str]) -> std::process::Output {
    let script = format!("trap '' XFSZ; ulimit -f 0; exec {} \"$@\"", env!("CARGO_BIN_EXE_recast"));
    Command::new("bash").args(["-c", &script, "recast"]).args(arguments).output().expect("bash")
}

#[cfg(target_os = "linux")]
#[test]
fn a_text_is_told_before_its_state_is_written() {
    let model = model();
    let state = model.path().join("state");
    let arguments =
        ["--json", "generate", text(model.path()), "--prompt", "abc", "--max-tokens", "4", "--save-state", text(&state)];
    let output = on_a_full_disk(&arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(told["text"].is_string() && !state.exists());
    assert_eq!(json_of(&arguments[1..], "")["tokens"], told["tokens"]);
    let on = ["generate", text(model.path()), "--prompt", "d", "--max-tokens", "4", "--load-state", text(&state)];
    assert!(json_of(&on, "")["text"].is_string());
}

#[test]
fn a_recipe_that_names_nothing_embedded_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = RECIPE.replace("\"embedded\"", "\"nowhere\"");
    std::fs::write(folder.path().join("r.toml"), recipe).expect("writes");
    let output =
        Command::new(env!("CARGO_BIN_EXE_recast")).current_dir(folder.path()).args(["plan", "r.toml"]).output().expect("runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("nowhere"), "{error}");
    assert!(!folder.path().join("runs").exists(), "files that nobody named were written");
}

#[test]
fn logits_are_the_golden_ones() {
    let model = model();
    let out = model.path().join("out.safetensors");
    let expected = std::fs::read(golden().join("expected.safetensors")).expect("golden");
    let expected = safetensors::SafeTensors::deserialize(&expected).expect("safetensors");
    let ids = expected.tensor("input_ids").expect("ids");
    let length = ids.shape()[1];
    let ids: Vec<String> =
        ids.data().chunks(8).take(length).map(|b| i64::from_le_bytes(b.try_into().expect("8")).to_string()).collect();
    stdout(&["logits", text(model.path()), "--ids", &ids.join(","), "--out", text(&out)], "");
    let bytes = std::fs::read(&out).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let found = file.tensor("logits").expect("logits");
    assert_eq!((file.names().len(), found.shape()), (1, &[length, 96][..]));
    let numbers = |bytes: &[u8]| -> Vec<f32> { bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect() };
    let wanted = numbers(expected.tensor("logits").expect("logits").data());
    // f32::max would let a NaN pass.
    let larger = |far: f32, off: f32| if off.is_nan() { f32::INFINITY } else { far.max(off) };
    let far = numbers(found.data()).iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, larger);
    assert!(far < 1e-4, "{far:e}");
    let object = json_of(&["logits", text(model.path()), "--text", "!#", "--out", text(&out)], "");
    assert_eq!(object["ids"], json!([2, 4]));
    assert!(!recast(&["logits", text(model.path()), "--ids", "96", "--out", text(&out)], "").status.success());
}

#[test]
fn bf16_without_instructions_is_told_and_f32() {
    let model = model();
    let [plain, asked] = ["plain", "asked"].map(|name| model.path().join(name));
    let logits = |out: &Path, precision: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_recast"))
            .args(["logits", text(model.path()), "--ids", &["2"; 20].join(","), "--out", text(out)])
            .args(["--precision", precision])
            .env("RECAST_CPU", "baseline")
            .output()
            .expect("starts");
        assert!(output.status.success());
        let said = String::from_utf8(output.stderr).expect("UTF-8").matches("no instructions for bf16").count();
        (said, std::fs::read(out).expect("written"))
    };
    let (unsaid, f32) = logits(&plain, "f32");
    let (said, bf16) = logits(&asked, "bf16");
    assert_eq!((unsaid, said), (0, 1));
    assert!(f32 == bf16, "other logits");
}

#[test]
fn info_needs_no_tokenizer() {
    let object = json_of(&["info", text(&golden())], "");
    assert_eq!(object["family"], "llama");
    assert_eq!(object["state"].as_array().map(Vec::len), Some(3));
    assert!(stdout(&["info", text(&golden())], "").contains("softmax"));
}

/// Items for `openbookqa`.
fn questions() -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("a folder");
    let items: Vec<String> = (0..6)
        .map(|i| json!({"id": i.to_string(), "query": format!("Which {i}?"), "choices": ["one", "two", "a b"], "gold": i % 3}))
        .map(|item| item.to_string())
        .collect();
    std::fs::write(data.path().join("openbookqa_test.jsonl"), items.join("\n")).expect("writes");
    data
}

/// The binary with a full disk under one of its outputs.
#[cfg(target_os = "linux")]
fn with_full(standard: &str, arguments: &[&str], input: &str) -> std::process::Output {
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    command.args(arguments);
    match standard {
        "output" => command.stdout(full()).stderr(Stdio::piped()),
        _ => command.stdout(Stdio::piped()).stderr(full()),
    };
    common::fed(&mut command, input)
}

/// A full disk under standard output is a failure and no panic, and under standard error it is neither.
#[cfg(target_os = "linux")]
#[test]
fn results_that_cannot_be_printed_are_an_error() {
    let (model, data) = (common::chat_model(), questions());
    let out = model.path().join("out.safetensors");
    for arguments in [
        &["info", text(model.path())][..],
        &["--json", "info", text(model.path())],
        &["logits", text(model.path()), "--ids", "2", "--out", text(&out)],
        &["eval", text(model.path()), "--tasks", "openbookqa", "--data", text(data.path())],
        &["generate", text(model.path()), "--prompt", "a", "--max-tokens", "2"],
        &["chat", text(model.path()), "--max-tokens", "2"],
        &["schema"],
    ] {
        let output = with_full("output", arguments, "a\n");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("cannot write to standard output"), "{arguments:?}: {error}");
    }
    // There it is told that a text is longer than those trained on, and what the commands of a chat came to.
    let input = "/help\n/nothing\na\n/history\n/reset\n";
    for arguments in [
        &["generate", text(model.path()), "--prompt", "a", "--temperature", "0", "--max-tokens", "70"][..],
        &["generate", text(model.path()), "--prompt", "a", "--temperature", "0", "--max-tokens", "2"],
        &["chat", text(model.path()), "--temperature", "0", "--max-tokens", "2"],
    ] {
        let output = with_full("error", arguments, input);
        assert!(output.status.success(), "{arguments:?}: {:?}", output.status);
        assert_eq!(output.stdout, recast(arguments, input).stdout, "{arguments:?}");
    }
}

#[test]
fn an_evaluation_goes_on_when_nobody_reads_its_progress() {
    let (model, data) = (model(), questions());
    let mut child = Command::new(env!("CARGO_BIN_EXE_recast"))
        .args(["--json", "eval", text(model.path()), "--tasks", "openbookqa", "--data", text(data.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stderr.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{:?}", output.status);
    let told: Value = serde_json::from_slice(&output.stdout).expect("the results");
    assert_eq!(told["results"][0]["items"], 6);
}

#[test]
fn a_teacher_that_fails_takes_no_result_along() {
    let (student, teacher, data) = (model(), model(), questions());
    // No weight of it is a number.
    let weights = teacher.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("reads");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("8")) as usize;
    bytes[8 + header..].fill(0xff);
    std::fs::write(&weights, bytes).expect("writes");
    let arguments =
        ["eval", text(student.path()), "--against", text(teacher.path()), "--tasks", "openbookqa", "--data", text(data.path())];
    let output = recast(&[&["--json"], &arguments[..]].concat(), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(text(teacher.path())) && error.contains("not finite"), "{error}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("the student's results");
    assert_eq!((&told["results"][0]["items"], &told["teacher"]), (&json!(6), &Value::Null));
    assert!(String::from_utf8_lossy(&recast(&arguments, "").stdout).contains("OpenBookQA"));

    // A reader of the results who left does not keep it from being told.
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("not finite"), "{:?}: {error}", output.status);

    // What can be known of it before is said before.
    std::fs::remove_file(teacher.path().join("tokenizer.json")).expect("removes");
    let output = recast(&arguments, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{error}");
    assert!(!error.contains("6 items"), "the student was scored first: {error}");
}

#[test]
fn what_an_evaluation_was_asked_wrongly_is_code_2() {
    let (model, data) = (model(), questions());
    std::fs::write(data.path().join("bad.toml"), "name = 3").expect("writes");
    let bad = data.path().join("bad.toml");
    let nowhere = data.path().join("nowhere");
    for (arguments, said) in [
        (["--tasks", "openbookqa", "--data", text(data.path()), "--shots", "5"], "no solved examples"),
        (["--tasks", text(&bad), "--data", text(data.path()), "--seed", "1"], "bad.toml"),
        (["--tasks", "absent.toml", "--data", text(data.path()), "--seed", "1"], "absent.toml"),
        (["--tasks", "openbookqa", "--data", text(&nowhere), "--seed", "1"], "openbookqa_test.jsonl"),
    ] {
        let output = recast(&[&["eval", text(model.path())], &arguments[..]].concat(), "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    // Windows that the model does not read, before it is loaded.
    std::fs::write(data.path().join("ppl_dev.jsonl"), r#"{"source": "s", "text": "abc"}"#).expect("writes");
    let long = ["eval", text(model.path()), "--tasks", "perplexity", "--data", text(data.path()), "--context", "100000000"];
    let output = recast(&long, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && error.contains("smaller --context"), "{error}");
}

/// Changes the config of a model in a folder.
fn configure(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
    change(&mut config);
    std::fs::write(&path, config.to_string()).expect("writes");
}

/// The same weights, one of which was trained on sequences that hold the questions and the other on shorter ones.
#[test]
fn a_model_and_its_teacher_are_asked_the_same_however_long_they_were_trained_at() {
    let (student, teacher, data) = (model(), model(), questions());
    configure(teacher.path(), |config| config["max_position_embeddings"] = 8.into());
    let journal = data.path().join("journal.jsonl");
    let arguments =
        ["eval", text(student.path()), "--tasks", "openbookqa", "--data", text(data.path()), "--journal", text(&journal)];
    let against = [&arguments[..], &["--against", text(teacher.path())]].concat();
    let shorter = [&["eval", text(teacher.path()), "--against", text(student.path())], &arguments[2..]].concat();
    let alone = json_of(&arguments, "");
    assert_eq!(alone["results"][0]["truncated"], 0);
    // Whichever of the two it is.
    for arguments in [against, shorter] {
        let told = json_of(&arguments, "");
        for result in [&told["results"][0], &told["teacher"][0]] {
            assert_eq!((&result["truncated"], &result["model"]["max_context"]), (&json!(6), &json!(8)));
        }
        assert_eq!(told["results"][0]["metrics"], told["teacher"][0]["metrics"]);
        let conditions = told["comparisons"][0]["conditions"].as_str().expect("a text");
        assert!(conditions.contains("6 cut to fit 8 tokens") && !conditions.contains("student:"), "{conditions}");
    }
    // An answer to the whole question is none to the cut one, and stays what it is.
    let output = recast(&arguments, "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("6 items (6 answered)"));
    assert_eq!(json_of(&arguments, "")["results"], alone["results"]);
}

#[test]
fn texts_are_not_scored_with_a_model_of_uniform_noise_and_that_is_said_before_the_other_is() {
    let (student, teacher, data) = (model(), model(), questions());
    configure(teacher.path(), |config| {
        let layers = config["num_hidden_layers"].as_u64().expect("layers") as usize;
        config["base_model_type"] = config["model_type"].take();
        config["model_type"] = "recast".into();
        config["mixers"] = vec![json!({"kind": "softmax"}); layers].into();
        config["diffusion"] = json!({"mask_token": 95, "block": 4, "shift": true, "uniform": true});
    });
    let arguments =
        ["eval", text(student.path()), "--against", text(teacher.path()), "--tasks", "openbookqa", "--data", text(data.path())];
    let output = recast(&arguments, "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{error}");
    assert!(error.contains(text(teacher.path())) && error.contains("uniform noise"), "{error}");
    assert!(!error.contains("6 items"), "a model was scored first: {error}");
    assert!(error.contains("leave out what scores texts (openbookqa)"), "{error}");

    // It writes, and nothing is said of how it would have scored.
    let question = json!({"id": "a", "context": "c", "question": "q", "answers": ["x"]}).to_string();
    std::fs::write(data.path().join("xquad_en.jsonl"), question).expect("writes");
    let written = json_of(&["eval", text(teacher.path()), "--tasks", "xquad_en", "--data", text(data.path())], "");
    let estimate = written["results"][0]["model"]["estimate"].as_str().expect("how it writes");
    assert!(estimate.starts_with("texts one token a forward pass"), "{estimate}");

    // One of masks does both, and says with each task what that did.
    configure(teacher.path(), |config| config["diffusion"]["uniform"] = false.into());
    let arguments = ["eval", text(teacher.path()), "--tasks", "openbookqa,xquad_en", "--samples", "1"];
    let told = json_of(&[&arguments[..], &["--data", text(data.path())]].concat(), "");
    let estimate = |index: usize| told["results"][index]["model"]["estimate"].as_str().expect("how it was estimated");
    assert_eq!(estimate(0), "likelihood bound, exact-count form, 1 mask an answer (1 of one token)");
    assert_eq!(estimate(1), "texts one token a forward pass, blocks of 4, temperature 0");
}

/// A recipe of what is inside the binary.
const RECIPE: &str = r#"
name = "small"
teacher.path = "embedded"
student.mixer = { kind = "rwkv7" }
text.train = ["embedded"]
[[stages]]
name = "distil"
objective = "logit-kl"
tokens = 512
context = 64
batch = 2
learning_rate = 1e-3
"#;

/// What the binary tells machines when it is run in a folder.
fn json_in(folder: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    let output = command.current_dir(folder).arg("--json").args(arguments).output().expect("runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_plan_tells_how_much_text_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("r.toml"), RECIPE).expect("writes");
    let plan = json_in(folder.path(), &["plan", "r.toml"]);
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny");
    for (key, file) in [("train_bytes", "text.jsonl.zst"), ("held_out_bytes", "held_out.jsonl.zst")] {
        assert_eq!(plan["text"][key], std::fs::metadata(assets.join(file)).expect("an asset").len(), "{key}");
    }
    assert_eq!((&plan["stages"][0]["name"], &plan["text"]["held_out_tokens"]), (&json!("distil"), &Value::Null));
}

#[test]
fn a_plan_refuses_a_key_of_a_config_that_nothing_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "scratch.vocabulary = 300\nscratch.config = { model_type = \"llama\", wibble = 1 }";
    let recipe = RECIPE.replace("teacher.path = \"embedded\"\nstudent.mixer = { kind = \"rwkv7\" }", config);
    std::fs::write(folder.path().join("r.toml"), recipe.replace("logit-kl", "next-token")).expect("writes");
    let output = recast(&["plan", text(&folder.path().join("r.toml"))], "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && error.contains("unknown key `scratch.config.wibble`"), "{error}");
}

#[test]
fn benchmarks_name_their_figures() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("r.toml"), RECIPE).expect("writes");
    let figures = |arguments: &[&str]| json_in(folder.path(), &[&["bench"], arguments].concat());
    let names = |figures: &Value| {
        let mut names: Vec<String> = figures.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names.join(" ")
    };
    let decode = figures(&["decode", "embedded", "--contexts", "4,8", "--steps", "2"]);
    assert_eq!(names(&decode), "decode model");
    let rows = decode["decode"].as_array().expect("a row a context");
    let contexts: Vec<&Value> = rows.iter().map(|row| &row["context"]).collect();
    assert_eq!(contexts, [4, 8]);
    for row in rows {
        let wanted = "context prefill_tokens_per_second seconds_per_token state_bytes steps tokens_per_second";
        assert_eq!((names(row).as_str(), &row["steps"]), (wanted, &json!(2)));
        assert!(row["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0), "{row}");
    }
    let step = figures(&["step", "--recipe", "r.toml", "--batch", "1", "--context", "16", "--repeats", "1"]);
    let wanted = "batch context cpu gradients loss optimizer parameters peak_bytes precision step threads tokens_per_second \
                  trainable what";
    assert_eq!(names(&step), wanted);
    assert_eq!((&step["what"], &step["batch"], &step["context"]), (&json!("distil of small"), &json!(1), &json!(16)));
    for part in ["step", "gradients", "optimizer"] {
        assert_eq!((names(&step[part]).as_str(), &step[part]["repeats"]), ("best median repeats", &json!(1)), "{part}");
    }
    assert!(step["loss"].as_f64().is_some_and(f64::is_finite), "{step}");
}

#[test]
fn serving_figures_outlive_a_model_that_cannot_be_used() {
    let model = model();
    // This one has no tokenizer.
    let without = golden();
    let arguments = ["bench", "serve", text(&without), text(model.path()), "--batches", "1", "--contexts", "4", "--tokens", "8"];
    let output = recast(&[&["--json"], &arguments[..]].concat(), "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("llama_gqa"), "{error}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("the figures");
    assert_eq!(told["serve"].as_array().map(Vec::len), Some(1));
    let output = recast(&["bench", "serve", text(&without)], "");
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "nothing was measured");
    for wrong in [["--tokens", "2"], ["--batches", "0"], ["--rival", "python3"]] {
        let output = recast(&[&["bench", "serve", text(model.path())], &wrong[..]].concat(), "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(wrong[0]), "{wrong:?}: {error}");
    }
}

#[test]
fn eval_scores_compares_and_remembers() {
    let model = model();
    let data = questions();
    let journal = data.path().join("journal.jsonl");
    let arguments = [
        "eval",
        text(model.path()),
        "--against",
        text(model.path()),
        "--tasks",
        "openbookqa",
        "--data",
        text(data.path()),
        "--limit",
        "5",
        "--journal",
        text(&journal),
    ];
    let first = json_of(&arguments, "");
    assert_eq!(first["results"], first["teacher"]);
    assert_eq!(first["results"][0]["items"], 5);
    assert_eq!(first["comparisons"].as_array().map(Vec::len), Some(1));
    assert_eq!(std::fs::read_to_string(&journal).expect("a journal").lines().count(), 5);
    let output = recast(&arguments, "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("5 items (5 answered), 0 requests, 0 tokens"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("against the teacher"));
    assert_eq!(json_of(&arguments, "")["results"], first["results"]);

    let samples = recast(&[&arguments[..], &["--samples", "4"]].concat(), "");
    assert!(String::from_utf8_lossy(&samples.stderr).contains("--samples is for models that denoise"));

    // Into a run's report, once.
    let run = tempfile::tempdir().expect("a folder");
    let into = [&arguments[..], &["--report", text(run.path())]].concat();
    let missing = recast(&into, "");
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("report.json"));
    std::fs::write(run.path().join("report.json"), json!({"title": "a run"}).to_string()).expect("writes");
    // Of the model that the run made, and of no other.
    let other = recast(&into, "");
    let error = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(2) && error.contains("--report: expected the run that made the model"), "{error}");
    std::fs::create_dir(run.path().join("model")).expect("makes it");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.path().join(name), run.path().join("model").join(name)).expect("copies");
    }
    #[cfg(target_os = "linux")]
    {
        let journal = into.iter().position(|word| *word == "--journal").expect("given");
        let full = on_a_full_disk(&[&["--json"], &into[..journal], &into[journal + 2..]].concat());
        assert_eq!(full.status.code(), Some(1), "{}", String::from_utf8_lossy(&full.stderr));
        let told: Value = serde_json::from_slice(&full.stdout).expect("the results");
        assert_eq!(told["results"][0]["items"], 5);
    }
    for _ in 0..2 {
        json_of(&into, "");
    }
    let report = std::fs::read_to_string(run.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((&report["title"], report["tasks"].as_array().map(Vec::len)), (&json!("a run"), Some(1)));
    assert!(report["tasks"][0]["conditions"].as_str().expect("a text").contains(text(model.path())), "whose scores they are");
    let page = std::fs::read_to_string(run.path().join("report.html")).expect("a page");
    assert!(page.contains("OpenBookQA"), "the task is on the page");

    let unknown = recast(&["eval", text(model.path()), "--tasks", "no_such", "--data", text(data.path())], "");
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("no_such"));
}
