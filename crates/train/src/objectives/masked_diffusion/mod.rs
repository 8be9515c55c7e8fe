//! Masked diffusion: tell the masked tokens from those that are left (LLaDA, arXiv 2502.09992).
//!
//! ```text
//! loss = 1 / (B L) sum over masked positions of w(t) (-ln p(x_i | noisy x)),   w = -alpha'/(1 - alpha)
//! ```
//!
//! in nats a token, an upper bound of the next-token loss's counterpart: a model that knows nothing has
//! ln V. A model that denoises blocks sees each noisy block behind the clean ones before it (BD3-LM,
//! arXiv 2503.09573), softmax by a mask, recurrences by the state at the block's beginning. With uniform
//! noise instead of masks it is discrete flow matching (arXiv 2407.15595). `options.rs` says what there
//! is to choose, `noise.rs` draws.
//!
//! Masks leave visible positions without a loss: what the logits there say, which revising written tokens
//! goes by (`generate --edit`), no choice of masks trains.

mod noise;
mod options;

pub use noise::{Draw, Noisy, Shape, noise};
pub use options::{Noise, NoiseSchedule, Padding, Per, Source, Times, Weighting};

use super::{Loss, MicroBatch};
use crate::error::TrainError;
use crate::optimizer::Gradients;
use burn::tensor::{Int, Tensor, TensorData};
use recast_models::mixers::find;
use recast_models::param::{Named, track, values};
use recast_models::random::Random;
use recast_models::sight::Sight;
use recast_models::state::Documents;
use recast_models::{Diffusion, MixerSpec, Model};
use recast_ops::vocab_loss::{cross_entropy, token_log_probabilities};

/// Loss and gradients of a micro-batch.
pub fn gradients(
    student: &Model,
    batch: &MicroBatch,
    trainable: &[Named],
    options: &Noise,
    out: &mut Gradients,
) -> Result<Loss, TrainError> {
    track(trainable);
    let result = loss(student, batch, options).map(|(total, parts)| {
        let value = total.clone().without_autodiff();
        if total.is_tracked() {
            let mut gradients = total.backward();
            out.collect(trainable, &mut gradients);
        }
        Loss { value: f64::from(value.into_scalar::<f32>()), layers: Vec::new(), parts }
    });
    trainable.iter().for_each(|(_, p)| {
        p.untrack(None);
    });
    result
}

/// A micro-batch's rows as this objective reads them.
struct Rows {
    rows: usize,
    columns: usize,
    clean: Vec<u32>,
    /// Factor on every weight: what a cut sequence counts more.
    scale: f32,
    documents: Option<Documents>,
    lengths: Option<Vec<usize>>,
}

impl Rows {
    fn new(batch: &MicroBatch, options: &Noise) -> Self {
        let (rows, whole) = (batch.rows, batch.inputs.len() / batch.rows);
        let mut columns = whole;
        let name = format!("length {} {}", batch.draw.step, batch.draw.first_row);
        let mut random = Random::new(batch.draw.seed, &name);
        // Pairs have lengths of their own.
        if options.random_length > 0.0 && batch.prompt.is_none() && random.uniform() < options.random_length {
            columns = 1 + (random.bits() % whole as u64) as usize;
        }
        let copies = if options.complementary { 2 } else { 1 };
        let starts = batch.documents.as_ref().map(Documents::starts);
        let (mut clean, mut flags) = (Vec::new(), Vec::new());
        for row in 0..rows {
            for _ in 0..copies {
                clean.extend_from_slice(&batch.inputs[row * whole..][..columns]);
                flags.extend(starts.iter().flat_map(|s| s[row * whole..][..columns].iter().copied()));
            }
        }
        let lengths = batch.lengths.as_ref().map(|lengths| -> Vec<usize> {
            lengths.iter().flat_map(|&length| std::iter::repeat_n(length.min(columns), copies)).collect()
        });
        let rows = rows * copies;
        Self {
            rows,
            columns,
            clean,
            scale: whole as f32 / (columns * copies) as f32,
            documents: starts.map(|_| Documents::new(rows, columns, flags)),
            lengths,
        }
    }
}

/// Hidden states that predict, and which of them predicts what.
struct Predictions {
    /// `[n, C]`
    hidden: Tensor<2>,
    /// The row of `hidden` that predicts each position of the batch; none: nothing does.
    of: Vec<Option<usize>>,
}

