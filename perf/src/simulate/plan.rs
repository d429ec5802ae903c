//! What is simulated: a seed and how many steps, and, in the search for the smallest failure, what is left out of them. Each step draws from a seed of its
//! own, so that leaving one out leaves the draws of the others as they were.
#![forbid(unsafe_code)]

use crate::numbers::{Random, mix};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Steps to leave out, as ranges in order: `3,7,10-19`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Skips(Vec<Range<u64>>);

impl Skips {
    pub(super) fn contains(&self, step: u64) -> bool {
        self.0.iter().any(|range| range.contains(&step))
    }

    /// These, and `range` as well.
    pub(super) fn with(&self, range: Range<u64>) -> Self {
        let mut ranges = self.0.clone();
        ranges.push(range);
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// These, as far as they lie before `end`.
    fn before(&self, end: u64) -> Self {
        let ranges = self.0.iter().map(|range| range.start..range.end.min(end));
        Self(ranges.filter(|range| !range.is_empty()).collect())
    }
}

impl FromStr for Skips {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected steps and ranges of steps such as 3,7,10-19".to_owned();
        let mut skips = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u64 = first.parse().map_err(|_| wrong())?;
            let last: u64 = last.parse().map_err(|_| wrong())?;
            let end = last.checked_add(1).filter(|end| *end > first).ok_or_else(wrong)?;
            skips = skips.with(first..end);
        }
        Ok(skips)
    }
}

impl fmt::Display for Skips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match range.end - range.start {
                1 => write!(f, "{comma}{}", range.start)?,
                _ => write!(f, "{comma}{}-{}", range.start, range.end - 1)?,
            }
        }
        Ok(())
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) skips: Skips,
    /// Places, among the faults that the seed draws, of those that are left out.
    pub(super) without: Vec<usize>,
}

impl Plan {
    pub(super) fn new(seed: u64, steps: u64) -> Self {
        Self { seed, steps, skips: Skips::default(), without: Vec::new() }
    }

    /// The same with fewer steps.
    pub(super) fn shortened(&self, steps: u64) -> Self {
        Self { steps, skips: self.skips.before(steps), ..self.clone() }
    }

    /// What one part of the simulation draws from: a step, or what comes before the first.
    pub(super) fn random(&self, part: Part) -> Random {
        let part = match part {
            Part::Setup => 0,
            Part::Attach => 1,
            Part::End => 2,
            Part::Step(step) => step + 16,
        };
        Random::new(mix(self.seed ^ mix(part.wrapping_add(0x0005_11b7))))
    }
}

/// A part of a simulation.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Setup,
    Attach,
    Step(u64),
    End,
}

impl fmt::Display for Plan {
    /// The command line that repeats it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slipring simulate --seed {} --steps {}", self.seed, self.steps)?;
        if self.skips != Skips::default() {
            write!(f, " --skip {}", self.skips)?;
        }
        if !self.without.is_empty() {
            let places: Vec<_> = self.without.iter().map(ToString::to_string).collect();
            write!(f, " --without {}", places.join(","))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Plan, Skips};

    #[test]
    fn skips_are_read_merged_and_written() {
        let skips: Skips = "10-19,3,4,30-30".parse().expect("ranges");
        assert_eq!(skips.to_string(), "3-4,10-19,30");
        assert!(skips.contains(3) && skips.contains(19) && !skips.contains(20) && !skips.contains(5));
        assert_eq!(skips.with(5..10).to_string(), "3-19,30");
        for text in ["", "x", "3-", "9-3", "1,,2"] {
            assert!(text.parse::<Skips>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_plan_says_how_to_repeat_it() {
        let plan = Plan { skips: "5-90".parse().expect("ranges"), without: vec![0, 2], ..Plan::new(7, 100) };
        assert_eq!(plan.to_string(), "slipring simulate --seed 7 --steps 100 --skip 5-90 --without 0,2");
        assert_eq!(
            plan.shortened(50).to_string(),
            "slipring simulate --seed 7 --steps 50 --skip 5-49 --without 0,2"
        );
    }
}
