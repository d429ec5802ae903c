//! Figures: what is measured, what the rounds gave, and when two schemes can be told apart.
#![forbid(unsafe_code)]

use crate::latency::Histogram;
use std::collections::BTreeMap;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Ns,
    PerS,
    /// Milliseconds lost per second of storm.
    MsPerS,
}

/// How the rounds of one figure become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Median,
    Max,
}

/// One figure that all schemes are compared by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// Its key in JSON; what stands behind a dot is a key of the object before it.
    pub(super) key: &'static str,
    /// Its row in the table; empty when it has none.
    pub(super) title: &'static str,
    pub(super) unit: Unit,
    fold: Fold,
}

impl Metric {
    /// More of it is better.
    pub(super) fn is_more_better(self) -> bool {
        self.unit == Unit::PerS
    }
}

const fn metric(key: &'static str, title: &'static str, unit: Unit) -> Metric {
    Metric { key, title, unit, fold: Fold::Median }
}

const fn longest(key: &'static str, title: &'static str) -> Metric {
    Metric { key, title, unit: Unit::Ns, fold: Fold::Max }
}

/// All figures, in the order of the table.
pub(super) const METRICS: &[Metric] = &[
    metric("idle_external_ns", "idle poll, external part", Unit::Ns),
    metric("idle_poll_ns", "idle poll, whole", Unit::Ns),
    metric("message_ns", "message, window 256, alone", Unit::Ns),
    metric("message_batch_ns", "message, batches of 8, alone", Unit::Ns),
    metric("ping_pong_ns.p50", "ping-pong, p50", Unit::Ns),
    metric("ping_pong_ns.p99", "ping-pong, p99", Unit::Ns),
    metric("messages_per_s", "messages/s beside I/O, 1 producer", Unit::PerS),
    metric("messages_many_per_s", "messages/s beside I/O, many producers", Unit::PerS),
    metric("message_latency_ns.p50", "their latency, 1 producer, p50", Unit::Ns),
    metric("message_latency_ns.p99", "  p99", Unit::Ns),
    metric("message_latency_ns.p99_9", "", Unit::Ns),
    longest("message_latency_ns.max", ""),
    metric("io_alone_iops", "I/O per second, no messages", Unit::PerS),
    metric("io_iops", "I/O per second beside messages", Unit::PerS),
    metric("io_latency_ns.p50", "  its latency, p50", Unit::Ns),
    metric("io_latency_ns.p99", "  p99", Unit::Ns),
    metric("io_latency_ns.p99_9", "", Unit::Ns),
    longest("io_latency_ns.max", ""),
    metric("storm_poll_ns.p50", "poll in a storm, p50", Unit::Ns),
    metric("storm_poll_ns.p99", "  p99", Unit::Ns),
    metric("storm_poll_ns.p99_9", "  p99.9", Unit::Ns),
    longest("storm_poll_ns.max", "  the longest"),
    metric("storm_stall_ms", "unexplained stall in a storm, per second", Unit::MsPerS),
    metric("storm_machine_ms", "", Unit::MsPerS),
    metric("calm_stall_ms", "unexplained stall in a calm, per second", Unit::MsPerS),
    metric("calm_machine_ms", "", Unit::MsPerS),
    metric("storm_cycles_per_s", "", Unit::PerS),
    metric("calm_poll_ns.p50", "", Unit::Ns),
    metric("calm_poll_ns.p99", "", Unit::Ns),
    metric("calm_poll_ns.p99_9", "", Unit::Ns),
    longest("calm_poll_ns.max", ""),
    metric("detach_ns.p50", "detach of the message path, empty, p50", Unit::Ns),
    metric("detach_ns.p99", "  p99", Unit::Ns),
    longest("detach_ns.max", ""),
    metric("detach_left_ns.p50", "detach with 512 messages left, p50", Unit::Ns),
    metric("detach_left_ns.p99", "  p99", Unit::Ns),
    longest("detach_left_ns.max", ""),
    metric("detach_ctrlr_ns", "detach of the whole controller", Unit::Ns),
];

