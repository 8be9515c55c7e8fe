//! A run whose last stage reads longer windows than it is judged in, from outside: what its summary, its files and its page
//! say of them.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

const RECIPE: &str = r#"
name = "long"
teacher.path = "embedded"
student.mixer = "rwkv7"
[text]
train = ["text.txt"]
held_out_tokens = 300
[validation]
tokens = 160
context = 16
[[stages]]
name = "extend"
objective = "next-token"
tokens = 160
context = 80
batch = 1
learning_rate = 1e-4
"#;

/// What the binary prints when it is run in a folder.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    let output = command.current_dir(folder).arg("--no-progress").args(arguments).output().expect("runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn long_windows_are_told_in_every_place_and_only_where_a_stage_is_long() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let text = "The cat saw a small bird by the river.<|endoftext|>".repeat(600);
    std::fs::write(folder.join("text.txt"), text).expect("text");
    std::fs::write(folder.join("r.toml"), RECIPE).expect("recipe");
    let json =
        |place: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(place)).expect("reads")).expect("JSON") };
    let page = |run: &str| std::fs::read_to_string(folder.join(run).join("report.html")).expect("a page");
    let words = "held-out in windows of 80 tokens: next-token perplexity student ";

    let told = printed(folder, &["convert", "r.toml", "--out", "run"]);
    let line = told.lines().find(|line| line.starts_with(words)).unwrap_or_else(|| panic!("not told: {told}"));
    assert!(line.contains(" / teacher "), "{line}");
    let summary = json("run/summary.json");
    let long = &summary["held_out_long"];
    assert_eq!((long["context"].as_u64(), long["tokens"].as_u64()), (Some(80), Some(160)));
    let rows = json("run/report.json")["positions"]["rows"].as_array().cloned().expect("rows");
    let of = |key: &str| rows.iter().map(|row| row[key].as_u64()).collect::<Vec<_>>();
    assert_eq!((of("first"), of("last")), (vec![Some(0), Some(64)], vec![Some(63), Some(79)]));
    assert_eq!(rows[1]["student"], long["by_position"][1]["student"]);
    assert!(page("run").contains("<section id=\"positions\"") && page("run").contains("64–79"));
    let metrics = std::fs::read_to_string(folder.join("run/metrics.jsonl")).expect("metrics");
    let last: Value = serde_json::from_str(metrics.lines().last().expect("a line")).expect("JSON");
    assert_eq!(&last["held_out_long"], long);

    // Of a run that has ended, and of one from before there was such a measurement.
    let again: Value = serde_json::from_str(&printed(folder, &["--json", "convert", "--resume", "run"])).expect("JSON");
    assert_eq!(&again["held_out_long"], long);
    let mut older = summary.clone();
    older.as_object_mut().expect("an object").remove("held_out_long");
    std::fs::write(folder.join("run/summary.json"), older.to_string()).expect("writes");
    assert!(!printed(folder, &["convert", "--resume", "run"]).contains(words));

    let short = printed(folder, &["convert", "r.toml", "--out", "short", "--set", "validation.context=80"]);
    assert!(!short.contains("held-out in windows"), "{short}");
    assert_eq!(json("short/summary.json")["held_out_long"], Value::Null);
    assert!(!page("short").contains("id=\"positions\""));
}
