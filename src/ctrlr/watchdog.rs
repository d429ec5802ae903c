//! Which commands take too long: one watchdog for each queue pair, admin, external or a user's. What is done about them is `recovery`'s business.
//!
//! It looks at all that is outstanding every so often, and has each command that it sees for the first time submitted at that moment: a command costs the
//! store of one word, and nobody reads a clock. Its time is counted in
//! milliseconds *in which the pair was polled*: after a pause of the polling thread, completions may lie unread, and no command is blamed for that. A command
//! is never found late too early; it is found late up to two looks and, where polls are rare, as much more late as they are.
#![forbid(unsafe_code)]

use crate::queue::{Outstanding, Pair, TIME_MASK};
use std::time::Duration;

/// The longest timeout, of more than an hour: longer ones are never over.
const LONGEST_MS: u32 = TIME_MASK / 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// Milliseconds in which the pair was polled.
    time: u32,
    /// The clock, at the last look.
    seen: Option<u32>,
    /// The most that passes between two looks.
    most_ms: u32,
    /// Commands whose Abort was asked for, and when.
    asked: Vec<(u16, u32)>,
}

/// A command that takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) cid: u16,
    pub(crate) opcode: u8,
    /// For how long it has been outstanding, at least.
    pub(crate) waited: Duration,
    /// Its Abort was asked for, and that did not help either.
    pub(crate) was_aborted: bool,
}

impl Watchdog {
    /// A watchdog that is to look every `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self { time: 0, seen: None, most_ms: 2 * milliseconds(period).max(1), asked: Vec::new() }
    }

    /// Looks at `pair` at `clock_ms`, which may wrap. `limit` is how long a command may take, `None` for those that may take for ever; `abort` is how long
    /// one may after its Abort was asked for. A command is reported once when its time is over, and then again when it is over once more.
    pub(crate) fn look<R>(
        &mut self,
        pair: &mut Pair<R>,
        clock_ms: u32,
        limit: impl Fn(u8, &R) -> Option<Duration>,
        abort: Duration,
    ) -> Vec<Late> {
        let passed = self.seen.map_or(0, |seen| clock_ms.wrapping_sub(seen)).min(self.most_ms);
        self.seen = Some(clock_ms);
        self.time = self.time.wrapping_add(passed);
        let now = self.time;
        let mut late = Vec::new();
        if pair.outstanding() == 0 {
            self.asked.clear();
            return late;
        }
        let asked = std::mem::take(&mut self.asked);
        // Of those that are still outstanding.
        let mut still = Vec::with_capacity(asked.len());
        pair.for_each_outstanding(|mut command: Outstanding<'_, R>| {
            if let Some(entry) = asked.iter().find(|(cid, _)| *cid == command.cid) {
                still.push(*entry);
            }
            let Some(begun) = command.time() else { return command.set_time(now) };
            let Some(limit) = limit(command.opcode(), command.request).map(milliseconds) else { return };
            let waited = now.wrapping_sub(begun) & TIME_MASK;
            if limit <= LONGEST_MS && waited >= limit {
                command.set_time(now);
                late.push(Late {
                    cid: command.cid,
                    opcode: command.opcode(),
                    waited: Duration::from_millis(waited.into()),
                    was_aborted: false,
                });
            }
        });
        self.asked = still;
        self.give_up_on(&mut late, milliseconds(abort));
        late
    }

    /// The outstanding command whose request is wanted, as a late one, whatever its time; `was_aborted` if its Abort was asked for already.
    pub(crate) fn find<R>(&self, pair: &mut Pair<R>, is_wanted: impl Fn(&R) -> bool) -> Option<Late> {
        let mut found = None;
        pair.for_each_outstanding(|mut command: Outstanding<'_, R>| {
            if !is_wanted(command.request) {
                return;
            }
            let waited = command.time().map_or(0, |begun| self.time.wrapping_sub(begun) & TIME_MASK);
            command.set_time(self.time);
            found = Some(Late {
                cid: command.cid,
                opcode: command.opcode(),
                waited: Duration::from_millis(waited.into()),
                was_aborted: self.asked.iter().any(|(cid, _)| *cid == command.cid),
            });
        });
        found
    }

    /// Reports the commands whose Abort did not help in time, and only that of them.
    fn give_up_on(&mut self, late: &mut Vec<Late>, abort_ms: u32) {
        let now = self.time;
        late.retain(|late| self.asked.iter().all(|(cid, _)| *cid != late.cid));
        self.asked.retain(|(cid, since)| {
            let waited = now.wrapping_sub(*since);
            let is_over = waited >= abort_ms;
            if is_over {
                let waited = Duration::from_millis(waited.into());
                late.push(Late { cid: *cid, opcode: 0, waited, was_aborted: true });
            }
            !is_over
        });
    }

    /// Its time as of its last look, in its own milliseconds.
    pub(crate) fn time(&self) -> u32 {
        self.time & TIME_MASK
    }

    /// How long ago `begun` was, a time that it gave a command; none if it has not given it any yet.
    pub(crate) fn waited(&self, begun: Option<u32>) -> Duration {
        let waited = begun.map_or(0, |begun| self.time.wrapping_sub(begun) & TIME_MASK);
        Duration::from_millis(waited.into())
    }

    /// The Abort of a late command was asked for.
    pub(crate) fn abort_asked(&mut self, cid: u16) {
        self.asked.push((cid, self.time));
    }

    /// Nothing is outstanding any more.
    pub(crate) fn forget(&mut self) {
        self.asked.clear();
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
