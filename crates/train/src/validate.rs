//! Loss on held-out text. `positions.rs` measures it by position in longer windows than stages are judged in.

mod positions;

pub use positions::{LongLoss, Positions};

use crate::error::TrainError;
use crate::objectives::masked_diffusion::{Draw, Noise, Source};
use crate::objectives::{MicroBatch, Objective, common_head};
use crate::optimizer::Gradients;
use crate::recipe::Validation;
use burn::tensor::Tensor;
use recast_models::likelihood::{Estimate, Quarters};
use recast_models::param::values;
use recast_models::sight::Sight;
use recast_models::state::Documents;
use recast_models::{Model, likelihood};
use recast_ops::vocab_loss::{cross_entropy, teacher_kl};
use recast_text::{Packing, PackingOptions, Shuffle, TokenStream};
use serde::{Deserialize, Deserializer, Serialize};
use std::cell::RefCell;
use std::sync::Arc;

/// Rows evaluated at a time.
const BATCH: usize = 4;
/// Bytes of the teacher's hidden states that are worth keeping.
const KEPT: usize = 256 << 20;

/// What was measured on held-out text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLoss {
    /// Mean negative log-likelihood of the next token, in nats. Of a diffusion model that was never trained to say
    /// the next token, its bound ([`Bound::alone`]).
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Mean KL from the teacher's distribution, in nats, where there is a teacher.
    pub kl: Option<f64>,
    /// Tokens measured.
    pub tokens: u64,
    /// Of a diffusion model, which is trained on it: an upper bound of the negative log-likelihood of its
    /// own way of writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// A bound of the negative log-likelihood, by the exact-count estimator with systematic counts; of a model of uniform
/// noise, by the generalised KL divergence that it is trained on, at stratified times from [`Noise::epsilon`] on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Nats a token.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Its standard error over masks.
    #[serde(deserialize_with = "or_nan")]
    pub error: f64,
    /// Masks, or noises, drawn for each window.
    pub samples: usize,
    /// Whether it is the likelihood itself: blocks of one token.
    pub exact: bool,
    /// Nats a masked token where up to a quarter of its sequence or block was masked, a half, three
    /// quarters, all.
    #[serde(default)]
    pub by_share: [Option<f64>; 4],
    /// Whether it stands for the next-token loss too: the logits speak of the token in their own place, which a causal
    /// pass has been shown.
    #[serde(default)]
    pub alone: bool,
    /// Whether it is of uniform noise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uniform: bool,
}

/// JSON has no word for what is not finite and says null.
fn or_nan<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(value)?.unwrap_or(f64::NAN))
}

impl HeldOutLoss {
    /// exp(loss).
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// What of it is infinite or not a number, if anything is.
    pub fn not_finite(&self) -> Option<f64> {
        let bound = self.bound.map(|bound| bound.loss);
        std::iter::once(self.loss).chain(bound).find(|value| !value.is_finite())
    }
}

/// Windows of held-out text, and the teacher's hidden states on them once they were needed: the
/// teacher does not change, and computing it again is a third of a measurement.
pub struct HeldOut {
    batches: Vec<Batch>,
    /// Masks a window.
    samples: usize,
    /// Whether diffusion models are trained to say the next token as well.
    next_token: bool,
    teacher: RefCell<Vec<Tensor<2>>>,
    /// What other windows are made of, and how: the text, the tokens asked for, whether documents are read one by one.
    stream: TokenStream,
    tokens: u64,
    reset: bool,
}

struct Batch {
    rows: usize,
    inputs: Vec<u32>,
    targets: Arc<[u32]>,
    /// Where state, attention and positions stop.
    documents: Option<Documents>,
    /// Weight of each position's next-token loss: 0 where the next token begins such a document.
    weights: Option<Arc<[f32]>>,
    /// Positions that count.
    count: u64,
}

