//! A model whose every probability is known: it takes the successor of the last token with
//! probability 1/2 and spreads the other half evenly over the whole vocabulary.

use crate::error::BoxError;
use crate::scorer::{Generated, ModelCard, Prompt, Request, Scored, Scorer};

pub struct Toy {
    pub card: ModelCard,
    /// Words with a token of their own; ids from 257 on. All else is bytes.
    words: Vec<String>,
    /// Requests answered so far.
    pub asked: usize,
    /// Fail once this many requests were answered.
    pub breaks_after: usize,
}

impl Toy {
    pub const PREFIX: u32 = 256;

    pub fn bytes() -> Self {
        Self::with_words(&[])
    }

    pub fn with_words(words: &[&str]) -> Self {
        Self {
            card: ModelCard {
                name: "toy".into(),
                hash: "toy-1".into(),
                prefix_token: Self::PREFIX,
                add_bos: false,
                max_context: 4096,
                end_tokens: Vec::new(),
                estimate: None,
            },
            words: words.iter().map(|w| (*w).to_string()).collect(),
            asked: 0,
            breaks_after: usize::MAX,
        }
    }

    pub fn vocabulary(&self) -> usize {
        257 + self.words.len()
    }

    pub fn logprob(&self, last: u32, next: u32) -> f64 {
        let spread = 0.5 / self.vocabulary() as f64;
        if next == last + 1 { 0.5 + spread } else { spread }.ln()
    }
}

impl Scorer for Toy {
    fn describe(&self) -> &ModelCard {
        &self.card
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, BoxError> {
        let mut ids = Vec::new();
        let mut rest = text.as_bytes();
        while let Some(first) = rest.first() {
            match self.words.iter().position(|w| rest.starts_with(w.as_bytes())) {
                Some(word) => {
                    ids.push(257 + word as u32);
                    rest = &rest[self.words[word].len()..];
                }
                None => {
                    ids.push(u32::from(*first));
                    rest = &rest[1..];
                }
            }
        }
        Ok(ids)
    }

    fn loglikelihood(&mut self, requests: &[Request]) -> Result<Vec<Scored>, BoxError> {
        requests
            .iter()
            .map(|request| {
                if self.asked >= self.breaks_after {
                    return Err("power cut".into());
                }
                self.asked += 1;
                let mut last = *request.context.last().ok_or("empty context")?;
                let mut scored = Scored { logprobs: Vec::new(), greedy: true };
                for &next in request.continuation.iter() {
                    scored.logprobs.push(self.logprob(last, next) as f32);
                    scored.greedy &= next == last + 1;
                    last = next;
                }
                Ok(scored)
            })
            .collect()
    }

    fn greedy_until(&mut self, prompts: &[Prompt]) -> Result<Vec<Generated>, BoxError> {
        prompts
            .iter()
            .map(|prompt| {
                self.asked += 1;
                let last = *prompt.tokens.last().ok_or("empty prompt")?;
                let text: String =
                    (1..=prompt.max_tokens as u32).filter_map(|step| char::from_u32((last + step) % 128)).collect();
                Ok(Generated { text, tokens: prompt.max_tokens })
            })
            .collect()
    }
}
