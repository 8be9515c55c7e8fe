//! Loss on held-out text.

use crate::error::TrainError;
use crate::objectives::common_head;
use crate::recipe::Validation;
use burn::tensor::Tensor;
use recast_models::likelihood::Quarters;
use recast_models::param::values;
use recast_models::sight::Sight;
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

/// A bound of the negative log-likelihood, by the exact-count estimator with systematic counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Nats a token.
    #[serde(deserialize_with = "or_nan")]
    pub loss: f64,
    /// Its standard error over masks.
    #[serde(deserialize_with = "or_nan")]
    pub error: f64,
    /// Masks drawn for each window.
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
}

/// JSON has no word for what is not finite and says null.
fn or_nan<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(value)?.unwrap_or(f64::NAN))
}

impl Bound {
    /// [`Bound::by_share`] as a text.
    fn shares_text(&self) -> String {
        let text = |nats: &Option<f64>| nats.map_or("none".into(), |nats| format!("{nats:.2}"));
        self.by_share.iter().map(text).collect::<Vec<String>>().join(", ")
    }
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

    /// The bound with what has to be said beside it; nothing for a next-token model.
    pub fn bound_text(&self) -> String {
        match self.bound {
            None => String::new(),
            Some(bound) if bound.exact && bound.alone => {
                format!(", likelihood of its own order {:.4} nats a token, which the perplexity is of", bound.loss)
            }
            Some(bound) if bound.exact => format!(", likelihood of its own order {:.4} nats a token", bound.loss),
            Some(bound) => {
                let next = match bound.alone {
                    true => "the perplexity is of this, as it says no next token".to_owned(),
                    false => format!("next token {:.4}", self.loss),
                };
                format!(
                    ", diffusion bound {:.4} +- {:.4} nats a token ({next}; exact-count form, {} masks a window; \
                     a masked token, by the quarter masked: {})",
                    bound.loss,
                    bound.error,
                    bound.samples,
                    bound.shares_text()
                )
            }
        }
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
}

struct Batch {
    rows: usize,
    inputs: Vec<u32>,
    targets: Arc<[u32]>,
}

impl HeldOut {
    /// The first windows of the held-out stream. `next_token` says whether a diffusion model is trained to say the
    /// next token under a causal mask as well, whatever its logits speak of when it denoises.
    ///
    /// # Errors
    /// When the stream is too short for a window.
    pub fn new(stream: &TokenStream, options: &Validation, next_token: bool) -> Result<Self, TrainError> {
        let context = options.context.min(stream.len().saturating_sub(1)).max(1);
        let packing = Packing::new(
            stream.clone(),
            PackingOptions { context, batch: BATCH, seed: 0, shuffle: Shuffle::None, reset_positions: false },
        )?;
        let (mut batches, mut tokens) = (Vec::new(), 0u64);
        for batch in packing.sequential() {
            let rows = batch.rows;
            let pick = |shift: usize| -> Vec<u32> {
                (0..rows).flat_map(|r| batch.tokens[r * batch.columns + shift..][..context].iter().copied()).collect()
            };
            let inputs = pick(0);
            tokens += inputs.len() as u64;
            batches.push(Batch { rows, inputs, targets: pick(1).into() });
            if tokens >= options.tokens {
                break;
            }
        }
        if tokens == 0 {
            return Err(TrainError::Recipe("there is no held-out text to measure on".into()));
        }
        Ok(Self { batches, samples: options.samples, next_token, teacher: RefCell::default() })
    }

    /// Mean next-token loss of `model` where tokens see what came before, its bound where it is a diffusion
    /// model, and its KL from `teacher`, which must be the same at every call. `trained` says whether it is the model
    /// that the run trains. One whose logits do not speak of the next token has the bound alone.
    ///
    /// # Errors
    /// When a token is outside a model's vocabulary.
    pub fn loss(&self, model: &Model, teacher: Option<&Model>, trained: bool) -> Result<HeldOutLoss, TrainError> {
        let bound = model.config.diffusion.is_some().then(|| self.bound(model)).transpose()?;
        let speaks = says_next(model) || (self.next_token && trained);
        if let (Some(bound), false) = (bound, speaks) {
            let tokens = self.batches.iter().map(|batch| batch.inputs.len() as u64).sum();
            return Ok(HeldOutLoss { loss: bound.loss, kl: None, tokens, bound: Some(Bound { alone: true, ..bound }) });
        }
        let teacher = teacher.filter(|teacher| says_next(teacher));
        let (mut loss, mut kl, mut tokens) = (0.0, 0.0, 0u64);
        for (i, batch) in self.batches.iter().enumerate() {
            let hidden = flat(model.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, None, None)?);
            let sum = |x: Tensor<1>| f64::from(values(x)[0]);
            loss += sum(cross_entropy(hidden.clone(), model.head(), batch.targets.clone(), None, Some(1.0))?);
            if let Some(teacher) = teacher {
                let wanted = self.wanted(i, batch, teacher)?;
                kl += sum(teacher_kl(hidden, common_head(model, teacher), wanted, teacher.head_operand(), None, Some(1.0))?);
            }
            tokens += batch.inputs.len() as u64;
        }
        let count = tokens as f64;
        Ok(HeldOutLoss { loss: loss / count, kl: teacher.map(|_| kl / count), tokens, bound })
    }

    /// The bound of every window; each has the same masks at every call.
    fn bound(&self, model: &Model) -> Result<Bound, TrainError> {
        let (mut nats, mut variance, mut positions, mut exact) = (0.0, 0.0, 0usize, true);
        let mut quarters = Quarters::default();
        let windows = self.batches.iter().flat_map(|b| b.inputs.chunks(b.inputs.len() / b.rows));
        for (seed, window) in windows.enumerate() {
            let options = likelihood::Options { samples: self.samples, seed: seed as u64, ..Default::default() };
            let estimate = likelihood::estimate(model, window, 0, options)?;
            nats += estimate.nats;
            variance += estimate.error.powi(2);
            positions += estimate.positions;
            exact &= estimate.exact;
            quarters.join(&estimate.quarters);
        }
        let count = positions as f64;
        let samples = if exact { 1 } else { self.samples };
        let (loss, error) = (nats / count, variance.sqrt() / count);
        Ok(Bound { loss, error, samples, exact, by_share: quarters.means(), alone: false })
    }

    /// The teacher's hidden states on a batch: kept, as long as all that are kept are small.
    fn wanted(&self, index: usize, batch: &Batch, teacher: &Model) -> Result<Tensor<2>, TrainError> {
        let mut kept = self.teacher.borrow_mut();
        if let Some(hidden) = kept.get(index) {
            return Ok(hidden.clone());
        }
        let hidden = flat(teacher.hidden_seeing(&batch.inputs, batch.rows, Sight::Causal, None, None)?);
        let bytes: usize = kept.iter().map(|x| x.dims().iter().product::<usize>() * size_of::<f32>()).sum();
        if kept.len() == index && bytes < KEPT {
            kept.push(hidden.clone());
        }
        Ok(hidden)
    }
}

fn flat(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}

/// Whether logits under a causal mask speak of the next token, as the model came.
fn says_next(model: &Model) -> bool {
    model.config.diffusion.as_ref().is_none_or(|diffusion| diffusion.shift)
}

#[cfg(test)]
mod tests {
    use super::*;

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
