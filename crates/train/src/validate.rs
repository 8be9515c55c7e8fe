//! Loss on held-out text.

use crate::error::TrainError;
use crate::recipe::Validation;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::param::values;
use recast_ops::vocab_loss::{cross_entropy, teacher_kl};
use recast_text::{Packing, PackingOptions, Shuffle, TokenStream};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::sync::Arc;

/// Rows evaluated at a time.
const BATCH: usize = 4;
/// Bytes of the teacher's hidden states that are worth keeping.
const KEPT: usize = 256 << 20;

/// What was measured on held-out text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLoss {
    /// Mean negative log-likelihood of the next token, in nats.
    pub loss: f64,
    /// Mean KL from the teacher's distribution, in nats, where there is a teacher.
    pub kl: Option<f64>,
    /// Tokens measured.
    pub tokens: u64,
}

impl HeldOutLoss {
    /// exp(loss).
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Windows of held-out text, and the teacher's hidden states on them once they were needed: the
/// teacher does not change, and computing it again is a third of a measurement.
pub struct HeldOut {
    batches: Vec<Batch>,
    teacher: RefCell<Vec<Tensor<2>>>,
}

struct Batch {
    rows: usize,
    inputs: Vec<u32>,
    targets: Arc<[u32]>,
}

impl HeldOut {
    /// The first windows of the held-out stream.
    ///
    /// # Errors
    /// When the stream is too short for a window.
    pub fn new(stream: &TokenStream, options: &Validation) -> Result<Self, TrainError> {
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
        Ok(Self { batches, teacher: RefCell::default() })
    }

    /// Mean next-token loss of `model`, and its KL from `teacher`, which must be the same at every
    /// call.
    ///
    /// # Errors
    /// When a token is outside a model's vocabulary.
    pub fn loss(&self, model: &Model, teacher: Option<&Model>) -> Result<HeldOutLoss, TrainError> {
        let (mut loss, mut kl, mut tokens) = (0.0, 0.0, 0u64);
        for (i, batch) in self.batches.iter().enumerate() {
            let hidden = flat(model.hidden(&batch.inputs, batch.rows, None, None)?);
            let sum = |x: Tensor<1>| f64::from(values(x)[0]);
            loss += sum(cross_entropy(hidden.clone(), model.head(), batch.targets.clone(), None, Some(1.0))?);
            if let Some(teacher) = teacher {
                let wanted = self.wanted(i, batch, teacher)?;
                kl += sum(teacher_kl(hidden, model.head(), wanted, teacher.head(), None, Some(1.0))?);
            }
            tokens += batch.inputs.len() as u64;
        }
        let count = tokens as f64;
        Ok(HeldOutLoss { loss: loss / count, kl: teacher.map(|_| kl / count), tokens })
    }

    /// The teacher's hidden states on a batch: kept, as long as all that are kept are small.
    fn wanted(&self, index: usize, batch: &Batch, teacher: &Model) -> Result<Tensor<2>, TrainError> {
        let mut kept = self.teacher.borrow_mut();
        if let Some(hidden) = kept.get(index) {
            return Ok(hidden.clone());
        }
        let hidden = flat(teacher.hidden(&batch.inputs, batch.rows, None, None)?);
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
