//! A poller that sleeps: it says so, looks once more, and is woken by messages and raised attention.
//!
//! Only controllers with interrupts have one; the others' senders pay nothing for it. While nobody sleeps, a wake-up costs its giver a fence and a load.
//!
//! # Why no wake-up is lost
//! Poller: (S1) says that it sleeps, (S2) SeqCst fence, (S3) polls once more, and sleeps on a descriptor if there was nothing. Sender: (W1) pushes, or
//! raises attention, (W2) SeqCst fence, (W3) looks whether the poller sleeps, and signals the descriptor. Either W3 sees S1, or S3 sees W1. A
//! signal between S3 and the sleep stays in the descriptor.

use crate::sync::{AtomicBool, Ordering, Protection, WakeEvent, fence, protected};
use crossbeam_utils::CachePadded;

/// The sleep of one controller's poller.
#[derive(Debug)]
pub(crate) struct Sleeper {
    is_asleep: CachePadded<AtomicBool>,
    event: WakeEvent,
}

impl Sleeper {
    /// A sleeper that is awake. Fails when there is no descriptor to be had.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { is_asleep: CachePadded::new(AtomicBool::new(false)), event: WakeEvent::new()? })
    }

    /// Says that the poller is about to sleep. It then polls once more.
    pub(crate) fn falls_asleep(&self) {
        // Relaxed: S1; ordered by the fence.
        self.is_asleep.store(true, Ordering::Relaxed);
        if protected(Protection::AsleepFence) {
            // SeqCst: S2; pairs with the fence in `wake`.
            fence(Ordering::SeqCst);
        }
    }

    /// Says that the poller is awake, and forgets wake-ups: a poll follows.
    pub(crate) fn wakes_up(&self) {
        // Relaxed: a wake-up that is given for nothing costs a system call, no more.
        self.is_asleep.store(false, Ordering::Relaxed);
        self.event.clear();
    }

    /// Wakes the poller if it sleeps; called after what it is to see.
    #[inline]
    pub(crate) fn wake(&self) {
        if protected(Protection::WakeFence) {
            // SeqCst: W2; pairs with the fence in `falls_asleep`.
            fence(Ordering::SeqCst);
        }
        // Relaxed: W3; ordered by the fence.
        if self.is_asleep.load(Ordering::Relaxed) {
            self.event.signal();
        }
    }

    /// What to sleep on.
    pub(crate) fn event(&self) -> &WakeEvent {
        &self.event
    }
}
