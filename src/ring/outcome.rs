//! Outcomes: what becomes of an accepted message, and the responder that delivers it exactly once, even when it is dropped.
//!
//! How a sender waits for its outcome is in [`super::ticket`] and [`super::mailbox`].

use super::inside::{InsidePoll, contain_panic};
use super::mailbox::{Credit, MailboxId};
use super::mpsc::Ring;
use super::parcel::Parcel;
use super::place::Taken;
use super::ticket::Cell;
use crate::sync::Arc;
use std::fmt;
use std::mem::ManuallyDrop;

/// What became of a message that was accepted. Every accepted message gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// The message was executed; this is its answer (which may say that the device refused it).
    Completed(R),
    /// The message was not answered, and will not be.
    Aborted(Aborted),
}

impl<R> Outcome<R> {
    /// The answer, or why there is none.
    pub fn into_result(self) -> Result<R, Aborted> {
        match self {
            Self::Completed(answer) => Ok(answer),
            Self::Aborted(aborted) => Err(aborted),
        }
    }
}

/// Why a message has no answer, and whether the device may have acted on it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("aborted: {reason}{}", if *may_have_executed { " (it may have been executed)" } else { " (it was not executed)" })]
pub struct Aborted {
    /// What happened to the controller, or to the message.
    pub reason: AbortReason,
    /// True when the message had reached the device, or had begun to run, before it was aborted.
    pub may_have_executed: bool,
}

impl Aborted {
    /// Aborted before anything acted on it.
    pub const fn unexecuted(reason: AbortReason) -> Self {
        Self { reason, may_have_executed: false }
    }

    /// Aborted when it may have been acted on.
    pub const fn maybe_executed(reason: AbortReason) -> Self {
        Self { reason, may_have_executed: true }
    }
}

/// What ended a message without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AbortReason {
    /// The last producer was unregistered while the message waited.
    #[error("the last producer was unregistered")]
    Unregistered,
    /// The controller was detached.
    #[error("the controller was detached")]
    Detached,
    /// The controller was reset while the message was in flight.
    #[error("the controller was reset")]
    Reset,
    /// The device is gone.
    #[error("the device was removed")]
    Removed,
    /// The controller failed; its state says why.
    #[error("the controller failed")]
    Failed,
    /// Somebody asked for that, before the message reached the device.
    #[error("it was asked for")]
    Requested,
    /// The message's closure panicked.
    #[error("the message panicked on the polling thread")]
    Panicked,
    /// The message was dropped unanswered; no path of the driver does that on purpose.
    #[error("the message was dropped unanswered")]
    Dropped,
}

/// Where an outcome goes. Small and allocation-free to move, since it travels in the ring's slot.
enum Target<R> {
    Cell(Arc<Cell<R>>),
    Callback(Box<dyn FnOnce(Outcome<R>) + Send>),
    Mailbox { mailbox: Credit<R>, token: u64 },
}

/// Delivers one outcome: by [`Responder::deliver`], or, if it is dropped, an abort.
///
/// Crate-private by design: only the driver answers messages.
pub(crate) struct Responder<R>(Option<Target<R>>);

impl<R> Responder<R> {
    pub(super) fn to_cell(cell: Arc<Cell<R>>) -> Self {
        Self(Some(Target::Cell(cell)))
    }

    pub(crate) fn to_callback(callback: Box<dyn FnOnce(Outcome<R>) + Send>) -> Self {
        Self(Some(Target::Callback(callback)))
    }

    pub(super) fn to_mailbox(mailbox: Credit<R>, token: u64) -> Self {
        Self(Some(Target::Mailbox { mailbox, token }))
    }

    /// Delivers `outcome`. Does not wake sleepers: whoever delivers calls [`super::bell::Bell::ring`] after its last delivery.
    pub(crate) fn deliver(mut self, outcome: Outcome<R>) {
        if let Some(target) = self.0.take() {
            target.deliver(outcome);
        }
    }

    /// The mailbox that it answers to, with the duty; or the responder again if it answers elsewhere.
    #[inline(always)]
    pub(super) fn into_mailbox(self) -> Result<(Credit<R>, u64), Self> {
        let this = ManuallyDrop::new(self);
        // SAFETY: read once, and not dropped where it is.
        match unsafe { std::ptr::read(&raw const this.0) } {
            Some(Target::Mailbox { mailbox, token }) => Ok((mailbox, token)),
            elsewhere => Err(Self(elsewhere)),
        }
    }

    /// The mailbox's ring and the token that it answers to, if it answers to one.
    #[inline(always)]
    pub(super) fn address(&self) -> Option<(*const Ring<Parcel<R>>, u64)> {
        match &self.0 {
            Some(Target::Mailbox { mailbox, token }) => Some((Arc::as_ptr(mailbox), *token)),
            _ => None,
        }
    }

    /// Whether it answers to this mailbox, under this token.
    pub(crate) fn is_of(&self, id: MailboxId, wanted: u64) -> bool {
        self.address().is_some_and(|(mailbox, token)| token == wanted && MailboxId::of(mailbox) == id)
    }

    /// Disarms the responder of a message that was never accepted, without an answer; a mailbox gets its credit back.
    pub(crate) fn disarm(mut self) -> Option<Credit<R>> {
        match self.0.take() {
            Some(Target::Mailbox { mailbox, .. }) => Some(mailbox),
            Some(Target::Cell(_) | Target::Callback(_)) | None => None,
        }
    }
}

impl<R> Target<R> {
    fn deliver(self, outcome: Outcome<R>) {
        match self {
            Self::Mailbox { mailbox, token } => Parcel::deliver(mailbox, token, outcome),
            Self::Cell(cell) => cell.deliver(outcome),
            Self::Callback(callback) => {
                // Whichever thread delivers, poller or detacher: what would wait for it is refused, and a panic does not take it along. The
                // message was answered, by the call.
                let _inside = InsidePoll::enter();
                if contain_panic(|| callback(outcome)).is_none() {
                    tracing::error!("a message's outcome callback panicked; the poller goes on");
                }
            }
        }
    }
}

impl<R> Drop for Responder<R> {
    fn drop(&mut self) {
        if let Some(target) = self.0.take() {
            target.deliver(Outcome::Aborted(Aborted::maybe_executed(AbortReason::Dropped)));
        }
    }
}

impl<R> fmt::Debug for Responder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &self.0 {
            None => "answered",
            Some(Target::Cell(_)) => "ticket",
            Some(Target::Callback(_)) => "callback",
            Some(Target::Mailbox { .. }) => "mailbox",
        };
        f.debug_tuple("Responder").field(&target).finish()
    }
}

/// A message on its way, with the duty to answer it.
#[derive(Debug)]
pub(crate) struct Envelope<M, R> {
    pub(crate) message: M,
    pub(crate) responder: Responder<R>,
}

impl<'slot, M, R> Taken<'slot, Envelope<M, R>> {
    /// The message, still where it lies, and the duty to answer it.
    #[inline(always)]
    pub(crate) fn open(self) -> (Taken<'slot, M>, Responder<R>) {
        let envelope = self.into_raw();
        // SAFETY: a value, within which this part is.
        let message = unsafe { &raw mut (*envelope).message };
        // SAFETY: as above.
        let responder = unsafe { &raw mut (*envelope).responder };
        // SAFETY: a value that was ours alone, and that is moved on here, once.
        let responder = unsafe { responder.read() };
        // SAFETY: as above, and moved on as what it is.
        let message = unsafe { Taken::new(message) };
        (message, responder)
    }
}
