//! Needle in a haystack: a made-up sentence put at some depth of a long text, then asked for.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};
use crate::scorer::{Request, Scorer};
use crate::tasks::{FieldType, Format, read_items};
use crate::tokenise::{encode, encode_pair, loglikelihood};

/// A sentence to hide and how to ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needle {
    /// The sentence.
    pub needle: String,
    /// The question.
    pub question: String,
    /// How the answer begins.
    pub answer_prefix: String,
    /// What is scored after that.
    pub answer: String,
}

/// One length and depth of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeedleCell {
    /// Tokens of the whole prompt.
    pub length: usize,
    /// Where the needle was, 0 at the start and 1 at the end of the text.
    pub depth: f64,
    /// Needles hidden there.
    pub items: usize,
    /// Share whose answer was the model's first choice, token by token.
    pub found: f64,
    /// Mean `ln p` of the answer's tokens.
    pub mean_logprob: f64,
}

/// Reads needles from a JSON lines file with `needle`, `question`, `answer_prefix`, `answer`.
///
/// # Errors
/// The file cannot be read, or a line lacks a field.
pub fn read_needles(path: &Path) -> Result<Vec<Needle>> {
    let fields: BTreeMap<String, FieldType> =
        ["needle", "question", "answer_prefix", "answer"].map(|name| (name.to_string(), FieldType::String)).into();
    read_items(path, Format::Jsonl, &fields)?
        .into_iter()
        .map(|item| {
            serde_json::from_value(item.fields.into()).map_err(|error| EvalError::Item {
                path: path.into(),
                line: item.line,
                problem: error.to_string(),
            })
        })
        .collect()
}

/// A prompt of exactly `length` tokens: haystack, needle at `depth`, haystack, question, the
/// beginning of the answer. The needle stands between two paragraphs, the border nearest to the
/// depth asked for. `haystack` is the tokens of each paragraph, `first` the one to begin with;
/// the haystack begins again where it ends.
///
/// # Errors
/// No room for haystack; an empty haystack; the tokenizer's.
pub fn needle_prompt(
    scorer: &dyn Scorer,
    needle: &Needle,
    haystack: &[Vec<u32>],
    first: usize,
    length: usize,
    depth: f64,
) -> Result<Request> {
    if haystack.iter().all(Vec::is_empty) {
        return Err(EvalError::Setting("expected a haystack of some text, found none".into()));
    }
    let hidden = encode(scorer, &format!("{}\n\n", needle.needle))?;
    let question = format!("{}\n{}", needle.question, needle.answer_prefix);
    let asked = encode_pair(scorer, &question, &format!(" {}", needle.answer))?.request;
    let card = scorer.describe();
    // The card's bos, if any, stands at the very front and not before the question.
    let skip = usize::from(card.add_bos);
    let tail = &asked.context[skip..];
    let room = length.checked_sub(skip + hidden.len() + tail.len() + asked.continuation.len());
    let Some(room) = room.filter(|room| *room > 0) else {
        return Err(EvalError::Setting(format!(
            "a prompt of {length} tokens has no room for haystack beside its needle; ask for longer ones"
        )));
    };
    if length > card.max_context + 1 {
        return Err(EvalError::Setting(format!(
            "a prompt of {length} tokens does not fit `{}`, which reads {}",
            card.name, card.max_context
        )));
    }
    let mut hay = Vec::with_capacity(room);
    let mut border = 0;
    let target = room as f64 * depth.clamp(0.0, 1.0);
    let mut paragraphs = haystack.iter().cycle().skip(first % haystack.len());
    while hay.len() < room
        && let Some(paragraph) = paragraphs.next()
    {
        hay.extend(paragraph.iter().take(room - hay.len()));
        if (hay.len() as f64 - target).abs() < (border as f64 - target).abs() {
            border = hay.len();
        }
    }
    let mut context = Vec::with_capacity(length);
    context.extend(std::iter::repeat_n(card.prefix_token, skip));
    context.extend_from_slice(&hay[..border]);
    context.extend_from_slice(&hidden);
    context.extend_from_slice(&hay[border..]);
    context.extend_from_slice(tail);
    Ok(Request { context: context.into(), continuation: asked.continuation, greedy: true })
}

