//! Multi-query associative recall (MQAR, Arora et al. 2023, arXiv 2312.04927): pairs of a key and
//! a value, then the keys again; after each key the model should write its value. A state of
//! constant size can hold only so many pairs, and this counts them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Draw;
use crate::error::{EvalError, Result};
use crate::scorer::{Request, Scorer};
use crate::tokenise::{encode, loglikelihood};

/// One sequence: `k1 v1 k2 v2 ...`, then every key once more with its value, in drawn order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallItem {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Positions of the values to be recalled.
    pub queries: Vec<usize>,
}

/// The result for one number of pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecallCell {
    /// Pairs in a sequence.
    pub pairs: usize,
    /// Values asked for, all sequences together.
    pub queries: usize,
    /// Share that was the model's first choice.
    pub recalled: f64,
    /// Mean `ln p` of the right value.
    pub mean_logprob: f64,
}

/// One sequence of `pairs` pairs. Keys differ from each other; values may repeat. The same seed
/// gives the same sequence.
///
/// # Errors
/// Fewer keys than pairs, or no values.
pub fn recall_item(seed: u64, pairs: usize, keys: &[u32], values: &[u32]) -> Result<RecallItem> {
    if keys.len() < pairs || values.is_empty() || pairs == 0 {
        return Err(EvalError::Setting(format!(
            "expected at least 1 pair, as many keys and at least 1 value, found {pairs} pairs, {} keys, {} values",
            keys.len(),
            values.len()
        )));
    }
    let mut draw = Draw(seed);
    let drawn = draw.choose(keys, pairs);
    let bound: Vec<(u32, u32)> = drawn.into_iter().map(|key| (key, values[draw.below(values.len())])).collect();
    let order: Vec<u32> = (0..pairs as u32).collect();
    let order = draw.choose(&order, pairs);
    let mut item =
        RecallItem { tokens: bound.iter().flat_map(|(key, value)| [*key, *value]).collect(), queries: Vec::with_capacity(pairs) };
    for index in order {
        let (key, value) = bound[index as usize];
        item.tokens.push(key);
        item.queries.push(item.tokens.len());
        item.tokens.push(value);
    }
    Ok(item)
}

/// Puts `sequences` sequences of `pairs` pairs to the model.
///
/// # Errors
/// As [`recall_item`]; the model's; sequences longer than it reads.
pub fn associative_recall(
    scorer: &mut dyn Scorer,
    seed: u64,
    sequences: usize,
    pairs: usize,
    keys: &[u32],
    values: &[u32],
) -> Result<RecallCell> {
    let (prefix, most) = {
        let card = scorer.describe();
        (card.prefix_token, card.max_context)
    };
    if pairs > most / 4 {
        return Err(EvalError::Setting(format!(
            "{pairs} pairs and their queries make {} tokens, the model reads {most}",
            pairs.saturating_mul(4)
        )));
    }
    let mut cell = RecallCell { pairs, queries: 0, recalled: 0.0, mean_logprob: 0.0 };
    for sequence in 0..sequences as u64 {
        let mut draw = Draw(seed ^ sequence.wrapping_mul(0xd134_2543_de82_ef95));
        let item = recall_item(draw.below(usize::MAX) as u64, pairs, keys, values)?;
        let mut tokens = vec![prefix];
        tokens.extend_from_slice(&item.tokens);
        let requests: Vec<Request> = item
            .queries
            .iter()
            .map(|at| Request {
                context: Arc::from(&tokens[..=*at]),
                continuation: Arc::from(&item.tokens[*at..=*at]),
                greedy: true,
            })
            .collect();
        for answer in loglikelihood(scorer, &requests)? {
            cell.queries += 1;
            cell.recalled += f64::from(answer.greedy);
            cell.mean_logprob += f64::from(answer.logprobs[0]);
        }
    }
    let count = cell.queries.max(1) as f64;
    cell.recalled /= count;
    cell.mean_logprob /= count;
    Ok(cell)
}

/// The words that are one token with a space before them: keys and values a pretrained model has
/// seen. Each id once, in the order of the words.
///
/// # Errors
/// The tokenizer's.
pub fn single_tokens(scorer: &dyn Scorer, words: &[&str]) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for word in words {
        if let [id] = encode(scorer, &format!(" {word}"))?[..]
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    #[test]
    fn items_bind_each_key_once_and_ask_for_all() {
        let keys: Vec<u32> = (0..20).collect();
        let values: Vec<u32> = (100..104).collect();
        let item = recall_item(7, 8, &keys, &values).unwrap();
        assert_eq!(item.tokens.len(), 32);
        let bound: std::collections::HashMap<u32, u32> = item.tokens[..16].chunks(2).map(|p| (p[0], p[1])).collect();
        assert_eq!(bound.len(), 8);
        let mut asked = Vec::new();
        for at in &item.queries {
            assert_eq!(bound[&item.tokens[at - 1]], item.tokens[*at]);
            asked.push(item.tokens[at - 1]);
        }
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), 8);
        assert_eq!(item, recall_item(7, 8, &keys, &values).unwrap());
        assert_ne!(item, recall_item(8, 8, &keys, &values).unwrap());
        assert!(recall_item(1, 21, &keys, &values).is_err());
        assert!(recall_item(1, 0, &keys, &values).is_err());
    }

    #[test]
    fn the_toy_recalls_what_it_cannot_help() {
        // It always writes the successor: right where the only value follows the only key.
        let mut toy = Toy::bytes();
        let cell = associative_recall(&mut toy, 1, 3, 1, &[40], &[41]).unwrap();
        assert_eq!((cell.queries, cell.recalled), (3, 1.0));
        let cell = associative_recall(&mut toy, 1, 3, 2, &[40, 50], &[90]).unwrap();
        assert_eq!((cell.queries, cell.recalled), (6, 0.0));
        assert!((cell.mean_logprob - toy.logprob(0, 9)).abs() < 1e-5);
        assert!(associative_recall(&mut toy, 1, 1, 5000, &[1], &[1]).is_err());
    }

    #[test]
    fn words_of_one_token() {
        let toy = Toy::with_words(&[" red", " blue"]);
        assert_eq!(single_tokens(&toy, &["red", "green", "blue", "red"]).unwrap(), [257, 258]);
    }
}