/// What one scheme was measured to do, round by round.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<&'static str, Vec<f64>>);

/// One figure of one scheme: all rounds in one number, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    /// The median, unless the figure says otherwise.
    pub(super) middle: f64,
    /// The lower quartile of the rounds.
    pub(super) low: f64,
    /// The upper quartile of the rounds.
    pub(super) high: f64,
}

impl Value {
    /// Whether the intervals share anything: then a difference may be chance.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl Figures {
    /// One round's value of figure `key`.
    pub(super) fn add(&mut self, key: &'static str, value: f64) {
        debug_assert!(METRICS.iter().any(|metric| metric.key == key), "{key} is no figure");
        // A round in which nothing got through, on a machine that is far too busy, has no time per message.
        if value.is_finite() {
            self.0.entry(key).or_default().push(value);
        }
    }

    /// One round's latencies, under all keys that begin with `prefix`.
    pub(super) fn add_latency(&mut self, prefix: &str, latency: &Histogram) {
        if latency.is_empty() {
            return;
        }
        for metric in METRICS {
            let percent = match metric.key.strip_prefix(prefix) {
                Some(".p50") => 50.0,
                Some(".p99") => 99.0,
                Some(".p99_9") => 99.9,
                Some(".max") => 100.0,
                _ => continue,
            };
            self.add(metric.key, latency.percentile(percent) as f64);
        }
    }

    /// The figure over all rounds, or `None` when it was not measured.
    pub(super) fn get(&self, metric: &Metric) -> Option<Value> {
        let mut rounds = self.0.get(metric.key)?.clone();
        rounds.sort_by(f64::total_cmp);
        let middle = match metric.fold {
            Fold::Median => quantile(&rounds, 0.5),
            Fold::Max => quantile(&rounds, 1.0),
        };
        Some(Value { middle, low: quantile(&rounds, 0.25), high: quantile(&rounds, 0.75) })
    }

    /// The figure with key `key` over all rounds.
    pub(super) fn by_key(&self, key: &str) -> Option<Value> {
        METRICS.iter().find(|metric| metric.key == key).and_then(|metric| self.get(metric))
    }
}

/// The `q`-quantile of sorted values, between two of them where it falls there.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_a_median_with_quartiles() {
        let mut figures = Figures::default();
        for value in [9.0, 1.0, 3.0, 2.0, 4.0] {
            figures.add("idle_poll_ns", value);
        }
        let value = figures.by_key("idle_poll_ns").unwrap();
        assert_eq!(value, Value { middle: 3.0, low: 2.0, high: 4.0 });
        assert_eq!(figures.by_key("io_iops"), None);
    }

    #[test]
    fn the_longest_stays_the_longest() {
        let mut figures = Figures::default();
        for value in [0.0, 9.0, 0.0] {
            figures.add("detach_ns.max", value);
        }
        assert!((figures.by_key("detach_ns.max").unwrap().middle - 9.0).abs() < 1e-9);
    }

    #[test]
    fn intervals_that_touch_overlap() {
        let value = |low, high| Value { middle: low, low, high };
        assert!(value(1.0, 2.0).overlaps(&value(2.0, 3.0)));
        assert!(!value(1.0, 2.0).overlaps(&value(2.1, 3.0)));
        assert!(value(1.0, 4.0).overlaps(&value(2.0, 3.0)));
    }

    #[test]
    fn latencies_go_to_all_keys_of_their_object() {
        let mut latency = Histogram::new();
        (1..=100).for_each(|ns| latency.record(ns));
        let mut figures = Figures::default();
        figures.add_latency("detach_ns", &latency);
        let of = |key| figures.by_key(key).unwrap().middle;
        assert!((of("detach_ns.p50") - 50.0).abs() < 1e-9);
        assert!((of("detach_ns.max") - 100.0).abs() < 1e-9);
        assert_eq!(figures.by_key("detach_left_ns.p50"), None);
    }
}
