//! Running a loaded task on a model: what it will cost, then the answers, then the result.

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};
use crate::journal::{Journal, Key, Outcome};
use crate::metrics::{Measure, MetricKind, summarise};
use crate::results::{GroupResult, Metric, TaskResult};
use crate::scorer::{ModelCard, Prompt, Request, Scorer};
use crate::tasks::{self, Body, Loaded, Prompted};
use crate::tokenise::{encode, encode_pair, loglikelihood, model_error};

/// How items are handed to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Requests handed over at once, in whole items; a kill loses at most this much work.
    pub batch: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { batch: 32 }
    }
}

/// What a task asks of a model, counted before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Task name.
    pub task: String,
    /// Items of the task, or of its subset.
    pub items: usize,
    /// Of these, answered in the journal.
    pub answered: usize,
    /// Requests left.
    pub requests: usize,
    /// Tokens left to run, contexts counted once for each request.
    pub tokens: u64,
    /// Tokens left whose probability is asked, or that may be written.
    pub scored: u64,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Items answered, those of the journal included.
    pub items: usize,
    /// Items of the task.
    pub of: usize,
    /// Tokens run so far in this run, as [`Cost::tokens`] counts them.
    pub tokens: u64,
}

/// An item as the model gets it.
struct Work {
    requests: Vec<Request>,
    prompt: Option<Prompt>,
    truncated: bool,
}

impl Work {
    fn tokens(&self) -> (u64, u64) {
        let mut all = 0;
        let mut scored = 0;
        for request in &self.requests {
            all += (request.context.len() + request.continuation.len()) as u64;
            scored += request.continuation.len() as u64;
        }
        if let Some(prompt) = &self.prompt {
            all += (prompt.tokens.len() + prompt.max_tokens) as u64;
            scored += prompt.max_tokens as u64;
        }
        (all, scored)
    }
}

/// Counts what is left to do. Tokenises everything, asks the model nothing.
///
/// # Errors
/// The tokenizer's; windows that do not fit the model.
pub fn estimate(scorer: &dyn Scorer, loaded: &Loaded, journal: Option<&Journal>) -> Result<Cost> {
    check(loaded, scorer.describe())?;
    let mut cost =
        Cost { task: loaded.task.name.clone(), items: loaded.items.len(), answered: 0, requests: 0, tokens: 0, scored: 0 };
    for item in &loaded.items {
        if journal.is_some_and(|j| j.get(&key(loaded, item, scorer.describe())).is_some()) {
            cost.answered += 1;
            continue;
        }
        let work = prepare(scorer, loaded, item)?;
        let (tokens, scored) = work.tokens();
        cost.requests += work.requests.len() + usize::from(work.prompt.is_some());
        cost.tokens += tokens;
        cost.scored += scored;
    }
    Ok(cost)
}

/// Asks the model about every item that the journal does not answer, longest first (so that a
/// machine too small shows at once), and sums up. With the same answers the result is the same
/// to the bit, resumed or not.
///
/// # Errors
/// The model's, a broken contract, a journal that cannot be written.
pub fn run(
    scorer: &mut dyn Scorer,
    loaded: &Loaded,
    options: RunOptions,
    mut journal: Option<&mut Journal>,
    progress: &mut dyn FnMut(Progress),
) -> Result<TaskResult> {
    let card = scorer.describe().clone();
    check(loaded, &card)?;
    let mut outcomes: Vec<Option<Outcome>> =
        loaded.items.iter().map(|item| journal.as_ref()?.get(&key(loaded, item, &card)).cloned()).collect();
    let mut open: Vec<usize> = (0..outcomes.len()).filter(|index| outcomes[*index].is_none()).collect();
    open.sort_by_key(|index| std::cmp::Reverse(loaded.items[*index].bytes()));
    let mut done = Progress { items: loaded.items.len() - open.len(), of: loaded.items.len(), tokens: 0 };
    progress(done);
    let mut open = open.into_iter().peekable();
    while open.peek().is_some() {
        let mut batch = Vec::new();
        let mut requests = 0;
        while requests < options.batch.max(1)
            && let Some(index) = open.next()
        {
            let work = prepare(scorer, loaded, &loaded.items[index])?;
            requests += work.requests.len().max(1);
            batch.push((index, work));
        }
        let answers = ask(scorer, loaded, &batch)?;
        for ((index, work), outcome) in batch.iter().zip(answers) {
            if let Some(journal) = journal.as_mut() {
                let key = key(loaded, &loaded.items[*index], &card);
                journal.record(key, outcome.clone())?;
            }
            outcomes[*index] = Some(outcome);
            done.items += 1;
            done.tokens += work.tokens().0;
        }
        progress(done);
    }
    sum_up(loaded, &card, scorer, &outcomes)
}

