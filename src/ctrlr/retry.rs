//! Retries: which commands that failed are sent again, after which delay, and what is kept of a command for that. The core ([`super::resubmission`]) and queue
//! pairs both use it.
//!
//! A status with Do Not Retry clear says that the same command may succeed later; its Command Retry Delay says when, by one of three times of Identify
//! Controller (NVMe Base 2.0, 3.3.3.2 and 5.17.2.1). A command's time limit holds over all of its tries: a try that would begin past it is not made.
#![forbid(unsafe_code)]

use super::watchdog::Watchdog;
use crate::queue::Pair;
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::identify::IdentifyCtrlr;
use crate::spec::status::Status;
use std::time::Duration;

/// CRDT1 to CRDT3 count in these.
const DELAY_UNIT: Duration = Duration::from_millis(100);
/// FUSE, in a command's flags.
const FUSED: u8 = 0b11;

/// What is kept of a command in flight.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) command: Command,
    /// How often it was sent again.
    pub(crate) tries: u8,
    /// When a look of its pair's watchdog came upon it first, in flight or waiting for its next try.
    begun: Option<u32>,
    /// It was late or is to be aborted: whatever it comes to is its end.
    is_final: bool,
}

impl Kept {
    pub(crate) fn new(command: Command) -> Self {
        Self { command, ..Self::default() }
    }

    /// A look found it waiting for its next try, at `time`.
    pub(crate) fn is_seen(&mut self, time: u32) {
        self.begun.get_or_insert(time);
    }

    /// How long it is under way, all tries and the waits between them together, as far as its pair's `watchdog` can tell.
    pub(crate) fn waited(&self, watchdog: &Watchdog) -> Duration {
        watchdog.waited(self.begun)
    }

    /// The same for the next try.
    pub(crate) fn again(self) -> Self {
        Self { tries: self.tries.saturating_add(1), ..self }
    }
}

/// What is kept of one pair's commands, by their slots.
#[derive(Debug)]
pub(crate) struct Keeper {
    kept: Box<[Kept]>,
    slot_mask: u16,
}

impl Keeper {
    pub(crate) fn new<R>(pair: &Pair<R>) -> Self {
        Self { kept: vec![Kept::default(); pair.capacity()].into(), slot_mask: pair.slot_mask() }
    }

    /// Of a command that was submitted just now.
    pub(crate) fn keep(&mut self, cid: u16, kept: Kept) {
        if let Some(place) = self.kept.get_mut(usize::from(cid & self.slot_mask)) {
            *place = kept;
        }
    }

    /// Of a command that completed just now, before another one has its slot.
    pub(crate) fn kept(&self, cid: u16) -> Option<Kept> {
        self.kept.get(usize::from(cid & self.slot_mask)).copied()
    }

    /// This command is not sent again.
    pub(crate) fn forbid(&mut self, cid: u16) {
        if let Some(kept) = self.kept.get_mut(usize::from(cid & self.slot_mask)) {
            kept.is_final = true;
        }
    }

    /// Has the pair's times, which begin anew with each submission, count from the first try on. Before and after each look of its watchdog.
    pub(crate) fn keep_times<R>(&mut self, pair: &mut Pair<R>) {
        pair.for_each_outstanding(|mut command| {
            let Some(kept) = self.kept.get_mut(usize::from(command.cid & self.slot_mask)) else { return };
            match (command.time(), kept.begun) {
                (None, Some(begun)) => command.set_time(begun),
                (Some(time), _) => kept.begun = Some(time),
                (None, None) => {}
            }
        });
    }
}

/// What decides beside the command itself.
#[derive(Debug)]
pub(crate) struct Policy<'a> {
    /// How often a command is sent again at most.
    pub(crate) retries: u8,
    pub(crate) is_admin: bool,
    pub(crate) identity: Option<&'a IdentifyCtrlr>,
    /// How long the command may take, all tries together.
    pub(crate) limit: Duration,
    /// Its pair's.
    pub(crate) watchdog: &'a Watchdog,
}

impl Policy<'_> {
    /// After how long a command that ended with `status` is sent again; `None` when it is not.
    pub(crate) fn delay(&self, kept: &Kept, status: Status) -> Option<Duration> {
        let may_help = !kept.is_final
            && kept.tries < self.retries
            && is_worth_a_try(status)
            && kept.command.flags & FUSED == 0
            && !(self.is_admin && is_of_its_moment(kept.command.opcode));
        if !may_help {
            return None;
        }
        let units = self.identity.map_or(0, |identity| match status.crd() {
            0 => 0,
            1 => identity.crdt1,
            2 => identity.crdt2,
            _ => identity.crdt3,
        });
        let delay = DELAY_UNIT * u32::from(units);
        (kept.waited(self.watchdog) + delay < self.limit).then_some(delay)
    }
}

/// Whether the device leaves hope: the command was not carried out, and nobody wanted its end.
fn is_worth_a_try(status: Status) -> bool {
    let is_meant = matches!(
        status.without_dnr(),
        Status::ABORTED_BY_REQUEST
            | Status::ABORTED_SQ_DELETION
            | Status::ABORTED_FAILED_FUSED
            | Status::ABORTED_MISSING_FUSED
            | Status::ABORTED_PREEMPT
            | Status::ABORTED_BY_HOST
            | Status::COMPARE_FAILURE
            // Firmware was committed, and something else is to follow.
            | Status::FIRMWARE_NEEDS_CONVENTIONAL_RESET
            | Status::FIRMWARE_NEEDS_SUBSYSTEM_RESET
            | Status::FIRMWARE_NEEDS_CONTROLLER_RESET
    );
    !status.is_success() && !status.dnr() && !is_meant
}

/// Admin commands that mean another thing a moment later, or that are sent again in any case.
fn is_of_its_moment(opcode: u8) -> bool {
    matches!(
        AdminOpcode(opcode),
        AdminOpcode::ABORT | AdminOpcode::ASYNC_EVENT_REQUEST | AdminOpcode::KEEP_ALIVE
    )
}