/// Hides every needle at every length and depth. `progress` gets each cell as it is done.
///
/// # Errors
/// The model's; lengths that do not fit.
pub fn needle_grid(
    scorer: &mut dyn Scorer,
    haystack: &str,
    needles: &[Needle],
    lengths: &[usize],
    depths: &[f64],
    progress: &mut dyn FnMut(&NeedleCell),
) -> Result<Vec<NeedleCell>> {
    let paragraphs: Vec<Vec<u32>> = haystack
        .split("\n\n")
        .filter(|p| !p.trim().is_empty())
        .map(|p| encode(scorer, &format!("{p}\n\n")))
        .collect::<Result<_>>()?;
    let mut cells = Vec::new();
    for &length in lengths {
        for &depth in depths {
            let mut cell = NeedleCell { length, depth, items: needles.len(), found: 0.0, mean_logprob: 0.0 };
            for (index, needle) in needles.iter().enumerate() {
                // Each needle gets another stretch of the haystack.
                let first = index * paragraphs.len() / needles.len();
                let request = needle_prompt(scorer, needle, &paragraphs, first, length, depth)?;
                for answer in loglikelihood(scorer, &[request])? {
                    let sum: f64 = answer.logprobs.iter().map(|p| f64::from(*p)).sum();
                    cell.mean_logprob += sum / answer.logprobs.len() as f64;
                    cell.found += f64::from(answer.greedy);
                }
            }
            let count = needles.len().max(1) as f64;
            cell.found /= count;
            cell.mean_logprob /= count;
            progress(&cell);
            cells.push(cell);
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    fn needle() -> Needle {
        Needle { needle: "NN".into(), question: "Q".into(), answer_prefix: "A".into(), answer: "!\"".into() }
    }

    fn shown(length: usize, depth: f64, first: usize) -> String {
        let hay = ["aa\n\n", "bb\n\n", "cc\n\n"].map(|p| p.bytes().map(u32::from).collect());
        let request = needle_prompt(&Toy::bytes(), &needle(), &hay, first, length, depth).unwrap();
        assert_eq!(request.context.len() + request.continuation.len(), length);
        let bytes: Vec<u8> = request.context.iter().map(|t| *t as u8).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn needles_stand_between_paragraphs_at_their_depth() {
        // 4 for the needle, 3 for the question, 3 for the answer: 12 of haystack.
        assert_eq!(shown(22, 0.0, 0), "NN\n\naa\n\nbb\n\ncc\n\nQ\nA");
        assert_eq!(shown(22, 0.4, 0), "aa\n\nNN\n\nbb\n\ncc\n\nQ\nA");
        assert_eq!(shown(22, 0.6, 0), "aa\n\nbb\n\nNN\n\ncc\n\nQ\nA");
        assert_eq!(shown(22, 1.0, 0), "aa\n\nbb\n\ncc\n\nNN\n\nQ\nA");
        assert_eq!(shown(24, 0.0, 2), "NN\n\ncc\n\naa\n\nbb\n\nccQ\nA");
        let none = needle_prompt(&Toy::bytes(), &needle(), &[vec![1]], 0, 10, 0.5);
        assert!(none.unwrap_err().to_string().contains("no room"));
        assert!(needle_prompt(&Toy::bytes(), &needle(), &[], 0, 50, 0.5).is_err());
    }

    #[test]
    fn the_grid_has_every_cell_and_the_toys_answers() {
        let mut toy = Toy::bytes();
        let mut seen = 0;
        let cells =
            needle_grid(&mut toy, "aa\n\nbb", &[needle(), needle()], &[22, 30], &[0.0, 0.5, 1.0], &mut |_| seen += 1).unwrap();
        assert_eq!((cells.len(), seen), (6, 6));
        // " " after "A" is rare, then "!" and "\"" follow.
        let expected = (toy.logprob(0, 9) + 2.0 * toy.logprob(0, 1)) / 3.0;
        assert!((cells[3].mean_logprob - expected).abs() < 1e-5);
        assert_eq!((cells[3].length, cells[3].depth, cells[3].found), (30, 0.0, 0.0));
    }
}
