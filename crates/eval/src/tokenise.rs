//! From text to requests: where a context ends, and how a long document is cut into windows.

use std::sync::Arc;

use crate::error::{BoxError, EvalError, Result};
use crate::scorer::{ModelCard, Request, Scored, Scorer};

/// A request and whether its context had to be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The request, within the model's context.
    pub request: Request,
    /// Context tokens dropped at the left.
    pub dropped: usize,
}

/// Tokenises a context and its continuation as lm-evaluation-harness does (`_encode_pair`):
/// white space at the end of the context moves to the continuation, then
/// `encode(context + continuation)` minus the first `encode(context).len()` tokens is what is
/// scored. An empty context becomes the card's prefix token; others get it in front only if the
/// card says so. A context that does not fit is cut at the left.
///
/// Where the tokenizer merges the whole continuation into the context's last token, that token
/// is scored, so that there is always something to score.
///
/// # Errors
/// The tokenizer's; a continuation of no tokens; one longer than the model's context.
pub fn encode_pair(scorer: &dyn Scorer, context: &str, continuation: &str) -> Result<Fitted> {
    let card = scorer.describe();
    let kept = context.trim_end();
    if kept.len() == context.len() && continuation.is_empty() {
        return Err(EvalError::Setting(format!(
            "expected a continuation, found none after {:?}; check the task's templates",
            tail(kept)
        )));
    }
    let whole = format!("{context}{continuation}");
    let (mut before, scored) = if kept.is_empty() {
        (vec![card.prefix_token], encode(scorer, &whole)?)
    } else {
        let mut whole = encode(scorer, &whole)?;
        let mut before = encode(scorer, kept)?;
        let split = before.len().min(whole.len().saturating_sub(1));
        let scored = whole.split_off(split);
        before.truncate(split);
        if card.add_bos || before.is_empty() {
            before.insert(0, card.prefix_token);
        }
        (before, scored)
    };
    if scored.is_empty() {
        return Err(EvalError::Setting(format!(
            "the tokenizer of `{}` makes no token of {:?}",
            card.name,
            tail(&format!("{context}{continuation}"))
        )));
    }
    let room = (card.max_context + 1).saturating_sub(scored.len());
    if room == 0 {
        return Err(EvalError::Setting(format!(
            "a continuation of {} tokens does not fit the {} tokens that `{}` may read",
            scored.len(),
            card.max_context,
            card.name
        )));
    }
    let dropped = before.len().saturating_sub(room);
    if dropped > 0 {
        before.drain(..dropped);
    }
    Ok(Fitted { request: Request { context: before.into(), continuation: scored.into(), greedy: false }, dropped })
}

/// How a document longer than the model's context is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Input tokens of a full window.
    pub context: usize,
    /// New tokens each window after the first scores; the rest of it is context only.
    /// `stride == context` gives disjoint windows (one token of overlap, as in
    /// lm-evaluation-harness), smaller strides give every token more to look back on.
    pub stride: usize,
}

impl Window {
    /// Checks the two numbers against each other and the model.
    ///
    /// # Errors
    /// Where `1 <= stride <= context <= max_context` does not hold.
    pub fn check(self, card: &ModelCard) -> Result<Self> {
        if self.stride == 0 || self.stride > self.context {
            return Err(EvalError::Setting(format!(
                "expected a stride from 1 to the context of {}, found {}",
                self.context, self.stride
            )));
        }
        if self.context > card.max_context {
            return Err(EvalError::Setting(format!(
                "windows of {} tokens do not fit `{}`, which reads {}; give a smaller --context, the same for every model compared",
                self.context, card.name, card.max_context
            )));
        }
        Ok(self)
    }

    /// Cuts `tokens` into requests that score every token exactly once, in order. The first token
    /// is scored after `prefix`.
    #[must_use]
    pub fn requests(self, prefix: u32, tokens: &[u32]) -> Vec<Request> {
        let mut sequence = Vec::with_capacity(tokens.len() + 1);
        sequence.push(prefix);
        sequence.extend_from_slice(tokens);
        let mut requests = Vec::new();
        let mut begin = 0;
        while begin < tokens.len() {
            let step = if begin == 0 { self.context } else { self.stride };
            let end = tokens.len().min(begin + step);
            // Token i sits at sequence[i + 1]; the last one scored is never an input.
            let first = end.saturating_sub(self.context);
            requests.push(Request {
                context: Arc::from(&sequence[first..=begin]),
                continuation: Arc::from(&tokens[begin..end]),
                greedy: false,
            });
            begin = end;
        }
        requests
    }
}

/// Asks the model and holds the answer to the contract of [`Scorer::loglikelihood`].
///
/// # Errors
/// The model's, or a broken contract.
pub fn loglikelihood(scorer: &mut dyn Scorer, requests: &[Request]) -> Result<Vec<Scored>> {
    let scored = scorer.loglikelihood(requests).map_err(|source| model_error(scorer.describe(), "scoring", source))?;
    let broken = |expected: String, found: String| EvalError::Contract { model: scorer.describe().name.clone(), expected, found };
    if scored.len() != requests.len() {
        return Err(broken(format!("{} answers", requests.len()), scored.len().to_string()));
    }
    for (request, answer) in requests.iter().zip(&scored) {
        if answer.logprobs.len() != request.continuation.len() {
            return Err(broken(format!("{} log-probabilities", request.continuation.len()), answer.logprobs.len().to_string()));
        }
        // A little above zero is rounding; far above, infinite or NaN is a broken model.
        if let Some(bad) = answer.logprobs.iter().find(|p| !p.is_finite() || **p > 1e-3) {
            return Err(broken("finite log-probabilities not above 0".into(), bad.to_string()));
        }
    }
    Ok(scored)
}

