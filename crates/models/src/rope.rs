//! Rotary position embedding: inverse frequencies of every scaling that the families use.
//!
//! Formulas as in the papers (RoPE arXiv 2104.09864, NTK-aware and YaRN arXiv 2309.00071) and, for
//! `llama3`, as Meta published it; checked against transformers in `tests/golden.rs`.

use crate::config::Keys;
use crate::error::ModelError;
use recast_ops::rope::RopeTable;
use serde_json::{Map, Value};
use std::sync::RwLock;

/// How frequencies are scaled for contexts beyond the trained one.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by the factor.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// The base grows once the sequence is longer than `max_positions`.
    Dynamic {
        /// Growth.
        factor: f64,
        /// Trained length.
        max_positions: usize,
    },
    /// High frequencies kept, low ones interpolated.
    Yarn {
        /// Extension of the context.
        factor: f64,
        /// Trained length.
        original: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is interpolated.
        beta_slow: f64,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Whether ramp ends are rounded to whole channels.
        truncate: bool,
    },
    /// Llama 3.1's piecewise rule.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above original/low are scaled.
        low: f64,
        /// Wavelengths below original/high are kept.
        high: f64,
        /// Trained length.
        original: usize,
    },
}

/// Base, width and scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Channels of a head.
    pub head_size: usize,
    /// Context extension.
    pub scaling: Scaling,
}

