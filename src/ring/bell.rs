//! The bell: wakes threads that sleep until an outcome arrives, without a system call when nobody sleeps.
//!
//! An eventcount. The poller rings it at most once per pass, and only after a pass that delivered something; foreign wakers are called by a
//! helper thread that sleeps on the same bell, never by the poller.
//!
//! # Why no wake-up is lost
//! Sleeper: (S1) counts itself, (S2) SeqCst fence, (S3) looks for its outcome, sleeps if there is none. Ringer: (R1) outcome
//! delivered, (R2) SeqCst fence, (R3) reads the count. Either R3 sees the sleeper, or S3 sees the outcome. A ring
//! between S3 and the sleep changes `rung`, and the futex refuses to sleep on an old value.

use crate::sync::{AtomicU32, Futex, Ordering, Protection, fence, protected};
use std::time::Instant;

/// Threads that wait for outcomes of one controller sleep here.
#[derive(Debug)]
pub(crate) struct Bell {
    /// How often it was rung; what sleepers sleep on.
    rung: Futex,
    /// How many threads are about to sleep, or asleep.
    sleepers: AtomicU32,
}

impl Bell {
    /// A bell with nobody asleep.
    pub(crate) fn new() -> Self {
        Self { rung: Futex::default(), sleepers: AtomicU32::new(0) }
    }

    /// Wakes all sleepers, who look whether it was for them. Costs a fence and a load while nobody sleeps. Never waits.
    pub(crate) fn ring(&self) {
        if protected(Protection::BellFence) {
            // SeqCst: R2; pairs with the fence in `sleep_until`.
            fence(Ordering::SeqCst);
        }
        // Relaxed: R3; ordered by the fence.
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if protected(Protection::BellCount) {
            // Release: pairs with the Acquire in `sleep_until`; who sees the new count sees what was delivered before.
            self.rung.word.fetch_add(1, Ordering::Release);
        }
        self.rung.wake_all();
    }

    /// Sleeps until `ready` says so (true) or `deadline` has passed (false; `None` is for ever).
    pub(crate) fn sleep_until(&self, deadline: Option<Instant>, mut ready: impl FnMut() -> bool) -> bool {
        // Relaxed: S1; ordered by the fence.
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        if protected(Protection::SleeperFence) {
            // SeqCst: S2; pairs with the fence in `ring`.
            fence(Ordering::SeqCst);
        }
        let is_ready = loop {
            // Acquire: pairs with the Release in `wake`.
            let rung = self.rung.word.load(Ordering::Acquire);
            if ready() {
                break true;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break false;
            }
            self.rung.wait(rung, left);
        };
        // Relaxed: a count that is too high for a moment costs a system call, no more.
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        is_ready
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}
