//! `recast bench decode`: one sequence, one token at a time.

use crate::arguments::Quantize;
use crate::{Global, output};
use recast_eval::table::{Align, Table};
use recast_infer::speed::decode_speed;
use recast_models::{Model, families, weights};
use std::path::PathBuf;

/// Arguments of `recast bench decode`.
#[derive(clap::Args)]
pub struct Args {
    /// Hugging Face folder or GGUF file; one that denoises whole sequences is measured by `bench denoise`.
    model: PathBuf,
    #[command(flatten)]
    quantize: Quantize,
    /// Context lengths, rising.
    #[arg(long, value_delimiter = ',', default_value = "512,1024,4096,16384")]
    contexts: Vec<usize>,
    /// Steps to time at each.
    #[arg(long, default_value_t = 64)]
    steps: usize,
}

/// Times steps and prints. A model with blocks is measured as the next-token model that its weights are too.
pub fn run(args: &Args, global: &Global) -> anyhow::Result<()> {
    let device = global.device()?;
    let checkpoint = weights::open(&crate::embedded::resolve(&args.model)?)?;
    if families::read(checkpoint.as_ref())?.diffusion.is_some_and(|diffusion| diffusion.block.is_none()) {
        let expected = "a model that writes token by token; `recast bench denoise` measures those that denoise whole sequences";
        return Err(output::wrong("MODEL", expected, args.model.display().to_string()).into());
    }
    let model = Model::load(checkpoint.as_ref(), args.quantize.weights(&device), &device)?;
    let speeds = decode_speed(&model, &args.contexts, args.steps)?;
    if global.json {
        return output::json(&serde_json::json!({ "model": args.model, "decode": speeds }));
    }
    let columns = ["context", "state", "tokens/s", "reading, tokens/s"].map(|name| (name, Align::Right));
    let mut table = Table::new(&columns);
    for speed in &speeds {
        table.row([
            speed.context.to_string(),
            crate::run::bytes(speed.state_bytes),
            format!("{:.1}", speed.tokens_per_second),
            format!("{:.0}", speed.prefill_tokens_per_second),
        ]);
    }
    output::print(table.plain())
}
