//! The poller's seat: whoever polls sits in it, and leaves the core there when going.
//!
//! ```text
//!  Deposited ── Poller::new ─▶ Offline ── first poll ─▶ Online ── drop (by panic too), or a detach seen ─▶ Deposited
//! ```
//! *Deposited*: receiver and core lie here, and a detacher may take them and stop the device itself. *Online*: the poller holds an epoch guard,
//! and a retirement waits for it. *Offline*: it holds none and nobody waits for it.
#![forbid(unsafe_code)]

use super::core::Core;
use super::message::Envelope;
use crate::ring::Scheme;
use crate::ring::scheme::Channel;
use arc_swap::ArcSwapOption;
use crossbeam_utils::CachePadded;
use crossbeam_utils::atomic::AtomicCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type ReceiverOf<S> = <<S as Scheme>::Channel<Envelope> as Channel<Envelope>>::Receiver;

/// What sits in the seat: everything that only one thread at a time may touch.
pub(crate) struct Seated<S: Scheme> {
    pub(crate) receiver: ReceiverOf<S>,
    pub(crate) core: Core,
}

/// See the module. Taking and depositing are single atomic swaps, so a poller that leaves never waits.
pub(crate) struct Seat<S: Scheme>(AtomicCell<Option<Box<Seated<S>>>>);

impl<S: Scheme> Seat<S> {
    pub(crate) fn deposited(seated: Seated<S>) -> Self {
        const { assert!(AtomicCell::<Option<Box<Seated<S>>>>::is_lock_free()) };
        Self(AtomicCell::new(Some(Box::new(seated))))
    }

    /// Takes what is deposited, if nobody else has.
    pub(crate) fn take(&self) -> Option<Box<Seated<S>>> {
        self.0.take()
    }

    pub(crate) fn deposit(&self, seated: Box<Seated<S>>) {
        let old = self.0.swap(Some(seated));
        debug_assert!(old.is_none(), "there is one core");
    }
}

/// Who polls, and when that one last did: crossbeam cannot say who is pinned.
#[derive(Debug)]
pub(crate) struct ReaderRecord {
    name: ArcSwapOption<String>,
    /// Nanoseconds since the hub's epoch; written by the poller now and then, its own cache line.
    last_poll_ns: CachePadded<AtomicU64>,
}

impl Default for ReaderRecord {
    fn default() -> Self {
        Self { name: ArcSwapOption::empty(), last_poll_ns: CachePadded::new(AtomicU64::new(0)) }
    }
}

impl ReaderRecord {
    pub(crate) fn sit_down(&self, name: &str) {
        self.name.store(Some(Arc::new(name.to_owned())));
    }

    pub(crate) fn get_up(&self) {
        self.name.store(None);
    }

    pub(crate) fn polled(&self, since_epoch: Duration) {
        // Relaxed: an observation for error messages. The product fits 64 bits for 584 years.
        self.last_poll_ns.store(
            since_epoch.as_secs() * 1_000_000_000 + u64::from(since_epoch.subsec_nanos()),
            Ordering::Relaxed,
        );
    }

    /// Who sits there, and how long ago it polled.
    pub(crate) fn stalled(&self, epoch: Instant) -> Stalled {
        // Relaxed: as above.
        let last = Duration::from_nanos(self.last_poll_ns.load(Ordering::Relaxed));
        Stalled {
            poller: self.name.load_full().map(|name| (*name).clone()),
            last_poll_ago: (!last.is_zero()).then(|| epoch.elapsed().saturating_sub(last)),
        }
    }
}

/// An observation: who holds a detach or an unregistration up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The poller's name, or `None` when nobody polls.
    pub poller: Option<String>,
    /// When it last polled, to about a millisecond, or `None` when it never has.
    pub last_poll_ago: Option<Duration>,
}

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.poller, self.last_poll_ago) {
            (Some(name), Some(ago)) => write!(f, "poller '{name}' last polled {} ms ago", ago.as_millis()),
            (Some(name), None) => write!(f, "poller '{name}' has never polled"),
            (None, _) => write!(f, "nobody polls; a producer may be in the middle of a send"),
        }
    }
}
