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

/// The key of a rate's course that has no effect, and what to do. `last` is the rate at the end, where one is set; the
/// default shape is not told from one that was left out.
pub fn idle(shape: Shape, last: Option<f64>, wait: f64, end: f64) -> Option<(&'static str, &'static str)> {
    let constant = shape == Shape::Constant;
    let key = match last {
        Some(_) if constant => {
            return Some((
                "final_learning_rate",
                "schedule = \"constant\" never reaches it; leave it out, or name another schedule",
            ));
        }
        Some(_) => return None,
        None if !constant && shape != Shape::default() => "schedule",
        None if wait != 0.0 => "wait",
        None if end != 1.0 => "end",
        None => return None,
    };
    Some((key, "the rate stays what it is without final_learning_rate; set that, or leave the key out"))
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

    /// By hand, from 8e-4 to 2e-4. RADLADS' trainer: `cos`, which is a quarter of one, `linear`, `exp` (geometric) and
    /// `oneminussqrt`; half a cosine is Loshchilov and Hutter's (arXiv 1608.03983, eq. 5).
    #[test]
    fn every_shape_at_start_quarter_middle_and_end() {
        for (shape, expected) in [
            (Shape::QuarterCosine, [8e-4, 7.543_277_195_067_72e-4, 6.242_640_687_119_285e-4, 2e-4]),
            (Shape::HalfCosine, [8e-4, 7.121_320_343_559_642e-4, 5e-4, 2e-4]),
            (Shape::Linear, [8e-4, 6.5e-4, 5e-4, 2e-4]),
            (Shape::Exponential, [8e-4, 5.656_854_249_492_381e-4, 4e-4, 2e-4]),
            (Shape::OneMinusSqrt, [8e-4, 5e-4, 3.757_359_312_880_714e-4, 2e-4]),
            (Shape::Constant, [8e-4; 4]),
        ] {
            let s = Schedule { shape, first: 8e-4, last: 2e-4, warmup: 10, steps: 110, wait: 0.0, end: 1.0 };
            for (step, expected) in [10, 35, 60, 110].into_iter().zip(expected) {
                let found = s.rate(step);
                assert!((found - expected).abs() < 1e-15, "{shape:?} at step {step}: {found:e} for {expected:e}");
            }
            assert_eq!(s.rate(1000), s.rate(110), "{shape:?} stays where it ends");
            // Half of the warm-up, 0.01 + 0.99 / 2 of the first rate.
            assert!((s.rate(5) - 0.505 * 8e-4).abs() < 1e-15, "{shape:?}");
        }
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let key = |shape, last, wait, end| idle(shape, last, wait, end).map(|(key, _)| key);
        for shape in [Shape::QuarterCosine, Shape::HalfCosine, Shape::Linear, Shape::Exponential, Shape::OneMinusSqrt] {
            assert_eq!(key(shape, Some(1e-5), 0.2, 0.9), None);
            assert_eq!(key(shape, None, 0.0, 1.0), (shape != Shape::default()).then_some("schedule"));
        }
        assert_eq!(key(Shape::default(), None, 0.2, 1.0), Some("wait"));
        assert_eq!(key(Shape::Constant, None, 0.0, 0.9), Some("end"));
        assert_eq!(key(Shape::Constant, None, 0.0, 1.0), None);
        assert_eq!(key(Shape::Constant, Some(1e-5), 0.0, 1.0), Some("final_learning_rate"));
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
