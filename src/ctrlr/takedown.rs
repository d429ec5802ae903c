//! Take-down, in steps that never wait: from a running device to one that can write to no memory. Reset, failure and detach use it.
//!
//! Detach says goodbye first (NVMe Base 2.0, 3.6.1): delete the I/O queues, notify the shutdown, wait until it is complete. A failure's take-down asks
//! nothing of the queues, which cannot be trusted, but notifies the shutdown where the controller can hear it, as there is no later moment for it: what
//! was answered and lies in a volatile cache may be written out yet. So does a reset of the NVM subsystem, after which the device may have been off its bus
//! for a while. A controller reset notifies nothing: the power stays on. All end with CC.EN = 0 and RDY = 0. Each wait has a deadline, past which the next harsher step follows; the last one takes bus mastering away.
#![forbid(unsafe_code)]

use super::bring_up::{EXTERNAL_QID, ready_timeout};
use super::connect::QpairSlot;
use super::core::{Core, Phase, Purpose};
use super::hub::Hub;
use super::qpair_slot::SlotState;
use super::registers::{check_cap, check_csts, read_cc, write_cc};
use super::state::Failure;
use super::wait::Wait;
use crate::spec::command::Command;
use crate::spec::registers::{CSTS, Csts, NSSR, NSSR_MAGIC};
use crate::transport::Transport;
use std::time::{Duration, Instant};

/// What the take-down is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Reset,
    SubsystemReset,
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
/// How long a controller that failed, or is reset with its subsystem, may take for its shutdown: requests in flight come back only after it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a device may be away in a reset of the NVM subsystem, or its controller take to be ready or not (CAP.TO), whichever is longer.
const ABSENCE: Duration = Duration::from_secs(10);
/// How often it is looked for meanwhile: a read of a device that does not answer takes its time.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// How long a queue pair's thread that was caught at its doorbell, and preempted there, is waited for. Past it the take-down goes on without: a doorbell
/// that is rung for a queue that is gone does no harm (a controller ignores it, or reports an invalid doorbell as an event, and the queues are created again
/// only once that same thread has asked for it), and is no reason to have a reset wait for a thread that may sleep for ever.
const DOORBELL_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The queue pairs were told; their threads may still be at their doorbells.
    Doorbells,
    DeleteSqs,
    DeleteCqs,
    /// In the middle of bring-up: the notification waits until the controller is ready.
    ReadyBeforeShutdown,
    Shutdown,
    /// Enabled but not ready: CC.EN must not be cleared before it is.
    ReadyBeforeDisable,
    Disabled,
    /// NSSR was written: the device may be away, and when it is back its controller is disabled.
    SubsystemReset,
}

/// One take-down on its way.
#[derive(Debug)]
pub(super) struct Takedown {
    why: Why,
    /// Whether the queues were in use, and can be deleted one by one.
    was_running: bool,
    stage: Stage,
    wait: Wait,
    /// Past it no goodbye is waited for, only the stop itself.
    patience: Option<Instant>,
    /// I/O queue pairs of whose queues, of the kind that the stage deletes, the deletion waits for room in the admin queue.
    undeleted: Vec<u16>,
    /// When to look next for a device that may be away.
    look_at: Instant,
    /// Whether CC.EN was 1 when the subsystem was reset.
    was_enabled: bool,
    /// Those whose submission queues the controller would not delete: their completion queues have to stay as well.
    refused: Vec<u16>,
}

impl Takedown {
    /// Quiesces the queue pairs and begins.
    pub(super) fn start(core: &mut Core, why: Why, now: Instant) -> Self {
        let mut shut = 0;
        for slot in core.hub.slots() {
            shut += usize::from(slot.change(SlotState::Connected, SlotState::Quiescing));
        }
        if shut > 0 {
            core.hub.barrier.heavy();
        }
        Self {
            why,
            was_running: matches!(core.phase, Phase::Running),
            stage: Stage::Doorbells,
            wait: Wait::new(now, DOORBELL_TIMEOUT),
            patience: None,
            undeleted: Vec::new(),
            look_at: now,
            was_enabled: false,
            refused: Vec::new(),
        }
    }

