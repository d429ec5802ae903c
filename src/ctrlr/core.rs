//! The core: everything of a controller that one thread at a time may touch. Completes commands, and drives what is in progress.
//!
//! It lies in the [`super::seat`] or belongs to the poller that sits there. Messages ([`super::execute`]), bring-up, take-down, rescan, events and
//! queue pair requests are steps that it is driven through, each in its own file; nothing here waits.
#![forbid(unsafe_code)]

use super::bring_up::BringUp;
use super::connect::QpairSlot;
use super::events::Events;
use super::execute::Held;
use super::hub::Hub;
use super::keep_alive::KeepAlive;
use super::message::{Reply, Responder};
use super::options::{ControllerEvent, EventAnswer};
use super::recovery::Recovery;
use super::rescan::Rescan;
use super::resubmission::{Finished, Retries, failed};
use super::retry::Kept;
use super::state::Failure;
use super::takedown::Takedown;
use crate::dma::{DmaBuffer, DmaSlice};
use crate::queue::{Pair, QueueError};
use crate::ring::{AbortReason, Aborted, Outbox, Outcome};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::status::Status;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most completions taken from the admin and the external queue each per poll.
const COMPLETIONS_PER_POLL: usize = 32;

/// How exactly it is known when the poller last polled, which only errors tell: less often than it polls, as it is not free.
const NOTE_PERIOD: Duration = Duration::from_millis(1);

/// Who asked for an admin command.
pub(super) enum Owner {
    /// A message: the answer goes to its sender.
    Message(Responder),
    /// A message, and it is an Abort, of which the controller takes so many at a time only.
    Abort(Responder),
    /// The driver itself.
    Driver(Purpose),
}

/// What the driver wants with an admin command of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    BringUp,
    Rescan,
    Event,
    EventConfig,
    EventLog,
    KeepAlive,
    Abort,
    CreateCq(u16),
    CreateSq(u16),
    DeleteSq(u16),
    DeleteCq(u16),
}

impl Purpose {
    fn is_about_queues(self) -> bool {
        matches!(self, Self::CreateCq(_) | Self::CreateSq(_) | Self::DeleteSq(_) | Self::DeleteCq(_))
    }
}

/// What is in progress. Anything but running keeps `BUSY` raised, so that each poll drives it on.
pub(super) enum Phase {
    Running,
    TakingDown(Takedown),
    BringingUp(BringUp),
    /// The device has stopped for good.
    Stopped,
}

/// See the module.
pub(crate) struct Core {
    pub(super) hub: Arc<Hub>,
    pub(super) admin: Pair<Owner>,
    /// Messages' I/O commands. `None` when the controller has no I/O queues.
    pub(super) external: Option<Pair<Responder>>,
    pub(super) phase: Phase,
    /// From the end of the attach on.
    pub(super) is_attached: bool,
    /// Messages that wait for room in their queue, or for the end of a reset; while there are any, none is taken from the ring.
    pub(super) held: VecDeque<Held>,
    /// Completions of the driver's own commands, and errors that may be tried again. Empty between polls.
    pub(super) finished: Vec<Finished>,
    /// Commands that are sent again; `None` when none are.
    pub(super) retries: Option<Box<Retries>>,
    /// Outcomes of closures and commands, between their end and that of the poll.
    pub(super) outbox: Outbox<Reply>,
    pub(super) events: Events,
    pub(super) rescan: Option<Rescan>,
    /// Who waits for the next rescan to end.
    pub(super) rescan_waiters: Vec<Responder>,
    /// Who waits for the next reset to end.
    pub(super) reset_waiters: Vec<Responder>,
    /// The reset in progress aborts what is queued.
    pub(super) aborts_queued: bool,
    /// The reset in progress is one of the NVM subsystem: nothing harsher is left.
    pub(super) resets_subsystem: bool,
    /// Who waits for a queue pair to be connected.
    pub(super) connect_waiters: Vec<(Arc<QpairSlot>, Responder)>,
    /// Commands that create or delete queues and have not been answered yet.
    pub(super) queue_commands: u32,
    pub(super) recovery: Recovery,
    pub(super) keep_alive: KeepAlive,
    /// For Identify data; `None` while a command has it.
    pub(super) scratch: Option<DmaBuffer>,
    /// When to look at the controller's health next.
    pub(super) watch_at: Instant,
    /// When to look at what is timed at all: the earlier of the watch and the next note that the poller has polled.
    due_at: Instant,
}

