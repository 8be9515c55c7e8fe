//! Options that several verbs share.

use burn::tensor::Device;
use recast_infer::{InferError, Loaded, Sampling, open_with};
use recast_models::Weights;
use std::path::Path;

/// How a model's matrices are held in memory.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Quantize {
    /// How matrices are held: q8_0, q4_0 or q4_1 (rounded on load), as-stored (quantised where a
    /// GGUF file is), or f32. Without it: as-stored on the processor, f32 on a GPU.
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<Weights>,
}

impl Quantize {
    /// What was asked for, or what suits the device.
    pub fn weights(self, device: &Device) -> Weights {
        let usual = || if recast_ops::quantised::on_processor(device) { Weights::AsStored } else { Weights::F32 };
        self.quantize.unwrap_or_else(usual)
    }

    /// Opens a model so, with its tokenizer.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(self, path: &Path, device: &Device) -> Result<Loaded, InferError> {
        open_with(path, self.weights(device), device)
    }
}

/// How tokens are drawn.
#[derive(clap::Args, Clone, Debug)]
pub struct SamplingArgs {
    /// Divides the logits; 0 always takes the most likely token. Default: 0.7; of models that denoise 0.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from the K most likely tokens only.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the fewest most likely tokens that together reach probability P.
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Draw from the tokens at least P times as likely as the most likely one.
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Makes tokens that already occurred less likely; 1 does nothing.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repetition_penalty: f32,
    /// Takes this from a token's logit for each time it was written.
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Takes this from a token's logit once it was written.
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Same seed, same text. Behind what it wrote itself, as in a chat or from a saved state, a quantised model goes on
    /// a little otherwise than behind the same text read.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

impl SamplingArgs {
    /// The checked settings.
    ///
    /// # Errors
    /// When one is out of range.
    pub fn sampling(&self) -> Result<Sampling, InferError> {
        self.sampling_with(0.7)
    }

    /// The first option given that only next-token models have.
    pub fn given_for_next_token(&self) -> Option<&'static str> {
        let all = [
            ("--top-k", self.top_k.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--repetition-penalty", self.repetition_penalty != 1.0),
            ("--frequency-penalty", self.frequency_penalty != 0.0),
            ("--presence-penalty", self.presence_penalty != 0.0),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// The checked settings, with another temperature where none is given.
    ///
    /// # Errors
    /// When one is out of range.
    pub fn sampling_with(&self, temperature: f32) -> Result<Sampling, InferError> {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            seed: self.seed,
            ..Sampling::default()
        };
        sampling.check()?;
        Ok(sampling)
    }
}
