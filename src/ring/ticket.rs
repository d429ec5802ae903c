//! Tickets: one sender waits for one outcome, blocking with a deadline, or as a future with any executor.

use super::outcome::{Outcome, Responder};
use super::waiters::Waiters;
use crate::sync::{Arc, AtomicU32, Ordering, Protection, UnsafeCell, ordering};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc as Shared;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Nothing delivered yet.
const EMPTY: u32 = 0;
/// The outcome lies in the cell.
const READY: u32 = 1;

/// How often a waiter looks before it goes to sleep: about two microseconds, the round trip to a busy poller.
#[cfg(not(loom))]
const SPINS: u32 = 200;
#[cfg(loom)]
const SPINS: u32 = 0;

/// What sender and deliverer share: written once by the one responder, then taken by the one ticket.
pub(crate) struct Cell<R> {
    state: AtomicU32,
    outcome: UnsafeCell<Option<Outcome<R>>>,
}

// SAFETY: the outcome is written by one thread before READY and taken by one thread after; it is moved between them.
unsafe impl<R: Send> Sync for Cell<R> {}
// SAFETY: as above.
unsafe impl<R: Send> Send for Cell<R> {}

impl<R> Cell<R> {
    pub(super) fn deliver(&self, outcome: Outcome<R>) {
        self.outcome.with_mut(|slot| {
            // SAFETY: only the responder writes, once, since delivering consumes it; the ticket reads after READY only.
            unsafe { *slot = Some(outcome) };
        });
        // Release: pairs with the Acquire in `is_ready`.
        self.state.store(READY, ordering(Ordering::Release, Protection::OutcomeRelease));
    }

    pub(super) fn is_ready(&self) -> bool {
        // Acquire: pairs with the Release in `deliver`.
        self.state.load(Ordering::Acquire) == READY
    }
}

/// The right to one outcome.
///
/// Dropping it gives the right up; the message is executed all the same. As a future it yields the outcome; with no executor at hand, [`Ticket::wait`].
#[must_use = "the outcome of the message comes through this ticket"]
pub struct Ticket<R> {
    cell: Arc<Cell<R>>,
    waiters: Shared<Waiters>,
}

/// The deadline passed first: the message is still on its way, and this is the right to its outcome.
#[derive(Debug, thiserror::Error)]
#[error("no outcome within the deadline: the message is still pending; wait on the ticket again, or drop it")]
pub struct Pending<R>(pub Ticket<R>);

impl<R> Ticket<R> {
    pub(crate) fn new(waiters: &Shared<Waiters>) -> (Self, Responder<R>) {
        let cell = Arc::new(Cell { state: AtomicU32::new(EMPTY), outcome: UnsafeCell::new(None) });
        let responder = Responder::to_cell(Arc::clone(&cell));
        (Self { cell, waiters: Shared::clone(waiters) }, responder)
    }

    /// Whether the outcome has arrived.
    pub fn is_ready(&self) -> bool {
        self.cell.is_ready()
    }

    /// The outcome, if it has arrived; otherwise the ticket again. Never waits, so it may be called on the polling thread.
    pub fn try_take(self) -> Result<Outcome<R>, Pending<R>> {
        match self.take() {
            Some(outcome) => Ok(outcome),
            None => Err(Pending(self)),
        }
    }

    fn take(&self) -> Option<Outcome<R>> {
        if !self.cell.is_ready() {
            return None;
        }
        self.cell.outcome.with_mut(|slot| {
            // SAFETY: READY was seen with Acquire, so the responder is done with the cell; and the ticket, which is not cloned and
            // takes only through `self` by value or `&mut`, is the only one that reads.
            unsafe { (*slot).take() }
        })
    }

    /// Waits for the outcome, at most for `timeout`. Past it the ticket comes back: the message is still on its way, with its buffers.
    ///
    /// Spins for about two microseconds, then sleeps. From inside a message or completion on the polling thread use [`Ticket::try_take`]: the
    /// poller cannot answer while it waits for itself, so there this returns [`Pending`] at once.
    pub fn wait(self, timeout: Duration) -> Result<Outcome<R>, Pending<R>> {
        if super::inside::is_inside_poll() {
            return self.try_take();
        }
        for _ in 0..SPINS {
            if self.cell.is_ready() {
                break;
            }
            std::hint::spin_loop();
        }
        if !self.cell.is_ready() {
            let deadline = Instant::now().checked_add(timeout);
            self.waiters.bell().sleep_until(deadline, || self.cell.is_ready());
        }
        self.try_take()
    }
}

impl<R: Send + 'static> Future for Ticket<R> {
    type Output = Outcome<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.take() {
            return Poll::Ready(outcome);
        }
        let cell = Arc::clone(&self.cell);
        let key = std::ptr::from_ref(&*cell).addr();
        self.waiters.wake_when(key, Box::new(move || cell.is_ready()), context.waker().clone());
        // Once more: an outcome that came before the waker was registered wakes nobody.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<R> fmt::Debug for Ticket<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("ready", &self.is_ready()).finish()
    }
}
