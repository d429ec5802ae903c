//! What a publication scheme is: the seam behind which [`LockFree`](super::LockFree) and its rivals stand, statically dispatched.
//!
//! All schemes run in the same poll loop, use the same [`Ring`] and drain at retirement, so that a comparison
//! compares publication and nothing else.

use super::attention::Attention;
use super::mpsc::{PushError, Ring};
use super::place::{Filled, Place, Taken};
use super::slot::Run;
use crate::sync::Arc;
use std::fmt;
use std::time::Instant;

/// The most messages that a receiver takes out of the ring at a time: SPDK's number.
pub(super) const BATCH: usize = 8;

/// How a controller publishes its ring to the thread that polls it. Sealed: the schemes are this crate's.
pub trait Scheme: fmt::Debug + Send + Sync + 'static + super::Sealed {
    /// The scheme's name in tables and JSON.
    const NAME: &'static str;
    /// The control end of a channel for messages of type `M`.
    #[doc(hidden)]
    type Channel<M: Send + 'static>: Channel<M>;
}

/// The control end: one per controller, serialised by the controller's control mutex.
#[doc(hidden)]
pub trait Channel<M>: Sized + Send + 'static {
    /// A producer's end.
    type Sender: Sender<M>;
    /// The polling thread's end.
    type Receiver: Receiver<M>;
    /// A ring that takes no more messages and that the receiver may still be in.
    type Retiring: Send + 'static;
    /// A ring that the receiver has left.
    type Quiet: Quiet<M>;
    /// What control operations hold from their beginning to their end.
    type Gate: Gate;
    /// A ring that is not published yet.
    type Prepared: Send;

    /// A channel with no ring, and its receiver, offline.
    fn new(attention: &Arc<Attention>) -> (Self, Self::Receiver);

    /// The gate of this channel's control operations. Nothing else may be locked before it.
    fn gate(&self) -> Self::Gate;

    /// A ring of `capacity` slots (a power of two), made before the gate is entered: no scheme keeps its poller waiting for an allocation.
    fn prepare(capacity: usize) -> Self::Prepared;

    /// Publishes a ring. None may be published.
    fn publish_held(&mut self, held: &mut HeldOf<'_, Self, M>, ring: Self::Prepared) -> Self::Sender;

    /// Closes the published ring and unpublishes it. Never waits.
    fn retire_held(&mut self, held: &mut HeldOf<'_, Self, M>) -> Option<Self::Retiring>;

    /// Publishes a new ring of `capacity` slots, entering the gate for that alone.
    fn publish(&mut self, capacity: usize) -> Self::Sender {
        let ring = Self::prepare(capacity);
        let gate = self.gate();
        let mut held = gate.enter();
        self.publish_held(&mut held, ring)
    }

    /// As [`Channel::retire_held`], entering the gate for that alone.
    fn retire(&mut self) -> Option<Self::Retiring> {
        let gate = self.gate();
        let mut held = gate.enter();
        self.retire_held(&mut held)
    }

    /// The quiet ring once the receiver has left it; otherwise, having driven that on, the same again. Never waits.
    fn settle(&mut self, retiring: Self::Retiring) -> Result<Self::Quiet, Self::Retiring>;
}

/// What the control operations of one channel hold: the lock that its polls take, in the schemes that have one.
#[doc(hidden)]
pub trait Gate: Clone + Send + Sync + 'static {
    /// Held until dropped.
    type Held<'a>
    where
        Self: 'a;

    /// Enters. Waits for the poller and for other control operations, where the scheme does.
    fn enter(&self) -> Self::Held<'_>;
}

/// What is held while control operations of channel `C` are at work.
pub(crate) type HeldOf<'a, C, M> = <<C as Channel<M>>::Gate as Gate>::Held<'a>;

/// The gate of a scheme whose polls take no lock.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct NoGate;

impl Gate for NoGate {
    type Held<'a> = ();

    fn enter(&self) {}
}

/// A producer's end of one ring.
#[doc(hidden)]
pub trait Sender<M>: Clone + Send + Sync + 'static {
    /// Appends a message; never waits in the lock-free scheme.
    fn push(&self, message: M) -> Result<(), PushError<M>>;

    /// Appends up to `wanted` messages, each written by `write` where it stays; returns how many. See [`Ring::push_with`].
    fn push_with(
        &self,
        wanted: usize,
        write: impl for<'p> FnMut(usize, Place<'p, M>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>>;

    /// Appends up to `wanted` messages that `write` makes of `values`, from the front, and removes those from the vector. As [`Sender::push_with`], which it
    /// is for who has them already: they are lent where they lie.
    ///
    /// # Panics
    /// If there are fewer values than `wanted`.
    #[inline(always)]
    fn push_from<V>(
        &self,
        values: &mut Vec<V>,
        wanted: usize,
        mut write: impl for<'p> FnMut(Taken<'_, V>, Place<'p, M>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        let len = values.len();
        assert!(wanted <= len, "{wanted} messages of {len} values");
        // SAFETY: the vector has none while they leave; those that a panic keeps it from taking back are leaked.
        unsafe { values.set_len(0) };
        let first = values.as_mut_ptr();
        let pushed = self.push_with(wanted, |index, place| {
            // SAFETY: below `wanted`.
            let value = unsafe { first.add(index) };
            // SAFETY: a value that is the vector's no more, and that is asked for once.
            write(unsafe { Taken::new(value) }, place)
        });
        let left = len - pushed.as_ref().unwrap_or(&0);
        if left > 0 {
            // SAFETY: no more than there were.
            let rest = unsafe { first.add(len - left) };
            // SAFETY: these were not asked for, and move within the vector's memory.
            unsafe { first.copy_from(rest, left) };
            // SAFETY: so many are at the front now.
            unsafe { values.set_len(left) };
        }
        pushed
    }
}

/// In the schemes whose senders do nothing but that: a sender keeps its ring, which is never published again once it was closed.
impl<M: Send + 'static> Sender<M> for Arc<Ring<M>> {
    #[inline(always)]
    fn push(&self, message: M) -> Result<(), PushError<M>> {
        Ring::push(self, message)
    }

    #[inline(always)]
    fn push_with(
        &self,
        wanted: usize,
        write: impl for<'p> FnMut(usize, Place<'p, M>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        Ring::push_with(self, wanted, write)
    }
}

/// The polling thread's end. Follows the published ring.
#[doc(hidden)]
pub trait Receiver<M>: Send + 'static {
    /// Called at the start of each poll; a scheme that holds a lock across the poll takes it here.
    #[inline]
    fn enter(&mut self) {}

    /// Called at the end of each poll.
    #[inline]
    fn leave(&mut self) {}

    /// Takes up to `max` messages and gives each to `each`, which so runs inside a poll ([`super::inside`]); returns how many. With `now`, the poll's time, it keeps its
    /// [distance](super::distance) from a stream's senders, and may leave messages to the next polls; with `None` it does not.
    fn receive(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize;

    /// The cold path, called between two polls while attention is raised: looks at what is published now.
    fn refresh(&mut self);

    /// Leaves until the next refresh: a receiver that is offline holds nobody up.
    fn offline(&mut self);

    /// Whether the receiver takes part, so that a retirement waits for it.
    fn is_online(&self) -> bool;
}

/// A ring whose receiver has left: its owner is the only consumer.
#[doc(hidden)]
pub trait Quiet<M>: Send + 'static {
    /// Gives every message that was accepted and not received to `each`. False while a producer that claimed a slot has not written
    /// it yet; call again.
    fn drain(&mut self, each: impl FnMut(&mut Run<'_, M>)) -> bool;
}