    /// Nobody is at a doorbell any more: what comes first.
    fn begin(&mut self, core: &mut Core, csts: Csts, now: Instant) {
        let can_hear = csts.rdy() && !csts.cfs() && read_cc(&*core.hub.transport).en();
        match self.why {
            Why::Detach if can_hear && self.was_running => {
                // Of a slot that is being deleted, the submission queue's deletion is already on its way.
                let exists = |state| matches!(state, SlotState::Quiescing | SlotState::Released);
                self.undeleted = qids(core, exists);
                self.enter(Stage::DeleteSqs, now, DELETION_TIMEOUT);
            }
            // During a reset: what was written before it may still be in the controller's cache.
            Why::Detach if !csts.cfs() => {
                self.enter(Stage::ReadyBeforeShutdown, now, ready_timeout(&core.hub));
            }
            Why::Failure | Why::SubsystemReset if can_hear => self.notify_shutdown(core, now),
            _ => self.stop_device(core, now),
        }
    }

    /// No goodbye is to be said any more.
    fn stop_device(&mut self, core: &Core, now: Instant) {
        let timeout = ready_timeout(&core.hub);
        if self.why != Why::SubsystemReset {
            return self.enter(Stage::ReadyBeforeDisable, now, timeout);
        }
        let transport = &*core.hub.transport;
        self.was_enabled = read_cc(transport).en();
        clear_nssro(transport);
        transport.write_u32(NSSR, NSSR_MAGIC);
        self.enter(Stage::SubsystemReset, now, timeout.max(ABSENCE));
    }

    /// Looks whether the device is back from a reset of the subsystem, and sets up its bus again. That it cannot be read is no removal until the wait is over.
    fn come_back(&mut self, core: &Core, now: Instant) -> Option<Result<(), Failure>> {
        let is_over = self.wait.is_over(now);
        if now < self.look_at && !is_over {
            return None;
        }
        self.look_at = now + LOOK_PERIOD;
        let transport = &*core.hub.transport;
        let csts = match check_cap(transport).and_then(|_| check_csts(transport)) {
            Ok(csts) => csts,
            Err(Failure::Fatal { csts }) => Csts::from_bits(csts),
            Err(gone) => {
                if is_over || transport.is_gone() {
                    return Some(Err(gone));
                }
                // Until then its registers may not even be decoded. Fails while it does not answer, and is tried again.
                let _ = transport.restore();
                return None;
            }
        };
        let is_enabled = read_cc(transport).en();
        // CC.EN may have been 0 before as well: then only NSSRO tells.
        let is_reset = csts.nssro() || self.was_enabled && !is_enabled;
        if is_reset && !is_enabled && !csts.rdy() {
            match transport.restore() {
                Ok(()) => {
                    clear_nssro(transport);
                    return Some(Ok(()));
                }
                Err(error) if is_over => return Some(Err(Failure::Host(error.to_string()))),
                Err(_) => return None,
            }
        }
        let what = "the end of its subsystem reset";
        let waited_ms = self.wait.lasted_ms(now);
        is_over.then(|| Err(Failure::Timeout { what, waited_ms, csts: csts.into_bits() }))
    }

    /// Whether a queue pair's thread is at its doorbell, and still waited for.
    fn waits_for_doorbells(core: &Core, is_late: bool) -> bool {
        let ringing = |slot: &&std::sync::Arc<QpairSlot>| slot.is_ringing();
        let Some(slot) = core.hub.slots().iter().find(ringing) else { return false };
        if is_late {
            let qid = slot.qid();
            tracing::warn!(
                qid,
                "the thread of a queue pair was preempted at its doorbell: the take-down goes on without it"
            );
        }
        !is_late
    }

    /// Shortens the goodbye: from `patience` on only the stop itself is waited for.
    pub(super) fn hurry(&mut self, patience: Instant) {
        self.patience = Some(patience);
    }

