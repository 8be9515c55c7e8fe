//! A run that is killed again and again ends with the bits of an undisturbed one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
name = "killed"
seed = 3
[teacher]
path = "embedded"
[student]
mixer = { kind = "rwkv7" }
[text]
train = ["text.txt"]
held_out_tokens = 300
[validation]
tokens = 128
context = 64
[checkpoints]
every_steps = 2
[[stages]]
name = "align"
objective = "output-alignment"
train = ["self_attn"]
tokens = 1536
context = 64
batch = 2
learning_rate = 1e-3
final_learning_rate = 1e-4
[[stages]]
name = "distil"
objective = "logit-kl"
tokens = 1536
context = 64
batch = 2
micro_batch = 1
learning_rate = 1e-3
[[stages]]
name = "extend"
objective = "next-token"
tokens = 1536
context = 128
batch = 1
learning_rate = 1e-4
reset_documents = true
"#;

fn recast(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
    command.current_dir(folder).args(["--threads", "2", "--no-progress"]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn prepare(folder: &Path) {
    let words = ["the", "cat", "saw", "a", "small", "bird", "by", "the", "river", "and", "went", "home"];
    let mut text = String::new();
    for i in 0..3000usize {
        text.push_str(words[(i * i + i / 7) % words.len()]);
        text.push(if i % 11 == 10 { '.' } else { ' ' });
        if i % 200 == 199 {
            text.push_str("<|endoftext|>");
        }
    }
    std::fs::write(folder.join("text.txt"), text).expect("text");
    std::fs::write(folder.join("recipe.toml"), RECIPE).expect("recipe");
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("model/model.safetensors")).expect("a finished run has a model")
}

#[test]
fn twenty_kills_change_no_bit() {
    let folder = tempfile::tempdir().expect("folder");
    prepare(folder.path());
    let began = Instant::now();
    let output =
        recast(folder.path()).args(["convert", "recipe.toml", "--out", "whole"]).stderr(Stdio::piped()).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = began.elapsed();

    let run: PathBuf = folder.path().join("killed");
    let mut kills = 0;
    let mut attempts = 0u64;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    loop {
        attempts += 1;
        assert!(attempts < 400, "{kills} kills in {attempts} attempts");
        let mut command = recast(folder.path());
        if run.join("recipe.toml").exists() {
            command.args(["convert", "--resume", "killed"]);
        } else {
            let _ = std::fs::remove_dir_all(&run);
            command.args(["convert", "recipe.toml", "--out", "killed"]);
        }
        let mut child = command.spawn().expect("starts");
        // Anywhere within the time an undisturbed run takes, so that every phase is hit: loading,
        // steps, checkpoints, the end. After twenty kills it may finish.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = whole.mul_f64(0.05 + 0.9 * ((seed >> 33) as f64 / (1u64 << 31) as f64));
        let until = Instant::now() + after;
        let finished = loop {
            if let Some(status) = child.try_wait().expect("waits") {
                break Some(status);
            }
            if kills < 20 && Instant::now() >= until {
                child.kill().expect("SIGKILL");
                child.wait().expect("reaped");
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        match finished {
            None => kills += 1,
            Some(status) => {
                assert!(status.success(), "a resumed run failed after {kills} kills");
                if kills >= 20 {
                    break;
                }
                // Finished too early: the same again from the start.
                assert_eq!(weights(&run), weights(&folder.path().join("whole")), "after {kills} kills");
                std::fs::remove_dir_all(&run).expect("removed");
            }
        }
    }
    assert_eq!(weights(&run), weights(&folder.path().join("whole")), "after {kills} kills");
    let lines = |run: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
        let value = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("json") };
        // Everything but the clock.
        text.lines()
            .map(|l| {
                let mut v = value(l);
                v["tokens_per_second"] = 0.into();
                v.to_string()
            })
            .collect()
    };
    assert_eq!(lines(&run), lines(&folder.path().join("whole")), "metrics go on where the checkpoint was");
}
