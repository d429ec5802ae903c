//! What cache lines take between the two cores, with no driver around them: what no message can undercut, measured in the same run.
#![forbid(unsafe_code)]

use super::machine::{Cores, nanoseconds, pin};
use super::traffic::{BATCH, WINDOW};
use crate::error::Error;
use crate::latency::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// See the fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    /// One cache line there and back.
    pub(super) ping_pong_ns: f64,
    /// A line there for each message and another back, as many in flight and as many at a time as `compare` sends messages in batches.
    pub(super) message_ns: f64,
}

impl Raw {
    /// Measures for `duration`.
    pub(super) fn measure(cores: &Cores, duration: Duration) -> Result<Self, Error> {
        let half = duration / 2;
        Ok(Self { ping_pong_ns: ping_pong(cores, half)?, message_ns: messages(cores, half)? })
    }
}

/// The value that ends a measure.
const OVER: u64 = u64::MAX;

/// One word, alone in its pair of cache lines.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// The median round trip of one cache line between the two cores, in nanoseconds.
fn ping_pong(cores: &Cores, duration: Duration) -> Result<f64, Error> {
    let line = Line(AtomicU64::new(0));
    let line = &line.0;
    // No pause instruction in these loops, as there is none in a poll loop: it would be most of what is measured.
    std::thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            if let Err(error) = pin(cores.poller) {
                // Relaxed: ends the other loop, nothing more.
                line.store(OVER, Ordering::Relaxed);
                return Err(error);
            }
            let mut answered = 0;
            loop {
                // Acquire here and Release below, on both sides: each hands over what came before, as a message would.
                match line.load(Ordering::Acquire) {
                    OVER => return Ok(()),
                    value if value != answered => {
                        answered = value + 1;
                        line.store(answered, Ordering::Release);
                    }
                    _ => {}
                }
            }
        });
        let pinging = scope.spawn(|| {
            let pinned = pin(cores.sender(0));
            let mut round_trips = Histogram::new();
            let started = Instant::now();
            let (mut before, mut value) = (started, 0);
            while pinned.is_ok() && before - started < duration {
                line.store(value + 1, Ordering::Release);
                value += 2;
                let mut seen = 0;
                while seen != value && seen != OVER {
                    seen = line.load(Ordering::Acquire);
                }
                if seen == OVER {
                    break;
                }
                let now = Instant::now();
                round_trips.record(nanoseconds(now - before));
                before = now;
            }
            line.store(OVER, Ordering::Relaxed);
            pinned.map(|()| round_trips.percentile(50.0) as f64)
        });
        let median = pinging.join().map_err(|_| Error::failed("the pinging thread panicked"))?;
        echoing.join().map_err(|_| Error::failed("the echoing thread panicked"))??;
        median
    })
}

/// The line that message `number` goes by.
fn line(lines: &[Line], number: u64) -> &AtomicU64 {
    &lines[number as usize % WINDOW].0
}

/// Nanoseconds per message that is two lines and nothing else.
fn messages(cores: &Cores, duration: Duration) -> Result<f64, Error> {
    let lines = || -> Vec<Line> { (0..WINDOW).map(|_| Line::default()).collect() };
    let (there, back) = (lines(), lines());
    std::thread::scope(|scope| {
        let echoing = scope.spawn(|| {
            pin(cores.poller)?;
            let mut number = 1;
            loop {
                // Acquire here and Release below, on both sides, as in a ping-pong.
                match line(&there, number).load(Ordering::Acquire) {
                    OVER => return Ok(()),
                    seen if seen == number => {
                        line(&back, number).store(number, Ordering::Release);
                        number += 1;
                    }
                    _ => {}
                }
            }
        });
        let sending = scope.spawn(|| {
            let pinned = pin(cores.sender(0));
            let (mut sent, mut received) = (0, 0);
            let started = Instant::now();
            while pinned.is_ok() && started.elapsed() < duration {
                // Many per reading of the clock, which is not to be measured.
                for _ in 0..WINDOW {
                    if sent - received <= (WINDOW - BATCH) as u64 {
                        for number in sent + 1..=sent + BATCH as u64 {
                            line(&there, number).store(number, Ordering::Release);
                        }
                        sent += BATCH as u64;
                    }
                    while line(&back, received + 1).load(Ordering::Acquire) == received + 1 {
                        received += 1;
                    }
                }
            }
            let took = started.elapsed();
            // Where the other side looks next, sooner or later.
            line(&there, sent + 1).store(OVER, Ordering::Release);
            pinned.map(|()| took.as_nanos() as f64 / received as f64)
        });
        let each = sending.join().map_err(|_| Error::failed("the sending thread panicked"))?;
        echoing.join().map_err(|_| Error::failed("the echoing thread panicked"))??;
        each
    })
}
