//! The attention word: one word, zero unless something has changed or is in progress, that an idle poll reads.
//!
//! What the bits mean to the controller is the controller's business; the two that publication needs are here.

use crate::sync::{AtomicU32, Ordering};
use crossbeam_utils::CachePadded;

/// One word that says to the polling thread: take the cold path, there is something to look at.
///
/// Any thread raises bits. Each bit is lowered by one party only, which its constant names.
#[derive(Debug)]
pub struct Attention {
    bits: CachePadded<AtomicU32>,
    /// Woken when bits are raised, where the poller may sleep.
    #[cfg(not(loom))]
    sleeper: std::sync::OnceLock<std::sync::Arc<super::sleeper::Sleeper>>,
}

impl Attention {
    /// A ring was published. Lowered by the reader, before it looks.
    pub const PUBLISHED: u32 = 1;
    /// A ring is being retired. Lowered by the retiring side, when no retirement is waiting for the reader any more.
    pub const RETIRING: u32 = 1 << 1;
    /// The first bit that is free for the owner of the word.
    pub const FIRST_FREE: u32 = 1 << 8;

    /// A word with nothing raised.
    pub fn new() -> Self {
        Self {
            bits: CachePadded::new(AtomicU32::new(0)),
            #[cfg(not(loom))]
            sleeper: std::sync::OnceLock::new(),
        }
    }

    /// Has `sleeper` woken whenever bits are raised, from now on.
    #[cfg(not(loom))]
    pub(crate) fn wakes(&self, sleeper: std::sync::Arc<super::sleeper::Sleeper>) {
        let first = self.sleeper.set(sleeper);
        debug_assert!(first.is_ok(), "a controller has one sleeper");
    }

    /// The raised bits, as the hot path reads them: one plain load.
    ///
    /// A stale answer is harmless: the reader stays in its old epoch for another poll.
    #[inline]
    pub fn bits(&self) -> u32 {
        // Relaxed: nothing is concluded from zero; from anything else the cold path, which reads again with Acquire.
        self.bits.load(Ordering::Relaxed)
    }

    /// Raises `bits`, after what they announce.
    pub fn raise(&self, bits: u32) {
        // Release: pairs with the Acquire in `lower` and `look`: who sees the bits sees what was written before.
        self.bits.fetch_or(bits, Ordering::Release);
        #[cfg(not(loom))]
        if let Some(sleeper) = self.sleeper.get() {
            sleeper.wake();
        }
    }

    /// The raised bits, with what was written before they were raised.
    pub fn look(&self) -> u32 {
        // Acquire: pairs with the Release in `raise`.
        self.bits.load(Ordering::Acquire)
    }

    /// Lowers `bits`; returns what was raised before. Lower first and look afterwards: then nothing raised meanwhile is missed.
    ///
    /// Writes only if there is something to lower: a poller that waits for a retirement leaves the word to who is to lower that.
    pub fn lower(&self, bits: u32) -> u32 {
        let raised = self.look();
        if raised & bits == 0 {
            return raised;
        }
        // Acquire: pairs with the Release in `raise`. Release: keeps the chain for whoever looks next.
        self.bits.fetch_and(!bits, Ordering::AcqRel)
    }
}

impl Default for Attention {
    fn default() -> Self {
        Self::new()
    }
}
