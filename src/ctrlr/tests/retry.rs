//! Which commands are sent again, and after which delay.
#![forbid(unsafe_code)]

use super::watchdog::Watched;
use crate::ctrlr::retry::{Keeper, Kept, Policy};
use crate::ctrlr::watchdog::Watchdog;
use crate::queue::TIME_MASK;
use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::identify::IdentifyCtrlr;
use crate::spec::status::Status;
use std::time::Duration;
use zerocopy::FromZeros;

const MS: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(1);
/// It may succeed later, and at once.
const NOT_READY: Status = Status::NAMESPACE_NOT_READY;

fn identity() -> IdentifyCtrlr {
    IdentifyCtrlr { crdt1: 1, crdt2: 3, crdt3: 9, ..IdentifyCtrlr::new_zeroed() }
}

fn command(opcode: u8) -> Kept {
    Kept::new(Command { opcode, ..Command::default() })
}

/// After how long `kept`, which ended with `status`, is sent again, by a policy of two retries in a second.
fn delay(kept: &Kept, is_admin: bool, status: Status) -> Option<Duration> {
    let (identity, watchdog) = (identity(), Watchdog::new(10 * MS));
    let identity = Some(&identity);
    Policy { retries: 2, is_admin, identity, limit: LIMIT, watchdog: &watchdog }.delay(kept, status)
}

#[test]
fn a_try_more_than_was_asked_for_is_not_made() {
    let first = command(NvmOpcode::READ.0);
    let second = first.again();
    let third = second.again();
    assert_eq!((first.tries, second.tries, third.tries), (0, 1, 2));
    assert_eq!(third.command, first.command);
    let delays = [first, second, third, third.again()].map(|kept| delay(&kept, false, NOT_READY));
    assert_eq!(delays, [Some(Duration::ZERO), Some(Duration::ZERO), None, None]);
}

#[test]
fn what_was_meant_or_is_for_good_is_not_tried_again() {
    let read = command(NvmOpcode::READ.0);
    for status in [NOT_READY, Status::INTERNAL_ERROR, Status::UNRECOVERED_READ_ERROR] {
        assert_eq!(delay(&read, false, status), Some(Duration::ZERO), "{status}");
        assert_eq!(delay(&read, false, status.with_dnr()), None, "{status}");
    }
    for status in [Status::SUCCESS, Status::ABORTED_BY_REQUEST, Status::COMPARE_FAILURE] {
        assert_eq!(delay(&read, false, status), None, "{status}");
    }
}

/// One half of a fused pair is nothing by itself, and some admin commands mean another thing a moment later. An I/O command of the same number does not.
#[test]
fn what_means_another_thing_by_itself_is_not_tried_again() {
    for flags in 0..=u8::MAX {
        let kept = Kept::new(Command { opcode: NvmOpcode::COMPARE.0, flags, ..Command::default() });
        let is_whole = flags & 0b11 == 0;
        assert_eq!(delay(&kept, false, NOT_READY).is_some(), is_whole, "{flags:#010b}");
    }
    let of_its_moment = [AdminOpcode::ABORT, AdminOpcode::ASYNC_EVENT_REQUEST, AdminOpcode::KEEP_ALIVE];
    for opcode in 0..=u8::MAX {
        assert!(delay(&command(opcode), false, NOT_READY).is_some(), "I/O {opcode:#x}");
        let may_be = !of_its_moment.contains(&AdminOpcode(opcode));
        assert_eq!(delay(&command(opcode), true, NOT_READY).is_some(), may_be, "admin {opcode:#x}");
    }
}

#[test]
fn the_delay_is_the_one_that_the_status_names() {
    let read = command(NvmOpcode::READ.0);
    for (crd, ms) in [(0, 0), (1, 100), (2, 300), (3, 900)] {
        assert_eq!(delay(&read, false, NOT_READY.with_crd(crd)), Some(ms * MS), "{crd}");
    }
    let watchdog = Watchdog::new(10 * MS);
    let unknown = Policy { retries: 2, is_admin: false, identity: None, limit: LIMIT, watchdog: &watchdog };
    assert_eq!(unknown.delay(&read, NOT_READY.with_crd(3)), Some(Duration::ZERO));
}

/// All tries and the waits between them are in the time limit.
#[test]
fn no_try_begins_at_the_time_limit_or_past_it() {
    // Seen so long before the watchdog's time of 0; times wrap.
    let seen_ago = |ms: u32| {
        let mut kept = command(NvmOpcode::READ.0);
        kept.is_seen(0_u32.wrapping_sub(ms) & TIME_MASK);
        // What was seen stays so.
        kept.is_seen(0);
        assert_eq!(kept.waited(&Watchdog::new(10 * MS)), ms * MS);
        kept
    };
    for (crd, delay_ms) in [(0, 0), (1, 100), (3, 900)] {
        let status = NOT_READY.with_crd(crd);
        assert_eq!(delay(&seen_ago(999 - delay_ms), false, status), Some(delay_ms * MS), "{crd}");
        assert_eq!(delay(&seen_ago(999 - delay_ms).again(), false, status), Some(delay_ms * MS), "{crd}");
        for late in [1000, 1001, 5000] {
            assert_eq!(delay(&seen_ago(late - delay_ms), false, status), None, "{crd}");
            assert_eq!(delay(&seen_ago(late - delay_ms).again(), false, status), None, "{crd}");
        }
    }
}

/// Commands are told apart by their slots, whatever else is in their numbers.
#[test]
fn each_commands_own_is_kept_and_forbidden() {
    let mut watched = Watched::new(10);
    let mut keeper = Keeper::new(&watched.pair);
    for round in 0..3 {
        let cids: Vec<u16> = (0..2).map(|_| watched.submit()).collect();
        let opcode = |cid: u16| (cid % 251) as u8 ^ round;
        for cid in &cids {
            keeper.keep(*cid, command(opcode(*cid)));
        }
        keeper.forbid(cids[1]);
        for (place, cid) in cids.iter().enumerate() {
            let kept = keeper.kept(*cid).expect("kept");
            assert_eq!(kept.command.opcode, opcode(*cid), "round {round}, {cid:#x}");
            assert_eq!(delay(&kept, false, NOT_READY).is_some(), place != 1, "round {round}, {cid:#x}");
        }
        watched.pair.abort_all(|_, _| ());
    }
}

/// A pair gives each submission a new time; kept, the first one holds for all.
#[test]
fn the_time_of_the_first_try_is_that_of_the_next() {
    let mut watched = Watched::new(10);
    let mut keeper = Keeper::new(&watched.pair);
    let cid = watched.submit();
    keeper.keep(cid, command(NvmOpcode::READ.0));
    assert_eq!(watched.look(0), []);
    keeper.keep_times(&mut watched.pair);
    watched.pass(40);
    let kept = keeper.kept(cid).expect("kept");
    assert_eq!(kept.waited(&watched.watchdog), 40 * MS);
    watched.pair.abort_all(|_, _| ());
    let other = watched.submit();
    keeper.keep(other, command(NvmOpcode::WRITE.0));
    let again = watched.submit();
    keeper.keep(again, kept.again());
    keeper.keep_times(&mut watched.pair);
    assert_eq!(watched.look(0), []);
    // 40 of the 100 ms are over for the one, and none for the other.
    watched.pass(59);
    let late: Vec<u16> = watched.look(1).iter().map(|late| late.cid).collect();
    assert_eq!(late, [again]);
    watched.pass(39);
    let late: Vec<u16> = watched.look(1).iter().map(|late| late.cid).collect();
    assert_eq!(late, [other]);
}
