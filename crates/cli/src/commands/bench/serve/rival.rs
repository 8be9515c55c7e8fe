//! llama.cpp at the same work, where `llama-cpp-python` is installed.

use super::{Args, Row, name};
use anyhow::Context;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = include_str!("../../../../../../benches/rivals/llama_serve.py");

#[derive(serde::Deserialize)]
struct Answer {
    serve: Vec<Measured>,
}

#[derive(serde::Deserialize)]
struct Measured {
    context: usize,
    batch: usize,
    tokens_per_second: Option<f64>,
    state_bytes: usize,
    fit_in_16_gib: usize,
}

/// Refuses a Python that does not start or has no llama.cpp, before anything is measured.
pub(super) fn check(python: &Path) -> anyhow::Result<()> {
    let output = Command::new(python)
        .args(["-c", "import llama_cpp"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("--rival: starting {}", python.display()))?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "--rival: {} has no llama.cpp (`pip install llama-cpp-python` brings it): {}",
        python.display(),
        words.trim().lines().last().unwrap_or("no reason given")
    );
    Ok(())
}

/// The same contexts and batches of one GGUF file. Errors tell what to install.
pub(super) fn run(python: &Path, model: &Path, args: &Args, threads: usize) -> anyhow::Result<Vec<Row>> {
    let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut child = Command::new(python)
        .arg("-")
        .arg(model)
        .args(["--contexts", &list(&args.contexts), "--batches", &list(&args.batches)])
        .args(["--tokens", &args.tokens.to_string(), "--threads", &threads.to_string()])
        .args(["--state-gib", &args.state_gib.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("--rival: starting {}", python.display()))?;
    // One that ends at once does not read; its words say why.
    let given = child.stdin.take().map(|mut stdin| stdin.write_all(PROGRAM.as_bytes()));
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "--rival: {} cannot run llama.cpp on {} (`pip install llama-cpp-python` brings it): {}",
        python.display(),
        model.display(),
        words.trim().lines().last().unwrap_or("no reason given")
    );
    given.transpose()?;
    let answer: Answer = serde_json::from_slice(&output.stdout).context("--rival: the answer of llama.cpp's program")?;
    let row = |m: Measured| Row {
        model: format!("llama.cpp {}", name(model)),
        context: m.context,
        batch: m.batch,
        tokens_per_second: m.tokens_per_second,
        state_bytes: m.state_bytes,
        fit_in_16_gib: m.fit_in_16_gib,
    };
    Ok(answer.serve.into_iter().map(row).collect())
}
