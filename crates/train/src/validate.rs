//! Loss on held-out text.

use crate::error::TrainError;
use crate::recipe::Validation;
use burn::tensor::Tensor;
use recast_models::Model;
use recast_models::param::values;
use recast_ops::vocab_loss::{cross_entropy, teacher_kl};
use recast_text::{Packing, PackingOptions, Shuffle, TokenStream};
use serde::{Deserialize, Serialize};

/// Rows evaluated at a time.
const BATCH: usize = 4;

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

/// Mean next-token loss of `model` over the first windows of the held-out stream, and its KL from
/// `teacher`.
///
/// # Errors
/// When the stream is too short for a window.
pub fn held_out_loss(model: &Model, teacher: Option<&Model>, stream: &TokenStream, options: &Validation) -> Result<HeldOutLoss, TrainError> {
    let context = options.context.min(stream.len().saturating_sub(1)).max(1);
    let packing = Packing::new(
        stream.clone(),
        PackingOptions { context, batch: BATCH, seed: 0, shuffle: Shuffle::None, reset_positions: false },
    )?;
    let (mut loss, mut kl, mut tokens) = (0.0, 0.0, 0u64);
    for batch in packing.sequential() {
        let rows = batch.rows;
        let pick = |shift: usize| -> Vec<u32> {
            (0..rows).flat_map(|r| batch.tokens[r * batch.columns + shift..][..context].iter().copied()).collect()
        };
        let inputs = pick(0);
        let hidden = flat(model.hidden(&inputs, rows, None, None)?);
        let sum = |x: Tensor<1>| f64::from(values(x)[0]);
        loss += sum(cross_entropy(hidden.clone(), model.head(), pick(1).into(), None, Some(1.0))?);
        if let Some(teacher) = teacher {
            let wanted = flat(teacher.hidden(&inputs, rows, None, None)?);
            kl += sum(teacher_kl(hidden, model.head(), wanted, teacher.head(), None, Some(1.0))?);
        }
        tokens += inputs.len() as u64;
        if tokens >= options.tokens {
            break;
        }
    }
    if tokens == 0 {
        return Err(TrainError::Recipe("there is no held-out text to measure on".into()));
    }
    let count = tokens as f64;
    Ok(HeldOutLoss { loss: loss / count, kl: teacher.map(|_| kl / count), tokens })
}

fn flat(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}
