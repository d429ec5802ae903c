//! Messages on the polling thread: executed at once, or their commands submitted, or held until there is room for them.
#![forbid(unsafe_code)]

use super::core::{Core, Owner, Phase};
use super::hub::attention;
use super::message::{Call, Envelope, Message, Refusal, Reply, Responder};
use super::passthru;
use super::retry::Kept;
use super::turn::Turn;
use crate::dma::DmaSlice;
use crate::queue::RejectReason;
use crate::ring::inside::{InsidePoll, contain_panic, is_inside_poll};
use crate::ring::place::Taken;
use crate::ring::{AbortReason, Aborted, Outcome};
use crate::spec::command::{AdminOpcode, Command};

/// The most messages taken from the ring per poll, so that no burst of them holds up I/O: SPDK's number.
const MESSAGES_PER_POLL: usize = 8;

/// A message on its way to a queue, or held until there is room in it and no reset is in progress.
pub(super) struct Held {
    pub(super) is_admin: bool,
    pub(super) command: Command,
    pub(super) data: Option<DmaSlice>,
    pub(super) responder: Responder,
}

impl Core {
    /// Whether messages are aborted now, by the choice of who asked for the reset that is in progress.
    pub(crate) fn aborts_messages(&self) -> bool {
        self.aborts_queued && !self.takes_messages()
    }

    /// Aborts a message that was not executed, because of a reset.
    pub(crate) fn abort_by_reset(&mut self, envelope: Envelope) {
        let aborted = Aborted::unexecuted(AbortReason::Reset);
        self.outbox.deliver(envelope.responder, Outcome::Aborted(aborted));
        self.outbox.expects_sleepers();
    }

    /// How many messages may be taken from the ring now.
    #[inline(always)]
    pub(crate) fn message_budget(&self) -> usize {
        if self.held.is_empty() { MESSAGES_PER_POLL } else { 0 }
    }

