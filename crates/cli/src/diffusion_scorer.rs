//! A masked diffusion model as the evaluation sees it: log-probabilities are bounds, estimated by
//! [`recast_models::likelihood`], texts are written by the sampler, and the card says how.

use crate::scorer::{ModelScorer, at_most_certain};
use recast_eval::{BoxError, Generated, ModelCard, Prompt, Request, Scored, Scorer, Task, tasks};
use recast_infer::samplers::denoising::{BLOCK, Canvas, Denoising, Filler, Masked, Rule};
use recast_models::Model;
use recast_models::likelihood::{self, Options};
use recast_text::Tokenizer;
use std::ops::ControlFlow;

/// How it is decided whether a last word is the model's first choice.
const LAST_WORDS: &str = "last words surest token first";
/// Texts written together.
const WRITERS: usize = 16;

/// A diffusion model and its tokenizer, ready to be evaluated.
pub struct DiffusionScorer<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    options: Options,
    card: ModelCard,
    /// How texts are scored; nothing of a model of uniform noise.
    scores: Option<String>,
    /// How they are written.
    texts: String,
}

impl<'a> DiffusionScorer<'a> {
    /// As [`ModelScorer::new`], with `samples` masks drawn for each text that is scored.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, name: &str, hash: &str, samples: usize) -> Self {
        let (block, uniform) = model.config.diffusion.as_ref().map_or((None, false), |d| (d.block, d.uniform));
        let texts = format!("texts one token a forward pass, blocks of {}, temperature 0", block.unwrap_or(BLOCK));
        let scores = |masks: &str| match block {
            // Nothing is scored with a model of uniform noise.
            _ if uniform => None,
            Some(1) => Some("exact likelihood, blocks of 1".to_owned()),
            _ => Some(format!("likelihood bound, exact-count form, {samples} {masks} an answer (1 of one token)")),
        };
        let whole = |scores: Option<String>| match scores {
            Some(scores) => format!("{scores}; {LAST_WORDS}; {texts}"),
            None => texts.clone(),
        };
        // Answers that are estimated otherwise are other answers. Journals know one mask by these words too.
        let hash = format!("{hash}\n{}", whole(scores("masks")));
        let scores = scores(if samples == 1 { "mask" } else { "masks" });
        let mut card = ModelScorer::new(model, tokenizer, name, &hash).describe().clone();
        card.estimate = Some(whole(scores.clone()));
        Self { model, tokenizer, options: Options { samples, ..Options::default() }, card, scores, texts }
    }

    /// As [`ModelScorer::with_room`].
    pub fn with_room(mut self, room: usize) -> Self {
        self.card.max_context = self.card.max_context.min(room);
        self
    }
}

