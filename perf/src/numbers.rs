//! Numbers as the command line takes them: sizes with K, M, G, T, and durations in seconds.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes: `4096`, `4K`, `1M`; the letters are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a number of bytes such as 4096, 4K or 1M".to_owned();
    let letter = text.chars().last().map(|letter| letter.to_ascii_uppercase());
    let shift = match letter {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// Seconds, with or without a fraction, 0 to a year.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR_S: f64 = 365.0 * 86_400.0;
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.0..=YEAR_S).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds such as 5 or 0.5".to_owned())
}

/// A rate per second, above 0.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let letter = text.chars().last().map(|letter| letter.to_ascii_uppercase());
    let (digits, factor) = match letter {
        Some('K') => (&text[..text.len() - 1], 1e3),
        Some('M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let rate: Option<f64> = digits.parse().ok().map(|rate: f64| rate * factor);
    let rate = rate.filter(|rate| (1e-3..=1e9).contains(rate));
    rate.ok_or_else(|| "expected a number per second, such as 1000, 50K or 1.5M".to_owned())
}

/// A small, fast generator of numbers that need not be secret, the same ones for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number: a Weyl sequence, mixed.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which must not be 0.
    #[inline(always)]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Spreads every bit of `number` over all others.
#[inline(always)]
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// A seed that differs from run to run.
pub(crate) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    // Short enough to be typed.
    random >> 32
}

#[cfg(test)]
mod tests {
    use super::{Random, rate, seconds, size};
    use std::time::Duration;

    #[test]
    fn reads_sizes_rates_and_seconds() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("4k"), Ok(4096));
        assert_eq!(size("2M"), Ok(2 << 20));
        assert_eq!(rate("50K"), Ok(50_000.0));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["", "K", "-1", "4x", "99999999999T", "\u{e9}"] {
            assert!(size(text).is_err(), "{text:?}");
        }
        for text in ["", "-1", "nan", "inf", "1e99"] {
            assert!(seconds(text).is_err() && rate(text).is_err(), "{text:?}");
        }
        assert!(rate("0").is_err());
    }

    #[test]
    fn random_numbers_repeat_with_their_seed_and_stay_below_their_bound() {
        let (mut one, mut same, mut other) = (Random::new(7), Random::new(7), Random::new(8));
        assert_eq!(one.next(), same.next());
        assert_ne!(one.next(), other.next());
        assert!((0..1000).all(|_| one.below(3) < 3));
        let mut seen = [0; 3];
        (0..3000).for_each(|_| seen[one.below(3) as usize] += 1);
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}
