//! What the driver does by itself when something takes too long or breaks: abort, then reset, then give up.
//!
//! ```text
//!  a command is late ─▶ the embedder is told ─▶ Abort ─▶ not back in time ─┐
//!  a command of the driver's own is late, or an Abort ────────────────────┤
//!  CSTS.CFS ──────────────────────────────────────────────────────────────┴▶ reset ─▶ does not succeed, or too many of them ─▶ failed
//!                                                                              └▶ does not succeed ─▶ subsystem reset, if allowed ─▶ failed
//! ```
//! Late commands are found by a [`Watchdog`], one for each queue pair, in the part of a poll that is timed. Nothing here waits. Which command is late, and
//! what follows, of a user's queue pair: its owner's thread finds out and asks the poller (a [`Plea`]), which owns the admin queue.
#![forbid(unsafe_code)]

use super::core::{Core, Owner, Phase, Purpose};
use super::hub::attention;
use super::message::Responder;
use super::options::{ControllerEvent, EventAnswer, TimeoutAction, Timeouts};
use super::state::{CtrlrState, Failure};
use super::watchdog::{Late, Watchdog};
use crate::ring::MailboxId;
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most Aborts at a time, and fewer where the controller takes fewer (ACL).
const MAX_ABORTS: u32 = 4;
/// What [`Timeouts::resets_per_minute`] counts in.
const MINUTE: Duration = Duration::from_secs(60);

/// What a queue pair's owner asks of the poller.
#[derive(Debug)]
pub(crate) enum Plea {
    Abort { qid: u16, cid: u16 },
    Recover(Failure),
}

/// The state of it.
#[derive(Debug)]
pub(super) struct Recovery {
    admin: Watchdog,
    external: Watchdog,
    /// What milliseconds are counted from.
    epoch: Instant,
    /// When to look next.
    look_at: Instant,
    /// Aborts to be sent.
    wanted: VecDeque<(u16, u16)>,
    /// Aborts at the controller.
    aborting: u32,
    /// How many it takes.
    limit: u32,
    /// Resets of the driver's own in this minute.
    resets: u32,
    minute: Instant,
}

impl Recovery {
    pub(super) fn new(timeouts: &Timeouts, now: Instant) -> Self {
        let period = timeouts.period();
        Self {
            admin: Watchdog::new(period),
            external: Watchdog::new(period),
            epoch: now,
            look_at: now,
            wanted: VecDeque::new(),
            aborting: 0,
            limit: 1,
            resets: 0,
            minute: now,
        }
    }

    /// Counts all times from `now` on.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.epoch, self.look_at, self.minute) = (now, now, now);
    }

    /// ACL is 0-based.
    pub(super) fn set_limit(&mut self, acl_z: u8) {
        self.limit = (u32::from(acl_z) + 1).min(MAX_ABORTS);
    }

    /// The controller has stopped: nothing is outstanding there.
    pub(super) fn forget(&mut self) {
        self.admin.forget();
        self.external.forget();
        self.wanted.clear();
        self.aborting = 0;
    }

    /// An Abort was sent, the driver's own or a message.
    pub(super) fn abort_sent(&mut self) {
        self.aborting += 1;
    }

    /// One was answered.
    pub(super) fn abort_ended(&mut self) {
        self.aborting = self.aborting.saturating_sub(1);
    }

    /// What times are counted from.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    /// The milliseconds since then; they wrap.
    pub(super) fn clock_ms(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }

    /// The watchdog of the admin queue pair, or of the external one.
    pub(super) fn watchdog(&self, is_admin: bool) -> &Watchdog {
        if is_admin { &self.admin } else { &self.external }
    }

    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }
}