impl Batch {
    /// What is read as one text: rows, or the documents in them.
    fn texts(&self) -> Vec<&[u32]> {
        let columns = self.inputs.len() / self.rows;
        let starts = self.documents.as_ref().map(Documents::starts);
        let begins = |&i: &usize| i.is_multiple_of(columns) || starts.as_ref().is_some_and(|starts| starts[i]);
        let begins: Vec<usize> = (0..self.inputs.len()).filter(begins).collect();
        let ends = begins.iter().skip(1).copied().chain([self.inputs.len()]);
        begins.iter().zip(ends).map(|(&begin, end)| &self.inputs[begin..end]).collect()
    }
}

impl HeldOut {
    /// Tokens a window.
    pub fn context(&self) -> usize {
        self.batches.first().map_or(0, |batch| batch.inputs.len() / batch.rows)
    }

    /// The first windows of the held-out stream, none longer than the tokens asked for. `next_token` says whether a
    /// diffusion model is trained to say the next token under a causal mask as well, whatever its logits speak of when it
    /// denoises; `reset`, whether documents are read one by one, as stages with `reset_documents` read them, and not one
    /// behind the other.
    ///
    /// # Errors
    /// When the stream is too short for a window.
    pub fn new(stream: &TokenStream, options: &Validation, next_token: bool, reset: bool) -> Result<Self, TrainError> {
        // A window is read whole, however few tokens are asked for; nothing says the first token of a shifted bound's.
        let most = usize::try_from(options.tokens).unwrap_or(usize::MAX).max(2);
        let context = options.context.min(most).min(stream.len().saturating_sub(1)).max(1);
        let batches = windows(stream, context, BATCH, options.tokens, reset)?;
        if batches.is_empty() {
            return Err(TrainError::Recipe("there is no held-out text to measure on".into()));
        }
        Ok(Self {
            batches,
            samples: options.samples,
            next_token,
            teacher: RefCell::default(),
            stream: stream.clone(),
            tokens: options.tokens,
            reset,
        })
    }

    /// Whether a model has a next-token loss, and not a bound alone. `trained` is as [`HeldOut::loss`] has it.
    pub fn speaks(&self, model: &Model, trained: bool) -> bool {
        says_next(model) || (self.next_token && trained)
    }

    /// Mean next-token loss of `model` where tokens see what came before, its bound where it is a diffusion
    /// model, and its KL from `teacher`, which must be the same at every call. `trained` says whether it is the model
    /// that the run trains. One whose logits do not speak of the next token has the bound alone.
    ///
    /// # Errors
    /// When a token is outside a model's vocabulary.
    pub fn loss(&self, model: &Model, teacher: Option<&Model>, trained: bool) -> Result<HeldOutLoss, TrainError> {
        let bound = model.config.diffusion.is_some().then(|| self.bound(model)).transpose()?;
        if let (Some(bound), false) = (bound, self.speaks(model, trained)) {
            let tokens = self.batches.iter().map(|batch| batch.inputs.len() as u64).sum();
            return Ok(HeldOutLoss { loss: bound.loss, kl: None, tokens, bound: Some(Bound { alone: true, ..bound }) });
        }
        let teacher = teacher.filter(|teacher| says_next(teacher));
        let (mut loss, mut kl, mut tokens) = (0.0, 0.0, 0u64);
        for (i, batch) in self.batches.iter().enumerate() {
            let documents = batch.documents.as_ref();
            let hidden = flat(model.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, documents, None)?);
            let sum = |x: Tensor<1>| f64::from(values(x)[0]);
            let weights = || batch.weights.clone();
            loss += sum(cross_entropy(hidden.clone(), model.head(), batch.targets.clone(), weights(), Some(1.0))?);
            if let Some(teacher) = teacher {
                let (wanted, head) = (self.wanted(i, batch, teacher)?, common_head(model, teacher));
                kl += sum(teacher_kl(hidden, head, wanted, teacher.head_operand(), weights(), Some(1.0))?);
            }
            tokens += batch.count;
        }
        let count = tokens as f64;
        Ok(HeldOutLoss { loss: loss / count, kl: teacher.map(|_| kl / count), tokens, bound })
    }

    /// The bound of every window, or of every document in it; each has the same masks at every call.
    fn bound(&self, model: &Model) -> Result<Bound, TrainError> {
        let (shift, uniform) = model.config.diffusion.as_ref().map_or((false, false), |d| (d.shift, d.uniform));
        let (mut nats, mut variance, mut positions, mut exact) = (0.0, 0.0, 0usize, true);
        let mut quarters = Quarters::default();
        // The first token of a shifted model's text is predicted by nothing.
        let texts = self.batches.iter().flat_map(Batch::texts).filter(|text| text.len() > usize::from(shift));
        for (seed, text) in texts.enumerate() {
            let options = likelihood::Options { samples: self.samples, seed: seed as u64, ..Default::default() };
            let estimate = match uniform {
                true => generalised_kl(model, text, options, shift)?,
                false => likelihood::estimate(model, text, 0, options)?,
            };
            nats += estimate.nats;
            variance += estimate.error.powi(2);
            positions += estimate.positions;
            exact &= estimate.exact;
            quarters.join(&estimate.quarters);
        }
        let count = positions as f64;
        let samples = if exact { 1 } else { self.samples };
        let (loss, error) = (nats / count, variance.sqrt() / count);
        Ok(Bound { loss, error, samples, exact, by_share: quarters.means(), alone: false, uniform })
    }

    /// The teacher's hidden states on a batch: kept, as long as all that are kept are small.
    fn wanted(&self, index: usize, batch: &Batch, teacher: &Model) -> Result<Tensor<2>, TrainError> {
        let mut kept = self.teacher.borrow_mut();
        if let Some(hidden) = kept.get(index) {
            return Ok(hidden.clone());
        }
        let documents = batch.documents.as_ref();
        let hidden = flat(teacher.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, documents, None)?);
        let bytes: usize = kept.iter().map(|x| x.dims().iter().product::<usize>() * size_of::<f32>()).sum();
        if kept.len() == index && bytes < KEPT {
            kept.push(hidden.clone());
        }
        Ok(hidden)
    }
}

