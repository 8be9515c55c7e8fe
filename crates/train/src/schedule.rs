//! Learning rate against steps, as the reference trainer of RADLADS computes it.

use serde::{Deserialize, Serialize};

/// How the rate goes from its first to its last value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Quarter of a cosine: flat at first, steepest at the end (RADLADS).
    #[default]
    QuarterCosine,
    /// Half a cosine: flat at both ends.
    HalfCosine,
    /// A straight line.
    Linear,
    /// Geometric.
    Exponential,
    /// 1 - sqrt(progress).
    OneMinusSqrt,
    /// The first value throughout.
    Constant,
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape between the two rates.
    pub shape: Shape,
    /// Rate after the warm-up.
    pub first: f64,
    /// Rate at the end.
    pub last: f64,
    /// Steps of linear warm-up, from 1 % of the rate.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// Share of the progress before the rate starts to move (2a: 0.833).
    pub wait: f64,
    /// Share of the progress after which it stands at the last value (2a: 0.875).
    pub end: f64,
}

impl Schedule {
    /// The rate of `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step.saturating_sub(self.warmup) as f64 / span).clamp(0.0, 1.0);
        let p = ((progress - self.wait) / (self.end - self.wait).max(1e-9)).clamp(0.0, 1.0);
        let (first, last) = (self.first, self.last);
        let rate = match self.shape {
            Shape::QuarterCosine => last + (first - last) * (std::f64::consts::FRAC_PI_2 * p).cos(),
            Shape::HalfCosine => last + (first - last) * 0.5 * (1.0 + (std::f64::consts::PI * p).cos()),
            Shape::Linear => first + (last - first) * p,
            Shape::Exponential => first * (last / first).powf(p),
            Shape::OneMinusSqrt => last + (first - last) * (1.0 - p.sqrt()),
            Shape::Constant => first,
        };
        if step < self.warmup { rate * (0.01 + 0.99 * step as f64 / self.warmup as f64) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarter_cosine_is_steepest_at_the_end() {
        let s = Schedule { shape: Shape::QuarterCosine, first: 1e-3, last: 1e-5, warmup: 10, steps: 110, wait: 0.0, end: 1.0 };
        assert!((s.rate(0) - 1e-5).abs() < 1e-12, "warm-up starts at 1 %");
        assert!((s.rate(10) - 1e-3).abs() < 1e-12);
        let middle = 1e-5 + (1e-3 - 1e-5) * std::f64::consts::FRAC_PI_4.cos();
        assert!((s.rate(60) - middle).abs() < 1e-12);
        assert!((s.rate(110) - 1e-5).abs() < 1e-12);
        assert!(s.rate(109) - s.rate(110) > s.rate(11) - s.rate(12));
    }

    #[test]
    fn waiting_schedule_of_step_2a() {
        let s =
            Schedule { shape: Shape::QuarterCosine, first: 1e-4, last: 1e-5, warmup: 0, steps: 1000, wait: 0.833, end: 0.875 };
        assert_eq!(s.rate(0), 1e-4);
        assert_eq!(s.rate(800), 1e-4);
        assert!(s.rate(850) < 1e-4 && s.rate(850) > 1e-5);
        assert!((s.rate(900) - 1e-5).abs() < 1e-15);
    }
}
