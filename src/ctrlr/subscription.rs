//! Subscriptions to the controller's asynchronous events: every subscriber gets every event, in bounded memory, and the poller waits for none of them.
//!
//! An inbox holds each kind of event once, with how often it came since it was last read. So nothing is lost to a subscriber that is slow, or in a
//! flood; what is lost is the order of different kinds.
#![forbid(unsafe_code)]

use super::hub::Hub;
use crate::ring::Waiters;
use crate::spec::feature::AsyncEvent;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Kinds of events that one inbox tells apart; the standard has fewer. Those beyond are counted together, in the last place.
const KINDS: usize = 64;
/// The kind of those: vendor specific, with all ones for what it is about.
const OTHERS: u32 = 0x00ff_ff07;

/// An asynchronous event, and how often it came since it was last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventReport {
    /// What the controller said (NVMe Base 2.0, 5.2.1).
    pub event: AsyncEvent,
    /// How often, 1 or more.
    pub count: u32,
}

/// One subscriber's events. Any thread may use it; dropping it ends the subscription.
pub struct Subscription {
    inbox: Arc<Inbox>,
    waiters: Arc<Waiters>,
}

/// A kind of event in the upper half of each word, how often it came in the lower; 0 is free. Written by whoever owns the core, taken by the subscriber.
pub(crate) struct Inbox(pub(super) [AtomicU64; KINDS]);

impl Inbox {
    fn put(&self, kind: u32) {
        // Relaxed loads: only this side makes a word anything but 0; and the update below looks again.
        let words = self.0.iter();
        let mut free = None;
        let mut place = None;
        for (index, word) in words.enumerate().take(KINDS - 1) {
            let word = word.load(Ordering::Relaxed);
            if word == 0 {
                free = free.or(Some(index));
            } else if (word >> 32) as u32 == kind {
                place = Some(index);
            }
        }
        let (place, kind) = place.or(free).map_or((KINDS - 1, OTHERS), |index| (index, kind));
        let first = u64::from(kind) << 32 | 1;
        let add = |word: u64| match word {
            0 => Some(first),
            full if full as u32 == u32::MAX => None,
            word => Some(word + 1),
        };
        // Release: pairs with the Acquire in `take`: what the event led to (a list of namespaces read anew) is seen by who reads it.
        let _ = self.0[place].fetch_update(Ordering::Release, Ordering::Relaxed, add);
    }

    fn take(&self) -> Option<EventReport> {
        // Acquire: pairs with the Release in `put`.
        let word = self.0.iter().find_map(|word| {
            let is_empty = word.load(Ordering::Relaxed) == 0;
            Some(if is_empty { 0 } else { word.swap(0, Ordering::Acquire) }).filter(|word| *word != 0)
        })?;
        Some(EventReport { event: AsyncEvent::from_bits((word >> 32) as u32), count: word as u32 })
    }

    fn is_empty(&self) -> bool {
        // Relaxed: who takes looks again.
        self.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }
}

impl Subscription {
    /// The next kind of event that came, and how often. Never waits.
    pub fn next(&self) -> Option<EventReport> {
        self.inbox.take()
    }

    /// The next one, waiting at most for `timeout`. Inside a message or completion on the polling thread it does not wait.
    pub fn wait(&self, timeout: Duration) -> Option<EventReport> {
        if self.inbox.is_empty() && !crate::ring::inside::is_inside_poll() {
            let deadline = Instant::now().checked_add(timeout);
            self.waiters.bell().sleep_until(deadline, || !self.inbox.is_empty());
        }
        self.next()
    }
}

impl Hub {
    /// Adds a subscriber. Those that are gone make room.
    pub(super) fn subscribe(&self) -> Subscription {
        let inbox = Arc::new(Inbox([const { AtomicU64::new(0) }; KINDS]));
        self.subscribers.rcu(|subscribers| {
            let alive = subscribers.iter().filter(|inbox| inbox.strong_count() > 0).cloned();
            alive.chain([Arc::downgrade(&inbox)]).collect::<Vec<Weak<Inbox>>>()
        });
        Subscription { inbox, waiters: Arc::clone(&self.waiters) }
    }

    /// Gives an event to every subscriber. Whoever calls this rings the bell later.
    pub(super) fn announce(&self, event: AsyncEvent) {
        for inbox in self.subscribers.load().iter().filter_map(Weak::upgrade) {
            inbox.put(event.into_bits());
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("empty", &self.inbox.is_empty()).finish_non_exhaustive()
    }
}
