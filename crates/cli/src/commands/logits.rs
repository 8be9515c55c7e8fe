//! `recast logits`: what a model computes, in a file that other programs can compare with.

use crate::Global;
use anyhow::Context;
use recast_infer::{Loaded, open};
use recast_models::Model;
use recast_models::param::values;
use recast_models::weights::{Dtype, NamedTensor, write_safetensors};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `recast logits`.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["text", "ids"])))]
pub struct Args {
    /// Hugging Face folder or GGUF file.
    model: PathBuf,
    /// Text to run, tokenised as the model's tokenizer does it by itself.
    #[arg(long)]
    text: Option<String>,
    /// Token ids to run, as they are.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,...")]
    ids: Option<Vec<u32>>,
    /// File to write: one tensor `logits` [tokens, vocabulary] of f32.
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

#[derive(serde::Serialize)]
struct Result {
    out: PathBuf,
    ids: Vec<u32>,
    vocabulary: usize,
}

/// Runs the verb.
///
/// # Errors
/// When the model cannot be used, there is no token, or the file cannot be written.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    // Before a large model is read.
    crate::output::check_file("--out", &args.out)?;
    let device = global.device()?;
    let path = crate::embedded::resolve(&args.model)?;
    let (model, ids) = match (&args.text, &args.ids) {
        (Some(text), _) => {
            let Loaded { model, tokenizer, .. } = open(&path, &device)?;
            let ids = tokenizer.encode(text, true)?;
            (model, ids)
        }
        // Ids need no tokenizer.
        (None, Some(ids)) => (Model::open(&path, &device)?, ids.clone()),
        (None, None) => anyhow::bail!("expected --text or --ids"),
    };
    if ids.is_empty() {
        return Err(crate::output::wrong("--text or --ids", "at least one token", "none").into());
    }
    let logits = values(model.logits(model.hidden(&ids, 1, None, None)?));
    let vocabulary = model.config.vocabulary;
    let tensor = NamedTensor::f32("logits", &[ids.len(), vocabulary], Dtype::F32, logits);
    write_safetensors(&args.out, vec![tensor], &BTreeMap::new())
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let result = Result { out: args.out.clone(), ids, vocabulary };
    if global.json {
        return crate::output::json(&result);
    }
    crate::output::print(format_args!("{}: {} tokens x {vocabulary} logits", result.out.display(), result.ids.len()))
}