fn loss(student: &Model, batch: &MicroBatch, options: &Noise) -> Result<(Tensor<1>, Vec<(String, f64)>), TrainError> {
    let Some(diffusion) = student.config.diffusion.clone() else {
        return Err(TrainError::Recipe("masked-diffusion: the student is a next-token model; set student.diffusion".into()));
    };
    let block = options.block_at(&diffusion, batch.draw.step, batch.draw.steps);
    let rows = Rows::new(batch, options);
    let kept = batch.prompt.as_ref().map(|prompt| -> Vec<bool> {
        let whole = prompt.len() / batch.rows;
        (0..batch.rows).flat_map(|row| prompt[row * whole..][..rows.columns].iter().copied()).collect()
    });
    let single: Vec<u32> = match options.complementary {
        false => rows.clean.clone(),
        true => rows.clean.chunks(rows.columns).step_by(2).flatten().copied().collect(),
    };
    let shape = Shape { columns: rows.columns, block, mask_token: diffusion.mask_token, vocabulary: student.config.vocabulary };
    let noisy = noise(&single, kept.as_deref(), options, shape, batch.draw);
    let (predictions, clean) = predict(student, &rows, &noisy, &diffusion, block)?;
    // All positions of the batch; of a response, its own.
    let denominator = batch.positions();
    let factor = |position: usize| -> f32 {
        let own = batch.response_share.as_ref().map_or(1.0, |shares| {
            let row = position / rows.columns / if options.complementary { 2 } else { 1 };
            shares[row]
        });
        rows.scale * own
    };
    let mut picked = Picked::default();
    for (i, (&weight, place)) in noisy.weights.iter().zip(&predictions.of).enumerate() {
        if let (true, Some(place)) = (weight != 0.0, place) {
            picked.push(*place, i, weight * factor(i));
        }
    }
    let hidden = |picked: &Picked| picked.select(&predictions.hidden);
    let mut parts = Vec::new();
    let mut total: Option<Tensor<1>> = None;
    let mut add = |name: &str, value: f64, loss: Tensor<1>| {
        parts.push((name.to_owned(), value));
        total = Some(match total.take() {
            Some(total) => total + loss,
            None => loss,
        });
    };
    if !picked.places.is_empty() {
        let targets = |ids: &[u32]| picked.positions.iter().map(|&i| ids[i]).collect::<Vec<u32>>();
        let bound = options.source == Source::Uniform && options.loss == Weighting::Bound;
        let hidden = hidden(&picked);
        if bound {
            let (value, loss) =
                generalised_kl(student, hidden, &picked, &targets(&rows.clean), &targets(&noisy.tokens), denominator)?;
            add("diffusion", value, loss);
        } else {
            let weights = Some(picked.weights.clone().into());
            let loss = cross_entropy(hidden, student.head(), targets(&rows.clean).into(), weights, Some(denominator))?;
            add("diffusion", scalar(&loss), loss);
        }
    }
    if options.next_token > 0.0 {
        let loss = next_token(student, batch, &rows, clean, options, block, denominator)?;
        let value = scalar(&loss);
        add("next-token", value, loss.mul_scalar(options.next_token as f32));
    }
    match total {
        Some(total) => Ok((total, parts)),
        // By chance nothing was masked: a loss of zero, without a gradient.
        None => Ok((Tensor::zeros([1], student.device()), parts)),
    }
}

fn scalar(x: &Tensor<1>) -> f64 {
    f64::from(values(x.clone().without_autodiff())[0])
}

fn flat(x: Tensor<3>) -> Tensor<2> {
    let [b, t, c] = x.dims();
    x.reshape([b * t, c])
}

/// Runs the model; also the clean stream's hidden states, where there is one.
fn predict(
    student: &Model,
    rows: &Rows,
    noisy: &Noisy,
    diffusion: &Diffusion,
    block: Option<usize>,
) -> Result<(Predictions, Option<Tensor<3>>), TrainError> {
    let documents = rows.documents.as_ref();
    let count = rows.rows * rows.columns;
    let (hidden, clean) = match block {
        None => (student.hidden_seeing(&noisy.tokens, rows.rows, Sight::Whole, documents, rows.lengths.as_deref())?, None),
        // Blocks of one, each predicted by the clean token before it: nothing reads the noisy stream.
        Some(1) if diffusion.shift => {
            let clean = student.hidden_seeing(&rows.clean, rows.rows, Sight::Causal, documents, None)?;
            (clean.clone(), Some(clean))
        }
        Some(block) => {
            let [clean, noisy] = student.two_streams(&rows.clean, &noisy.tokens, rows.rows, block, documents)?;
            (noisy, Some(clean))
        }
    };
    if !diffusion.shift {
        return Ok((Predictions { hidden: flat(hidden), of: (0..count).map(Some).collect() }, clean));
    }
    // A token is predicted one position before; a block's first by the clean one before it. The first
    // token of a document by nothing.
    let starts = documents.map(Documents::starts);
    let of = (0..count).map(|i| {
        let t = i % rows.columns;
        if t == 0 || starts.as_ref().is_some_and(|s| s[i]) {
            None
        } else if block.is_some_and(|block| block > 1 && t.is_multiple_of(block)) {
            Some(count + i - 1)
        } else {
            Some(i - 1)
        }
    });
    let of = of.collect();
    let hidden = match &clean {
        Some(clean) if block != Some(1) => Tensor::cat(vec![flat(hidden), flat(clean.clone())], 0),
        _ => flat(hidden),
    };
    Ok((Predictions { hidden, of }, clean))
}

