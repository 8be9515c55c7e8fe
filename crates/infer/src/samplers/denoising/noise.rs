//! Random numbers as a function of where they are used: what one row draws depends neither on the
//! rows beside it nor on how many steps those take.

/// SplitMix64 (Steele, Lea, Flood 2014), begun at a hash of seed, stream, step and position.
pub struct Noise(u64);

fn finish(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Noise {
    /// The numbers of one place in one step.
    pub fn new(seed: u64, stream: u64, step: u64, position: u64) -> Self {
        let mix = |state: u64, value: u64| finish((state ^ value).wrapping_add(GAMMA));
        Self(mix(mix(mix(mix(0, seed), stream), step), position))
    }

    /// Uniform in the open interval (0, 1), in steps of 2^-53.
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(GAMMA);
        ((finish(self.0) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Index of the largest `ln w + Gumbel`, that is a draw with probabilities proportional to the
    /// weights, in double precision: single precision cuts the Gumbel off at 16.6 and with it the
    /// tail of the distribution (arXiv 2409.02908). The same as the smallest `-ln u / w`, which
    /// needs few logarithms: `-ln u >= 1 - u` tells most places that they cannot win.
    pub fn race(&mut self, weights: impl Iterator<Item = (u32, f64)>) -> Option<u32> {
        let mut best = None;
        let mut least = f64::INFINITY;
        for (token, weight) in weights {
            let u = self.unit();
            if weight <= 0.0 || 1.0 - u >= least * weight {
                continue;
            }
            let time = -u.ln() / weight;
            if time < least {
                (least, best) = (time, Some(token));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_race_is_the_gumbel_maximum() {
        let weights: Vec<f64> = (0..50).map(|i| (f64::from(i % 7) - 3.0).exp()).collect();
        for position in 0..300 {
            let mut plain = Noise::new(1, 2, 3, position);
            let scores: Vec<f64> = weights.iter().map(|w| w.ln() - (-plain.unit().ln()).ln()).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let wanted = scores.iter().position(|s| *s == largest).unwrap() as u32;
            let found = Noise::new(1, 2, 3, position).race(weights.iter().enumerate().map(|(i, w)| (i as u32, *w)));
            assert_eq!(found, Some(wanted));
        }
    }

    #[test]
    fn the_tail_is_not_cut_off() {
        // 2^-30 is beyond what a single-precision uniform can reach (Gumbel 20.8 against 16.6).
        let rare = 2f64.powi(-30);
        let mut hits = 0;
        let draws = 1 << 12;
        // 2^18 rare tokens together weigh 2^-12 against one: about one draw in 4096 each.
        for position in 0..draws {
            let weights = (0..1 << 14).map(|i| (i, if i == 0 { 2f64.powi(-8) } else { rare }));
            hits += u32::from(Noise::new(9, 0, 0, position).race(weights) != Some(0));
        }
        // Weight 2^-16 of 2^-8 + 2^-16: 1 in 257, so 15.9 of 4096.
        assert!((4..=34).contains(&hits), "{hits}");
    }

    #[test]
    fn places_and_steps_differ() {
        let first = |s, r, t, p| Noise::new(s, r, t, p).unit();
        let all = [first(0, 0, 0, 0), first(1, 0, 0, 0), first(0, 1, 0, 0), first(0, 0, 1, 0), first(0, 0, 0, 1)];
        assert!(all.iter().enumerate().all(|(i, x)| all[..i].iter().all(|y| x != y)));
        assert_eq!(all[3], first(0, 0, 1, 0));
    }
}
