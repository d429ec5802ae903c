//! Queue pairs' queues on the device: created when their owners ask, deleted when the owners are gone.
//!
//! The owner's side is [`crate::poller::QueuePair`]; the hand-over is in [`super::qpair_slot`].
#![forbid(unsafe_code)]

use super::core::{Core, Phase, Purpose};
use super::hub::attention;
use super::message::{Refusal, Reply};
use super::qpair_slot::{self, LeftBehind, SlotState};
use crate::queue::Pair;
use crate::ring::Outcome;
use crate::spec::command::Command;
use crate::spec::status::Status;
use std::sync::Arc;

/// A queue pair's slot, as the driver has it.
pub(crate) type QpairSlot = qpair_slot::QpairSlot<Box<Pair<u64>>>;

impl LeftBehind for Box<Pair<u64>> {
    fn give_up(mut self) {
        self.abort_all(|_, data| drop(data));
    }
}

impl Core {
    /// Looks at all slots and starts what they ask for. During a reset that waits until its end.
    pub(super) fn serve_slots(&mut self) {
        if matches!(self.phase, Phase::Running) {
            let hub = Arc::clone(&self.hub);
            for slot in hub.slots() {
                if !self.has_spare_entry() {
                    // Again with the next poll; there will be room.
                    hub.attention.raise(attention::QPAIR);
                    break;
                }
                self.serve_slot(slot);
            }
        }
        self.answer_connected();
    }

    fn serve_slot(&mut self, slot: &QpairSlot) {
        let qid = slot.qid();
        if slot.change(SlotState::Wanted, SlotState::Creating) {
            let memory = slot.memory();
            let mut command = Command::create_io_cq(qid, memory.cq_entries, self.hub.vector(qid));
            command.prp1 = memory.cq_iova;
            self.start_driver(Purpose::CreateCq(qid), command, None);
        } else if slot.change(SlotState::Released, SlotState::Deleting) {
            self.start_driver(Purpose::DeleteSq(qid), Command::delete_io_sq(qid), None);
        }
    }

    fn slot(&self, qid: u16) -> Option<Arc<QpairSlot>> {
        self.hub.slots().get(usize::from(qid).checked_sub(1)?).cloned()
    }

    /// One of the driver's queue commands was answered.
    pub(super) fn queue_command_answered(&mut self, purpose: Purpose, status: Status) {
        match purpose {
            Purpose::DeleteCq(qid) => self.cq_deleted(qid, status),
            Purpose::DeleteSq(qid) if !status.is_success() => self.sq_not_deleted(qid, status),
            // What would follow ends with the controller's disable.
            _ if matches!(self.phase, Phase::TakingDown(_)) => {}
            Purpose::CreateCq(qid) => self.cq_created(qid, status),
            Purpose::CreateSq(qid) => self.sq_created(qid, status),
            Purpose::DeleteSq(qid) => {
                self.start_driver(Purpose::DeleteCq(qid), Command::delete_io_cq(qid), None);
            }
            _ => {}
        }
        self.answer_connected();
    }

    fn cq_created(&mut self, qid: u16, status: Status) {
        let Some(slot) = self.slot(qid) else { return };
        if !status.is_success() {
            slot.refuse(status.0);
            return;
        }
        let memory = slot.memory();
        let mut command = Command::create_io_sq(qid, qid, memory.sq_entries, 0);
        command.prp1 = memory.sq_iova;
        self.start_driver(Purpose::CreateSq(qid), command, None);
    }

    fn sq_created(&mut self, qid: u16, status: Status) {
        let Some(slot) = self.slot(qid) else { return };
        if status.is_success() {
            if !slot.change(SlotState::Creating, SlotState::Connected) {
                // The owner was dropped meanwhile.
                slot.change(SlotState::Abandoned, SlotState::Released);
                self.hub.attention.raise(attention::QPAIR);
            }
        } else {
            // The completion queue without a submission queue goes first: until then the identifier and the memory are the device's.
            slot.will_be_refused(status.0);
            self.start_driver(Purpose::DeleteCq(qid), Command::delete_io_cq(qid), None);
        }
    }

    /// The completion queue is not asked for then: it must not go before the submission queue, and a device that let it go would still have the other's memory.
    fn sq_not_deleted(&mut self, qid: u16, status: Status) {
        tracing::warn!(qid, %status, "the deletion of a submission queue was refused: it stays until the next reset");
        if let Some(slot) = self.slot(qid) {
            slot.change(SlotState::Deleting, SlotState::Undeleted);
        }
        if let Phase::TakingDown(takedown) = &mut self.phase {
            takedown.sq_not_deleted(qid);
        }
    }

    fn cq_deleted(&mut self, qid: u16, status: Status) {
        let Some(slot) = self.slot(qid) else { return };
        if status.is_success() {
            if !slot.change(SlotState::Deleting, SlotState::Free) {
                // What was left of a creation that was refused halfway.
                slot.refuse(slot.refusal());
            }
        } else if matches!(slot.state(), SlotState::Deleting | SlotState::Creating | SlotState::Abandoned) {
            // The device may still have it, and write to it: the identifier and the memory stay taken until the next reset.
            tracing::warn!(qid, %status, "the deletion of a completion queue was refused: it stays until the next reset");
        }
    }

    /// Answers those who wait for a queue pair that is now connected, refused or gone.
    fn answer_connected(&mut self) {
        let mut index = 0;
        while let Some((slot, _)) = self.connect_waiters.get(index) {
            let reply = match slot.state() {
                // Also when a reset has come since: its owner then connects it again while it polls, but not while it waits for this answer.
                SlotState::Connected | SlotState::Quiescing | SlotState::Stopped => Reply::Connected,
                SlotState::Refused => Reply::refused(Refusal::Status(Status(slot.refusal()))),
                // On its way; or gone with the controller, whose take-down answers all who wait.
                SlotState::Claimed | SlotState::Wanted | SlotState::Creating | SlotState::Gone => {
                    index += 1;
                    continue;
                }
                // Dropped by an owner that did not wait.
                _ => Reply::refused(Refusal::BadData),
            };
            let (_, responder) = self.connect_waiters.swap_remove(index);
            responder.deliver(Outcome::Completed(reply));
        }
    }

    /// The device has stopped: no queue exists any more. Owners take their requests back; for good, or to reconnect.
    pub(super) fn stop_slots(&mut self, for_good: bool) {
        for slot in self.hub.slots() {
            slot.change_with(|state| match state {
                _ if for_good => Some(SlotState::Gone),
                SlotState::Connected | SlotState::Quiescing => Some(SlotState::Stopped),
                // Never used: created again at the end of the reset.
                SlotState::Creating => Some(SlotState::Wanted),
                SlotState::Released | SlotState::Deleting | SlotState::Undeleted | SlotState::Abandoned => {
                    Some(SlotState::Free)
                }
                _ => None,
            });
        }
    }
}