/// Refuses a task that a model cannot do whatever its items are: its windows do not fit, or what it may write does not.
/// Asks the model nothing.
///
/// # Errors
/// What does not fit, and what to do.
pub fn check(loaded: &Loaded, card: &ModelCard) -> Result<()> {
    if let Some(window) = loaded.window {
        window.check(card)?;
    }
    match loaded.task.prompt {
        tasks::Prompt::Generate { max_tokens, .. } if max_tokens > card.max_context => Err(EvalError::Setting(format!(
            "task `{}` writes up to {max_tokens} tokens, `{}` has room for {}",
            loaded.task.name, card.name, card.max_context
        ))),
        _ => Ok(()),
    }
}

/// The key includes all that an answer depends on beside the text itself: what more the model reads, and where a
/// text that it writes ends.
fn key(loaded: &Loaded, item: &Prompted, card: &ModelCard) -> Key {
    let mut settings = vec![card.prefix_token.into(), card.add_bos.into(), card.max_context as u64];
    if let Some(window) = loaded.window {
        settings.extend([window.context as u64, window.stride as u64]);
    }
    let mut stops: &[String] = &[];
    if let tasks::Prompt::Generate { until, max_tokens, .. } = &loaded.task.prompt {
        settings.extend([*max_tokens as u64, card.end_tokens.len() as u64]);
        settings.extend(card.end_tokens.iter().map(|id| u64::from(*id)));
        stops = until;
    }
    Key {
        task: loaded.task.name.clone(),
        version: loaded.task.version,
        item: item.id.clone(),
        model: card.hash.clone(),
        prompt: item.hash(&settings, stops),
    }
}

fn prepare(scorer: &dyn Scorer, loaded: &Loaded, item: &Prompted) -> Result<Work> {
    let mut work = Work { requests: Vec::new(), prompt: None, truncated: false };
    let card = scorer.describe();
    match &item.body {
        Body::Pairs { pairs, .. } => {
            for (context, continuation) in pairs {
                let fitted = encode_pair(scorer, context, continuation).map_err(|e| named(e, item))?;
                work.truncated |= fitted.dropped > 0;
                work.requests.push(fitted.request);
            }
        }
        Body::Text(text) => {
            if let Some(window) = loaded.window {
                work.requests = window.requests(card.prefix_token, &encode(scorer, text)?);
            }
        }
        Body::Generate { context, .. } => {
            let tasks::Prompt::Generate { until, max_tokens, .. } = &loaded.task.prompt else {
                return Ok(work);
            };
            // That something can be written at all was checked before.
            let room = card.max_context.saturating_sub(*max_tokens);
            let mut tokens = encode(scorer, context)?;
            if card.add_bos || tokens.is_empty() {
                tokens.insert(0, card.prefix_token);
            }
            let dropped = tokens.len().saturating_sub(room).min(tokens.len() - 1);
            tokens.drain(..dropped);
            work.truncated = dropped > 0;
            work.prompt = Some(Prompt { tokens, until: until.clone(), max_tokens: *max_tokens });
        }
    }
    Ok(work)
}

fn named(error: EvalError, item: &Prompted) -> EvalError {
    match error {
        EvalError::Setting(problem) => EvalError::Setting(format!("item `{}`: {problem}", item.id)),
        other => other,
    }
}

fn ask(scorer: &mut dyn Scorer, loaded: &Loaded, batch: &[(usize, Work)]) -> Result<Vec<Outcome>> {
    if let tasks::Prompt::Generate { until, .. } = &loaded.task.prompt {
        let prompts: Vec<Prompt> = batch.iter().filter_map(|(_, w)| w.prompt.clone()).collect();
        let written = scorer.greedy_until(&prompts).map_err(|source| model_error(scorer.describe(), "writing", source))?;
        if written.len() != prompts.len() {
            return Err(EvalError::Contract {
                model: scorer.describe().name.clone(),
                expected: format!("{} answers", prompts.len()),
                found: written.len().to_string(),
            });
        }
        return Ok(written.into_iter().map(|w| Outcome::Generated { text: cut(&w.text, until).to_string() }).collect());
    }
    let greedy = matches!(loaded.task.prompt, tasks::Prompt::LastWord { .. });
    let requests = batch.iter().flat_map(|(_, work)| &work.requests).map(|r| Request { greedy, ..r.clone() });
    let requests: Vec<Request> = requests.collect();
    let mut scored = loglikelihood(scorer, &requests)?.into_iter();
    let mut outcomes = Vec::with_capacity(batch.len());
    for (index, work) in batch {
        let mut sums = Vec::new();
        let mut tokens = Vec::new();
        let mut greedy = Vec::new();
        for answer in scored.by_ref().take(work.requests.len()) {
            sums.push(answer.logprobs.iter().map(|p| f64::from(*p)).sum::<f64>());
            tokens.push(answer.logprobs.len());
            greedy.push(answer.greedy);
        }
        outcomes.push(match loaded.items[*index].body {
            Body::Text(_) => Outcome::Text { loglikelihood: sums.iter().sum(), tokens: tokens.iter().sum() },
            _ => Outcome::Pairs { loglikelihoods: sums, tokens, greedy },
        });
    }
    Ok(outcomes)
}

