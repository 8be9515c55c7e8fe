//! Metrics: from what the model answered to a number with its standard error.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::journal::Outcome;
use crate::tasks::{Body, Extract, Prompt};

/// A metric a task can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Share of items answered right. Choices: the most likely text (the first on a tie); a
    /// minimal pair: the good one strictly above the bad; a last word: every token greedy.
    Acc,
    /// The same with each choice's log-probability divided by its length in characters (leading space
    /// apart).
    AccNorm,
    /// `exp` of the mean negative log-probability a token. Compares models of one tokenizer.
    Perplexity,
    /// The same a word of text (split at white space).
    WordPerplexity,
    /// Mean negative log2-probability a byte of text. Of a choice task, of the right choice.
    BitsPerByte,
    /// Share of texts equal to an accepted answer after normalisation.
    ExactMatch,
    /// Mean overlap in words with the best accepted answer (SQuAD's F1).
    F1,
}

impl MetricKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Acc, Self::AccNorm, Self::Perplexity, Self::WordPerplexity, Self::BitsPerByte, Self::ExactMatch, Self::F1];

    /// Whether a task of this kind can report it.
    #[must_use]
    pub fn fits(self, prompt: &Prompt) -> bool {
        let pairs = !matches!(prompt, Prompt::Perplexity { .. } | Prompt::Generate { .. });
        match self {
            Self::Acc => pairs,
            Self::AccNorm => matches!(prompt, Prompt::MultipleChoice { .. } | Prompt::MinimalPair { .. }),
            Self::Perplexity | Self::WordPerplexity | Self::BitsPerByte => !matches!(prompt, Prompt::Generate { .. }),
            Self::ExactMatch | Self::F1 => matches!(prompt, Prompt::Generate { .. }),
        }
    }
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::Perplexity => "perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::ExactMatch => "exact_match",
            Self::F1 => "f1",
        })
    }
}

/// A value with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value. Not finite is written as `null`.
    #[serde(deserialize_with = "crate::report::null_is_nan")]
    pub value: f64,
    /// Standard error over items; absent for a single item.
    pub std_error: Option<f64>,
}

/// What one item contributes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measure {
    acc: f64,
    acc_norm: f64,
    exact_match: f64,
    f1: f64,
    loglikelihood: f64,
    tokens: f64,
    words: f64,
    bytes: f64,
}

impl Measure {
    /// Measures one answer. `None` if it is not an answer to this question.
    #[must_use]
    pub fn of(prompt: &Prompt, body: &Body, outcome: &Outcome) -> Option<Self> {
        match (body, outcome) {
            (Body::Pairs { pairs, gold }, Outcome::Pairs { loglikelihoods, tokens, greedy }) => {
                let count = pairs.len();
                if [loglikelihoods.len(), tokens.len(), greedy.len()] != [count; 3] {
                    return None;
                }
                let normed: Vec<f64> = pairs.iter().zip(loglikelihoods).map(|((_, text), ll)| ll / length(text)).collect();
                let right = |scores: &[f64]| match prompt {
                    Prompt::LastWord { .. } => greedy[*gold],
                    Prompt::MinimalPair { .. } => scores[0] > scores[1],
                    _ => first_largest(scores) == *gold,
                };
                let (_, text) = pairs.get(*gold)?;
                Some(Self {
                    acc: f64::from(right(loglikelihoods)),
                    acc_norm: f64::from(right(&normed)),
                    loglikelihood: loglikelihoods[*gold],
                    tokens: tokens[*gold] as f64,
                    ..Self::text(text)
                })
            }
            (Body::Text(text), Outcome::Text { loglikelihood, tokens }) => {
                Some(Self { loglikelihood: *loglikelihood, tokens: *tokens as f64, ..Self::text(text) })
            }
            (Body::Generate { answers, .. }, Outcome::Generated { text }) => {
                let Prompt::Generate { extract, .. } = prompt else {
                    return None;
                };
                let answer = extract_answer(text, *extract);
                let best = |score: fn(&str, &str) -> f64| answers.iter().map(|gold| score(&answer, gold)).fold(0.0, f64::max);
                let same: fn(&str, &str) -> bool = match extract {
                    Extract::LastNumber => same_number,
                    Extract::All | Extract::FirstLine => |a, b| normalise(a) == normalise(b),
                };
                let exact = answers.iter().any(|gold| same(&answer, gold));
                Some(Self { exact_match: f64::from(exact), f1: best(word_f1), ..Self::default() })
            }
            _ => None,
        }
    }

