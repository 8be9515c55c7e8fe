//! Text that each model of a run writes: the quickest way to see what a stage did.

use recast_infer::{Generator, Options, Sampling};
use recast_models::Model;
use recast_text::Tokenizer;
use recast_train::TrainError;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// Continuations by one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// `teacher`, `before`, or a stage's name.
    pub name: String,
    /// Prompt and continuation.
    pub texts: Vec<(String, String)>,
}

const FILE: &str = "samples.json";

/// Greedy continuations of the prompts.
pub fn write(name: &str, model: &Model, tokenizer: &Tokenizer, prompts: &[String], tokens: usize) -> Result<Written, TrainError> {
    let sampling = Sampling { temperature: 0.0, ..Default::default() };
    let options = Options { sampling, max_tokens: tokens, ..Default::default() };
    let failed = |e: recast_infer::InferError| TrainError::Recipe(format!("samples: {e}"));
    let generator = Generator::new(model, tokenizer, options).map_err(failed)?;
    let mut texts = Vec::new();
    for prompt in prompts {
        let ids = tokenizer.encode(prompt, true)?;
        let written = generator.generate(&ids, &mut |_| ControlFlow::Continue(())).map_err(failed)?;
        texts.push((prompt.clone(), written.text));
    }
    Ok(Written { name: name.into(), texts })
}

/// What an interrupted run has written so far.
pub fn read(folder: &Path) -> Vec<Written> {
    std::fs::read(folder.join(FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Keeps the texts in the run's folder.
pub fn store(folder: &Path, samples: &[Written]) -> Result<(), TrainError> {
    let path = folder.join(FILE);
    let temporary = folder.join("samples.tmp");
    let bytes = serde_json::to_vec_pretty(samples).unwrap_or_default();
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| TrainError::Io { path, source })
}
