//! A wait of the driver's for the device, of which only that time counts in which somebody looked.
//!
//! A polling thread that sleeps, a process that is stopped or a machine that is suspended is no fault of the device's: it may have answered long ago, and
//! nobody has read it yet. So a gap between two looks counts an eighth of the timeout at most, and what is given up was looked at eight times. Whoever looks
//! often, as a poller does, has the timeout to the look.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// How many looks a timeout is made of at least.
const LOOKS: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Wait {
    begun: Instant,
    looked: Instant,
    timeout: Duration,
    /// What is left of it, as of the last look.
    left: Duration,
}

impl Wait {
    /// A wait of `timeout` from `now` on.
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        Self { begun: now, looked: now, timeout, left: timeout }
    }

    /// Looks: whether the timeout is over at `now`.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let gap = now.saturating_duration_since(self.looked);
        self.looked = self.looked.max(now);
        self.left = self.left.saturating_sub(gap.min(self.timeout / LOOKS));
        self.left.is_zero()
    }

    /// For how long it has lasted, pauses included.
    pub(super) fn lasted_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_looks_often_has_the_timeout_to_the_look() {
        let begun = Instant::now();
        let mut wait = Wait::new(begun, SECOND);
        let over = (0..5000).find(|ms| wait.is_over(begun + Duration::from_millis(*ms)));
        assert_eq!(over, Some(1000));
        assert_eq!(wait.lasted_ms(begun + SECOND), 1000);
    }

    #[test]
    fn a_pause_counts_an_eighth() {
        let mut now = Instant::now();
        let mut wait = Wait::new(now, SECOND);
        for _ in 0..7 {
            now += 3600 * SECOND;
            assert!(!wait.is_over(now));
            assert!(!wait.is_over(now), "the same moment counts once");
        }
        now += 3600 * SECOND;
        assert!(wait.is_over(now), "and eight of them are the whole");
    }

    #[test]
    fn a_clock_that_steps_back_counts_nothing() {
        let earlier = Instant::now();
        let now = earlier + SECOND;
        let mut wait = Wait::new(now, SECOND);
        assert!(!wait.is_over(earlier));
        assert!(!wait.is_over(now));
        assert!(Wait::new(now, Duration::ZERO).is_over(now));
    }
}
