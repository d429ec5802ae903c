//! Publication and retirement: arc-swap says *which* ring, a private epoch collector says *when* the reader has left it.
//!
//! Generic over what is published; the ring and its draining are in [`super::lockfree`].
//!
//! # Why a reader that the flag says has left cannot still use the retired value
//! The reader, in its cold path: (R1) `pin` or `repin` reads the global epoch and stores it as its own, (R2) SeqCst fence, (R3) it loads the
//! pointer. The publisher: (P1) swaps the pointer out, (P2) SeqCst fence, (P3) reads the global epoch, E, and defers the flag in it. The flag goes up
//! when the global epoch has become E + 2, and that last advance (a SeqCst fence, then a look at the reader) found the reader either
//! unpinned or in epoch E + 1.
//!
//! - *In E + 1.* R1 had read E + 1. Were R2 before P2 in the order of fences, P3 would have read E + 1 or later. So P2 came before
//!   R2, and R3 saw the swap. What the reader did before comes before R1's Release, which the advance acquired.
//! - *Unpinned.* Either the reader has not been online since, and what it did before comes before the Release of its unpinning; or its R1 was not
//!   seen, so that its R2 comes after the advance's fence, and so after P2, and R3 saw the swap.
//!
//! Without the fence of R2, R3 may be satisfied before R1 is visible: `repin` itself orders nothing after it. loom finds that
//! (`models::publication`). The publisher's side would have its fence from the collector too; P2 makes the argument our own.
//!
//! A reader that does not repin (because it read a stale zero from the attention word, or stalls) stays in its old epoch and holds the retirement up,
//! which is safe.

use super::snapshot::{CachedSnapshot, Snapshot};
use crate::sync::{Arc, AtomicBool, Ordering, Protection, fence, protected};
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use std::fmt;

/// A participant of the private collector that can be moved between threads, one at a time.
struct Participant(LocalHandle);

// SAFETY: `LocalHandle` is not `Send` because copies of it, or guards, could reach its unsynchronised fields from two threads. This one is never cloned, its
// guards live beside it in the same structure (`Reader`) or within one call (`Publisher`), and it uses no thread-local state. Its collector belongs to
// this module, which defers nothing but a flag in an `Arc`, which is `Send`.
unsafe impl Send for Participant {}

/// A guard of the participant beside it.
struct Pinned(Guard);

// SAFETY: moves only together with its `Participant`, see there.
unsafe impl Send for Pinned {}

/// The publishing end: one, owned by whoever serialises control operations.
pub(super) struct Publisher<T> {
    snapshot: Snapshot<T>,
    /// What is published; the publisher's own copy, which needs no look at the shared pointer.
    published: Option<Arc<T>>,
    participant: Participant,
    collector: Collector,
}

/// The reading end: one, owned by the polling thread. May be moved to another thread between polls.
pub(super) struct Reader<T> {
    snapshot: Snapshot<T>,
    /// `Some` while online: it keeps its value alive.
    cached: Option<CachedSnapshot<T>>,
    /// What the hot path uses; kept equal to the cache, which it spares a second indirection.
    current: Option<Arc<T>>,
    /// `Some` while online. Declared before the participant: a guard is dropped before its handle.
    pinned: Option<Pinned>,
    participant: Participant,
}

/// A value that was published and is no more; to be retired.
#[must_use = "nobody may use the value before it was retired and the reader has left it"]
pub(super) struct Unpublished<T>(Arc<T>);

/// A value that was published and is no more; `has_left` says when the reader is out of it.
pub(super) struct Retired<T> {
    value: Arc<T>,
    left: Arc<AtomicBool>,
}

/// A publisher and its one reader, with nothing published. The reader is offline.
pub(super) fn published<T: Send + Sync + 'static>() -> (Publisher<T>, Reader<T>) {
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
    pub(super) fn publish(&mut self, value: Arc<T>) {
        self.published = Some(Arc::clone(&value));
        let old = self.snapshot.swap(Some(value));
        debug_assert!(old.is_none(), "a value is retired before the next one is published");
    }

    /// Unpublishes the value, if there is one, once `close` has closed it. The caller then raises [`super::Attention::RETIRING`], so that the reader
    /// looks for what [`Publisher::retire`] does next.
    pub(super) fn unpublish_closing(&mut self, close: impl FnOnce(&T)) -> Option<Unpublished<T>> {
        close(self.published.take()?.as_ref());
        self.snapshot.swap(None).map(Unpublished)
    }

    /// Begins the grace period after which the reader has left the value.
    pub(super) fn retire(&mut self, Unpublished(value): Unpublished<T>) -> Retired<T> {
        // SeqCst: P2 of the module's argument; pairs with the fence in `Reader::refresh`.
        fence(Ordering::SeqCst);
        let left = Arc::new(AtomicBool::new(false));
        let raise = Arc::clone(&left);
        let guard = self.participant.0.pin();
        // Release: pairs with the Acquire in `has_left`: what the reader did before it left is visible to who drains.
        guard.defer(move || raise.store(true, Ordering::Release));
        guard.flush();
        Retired { value, left }
    }

    /// Drives the epoch forward as far as the reader allows. Bounded, and never waits.
    pub(super) fn advance(&mut self) {
        self.participant.0.pin().flush();
    }
}

impl<T: Send + Sync + 'static> Reader<T> {
    /// The value as of the last [`Reader::refresh`]. No atomic access at all.
    #[inline]
    pub(super) fn current(&self) -> Option<&Arc<T>> {
        self.current.as_ref()
    }

    /// The cold path: leaves the old epoch (going online if need be) and looks at what is published now.
    ///
    /// Called between polls only: after it, this thread is out of every value that was retired before.
    #[cold]
    pub(super) fn refresh(&mut self) {
        match &mut self.pinned {
            Some(pinned) => pinned.0.repin(),
            None => self.pinned = Some(Pinned(self.participant.0.pin())),
        }
        if protected(Protection::ReaderFence) {
            // SeqCst: R2 of the module's argument; pairs with the fence in `Publisher::retire` and in the collector's advance.
            fence(Ordering::SeqCst);
        }
        let snapshot = &self.snapshot;
        self.current = self.cached.get_or_insert_with(|| snapshot.cached()).load();
    }

    /// Leaves, and lets go of the value, until the next [`Reader::refresh`]: a reader that is offline holds nobody up.
    pub(super) fn offline(&mut self) {
        self.current = None;
        self.cached = None;
        // Unpinning stores with Release, which the collector's advance acquires: our last use comes before "left".
        self.pinned = None;
    }

    /// Whether the reader takes part in grace periods.
    pub(super) fn is_online(&self) -> bool {
        self.pinned.is_some()
    }
}

impl<T> Retired<T> {
    /// Whether the reader has left the value for good. Driven by [`Publisher::advance`].
    pub(super) fn has_left(&self) -> bool {
        // Acquire: pairs with the Release of the deferred store in `Publisher::retire`.
        !protected(Protection::GracePeriod) || self.left.load(Ordering::Acquire)
    }

    /// The value.
    pub(super) fn value(&self) -> &Arc<T> {
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