impl RopeConfig {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4).
    ///
    /// # Errors
    /// When the scaling is unknown or its numbers are missing.
    pub fn parse(raw: &Map<String, Value>, head_size: usize, max_positions: usize) -> Result<Self, ModelError> {
        let empty = Map::new();
        let new = raw.get("rope_parameters").and_then(Value::as_object);
        let block = new.or_else(|| raw.get("rope_scaling").and_then(Value::as_object)).unwrap_or(&empty);
        let keys = Keys(block);
        let theta = match new {
            Some(_) => keys.number("rope_theta", Keys(raw).number("rope_theta", 10_000.0)?)?,
            None => Keys(raw).number("rope_theta", 10_000.0)?,
        };
        if theta <= 0.0 {
            return Err(ModelError::Config(format!("`rope_theta` is {theta}, expected a positive number")));
        }
        let kind = keys.text("rope_type").or_else(|| keys.text("type")).unwrap_or("default");
        let factor = || -> Result<f64, ModelError> {
            match keys.number("factor", 0.0)? {
                f if f >= 1.0 => Ok(f),
                f => Err(ModelError::Config(format!("rope scaling `{kind}`: factor is {f}, expected at least 1"))),
            }
        };
        let original = keys.optional_size("original_max_position_embeddings")?.unwrap_or(max_positions);
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: factor()? },
            "dynamic" => Scaling::Dynamic { factor: factor()?, max_positions: original },
            "yarn" => {
                let factor = factor()?;
                let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
                let (m, all) = (keys.number("mscale", 0.0)?, keys.number("mscale_all_dim", 0.0)?);
                let default = if m > 0.0 && all > 0.0 { mscale(factor, m) / mscale(factor, all) } else { mscale(factor, 1.0) };
                Scaling::Yarn {
                    factor,
                    original,
                    beta_fast: keys.number("beta_fast", 32.0)?,
                    beta_slow: keys.number("beta_slow", 1.0)?,
                    attention_factor: keys.number("attention_factor", default)?,
                    truncate: keys.flag("truncate", true)?,
                }
            }
            "llama3" => Scaling::Llama3 {
                factor: factor()?,
                low: keys.number("low_freq_factor", 1.0)?,
                high: keys.number("high_freq_factor", 4.0)?,
                original,
            },
            other => {
                return Err(ModelError::Config(format!(
                    "rope scaling `{other}` is not known; expected default, linear, dynamic, yarn or llama3"
                )));
            }
        };
        Ok(Self { theta, head_size, scaling })
    }

    fn base_frequencies(&self, theta: f64) -> Vec<f64> {
        let n = self.head_size;
        (0..n / 2).map(|i| theta.powf(-2.0 * i as f64 / n as f64)).collect()
    }

    /// Inverse frequencies `[N/2]` and the factor on cos and sin, for a sequence of `length`.
    pub fn frequencies(&self, length: usize) -> (Vec<f64>, f64) {
        let n = self.head_size as f64;
        let base = self.base_frequencies(self.theta);
        match &self.scaling {
            Scaling::None => (base, 1.0),
            Scaling::Linear { factor } => (base.iter().map(|f| f / factor).collect(), 1.0),
            Scaling::Dynamic { factor, max_positions } => {
                let ratio = length.max(*max_positions) as f64 / *max_positions as f64;
                let theta = self.theta * (factor * ratio - (factor - 1.0)).powf(n / (n - 2.0));
                (self.base_frequencies(theta), 1.0)
            }
            Scaling::Llama3 { factor, low, high, original } => {
                let original = *original as f64;
                let scale = |f: &f64| {
                    let wavelength = std::f64::consts::TAU / f;
                    if wavelength < original / high {
                        *f
                    } else if wavelength > original / low {
                        f / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (base.iter().map(scale).collect(), 1.0)
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
                let channel =
                    |rotations: f64| n * (*original as f64 / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (channel(*beta_fast), channel(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(n - 1.0));
                if (high - low).abs() < f64::EPSILON {
                    high += 0.001;
                }
                let mix = |(i, f): (usize, &f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (base.iter().enumerate().map(mix).collect(), *attention_factor)
            }
        }
    }
}

/// Tables of a model, grown as sequences get longer.
#[derive(Debug)]
pub struct Rope {
    config: RopeConfig,
    /// By the length they are for, the newest last: one, or of lengths that each have their own, some.
    tables: RwLock<Vec<(usize, RopeTable)>>,
}

/// Positions kept in tables of lengths that each have their own: rows that are decoded together each have one, which
/// all layers share.
const KEPT: usize = 1 << 18;

impl Rope {
    /// No table yet.
    pub fn new(config: RopeConfig) -> Self {
        Self { config, tables: RwLock::default() }
    }

    /// Whether positions below `length` have another table than those of shorter sequences.
    pub fn depends_on_length(&self, length: usize) -> bool {
        matches!(self.config.scaling, Scaling::Dynamic { max_positions, .. } if length > max_positions)
    }

    /// A table that covers positions below `length`.
    pub fn table(&self, length: usize) -> RopeTable {
        // Dynamic scaling depends on the length itself; the others only need room.
        let key = match self.config.scaling {
            Scaling::Dynamic { max_positions, .. } => length.max(max_positions),
            _ => length.next_power_of_two().max(64),
        };
        let dynamic = matches!(self.config.scaling, Scaling::Dynamic { .. });
        let fits = |size: usize| size == key || (!dynamic && size >= key);
        let tables = self.tables.read().expect("the tables' lock is never poisoned");
        if let Some((_, table)) = tables.iter().rev().find(|(size, _)| fits(*size)) {
            return table.clone();
        }
        drop(tables);
        let (frequencies, scale) = self.config.frequencies(key);
        let frequencies: Vec<f32> = frequencies.iter().map(|&f| f as f32).collect();
        let table = RopeTable::new(&frequencies, key, scale as f32);
        let mut tables = self.tables.write().expect("the tables' lock is never poisoned");
        let mut room = if dynamic { KEPT } else { 0 };
        // The newest first, as long as there is room.
        let mut kept = 0;
        for (size, _) in tables.iter().rev() {
            let Some(left) = room.checked_sub(*size) else { break };
            (room, kept) = (left, kept + 1);
        }
        let surplus = tables.len() - kept;
        tables.drain(..surplus);
        tables.push((key, table.clone()));
        table
    }
}
