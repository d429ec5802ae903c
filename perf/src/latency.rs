//! Latencies: a clock that is cheap enough to read per batch, and a histogram of nanoseconds with the percentiles that reports give.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram as Hdr;
use serde::Serialize;

/// The time stamp counter where it is steady, the system's monotonic clock where not. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Clock(quanta::Clock);

impl Clock {
    /// A clock. The first one of a process takes some 200 ms to calibrate, so it is made before anything is timed.
    pub(crate) fn new() -> Self {
        Self(quanta::Clock::new())
    }

    /// Now, in ticks.
    #[inline(always)]
    pub(crate) fn ticks(&self) -> u64 {
        self.0.raw()
    }

    /// Nanoseconds between two readings; 0 when they are the other way round.
    #[inline(always)]
    pub(crate) fn nanoseconds(&self, from: u64, to: u64) -> u64 {
        self.0.delta_as_nanos(from, to)
    }
}

/// A histogram of nanoseconds from 1 ns to 100 s, three digits exact. One per thread; added up at the end.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Hdr<u64>);

impl Histogram {
    const MAX_NS: u64 = 100_000_000_000;

    pub(crate) fn new() -> Self {
        Self(
            Hdr::new_with_bounds(1, Self::MAX_NS, 3)
                .expect("the bounds are in order and three digits are allowed"),
        )
    }

    /// Counts one latency; what is longer than 100 s counts as that.
    #[inline(always)]
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds what another thread has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms have the same bounds");
    }

    /// Whether nothing was recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency that `percent` of all do not exceed; 0 when there are none.
    pub(crate) fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// The figures for reports.
    pub(crate) fn summary(&self) -> Latency {
        Latency {
            min: if self.0.is_empty() { 0 } else { self.0.min() },
            mean: self.0.mean(),
            p50: self.percentile(50.0),
            p90: self.percentile(90.0),
            p99: self.percentile(99.0),
            p99_9: self.percentile(99.9),
            p99_99: self.percentile(99.99),
            p99_999: self.percentile(99.999),
            max: self.0.max(),
        }
    }
}

/// Latency figures in nanoseconds, under the keys of `docs/JSON.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) p99_99: u64,
    pub(crate) p99_999: u64,
    pub(crate) max: u64,
}
