//! Take-down, in steps that never wait: from a running device to one that can write to no memory. Reset, failure and detach use it.
//!
//! Detach says goodbye first (NVMe Base 2.0, 3.6.1): delete the I/O queues, notify the shutdown, wait until it is complete. All
//! end with CC.EN = 0 and RDY = 0. Each wait has a deadline, past which the next harsher step follows; the last one takes bus mastering away.
#![forbid(unsafe_code)]

use super::bring_up::{EXTERNAL_QID, ready_timeout};
use super::core::{Core, Phase, Purpose};
use super::hub::Hub;
use super::qpair_slot::SlotState;
use super::registers::{check_csts, read_cc, write_cc};
use super::state::Failure;
use crate::spec::command::Command;
use crate::spec::registers::{CSTS, Csts};
use std::time::{Duration, Instant};

/// What the take-down is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Reset,
    Failure,
    Detach,
}

/// CC.SHN: normal shutdown notification. CSTS.SHST: shutdown complete (NVMe Base 2.0, figures 46 and 47).
const SHN_NORMAL: u8 = 0b01;
const SHST_COMPLETE: u8 = 0b10;
/// The shutdown wait where the controller gives none (RTD3E of 0), and the longest that is granted.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the deletion of the I/O queues may take before the shutdown goes on without it.
const DELETION_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    DeleteSqs,
    DeleteCqs,
    /// In the middle of bring-up: the notification waits until the controller is ready.
    ReadyBeforeShutdown,
    Shutdown,
    /// Enabled but not ready: CC.EN must not be cleared before it is.
    ReadyBeforeDisable,
    Disabled,
}

/// One take-down on its way.
#[derive(Debug)]
pub(super) struct Takedown {
    why: Why,
    stage: Stage,
    started: Instant,
    deadline: Instant,
    /// Past it no goodbye is waited for, only the stop itself.
    patience: Option<Instant>,
    /// I/O queue pairs of whose queues, of the kind that the stage deletes, the deletion waits for room in the admin queue.
    undeleted: Vec<u16>,
}

impl Takedown {
    /// Quiesces the queue pairs and begins.
    pub(super) fn start(core: &mut Core, why: Why, now: Instant) -> Self {
        let was_running = matches!(core.phase, Phase::Running);
        for slot in core.hub.slots() {
            slot.change(SlotState::Connected, SlotState::Quiescing);
        }
        let mut takedown = Self {
            why,
            stage: Stage::ReadyBeforeDisable,
            started: now,
            deadline: now,
            patience: None,
            undeleted: Vec::new(),
        };
        if why != Why::Detach {
            takedown.enter(Stage::ReadyBeforeDisable, now, ready_timeout(&core.hub));
        } else if was_running && check_csts(&*core.hub.transport).is_ok_and(|csts| csts.rdy()) {
            // Of a slot that is being deleted, the submission queue's deletion is already on its way.
            let exists = |state| matches!(state, SlotState::Quiescing | SlotState::Released);
            takedown.undeleted = qids(core, exists);
            takedown.enter(Stage::DeleteSqs, now, DELETION_TIMEOUT);
        } else {
            // During a reset: what was written before it may still be in the controller's cache.
            takedown.enter(Stage::ReadyBeforeShutdown, now, ready_timeout(&core.hub));
        }
        takedown
    }

    /// Shortens the goodbye: from `patience` on only the stop itself is waited for.
    pub(super) fn hurry(&mut self, patience: Instant) {
        self.patience = Some(patience);
    }

    pub(super) fn why(&self) -> Why {
        self.why
    }

    fn enter(&mut self, stage: Stage, now: Instant, timeout: Duration) {
        self.stage = stage;
        self.started = now;
        self.deadline = now + timeout;
    }

