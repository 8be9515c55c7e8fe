//! GGUF's account of scaled rotary embeddings, as the `rope_scaling` of a config.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::config::Keys;
use super::dequantize::dequantize;
use super::names::ROPE_FACTORS;
use crate::weights::WeightsError;

/// Largest relative error at which recovered parameters count as those of the file. Its factors are
/// f32 and may have been computed in f32.
const TOLERANCE: f64 = 1e-4;

/// The `rope_scaling` object, if positions are scaled.
pub(super) fn rope_scaling(keys: &Keys<'_>, head_dim: usize) -> Result<Option<Value>, WeightsError> {
    let kind = keys.header.string(keys.file, &keys.key("rope.scaling.type"))?;
    // Files of before scaling.type have scale_linear.
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let original = keys.integer("rope.scaling.original_context_length")?;
    let factors = frequency_factors(keys, head_dim)?;
    let kind = match kind.as_deref() {
        None if factor.is_some_and(|f| f != 1.0 && f != 0.0) => "linear",
        None | Some("none") => "none",
        Some(kind) => kind,
    };
    if let Some(factors) = factors.filter(|f| f.iter().any(|v| *v != 1.0)) {
        if kind != "none" {
            return Err(
                keys.unsupported(format!("{ROPE_FACTORS} together with scaling \"{kind}\""), "use the model's own safetensors")
            );
        }
        return llama3(keys, &factors).map(Some);
    }
    let needed = || match factor {
        Some(factor) if factor > 0.0 => Ok(factor),
        other => Err(keys
            .file
            .malformed(format!("{} is {other:?}; scaling \"{kind}\" needs a number above 0", keys.key("rope.scaling.factor")))),
    };
    match kind {
        "none" => Ok(None),
        "linear" => Ok(Some(json!({"rope_type": "linear", "factor": needed()?}))),
        "yarn" => {
            for rest in ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"] {
                if let Some(value) = keys.number(rest)?
                    && value != 1.0
                {
                    return Err(keys.unsupported(format!("{} = {value}", keys.key(rest)), "use the model's own safetensors"));
                }
            }
            let mut scaling = json!({"rope_type": "yarn", "factor": needed()?});
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = json!(original);
            }
            for (rest, name) in [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")] {
                if let Some(value) = keys.number(rest)? {
                    scaling[name] = json!(value);
                }
            }
            Ok(Some(scaling))
        }
        other => Err(keys.unsupported(format!("rotary scaling \"{other}\""), "none, linear, yarn and llama 3's are read")),
    }
}

/// The divisors of the rotary frequencies, one for each pair of a head's elements.
fn frequency_factors(keys: &Keys<'_>, head_dim: usize) -> Result<Option<Vec<f64>>, WeightsError> {
    let Some(tensor) = keys.header.tensors.iter().find(|t| t.name == ROPE_FACTORS) else {
        return Ok(None);
    };
    if tensor.shape != [head_dim / 2] {
        return Err(WeightsError::Shape {
            path: keys.file.path.clone(),
            name: ROPE_FACTORS.into(),
            expected: vec![head_dim / 2],
            found: tensor.shape.clone(),
        });
    }
    let mut factors = vec![0f32; head_dim / 2];
    dequantize(tensor.dtype, &keys.file.bytes()[tensor.range.clone()], &mut factors)?;
    if let Some(bad) = factors.iter().find(|f| !(f.is_finite() && **f >= 1.0)) {
        return Err(keys.file.malformed(format!("{ROPE_FACTORS} holds {bad}; expected numbers from 1 up")));
    }
    Ok(Some(factors.into_iter().map(f64::from).collect()))
}

/// Parameters of llama 3's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    /// The divisor of a frequency (in radians a position): 1 for fast ones, `factor` for slow ones,
    /// and between `low` and `high` turns within the original context a harmonic blend.
    fn divisor(&self, frequency: f64) -> f64 {
        let turns = self.original * frequency / TAU;
        if turns > self.high {
            1.0
        } else if turns < self.low {
            self.factor
        } else {
            let smooth = (turns - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }

    fn explains(&self, frequencies: &[f64], factors: &[f64]) -> bool {
        self.high > self.low && frequencies.iter().zip(factors).all(|(w, f)| (self.divisor(*w) / f - 1.0).abs() < TOLERANCE)
    }
}

/// Finds the parameters behind llama 3's frequency factors. The file has only the result; most
/// models have low 1, high 4 and 8192 positions, and for others the blended frequencies give two of
/// the three when `low` is taken as 1 (only ratios matter).
fn llama3(keys: &Keys<'_>, factors: &[f64]) -> Result<Value, WeightsError> {
    let theta = keys.rope_theta()?;
    let frequencies: Vec<f64> = (0..factors.len()).map(|i| theta.powf(-(i as f64) / factors.len() as f64)).collect();
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let usual = Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
    let found = [Some(usual), fit(&frequencies, factors, factor)]
        .into_iter()
        .flatten()
        .find(|candidate| candidate.explains(&frequencies, factors));
    let Some(found) = found else {
        return Err(
            keys.unsupported(format!("{ROPE_FACTORS} that does not follow llama 3's rule"), "use the model's own safetensors")
        );
    };
    Ok(json!({
        "rope_type": "llama3",
        "factor": found.factor,
        "low_freq_factor": found.low,
        "high_freq_factor": found.high,
        "original_max_position_embeddings": found.original as u64,
    }))
}

/// A line through the first and the last blended frequency: smooth = a * frequency / 2 pi - b, with
/// a = original / (high - low) and b = low / (high - low).
fn fit(frequencies: &[f64], factors: &[f64], factor: f64) -> Option<Llama3> {
    let blended: Vec<(f64, f64)> = frequencies
        .iter()
        .zip(factors)
        .filter(|(_, f)| **f > 1.0 && **f < factor)
        .map(|(w, f)| (w / TAU, (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let ((x0, s0), (x1, s1)) = (*blended.first()?, *blended.last()?);
    if x0 == x1 {
        return None;
    }
    let a = (s1 - s0) / (x1 - x0);
    let b = a * x0 - s0;
    // Real configs have round numbers; the rounding is verified by the caller.
    let high = ((1.0 + 1.0 / b) * 100.0).round() / 100.0;
    let original = (a * (high - 1.0)).round();
    let thousands = (original / 1024.0).round() * 1024.0;
    let original = if (original / thousands - 1.0).abs() < 1e-3 { thousands } else { original };
    (high.is_finite() && original.is_finite() && original >= 1.0).then_some(Llama3 { factor, low: 1.0, high, original })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_parameters_are_recovered_from_their_factors() {
        for (theta, dim, want) in [
            (500_000.0f64, 128, Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 }),
            (100_000.0, 64, Llama3 { factor: 32.0, low: 1.0, high: 8.0, original: 2048.0 }),
        ] {
            let frequencies: Vec<f64> = (0..dim / 2).map(|i| theta.powf(-2.0 * f64::from(i) / f64::from(dim))).collect();
            let factors: Vec<f64> = frequencies.iter().map(|w| f64::from(want.divisor(*w) as f32)).collect();
            let found = fit(&frequencies, &factors, want.factor).expect("some frequencies are blended");
            assert_eq!(found, want);
            assert!(found.explains(&frequencies, &factors));
            let other = Llama3 { original: want.original * 1.1, ..want };
            assert!(!other.explains(&frequencies, &factors));
        }
    }
}
