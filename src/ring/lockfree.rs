//! The lock-free scheme, Slipring's own: arc-swap publishes the ring, an epoch retires it, no thread waits for another.

use super::attention::Attention;
use super::distance::Distance;
use super::generation::{ClosedRing, QuietRing};
use super::inside::InsidePoll;
use super::mpsc::{Lookout, Ring};
use super::place::Taken;
use super::published::{Publisher, Reader, published};
use super::scheme::{Channel, NoGate, Receiver, Scheme};
use crate::sync::{Arc, AtomicU64, Protection, protected};
use std::sync::Arc as Shared;
use std::time::Instant;

/// Publication by arc-swap, retirement by epoch. The default.
#[derive(Clone, Copy, Debug)]
pub struct LockFree;

impl super::Sealed for LockFree {}

impl Scheme for LockFree {
    const NAME: &'static str = "lockfree";
    type Channel<M: Send + 'static> = LockFreeChannel<M>;
}

/// The control end.
#[derive(Debug)]
pub struct LockFreeChannel<M> {
    publisher: Publisher<Ring<M>>,
    attention: Arc<Attention>,
    /// How many retirements wait for the reader; RETIRING is raised while it is not zero.
    retiring: usize,
}

/// The polling thread's end.
///
/// Between two refreshes its ring is its own, whatever is published meanwhile: so it may remember where the next message will appear, and an idle
/// poll looks there and nowhere else.
#[derive(Debug)]
pub struct LockFreeReceiver<M> {
    lookout: Lookout,
    distance: Distance,
    reader: Reader<Ring<M>>,
    attention: Arc<Attention>,
    /// Where it looks when there is no ring. Counted, and no box, which claims its word for itself whenever it is moved.
    zero: Shared<AtomicU64>,
}

impl<M: Send + 'static> LockFreeReceiver<M> {
    fn follow(&mut self) {
        self.lookout = match self.reader.current() {
            Some(ring) => ring.lookout(),
            None => Lookout::nowhere(&self.zero),
        };
    }

    #[inline(always)]
    fn consume(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        /// Follows the ring also when `each` panics.
        struct Follow<'r, M: Send + 'static>(&'r mut LockFreeReceiver<M>);
        impl<M: Send + 'static> Drop for Follow<'_, M> {
            fn drop(&mut self) {
                self.0.follow();
            }
        }
        let this = Follow(self);
        let LockFreeReceiver { reader, distance, .. } = &mut *this.0;
        let Some(ring) = reader.current() else { return 0 };
        let _inside = InsidePoll::enter();
        // SAFETY: this receiver is the one reader of its publisher, and `&mut self` keeps its calls apart. A ring comes to it by
        // publication only (each ring once), and goes to a drainer only after the grace period that this reader, having
        // looked away, lets pass: so nobody else consumes it now, and who consumes it later does so after us.
        unsafe { ring.consume_batch(max, distance, now, each) }
    }
}

impl<M: Send + 'static> Channel<M> for LockFreeChannel<M> {
    type Sender = Arc<Ring<M>>;
    type Receiver = LockFreeReceiver<M>;
    type Retiring = ClosedRing<M>;
    type Quiet = QuietRing<M>;
    type Gate = NoGate;
    type Prepared = Arc<Ring<M>>;

    fn new(attention: &Arc<Attention>) -> (Self, Self::Receiver) {
        let (publisher, reader) = published();
        // While the reader is offline the bit is raised, so that its next poll takes the cold path, where it goes online.
        attention.raise(Attention::PUBLISHED);
        let zero = Shared::new(AtomicU64::new(0));
        let lookout = Lookout::nowhere(&zero);
        let receiver = LockFreeReceiver {
            lookout,
            distance: Distance::default(),
            reader,
            attention: Arc::clone(attention),
            zero,
        };
        (Self { publisher, attention: Arc::clone(attention), retiring: 0 }, receiver)
    }

    fn gate(&self) -> NoGate {
        NoGate
    }

    fn prepare(capacity: usize) -> Arc<Ring<M>> {
        Arc::new(Ring::new(capacity))
    }

    fn publish_held(&mut self, (): &mut (), ring: Arc<Ring<M>>) -> Self::Sender {
        self.publisher.publish(Arc::clone(&ring));
        self.attention.raise(Attention::PUBLISHED);
        ring
    }

    fn retire_held(&mut self, (): &mut ()) -> Option<Self::Retiring> {
        let unpublished = self.publisher.unpublish_closing(Ring::close)?;
        self.retiring += 1;
        // The word is on its way to the poller while the grace period is begun, which takes longer.
        self.attention.raise(Attention::RETIRING);
        Some(ClosedRing::new(self.publisher.retire(unpublished)))
    }

    fn settle(&mut self, retiring: Self::Retiring) -> Result<Self::Quiet, Self::Retiring> {
        let quiet = retiring.into_quiet().or_else(|retiring| {
            self.publisher.advance();
            retiring.into_quiet()
        })?;
        self.retiring -= 1;
        if self.retiring == 0 {
            self.attention.lower(Attention::RETIRING);
        }
        Ok(quiet)
    }
}

impl<M: Send + 'static> Receiver<M> for LockFreeReceiver<M> {
    #[inline(always)]
    fn receive(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        // SAFETY: `follow` comes after every change of the reader's ring, which the reader keeps alive.
        if unsafe { self.lookout.has_message() } { self.consume(max, now, each) } else { 0 }
    }

    fn refresh(&mut self) {
        if protected(Protection::LowerFirst) {
            // First lower, then look: a ring that is published meanwhile raises the bit again.
            self.attention.lower(Attention::PUBLISHED);
            self.reader.refresh();
        } else {
            self.reader.refresh();
            self.attention.lower(Attention::PUBLISHED);
        }
        self.follow();
    }

    fn offline(&mut self) {
        self.reader.offline();
        self.follow();
        // To find the published ring again when it comes back.
        self.attention.raise(Attention::PUBLISHED);
    }

    fn is_online(&self) -> bool {
        self.reader.is_online()
    }
}