    fn text(text: &str) -> Self {
        Self { words: text.split_whitespace().count().max(1) as f64, bytes: text.len().max(1) as f64, ..Self::default() }
    }
}

/// One metric over many items. `None` without items, or where nothing was scored.
#[must_use]
pub fn summarise(kind: MetricKind, measures: &[Measure]) -> Option<Estimate> {
    let mean = |value: fn(&Measure) -> f64| ratio(measures, value, |_| 1.0);
    match kind {
        MetricKind::Acc => mean(|m| m.acc),
        MetricKind::AccNorm => mean(|m| m.acc_norm),
        MetricKind::ExactMatch => mean(|m| m.exact_match),
        MetricKind::F1 => mean(|m| m.f1),
        MetricKind::Perplexity => exp(ratio(measures, |m| -m.loglikelihood, |m| m.tokens)),
        MetricKind::WordPerplexity => exp(ratio(measures, |m| -m.loglikelihood, |m| m.words)),
        MetricKind::BitsPerByte => ratio(measures, |m| -m.loglikelihood / std::f64::consts::LN_2, |m| m.bytes),
    }
}

/// `sum(value) / sum(weight)`, with the linearised standard error of a ratio: for weights of 1,
/// the sample standard deviation over the root of the count.
fn ratio(measures: &[Measure], value: fn(&Measure) -> f64, weight: fn(&Measure) -> f64) -> Option<Estimate> {
    let total: f64 = measures.iter().map(weight).sum();
    if total <= 0.0 {
        return None;
    }
    let estimate = measures.iter().map(value).sum::<f64>() / total;
    let count = measures.len() as f64;
    let spread: f64 = measures.iter().map(|m| (value(m) - estimate * weight(m)).powi(2)).sum();
    Some(Estimate { value: estimate, std_error: (count > 1.0).then(|| (spread * count / (count - 1.0)).sqrt() / total) })
}

/// The exponential, with its linearised standard error; beyond one unit of the exponent that is no
/// interval any more, and is left out.
fn exp(estimate: Option<Estimate>) -> Option<Estimate> {
    estimate.map(|e| Estimate { value: e.value.exp(), std_error: e.std_error.filter(|s| *s <= 1.0).map(|s| s * e.value.exp()) })
}

/// What stands in the place of [`relative`] where there is chance and the teacher is not above it by enough.
pub(crate) const NO_RELATIVE: &str = "teacher near chance";

/// How much of the teacher's skill above guessing the student kept:
/// `(student - chance) / (teacher - chance)`.
///
/// `None` where the teacher is not above chance by more than twice its standard error: the ratio
/// would be noise. The standard error takes the two scores as independent, which overstates it
/// for scores on the same items.
#[must_use]
pub fn relative(student: Estimate, teacher: Estimate, chance: f64) -> Option<Estimate> {
    let above = teacher.value - chance;
    let noise = teacher.std_error.unwrap_or(0.0);
    if above.is_nan() || above <= 2.0 * noise || above <= f64::EPSILON {
        return None;
    }
    let value = (student.value - chance) / above;
    Some(Estimate {
        value,
        std_error: student
            .std_error
            .zip(teacher.std_error)
            .map(|(s, t)| ((s / above).powi(2) + (value * t / above).powi(2)).sqrt()),
    })
}

/// Characters of a choice, without the space in front of it: what lm-evaluation-harness divides by.
fn length(choice: &str) -> f64 {
    choice.strip_prefix(' ').unwrap_or(choice).chars().count().max(1) as f64
}

fn first_largest(scores: &[f64]) -> usize {
    let mut best = 0;
    for (index, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = index;
        }
    }
    best
}

fn extract_answer(text: &str, extract: Extract) -> String {
    match extract {
        Extract::All => text.trim().to_string(),
        Extract::FirstLine => text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_string(),
        Extract::LastNumber => last_number(text).unwrap_or_default(),
    }
}