impl Core {
    pub(super) fn new(
        hub: Arc<Hub>,
        admin: Pair<Owner>,
        scratch: DmaBuffer,
        events: Events,
        bring_up: BringUp,
    ) -> Self {
        let now = Instant::now();
        Self {
            watch_at: now,
            due_at: now,
            recovery: Recovery::new(&hub.options.timeouts, now),
            keep_alive: KeepAlive::new(hub.options.keep_alive_timeout, now),
            retries: Retries::new(&hub.options, &admin),
            hub,
            admin,
            external: None,
            phase: Phase::BringingUp(bring_up),
            is_attached: false,
            held: VecDeque::new(),
            finished: Vec::with_capacity(COMPLETIONS_PER_POLL),
            outbox: Outbox::new(),
            events,
            rescan: None,
            rescan_waiters: Vec::new(),
            reset_waiters: Vec::new(),
            aborts_queued: false,
            resets_subsystem: false,
            connect_waiters: Vec::new(),
            queue_commands: 0,
            scratch: Some(scratch),
        }
    }

    /// Counts all times from `now` on, whatever the clock said when the core was made.
    pub(super) fn begin(&mut self, now: Instant) {
        self.due_at = now;
        self.recovery.begin(now);
        self.phase = Phase::BringingUp(BringUp::start(&self.hub, now));
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Submits a command of the driver's own. There is room by construction: messages and queue pairs leave the driver's share of the queue free
    /// ([`Core::has_spare_entry`]).
    pub(super) fn start_driver(
        &mut self,
        purpose: Purpose,
        command: Command,
        data: Option<DmaSlice>,
    ) -> bool {
        match self.admin.submit(command, data, Owner::Driver(purpose)) {
            Ok(cid) => {
                self.keep(true, cid, Kept::new(command));
                self.queue_commands += u32::from(purpose.is_about_queues());
                true
            }
            Err(rejected) => {
                tracing::error!(?purpose, reason = ?rejected.reason, "a command of the driver's own found no room");
                self.put_back(purpose, rejected.data);
                false
            }
        }
    }

    /// Puts a driver's buffer back where it is kept.
    fn put_back(&mut self, purpose: Purpose, data: Option<DmaSlice>) {
        let Some(data) = data else { return };
        match purpose {
            Purpose::EventLog => self.events.put_back(data.into_buffer()),
            _ => self.scratch = Some(data.into_buffer()),
        }
    }

    /// Whether [`Core::poll_queues`] would find something: for a poll that finds nothing this is all.
    #[inline(always)]
    pub(crate) fn has_completion(&self) -> bool {
        self.external.as_ref().is_some_and(Pair::has_completion) || self.admin.has_completion()
    }

    /// Polls the external and the admin queue pair; returns how many commands completed, whose outcomes `after_work` delivers. A device that breaks the
    /// protocol fails its controller.
    #[inline(always)]
    pub(crate) fn poll_queues(&mut self) -> usize {
        match self.try_poll_queues() {
            Ok(count) => count,
            Err(error) => {
                self.protocol_error(&error);
                0
            }
        }
    }

    /// As [`Core::poll_queues`], with the error for the caller, who then calls `deliver_outcomes`.
    #[inline(always)]
    pub(super) fn try_poll_queues(&mut self) -> Result<usize, QueueError> {
        let mut completed = 0;
        let (outbox, finished, recovery) = (&mut self.outbox, &mut self.finished, &mut self.recovery);
        let retries = self.retries.as_deref();
        if let Some(external) = &mut self.external {
            let count = external.process(COMPLETIONS_PER_POLL, |responder, data, completion| {
                if completion.status().is_success() {
                    outbox.deliver(responder, answer_of(completion, data));
                } else {
                    failed(outbox, finished, retries, Owner::Message(responder), false, completion, data);
                }
            })?;
            completed += count;
        }
        let count = self.admin.process(COMPLETIONS_PER_POLL, |owner, data, completion| match owner {
            Owner::Abort(responder) => {
                recovery.abort_ended();
                outbox.deliver(responder, outcome_of(completion, data));
            }
            owner if !completion.status().is_success() => {
                failed(outbox, finished, retries, owner, true, completion, data);
            }
            Owner::Message(responder) => outbox.deliver(responder, answer_of(completion, data)),
            Owner::Driver(purpose) => finished.push(Finished::Driver(purpose, completion, data)),
        })?;
        Ok(completed + count)
    }

    /// What follows a poll in which something happened: the driver's own completions, messages that waited for room, doorbells, and the bell.
    // Inlined, as little of it is at work after most polls.
    #[inline(always)]
    pub(crate) fn after_work(&mut self) {
        self.deliver_outcomes();
        if !self.finished.is_empty() {
            self.finish_all();
        }
        if !self.held.is_empty() {
            self.submit_held();
        }
        self.commit();
        // Who receives from a mailbox does not sleep on the bell, and the bell's fence is not free.
        if self.outbox.take_sleepers() {
            self.hub.waiters.bell().ring();
        }
    }

    #[inline(never)]
    fn finish_all(&mut self) {
        // What follows them may answer anybody.
        self.outbox.expects_sleepers();
        let mut finished = std::mem::take(&mut self.finished);
        for finished in finished.drain(..) {
            match finished {
                Finished::Driver(purpose, completion, data) => self.finish(purpose, completion, data),
                Finished::Failed(failed) => self.retry_or_finish(failed),
            }
        }
        self.finished = finished;
    }

    /// Delivers what [`Core::execute`] and [`Core::poll_queues`] came to.
    #[inline]
    pub(super) fn deliver_outcomes(&mut self) {
        self.outbox.flush();
    }

    /// Rings the doorbells of what was submitted.
    pub(super) fn commit(&mut self) {
        self.admin.commit();
        if let Some(external) = &mut self.external {
            external.commit();
        }
    }

    pub(super) fn finish(&mut self, purpose: Purpose, completion: Completion, data: Option<DmaSlice>) {
        match purpose {
            Purpose::BringUp => {
                let data = data.map(DmaSlice::into_buffer);
                // The answer may come when the bring-up was given up.
                if let Phase::BringingUp(bring_up) = &mut self.phase {
                    bring_up.answered(completion, data.as_ref());
                }
                self.scratch = self.scratch.take().or(data);
            }
            Purpose::Rescan => self.rescan_answered(completion, data),
            Purpose::Event => self.event_reported(completion),
            Purpose::EventLog => self.event_log_read(completion, data),
            Purpose::EventConfig => {
                let status = completion.status();
                if !status.is_success() {
                    tracing::warn!(%status, "the controller would not be told which events to report");
                }
            }
            Purpose::KeepAlive => self.keep_alive_answered(completion),
            Purpose::Abort => self.abort_answered(completion),
            Purpose::CreateCq(_) | Purpose::CreateSq(_) | Purpose::DeleteSq(_) | Purpose::DeleteCq(_) => {
                self.queue_commands = self.queue_commands.saturating_sub(1);
                self.queue_command_answered(purpose, completion.status());
            }
        }
    }

    /// Whether anything timed is due: one comparison, since it is made in every poll.
    #[inline(always)]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.due_at
    }

