//! Measure 4: what the poller feels while others register and unregister without pause, more of them than their core can run at once.
//!
//! Four threads share one core, at the same total rate under every scheme, each busy until its next turn: so the kernel takes the core away from
//! them all the time, now and then in the middle of a registration. Who holds a lock then keeps it until the kernel lets it run again, and
//! the poller, alone on its own core, waits for that. What the poller waited for its own core is subtracted: that is nobody's lock. Timer ticks and the
//! hypervisor take their time as well, and no counter says when: what they take is seen between polls, where the thread waits for nothing.
#![forbid(unsafe_code)]

use super::ledger::{Counts, Ledger};
use super::machine::{Cores, RunQueueWait, nanoseconds, pin};
use super::rig::Rig;
use crate::error::Error;
use crate::latency::Histogram;
use slipring::ctrlr::{Ctrlr, Reply};
use slipring::ring::{Mailbox, Scheme};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Threads that register and unregister, all on one core.
pub(super) const THREADS: usize = 4;
/// Cycles of register, send, unregister per second, of all threads together: well below what the slowest scheme can do, so that all
/// do the same.
pub(super) const CYCLES_PER_S: u64 = 200_000;
/// A poll that takes longer has waited for something.
const STALL: Duration = Duration::from_micros(25);
/// Outcomes of one thread in flight.
const WINDOW: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the poller felt.
pub(super) struct Storm {
    /// How long each poll took, one reading of the clock included.
    pub(super) poll: Histogram,
    /// Time in polls of over 25 us less the poller's own run-queue wait in them, in milliseconds per second.
    pub(super) stall_ms_per_s: f64,
    /// What of that the machine took, by what it took between polls, for as much time as was spent in polls.
    pub(super) machine_ms_per_s: f64,
    /// Register and unregister cycles per second that were really done.
    pub(super) cycles_per_s: f64,
    /// The share of the time that the poller waited for its core, 0 to 1.
    pub(super) wait_share: f64,
    pub(super) counts: Counts,
}

/// Runs a storm (or, with no cycles, a calm) of `duration`.
pub(super) fn run<S: Scheme>(
    rig: &mut Rig<S>,
    cores: &Cores,
    cycles_per_s: u64,
    duration: Duration,
) -> Result<Storm, Error> {
    rig.quiesce()?;
    let ctrlr = rig.ctrlr.clone();
    let (stop_storm, stop_polling) = (AtomicBool::new(false), AtomicBool::new(false));
    let schedule = Schedule {
        started: Instant::now(),
        period_ns: 1_000_000_000u64.checked_div(cycles_per_s),
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| poll(rig, cores.poller, &stop_polling));
        let threads = if cycles_per_s == 0 { 0 } else { THREADS };
        let storming: Vec<_> = (0..threads)
            .map(|index| {
                let (ctrlr, schedule, stop, core) = (&ctrlr, &schedule, &stop_storm, cores.sender(0));
                scope.spawn(move || cycle(ctrlr, &format!("storm {index}"), core, schedule, stop))
            })
            .collect();
        std::thread::sleep(duration);
        let (took, cycles) = (schedule.started.elapsed(), schedule.done.load(Ordering::Relaxed));
        stop_storm.store(true, Ordering::Relaxed);
        let ended: Vec<_> = storming.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop_polling.store(true, Ordering::Relaxed);
        let mut storm = polling.join().map_err(|_| Error::failed("the polling thread panicked"))??;
        storm.cycles_per_s = cycles as f64 / took.as_secs_f64();
        for one in ended {
            storm.counts.add(&one.map_err(|_| Error::failed("a storming thread panicked"))??);
        }
        Ok(storm)
    })
}

/// Whose turn it is when: one count for all threads, so that the total rate is kept while some of them do not run.
struct Schedule {
    started: Instant,
    period_ns: Option<u64>,
    next: AtomicU64,
    done: AtomicU64,
}