impl Scorer for DiffusionScorer<'_> {
    fn describe(&self) -> &ModelCard {
        &self.card
    }

    fn estimate(&self, task: &Task) -> Option<String> {
        match task.prompt {
            tasks::Prompt::Generate { .. } => Some(self.texts.clone()),
            tasks::Prompt::LastWord { .. } => self.scores.as_ref().map(|scores| format!("{scores}; {LAST_WORDS}")),
            _ => self.scores.clone(),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, BoxError> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    fn loglikelihood(&mut self, requests: &[Request]) -> Result<Vec<Scored>, BoxError> {
        let mut out = Vec::with_capacity(requests.len());
        for (index, Request { context, continuation, greedy }) in requests.iter().enumerate() {
            if context.is_empty() || continuation.is_empty() {
                return Err(format!("request {index}: expected a context and a continuation, found an empty one").into());
            }
            let tokens: Vec<u32> = context.iter().chain(continuation.iter()).copied().collect();
            // The masks depend on the text alone, not on what else is asked.
            let found = likelihood::estimate(self.model, &tokens, context.len(), self.options)?;
            let each = at_most_certain((-found.nats / continuation.len() as f64) as f32);
            out.push(Scored {
                // Only their sum is known.
                logprobs: vec![each; continuation.len()],
                greedy: *greedy && likelihood::greedy(self.model, &tokens, context.len())?,
            });
        }
        Ok(out)
    }

    fn greedy_until(&mut self, prompts: &[Prompt]) -> Result<Vec<Generated>, BoxError> {
        let denoiser = Masked::new(self.model)?;
        let mut out = vec![None; prompts.len()];
        let mut rest: Vec<usize> = (0..prompts.len()).collect();
        while let Some(&first) = rest.first() {
            let Prompt { until, max_tokens, .. } = &prompts[first];
            // Rows of unequal length are no matter: none depends on the others.
            let like = |&i: &usize| (&prompts[i].until, &prompts[i].max_tokens) == (until, max_tokens);
            let (mut batch, others): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(like);
            rest = batch.split_off(batch.len().min(WRITERS));
            rest.extend(others);
            let filler = Filler::new(&denoiser, self.tokenizer, writing(), until.clone())?;
            let canvases: Vec<Canvas> = batch.iter().map(|&i| Canvas::after(&prompts[i].tokens, *max_tokens)).collect();
            let written = filler.fill_batch(&canvases, &mut |_, _| ControlFlow::Continue(()))?;
            for (&i, text) in batch.iter().zip(written) {
                out[i] = Some(Generated { tokens: text.tokens.len(), text: text.text });
            }
        }
        Ok(out.into_iter().map(|text| text.expect("every prompt is in one batch")).collect())
    }
}

/// How texts are written: the surest token a forward pass, as published scores are made (LLaDA,
/// arXiv 2502.09992, with blocks of the model or of [`BLOCK`]).
fn writing() -> Denoising {
    Denoising { rule: Rule::Threshold { at: 2.0 }, ..Denoising::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use recast_models::Diffusion;
    use std::path::Path;

    #[test]
    fn texts_are_written_alike_alone_and_together() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
        let tokenizer = crate::scorer::tests::tokenizer();
        for block in [None, Some(4)] {
            let mut model = Model::open(&path, &Device::flex()).expect("a golden model");
            let mask_token = model.config.vocabulary as u32 - 1;
            model.config.diffusion = Some(Diffusion { mask_token, block, shift: true, uniform: false });
            let mut scorer = DiffusionScorer::new(&model, &tokenizer, "m", "", 8);
            let prompt = |count: u32, max_tokens| {
                let tokens = (0..count).map(|i| (i * i * 7 + i * 13) % 50).collect();
                Prompt { tokens, until: vec!["Q".into()], max_tokens }
            };
            let prompts: Vec<Prompt> = (0..20).map(|i| prompt(1 + 3 * i, 8)).chain([prompt(9, 3)]).collect();
            let together = scorer.greedy_until(&prompts).expect("writes");
            for (prompt, found) in prompts.iter().zip(&together) {
                assert_eq!(found, &scorer.greedy_until(std::slice::from_ref(prompt)).expect("writes")[0]);
                assert!((1..=prompt.max_tokens).contains(&found.tokens), "{found:?}");
            }
            let mask = Prompt { tokens: vec![1, mask_token], ..prompt(1, 8) };
            assert!(scorer.greedy_until(&[mask]).expect_err("refused").to_string().contains("mask token"));
            assert!(scorer.describe().estimate.as_ref().is_some_and(|said| said.contains("one token a forward pass")));
        }
    }

    #[test]
    fn a_card_says_of_uniform_noise_how_it_writes_and_nothing_of_likelihoods() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
        let tokenizer = crate::scorer::tests::tokenizer();
        let mut model = Model::open(&path, &Device::flex()).expect("a golden model");
        for (block, uniform, said) in [
            (None, true, "texts one token a forward pass, blocks of 32, temperature 0"),
            (Some(1), true, "texts one token a forward pass, blocks of 1, temperature 0"),
            (Some(1), false, "exact likelihood, blocks of 1; last words surest token first; texts one token a forward pass"),
            (None, false, "likelihood bound, exact-count form, 8 masks an answer (1 of one token); last words surest token"),
        ] {
            model.config.diffusion = Some(Diffusion { mask_token: 95, block, shift: true, uniform });
            let scorer = DiffusionScorer::new(&model, &tokenizer, "m", "", 8).with_room(4);
            let card = scorer.describe();
            assert!(card.estimate.as_ref().is_some_and(|estimate| estimate.starts_with(said)), "{card:?}");
            assert_eq!(card.max_context, 4);
        }
    }

    #[test]
    fn a_task_says_what_it_does_and_one_mask_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/families/llama_gqa");
        let tokenizer = crate::scorer::tests::tokenizer();
        let mut model = Model::open(&path, &Device::flex()).expect("a golden model");
        let written = "texts one token a forward pass, blocks of 32, temperature 0";
        for (samples, masks) in [(1, "1 mask an answer"), (8, "8 masks an answer")] {
            model.config.diffusion = Some(Diffusion { mask_token: 95, block: None, shift: true, uniform: false });
            let scorer = DiffusionScorer::new(&model, &tokenizer, "m", "", samples);
            let of = |name: &str| scorer.estimate(&Task::builtin(name).expect("a task")).expect("is estimated");
            let scores = format!("likelihood bound, exact-count form, {masks} (1 of one token)");
            for name in ["perplexity", "mmlu", "blimp"] {
                assert_eq!(of(name), scores);
            }
            assert_eq!(of("lambada"), format!("{scores}; {LAST_WORDS}"));
            assert_eq!(of("xquad_en"), written);
            // All of it keeps journals apart, in words that stay.
            let said = format!("likelihood bound, exact-count form, {samples} masks an answer (1 of one token)");
            let hash = format!("\n{said}; last words surest token first; {written}");
            assert_eq!(scorer.describe().hash, ModelScorer::new(&model, &tokenizer, "m", &hash).describe().hash);
        }
        model.config.diffusion = Some(Diffusion { mask_token: 95, block: None, shift: true, uniform: true });
        let scorer = DiffusionScorer::new(&model, &tokenizer, "m", "", 8);
        assert_eq!(scorer.estimate(&Task::builtin("gsm8k").expect("a task")).as_deref(), Some(written));
    }
}
