//! Numbers as people read them, and the round numbers an axis shows.

/// `48,213.77`; beyond ten million as a power of ten.
pub(super) fn grouped(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    if value.abs() >= 1e7 {
        return power(value);
    }
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |rest| ("−", rest));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{point}{fraction}")
}

/// `131 k`, `40.1 M`, `1.2 B`: three figures.
pub(super) fn count(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")];
    for (size, unit) in UNITS {
        if value.abs() >= size * 0.9995 {
            return short(value / size) + unit;
        }
    }
    short(value)
}

/// `576 KiB`, `1.5 GiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = value;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", short(value), UNITS[unit])
}

/// Three figures, without zeros that say nothing.
pub(super) fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs();
    if !(1e-3..1e7).contains(&magnitude) {
        return power(value);
    }
    let digits = (2 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.replace('-', "−")
}

/// `3.2×10⁻⁵`.
fn power(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return "not finite".into();
    }
    let mut exponent = value.abs().log10().floor() as i32;
    let mut mantissa = format!("{:.1}", value / 10f64.powi(exponent));
    if mantissa.trim_start_matches('-') == "10.0" {
        exponent += 1;
        mantissa = mantissa.replace("10.0", "1.0");
    }
    let superscript: String = exponent
        .to_string()
        .chars()
        .map(|c| match c {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            digit => char::from_u32('⁰' as u32 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
        })
        .collect();
    let mantissa = mantissa.trim_end_matches(".0").replace('-', "−");
    match mantissa.as_str() {
        "1" => format!("10{superscript}"),
        mantissa => format!("{mantissa}×10{superscript}"),
    }
}

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Evenly.
    Linear,
    /// By powers of ten.
    Log10,
    /// By powers of two.
    Log2,
}

/// What lies beyond these is no measurement; leaving it out keeps the arithmetic of axes finite.
const LARGEST: f64 = 1e30;
const SMALLEST: f64 = 1e-30;

impl Scale {
    /// Whether a value has a place on such an axis.
    pub(super) fn shows(self, value: f64) -> bool {
        value.abs() <= LARGEST && (self == Self::Linear || value >= SMALLEST)
    }
}

/// An axis with round ends.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis over these values, those that it cannot show left out. `None` if none is left.
    pub(super) fn over(values: impl Iterator<Item = f64>, scale: Scale, round: bool, most_ticks: usize) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| scale.shows(*v)) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return None;
        }
        // A range too small for its numbers to differ on paper is widened.
        let least = (high.abs().max(low.abs()) * 1e-6).max(SMALLEST);
        if high - low <= least {
            match scale {
                Scale::Linear => {
                    let half = if high.abs() <= SMALLEST { 1.0 } else { high.abs() * 0.05 };
                    low -= half;
                    high += half;
                }
                _ => {
                    low /= 2.0;
                    high *= 2.0;
                }
            }
        }
        let ticks = match scale {
            Scale::Linear => linear(low, high, most_ticks),
            Scale::Log10 => log10(low, high, most_ticks),
            Scale::Log2 => log2(low, high, most_ticks),
        };
        let mut axis = Self { scale, low, high, ticks };
        axis.ticks = axis.ticks.iter().copied().filter(|t| axis.place(*t).is_some()).collect();
        if round && axis.ticks.len() > 1 {
            let step = |a: f64, b: f64| match scale {
                Scale::Linear => b + (b - a),
                _ => b * (b / a),
            };
            let (first, second) = (axis.ticks[0], axis.ticks[1]);
            let last = axis.ticks[axis.ticks.len() - 1];
            let before = axis.ticks[axis.ticks.len() - 2];
            // Only so far as to the next round number, and only if that is near.
            let below = step(second, first);
            let above = step(before, last);
            if axis.low < first && axis.share_beyond(below, first) < 0.6 {
                axis.ticks.insert(0, below);
            }
            if axis.high > last && axis.share_beyond(last, above) < 0.6 {
                axis.ticks.push(above);
            }
            axis.low = axis.low.min(axis.ticks[0]);
            axis.high = axis.high.max(axis.ticks[axis.ticks.len() - 1]);
        }
        Some(axis)
    }

    /// Of the stretch between two ticks, how much holds no value.
    fn share_beyond(&self, from: f64, to: f64) -> f64 {
        let (from, to) = (self.stretch(from), self.stretch(to));
        let (low, high) = (self.stretch(self.low), self.stretch(self.high));
        let used = (to.min(high) - from.max(low)).max(0.0);
        1.0 - used / (to - from)
    }

    fn stretch(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            _ => value.max(f64::MIN_POSITIVE).ln(),
        }
    }

    /// Where a value stands, 0 at the low end and 1 at the high end. `None` if it cannot be shown.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let (low, high) = (self.stretch(self.low), self.stretch(self.high));
        let place = (self.stretch(value) - low) / (high - low);
        (self.scale.shows(value) && place.is_finite()).then_some(place)
    }
}