impl Core {
    /// Looks for commands that take too long, and has the owners of queue pairs do so, if it is time to.
    pub(super) fn look_for_late(&mut self, now: Instant) {
        if now < self.recovery.look_at {
            return;
        }
        let hub = std::sync::Arc::clone(&self.hub);
        let timeouts = &hub.options.timeouts;
        self.recovery.look_at = now + timeouts.period();
        let clock_ms = self.recovery.clock_ms(now);
        hub.slots().iter().for_each(|slot| slot.tap());
        let keep_alive = self.keep_alive.interval();
        let of_admin = |opcode, owner: &Owner| match owner {
            Owner::Message(_) | Owner::Abort(_) => Some(timeouts.of_admin(opcode)),
            // Bring-up has its own deadlines, and an event may never come.
            Owner::Driver(Purpose::BringUp | Purpose::Event) => None,
            Owner::Driver(Purpose::Abort) => Some(timeouts.abort),
            Owner::Driver(Purpose::KeepAlive) => Some(hub.options.admin_timeout.min(keep_alive)),
            Owner::Driver(_) => Some(hub.options.admin_timeout),
        };
        if let Some(retries) = &mut self.retries {
            retries.keep_times(&mut self.admin, self.external.as_mut());
        }
        let admin = self.recovery.admin.look(&mut self.admin, clock_ms, of_admin, timeouts.abort);
        let external = self.external.as_mut().map(|external| {
            let of_io = |_, _: &_| Some(timeouts.io);
            self.recovery.external.look(external, clock_ms, of_io, timeouts.abort)
        });
        if let Some(retries) = &mut self.retries {
            retries.keep_times(&mut self.admin, self.external.as_mut());
            retries.see_waiting(&self.recovery);
            let external = external.iter().flatten();
            let late = admin.iter().map(|late| (true, late)).chain(external.map(|late| (false, late)));
            late.for_each(|(is_admin, late)| retries.forbid(is_admin, late.cid));
        }
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        for late in admin {
            match self.admin.find(late.cid) {
                Some(Owner::Driver(purpose)) => {
                    let what = format!("{purpose:?}");
                    self.recover(stuck(0, late, &what), now);
                }
                _ => drop(self.handle_late(0, late, now)),
            }
        }
        for late in external.into_iter().flatten() {
            self.handle_late(super::bring_up::EXTERNAL_QID, late, now);
        }
        self.send_aborts();
        // The poll's own doorbells were rung before.
        self.commit();
    }

    /// A message's command takes too long. False if it is left alone.
    fn handle_late(&mut self, qid: u16, late: Late, now: Instant) -> bool {
        match verdict(&self.hub.options, qid, late) {
            None => return false,
            Some(Plea::Abort { cid, .. }) => {
                self.recovery.wanted.push_back((qid, cid));
                let watchdog = if qid == 0 { &mut self.recovery.admin } else { &mut self.recovery.external };
                watchdog.abort_asked(cid);
            }
            Some(Plea::Recover(failure)) => self.recover(failure, now),
        }
        true
    }

    /// By its sender's own time a message takes too long: what follows is what would follow by the driver's. True if that, or what is under way already, ends it.
    #[cold]
    pub(super) fn message_timed_out(&mut self, mailbox: MailboxId, token: u64) -> bool {
        let is_it = |owner: &Owner| matches!(owner, Owner::Message(theirs) if theirs.is_of(mailbox, token));
        let of_admin = self.recovery.admin.find(&mut self.admin, is_it).map(|late| (0, late));
        let found = of_admin.or_else(|| {
            let is_it = |theirs: &Responder| theirs.is_of(mailbox, token);
            let late = self.recovery.external.find(self.external.as_mut()?, is_it)?;
            Some((super::bring_up::EXTERNAL_QID, late))
        });
        let Some((qid, late)) = found.filter(|_| matches!(self.phase, Phase::Running)) else { return false };
        if let Some(retries) = &mut self.retries {
            retries.forbid(qid == 0, late.cid);
        }
        // If its Abort was asked for, or a reset, its time by the driver was over as well. Resets are counted by the minute: the time of the next look is exact enough.
        let is_resetting = self.hub.attention.bits() & attention::RESET != 0;
        let is_ending =
            late.was_aborted || is_resetting || self.handle_late(qid, late, self.recovery.look_at);
        self.send_aborts();
        is_ending
    }