impl Schedule {
    /// Waits, busily, for the next turn; false when the storm is over.
    fn wait(&self, stop: &AtomicBool) -> bool {
        // Relaxed: only the count matters.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let due = Duration::from_nanos(due_ns(turn, self.period_ns.unwrap_or(0)));
        while !stop.load(Ordering::Relaxed) {
            if self.started.elapsed() >= due {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }
}

/// When a turn is due, by the storm's own time: one in each period, and each somewhere else in its own. Timer ticks come in step with any regular schedule, as both go by
/// the same clock: in some runs they would always find a thread in the middle of its turn, and in the others never.
fn due_ns(turn: u64, period_ns: u64) -> u64 {
    // The golden ratio's multiples are spread over a circle as evenly as can be, and repeat nothing.
    let place = turn.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    turn * period_ns + ((u128::from(place) * u128::from(period_ns)) >> 64) as u64
}

fn cycle<S: Scheme>(
    ctrlr: &Ctrlr<S>,
    name: &str,
    core: usize,
    schedule: &Schedule,
    stop: &AtomicBool,
) -> Result<Counts, Error> {
    pin(core)?;
    let mut ledger = Ledger::new();
    let mut mailbox: Mailbox<Reply> = Mailbox::new(WINDOW);
    while schedule.wait(stop) {
        let producer = ctrlr.register(name).map_err(Error::failed)?;
        // A refusal is counted, and none is expected: the window is larger than what one cycle leaves behind.
        let _ = ledger.send(&producer, &mut mailbox);
        ctrlr.unregister(name, TIMEOUT).map_err(Error::failed)?;
        ledger.receive(&mut mailbox);
        schedule.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(ledger.close(&mut mailbox))
}

/// Time of one kind, in nanoseconds: in polls, or between them.
#[derive(Default)]
struct Spent {
    /// In stretches of up to [`STALL`].
    short_ns: u64,
    /// In longer ones, less the run-queue wait in them.
    stalled_ns: u64,
}

impl Spent {
    /// Adds a stretch of time, a long one less what the thread `waited` for its core meanwhile; returns its length in nanoseconds.
    #[inline(always)]
    fn add(&mut self, took: Duration, waited: &mut RunQueueWait) -> u64 {
        let took_ns = nanoseconds(took);
        if took > STALL {
            self.stalled_ns += took_ns.saturating_sub(waited.since_last());
        } else {
            self.short_ns += took_ns;
        }
        took_ns
    }

    /// What is taken from so much time where nobody is waited for: as `undisturbed` was taken from, in proportion.
    fn expected(&self, undisturbed: &Self) -> f64 {
        undisturbed.stalled_ns as f64 * self.short_ns as f64 / undisturbed.short_ns.max(1) as f64
    }
}

/// The polling thread: every poll is timed, and every long one is explained as far as it can be.
fn poll<S: Scheme>(rig: &mut Rig<S>, core: usize, stop: &AtomicBool) -> Result<Storm, Error> {
    pin(core)?;
    let mut waited = RunQueueWait::of_this_thread();
    let mut polls = Histogram::new();
    let (mut in_polls, mut between) = (Spent::default(), Spent::default());
    let started = Instant::now();
    let mut before = started;
    while !stop.load(Ordering::Relaxed) {
        rig.poller.poll(before).map_err(Error::failed)?;
        let after = Instant::now();
        polls.record(in_polls.add(after - before, &mut waited));
        rig.device.step();
        before = Instant::now();
        between.add(before - after, &mut waited);
    }
    let seconds = started.elapsed().as_secs_f64();
    let ms_per_s = |ns: f64| ns / 1e6 / seconds;
    Ok(Storm {
        poll: polls,
        stall_ms_per_s: ms_per_s(in_polls.stalled_ns as f64),
        machine_ms_per_s: ms_per_s(in_polls.expected(&between)),
        cycles_per_s: 0.0,
        wait_share: waited.total() as f64 / 1e9 / seconds,
        counts: Counts::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_takes_from_polls_as_it_takes_from_what_is_between_them() {
        let in_polls = Spent { short_ns: 3_000, stalled_ns: 900 };
        let between = Spent { short_ns: 1_000, stalled_ns: 100 };
        assert!((in_polls.expected(&between) - 300.0).abs() < 1e-9);
        assert!(in_polls.expected(&Spent::default()).abs() < 1e-9, "nothing was seen between polls");
    }

    #[test]
    fn each_period_has_a_turn_and_none_is_in_step_with_the_others() {
        let places: Vec<u64> = (0..1_000).map(|turn| due_ns(turn, 5_000) - turn * 5_000).collect();
        assert!(places.iter().all(|&place| place < 5_000));
        for part in 0..10 {
            let turns = places.iter().filter(|&&place| place / 500 == part).count();
            assert!((95..=105).contains(&turns), "{turns} of 1,000 in tenth {part}");
        }
        // Nor do those that a tick would meet, each of so many turns.
        let met = places.iter().step_by(50).filter(|&&place| place < 2_500).count();
        assert!((8..=12).contains(&met), "{met} of 20 in the first half");
    }

    #[test]
    fn a_long_stretch_is_a_stall_and_a_short_one_is_not() {
        let mut waited = RunQueueWait::of_this_thread();
        let mut spent = Spent::default();
        assert_eq!(spent.add(STALL, &mut waited), 25_000);
        assert_eq!((spent.short_ns, spent.stalled_ns), (25_000, 0));
        // Longer than any wait for a core that may have been counted meanwhile.
        spent.add(Duration::from_secs(1_000), &mut waited);
        assert!(spent.short_ns == 25_000 && spent.stalled_ns > 900_000_000_000);
    }
}
