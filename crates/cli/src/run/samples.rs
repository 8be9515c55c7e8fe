//! Text that each model of a run writes: the quickest way to see what a stage did.

use recast_models::Model;
use recast_models::param::values;
use recast_text::Tokenizer;
use recast_train::TrainError;
use serde::{Deserialize, Serialize};
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
    let mut texts = Vec::new();
    for prompt in prompts {
        let mut state = model.new_state();
        let mut next = tokenizer.encode(prompt, true)?;
        if next.is_empty() {
            continue;
        }
        let mut written = Vec::new();
        while written.len() < tokens {
            let hidden = model.hidden(&next, 1, Some(&mut state), None)?;
            let last = hidden.dims()[1] - 1;
            let logits = values(model.logits(hidden.narrow(1, last, 1)));
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap_or(0) as u32;
            if tokenizer.eos_ids().contains(&best) {
                break;
            }
            written.push(best);
            next = vec![best];
        }
        texts.push((prompt.clone(), tokenizer.decode(&written, true)));
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
