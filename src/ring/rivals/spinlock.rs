//! Rival: the spinlock. Held around the poller's check and dequeue, and around register and unregister: the fix of SPDK #3353 in its
//! fastest form. Rings are allocated and drained, messages run, and senders send, outside it.

use super::super::attention::Attention;
use super::super::distance::Distance;
use super::super::generation::QuietRing;
use super::super::mpsc::Ring;
use super::super::place::Taken;
use super::super::scheme::{BATCH, Channel, Gate, HeldOf, Receiver, Scheme};
use super::{hand_over, taken_under_the_lock};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::time::Instant;

/// Publication under a spinlock that every poll takes.
#[derive(Clone, Copy, Debug)]
pub struct Spinlock;

impl super::super::Sealed for Spinlock {}

impl Scheme for Spinlock {
    const NAME: &'static str = "spinlock";
    type Channel<M: Send + 'static> = SpinlockChannel<M>;
}

type Locked<M> = Arc<CachePadded<spin::Mutex<Option<Arc<Ring<M>>>>>>;

/// The control end.
#[derive(Debug)]
pub struct SpinlockChannel<M>(Locked<M>);

/// The polling thread's end.
#[derive(Debug)]
pub struct SpinlockReceiver<M> {
    published: Locked<M>,
    distance: Distance,
    /// What was taken out under the lock and waits to run; empty between calls, never grows.
    batch: Vec<M>,
}

/// The lock, as register and unregister hold it.
#[derive(Debug)]
pub struct SpinlockGate<M>(Locked<M>);

impl<M> Clone for SpinlockGate<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send + 'static> Gate for SpinlockGate<M> {
    type Held<'a> = spin::MutexGuard<'a, Option<Arc<Ring<M>>>>;

    fn enter(&self) -> Self::Held<'_> {
        self.0.lock()
    }
}

impl<M: Send + 'static> Channel<M> for SpinlockChannel<M> {
    type Sender = Arc<Ring<M>>;
    type Receiver = SpinlockReceiver<M>;
    type Retiring = QuietRing<M>;
    type Quiet = QuietRing<M>;
    type Gate = SpinlockGate<M>;
    type Prepared = Arc<Ring<M>>;

    fn new(_attention: &Arc<Attention>) -> (Self, Self::Receiver) {
        let published = Arc::new(CachePadded::new(spin::Mutex::new(None)));
        let receiver = SpinlockReceiver {
            published: Arc::clone(&published),
            distance: Distance::default(),
            batch: Vec::with_capacity(BATCH),
        };
        (Self(published), receiver)
    }

    fn gate(&self) -> SpinlockGate<M> {
        SpinlockGate(Arc::clone(&self.0))
    }

    fn prepare(capacity: usize) -> Arc<Ring<M>> {
        Arc::new(Ring::new(capacity))
    }

    fn publish_held(&mut self, held: &mut HeldOf<'_, Self, M>, ring: Arc<Ring<M>>) -> Self::Sender {
        **held = Some(Arc::clone(&ring));
        ring
    }

    fn retire_held(&mut self, held: &mut HeldOf<'_, Self, M>) -> Option<Self::Retiring> {
        let ring = held.take()?;
        ring.close();
        Some(taken_under_the_lock(ring))
    }

    fn settle(&mut self, retiring: Self::Retiring) -> Result<Self::Quiet, Self::Retiring> {
        Ok(retiring)
    }
}

impl<M: Send + 'static> Receiver<M> for SpinlockReceiver<M> {
    #[inline(always)]
    fn receive(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        let Self { published, distance, batch } = self;
        let published = published.lock();
        let taken = match &*published {
            // SAFETY: found in the pointer, under the lock that all consumers of this scheme hold.
            Some(ring) if ring.has_message() => unsafe {
                ring.consume_batch(max, distance, now, |message| batch.push(message.take()))
            },
            _ => 0,
        };
        drop(published);
        if taken != 0 {
            hand_over(batch.drain(..), each);
        }
        taken
    }

    fn refresh(&mut self) {}

    fn offline(&mut self) {}

    fn is_online(&self) -> bool {
        false
    }
}
