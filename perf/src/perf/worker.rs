//! A worker: the thread that drives its lanes, in a closed loop (each completion starts the next I/O) or an open one (a schedule does), and
//! the controller's poller if it has it.
//!
//! The clock is read once per batch of completions, after the batch was taken, and that reading is also the beginning of the I/Os that are started in
//! its place. So a latency holds the few hundred nanoseconds that its batch took, and is never too short. In an open loop it counts from the moment at which
//! the schedule wanted the I/O, however late it was begun: what waits behind a slow I/O is not left out (no coordinated omission).
#![forbid(unsafe_code)]

use super::lane::{Found, Lane, Work};
use crate::error::Error;
use crate::latency::{Clock, Histogram};
use crossbeam_utils::CachePadded;
use slipring::poller::{Poller, pin_to_core};
use slipring::ring::LockFree;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Rounds without a completion after which other threads are let in, and the poller's time is read anew.
const IDLE_ROUNDS: u32 = 1024;
/// How long I/Os may take to come back at the end.
const DRAIN_NS: u64 = 60_000_000_000;

/// What a run is at. Set by the main thread, read by workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    WarmUp = 0,
    Measure = 1,
    Stop = 2,
}

/// What the main thread and the workers share.
#[derive(Debug)]
pub(super) struct Shared {
    stage: AtomicU8,
    /// Per worker the I/Os since the run began; each has one writer.
    ios: Vec<CachePadded<AtomicU64>>,
}

impl Shared {
    pub(super) fn new(workers: usize) -> Self {
        let stage = AtomicU8::new(Stage::WarmUp as u8);
        let ios = (0..workers).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
        Self { stage, ios }
    }

    // All orderings here are relaxed: flags and counts, from which nothing is concluded about other memory.

    /// The warm-up is over, unless everything is.
    pub(super) fn measure(&self) {
        let (from, to) = (Stage::WarmUp as u8, Stage::Measure as u8);
        // Whether it was still warming up is nobody's concern.
        let _ = self.stage.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.stage.store(Stage::Stop as u8, Ordering::Relaxed);
    }

    #[inline(always)]
    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::WarmUp,
            1 => Stage::Measure,
            _ => Stage::Stop,
        }
    }

    pub(super) fn ios(&self) -> u64 {
        self.ios.iter().map(|ios| ios.load(Ordering::Relaxed)).sum()
    }
}

/// What a worker has measured.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) histogram: Histogram,
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) duration_ns: u64,
    /// I/Os that the schedule wanted and that were not begun when the time was up.
    pub(super) not_started: u64,
    pub(super) found: Found,
    /// Why the controller cannot be worked with any more.
    pub(super) lost: Option<String>,
}

/// When an open loop's I/Os are to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Of the first one, in nanoseconds from the start of the run.
    pub(super) offset_ns: f64,
    pub(super) interval_ns: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) core: Option<usize>,
    pub(super) lanes: Vec<Lane>,
    pub(super) poller: Option<Poller<LockFree>>,
    pub(super) schedule: Option<Schedule>,
    pub(super) clock: Clock,
    /// Whether to wait for interrupts when there is nothing to do.
    pub(super) waits: bool,
    pub(super) tally: Tally,
}

impl Tally {
    pub(super) fn new() -> Self {
        let found = Found::default();
        let histogram = Histogram::new();
        Self { histogram, reads: 0, writes: 0, duration_ns: 0, not_started: 0, found, lost: None }
    }

    /// The controller is gone, or of no more use: what has run is reported. What is in flight comes back while polling goes on.
    #[cold]
    fn lose(&mut self, why: &dyn std::fmt::Display, shared: &Shared) {
        self.lost.get_or_insert_with(|| why.to_string());
        shared.stop();
    }
}

/// The longest wait for one lane's interrupt.
const WAIT: Duration = Duration::from_millis(1);

impl Worker {
    /// Does `work` on the calling thread, as worker `number`, until it is done or [`Stage::Stop`], and until nothing is in flight.
    pub(super) fn run(&mut self, work: Work, number: usize, shared: &Shared) -> Result<(), Error> {
        let result = self.pin().and_then(|()| self.drive(work, number, shared));
        if result.is_err() || self.tally.found.wrong_blocks > 0 {
            shared.stop();
        }
        result
    }

    fn pin(&self) -> Result<(), Error> {
        self.core.map_or(Ok(()), |core| pin_to_core(core).map_err(Error::input))
    }

