//! The controller's poller: admin completions, the message ring, the external queue pair, timers, and the cold path to everything else.
#![forbid(unsafe_code)]

use super::io::{QpairError, QpairOptions};
use super::qpair::QueuePair;
use crate::ctrlr::{
    AdminCall, CallError, Ctrlr, CtrlrState, DetachError, Envelope, Failure, Hub, Message, Pause,
    PendingCall, Reply, Seated, attention,
};
use crate::dma::{DmaBuffer, DmaError};
use crate::ring::inside::is_inside_poll;
use crate::ring::scheme::Receiver;
use crate::ring::{LockFree, Outcome, Scheme, Ticket};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Polls one controller. There is one at a time; it may move between threads, and dropping it (by a panic too) leaves the controller to the next one, or to
/// a detacher.
///
/// It takes no lock and never waits; while it exists and does not poll, unregistrations and detaches wait for it, which they say when their
/// deadline passes.
pub struct Poller<S: Scheme = LockFree> {
    /// Kept for the seat; declared first so that the hot path's words below share a line with it.
    ctrlr: Ctrlr<S>,
    hub: Arc<Hub>,
    /// `None` once it was left to a detacher.
    seated: Option<Box<Seated<S>>>,
}

/// How long a poller without interrupts, or in the middle of a reset, sleeps at a time.
const NAP: Duration = Duration::from_micros(50);

/// Why there is no poller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PollerError {
    /// The controller has one already.
    #[error("the controller is already polled by '{name}'; drop that poller first")]
    AlreadyPolled {
        /// The other poller's name.
        name: String,
    },
    /// The controller is detached, or being detached.
    #[error("the controller is detached")]
    Detached,
}

/// What a poll reports instead of a number of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// The controller is being detached: this poller has left it, and is of no more use.
    #[error("the controller is detached; this poller has left it")]
    Detached,
    /// The controller has failed and its device has stopped. Messages are still answered (aborted) by polling; only detaching helps.
    #[error("the controller failed: {0}")]
    Failed(Failure),
}

impl<S: Scheme> Poller<S> {
    /// Takes the controller's seat under `name`, which appears in errors when somebody waits for this poller.
    pub fn new(ctrlr: &Ctrlr<S>, name: &str) -> Result<Self, PollerError> {
        let shared = &ctrlr.0;
        if shared.hub.is_over() {
            return Err(PollerError::Detached);
        }
        let Some(seated) = shared.seat.take() else {
            let name = shared.hub.reader.stalled(shared.hub.epoch).poller.unwrap_or_default();
            return Err(PollerError::AlreadyPolled { name });
        };
        shared.hub.reader.sit_down(name);
        Ok(Self { hub: Arc::clone(&shared.hub), ctrlr: ctrlr.clone(), seated: Some(seated) })
    }

    /// Polls once: messages (8 at most), completions of the external and the admin queue pair (32 each), and at `now` what is due. Returns how
    /// many things happened. Never waits.
    ///
    /// `now` is the caller's, so that who polls many controllers reads the clock once; reading it seldom only delays what is timed.
    ///
    /// While messages come in full batches, some may be left until there are more of them: for 64 polls at most, or 1 us by `now`. (A poller at the heels of a stream's
    /// senders slows them down, by the cache lines that it takes away.)
    #[inline(always)]
    pub fn poll(&mut self, now: Instant) -> Result<usize, PollError> {
        self.poll_at(now, Some(now))
    }

    /// As [`Poller::poll`]. Where `stream` is not `now` but `None` no message is left until more of them have come: for whoever may not come back soon.
    #[inline(always)]
    fn poll_at(&mut self, now: Instant, stream: Option<Instant>) -> Result<usize, PollError> {
        let Some(seated) = &mut self.seated else {
            return Err(PollError::Detached);
        };
        let hub = &*self.hub;
        if hub.attention.bits() != 0 {
            return self.poll_attentive(now);
        }
        let Seated { receiver, core } = &mut **seated;
        receiver.enter();
        let messages =
            receiver.receive(core.message_budget(), stream, |envelope| core.execute_taken(envelope));
        if messages == 0 && !core.has_completion() && !core.is_due(now) {
            receiver.leave();
            return Ok(0);
        }
        Ok(self.poll_eventful(now, messages))
    }

