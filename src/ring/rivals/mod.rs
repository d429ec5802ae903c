//! The rivals: other ways to publish the same ring, each in its best honest version, to be compared with and never a default.
//!
//! All of them drain at retirement, so that they pass the same tests as [`LockFree`](super::LockFree); what they cannot give is that
//! nobody's preemption reaches the poller.

mod pthread;
pub mod robust_mutex;
pub mod spinlock;
pub mod spinlock_flag;

pub use robust_mutex::RobustMutex;
pub use spinlock::Spinlock;
pub use spinlock_flag::SpinlockFlag;

use super::generation::QuietRing;
use super::inside::InsidePoll;
use super::mpsc::Ring;
use super::place::Taken;
use std::sync::Arc;

/// A ring that was taken out under its lock: nobody can reach it to consume it any more, so it is quiet at once.
fn taken_under_the_lock<T>(ring: Arc<Ring<T>>) -> QuietRing<T> {
    // SAFETY: receivers of the rivals consume only under their lock and only a ring that they find in the protected pointer; the caller
    // took the pointer out under that lock, after their last consumption and for good.
    unsafe { QuietRing::new(ring) }
}

/// Gives `each` the messages that a receiver took out under its lock, which is free again.
#[inline(always)]
fn hand_over<M>(taken: impl Iterator<Item = M>, mut each: impl FnMut(Taken<'_, M>)) {
    let _inside = InsidePoll::enter();
    taken.for_each(|message| Taken::lend(message, &mut each));
}