/// `$1,234.50.` gives `1234.50`.
fn last_number(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut last = None;
    let mut at = 0;
    while at < bytes.len() {
        let whole = at + usize::from(bytes[at] == b'-');
        let mut end = whole;
        while digit(end) || (end > whole && bytes.get(end) == Some(&b',') && digit(end + 1)) {
            end += 1;
        }
        let inside_word = at > 0 && bytes[at - 1].is_ascii_alphanumeric();
        if bytes.get(end) == Some(&b'.') && digit(end + 1) && (end > whole || !inside_word) {
            end += 1;
            while digit(end) {
                end += 1;
            }
        }
        if end > whole {
            last = Some(text[at..end].replace(',', ""));
            at = end;
        } else {
            at += 1;
        }
    }
    last
}

/// Whether two numbers are the same, however they are written.
fn same_number(answer: &str, gold: &str) -> bool {
    let number =
        |text: &str| text.replace([',', '$'], "").trim().trim_end_matches('.').parse::<f64>().ok().filter(|x| x.is_finite());
    match (number(answer), number(gold)) {
        (Some(answer), Some(gold)) => answer == gold,
        _ => answer == gold,
    }
}

/// SQuAD's normalisation: lower case, no punctuation, no articles, single spaces.
fn normalise(text: &str) -> String {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    bare.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the")).collect::<Vec<_>>().join(" ")
}

