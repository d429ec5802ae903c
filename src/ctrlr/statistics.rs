//! Statistics that cost nothing when unread: cells with one writer, the polling thread.
#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the one writer only: a load and a store, no read-modify-write.
    #[inline(always)]
    pub(crate) fn add(&self, count: u64) {
        // Relaxed: single writer, and a statistic: nothing is concluded from it about other memory.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: as above.
        self.0.load(Ordering::Relaxed)
    }
}

/// What the polling thread counts.
#[derive(Debug, Default)]
pub(crate) struct Statistics(CachePadded<Cells>);

#[derive(Debug, Default)]
pub(crate) struct Cells {
    pub(crate) messages: Counter,
    pub(crate) completions: Counter,
    pub(crate) events: Counter,
    pub(crate) retries: Counter,
}

impl std::ops::Deref for Statistics {
    type Target = Cells;

    fn deref(&self) -> &Cells {
        &self.0
    }
}

/// A reading of a controller's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtrlrStatistics {
    /// Messages taken from the ring.
    pub messages: u64,
    /// Commands completed on the admin and the external queue pair, the driver's own included.
    pub completions: u64,
    /// Asynchronous events reported by the controller.
    pub events: u64,
    /// Times that a command of these queue pairs was sent again.
    pub retries: u64,
    /// Resets that are over.
    pub resets: u32,
    /// Those of them, with success, that were of the NVM subsystem.
    pub subsystem_resets: u32,
}

impl super::hub::Hub {
    pub(crate) fn read_statistics(&self) -> CtrlrStatistics {
        CtrlrStatistics {
            messages: self.statistics.messages.get(),
            completions: self.statistics.completions.get(),
            events: self.statistics.events.get(),
            retries: self.statistics.retries.get(),
            resets: self.resets_done(),
            subsystem_resets: self.subsystem_resets_done(),
        }
    }
}
