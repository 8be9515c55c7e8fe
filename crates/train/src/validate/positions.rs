//! Loss by position in windows longer than those that stages are judged in: whether the student uses what stands far
//! before as its teacher does.

use super::{HeldOut, flat, or_nan, says_next, windows};
use crate::error::TrainError;
use recast_models::Model;
use recast_models::param::values;
use recast_models::sight::Sight;
use recast_ops::vocab_loss::token_log_probabilities;
use serde::{Deserialize, Serialize};

/// Positions that are counted together at the beginning of a window; each later group reaches twice as far.
const FIRST: usize = 64;

/// What was measured on held-out text in windows of the longest stage's context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LongLoss {
    /// Tokens a window.
    pub context: usize,
    /// Tokens measured.
    pub tokens: u64,
    /// Mean negative log-likelihood of the next token by the finished student, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub student: f64,
    /// By the teacher, on the same windows, where there is one that says the next token.
    pub teacher: Option<f64>,
    /// Tokens of the longest sequence that the teacher was trained on, as its config has it, where a longer one was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_trained: Option<usize>,
    /// Whether documents were read one by one, as the last stage reads them: a position is then one in its document.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// The same by position: 0 to 63, 64 to 127, 128 to 255, and so on. Groups without a token are left out.
    pub by_position: Vec<Positions>,
}

/// The losses of a [`LongLoss`] at some positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Positions {
    /// The first of them, counted from 0.
    pub first: usize,
    /// The last of them.
    pub last: usize,
    /// Tokens measured there.
    pub tokens: u64,
    /// The student's mean, in nats.
    #[serde(deserialize_with = "or_nan")]
    pub student: f64,
    /// The teacher's mean, in nats.
    pub teacher: Option<f64>,
}

impl LongLoss {
    /// How it was measured, in words.
    pub fn conditions(&self) -> String {
        let documents = match self.reset {
            true => ", documents read one by one: positions are those in a document",
            false => "",
        };
        format!("windows of {} tokens, {} tokens in all{documents}{}", self.context, self.tokens, self.beyond_text())
    }

    /// What has to be said beside the teacher's loss; nothing where its training reached as far.
    pub fn beyond_text(&self) -> String {
        let text = |longest: usize| format!("; beyond the {longest} tokens that the teacher's config says it was trained on");
        self.teacher_trained.map_or_else(String::new, text)
    }
}

impl HeldOut {
    /// Next-token loss of `student`, and of `teacher` where that says the next token, by position in windows of `context`
    /// tokens, read one at a time. No more tokens are read than the run's other measurements were asked for; none where no
    /// window fits into these, or into the text, or every token there begins a document that is read alone.
    ///
    /// # Errors
    /// When a token is outside a model's vocabulary.
    pub fn long(&self, context: usize, student: &Model, teacher: Option<&Model>) -> Result<Option<LongLoss>, TrainError> {
        let most = usize::try_from(self.tokens).unwrap_or(usize::MAX).min(self.stream.len().saturating_sub(1));
        let whole = most - most % context.max(1);
        if context == 0 || whole == 0 {
            return Ok(None);
        }
        let teacher = teacher.filter(|teacher| says_next(teacher));
        let mut sums = vec![Sum::default(); group(context - 1) + 1];
        let mut longest = 0;
        for batch in windows(&self.stream, context, 1, whole as u64, self.reset)? {
            let nats = |model: &Model| -> Result<Vec<f64>, TrainError> {
                let hidden = model.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, batch.documents.as_ref(), None)?;
                let scores = token_log_probabilities(flat(hidden), model.head_operand(), batch.targets.clone())?;
                Ok(values(scores.log_probabilities).into_iter().map(|x| -f64::from(x)).collect())
            };
            let by_student = nats(student)?;
            let by_teacher = teacher.map(nats).transpose()?;
            // In its document, where state and attention stop at its beginning.
            let within = batch.documents.as_ref().map(|documents| documents.positions());
            for (i, &student) in by_student.iter().enumerate() {
                if batch.weights.as_ref().is_some_and(|weights| weights[i] == 0.0) {
                    continue;
                }
                let position = within.as_ref().map_or(i, |within| within[i] as usize);
                longest = longest.max(position + 1);
                let teacher = by_teacher.as_ref().map_or(0.0, |nats| nats[i]);
                sums[group(position)].add(&Sum { tokens: 1, student, teacher });
            }
        }
        let mut all = Sum::default();
        sums.iter().for_each(|sum| all.add(sum));
        if all.tokens == 0 {
            return Ok(None);
        }
        let taught = |sum: &Sum| teacher.map(|_| sum.teacher / sum.tokens as f64);
        let by_position = sums.iter().enumerate().filter(|(_, sum)| sum.tokens > 0).map(|(group, sum)| Positions {
            first: if group == 0 { 0 } else { FIRST << (group - 1) },
            last: (FIRST << group).min(context) - 1,
            tokens: sum.tokens,
            student: sum.student / sum.tokens as f64,
            teacher: taught(sum),
        });
        Ok(Some(LongLoss {
            context,
            tokens: all.tokens,
            student: all.student / all.tokens as f64,
            teacher: taught(&all),
            teacher_trained: teacher.map(|teacher| teacher.config.max_positions).filter(|&trained| trained < longest),
            reset: self.reset,
            by_position: by_position.collect(),
        }))
    }
}