    /// The controller refused to delete a submission queue.
    pub(super) fn sq_not_deleted(&mut self, qid: u16) {
        self.refused.push(qid);
    }

    pub(super) fn why(&self) -> Why {
        self.why
    }

    fn enter(&mut self, stage: Stage, now: Instant, timeout: Duration) {
        self.stage = stage;
        self.wait = Wait::new(now, timeout);
    }

    /// One step on. At the end `Ok` when the controller stopped by itself, or why it did not; the device can write to no memory in either case
    /// (but for a reset that failed, which is followed by a take-down for that failure).
    pub(super) fn step(&mut self, core: &mut Core, now: Instant) -> Option<Result<(), Failure>> {
        if self.stage == Stage::SubsystemReset {
            return self.come_back(core, now).map(|result| self.end(core, result));
        }
        let is_hurried = self.patience.is_some_and(|patience| now >= patience);
        let csts = match check_csts(&*core.hub.transport) {
            Ok(csts) => csts,
            Err(Failure::Fatal { csts }) => {
                if !matches!(self.stage, Stage::Doorbells | Stage::ReadyBeforeDisable | Stage::Disabled) {
                    self.stop_device(core, now);
                }
                Csts::from_bits(csts)
            }
            Err(gone) => return Some(self.end(core, Err(gone))),
        };
        if self.stage == Stage::Doorbells {
            if Self::waits_for_doorbells(core, self.wait.is_over(now) || is_hurried) {
                return None;
            }
            self.begin(core, csts, now);
        }
        let is_over = self.wait.is_over(now);
        let is_late = is_over || is_hurried;
        match self.stage {
            // With submission queues left, completion queues cannot be deleted: the shutdown goes on without.
            Stage::DeleteSqs | Stage::DeleteCqs if is_late => self.notify_shutdown(core, now),
            Stage::DeleteSqs => self.delete_sqs(core, now),
            Stage::DeleteCqs => self.delete_cqs(core, now),
            Stage::ReadyBeforeShutdown if is_late || !is_coming_up(core, csts) => {
                self.notify_shutdown(core, now);
            }
            Stage::Shutdown if csts.shst() == SHST_COMPLETE || is_late => self.stop_device(core, now),
            Stage::ReadyBeforeDisable if is_over || !is_coming_up(core, csts) => {
                let cc = read_cc(&*core.hub.transport);
                write_cc(&*core.hub.transport, cc.with_en(false));
                self.enter(Stage::Disabled, now, ready_timeout(&core.hub));
            }
            Stage::Disabled if !csts.rdy() => return Some(self.end(core, Ok(()))),
            Stage::Disabled if is_over => {
                let waited_ms = self.wait.lasted_ms(now);
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
            self.undeleted.retain(|qid| !self.refused.contains(qid));
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
        let timeout = shutdown_timeout(&core.hub);
        let timeout = if self.why == Why::Detach { timeout } else { timeout.min(FAREWELL_TIMEOUT) };
        self.enter(Stage::Shutdown, now, timeout);
    }

    /// The end: for good, the device also loses the right to reach memory, which a controller that does not stop cannot be trusted with.
    fn end(&self, core: &Core, stopped: Result<(), Failure>) -> Result<(), Failure> {
        // Flushes posted writes: nothing that was written before is still on its way to the device.
        core.hub.transport.read_u32(CSTS);
        if !matches!(self.why, Why::Reset | Why::SubsystemReset)
            && let Err(error) = core.hub.transport.set_bus_master(false)
            && !core.hub.transport.is_gone()
        {
            tracing::error!(%error, "bus mastering could not be switched off");
        }
        stopped
    }
}

/// Clears CSTS.NSSRO, so that only the next reset of the subsystem sets it.
fn clear_nssro(transport: &dyn Transport) {
    let value = transport.read_u32(CSTS);
    if value != u32::MAX && Csts::from_bits(value).nssro() {
        transport.write_u32(CSTS, Csts::new().with_nssro(true).into_bits());
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
