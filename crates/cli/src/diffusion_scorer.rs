//! A masked diffusion model as the evaluation sees it: log-probabilities are bounds, estimated by
//! [`recast_models::likelihood`], and the card says how.

use crate::scorer::ModelScorer;
use recast_eval::{BoxError, Generated, ModelCard, Prompt, Request, Scored, Scorer};
use recast_models::Model;
use recast_models::likelihood::{self, Options};
use recast_text::Tokenizer;

/// A diffusion model and its tokenizer, ready to be evaluated.
pub struct DiffusionScorer<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    options: Options,
    card: ModelCard,
}

impl<'a> DiffusionScorer<'a> {
    /// As [`ModelScorer::new`], with `samples` masks drawn for each text that is scored.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, name: &str, hash: &str, samples: usize) -> Self {
        let exact = model.config.diffusion.as_ref().is_some_and(|d| d.block == Some(1));
        let estimate = match exact {
            true => "exact likelihood, blocks of 1".to_owned(),
            false => format!("likelihood bound, exact-count form, {samples} masks an answer (1 of one token)"),
        };
        // Answers that are estimated otherwise are other answers.
        let hash = format!("{hash}\n{estimate}");
        let mut card = ModelScorer::new(model, tokenizer, name, &hash).describe().clone();
        card.estimate = Some(estimate);
        Self { model, tokenizer, options: Options { samples, ..Options::default() }, card }
    }
}

impl Scorer for DiffusionScorer<'_> {
    fn describe(&self) -> &ModelCard {
        &self.card
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, BoxError> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    fn loglikelihood(&mut self, requests: &[Request]) -> Result<Vec<Scored>, BoxError> {
        let mut out = Vec::with_capacity(requests.len());
        for (index, Request { context, continuation }) in requests.iter().enumerate() {
            if context.is_empty() || continuation.is_empty() {
                return Err(format!("request {index}: expected a context and a continuation, found an empty one").into());
            }
            let tokens: Vec<u32> = context.iter().chain(continuation.iter()).copied().collect();
            // The masks depend on the text alone, not on what else is asked.
            let found = likelihood::estimate(self.model, &tokens, context.len(), self.options)?;
            let each = (-found.nats / continuation.len() as f64).min(0.0) as f32;
            out.push(Scored {
                // Only their sum is known.
                logprobs: vec![each; continuation.len()],
                greedy: likelihood::greedy(self.model, &tokens, context.len(), self.options.budget)?,
            });
        }
        Ok(out)
    }

    fn greedy_until(&mut self, prompts: &[Prompt]) -> Result<Vec<Generated>, BoxError> {
        Err(format!(
            "{} prompts to write on: a diffusion model writes with a sampler, which `eval` does not run yet; \
             ask for tasks that score given answers",
            prompts.len()
        )
        .into())
    }
}