    /// The rest of a poll in which something happened, or is to happen, from the queues on; returns how many things did.
    ///
    /// A number and no result: that would come back through memory, written in halves and read whole, which holds the processor up until what was
    /// written to other cores' lines before is on its way.
    #[inline(never)]
    fn poll_eventful(&mut self, now: Instant, messages: usize) -> usize {
        let Some(seated) = &mut self.seated else { return 0 };
        let Seated { receiver, core } = &mut **seated;
        let completions = core.poll_queues();
        receiver.leave();
        if messages != 0 {
            self.hub.statistics.messages.add(messages as u64);
        }
        if messages + completions != 0 {
            self.hub.statistics.completions.add(completions as u64);
            core.after_work();
        }
        if core.is_due(now) {
            let is_wanted_back = core.look_at_time(now);
            if is_wanted_back {
                self.detach_for_removal();
            }
        }
        messages + completions
    }

    /// A poll while something has changed or is in progress.
    #[cold]
    fn poll_attentive(&mut self, now: Instant) -> Result<usize, PollError> {
        if self.hub.attention.look() & attention::DETACH != 0 {
            self.leave();
            return Err(PollError::Detached);
        }
        let Some(seated) = &mut self.seated else {
            return Err(PollError::Detached);
        };
        self.hub.reader.polled(now.saturating_duration_since(self.hub.epoch));
        let Seated { receiver, core } = &mut **seated;
        receiver.refresh();
        core.attend(now);
        receiver.enter();
        let messages = if core.takes_messages() {
            receiver.receive(core.message_budget(), None, |envelope| core.execute_taken(envelope))
        } else if core.aborts_messages() {
            receiver.receive(core.message_budget(), None, |envelope| core.abort_by_reset(envelope.take()))
        } else {
            0
        };
        let events = self.poll_eventful(now, messages);
        match (self.hub.state.get(), self.hub.state.failure()) {
            (CtrlrState::Failed, Some(failure)) => Err(PollError::Failed(failure.clone())),
            _ => Ok(events),
        }
    }

