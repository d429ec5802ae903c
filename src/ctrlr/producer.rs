//! Producers: how other threads hand messages to a polled controller, and get their outcomes.
#![forbid(unsafe_code)]

use super::admin::{AdminCall, CallError, PendingCall};
use super::connect::QpairSlot;
use super::hub::Hub;
use super::message::{ConnectRequest, Envelope, Message, Reply, Responder};
use super::state::CtrlrState;
use crate::dma::{DmaBuffer, DmaError};
use crate::ring::mpsc::PushError;
use crate::ring::scheme::{Channel, Sender};
use crate::ring::sleeper::Sleeper;
use crate::ring::{Mailbox, Outcome, Scheme, Ticket};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) type SenderOf<S> = <<S as Scheme>::Channel<Envelope> as Channel<Envelope>>::Sender;

/// A name under which messages are sent.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) name: String,
    /// Cleared when the name is unregistered; the ring's own CLOSED bit is what decides for the last one.
    is_open: AtomicBool,
}

impl Registration {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), is_open: AtomicBool::new(true) }
    }

    pub(crate) fn close(&self) {
        // Relaxed: a sender that does not see it yet sent before the unregistration, as far as anyone can tell.
        self.is_open.store(false, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        // Relaxed: see `close`.
        self.is_open.load(Ordering::Relaxed)
    }
}

/// Sends messages to one controller. Clones send under the same name; any thread may use them, at once.
///
/// Dropping a producer does not unregister its name, as in SPDK: [`super::Ctrlr::unregister`] does.
pub struct Producer<S: Scheme> {
    pub(super) sender: SenderOf<S>,
    registration: Arc<Registration>,
    /// Woken with each message, where the poller may sleep.
    sleeper: Option<Arc<Sleeper>>,
    hub: Arc<Hub>,
}

impl<S: Scheme> Clone for Producer<S> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            registration: Arc::clone(&self.registration),
            sleeper: self.sleeper.clone(),
            hub: Arc::clone(&self.hub),
        }
    }
}

/// A message that was not accepted, and why. The message comes back whole.
#[derive(Debug, thiserror::Error)]
#[error("the message was not accepted: {reason}")]
pub struct SendError<M = Message> {
    /// Why.
    pub reason: SendErrorReason,
    /// The message.
    pub message: M,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorReason {
    /// All slots are taken. Send again when the poller has come by.
    #[error("the ring is full; send again when the poller has come by, or attach with more ring_slots")]
    Full,
    /// The mailbox's window is used up.
    #[error("the mailbox's window is used up; receive outcomes first, or make it larger")]
    WindowFull,
    /// The name was unregistered.
    #[error("the producer was unregistered; register again")]
    Unregistered,
    /// The controller is detached, or being detached.
    #[error("the controller is detached")]
    Detached,
}

impl<S: Scheme> Producer<S> {
    pub(super) fn new(sender: SenderOf<S>, registration: Arc<Registration>, hub: Arc<Hub>) -> Self {
        let sleeper = hub.interrupts().map(|interrupts| Arc::clone(&interrupts.sleeper));
        Self { sender, registration, sleeper, hub }
    }

    /// The name that it sends under.
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    /// DMA memory of the controller, zeroed, for the data of a message. See [`crate::dma::DmaSpace::allocate`].
    pub fn allocate(&self, len: usize) -> Result<DmaBuffer, DmaError> {
        self.hub.dma.allocate(len)
    }

    /// Sends `message`; the ticket yields its one outcome. Never waits.
    pub fn send(&self, message: Message) -> Result<Ticket<Reply>, SendError> {
        let (ticket, responder) = Ticket::new(&self.hub.waiters);
        self.push(message, responder).map(|()| ticket).map_err(refused)
    }

    /// Sends `message`; `callback` gets its one outcome, on the polling thread (where it must not wait), or on the one that aborts it.
    pub fn send_with(
        &self,
        message: Message,
        callback: impl FnOnce(Outcome<Reply>) + Send + 'static,
    ) -> Result<(), SendError> {
        let responder = Responder::to_callback(Box::new(callback));
        self.push(message, responder).map_err(refused)
    }

    /// Sends `message`; its one outcome arrives in `mailbox` under `token`. The fast way: no allocation, no wake-up.
    #[inline(always)]
    pub fn send_to(
        &self,
        mailbox: &mut Mailbox<Reply>,
        token: u64,
        message: Message,
    ) -> Result<(), SendError> {
        // Closures by themselves: so only the few words that one has are written, and those of a command not even copied.
        match message {
            Message::Call(call) => self.push_to(mailbox, token, Message::Call(call)),
            other => self.push_command_to(mailbox, token, other),
        }
    }