/// Positions with a loss: only they go through the head.
#[derive(Default)]
struct Picked {
    /// Rows of the hidden states.
    places: Vec<i32>,
    /// Positions of the batch.
    positions: Vec<usize>,
    weights: Vec<f32>,
}

impl Picked {
    fn push(&mut self, place: usize, position: usize, weight: f32) {
        self.places.push(place as i32);
        self.positions.push(position);
        self.weights.push(weight);
    }

    fn select(&self, hidden: &Tensor<2>) -> Tensor<2> {
        let device = hidden.device().inner();
        let places = TensorData::new(self.places.clone(), [self.places.len()]);
        hidden.clone().select(0, Tensor::<1, Int>::from_data(places, &device))
    }
}

/// `-w [ p(x_t) - 1{x_t = x_1} + 1{x_t != x_1} ln p(x_1) ]` (discrete flow matching's generalised KL).
/// The gradient of `p(x_t)` is `p(x_t)` times that of its logarithm, so that two cross-entropies give
/// it; their value is not the loss's, which is returned beside them.
fn generalised_kl(
    student: &Model,
    hidden: Tensor<2>,
    picked: &Picked,
    clean: &[u32],
    noisy: &[u32],
    denominator: f32,
) -> Result<(f64, Tensor<1>), TrainError> {
    let score = |ids: &[u32]| -> Result<Vec<f32>, TrainError> {
        Ok(values(token_log_probabilities(hidden.clone(), student.head_operand(), ids.to_vec().into())?.log_probabilities))
    };
    let (of_noisy, of_clean) = (score(noisy)?, score(clean)?);
    let mut value = 0.0;
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for (i, &weight) in picked.weights.iter().enumerate() {
        let changed = clean[i] != noisy[i];
        let probability = of_noisy[i].exp();
        let inside = if changed { probability + of_clean[i] } else { probability - 1.0 };
        value -= f64::from(weight) * f64::from(inside);
        up.push(if changed { weight } else { 0.0 });
        down.push(weight * probability);
    }
    let toward = cross_entropy(hidden.clone(), student.head(), clean.to_vec().into(), Some(up.into()), Some(denominator))?;
    let away = cross_entropy(hidden, student.head(), noisy.to_vec().into(), Some(down.into()), Some(denominator))?;
    // -w p(x_t) has the gradient of +w p CE(x_t).
    let surrogate = toward + away;
    let value = value / f64::from(denominator);
    let shift = value - scalar(&surrogate);
    Ok((value, surrogate.add_scalar(shift as f32)))
}

/// Cross-entropy of the next token of the clean text, which sees only what came before; of a response by its own
/// length, as the diffusion loss beside it.
fn next_token(
    student: &Model,
    batch: &MicroBatch,
    rows: &Rows,
    clean: Option<Tensor<3>>,
    options: &Noise,
    block: Option<usize>,
    denominator: f32,
) -> Result<Tensor<1>, TrainError> {
    // Attention over clean blocks sees ahead, and what it sees it could copy. So may whatever has a state that grows; one
    // of constant size looks back only (the conformance suite asks for it).
    let looks_back = |mixer: &MixerSpec| find(&mixer.kind).is_ok_and(|registration| registration.constant_state);
    let alike = block == Some(1) || student.config.mixers.iter().all(looks_back);
    let (hidden, copies) = match clean {
        Some(clean) if alike => (clean, if options.complementary { 2 } else { 1 }),
        _ => {
            let single: Vec<u32> = batch.inputs.clone();
            (student.hidden_seeing(&single, batch.rows, Sight::Causal, batch.documents.as_ref(), None)?, 1)
        }
    };
    let [count, columns, _] = hidden.dims();
    let whole = batch.inputs.len() / batch.rows;
    let scale = whole as f32 / (columns * copies) as f32;
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for row in 0..count {
        let from = row / copies * whole;
        targets.extend_from_slice(&batch.targets[from..from + columns]);
        // Without it a response would count less, the longer the others of its micro-batch are.
        let share = batch.response_share.as_ref().map_or(1.0, |shares| shares[row / copies]) * scale;
        weights.extend((0..columns).map(|t| batch.weights.as_ref().map_or(1.0, |w| w[from + t]) * share));
    }
    debug_assert!(rows.rows >= batch.rows);
    Ok(cross_entropy(flat(hidden), student.head(), targets.into(), Some(weights.into()), Some(denominator))?)
}