fn word_f1(answer: &str, gold: &str) -> f64 {
    let (answer, gold) = (normalise(answer), normalise(gold));
    let answer: Vec<&str> = answer.split(' ').filter(|w| !w.is_empty()).collect();
    let mut gold: Vec<&str> = gold.split(' ').filter(|w| !w.is_empty()).collect();
    if answer.is_empty() || gold.is_empty() {
        return f64::from(answer.is_empty() && gold.is_empty());
    }
    let lengths = (answer.len() + gold.len()) as f64;
    let mut common = 0.0;
    for word in answer {
        if let Some(at) = gold.iter().position(|g| *g == word) {
            gold.swap_remove(at);
            common += 1.0;
        }
    }
    2.0 * common / lengths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Task;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} != {expected}");
    }

    fn choice(lls: &[f64], texts: &[&str], gold: usize) -> Measure {
        let task = Task::builtin("piqa").unwrap();
        let body = Body::Pairs { pairs: texts.iter().map(|t| (String::new(), (*t).into())).collect(), gold };
        let outcome = Outcome::Pairs { loglikelihoods: lls.to_vec(), tokens: vec![2; lls.len()], greedy: vec![false; lls.len()] };
        Measure::of(&task.prompt, &body, &outcome).unwrap()
    }

    #[test]
    fn choices_by_hand() {
        // -4 beats -6; by characters -6/6 = -1 beats -4/2 = -2 (the leading space does not count).
        let measure = choice(&[-4.0, -6.0], &[" ab", " abcdef"], 1);
        close(measure.acc, 0.0);
        close(measure.acc_norm, 1.0);
        // A letter of two bytes counts once.
        close(choice(&[-3.0, -4.0], &["a", "é"], 1).acc_norm, 0.0);
        // The first wins a tie.
        close(choice(&[-3.0, -3.0], &["a", "b"], 0).acc, 1.0);
        close(choice(&[-3.0, -3.0], &["a", "b"], 1).acc, 0.0);
        // bits per byte of the right choice: 6 nats over 7 bytes.
        let bits = summarise(MetricKind::BitsPerByte, &[measure]).unwrap();
        close(bits.value, 6.0 / 7.0 / std::f64::consts::LN_2);
        assert_eq!(bits.std_error, None);
    }

    #[test]
    fn accuracy_and_its_error_by_hand() {
        let right = choice(&[-1.0, -2.0], &["a", "b"], 0);
        let wrong = choice(&[-1.0, -2.0], &["a", "b"], 1);
        let found = summarise(MetricKind::Acc, &[right, wrong, right, right]).unwrap();
        close(found.value, 0.75);
        // sqrt(p (1 - p) / (n - 1))
        close(found.std_error.unwrap(), (0.75_f64 * 0.25 / 3.0).sqrt());
        assert!(summarise(MetricKind::Acc, &[]).is_none());
    }

    #[test]
    fn perplexities_by_hand() {
        let task = Task::builtin("wikitext2").unwrap();
        let measure = |text: &str, loglikelihood, tokens| {
            let outcome = Outcome::Text { loglikelihood, tokens };
            Measure::of(&task.prompt, &Body::Text(text.into()), &outcome).unwrap()
        };
        let both = [measure("ab cd", -6.0, 2), measure("é", -2.0, 2)];
        let value = |kind| summarise(kind, &both).unwrap().value;
        close(value(MetricKind::Perplexity), 2.0_f64.exp());
        close(value(MetricKind::WordPerplexity), (8.0_f64 / 3.0).exp());
        close(value(MetricKind::BitsPerByte), 8.0 / 7.0 / std::f64::consts::LN_2);
        // Residuals 6 - 2*2 = 2 and 2 - 2*2 = -2: sqrt(8 * 2 / 1) / 4 = 1, times e^2.
        let error = summarise(MetricKind::Perplexity, &both).unwrap().std_error;
        close(error.unwrap(), 2.0_f64.exp());
        // 22 and 26 nats of one token each: 2 nats either way, as an interval of e^24 says nothing.
        let far = [measure("ab", -22.0, 1), measure("cd", -26.0, 1)];
        assert!(summarise(MetricKind::Perplexity, &far).unwrap().std_error.is_none());
        assert!(summarise(MetricKind::Perplexity, &[measure("", 0.0, 0)]).is_none());
    }

    #[test]
    fn a_tied_minimal_pair_is_wrong_and_a_last_word_must_be_greedy() {
        let pairs = |count| Body::Pairs { pairs: vec![(String::new(), "x".into()); count], gold: 0 };
        let outcome = |count, greedy| Outcome::Pairs {
            loglikelihoods: vec![-2.0; count],
            tokens: vec![1; count],
            greedy: vec![greedy; count],
        };
        let blimp = Task::builtin("blimp").unwrap().prompt;
        let lambada = Task::builtin("lambada").unwrap().prompt;
        close(Measure::of(&blimp, &pairs(2), &outcome(2, true)).unwrap().acc, 0.0);
        let last = |greedy| Measure::of(&lambada, &pairs(1), &outcome(1, greedy)).unwrap();
        close(last(true).acc, 1.0);
        close(last(false).acc, 0.0);
        close(summarise(MetricKind::WordPerplexity, &[last(true)]).unwrap().value, 2.0_f64.exp());
        assert!(Measure::of(&blimp, &pairs(2), &outcome(1, true)).is_none());
    }

    #[test]
    fn relative_score_by_hand() {
        let of = |value, error| Estimate { value, std_error: Some(error) };
        let found = relative(of(0.4, 0.01), of(0.5, 0.02), 0.25).unwrap();
        close(found.value, 0.6);
        close(found.std_error.unwrap(), (0.04_f64.powi(2) + (0.6 * 0.08_f64).powi(2)).sqrt());
        assert!(relative(of(0.4, 0.01), of(0.28, 0.02), 0.25).is_none());
        assert!(relative(of(0.4, 0.0), of(0.25, 0.0), 0.25).is_none());
    }

    #[test]
    fn answers_are_found_and_compared() {
        let number = |text| last_number(text).unwrap_or_default();
        assert_eq!(number("so 3 * 6 = 18 and $1,234.50."), "1234.50");
        assert_eq!(number("#### -7"), "-7");
        assert_eq!(number("from 10-3"), "-3");
        assert_eq!(number("none - at all"), "");
        assert_eq!(number("half is .5 of it."), ".5");
        assert_eq!(number("5 - 7.25 = -2.25."), "-2.25");
        assert_eq!(number("1, 2, 3..."), "3");
        assert_eq!(extract_answer("\n  Six \nmore", Extract::FirstLine), "Six");
        close(f64::from(normalise("The  Six!") == normalise("six")), 1.0);
        for (answer, gold, same) in [
            ("18.00", "18", true),
            (".25", "0.25", true),
            ("1234", "1,234", true),
            ("1.5", "15", false),
            ("-5", "5", false),
            ("", "5", false),
        ] {
            assert_eq!(same_number(answer, gold), same, "{answer} and {gold}");
        }
        // {denver, broncos} against {broncos}: 2 * 1 / 3.
        close(word_f1("the Denver Broncos", "Broncos."), 2.0 / 3.0);
        close(word_f1("", "x"), 0.0);
    }
}