    #[inline(never)]
    fn push_command_to(
        &self,
        mailbox: &mut Mailbox<Reply>,
        token: u64,
        message: Message,
    ) -> Result<(), SendError> {
        self.push_to(mailbox, token, message)
    }

    #[inline(always)]
    fn push_to(&self, mailbox: &mut Mailbox<Reply>, token: u64, message: Message) -> Result<(), SendError> {
        let Some(responder) = mailbox.responder(token) else {
            return Err(SendError { reason: SendErrorReason::WindowFull, message });
        };
        match self.push(message, responder) {
            Ok(()) => Ok(()),
            Err((error, responder)) => {
                mailbox.take_back(responder);
                Err(error)
            }
        }
    }

    /// Sends many messages at once, from the front of `messages`, with outcomes in `mailbox`, each under its token. Returns how many were accepted;
    /// those are removed from the vector.
    pub fn send_batch_to(
        &self,
        mailbox: &mut Mailbox<Reply>,
        messages: &mut Vec<(u64, Message)>,
    ) -> Result<usize, SendErrorReason> {
        if !self.registration.is_open() {
            return Err(self.closed_reason());
        }
        let room = (mailbox.window() - mailbox.in_flight()).min(messages.len());
        if room == 0 {
            return if messages.is_empty() { Ok(0) } else { Err(SendErrorReason::WindowFull) };
        }
        let pushed = self.sender.push_from(messages, room, |entry, place| {
            // There is room in the window: `room` was counted.
            let responder = mailbox.responder(entry.get().0).unwrap_or_else(|| unreachable!("counted"));
            // By themselves, as in `send_to`, and told apart before they are looked into.
            if !matches!(entry.get().1, Message::Call(_)) {
                return place.fill(Envelope { message: entry.take().1, responder });
            }
            let call =
                entry.part(|(_, message)| message.as_call()).unwrap_or_else(|_| unreachable!("it is one"));
            place.fill(Envelope { message: Message::Call(call.take()), responder })
        });
        match pushed {
            Ok(accepted) => {
                self.wake();
                Ok(accepted)
            }
            Err(PushError::Closed(())) => Err(self.closed_reason()),
            Err(PushError::Full(())) => Err(SendErrorReason::Full),
        }
    }

    #[inline(always)]
    fn push(&self, message: Message, responder: Responder) -> Result<(), (SendError, Responder)> {
        if !self.registration.is_open() {
            return Err((SendError { reason: self.closed_reason(), message }, responder));
        }
        match self.sender.push(Envelope { message, responder }) {
            Ok(()) => {
                self.wake();
                Ok(())
            }
            Err(PushError::Full(envelope)) => {
                let error = SendError { reason: SendErrorReason::Full, message: envelope.message };
                Err((error, envelope.responder))
            }
            Err(PushError::Closed(envelope)) => {
                let error = SendError { reason: self.closed_reason(), message: envelope.message };
                Err((error, envelope.responder))
            }
        }
    }

    #[inline]
    fn wake(&self) {
        if let Some(sleeper) = &self.sleeper {
            sleeper.wake();
        }
    }

    #[cold]
    fn closed_reason(&self) -> SendErrorReason {
        match self.hub.state.get() {
            CtrlrState::Detaching | CtrlrState::Detached => SendErrorReason::Detached,
            _ => SendErrorReason::Unregistered,
        }
    }

    /// Runs a typed admin call and waits for its answer, at most for `timeout`; past it the call comes back, still pending.
    ///
    /// Not from inside a message or completion on the polling thread: there it returns [`CallError::Pending`] at once.
    pub fn call<T>(&self, call: AdminCall<T>, timeout: Duration) -> Result<T, CallError<T>> {
        self.start_call(call)?.wait(timeout)
    }

    /// Starts a typed admin call; the answer comes through what is returned, which can be waited for or awaited.
    pub fn start_call<T>(&self, call: AdminCall<T>) -> Result<PendingCall<T>, CallError<T>> {
        let (message, parse) = call.into_message(&self.hub.dma)?;
        let ticket = self.send(message).map_err(|error| CallError::NotSent(error.reason))?;
        Ok(PendingCall::new(ticket, parse))
    }

    /// Asks the poller to create the queues of `slot`.
    pub(crate) fn connect(&self, slot: &Arc<QpairSlot>) -> Result<Ticket<Reply>, SendError> {
        self.send(Message::Connect(ConnectRequest(Arc::clone(slot))))
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

/// A message that was not accepted gets no outcome.
fn refused((error, responder): (SendError, Responder)) -> SendError {
    responder.disarm();
    error
}

impl<S: Scheme> fmt::Debug for Producer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("name", &self.registration.name)
            .field("scheme", &S::NAME)
            .finish_non_exhaustive()
    }
}