/// The text before the first stop string.
fn cut<'a>(text: &'a str, until: &[String]) -> &'a str {
    let end = until.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    &text[..end.unwrap_or(text.len())]
}

fn sum_up(loaded: &Loaded, card: &ModelCard, scorer: &dyn Scorer, outcomes: &[Option<Outcome>]) -> Result<TaskResult> {
    let mut measures = Vec::with_capacity(outcomes.len());
    let mut truncated = 0;
    for (item, outcome) in loaded.items.iter().zip(outcomes) {
        let measure = outcome.as_ref().and_then(|o| Measure::of(&loaded.task.prompt, &item.body, o)).ok_or_else(|| {
            EvalError::Setting(format!(
                "the journal's answer to item `{}` of task `{}` is not one to this question; remove that line",
                item.id, loaded.task.name
            ))
        })?;
        measures.push(measure);
        truncated += usize::from(could_be_cut(card, loaded, item) && prepare(scorer, loaded, item)?.truncated);
    }
    let metrics = |measures: &[Measure]| -> Vec<Metric> {
        let one = |kind: &MetricKind| {
            summarise(*kind, measures).map(|estimate| Metric {
                kind: *kind,
                value: estimate.value,
                std_error: estimate.std_error,
            })
        };
        loaded.task.score.metrics.iter().filter_map(one).collect()
    };
    let mut names: Vec<&String> = loaded.items.iter().filter_map(|i| i.group.as_ref()).collect();
    names.sort_unstable();
    names.dedup();
    let groups = names
        .into_iter()
        .map(|name| {
            let members: Vec<Measure> = loaded
                .items
                .iter()
                .zip(&measures)
                .filter(|(item, _)| item.group.as_ref() == Some(name))
                .map(|(_, measure)| *measure)
                .collect();
            GroupResult { name: name.clone(), items: members.len(), metrics: metrics(&members) }
        })
        .collect();
    Ok(TaskResult {
        task: loaded.task.name.clone(),
        version: loaded.task.version,
        title: loaded.task.title.clone(),
        kind: loaded.task.kind().into(),
        model: ModelCard { estimate: scorer.estimate(&loaded.task), ..card.clone() },
        items: loaded.items.len(),
        subset: loaded.subset,
        shots: loaded.shots,
        window: loaded.window.map(|w| (w.context, w.stride)),
        truncated,
        primary: loaded.task.score.primary,
        chance: loaded.chance(),
        metrics: metrics(&measures),
        groups,
        note: loaded.task.origin.note.clone(),
    })
}

