//! Rival: the spinlock that is taken only when a flag says that something is pending. As cheap as a load while idle; whoever is preempted
//! inside the lock still stops the poller.

use super::super::attention::Attention;
use super::super::distance::Distance;
use super::super::generation::QuietRing;
use super::super::mpsc::{PushError, Ring};
use super::super::place::{Filled, Place, Taken};
use super::super::scheme::{BATCH, Channel, Gate, HeldOf, Receiver, Scheme, Sender};
use super::{hand_over, taken_under_the_lock};
use crossbeam_utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Publication under a spinlock that a poll takes when the pending flag is set.
#[derive(Clone, Copy, Debug)]
pub struct SpinlockFlag;

impl super::super::Sealed for SpinlockFlag {}

impl Scheme for SpinlockFlag {
    const NAME: &'static str = "spinlock-flag";
    type Channel<M: Send + 'static> = SpinlockFlagChannel<M>;
}

#[derive(Debug)]
struct Shared<M> {
    pending: CachePadded<AtomicBool>,
    published: CachePadded<spin::Mutex<Option<Arc<Ring<M>>>>>,
}

/// The control end.
#[derive(Debug)]
pub struct SpinlockFlagChannel<M>(Arc<Shared<M>>);

/// The polling thread's end.
#[derive(Debug)]
pub struct SpinlockFlagReceiver<M> {
    shared: Arc<Shared<M>>,
    distance: Distance,
    /// What was taken out under the lock and waits to run; empty between calls, never grows.
    batch: Vec<M>,
}

/// A producer's end.
#[derive(Debug)]
pub struct SpinlockFlagSender<M> {
    ring: Arc<Ring<M>>,
    shared: Arc<Shared<M>>,
}

/// The lock, as register and unregister hold it.
#[derive(Debug)]
pub struct SpinlockFlagGate<M>(Arc<Shared<M>>);

impl<M> Clone for SpinlockFlagGate<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send + 'static> Gate for SpinlockFlagGate<M> {
    type Held<'a> = spin::MutexGuard<'a, Option<Arc<Ring<M>>>>;

    fn enter(&self) -> Self::Held<'_> {
        self.0.published.lock()
    }
}

impl<M: Send + 'static> Channel<M> for SpinlockFlagChannel<M> {
    type Sender = SpinlockFlagSender<M>;
    type Receiver = SpinlockFlagReceiver<M>;
    type Retiring = QuietRing<M>;
    type Quiet = QuietRing<M>;
    type Gate = SpinlockFlagGate<M>;
    type Prepared = Arc<Ring<M>>;

    fn new(_attention: &Arc<Attention>) -> (Self, Self::Receiver) {
        let shared = Arc::new(Shared {
            pending: CachePadded::new(AtomicBool::new(false)),
            published: CachePadded::new(spin::Mutex::new(None)),
        });
        let receiver = SpinlockFlagReceiver {
            shared: Arc::clone(&shared),
            distance: Distance::default(),
            batch: Vec::with_capacity(BATCH),
        };
        (Self(shared), receiver)
    }

    fn gate(&self) -> SpinlockFlagGate<M> {
        SpinlockFlagGate(Arc::clone(&self.0))
    }

    fn prepare(capacity: usize) -> Arc<Ring<M>> {
        Arc::new(Ring::new(capacity))
    }

    fn publish_held(&mut self, held: &mut HeldOf<'_, Self, M>, ring: Arc<Ring<M>>) -> Self::Sender {
        **held = Some(Arc::clone(&ring));
        SpinlockFlagSender { ring, shared: Arc::clone(&self.0) }
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

impl<M: Send + 'static> SpinlockFlagReceiver<M> {
    fn receive_pending(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        let Self { shared, distance, batch } = self;
        let published = shared.published.lock();
        // A swap, not a store: it reads the newest flag, so a sender whose flag it takes down has its message seen below (Acquire, pairs
        // with the Release in `push`), and a later one raises the flag again.
        shared.pending.swap(false, Ordering::AcqRel);
        let (taken, is_more) = match &*published {
            Some(ring) => {
                // SAFETY: found in the pointer, under the lock that all consumers of this scheme hold.
                let taken =
                    unsafe { ring.consume_batch(max, distance, now, |message| batch.push(message.take())) };
                // There may be, or there are, which it keeps its distance from.
                (taken, taken == max.min(BATCH) || (taken == 0 && ring.has_message()))
            }
            None => (0, false),
        };
        drop(published);
        if is_more {
            // Release: pairs with the swap above.
            shared.pending.store(true, Ordering::Release);
        }
        hand_over(batch.drain(..), each);
        taken
    }
}

impl<M: Send + 'static> Receiver<M> for SpinlockFlagReceiver<M> {
    #[inline(always)]
    fn receive(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        // Relaxed: a hint; the lock orders what follows.
        if self.shared.pending.load(Ordering::Relaxed) { self.receive_pending(max, now, each) } else { 0 }
    }

    fn refresh(&mut self) {}

    fn offline(&mut self) {}

    fn is_online(&self) -> bool {
        false
    }
}

impl<M: Send + 'static> Sender<M> for SpinlockFlagSender<M> {
    #[inline(always)]
    fn push(&self, message: M) -> Result<(), PushError<M>> {
        self.ring.push(message)?;
        // Release: pairs with the swap in `receive_pending`; after the message.
        self.shared.pending.store(true, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn push_with(
        &self,
        wanted: usize,
        write: impl for<'p> FnMut(usize, Place<'p, M>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        let count = self.ring.push_with(wanted, write)?;
        // Release: as in `push`.
        self.shared.pending.store(true, Ordering::Release);
        Ok(count)
    }
}

impl<M> Clone for SpinlockFlagSender<M> {
    fn clone(&self) -> Self {
        Self { ring: Arc::clone(&self.ring), shared: Arc::clone(&self.shared) }
    }
}