    /// One step on. At the end `Ok` when the controller stopped by itself, or why it did not; the device can write to no memory in either case
    /// (but for a reset that failed, which is followed by a take-down for that failure).
    pub(super) fn step(&mut self, core: &mut Core, now: Instant) -> Option<Result<(), Failure>> {
        let is_late = now >= self.deadline || self.patience.is_some_and(|patience| now >= patience);
        let csts = match check_csts(&*core.hub.transport) {
            Ok(csts) => csts,
            Err(Failure::Fatal { csts }) => {
                if !matches!(self.stage, Stage::ReadyBeforeDisable | Stage::Disabled) {
                    self.enter(Stage::ReadyBeforeDisable, now, ready_timeout(&core.hub));
                }
                Csts::from_bits(csts)
            }
            Err(gone) => return Some(self.end(core, Err(gone))),
        };
        match self.stage {
            // With submission queues left, completion queues cannot be deleted: the shutdown goes on without.
            Stage::DeleteSqs | Stage::DeleteCqs if is_late => self.notify_shutdown(core, now),
            Stage::DeleteSqs => self.delete_sqs(core, now),
            Stage::DeleteCqs => self.delete_cqs(core, now),
            Stage::ReadyBeforeShutdown if is_late || !is_coming_up(core, csts) => {
                self.notify_shutdown(core, now);
            }
            Stage::Shutdown if csts.shst() == SHST_COMPLETE || is_late => {
                self.enter(Stage::ReadyBeforeDisable, now, ready_timeout(&core.hub));
            }
            Stage::ReadyBeforeDisable if now >= self.deadline || !is_coming_up(core, csts) => {
                let cc = read_cc(&*core.hub.transport);
                write_cc(&*core.hub.transport, cc.with_en(false));
                self.enter(Stage::Disabled, now, ready_timeout(&core.hub));
            }
            Stage::Disabled if !csts.rdy() => return Some(self.end(core, Ok(()))),
            Stage::Disabled if now >= self.deadline => {
                let waited_ms = (now - self.started).as_millis() as u64;
                let failure = Failure::Timeout { what: "CSTS.RDY = 0", waited_ms, csts: csts.into_bits() };
                return Some(self.end(core, Err(failure)));
            }
            _ => {}
        }
        None
    }

    fn delete_sqs(&mut self, core: &mut Core, now: Instant) {
        if self.has_deleted(core, Command::delete_io_sq, Purpose::DeleteSq) {
            let exists =
                |state| matches!(state, SlotState::Quiescing | SlotState::Released | SlotState::Deleting);
            self.undeleted = qids(core, exists);
            self.enter(Stage::DeleteCqs, now, DELETION_TIMEOUT);
        }
    }

    fn delete_cqs(&mut self, core: &mut Core, now: Instant) {
        if self.has_deleted(core, Command::delete_io_cq, Purpose::DeleteCq) {
            self.notify_shutdown(core, now);
        }
    }

    /// Goes on with the deletion of one half of the I/O queue pairs, as far as there is room; true when all are answered.
    fn has_deleted(
        &mut self,
        core: &mut Core,
        command: fn(u16) -> Command,
        purpose: fn(u16) -> Purpose,
    ) -> bool {
        while !core.admin.is_full()
            && let Some(qid) = self.undeleted.pop()
        {
            core.start_driver(purpose(qid), command(qid), None);
        }
        self.undeleted.is_empty() && core.queue_commands == 0
    }

    fn notify_shutdown(&mut self, core: &Core, now: Instant) {
        let cc = read_cc(&*core.hub.transport);
        write_cc(&*core.hub.transport, cc.with_shn(SHN_NORMAL));
        self.enter(Stage::Shutdown, now, shutdown_timeout(&core.hub));
    }

    /// The end: for good, the device also loses the right to reach memory, which a controller that does not stop cannot be trusted with.
    fn end(&self, core: &Core, stopped: Result<(), Failure>) -> Result<(), Failure> {
        // Flushes posted writes: nothing that was written before is still on its way to the device.
        core.hub.transport.read_u32(CSTS);
        if self.why != Why::Reset
            && let Err(error) = core.hub.transport.set_bus_master(false)
            && !core.hub.transport.is_gone()
        {
            tracing::error!(%error, "bus mastering could not be switched off");
        }
        stopped
    }
}

/// Whether the controller was enabled and is not ready yet.
fn is_coming_up(core: &Core, csts: Csts) -> bool {
    read_cc(&*core.hub.transport).en() && !csts.rdy() && !csts.cfs()
}

/// RTD3E, in microseconds, bounded.
fn shutdown_timeout(hub: &Hub) -> Duration {
    match hub.identity.load().as_ref().map(|identity| identity.rtd3e) {
        None | Some(0) => SHUTDOWN_TIMEOUT,
        Some(us) => Duration::from_micros(us.into()).clamp(READY_MIN, SHUTDOWN_TIMEOUT),
    }
}

/// No shutdown is given less.
const READY_MIN: Duration = Duration::from_millis(500);

/// The I/O queue pairs that the device has: those whose slots are in such a state, and the external one.
fn qids(core: &Core, exists: impl Fn(SlotState) -> bool) -> Vec<u16> {
    let slots = core.hub.slots().iter().filter(|slot| exists(slot.state())).map(|slot| slot.qid());
    slots.chain(core.external.as_ref().map(|_| EXTERNAL_QID)).collect()
}
