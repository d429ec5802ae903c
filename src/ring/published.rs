//! Publication and retirement: arc-swap says *which* ring, a private epoch collector says *when* the reader has left it.
//!
//! Generic over what is published; the ring and its draining are in [`super::lockfree`].
//!
//! # Why a reader that has repinned cannot still use a retired value
//! The reader, in its cold path: (R1) `repin` stores the global epoch as its own, (R2) SeqCst fence, (R3) it loads the
//! pointer. The publisher: (P1) swaps the pointer out, (P2) SeqCst fence, (P3) reads the reader's epoch to advance the global one.
//! The fences are totally ordered. If P2 comes before R2, R3 sees the swap: the reader has left. If R2 comes
//! first, P3 sees the epoch of R1 or a later one; the value was swapped out in an epoch at least as new as that, and the flag deferred at that point is
//! raised only two advances later, each of which needs the reader to repin again, and so to pass R2 after P2. Without the fence of R2, R3
//! may be satisfied before R1 is visible; `repin` itself orders nothing after it. loom finds that
//! (`models::publication_without_the_reader_fence`).
//!
//! A reader that does not repin (because it read a stale zero from the attention word, or stalls) stays in its old epoch and holds the retirement up,
//! which is safe.

use super::snapshot::{CachedSnapshot, Snapshot};
use crate::sync::{Arc, AtomicBool, Ordering, Protection, fence, protected};
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use std::fmt;

/// A participant of the private collector that can be moved between threads, one at a time.
struct Participant(LocalHandle);

// SAFETY: `LocalHandle` is not `Send` because two threads could reach its unsynchronised fields through copies of the handle or through guards
// of it. Here neither exists elsewhere: the handle is registered with a collector that this module owns, is never cloned, and its
// guards live beside it in the same structure (`Reader`) or within one call (`Publisher`). It uses no thread-local state. What it defers is
// a flag in an `Arc`, which is `Send`.
unsafe impl Send for Participant {}

/// A guard of the participant beside it.
struct Pinned(Guard);

// SAFETY: moves only together with its `Participant`, see there.
unsafe impl Send for Pinned {}

/// The publishing end: one, owned by whoever serialises control operations.
pub struct Publisher<T> {
    snapshot: Snapshot<T>,
    /// What is published; the publisher's own copy, which needs no look at the shared pointer.
    published: Option<Arc<T>>,
    participant: Participant,
    collector: Collector,
}

/// The reading end: one, owned by the polling thread. May be moved to another thread between polls.
pub struct Reader<T> {
    snapshot: Snapshot<T>,
    /// `Some` while online: it keeps its value alive.
    cached: Option<CachedSnapshot<T>>,
    /// What the hot path uses; kept equal to the cache, which it spares a second indirection.
    current: Option<Arc<T>>,
    /// `Some` while online. Declared before the participant: a guard is dropped before its handle.
    pinned: Option<Pinned>,
    participant: Participant,
}

/// A value that was published and is no more; `has_left` says when the reader is out of it.
pub struct Retired<T> {
    value: Arc<T>,
    left: Arc<AtomicBool>,
}

/// A publisher and its one reader, with nothing published. The reader is offline.
pub fn published<T: Send + Sync + 'static>() -> (Publisher<T>, Reader<T>) {
    let snapshot = Snapshot::new();
    let collector = Collector::new();
    let reader = Reader {
        snapshot: snapshot.clone(),
        cached: None,
        current: None,
        pinned: None,
        participant: Participant(collector.register()),
    };
    let participant = Participant(collector.register());
    (Publisher { snapshot, published: None, participant, collector }, reader)
}

impl<T: Send + Sync + 'static> Publisher<T> {
    /// Publishes `value`. The caller then raises [`super::Attention::PUBLISHED`].
    pub fn publish(&mut self, value: Arc<T>) {
        self.published = Some(Arc::clone(&value));
        let old = self.snapshot.swap(Some(value));
        debug_assert!(old.is_none(), "a value is retired before the next one is published");
    }

    /// Unpublishes the value, if there is one, once `close` has closed it. The caller then raises [`super::Attention::RETIRING`].
    pub fn retire_closing(&mut self, close: impl FnOnce(&T)) -> Option<Retired<T>> {
        close(self.published.take()?.as_ref());
        let value = self.snapshot.swap(None)?;
        // SeqCst: P2 of the module's argument; pairs with the fence in `Reader::refresh`.
        fence(Ordering::SeqCst);
        let left = Arc::new(AtomicBool::new(false));
        let raise = Arc::clone(&left);
        let guard = self.participant.0.pin();
        // Release: pairs with the Acquire in `has_left`: what the reader did before it left is visible to who drains.
        guard.defer(move || raise.store(true, Ordering::Release));
        guard.flush();
        Some(Retired { value, left })
    }

    /// Drives the epoch forward as far as the reader allows. Bounded, and never waits.
    pub fn advance(&mut self) {
        self.participant.0.pin().flush();
    }
}

impl<T: Send + Sync + 'static> Reader<T> {
    /// The value as of the last [`Reader::refresh`]. No atomic access at all.
    #[inline(always)]
    pub fn current(&self) -> Option<&Arc<T>> {
        self.current.as_ref()
    }

    /// The cold path: leaves the old epoch (going online if need be) and looks at what is published now.
    ///
    /// Called between polls only: after it, this thread is out of every value that was retired before.
    #[cold]
    pub fn refresh(&mut self) {
        match &mut self.pinned {
            Some(pinned) => pinned.0.repin(),
            None => self.pinned = Some(Pinned(self.participant.0.pin())),
        }
        if protected(Protection::ReaderFence) {
            // SeqCst: R2 of the module's argument; pairs with the fences in `Publisher::retire` and in the collector's advance.
            fence(Ordering::SeqCst);
        }
        let snapshot = &self.snapshot;
        self.current = self.cached.get_or_insert_with(|| snapshot.cached()).load();
    }

    /// Leaves, and lets go of the value, until the next [`Reader::refresh`]: a reader that is offline holds nobody up.
    pub fn offline(&mut self) {
        self.current = None;
        self.cached = None;
        // Unpinning stores with Release, which the collector's advance acquires: our last use comes before "left".
        self.pinned = None;
    }

    /// Whether the reader takes part in grace periods.
    pub fn is_online(&self) -> bool {
        self.pinned.is_some()
    }
}

impl<T> Retired<T> {
    /// Whether the reader has left the value for good. Driven by [`Publisher::advance`].
    pub fn has_left(&self) -> bool {
        // Acquire: pairs with the Release of the deferred store in `Publisher::retire`.
        !protected(Protection::GracePeriod) || self.left.load(Ordering::Acquire)
    }

    /// The value.
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("collector", &self.collector).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("online", &self.pinned.is_some())
            .field("holds_a_value", &self.current.is_some())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Retired<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retired").finish_non_exhaustive()
    }
}
