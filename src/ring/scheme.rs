//! What a publication scheme is: the seam behind which [`LockFree`](super::LockFree) and its rivals stand, statically dispatched.
//!
//! All schemes run in the same poll loop, use the same [`Ring`](super::mpsc::Ring) and drain at retirement, so that a comparison
//! compares publication and nothing else.

use super::attention::Attention;
use super::mpsc::PushError;
use crate::sync::Arc;
use std::fmt;

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

    /// A channel with no ring, and its receiver, offline.
    fn new(attention: &Arc<Attention>) -> (Self, Self::Receiver);

    /// Publishes a new ring of `capacity` slots (a power of two). None may be published.
    fn publish(&mut self, capacity: usize) -> Self::Sender;

    /// Closes the published ring and unpublishes it. Never waits.
    fn retire(&mut self) -> Option<Self::Retiring>;

    /// The quiet ring once the receiver has left it; otherwise, having driven that on, the same again. Never waits.
    fn settle(&mut self, retiring: Self::Retiring) -> Result<Self::Quiet, Self::Retiring>;
}

/// A producer's end of one ring.
#[doc(hidden)]
pub trait Sender<M>: Clone + Send + Sync + 'static {
    /// Appends a message; never waits in the lock-free scheme.
    fn push(&self, message: M) -> Result<(), PushError<M>>;

    /// Appends messages from the front of the vector while there is room; returns how many it took.
    fn push_batch(&self, messages: &mut Vec<M>) -> Result<usize, PushError<()>>;
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

    /// Takes up to `max` messages and gives each to `each`; returns how many.
    fn receive(&mut self, max: usize, each: impl FnMut(M)) -> usize;

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
    fn drain(&mut self, each: impl FnMut(M)) -> bool;
}