/// The first windows of a stream, `rows` at a time, until so many tokens are in them or the stream ends.
fn windows(stream: &TokenStream, context: usize, rows: usize, tokens: u64, reset: bool) -> Result<Vec<Batch>, TrainError> {
    let packing = Packing::new(stream.clone(), PackingOptions { context, batch: rows, seed: 0, shuffle: Shuffle::None })?;
    let (mut batches, mut read) = (Vec::new(), 0u64);
    for batch in packing.sequential() {
        let rows = batch.rows;
        let pick = |shift: usize| -> Vec<u32> {
            (0..rows).flat_map(|r| batch.tokens[r * batch.columns + shift..][..context].iter().copied()).collect()
        };
        let starts = |shift: usize| -> Vec<bool> {
            (0..rows).flat_map(|r| batch.document_starts[r * batch.columns + shift..][..context].iter().copied()).collect()
        };
        let inputs = pick(0);
        // Nothing of a document before speaks of the first token of the next.
        let counts: Vec<bool> = starts(1).into_iter().map(|begins| !(reset && begins)).collect();
        read += inputs.len() as u64;
        batches.push(Batch {
            rows,
            inputs,
            targets: pick(1).into(),
            documents: reset.then(|| Documents::new(rows, context, starts(0))),
            count: counts.iter().filter(|&&counts| counts).count() as u64,
            weights: reset.then(|| counts.iter().map(|&counts| f32::from(u8::from(counts))).collect()),
        });
        if read >= tokens {
            break;
        }
    }
    Ok(batches)
}

