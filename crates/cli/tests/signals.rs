//! A run that is asked to stop: by one signal after the step under way, by two at once.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

/// Of more steps than anybody waits for.
const RECIPE: &str = r#"
name = "interrupted"
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
[[stages]]
name = "align"
objective = "output-alignment"
train = ["self_attn"]
tokens = 12_800_000
context = 64
batch = 2
learning_rate = 1e-4
"#;

struct Run {
    process: Child,
    log: BufReader<ChildStderr>,
    said: String,
}

/// No test that fails leaves it behind.
impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Run {
    /// Starts it and waits for its stage to begin.
    fn begin(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
        command.current_dir(folder).args(["--no-progress", "convert"]).args(arguments);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let mut run = Self { process, log, said: String::new() };
        while !run.said.contains("align: 100000 steps") {
            assert!(run.log.read_line(&mut run.said).expect("a line") > 0, "it ended before it began: {}", run.said);
        }
        run
    }

    /// Sends it signals; its exit code and all that it said.
    fn end(mut self, signals: &[i32]) -> (Option<i32>, String) {
        for &signal in signals {
            // SAFETY: the process is a child of ours that was not waited for.
            assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
        }
        self.log.read_to_string(&mut self.said).expect("UTF-8");
        (self.process.wait().expect("ends").code(), std::mem::take(&mut self.said))
    }
}

/// The steps that were done when it stopped.
fn steps(said: &str) -> u64 {
    let count = said.split_once("stopped at stage `align`, step ").and_then(|(_, rest)| rest.split_once(';'));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("it does not say where it stopped: {said}"))
}

#[test]
fn a_signal_saves_and_a_second_one_ends_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("text.txt"), "The cat saw a small bird by the river. ".repeat(600)).expect("text");
    std::fs::write(folder.path().join("recipe.toml"), RECIPE).expect("recipe");

    let (code, said) = Run::begin(folder.path(), &["recipe.toml", "--out", "run"]).end(&[libc::SIGINT]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stopping after this step") && said.contains("convert --resume run"), "{said}");
    assert!(said.contains(" tokens to train on, ") && said.contains(" held out"), "{said}");
    let first = steps(&said);
    let saved = |step: u64| folder.path().join(format!("run/checkpoints/00-{step:08}"));
    assert!(first >= 1 && saved(first).is_dir(), "{said}");
    assert!(!folder.path().join("run/model").exists(), "what was stopped is no result");

    let (code, said) = Run::begin(folder.path(), &["--resume", "run"]).end(&[libc::SIGTERM]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("going on at stage align, step {first}")), "{said}");
    let second = steps(&said);
    assert!(second > first && saved(second).is_dir(), "{said}");

    let (code, said) = Run::begin(folder.path(), &["--resume", "run"]).end(&[libc::SIGINT, libc::SIGTERM]);
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("stopped at"), "{said}");
    assert!(saved(second).is_dir(), "the checkpoint is gone: {said}");
}