    /// The system wants the device back, and nobody objects: detaches it on a thread of its own, since this one goes on polling until it is asked to
    /// leave.
    #[cold]
    fn detach_for_removal(&self) {
        let (ctrlr, timeout) = (self.ctrlr.clone(), self.hub.options.removal_timeout);
        let thread = std::thread::Builder::new().name("slipring-removal".into());
        let spawned = thread.spawn(move || {
            if let Err(error) = ctrlr.detach(timeout) {
                tracing::error!(address = ctrlr.address(), %error, "the removal that was asked for waits");
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to detach for a removal; asked again when the system asks again");
        }
    }

    /// Leaves the core to a detacher, or to the next poller.
    fn leave(&mut self) {
        if let Some(mut seated) = self.seated.take() {
            seated.receiver.offline();
            self.hub.reader.get_up();
            self.ctrlr.0.seat.deposit(seated);
        }
    }

    /// Polls once, and if nothing happened sleeps until a completion, a message or anything else to attend to comes, at most for `timeout`; returns how many
    /// things happened before the sleep. Poll, or wait again, after it. Any mix of waiting and polling loses nothing.
    ///
    /// Needs [`crate::ctrlr::CtrlrOptions::interrupts`]; without them it sleeps in short naps, after which messages wait.
    pub fn wait(&mut self, timeout: Duration) -> Result<usize, PollError> {
        let hub = Arc::clone(&self.hub);
        let Some(interrupts) = hub.interrupts() else {
            let polled = self.poll_at(Instant::now(), None);
            if let Ok(0) = polled {
                std::thread::sleep(timeout.min(NAP));
            }
            return polled;
        };
        interrupts.sleeper.falls_asleep();
        let now = Instant::now();
        let polled = self.poll_at(now, None);
        if let (Ok(0), Some(seated)) = (&polled, &self.seated) {
            let bits = hub.attention.bits();
            if bits & !(attention::RESET | attention::SUBSYSTEM) == attention::BUSY {
                // A reset, and maybe the next one asked for: its steps look at registers, which signal nothing.
                std::thread::sleep(timeout.min(NAP));
            } else if bits == 0
                && let Err(error) = interrupts.sleep_as_poller(timeout.min(seated.core.due_in(now)))
            {
                tracing::error!(%error, "a poller could not sleep; it polls");
            }
        }
        interrupts.sleeper.wakes_up();
        polled
    }

    /// Goes offline until the next poll: registrations come and go without this poller, which holds nobody up. For threads that stop polling for a while.
    pub fn pause(&mut self) {
        if let Some(seated) = &mut self.seated {
            seated.receiver.offline();
        }
    }

    /// Whether a retirement would wait for this poller.
    pub fn is_online(&self) -> bool {
        self.seated.as_ref().is_some_and(|seated| seated.receiver.is_online())
    }

    /// Detaches the controller from its polling thread; see [`Ctrlr::detach`].
    pub fn detach(mut self, timeout: Duration) -> Result<(), DetachError> {
        if is_inside_poll() {
            return Err(DetachError::InsidePoll);
        }
        let ctrlr = self.ctrlr.clone();
        self.leave();
        drop(self);
        ctrlr.detach(timeout)
    }

    /// Creates an I/O queue pair, polling until it is connected. Not for a device that this thread itself has to step: use
    /// [`QueuePair::request`] and poll.
    pub fn queue_pair(&mut self, options: &QpairOptions) -> Result<QueuePair, QpairError> {
        if is_inside_poll() {
            return Err(QpairError::InsidePoll);
        }
        let mut qpair = QueuePair::request(&self.ctrlr, options)?;
        let mut pause = Pause::new(self.hub.options.admin_timeout);
        while !qpair.connected()? {
            self.poll(Instant::now()).map_err(QpairError::from)?;
            if !pause.take() {
                return Err(QpairError::Deadline);
            }
        }
        Ok(qpair)
    }

    /// Runs a typed admin call on this thread, polling until it is answered, at most for `timeout`.
    pub fn call<T>(&mut self, call: AdminCall<T>, timeout: Duration) -> Result<T, CallError<T>> {
        let pending = self.start_call(call)?;
        if is_inside_poll() {
            return Err(CallError::Pending(pending));
        }
        let mut pause = Pause::new(timeout);
        while !pending.is_ready() {
            let polled = self.poll(Instant::now());
            if pending.is_ready() || matches!(polled, Err(PollError::Detached)) || !pause.take() {
                break;
            }
        }
        pending.wait(Duration::ZERO)
    }

    /// Starts a typed admin call on this thread; the answer comes while it polls.
    pub fn start_call<T>(&mut self, call: AdminCall<T>) -> Result<PendingCall<T>, CallError<T>> {
        let (message, parse) = call.into_message(&self.hub.dma)?;
        let Some(ticket) = self.send(message) else {
            return Err(CallError::NotRunning(self.hub.state.get()));
        };
        Ok(PendingCall::new(ticket, parse))
    }

    /// Executes a message on this thread, past the ring. `None` when the controller is detached.
    pub fn send(&mut self, message: Message) -> Option<Ticket<Reply>> {
        let seated = self.seated.as_mut()?;
        let (ticket, responder) = Ticket::new(&self.hub.waiters);
        seated.core.execute(Envelope { message, responder });
        seated.core.after_work();
        Some(ticket)
    }

    /// As [`Poller::send`], with a callback that gets the outcome on this thread, now or in a later poll.
    pub fn send_with(
        &mut self,
        message: Message,
        callback: impl FnOnce(Outcome<Reply>) + Send + 'static,
    ) -> bool {
        let Some(seated) = &mut self.seated else { return false };
        let responder = crate::ctrlr::Responder::to_callback(Box::new(callback));
        seated.core.execute(Envelope { message, responder });
        seated.core.after_work();
        true
    }

    /// The controller that it polls.
    pub fn ctrlr(&self) -> &Ctrlr<S> {
        &self.ctrlr
    }

    /// DMA memory of the controller, zeroed.
    pub fn allocate(&self, len: usize) -> Result<DmaBuffer, DmaError> {
        self.hub.dma.allocate(len)
    }
}

impl<S: Scheme> Drop for Poller<S> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<S: Scheme> fmt::Debug for Poller<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller")
            .field("ctrlr", &self.ctrlr)
            .field("online", &self.is_online())
            .finish_non_exhaustive()
    }
}