/// The bound of a model of uniform noise: what its objective makes of a text, a pass at a time.
fn generalised_kl(model: &Model, text: &[u32], options: likelihood::Options, shift: bool) -> Result<Estimate, TrainError> {
    let noise = Noise { source: Source::Uniform, random_length: 0.0, ..Noise::default() };
    let samples = options.samples.max(1);
    let mut totals = Vec::with_capacity(samples);
    for sample in 0..samples {
        let batch = MicroBatch {
            rows: 1,
            inputs: text.to_vec(),
            targets: text.into(),
            documents: None,
            weights: None,
            denominator: text.len() as f32,
            prompt: None,
            response_share: None,
            lengths: None,
            // Times are spread over the passes.
            draw: Draw { seed: options.seed, step: 0, steps: 1, first_row: sample, rows: samples },
        };
        let objective = Objective::MaskedDiffusion;
        let loss = objective.gradients(model, None, &batch, &[], false, Some(&noise), &mut Gradients::default())?;
        totals.push(loss.value * f64::from(batch.positions()));
    }
    let nats = totals.iter().sum::<f64>() / samples as f64;
    let variance = totals.iter().map(|x| (x - nats).powi(2)).sum::<f64>() / (samples.max(2) - 1) as f64;
    Ok(Estimate {
        nats,
        error: (variance / samples as f64).sqrt(),
        positions: text.len() - usize::from(shift),
        samples,
        exact: false,
        quarters: Quarters::default(),
    })
}

fn flat(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}

