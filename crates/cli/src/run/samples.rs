//! Text that each model of a run writes: the quickest way to see what a stage did.

use crate::output::tell;
use recast_infer::samplers::denoising::{Canvas, Denoising, Filler, Masked};
use recast_infer::{Generator, Options, Sampling};
use recast_models::Model;
use recast_text::{Tokenizer, files};
use recast_train::trainer::TEACHER;
use recast_train::{TrainError, Trainer};
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
    /// Tokens asked for; 0 in files older than this entry.
    #[serde(default)]
    pub tokens: usize,
}

const FILE: &str = "samples.json";

/// Greedy continuations of the prompts; by a model that denoises, as `recast generate` writes without options.
pub fn write(name: &str, model: &Model, tokenizer: &Tokenizer, prompts: &[String], tokens: usize) -> Result<Written, TrainError> {
    let failed = |e: recast_infer::InferError| TrainError::Recipe(format!("samples: {e}"));
    let encoded = prompts.iter().map(|prompt| Ok(tokenizer.encode(prompt, true)?));
    let encoded: Vec<_> = encoded.collect::<Result<_, TrainError>>()?;
    let texts: Vec<String> = if model.config.diffusion.is_some() {
        let masked = Masked::new(model).map_err(failed)?;
        let filler = Filler::new(&masked, tokenizer, Denoising::default(), Vec::new()).map_err(failed)?;
        let canvases: Vec<Canvas> = encoded.iter().map(|ids| Canvas::after(ids, tokens)).collect();
        let written = canvases.iter().map(|canvas| Ok(filler.fill(canvas, &mut |_| ControlFlow::Continue(()))?.text));
        written.collect::<Result<_, _>>().map_err(failed)?
    } else {
        let sampling = Sampling { temperature: 0.0, ..Default::default() };
        let options = Options { sampling, max_tokens: tokens, ..Default::default() };
        let generator = Generator::new(model, tokenizer, options).map_err(failed)?;
        let written = encoded.iter().map(|ids| Ok(generator.generate(ids, &mut |_| ControlFlow::Continue(()))?.text));
        written.collect::<Result<_, _>>().map_err(failed)?
    };
    Ok(Written { name: name.into(), texts: prompts.iter().cloned().zip(texts).collect(), tokens })
}

/// The texts of a run that has ended, as its recipe asks for them. Those that other prompts began, or of another length,
/// are written anew by the teacher and the finished student; other models are gone, and so are their texts.
pub fn renewed(trainer: &Trainer, written: &[Written], stop: bool) -> Result<Vec<Written>, TrainError> {
    let asked = &trainer.recipe.samples;
    let as_asked = |of: &Written| [0, asked.tokens].contains(&of.tokens) && of.texts.iter().map(|(p, _)| p).eq(&asked.prompts);
    let finished = trainer.position.held_out.last().map(|(name, _)| name.as_str());
    let mut anew = false;
    let mut all = Vec::new();
    for (name, _) in &trainer.position.held_out {
        if let Some(kept) = written.iter().find(|of| of.name == *name && as_asked(of)) {
            all.push(kept.clone());
            continue;
        }
        let model = match &trainer.teacher {
            Some(teacher) if name == TEACHER => Some(&teacher.model),
            _ => Some(&trainer.student).filter(|_| finished == Some(name.as_str())),
        };
        if let Some(model) = model.filter(|_| !stop) {
            if !anew && !asked.prompts.is_empty() {
                tell("writing samples");
            }
            anew = true;
            all.push(write(name, model, &trainer.tokenizer, &asked.prompts, asked.tokens)?);
        }
    }
    if anew {
        store(&trainer.folder, &all)?;
    }
    Ok(all)
}

/// What an interrupted run has written so far.
pub fn read(folder: &Path) -> Vec<Written> {
    std::fs::read(folder.join(FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Keeps the texts in the run's folder.
pub fn store(folder: &Path, samples: &[Written]) -> Result<(), TrainError> {
    let path = folder.join(FILE);
    let bytes = serde_json::to_vec_pretty(samples).unwrap_or_default();
    files::replace(&path, &bytes).map_err(|source| TrainError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use recast_models::Diffusion;

    #[test]
    fn models_of_either_noise_write() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
        let mut model = Model::open(&golden, &Device::flex()).expect("a golden model");
        let (tokenizer, prompts) = (crate::scorer::tests::tokenizer(), ["Once".to_owned()]);
        for uniform in [false, true] {
            model.config.diffusion = Some(Diffusion { mask_token: 95, block: Some(4), shift: true, uniform });
            let written = write("distil", &model, &tokenizer, &prompts, 4).expect("samples");
            assert_eq!((written.name.as_str(), written.texts.len()), ("distil", 1));
            assert!(!written.texts[0].1.is_empty());
        }
    }
}
