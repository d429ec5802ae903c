//! When a watchdog finds a command late, to the millisecond: its clock is the test's.
#![forbid(unsafe_code)]

use crate::ctrlr::watchdog::{Late, Watchdog};
use crate::dma::{DmaMap, DmaOptions, DmaSpace};
use crate::emulated::{self, Config};
use crate::queue::{Pair, PairConfig, TIME_MASK};
use crate::spec::command::Command;
use crate::spec::registers::{cq_head_doorbell, sq_tail_doorbell};
use crate::transport::Transport;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

const OPCODE: u8 = 0x5a;
const PERIOD_MS: u32 = 10;
/// A watchdog that is called once in a while takes no more than this for passed.
const MOST_MS: u32 = 2 * PERIOD_MS;
const LIMIT_MS: u32 = 100;
const ABORT_MS: u32 = 50;
/// The longest timeout that is ever over.
const LONGEST_MS: u32 = TIME_MASK / 2;

fn ms(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

/// A queue pair that no device serves, its watchdog and a clock.
pub(super) struct Watched {
    pub(super) pair: Pair<u32>,
    pub(super) watchdog: Watchdog,
    clock_ms: u32,
}

impl Watched {
    pub(super) fn new(period_ms: u32) -> Self {
        let (transport, _device) = emulated::new(Config::default()).expect("a valid configuration");
        let dma = DmaSpace::new(Arc::clone(&transport) as Arc<dyn DmaMap>, DmaOptions::default());
        let config =
            PairConfig { qid: 1, sq_entries: 8, cq_entries: 8, page_size: 4096, max_transfer_bytes: 4096 };
        let sq = transport.doorbell(sq_tail_doorbell(1, 0)).expect("in the BAR");
        let cq = transport.doorbell(cq_head_doorbell(1, 0)).expect("in the BAR");
        let pair = Pair::new(&dma, config, sq, cq).expect("memory");
        Self { pair, watchdog: Watchdog::new(ms(period_ms)), clock_ms: 1000 }
    }

    pub(super) fn submit(&mut self) -> u16 {
        let command = Command { opcode: OPCODE, ..Command::default() };
        self.pair.submit(command, None, 0).expect("room")
    }

    /// Submits a command and has it seen: its time begins with that.
    fn begin(&mut self) -> u16 {
        let cid = self.submit();
        assert_eq!(self.look(0), []);
        cid
    }

    /// Looks `passed_ms` later.
    fn look_with(&mut self, passed_ms: u32, limit: Option<Duration>) -> Vec<Late> {
        self.clock_ms = self.clock_ms.wrapping_add(passed_ms);
        self.watchdog.look(&mut self.pair, self.clock_ms, |_, _| limit, ms(ABORT_MS))
    }

    pub(super) fn look(&mut self, passed_ms: u32) -> Vec<Late> {
        self.look_with(passed_ms, Some(ms(LIMIT_MS)))
    }

    /// Looks every period for `passed_ms`, and finds nothing late.
    pub(super) fn pass(&mut self, passed_ms: u32) {
        for _ in 0..passed_ms / PERIOD_MS {
            assert_eq!(self.look(PERIOD_MS), []);
        }
        assert_eq!(self.look(passed_ms % PERIOD_MS), []);
    }
}

fn late(cid: u16, waited_ms: u32) -> Late {
    Late { cid, opcode: OPCODE, waited: ms(waited_ms), was_aborted: false }
}

fn late_again(cid: u16, waited_ms: u32) -> Late {
    Late { cid, opcode: 0, waited: ms(waited_ms), was_aborted: true }
}

#[test]
fn a_command_is_late_at_its_limit_and_each_time_that_it_is_over_again() {
    let mut watched = Watched::new(PERIOD_MS);
    let cid = watched.begin();
    watched.pass(LIMIT_MS - 1);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
    watched.pass(LIMIT_MS - 1);
    assert_eq!(watched.look(3), [late(cid, LIMIT_MS + 2)]);
}

/// It costs a command nothing to be watched, and nobody is blamed for time before that.
#[test]
fn the_time_of_a_command_begins_when_it_is_first_seen() {
    let mut watched = Watched::new(PERIOD_MS);
    assert_eq!(watched.look(0), []);
    let cid = watched.submit();
    assert_eq!(watched.look(PERIOD_MS), []);
    watched.pass(LIMIT_MS - 1);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
}

#[test]
fn each_command_has_its_own_time_and_limit() {
    let mut watched = Watched::new(PERIOD_MS);
    let first = watched.begin();
    watched.pass(30);
    let second = watched.begin();
    watched.pass(LIMIT_MS - 31);
    assert_eq!(watched.look(1), [late(first, LIMIT_MS)]);
    watched.pass(29);
    assert_eq!(watched.look(1), [late(second, LIMIT_MS)]);
    let seen = RefCell::new(Vec::new());
    let limit = |opcode, request: &u32| {
        seen.borrow_mut().push((opcode, *request));
        None
    };
    watched.watchdog.look(&mut watched.pair, watched.clock_ms, limit, ms(ABORT_MS));
    let seen = seen.into_inner();
    assert_eq!(seen, [(OPCODE, 0), (OPCODE, 0)], "the limit is asked for by command");
}

#[test]
fn what_has_no_limit_or_too_long_a_one_is_never_late() {
    let longest = ms(LONGEST_MS);
    for (limit, is_over) in
        [(None, false), (Some(longest), true), (Some(longest + ms(1)), false), (Some(Duration::MAX), false)]
    {
        let mut watched = Watched::new(LONGEST_MS);
        watched.begin();
        assert_eq!(watched.look_with(LONGEST_MS - 1, limit), []);
        assert_eq!(watched.look_with(1, limit).len(), usize::from(is_over), "{limit:?}");
        assert_eq!(watched.look_with(1, limit), [], "{limit:?}");
    }
}

/// While nobody polled, completions may have lain unread.
#[test]
fn a_pause_counts_as_two_periods() {
    let mut watched = Watched::new(PERIOD_MS);
    let cid = watched.begin();
    watched.pass(LIMIT_MS - 1 - MOST_MS);
    assert_eq!(watched.look(1_000_000), []);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
    // However short the period is, time passes.
    let mut watched = Watched::new(0);
    watched.begin();
    assert_eq!((0..LIMIT_MS / 2).flat_map(|_| watched.look(10)).count(), 1);
}

#[test]
fn the_clock_and_the_time_may_wrap() {
    let mut watched = Watched::new(LONGEST_MS);
    watched.clock_ms = 0_u32.wrapping_sub(LIMIT_MS / 2);
    let cid = watched.begin();
    assert_eq!(watched.look(LIMIT_MS - 1), []);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
    // To just before its time has no more bits in the tracker's word.
    let mut watched = Watched::new(LONGEST_MS);
    assert_eq!(watched.look(0), []);
    for _ in 0..2 {
        assert_eq!(watched.look(LONGEST_MS), []);
    }
    let cid = watched.begin();
    assert_eq!(watched.look(LIMIT_MS - 1), []);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
}

#[test]
fn an_abort_has_a_time_of_its_own_and_is_given_up_once() {
    let mut watched = Watched::new(PERIOD_MS);
    let cid = watched.begin();
    watched.pass(LIMIT_MS - 1);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
    watched.watchdog.abort_asked(cid);
    watched.pass(ABORT_MS - 1);
    assert_eq!(watched.look(1), [late_again(cid, ABORT_MS)]);
    watched.pass(LIMIT_MS - ABORT_MS - 1);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
}

/// A command whose Abort is on its way is not reported for itself, however short its limit is.
#[test]
fn a_command_that_is_being_aborted_is_not_late_as_well() {
    let mut watched = Watched::new(PERIOD_MS);
    let (aborting, other) = (watched.begin(), watched.begin());
    watched.watchdog.abort_asked(aborting);
    let limit = Some(ms(PERIOD_MS));
    for _ in 0..ABORT_MS / PERIOD_MS - 1 {
        assert_eq!(watched.look_with(PERIOD_MS, limit), [late(other, PERIOD_MS)]);
    }
    let both = [late(other, PERIOD_MS), late_again(aborting, ABORT_MS)];
    assert_eq!(watched.look_with(PERIOD_MS, limit), both);
}

/// By whatever else a command is found late: with its time so far, and that begins anew.
#[test]
fn a_command_that_is_asked_for_is_found_with_its_time() {
    let mut watched = Watched::new(PERIOD_MS);
    let cid = watched.submit();
    assert_eq!(watched.watchdog.find(&mut watched.pair, |_| true), Some(late(cid, 0)), "not seen yet");
    assert_eq!(watched.watchdog.find(&mut watched.pair, |request| *request != 0), None);
    assert_eq!(watched.look(0), []);
    watched.pass(40);
    assert_eq!(watched.watchdog.time(), 40);
    assert_eq!(watched.watchdog.find(&mut watched.pair, |_| true), Some(late(cid, 40)));
    watched.pass(LIMIT_MS - 1);
    assert_eq!(watched.look(1), [late(cid, LIMIT_MS)]);
    watched.watchdog.abort_asked(cid + 1);
    assert_eq!(watched.watchdog.find(&mut watched.pair, |_| true), Some(late(cid, 0)), "another's Abort");
    watched.watchdog.abort_asked(cid);
    let found = watched.watchdog.find(&mut watched.pair, |_| true);
    assert_eq!(found, Some(Late { was_aborted: true, ..late(cid, 0) }));
}

/// A tracker's word has no room for more.
#[test]
fn the_time_of_a_watchdog_wraps_as_that_of_its_commands() {
    let mut watched = Watched::new(LONGEST_MS);
    assert_eq!(watched.look(0), []);
    for _ in 0..2 {
        assert_eq!(watched.look(LONGEST_MS), []);
    }
    assert_eq!(watched.look(5), []);
    assert_eq!(watched.watchdog.time(), (2 * LONGEST_MS + 5) & TIME_MASK);
    assert_eq!(watched.watchdog.waited(Some(TIME_MASK)), ms(4), "since before it wrapped");
    assert_eq!(watched.watchdog.waited(None), ms(0));
}

#[test]
fn what_ended_is_forgotten() {
    for forget in [false, true] {
        let mut watched = Watched::new(PERIOD_MS);
        let cid = watched.begin();
        watched.pass(PERIOD_MS);
        watched.watchdog.abort_asked(cid);
        if forget {
            watched.watchdog.forget();
        } else {
            // Beside one that goes on: the first is not outstanding any more.
            watched.pair.abort_all(|_, _| ());
            watched.begin();
        }
        watched.pass(LIMIT_MS - PERIOD_MS - 1);
        assert_eq!(watched.pair.outstanding(), 1);
    }
    // With nothing outstanding at a look, too.
    let mut watched = Watched::new(PERIOD_MS);
    let cid = watched.begin();
    watched.pass(PERIOD_MS);
    watched.watchdog.abort_asked(cid);
    watched.pair.abort_all(|_, _| ());
    assert_eq!(watched.look(PERIOD_MS), []);
    assert!(format!("{:?}", watched.watchdog).contains("asked: []"), "{:?}", watched.watchdog);
}
