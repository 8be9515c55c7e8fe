//! A run that is asked to stop: by one signal after the step under way or, where no step is lost, at once; by two at once.
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
        let mut run = Self::start(folder, arguments);
        run.wait_for("align: 100000 steps");
        run
    }

    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_recast"));
        command.current_dir(folder).args(["--no-progress", "convert"]).args(arguments);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let log = BufReader::new(process.stderr.take().expect("piped"));
        Self { process, log, said: String::new() }
    }

    fn wait_for(&mut self, words: &str) {
        while !self.said.contains(words) {
            assert!(self.log.read_line(&mut self.said).expect("a line") > 0, "it ended before it said {words}: {}", self.said);
        }
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

    let (code, said) =
        Run::begin(folder.path(), &["--resume", "run"]).end(&[libc::SIGSTOP, libc::SIGINT, libc::SIGTERM, libc::SIGCONT]);
    // Stopped in between, so that no step ends before both are there. The system hands over two at once in an order of its own.
    assert!(matches!(code, Some(130 | 143)), "{code:?}: {said}");
    assert!(!said.contains("stopped at"), "{said}");
    assert!(saved(second).is_dir(), "the checkpoint is gone: {said}");
}

#[test]
fn before_the_first_step_one_signal_ends_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("text.txt"), "The cat saw a small bird by the river. ".repeat(9000)).expect("text");
    std::fs::write(folder.path().join("recipe.toml"), RECIPE).expect("recipe");
    // A measurement that takes long enough to be met.
    let long = ["--set", "text.held_out_tokens=50000", "--set", "validation.tokens=50000"];
    let mut run = Run::start(folder.path(), &[&["recipe.toml", "--out", "run"], &long[..]].concat());
    run.wait_for(" tokens to train on, ");
    let (code, said) = run.end(&[libc::SIGTERM]);
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("no step is lost") && !said.contains("held-out perplexity"), "{said}");
    std::fs::remove_file(folder.path().join("run/run.json")).expect("removes it");
    let (code, said) = Run::begin(folder.path(), &["--resume", "run", "--set", "validation.tokens=128"]).end(&[libc::SIGINT]);
    assert_eq!(code, Some(1), "it can be gone on with: {said}");
    assert!(said.contains("run.json: not there"), "{said}");
}

#[test]
fn a_run_that_waits_for_its_files_is_ended_by_one_signal() {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let (assets, teacher) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny/model"), folder.path().join("teacher"));
    std::fs::create_dir(&teacher).expect("folder");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(assets.join(name), teacher.join(name)).expect("copies");
    }
    // Stands for a disk that hangs.
    let pipe = teacher.join("tokenizer.json");
    let name = std::ffi::CString::new(pipe.as_os_str().as_encoded_bytes()).expect("no zero byte");
    // SAFETY: the name ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    std::fs::write(folder.path().join("text.txt"), "The cat saw a small bird by the river. ".repeat(600)).expect("text");
    std::fs::write(folder.path().join("recipe.toml"), RECIPE.replace("\"embedded\"", "\"teacher\"")).expect("recipe");
    let mut run = Run::start(folder.path(), &["recipe.toml", "--out", "run"]);
    // It can be opened so once somebody reads from it, and nothing is ever written to it.
    let writer = loop {
        match std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe) {
            Ok(writer) => break writer,
            Err(_) => assert!(run.process.try_wait().expect("a child").is_none(), "it ended before it read"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let (code, said) = run.end(&[libc::SIGINT]);
    drop(writer);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("ending before the run begins"), "{said}");
    assert!(!folder.path().join("run/recipe.toml").exists(), "{said}");
}