    /// What is timed: notes that the poller has polled, and watches the controller when it is time to. True as [`Core::watch`].
    #[cold]
    pub(crate) fn look_at_time(&mut self, now: Instant) -> bool {
        self.hub.reader.polled(now.saturating_duration_since(self.hub.epoch));
        // Relaxed: published by the Release of each tap; a queue pair that reads it without one wants to know no more than the time.
        self.hub.clock_ms.store(self.recovery.clock_ms(now), Ordering::Relaxed);
        self.look_for_late(now);
        self.keep_alive(now);
        self.send_again(now);
        self.due_at = self.watch_at.min(now + NOTE_PERIOD);
        now >= self.watch_at && self.watch(now)
    }

    /// Has the next question whether anything timed is due answered by yes.
    pub(super) fn look_at_time_soon(&mut self) {
        self.due_at = self.recovery.epoch();
    }

    /// How long until the next look at the controller's health, for late commands, the next Keep Alive, or the next try of a command.
    pub(crate) fn due_in(&self, now: Instant) -> Duration {
        let looks = self.watch_at.min(self.recovery.look_at());
        let retry = self.retries.as_ref().and_then(|retries| retries.due());
        let due = [self.keep_alive.due(), retry].into_iter().flatten().fold(looks, Instant::min);
        due.saturating_duration_since(now)
    }

    /// Looks whether the controller is still there and well. True when the system wants the device back and nobody objects.
    fn watch(&mut self, now: Instant) -> bool {
        self.watch_at = now + self.hub.options.watch_period;
        if !matches!(self.phase, Phase::Running) {
            return false;
        }
        match super::registers::check_running(&*self.hub.transport) {
            Ok(()) => {}
            Err(failure @ Failure::Fatal { .. }) => {
                self.recover(failure, now);
                return false;
            }
            Err(failure) => {
                self.hub.fail(failure);
                return false;
            }
        }
        self.hub.transport.take_events().remove_requested
            && self.hub.options.tell(&ControllerEvent::RemoveRequested) == EventAnswer::Proceed
    }

    /// The queue protocol was broken by the device: gives the controller up.
    #[cold]
    fn protocol_error(&mut self, error: &QueueError) {
        self.deliver_outcomes();
        self.hub.fail(Failure::Protocol(error.to_string()));
    }
}

/// What a message's command came to. A command that was aborted because its queue was deleted was not answered by the device.
pub(super) fn outcome_of(completion: Completion, data: Option<DmaSlice>) -> Outcome<Reply> {
    if completion.status().without_dnr() == Status::ABORTED_SQ_DELETION {
        return Outcome::Aborted(Aborted::maybe_executed(AbortReason::Detached));
    }
    answer_of(completion, data)
}

/// The device's own answer.
#[inline]
fn answer_of(completion: Completion, data: Option<DmaSlice>) -> Outcome<Reply> {
    let status = completion.status();
    let result = u64::from(completion.dw0) | u64::from(completion.dw1) << 32;
    Outcome::Completed(Reply::Command { status, result, data: data.map(Box::new) })
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("hub", &self.hub).field("held", &self.held.len()).finish_non_exhaustive()
    }
}