fn linear(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(2) as f64;
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * unit).find(|step| *step >= rough).unwrap_or(unit * 10.0);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last.min(first + 100)).map(|i| i as f64 * step).collect()
}

fn log10(low: f64, high: f64, most: usize) -> Vec<f64> {
    let within = |v: &f64| *v >= low * (1.0 - 1e-9) && *v <= high * (1.0 + 1e-9);
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = |multiples: &[f64], stride: usize| -> Vec<f64> {
        (first..=last)
            .step_by(stride)
            .flat_map(|e| multiples.iter().map(move |m| m * 10f64.powi(e)).collect::<Vec<_>>())
            .filter(within)
            .collect()
    };
    let fine = decades(&[1.0, 2.0, 5.0], 1);
    if fine.len() < 3 {
        return linear(low, high, most).into_iter().filter(|v| *v > 0.0).collect();
    }
    if fine.len() <= most + 1 {
        return fine;
    }
    let stride = ((last - first) as usize).div_ceil(most.max(2)).max(1);
    let coarse = decades(&[1.0], stride);
    if coarse.len() > 1 { coarse } else { fine }
}

fn log2(low: f64, high: f64, most: usize) -> Vec<f64> {
    let (first, last) = (low.log2().ceil() as i32, high.log2().floor() as i32);
    let stride = ((last - first).max(0) as usize + 1).div_ceil(most.max(2)).max(1);
    (first..=last).step_by(stride).map(|e| 2f64.powi(e)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(48213.768, 2), "48,213.77");
        assert_eq!(grouped(-1234.0, 0), "−1,234");
        assert_eq!(grouped(999.5, 2), "999.50");
        assert_eq!(grouped(3.2e9, 2), "3.2×10⁹");
        assert_eq!(grouped(f64::NAN, 2), "not finite");
        assert_eq!(count(134_515_008.0), "135 M");
        assert_eq!(count(999_999.0), "1 M");
        assert_eq!(count(512.0), "512");
        assert_eq!(bytes(589_824.0), "576 KiB");
        assert_eq!(bytes(1.5 * 1024f64.powi(3)), "1.5 GiB");
        assert_eq!(short(0.000_032), "3.2×10⁻⁵");
        assert_eq!(short(1e-4), "10⁻⁴");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(9.999e-5), "10⁻⁴");
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(linear(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(log10(0.01, 100.0, 5), [0.01, 0.1, 1.0, 10.0, 100.0]);
        assert_eq!(log10(1.0, 20.0, 6), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(log2(1024.0, 16384.0, 6), [1024.0, 2048.0, 4096.0, 8192.0, 16384.0]);
    }

    #[test]
    fn axes_place_values_and_survive_odd_ones() {
        let axis = Axis::over([1.0, 100.0].into_iter(), Scale::Log10, true, 5).unwrap();
        assert!((axis.place(10.0).unwrap() - 0.5).abs() < 1e-9);
        assert!(axis.place(0.0).is_none() && axis.place(f64::NAN).is_none());
        for values in
            [vec![0.0], vec![3.0, 3.0], vec![-1.0, 1e300], vec![f64::MAX, f64::MIN], vec![1e-300, 1e300], vec![1e16, 1e16 + 2.0]]
        {
            for scale in [Scale::Linear, Scale::Log10, Scale::Log2] {
                if let Some(axis) = Axis::over(values.iter().copied(), scale, true, 5) {
                    assert!(axis.ticks.len() <= 120, "{values:?} {scale:?}");
                    for tick in &axis.ticks {
                        assert!(axis.place(*tick).is_some_and(|p| !p.is_infinite()));
                    }
                }
            }
        }
        assert!(Axis::over([f64::NAN, -1.0].into_iter(), Scale::Log10, true, 5).is_none());
    }
}
