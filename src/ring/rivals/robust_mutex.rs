//! Rival: SPDK as it is today. The recursive robust mutex is held across the whole admin poll, messages included; a sender takes a second mutex and
//! allocates each message.

use super::super::attention::Attention;
use super::super::distance::Distance;
use super::super::generation::QuietRing;
use super::super::mpsc::{PushError, Ring};
use super::super::place::{Filled, Place, Taken};
use super::super::scheme::{BATCH, Channel, Gate, HeldOf, Quiet, Receiver, Scheme, Sender};
use super::super::slot::Run;
use super::pthread::{RobustHeld, RobustLock};
use super::{hand_over, taken_under_the_lock};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Publication under the robust recursive mutex that every admin poll holds.
#[derive(Clone, Copy, Debug)]
pub struct RobustMutex;

impl super::super::Sealed for RobustMutex {}

impl Scheme for RobustMutex {
    const NAME: &'static str = "robust-mutex";
    type Channel<M: Send + 'static> = RobustMutexChannel<M>;
}

type Locked<M> = Arc<RobustLock<Option<Arc<Ring<Box<M>>>>>>;

/// The control end.
#[derive(Debug)]
pub struct RobustMutexChannel<M>(Locked<M>);

/// The polling thread's end.
#[derive(Debug)]
pub struct RobustMutexReceiver<M> {
    published: Locked<M>,
    distance: Distance,
    /// What was taken out and waits to run; empty between calls, never grows.
    batch: Vec<Box<M>>,
}

/// A producer's end. The mutex is the senders' own, as `external_io_msgs_lock`.
#[derive(Debug)]
pub struct RobustMutexSender<M> {
    ring: Arc<Ring<Box<M>>>,
    senders: Arc<Mutex<()>>,
}

/// The quiet ring, whose messages are boxed.
#[derive(Debug)]
pub struct BoxedQuiet<M>(QuietRing<Box<M>>);

/// The mutex, as register and unregister hold it.
#[derive(Debug)]
pub struct RobustMutexGate<M>(Locked<M>);

impl<M> Clone for RobustMutexGate<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Send + 'static> Gate for RobustMutexGate<M> {
    type Held<'a> = RobustHeld<'a, Option<Arc<Ring<Box<M>>>>>;

    fn enter(&self) -> Self::Held<'_> {
        self.0.hold()
    }
}

impl<M: Send + 'static> Channel<M> for RobustMutexChannel<M> {
    type Sender = RobustMutexSender<M>;
    type Receiver = RobustMutexReceiver<M>;
    type Retiring = BoxedQuiet<M>;
    type Quiet = BoxedQuiet<M>;
    type Gate = RobustMutexGate<M>;
    type Prepared = Arc<Ring<Box<M>>>;

    fn new(_attention: &Arc<Attention>) -> (Self, Self::Receiver) {
        let published = Arc::new(RobustLock::new(None));
        let receiver = RobustMutexReceiver {
            published: Arc::clone(&published),
            distance: Distance::default(),
            batch: Vec::with_capacity(BATCH),
        };
        (Self(published), receiver)
    }

    fn gate(&self) -> RobustMutexGate<M> {
        RobustMutexGate(Arc::clone(&self.0))
    }

    fn prepare(capacity: usize) -> Self::Prepared {
        Arc::new(Ring::new(capacity))
    }

    fn publish_held(&mut self, _held: &mut HeldOf<'_, Self, M>, ring: Self::Prepared) -> Self::Sender {
        let published = Arc::clone(&ring);
        self.0.with(|current| *current = Some(published));
        RobustMutexSender { ring, senders: Arc::default() }
    }

    fn retire_held(&mut self, _held: &mut HeldOf<'_, Self, M>) -> Option<Self::Retiring> {
        let ring = self.0.with(Option::take)?;
        ring.close();
        Some(BoxedQuiet(taken_under_the_lock(ring)))
    }

    fn settle(&mut self, retiring: Self::Retiring) -> Result<Self::Quiet, Self::Retiring> {
        Ok(retiring)
    }
}

impl<M: Send + 'static> Quiet<M> for BoxedQuiet<M> {
    fn drain(&mut self, mut each: impl FnMut(&mut Run<'_, M>)) -> bool {
        self.0.drain(|run| run.for_each(|message| Run::lend(*message.take(), &mut each)))
    }
}

impl<M: Send + 'static> Receiver<M> for RobustMutexReceiver<M> {
    #[inline]
    fn enter(&mut self) {
        self.published.lock();
    }

    #[inline]
    fn leave(&mut self) {
        self.published.unlock();
    }

    #[inline(always)]
    fn receive(&mut self, max: usize, now: Option<Instant>, each: impl FnMut(Taken<'_, M>)) -> usize {
        let Self { published, distance, batch } = self;
        // A second, recursive lock, as SPDK's own message functions take inside the poll; messages run after it, inside `enter`.
        let taken = published.with(|published| match published {
            // SAFETY: found in the pointer, under the lock that all consumers of this scheme hold.
            Some(ring) if ring.has_message() => unsafe {
                ring.consume_batch(max, distance, now, |message| batch.push(message.take()))
            },
            _ => 0,
        });
        if taken != 0 {
            hand_over(batch.drain(..).map(|message| *message), each);
        }
        taken
    }

    fn refresh(&mut self) {}

    fn offline(&mut self) {}

    fn is_online(&self) -> bool {
        false
    }
}

impl<M: Send + 'static> Sender<M> for RobustMutexSender<M> {
    #[inline]
    fn push(&self, message: M) -> Result<(), PushError<M>> {
        let message = Box::new(message);
        let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = self.ring.push(message);
        drop(senders);
        pushed.map_err(|error| match error {
            PushError::Full(message) => PushError::Full(*message),
            PushError::Closed(message) => PushError::Closed(*message),
        })
    }

    fn push_with(
        &self,
        wanted: usize,
        mut write: impl for<'p> FnMut(usize, Place<'p, M>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        // SPDK has no batches; neither has its likeness.
        for count in 0..wanted {
            let senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
            let pushed = self.ring.push_with(1, |_, place| {
                let mut message = Box::new_uninit();
                // SAFETY: the box's own memory, for one message.
                write(count, unsafe { Place::new(message.as_mut_ptr()) });
                // SAFETY: `write` has filled it; it can return nothing else.
                place.fill(unsafe { message.assume_init() })
            });
            drop(senders);
            if let Err(error) = pushed {
                return if count == 0 { Err(error) } else { Ok(count) };
            }
        }
        Ok(wanted)
    }
}

impl<M> Clone for RobustMutexSender<M> {
    fn clone(&self) -> Self {
        Self { ring: Arc::clone(&self.ring), senders: Arc::clone(&self.senders) }
    }
}
