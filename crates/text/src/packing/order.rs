//! The order of samples: bijections on the slots of an epoch, computed and never stored.

use crate::random::mix;

/// How the order of samples is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shuffle {
    /// A Feistel network over the slots: every slot once an epoch, every epoch another order.
    #[default]
    Feistel,
    /// i³ modulo a prime, as the trainers of RWKV and RADLADS do. The prime is found here; the
    /// few slots at or above it are not visited. With seed 0 the first epoch is their order.
    Cubic,
    /// Slot 0, 1, 2, ... in every epoch.
    None,
}

impl std::str::FromStr for Shuffle {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "feistel" => Ok(Self::Feistel),
            "cubic" => Ok(Self::Cubic),
            "none" => Ok(Self::None),
            _ => Err(format!("unknown shuffle {name:?}; expected \"feistel\", \"cubic\" or \"none\"")),
        }
    }
}

impl Shuffle {
    /// The fewest slots it works on.
    pub(super) fn least_slots(self) -> u64 {
        if self == Self::Cubic { 2 } else { 1 }
    }
}

/// An order over the slots of a stream.
#[derive(Debug, Clone)]
pub(super) struct Order {
    shuffle: Shuffle,
    seed: u64,
    /// Slots visited an epoch.
    len: u64,
}

/// More than the four rounds after which a Feistel network of random functions has no
/// distinguishable pattern (Luby and Rackoff 1988), for domains as small as a few slots.
const ROUNDS: u64 = 6;

impl Order {
    /// `None` when there are too few slots.
    pub(super) fn new(shuffle: Shuffle, seed: u64, slots: u64) -> Option<Self> {
        let len = match shuffle {
            Shuffle::Cubic => largest_cubic_prime(slots)?,
            Shuffle::Feistel | Shuffle::None => slots,
        };
        (len > 0).then_some(Self { shuffle, seed, len })
    }

    /// The slot of a sample, counted over all epochs.
    pub(super) fn slot(&self, sample: u128) -> u64 {
        let len = u128::from(self.len);
        // Samples are counted in u128 so that no step overflows; 2^64 epochs are never reached.
        let (epoch, index) = ((sample / len) as u64, (sample % len) as u64);
        match self.shuffle {
            Shuffle::None => index,
            Shuffle::Feistel => feistel(index, self.len, mix(mix(self.seed) ^ epoch)),
            Shuffle::Cubic => cubic(index, self.len, self.seed, epoch),
        }
    }
}

/// A bijection on `0..len`: a Feistel network on the smallest even number of bits that holds
/// `len`, walked until it is back inside (Black and Rogaway 2002). The network's domain is at most
/// four times `len`, so that takes four turns on average.
fn feistel(index: u64, len: u64, key: u64) -> u64 {
    let bits = 64 - (len - 1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(mix(key ^ round) ^ right) & mask));
        }
        value = left << half | right;
        if value < len {
            return value;
        }
    }
}

/// factor · (i + shift)³ modulo the prime. The published order (seed 0, epoch 0) has the factor
/// floor(p · 0.618...) and counts from 1.
fn cubic(index: u64, prime: u64, seed: u64, epoch: u64) -> u64 {
    let (factor, shift) = if (seed, epoch) == (0, 0) {
        ((prime as f64 * ((5f64.sqrt() - 1.0) / 2.0)) as u64, 1)
    } else {
        let key = mix(mix(seed) ^ epoch);
        (1 + mix(key) % (prime - 1), mix(key ^ 1) % prime)
    };
    let prime = u128::from(prime);
    let base = (u128::from(index) + u128::from(shift)) % prime;
    let cube = base * base % prime * base % prime;
    (cube * u128::from(factor.max(1)) % prime) as u64
}

/// The largest prime p = 3n + 2 not above `slots`; only modulo such a prime is cubing a bijection.
fn largest_cubic_prime(slots: u64) -> Option<u64> {
    (2..=slots).rev().find(|number| number % 3 == 2 && is_prime(*number))
}