/// A token is at least a byte, so texts of fewer bytes than the model reads tokens fit without
/// being tokenised again.
fn could_be_cut(card: &ModelCard, loaded: &Loaded, item: &Prompted) -> bool {
    let written = match loaded.task.prompt {
        tasks::Prompt::Perplexity { .. } => return false,
        tasks::Prompt::Generate { max_tokens, .. } => max_tokens,
        _ => 0,
    };
    item.bytes() + written + 1 >= card.max_context
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{LoadOptions, Task};
    use crate::toy::Toy;

    fn loaded(name: &str, lines: &str) -> Loaded {
        let task = Task::builtin(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(&task.data.file), lines).unwrap();
        task.load(folder.path(), &LoadOptions::default()).unwrap()
    }

    fn quiet(_: Progress) {}

    fn run_all(toy: &mut Toy, loaded: &Loaded, journal: Option<&mut Journal>) -> Result<TaskResult> {
        run(toy, loaded, RunOptions { batch: 2 }, journal, &mut quiet)
    }

    const CHOICES: &str = r##"{"id":"a","query":"x","choices":["!\"","bb"],"gold":0}
{"id":"b","query":"y","choices":["q","!zz"],"gold":0}
{"id":"c","query":"the longest","choices":["b","!z"],"gold":1}
{"id":"d","query":"z","choices":["!\"#","b"],"gold":1}
"##;

    #[test]
    fn choices_get_the_toys_known_probabilities() {
        let loaded = loaded("openbookqa", CHOICES);
        let mut toy = Toy::bytes();
        let result = run_all(&mut toy, &loaded, None).unwrap();
        // A rare byte costs 6.24 nats, a successor 0.69; "!" follows the space, "\"" follows "!".
        // a: -7.6 against -18.7; by bytes -3.8 against -9.4: right, right.
        // b: -12.5 against -19.4; by bytes -12.5 against -6.5: right, wrong.
        // c: -13.2 against -12.5; by bytes -6.6 against -12.5: wrong, right.
        // d: -12.5 against -8.3; by bytes -12.5 against -2.8: wrong, wrong.
        let (rare, next) = (toy.logprob(0, 9), toy.logprob(0, 1));
        assert!((rare + 6.242).abs() < 1e-3 && (next + 0.689).abs() < 1e-3);
        let item = |index: usize| {
            let card = toy.card.clone();
            key(&loaded, &loaded.items[index], &card)
        };
        assert_eq!(result.metric(MetricKind::Acc).unwrap().value, 0.5);
        assert_eq!(result.metric(MetricKind::AccNorm).unwrap().value, 0.5);
        assert_eq!(result.chance, Some(0.5));
        assert_eq!(toy.asked, 8);

        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("j")).unwrap();
        run_all(&mut Toy::bytes(), &loaded, Some(&mut journal)).unwrap();
        let Some(Outcome::Pairs { loglikelihoods, tokens, greedy }) = journal.get(&item(1)) else {
            panic!("no answer to b");
        };
        assert!((loglikelihoods[0] - 2.0 * rare).abs() < 1e-5);
        assert!((loglikelihoods[1] - 3.0 * rare - next).abs() < 1e-5);
        assert_eq!((tokens.as_slice(), greedy.as_slice()), (&[2, 4][..], &[false; 2][..]));
    }

    #[test]
    fn perplexity_of_the_toy_is_exact_and_does_not_depend_on_its_windows() {
        // The toy looks back one token only, so every window gives the same numbers.
        let lines = r#"{"source":"s/1","text":"abcxyz"}
{"source":"t","messages":[{"role":"user","content":"ab"}]}
"#;
        let task = Task::builtin("perplexity").unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(&task.data.file), lines).unwrap();
        let mut results = Vec::new();
        for window in [None, Some((4, 1)), Some((4, 4)), Some((1, 1))] {
            let options = LoadOptions { window, ..LoadOptions::default() };
            let loaded = task.load(folder.path(), &options).unwrap();
            results.push(run_all(&mut Toy::bytes(), &loaded, None).unwrap());
        }
        let toy = Toy::bytes();
        // After the prefix 256 comes "a" (rare), then bc (common), x (rare), yz (common).
        let nll = -(2.0 * toy.logprob(0, 9) + 4.0 * toy.logprob(0, 1));
        for result in &results {
            assert_eq!(result.groups.len(), 2);
            assert_eq!(result.groups[0].name, "s");
            let of = |kind| result.groups[0].metrics.iter().find(|m| m.kind == kind).unwrap().value;
            assert!((of(MetricKind::Perplexity) - (nll / 6.0).exp()).abs() < 1e-3);
            assert!((of(MetricKind::WordPerplexity) / nll.exp() - 1.0).abs() < 1e-5);
            assert!((of(MetricKind::BitsPerByte) - nll / 6.0 / 2.0_f64.ln()).abs() < 1e-6);
            let whole = result.metric(MetricKind::Perplexity).unwrap().value;
            assert!((whole - results[0].metrics[0].value).abs() < 1e-9 * whole);
        }
        let options = LoadOptions { window: Some((5000, 1)), ..LoadOptions::default() };
        let too_long = task.load(folder.path(), &options).unwrap();
        let error = run_all(&mut Toy::bytes(), &too_long, None).unwrap_err().to_string();
        assert!(error.contains("5000") && error.contains("4096"), "{error}");
    }

    #[test]
    fn a_killed_run_resumes_and_ends_the_same() {
        let loaded = loaded("openbookqa", CHOICES);
        let expected = run_all(&mut Toy::bytes(), &loaded, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");

        let mut journal = Journal::open(&path).unwrap();
        let mut toy = Toy::bytes();
        toy.breaks_after = 3;
        let error = run_all(&mut toy, &loaded, Some(&mut journal)).unwrap_err();
        assert!(error.to_string().contains("power cut"), "{error}");
        drop(journal);
        // The kill also tore a line.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"task\":\"openbookqa\",\"ver");
        std::fs::write(&path, bytes).unwrap();

        let mut journal = Journal::open(&path).unwrap();
        let cost = estimate(&Toy::bytes(), &loaded, Some(&journal)).unwrap();
        assert_eq!((cost.items, cost.answered, cost.requests), (4, 1, 6));
        let mut toy = Toy::bytes();
        let mut seen = Vec::new();
        let resumed = run(&mut toy, &loaded, RunOptions { batch: 2 }, Some(&mut journal), &mut |p| seen.push(p)).unwrap();
        assert_eq!(toy.asked, 6);
        assert_eq!(resumed, expected);
        assert_eq!((seen[0].items, seen.last().unwrap().items), (1, 4));
        assert_eq!(seen.last().unwrap().tokens, cost.tokens);

        // All answered: nothing is asked. Another model, or another prompt: all is.
        let mut toy = Toy::bytes();
        assert_eq!(run_all(&mut toy, &loaded, Some(&mut journal)).unwrap(), expected);
        assert_eq!(toy.asked, 0);
        toy.card.hash = "toy-2".into();
        assert_eq!(estimate(&toy, &loaded, Some(&journal)).unwrap().answered, 0);
        toy.card = Toy::bytes().card;
        toy.card.add_bos = true;
        assert_eq!(estimate(&toy, &loaded, Some(&journal)).unwrap().answered, 0);
    }

    #[test]
    fn an_answer_is_taken_up_only_by_the_question_it_was_given_to() {
        let written = loaded("xquad_en", r#"{"id":"a","context":"c","question":"q","answers":["x"]}"#);
        let choices = loaded("openbookqa", CHOICES);
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&folder.path().join("journal.jsonl")).unwrap();
        for task in [&written, &choices] {
            run_all(&mut Toy::bytes(), task, Some(&mut journal)).unwrap();
        }
        let answered = |toy: &Toy, task: &Loaded| estimate(toy, task, Some(&journal)).unwrap().answered;
        assert_eq!((answered(&Toy::bytes(), &written), answered(&Toy::bytes(), &choices)), (1, 4));
        let tasks::Prompt::Generate { until, max_tokens, .. } = &written.task.prompt else { panic!("it is to write") };
        for (stops, most) in [(&until[..1], *max_tokens), (&until[..], *max_tokens + 1)] {
            let mut other = written.clone();
            if let tasks::Prompt::Generate { until, max_tokens, .. } = &mut other.task.prompt {
                (*until, *max_tokens) = (stops.to_vec(), most);
            }
            assert_eq!(answered(&Toy::bytes(), &other), 0);
        }
        // What ends a written text is no matter to choices.
        let mut ends = Toy::bytes();
        ends.card.end_tokens = vec![7];
        assert_eq!((answered(&ends, &written), answered(&ends, &choices)), (0, 4));
    }

    #[test]
    fn a_model_without_room_is_refused_before_it_is_asked() {
        let written = loaded("xquad_en", r#"{"id":"a","context":"c","question":"q","answers":["x"]}"#);
        let tasks::Prompt::Generate { max_tokens, .. } = written.task.prompt else { panic!("it is to write") };
        let mut toy = Toy::bytes();
        toy.card.max_context = max_tokens;
        check(&written, &toy.card).unwrap();
        assert_eq!(estimate(&toy, &written, None).unwrap().tokens, max_tokens as u64 + 1);
        toy.card.max_context -= 1;
        let error = check(&written, &toy.card).unwrap_err().to_string();
        assert!(error.contains("has room for") && estimate(&toy, &written, None).is_err(), "{error}");
    }

    #[test]
    fn written_text_is_cut_and_judged() {
        let lines = r#"{"id":"a","context":"c","question":"q","answers":[";<=>?@ABC"]}"#;
        let loaded = loaded("xquad_en", lines);
        // The toy counts on from ":", so it writes ";<=>?@ABCDE..." with no newline for long.
        let result = run_all(&mut Toy::bytes(), &loaded, None).unwrap();
        assert_eq!(result.metric(MetricKind::ExactMatch).unwrap().value, 0.0);
        assert_eq!(cut("one\ntwo<x>", &["<x>".into(), "\n".into()]), "one");
        assert_eq!(cut("one", &["".into(), "\n".into()]), "one");
    }
}