/// Losses at some positions, in nats.
#[derive(Clone, Copy, Default)]
struct Sum {
    tokens: u64,
    student: f64,
    teacher: f64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.student += other.student;
        self.teacher += other.teacher;
    }
}

/// The group that a position is counted in.
fn group(position: usize) -> usize {
    (position / FIRST).checked_ilog2().map_or(0, |power| power as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{VOCABULARY, model};
    use super::*;
    use crate::recipe::Validation;
    use burn::tensor::Tensor;
    use recast_ops::vocab_loss::cross_entropy;
    use recast_text::{TokenFile, TokenStream};
    use std::sync::Arc;

    /// Text of 301 tokens, with documents that begin at 90 and 150.
    fn text() -> Vec<u32> {
        (0..301u32).map(|i| (i * i + i / 7) % 11).collect()
    }

    fn held_out(tokens: u64, reset: bool) -> HeldOut {
        let file = TokenFile::from_tokens(text(), vec![0, 90, 150], VOCABULARY).expect("tokens");
        HeldOut::new(&TokenStream::whole(Arc::new(file)), &Validation { tokens, context: 16, samples: 1 }, false, reset)
            .expect("text")
    }

    /// Loss of the tokens behind each of `text[from..to]`, which is read alone, summed over positions from `first` to before
    /// `end` in it.
    fn plain(model: &Model, (from, to): (usize, usize), first: usize, end: usize) -> f64 {
        let text = text();
        let hidden: Tensor<2> = flat(model.hidden_seeing(&text[from..to], 1, Sight::Causal, None, None).expect("forward"));
        let (end, width) = (end.min(to - from), hidden.dims()[1]);
        let targets: Vec<u32> = text[from + 1 + first..from + 1 + end].to_vec();
        let hidden = hidden.slice([first..end, 0..width]);
        f64::from(values(cross_entropy(hidden, model.head(), targets.into(), None, Some(1.0)).expect("loss"))[0])
    }

    fn close(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() < 1e-4 * wanted.abs()
    }

    #[test]
    fn groups_of_positions_double() {
        let groups = [0, 63, 64, 127, 128, 255, 256, 2047, 2048].map(group);
        assert_eq!(groups, [0, 0, 1, 1, 2, 2, 3, 5, 6]);
    }

    /// Against both models on the same windows, one by one.
    #[test]
    fn groups_add_up_to_a_plain_measurement() {
        let (student, mut teacher) = (model(1, None), model(2, None));
        let measured = |teacher: &Model| held_out(250, false).long(100, &student, Some(teacher)).expect("loss").expect("fits");
        let long = measured(&teacher);
        assert_eq!((long.context, long.tokens, long.reset, long.teacher_trained), (100, 200, false, None));
        let groups: Vec<(usize, usize, u64)> = long.by_position.iter().map(|at| (at.first, at.last, at.tokens)).collect();
        assert_eq!(groups, [(0, 63, 128), (64, 99, 72)]);
        for (at, (first, end)) in long.by_position.iter().zip([(0, 64), (64, 100)]) {
            let sum = |model: &Model| plain(model, (0, 100), first, end) + plain(model, (100, 200), first, end);
            assert!(close(at.student, sum(&student) / at.tokens as f64), "{long:?}");
            assert!(at.teacher.is_some_and(|found| close(found, sum(&teacher) / at.tokens as f64)), "{long:?}");
        }
        let sum = |of: &dyn Fn(&Positions) -> f64| long.by_position.iter().map(|at| of(at) * at.tokens as f64).sum::<f64>();
        assert!(close(long.student, sum(&|at: &Positions| at.student) / 200.0), "{long:?}");
        let by_teacher = sum(&|at: &Positions| at.teacher.unwrap_or(f64::NAN)) / 200.0;
        assert!(long.teacher.is_some_and(|found| close(found, by_teacher)), "{long:?}");
        assert_ne!(long.teacher, Some(long.student));
        assert_eq!(measured(&teacher), long, "the same bits");

        assert!(!long.conditions().contains("beyond"), "{}", long.conditions());
        teacher.config.max_positions = 99;
        let beyond = measured(&teacher);
        assert_eq!(beyond.teacher_trained, Some(99));
        assert!(beyond.conditions().contains("beyond the 99 tokens"), "{}", beyond.conditions());
    }

    /// A position is what was read of a document before, as no more than that is seen, and no first token counts.
    #[test]
    fn documents_are_measured_alone_where_stages_reset() {
        let (student, mut teacher) = (model(1, None), model(2, None));
        teacher.config.max_positions = 95;
        let long = held_out(200, true).long(100, &student, Some(&teacher)).expect("loss").expect("fits");
        // The document that begins at 90 goes on in the second window, where its beginning is not seen.
        let groups: Vec<(usize, usize, u64)> = long.by_position.iter().map(|at| (at.first, at.last, at.tokens)).collect();
        assert_eq!((long.tokens, groups), (198, vec![(0, 63, 173), (64, 99, 25)]));
        assert!(long.reset && long.teacher_trained.is_none() && long.conditions().contains("in a document"), "{long:?}");
        let far = plain(&student, (0, 90), 64, 89);
        assert!(close(long.by_position[1].student, far / 25.0), "{long:?}");
        let near = plain(&student, (0, 90), 0, 64)
            + plain(&student, (90, 100), 0, 10)
            + plain(&student, (100, 150), 0, 49)
            + plain(&student, (150, 200), 0, 50);
        assert!(close(long.student, (near + far) / 198.0), "{long:?}");
    }

    #[test]
    fn windows_that_do_not_fit_are_none() {
        let student = model(1, None);
        let fits = |tokens, context| held_out(tokens, false).long(context, &student, None).expect("loss").map(|long| long.tokens);
        assert_eq!((fits(99, 100), fits(100, 100), fits(10_000, 100)), (None, Some(100), Some(300)));
        // The last token of a text is only ever a target.
        assert_eq!((fits(10_000, 300), fits(10_000, 301), fits(10_000, 0)), (Some(300), None, None));
    }

    #[test]
    fn text_of_first_tokens_alone_has_no_loss() {
        let student = model(1, None);
        let file = Arc::new(TokenFile::from_tokens(text(), (0..301).collect(), VOCABULARY).expect("tokens"));
        let measured = |reset| {
            let options = Validation { tokens: 200, context: 16, samples: 1 };
            let held_out = HeldOut::new(&TokenStream::whole(file.clone()), &options, false, reset).expect("text");
            held_out.long(100, &student, None).expect("loss").map(|long| long.tokens)
        };
        assert_eq!((measured(true), measured(false)), (None, Some(200)));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = held_out(300, false).long(100, &model(1, None), None).expect("loss").expect("fits");
        let json = serde_json::to_string(&long).expect("JSON");
        assert_eq!(serde_json::from_str::<LongLoss>(&json).expect("reads"), long);
        let diverged = serde_json::to_string(&LongLoss { student: f64::NAN, ..long }).expect("JSON");
        assert!(serde_json::from_str::<LongLoss>(&diverged).expect("reads").student.is_nan());
    }
}