    /// Whether messages are executed now; during a reset they wait in the ring.
    pub(crate) fn takes_messages(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopped)
    }

    /// Executes one message; its outcome comes now or with a completion.
    pub(crate) fn execute(&mut self, envelope: Envelope) {
        let _inside = InsidePoll::enter();
        Taken::lend(envelope, |envelope| self.execute_taken(envelope));
    }

    /// Executes one message out of the ring, as [`Core::execute`], and as what received it runs it: inside a poll.
    ///
    /// Closures here and all else elsewhere, and told apart before it is moved: or it would be copied whole on its way to the closure.
    #[inline(always)]
    pub(crate) fn execute_taken(&mut self, envelope: Taken<'_, Envelope>) {
        let (message, responder) = envelope.open();
        match message.part(Message::as_call) {
            Ok(call) => self.call(call.take(), responder),
            Err(message) => self.execute_command(message.take(), responder),
        }
    }

    #[inline(never)]
    fn execute_command(&mut self, message: Message, responder: Responder) {
        if matches!(self.phase, Phase::Stopped) {
            let aborted = Aborted::unexecuted(self.stop_reason());
            return self.outbox.deliver(responder, Outcome::Aborted(aborted));
        }
        if !matches!(message, Message::Admin { .. } | Message::Io { .. }) {
            // Its outcome, and that of whom it may end, go past the outbox.
            self.outbox.expects_sleepers();
        }
        match message {
            Message::Admin { command, data } => {
                let data = data.map(|data| *data);
                match passthru::check_admin(&command) {
                    Ok(()) => self.start_message(Held { is_admin: true, command, data, responder }),
                    Err(why) => self.refuse(responder, why, data),
                }
            }
            Message::Io { command, data } => {
                let data = data.map(|data| *data);
                self.start_message(Held { is_admin: false, command, data, responder });
            }
            Message::Abort { mailbox, token } => self.abort_message(mailbox, token, responder),
            Message::TimedOut { mailbox, token } => {
                let is_ending = self.end_early(mailbox, token) || self.message_timed_out(mailbox, token);
                responder.deliver(Outcome::Completed(Reply::Called(is_ending.into())));
            }
            Message::Rescan => {
                self.rescan_waiters.push(responder);
                self.start_rescan();
            }
            Message::Reset => {
                self.reset_waiters.push(responder);
                self.hub.attention.raise(attention::RESET);
            }
            Message::ResetSubsystem if self.hub.has_subsystem_reset() => {
                self.reset_waiters.push(responder);
                self.hub.attention.raise(attention::RESET | attention::SUBSYSTEM);
            }
            Message::ResetSubsystem => self.refuse(responder, Refusal::NoSubsystemReset, None),
            Message::Connect(request) => {
                self.connect_waiters.push((request.0, responder));
                self.serve_slots();
            }
            Message::Call(call) => self.call(call, responder),
        }
    }

    #[inline(always)]
    fn call(&mut self, call: Call, responder: Responder) {
        debug_assert!(is_inside_poll(), "a message runs inside a poll");
        let result = contain_panic(|| call(&mut Turn { core: self }));
        // Two calls and no common variable: so the usual outcome is written once, where it travels.
        match result {
            Some(value) => self.outbox.deliver(responder, Outcome::Completed(Reply::Called(value))),
            None => self.panicked(responder),
        }
    }

    #[cold]
    fn panicked(&mut self, responder: Responder) {
        let aborted = Aborted::maybe_executed(AbortReason::Panicked);
        self.outbox.deliver(responder, Outcome::Aborted(aborted));
    }

    pub(super) fn start_message(&mut self, message: Held) {
        if let Some(message) = self.try_start(message) {
            self.held.push_back(message);
        }
    }

    /// Submits a message's command, or answers that it cannot be. Gives it back when it has to wait: for room, or, during a reset, until the queues exist
    /// again (a doorbell that is rung before is lost, and the command with it).
    fn try_start(&mut self, message: Held) -> Option<Held> {
        if !matches!(self.phase, Phase::Running) || message.is_admin && !self.has_room_beside_driver() {
            return Some(message);
        }
        let Held { is_admin, command, data, responder } = message;
        let submitted = if is_admin {
            let is_abort = command.opcode == AdminOpcode::ABORT.0;
            let owner = if is_abort { Owner::Abort(responder) } else { Owner::Message(responder) };
            let result = self.admin.submit(command, data, owner);
            if is_abort && result.is_ok() {
                self.recovery.abort_sent();
            }
            result.map_err(|rejected| {
                let (Owner::Message(responder) | Owner::Abort(responder)) = rejected.request else {
                    unreachable!("submitted as a message just now");
                };
                (rejected.reason, rejected.data, responder)
            })
        } else if let Some(external) = &mut self.external {
            let result = external.submit(command, data, responder);
            result.map_err(|rejected| (rejected.reason, rejected.data, rejected.request))
        } else {
            self.refuse(responder, Refusal::NoIoQueue, data);
            return None;
        };
        match submitted {
            Ok(cid) => self.keep(is_admin, cid, Kept::new(command)),
            Err((RejectReason::QueueFull, data, responder)) => {
                return Some(Held { is_admin, command, data, responder });
            }
            Err((RejectReason::TooLarge { limit, .. }, data, responder)) => {
                self.refuse(responder, Refusal::TooLarge { limit_bytes: limit }, data);
            }
            Err((_, data, responder)) => self.refuse(responder, Refusal::BadData, data),
        }
        None
    }

    /// The answer to a command that was not submitted, with what it would have transferred.
    #[cold]
    fn refuse(&mut self, responder: Responder, why: Refusal, data: Option<DmaSlice>) {
        // As this may come after the outbox was flushed, it goes past it.
        self.outbox.expects_sleepers();
        responder.deliver(Outcome::Completed(Reply::Refused { why, data: data.map(Box::new) }));
    }

    /// Submits what was held, first come, first served, as far as there is room.
    pub(super) fn submit_held(&mut self) {
        while let Some(message) = self.held.pop_front() {
            if let Some(message) = self.try_start(message) {
                self.held.push_front(message);
                return;
            }
        }
    }

    /// Whether the admin queue has an entry that the driver does not need. Its share: every event request, the reading of a log, a rescan, a Keep Alive. What
    /// is in flight of these has its entry already, and hands it on to what follows it.
    pub(super) fn has_spare_entry(&self) -> bool {
        let share = self.events.entries_needed()
            + usize::from(self.rescan.is_none())
            + self.keep_alive.entries_needed();
        let waiting = self.retries.as_ref().map_or(0, |retries| retries.waiting_admin());
        self.admin.capacity().saturating_sub(self.admin.outstanding() + waiting) > share
    }

    /// Whether there is room for an admin message. Queue pairs that wait for theirs come first, or a steady stream of messages would keep them out.
    pub(super) fn has_room_beside_driver(&self) -> bool {
        self.hub.attention.bits() & attention::QPAIR == 0 && self.has_spare_entry()
    }
}