/// Whether logits under a causal mask speak of the next token, as the model came.
pub(crate) fn says_next(model: &Model) -> bool {
    model.config.diffusion.as_ref().is_none_or(|diffusion| diffusion.shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::masked_diffusion::{Shape, noise};
    use burn::tensor::Device;
    use recast_models::source::{FromParams, Missing};
    use recast_models::{Diffusion, families};
    use recast_text::TokenFile;

    pub(super) const VOCABULARY: usize = 12;

    pub(super) fn model(seed: u64, diffusion: Option<Diffusion>) -> Model {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": false,
        });
        let mut config = families::parse(&config).expect("config");
        config.family = "recast".into();
        config.diffusion = diffusion;
        let model = Model::build(config, &FromParams::default(), Missing::Initialise { seed }, &Device::flex()).expect("model");
        // Far enough from uniform for what stands before to matter.
        for (name, param) in model.parameters() {
            if !name.ends_with("norm.weight") {
                param.update(&mut |x| x.iter_mut().for_each(|x| *x *= 20.0));
            }
        }
        model
    }

    /// Two documents, of which a window of 16 holds 7 and 9 tokens, and the beginning of a third.
    static TOKENS: [u32; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 9, 2, 8, 3, 7, 4, 6, 10];

    fn held_out(reset: bool) -> HeldOut {
        let file = TokenFile::from_tokens(TOKENS.to_vec(), vec![0, 7, 16], VOCABULARY).expect("tokens");
        let options = Validation { tokens: 16, context: 16, samples: 3 };
        HeldOut::new(&TokenStream::whole(Arc::new(file)), &options, false, reset).expect("text")
    }

    /// Teacher and student read each document as if it stood alone, and no first token counts.
    #[test]
    fn documents_are_measured_alone_where_stages_reset() {
        let (student, teacher) = (model(1, None), model(2, None));
        let alone = |model: &Model, text: &[u32]| -> Tensor<2> {
            flat(model.hidden_seeing(text, 1, Sight::Causal, None, None).expect("forward"))
        };
        let sum = |x: Tensor<1>| f64::from(values(x)[0]);
        let (mut loss, mut kl) = (0.0, 0.0);
        for (text, next) in [(&TOKENS[..6], &TOKENS[1..7]), (&TOKENS[7..15], &TOKENS[8..16])] {
            let (hidden, wanted) = (alone(&student, text), alone(&teacher, text));
            loss += sum(cross_entropy(hidden.clone(), student.head(), next.into(), None, Some(1.0)).expect("loss"));
            kl += sum(teacher_kl(hidden, student.head(), wanted, teacher.head_operand(), None, Some(1.0)).expect("KL"));
        }
        let reset = held_out(true).loss(&student, Some(&teacher), true).expect("loss");
        assert_eq!(reset.tokens, 14);
        assert!((reset.loss - loss / 14.0).abs() < 1e-5, "{} against {}", reset.loss, loss / 14.0);
        assert!(reset.kl.is_some_and(|found| (found - kl / 14.0).abs() < 1e-5), "{:?} against {}", reset.kl, kl / 14.0);
        let packed = held_out(false).loss(&student, Some(&teacher), true).expect("loss");
        assert!(packed.tokens == 16 && (packed.loss - reset.loss).abs() > 1e-4, "{packed:?} against {reset:?}");

        let denoiser = model(1, Some(Diffusion { mask_token: 11, block: None, shift: false, uniform: false }));
        let nats = [&TOKENS[..7], &TOKENS[7..16]].into_iter().zip(0..).map(|(text, seed)| {
            let options = likelihood::Options { samples: 3, seed, ..Default::default() };
            likelihood::estimate(&denoiser, text, 0, options).expect("estimate").nats
        });
        let (found, wanted) = (held_out(true).loss(&denoiser, None, true).expect("loss"), nats.sum::<f64>() / 16.0);
        assert!(found.tokens == 16 && (found.loss - wanted).abs() < 1e-5, "{found:?} against {wanted}");
    }

    #[test]
    fn a_window_is_no_longer_than_the_tokens_asked_for() {
        let file = TokenFile::from_tokens((0..4001).map(|i| i % 7).collect(), vec![0], VOCABULARY).expect("tokens");
        let stream = TokenStream::whole(Arc::new(file));
        let measured = |tokens, context| {
            let options = Validation { tokens, context, samples: 1 };
            let held_out = HeldOut::new(&stream, &options, false, false).expect("text");
            held_out.batches.iter().map(|batch| batch.inputs.len()).sum::<usize>()
        };
        assert_eq!((measured(20, 100_000), measured(20, 10)), (20 * BATCH, 10 * BATCH));
    }

    /// A model of uniform noise is not asked about masks, which it has never seen.
    #[test]
    fn uniform_noise_is_measured_by_its_own_bound() {
        let model = model(1, Some(Diffusion { mask_token: 11, block: None, shift: false, uniform: true }));
        let head = model.parameters().into_iter().find(|(name, _)| name == "lm_head.weight").expect("head").1;
        head.update(&mut |x| x.fill(0.0));
        let found = held_out(false).loss(&model, None, true).expect("loss");
        // Every token has the same probability.
        let options = Noise { source: Source::Uniform, random_length: 0.0, ..Noise::default() };
        let shape = Shape { columns: 16, block: None, mask_token: 11, vocabulary: VOCABULARY };
        let p = 1.0 / VOCABULARY as f64;
        let mut nats = 0.0;
        for first_row in 0..3 {
            let draw = Draw { seed: 0, step: 0, steps: 1, first_row, rows: 3 };
            let noisy = noise(&TOKENS[..16], None, &options, shape, draw);
            for (i, &weight) in noisy.weights.iter().enumerate() {
                let changed = noisy.tokens[i] != TOKENS[i];
                nats += f64::from(weight) * if changed { -p - p.ln() } else { 1.0 - p };
            }
        }
        let wanted = nats / 3.0 / 16.0;
        let bound = found.bound.expect("a bound");
        assert!((bound.loss - wanted).abs() < 1e-4 * wanted, "{bound:?} against {wanted}");
        assert!(bound.uniform && bound.alone && bound.samples == 3 && bound.by_share == [None; 4], "{bound:?}");
        assert_eq!(held_out(false).loss(&model, None, true).expect("loss"), found);
    }

    #[test]
    fn a_loss_that_is_no_number_is_read_back() {
        let bound = Bound { loss: f64::INFINITY, error: f64::NAN, ..Bound::default() };
        for loss in [
            HeldOutLoss { loss: f64::NAN, ..HeldOutLoss::default() },
            HeldOutLoss { loss: 2.5, bound: Some(bound), ..HeldOutLoss::default() },
        ] {
            assert!(loss.not_finite().is_some());
            let json = serde_json::to_string(&loss).expect("JSON");
            let again: HeldOutLoss = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json}: {e}"));
            assert!(again.not_finite().is_some_and(f64::is_nan), "{again:?}");
        }
        // One mask has no error.
        let bound = Bound { error: f64::NAN, ..Bound::default() };
        assert_eq!(HeldOutLoss { loss: 2.5, bound: Some(bound), ..HeldOutLoss::default() }.not_finite(), None);
    }
}
