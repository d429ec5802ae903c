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

/// The external part alone: the attention word and the ring, as each poll looks at them. Nanoseconds per poll.
pub(super) fn external_ns<S: Scheme>(duration: Duration) -> f64 {
    let mut probe = Probe::<S>::new(1024);
    median_of_batches(duration, &mut probe, |probe| probe.poll(|_| {}))
}

/// The whole poll of an attached controller with a registered producer. The time is read once per batch, as who polls many reads it.
pub(super) fn whole_ns<S: Scheme>(rig: &mut Rig<S>, duration: Duration) -> Result<f64, Error> {
    rig.quiesce()?;
    let now = Instant::now();
    let mut failed = None;
    let median = median_of_batches(duration, &mut rig.poller, |poller| match poller.poll(now) {
        Ok(happened) => happened,
        Err(error) => {
            failed = Some(error);
            0
        }
    });
    failed.map_or(Ok(median), |error| Err(Error::failed(error)))
}

/// Nanoseconds per call of `once`, which says how many things happened: the median of batches, each less the batch of nothing that follows it, as
/// the loop is not what is measured.
#[inline(always)]
fn median_of_batches<T>(duration: Duration, polled: &mut T, mut once: impl FnMut(&mut T) -> usize) -> f64 {
    let mut batches = Vec::new();
    let started = Instant::now();
    let mut before = started;
    while before - started < duration || batches.len() < 3 {
        let polls = batch(polled, &mut once);
        let nothing = batch(polled, |_| 0);
        let loop_ns = (nothing - polls).as_nanos() as f64;
        batches.push(((polls - before).as_nanos() as f64 - loop_ns) / f64::from(BATCH));
        before = nothing;
    }
    batches.sort_by(f64::total_cmp);
    batches[batches.len() / 2]
}

/// Does it a batch of times; returns the time after it.
#[inline(always)]
fn batch<T>(polled: &mut T, mut once: impl FnMut(&mut T) -> usize) -> Instant {
    for _ in 0..BATCH {
        let happened = once(black_box(&mut *polled));
        // Where nothing happens, nothing is done about it.
        if happened != 0 {
            black_box(happened);
        }
    }
    Instant::now()
}