pub(crate) fn encode(scorer: &dyn Scorer, text: &str) -> Result<Vec<u32>> {
    scorer.encode(text).map_err(|source| model_error(scorer.describe(), "tokenising", source))
}

pub(crate) fn model_error(card: &ModelCard, action: &'static str, source: BoxError) -> EvalError {
    EvalError::Model { model: card.name.clone(), action, source }
}

fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(40);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;
    use proptest::prelude::*;

    fn pair(toy: &Toy, context: &str, continuation: &str) -> (Vec<u32>, Vec<u32>) {
        let fitted = encode_pair(toy, context, continuation).unwrap();
        (fitted.request.context.to_vec(), fitted.request.continuation.to_vec())
    }

    #[test]
    fn trailing_space_moves_to_the_continuation() {
        let toy = Toy::with_words(&[" the"]);
        let the = toy.encode(" the").unwrap();
        assert_eq!(the.len(), 1);
        let expected = (toy.encode("in").unwrap(), the);
        assert_eq!(pair(&toy, "in", " the"), expected);
        assert_eq!(pair(&toy, "in ", "the"), expected);
    }

    #[test]
    fn empty_context_is_the_prefix_token_and_bos_is_the_models_say() {
        let mut toy = Toy::bytes();
        assert_eq!(pair(&toy, "", "a"), (vec![Toy::PREFIX], vec![97]));
        assert_eq!(pair(&toy, " ", "a"), (vec![Toy::PREFIX], vec![32, 97]));
        assert_eq!(pair(&toy, "b", "a"), (vec![98], vec![97]));
        toy.card.add_bos = true;
        assert_eq!(pair(&toy, "b", "a"), (vec![Toy::PREFIX, 98], vec![97]));
        assert_eq!(pair(&toy, "", "a"), (vec![Toy::PREFIX], vec![97]));
    }

    #[test]
    fn a_merge_across_the_border_leaves_something_to_score() {
        let toy = Toy::with_words(&["ab"]);
        let (context, continuation) = pair(&toy, "a", "b");
        assert_eq!(context, vec![Toy::PREFIX]);
        assert_eq!(continuation, toy.encode("ab").unwrap());
    }

    #[test]
    fn long_context_is_cut_at_the_left() {
        let mut toy = Toy::bytes();
        toy.card.max_context = 4;
        let fitted = encode_pair(&toy, "abcdef", "gh").unwrap();
        assert_eq!(fitted.request.context.as_ref(), b"def".map(u32::from));
        assert_eq!(fitted.dropped, 3);
        assert!(encode_pair(&toy, "a", "bcdef").is_err());
        assert!(encode_pair(&toy, "a", "").is_err());
        assert!(encode_pair(&toy, "", "").is_err());
    }

    #[test]
    fn a_broken_model_is_named() {
        struct Broken(Toy, f32, usize);
        impl Scorer for Broken {
            fn describe(&self) -> &ModelCard {
                &self.0.card
            }
            fn encode(&self, text: &str) -> std::result::Result<Vec<u32>, BoxError> {
                self.0.encode(text)
            }
            fn loglikelihood(&mut self, requests: &[Request]) -> std::result::Result<Vec<Scored>, BoxError> {
                Ok(vec![Scored { logprobs: vec![self.1; self.2], greedy: true }; requests.len()])
            }
            fn greedy_until(
                &mut self,
                _: &[crate::scorer::Prompt],
            ) -> std::result::Result<Vec<crate::scorer::Generated>, BoxError> {
                Err("no".into())
            }
        }
        let requests = Window { context: 8, stride: 8 }.requests(Toy::PREFIX, &[1, 2, 3]);
        let run = |value, count| loglikelihood(&mut Broken(Toy::bytes(), value, count), &requests);
        assert!(run(-1.0, 3).is_ok());
        for (value, count) in [(f32::NAN, 3), (f32::NEG_INFINITY, 3), (0.5, 3), (-1.0, 2)] {
            assert!(matches!(run(value, count), Err(EvalError::Contract { .. })));
        }
    }

    proptest! {
        #[test]
        fn windows_score_each_token_once(length in 0usize..70, context in 1usize..20, stride in 1usize..20) {
            prop_assume!(stride <= context);
            let tokens: Vec<u32> = (0..length as u32).collect();
            let requests = Window { context, stride }.requests(999, &tokens);
            let joined: Vec<u32> = requests.iter().flat_map(|r| r.continuation.to_vec()).collect();
            prop_assert_eq!(&joined, &tokens);
            for request in &requests {
                prop_assert!(request.context.len() + request.continuation.len() - 1 <= context);
                let first = request.continuation[0];
                let expected = if first == 0 { 999 } else { first - 1 };
                prop_assert_eq!(*request.context.last().unwrap(), expected);
                if first > 0 {
                    prop_assert!(request.context.len() + request.continuation.len() > context.min(first as usize));
                    prop_assert!(request.continuation.len() <= stride);
                }
            }
        }
    }
}