    fn drive(&mut self, work: Work, number: usize, shared: &Shared) -> Result<(), Error> {
        let origin = self.clock.ticks();
        let clock = self.clock.clone();
        let now_ns = move || clock.nanoseconds(origin, clock.ticks());
        let schedule = self.schedule.filter(|_| work == Work::Pattern);
        let mut run =
            Run { schedule, begun: 0, lane: 0, stage: Stage::WarmUp, since_ns: 0, ios: 0, idle_rounds: 0 };
        let mut time = Instant::now();
        self.lanes.iter_mut().for_each(|lane| lane.turn_to(work));
        loop {
            if let Some(poller) = &mut self.poller
                && let Err(error) = poller.poll(time)
            {
                self.tally.lose(&error, shared);
            }
            let stage = shared.stage();
            if stage != run.stage {
                run.change(stage, now_ns(), &mut self.tally);
            }
            let completed = self.turn(&mut run, shared, &now_ns)?;
            if completed > 0 {
                run.idle_rounds = 0;
                shared.ios[number].store(run.ios, Ordering::Relaxed);
            } else {
                run.idle_rounds += 1;
                if self.waits {
                    self.wait(&run);
                    time = Instant::now();
                }
            }
            let is_over = stage == Stage::Stop || work != Work::Pattern;
            if is_over && self.lanes.iter().all(Lane::is_idle) {
                return Ok(());
            }
            if run.idle_rounds == IDLE_ROUNDS {
                run.idle_rounds = 0;
                time = Instant::now();
                std::thread::yield_now();
                if stage == Stage::Stop && now_ns() > run.since_ns + DRAIN_NS {
                    return Err(Error::failed("I/Os did not come back within a minute of the end"));
                }
            }
            if self.tally.found.wrong_blocks > 0 && stage != Stage::Stop {
                shared.stop();
            }
        }
    }

    /// Sleeps until the next lane's interrupt, in turn; briefly, as there are other lanes, a poller, and a schedule to look after.
    fn wait(&mut self, run: &Run) {
        let lane = run.idle_rounds as usize % self.lanes.len();
        self.lanes[lane].wait(WAIT);
    }

    /// One round over all lanes; says how many I/Os completed.
    #[inline(always)]
    fn turn(&mut self, run: &mut Run, shared: &Shared, now_ns: &impl Fn() -> u64) -> Result<usize, Error> {
        let is_closed = run.schedule.is_none() && run.stage != Stage::Stop;
        let is_measured = run.stage == Stage::Measure;
        let mut all = 0;
        for lane in &mut self.lanes {
            let completed = lane.poll().unwrap_or_else(|error| {
                self.tally.lose(&error, shared);
                0
            });
            let Tally { histogram, reads, writes, found, .. } = &mut self.tally;
            if completed == 0 && !(is_closed && lane.has_room()) {
                continue;
            }
            let now = now_ns();
            lane.settle(found, |start_ns, is_read| {
                if is_measured {
                    histogram.record(now.saturating_sub(start_ns));
                    *reads += u64::from(is_read);
                    *writes += u64::from(!is_read);
                }
            });
            if is_closed {
                while lane.start(now)? {}
                lane.commit();
            }
            all += completed;
        }
        run.ios += all as u64;
        if run.schedule.is_some() && run.stage != Stage::Stop {
            self.start_scheduled(run, now_ns())?;
        }
        Ok(all)
    }

    /// Starts what the schedule wants by `now`, lane after lane, while there is room.
    fn start_scheduled(&mut self, run: &mut Run, now: u64) -> Result<(), Error> {
        let mut full = 0;
        let count = self.lanes.len();
        while full < count && run.due_ns() <= now {
            let lane = &mut self.lanes[run.lane];
            run.lane = if run.lane + 1 == count { 0 } else { run.lane + 1 };
            if lane.has_room() && lane.start(run.due_ns())? {
                run.begun += 1;
                full = 0;
            } else {
                full += 1;
            }
        }
        self.lanes.iter_mut().for_each(Lane::commit);
        Ok(())
    }
}

/// Where a worker is in its work.
struct Run {
    schedule: Option<Schedule>,
    /// I/Os of the schedule that were begun.
    begun: u64,
    /// The lane whose turn it is.
    lane: usize,
    stage: Stage,
    /// When the stage began.
    since_ns: u64,
    ios: u64,
    idle_rounds: u32,
}

impl Run {
    /// When the schedule wants the next I/O. Computed anew for each, so that no rounding adds up.
    #[inline(always)]
    fn due_ns(&self) -> u64 {
        self.schedule.map_or(u64::MAX, |schedule| schedule.due_ns(self.begun))
    }

    #[cold]
    fn change(&mut self, stage: Stage, now: u64, tally: &mut Tally) {
        if self.stage == Stage::Measure {
            tally.duration_ns = now - self.since_ns;
            let wanted = self.schedule.map_or(0, |schedule| schedule.wanted_by(now));
            tally.not_started = wanted.saturating_sub(self.begun);
        }
        (self.stage, self.since_ns) = (stage, now);
    }
}

impl Schedule {
    #[inline(always)]
    fn due_ns(&self, number: u64) -> u64 {
        (self.offset_ns + number as f64 * self.interval_ns) as u64
    }

    /// How many I/Os it wants by `now`.
    fn wanted_by(&self, now: u64) -> u64 {
        ((now as f64 - self.offset_ns) / self.interval_ns).ceil().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn a_schedule_is_even_and_counts_what_is_due() {
        let schedule = Schedule { offset_ns: 500.0, interval_ns: 1000.0 };
        assert_eq!([0, 1, 1_000_000].map(|number| schedule.due_ns(number)), [500, 1500, 1_000_000_500]);
        assert_eq!([0, 500, 501, 1501].map(|now| schedule.wanted_by(now)), [0, 0, 1, 2]);
    }
}