    /// What the owners of queue pairs ask for. During a reset it has come to nothing.
    pub(super) fn hear_pleas(&mut self, now: Instant) {
        let hub = std::sync::Arc::clone(&self.hub);
        while let Some(plea) = hub.pleas.pop() {
            match plea {
                _ if !matches!(self.phase, Phase::Running) => {}
                Plea::Abort { qid, cid } => self.recovery.wanted.push_back((qid, cid)),
                Plea::Recover(failure) => self.recover(failure, now),
            }
        }
        self.send_aborts();
    }

    /// Sends Aborts, as many as the controller takes. Where the admin queue has no room for one, the commands are not aborted in time: then a reset follows.
    fn send_aborts(&mut self) {
        while matches!(self.phase, Phase::Running)
            && self.recovery.aborting < self.recovery.limit
            && self.has_spare_entry()
            && let Some((qid, cid)) = self.recovery.wanted.pop_front()
        {
            if self.start_driver(Purpose::Abort, Command::abort(qid, cid), None) {
                self.recovery.abort_sent();
            }
        }
    }

    /// An Abort was answered. Whether it helped, the command itself says: it comes back as aborted, or with its answer, or not at all.
    pub(super) fn abort_answered(&mut self, completion: Completion) {
        self.recovery.abort_ended();
        let (status, dw0) = (completion.status(), completion.dw0);
        tracing::info!(%status, was_aborted = dw0 & 1 == 0, "an Abort was answered");
        self.send_aborts();
    }

    /// Resets the controller for `cause`, unless that was done too often, or the embedder objects: then it has failed.
    pub(super) fn recover(&mut self, cause: Failure, now: Instant) {
        if !matches!(self.phase, Phase::Running) || self.hub.attention.bits() & attention::RESET != 0 {
            return;
        }
        let recovery = &mut self.recovery;
        if now.saturating_duration_since(recovery.minute) >= MINUTE {
            (recovery.minute, recovery.resets) = (now, 0);
        }
        recovery.resets += 1;
        let options = &self.hub.options;
        if recovery.resets > options.timeouts.resets_per_minute
            || options.tell(&ControllerEvent::Recovering(cause.clone())) == EventAnswer::Object
        {
            return self.hub.fail(cause);
        }
        tracing::warn!(address = self.hub.transport.address(), %cause, "the controller is reset");
        self.hub.attention.raise(attention::RESET);
    }

    /// Whether a reset that failed is followed by one of the subsystem: where the embedder allows it and does not object, the controller has it, it is there to
    /// hear of it, and it was not what failed.
    pub(super) fn may_reset_subsystem(&self, cause: &Failure) -> bool {
        let hub = &self.hub;
        let may = hub.options.timeouts.subsystem_reset
            && hub.has_subsystem_reset()
            && hub.state.get() == CtrlrState::Resetting
            && !self.resets_subsystem
            && !matches!(cause, Failure::Removed { .. } | Failure::Host(_))
            && hub.options.tell(&ControllerEvent::Recovering(cause.clone())) == EventAnswer::Proceed;
        if may {
            tracing::warn!(address = hub.transport.address(), %cause, "the subsystem is reset");
        }
        may
    }
}

/// What is to be done about a late command: what the policy says, if the embedder, who is told, does not object.
pub(crate) fn verdict(options: &super::CtrlrOptions, qid: u16, late: Late) -> Option<Plea> {
    let Late { cid, opcode, waited, was_aborted } = late;
    if was_aborted {
        return Some(Plea::Recover(stuck(qid, late, "aborted")));
    }
    tracing::warn!(qid, cid, opcode, ?waited, "a command takes too long");
    if options.tell(&ControllerEvent::TimedOut { qid, cid, opcode, waited }) == EventAnswer::Object {
        return None;
    }
    match options.timeouts.action {
        TimeoutAction::Report => None,
        TimeoutAction::Abort => Some(Plea::Abort { qid, cid }),
        TimeoutAction::Reset => Some(Plea::Recover(stuck(qid, late, "late"))),
    }
}

fn stuck(qid: u16, late: Late, what: &str) -> Failure {
    Failure::Stuck { qid, cid: late.cid, what: what.to_owned(), waited_ms: late.waited.as_millis() as u64 }
}