/// Miller and Rabin's test with the first twelve primes as bases, exact below 2^64 (Sorenson and
/// Webster 2015).
fn is_prime(number: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if number < 2 || BASES.iter().any(|base| number != *base && number.is_multiple_of(*base)) {
        return false;
    }
    if BASES.contains(&number) {
        return true;
    }
    let times = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(number)) as u64;
    let twos = (number - 1).trailing_zeros();
    BASES.iter().all(|base| {
        let (mut power, mut square, mut left) = (1, *base, (number - 1) >> twos);
        while left > 0 {
            if left & 1 == 1 {
                power = times(power, square);
            }
            square = times(square, square);
            left >>= 1;
        }
        // For a prime: base^odd is 1, or squaring it meets -1 before it meets 1.
        power == 1
            || (0..twos).any(|_| {
                let found = power == number - 1;
                power = times(power, power);
                found
            })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epoch(order: &Order, number: u64) -> Vec<u64> {
        let first = u128::from(number) * u128::from(order.len);
        (0..order.len).map(|index| order.slot(first + u128::from(index))).collect()
    }

    fn is_permutation(slots: &[u64]) -> bool {
        let mut sorted = slots.to_vec();
        sorted.sort_unstable();
        sorted.iter().enumerate().all(|(index, slot)| *slot == index as u64)
    }

    #[test]
    fn every_small_size_is_a_permutation() {
        for slots in 1..200 {
            for shuffle in [Shuffle::Feistel, Shuffle::Cubic, Shuffle::None] {
                for seed in [0, 1] {
                    let Some(order) = Order::new(shuffle, seed, slots) else {
                        assert!(slots < shuffle.least_slots());
                        continue;
                    };
                    for number in 0..3 {
                        assert!(is_permutation(&epoch(&order, number)), "{shuffle:?} {slots} {seed} {number}");
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn large_sizes_are_permutations_and_epochs_differ(slots in 200u64..20_000, seed: u64, number in 0u64..1000, cubic: bool) {
            let shuffle = if cubic { Shuffle::Cubic } else { Shuffle::Feistel };
            let order = Order::new(shuffle, seed, slots).unwrap();
            let (one, next) = (epoch(&order, number), epoch(&order, number + 1));
            prop_assert!(is_permutation(&one) && is_permutation(&next));
            let same = one.iter().zip(&next).filter(|(a, b)| a == b).count();
            prop_assert!(same < 20, "{same} of {slots} slots stay in place from epoch to epoch");
            let other = Order::new(shuffle, seed ^ 1, slots).unwrap();
            prop_assert_ne!(&one, &epoch(&other, number));
        }
    }

    #[test]
    fn neighbours_are_torn_apart() {
        let order = Order::new(Shuffle::Feistel, 5, 10_000).unwrap();
        let slots = epoch(&order, 0);
        let near = slots.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 10).count();
        // By chance 0.2% of neighbours are that near.
        assert!(near < 60, "{near} of 9999 neighbours stay within 10 slots");
    }

    #[test]
    fn the_published_prime_and_order_are_found() {
        // RWKV's instructions for a file of 1,498,226,207 tokens at context 512 give this prime.
        assert_eq!(largest_cubic_prime((1_498_226_207 - 1) / 512), Some(2_926_181));
        // By hand for p = 11: factor floor(6.79) = 6; 6 i^3 mod 11 for i = 1, 2, ...
        let order = Order::new(Shuffle::Cubic, 0, 12).unwrap();
        assert_eq!(epoch(&order, 0), [6, 4, 8, 10, 2, 9, 1, 3, 7, 5, 0]);
    }

    #[test]
    fn primes_are_primes() {
        let slow = |number: u64| number > 1 && (2..number).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d));
        for number in 0..5000 {
            assert_eq!(is_prime(number), slow(number), "{number}");
        }
        assert!(is_prime(18_446_744_073_709_551_557), "the largest below 2^64");
        for composite in [3_215_031_751, 3_825_123_056_546_413_051, 18_446_744_073_709_551_556] {
            assert!(!is_prime(composite), "{composite}");
        }
    }

    #[test]
    fn names_are_read() {
        assert_eq!("cubic".parse(), Ok(Shuffle::Cubic));
        assert!("random".parse::<Shuffle>().unwrap_err().contains("feistel"));
    }
}
