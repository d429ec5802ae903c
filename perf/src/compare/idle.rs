//! Measure 1: what one poll costs in which nothing happens.
#![forbid(unsafe_code)]

use super::rig::Rig;
use crate::error::Error;
use slipring::ring::Scheme;
use slipring::ring::probe::Probe;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Polls per reading of the clock.
const BATCH: u32 = 2048;

/// The external part alone: the attention word and the ring, as each poll looks at them. Nanoseconds per poll, the median of batches.
pub(super) fn external_ns<S: Scheme>(duration: Duration) -> f64 {
    let mut probe = Probe::<S>::new(1024);
    median_of_batches(duration, || black_box(&mut probe).poll(|_| {}))
}

/// The whole poll of an attached controller with a registered producer. The time is read once per batch, as who polls many reads it.
pub(super) fn whole_ns<S: Scheme>(rig: &mut Rig<S>, duration: Duration) -> Result<f64, Error> {
    rig.quiesce()?;
    let now = Instant::now();
    let poller = &mut rig.poller;
    let mut failed = None;
    let median = median_of_batches(duration, || match black_box(&mut *poller).poll(now) {
        Ok(happened) => happened,
        Err(error) => {
            failed = Some(error);
            0
        }
    });
    failed.map_or(Ok(median), |error| Err(Error::failed(error)))
}

/// The median of batches; `once` says how many things happened, which only keeps it from being optimised away.
#[inline(always)]
fn median_of_batches(duration: Duration, mut once: impl FnMut() -> usize) -> f64 {
    let mut batches = Vec::new();
    let started = Instant::now();
    let mut before = started;
    while before - started < duration || batches.len() < 3 {
        let mut happened = 0;
        for _ in 0..BATCH {
            happened += once();
        }
        black_box(happened);
        let now = Instant::now();
        batches.push((now - before).as_nanos() as f64 / f64::from(BATCH));
        before = now;
    }
    batches.sort_by(f64::total_cmp);
    batches[batches.len() / 2]
}
