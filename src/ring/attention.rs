//! The attention word: one word, zero unless something has changed or is in progress, that an idle poll reads.
//!
//! What the bits mean to the controller is the controller's business; the two that publication needs are here.

use crate::sync::{AtomicU32, Ordering};
use crossbeam_utils::CachePadded;

/// One word that says to the polling thread: take the cold path, there is something to look at.
///
/// Any thread raises bits. Each bit is lowered by one party only, which its constant names.
#[derive(Debug)]
pub struct Attention(CachePadded<AtomicU32>);

impl Attention {
    /// A ring was published. Lowered by the reader, before it looks.
    pub const PUBLISHED: u32 = 1;
    /// A ring is being retired. Lowered by the retiring side, when no retirement is waiting for the reader any more.
    pub const RETIRING: u32 = 1 << 1;
    /// The first bit that is free for the owner of the word.
    pub const FIRST_FREE: u32 = 1 << 8;

    /// A word with nothing raised.
    pub fn new() -> Self {
        Self(CachePadded::new(AtomicU32::new(0)))
    }

    /// The raised bits, as the hot path reads them: one plain load.
    ///
    /// A stale answer is harmless: the reader stays in its old epoch for another poll.
    #[inline]
    pub fn bits(&self) -> u32 {
        // Relaxed: nothing is concluded from zero; from anything else the cold path, which reads again with Acquire.
        self.0.load(Ordering::Relaxed)
    }

    /// Raises `bits`, after what they announce.
    pub fn raise(&self, bits: u32) {
        // Release: pairs with the Acquire in `lower` and `look`: who sees the bits sees what was written before.
        self.0.fetch_or(bits, Ordering::Release);
    }

    /// The raised bits, with what was written before they were raised.
    pub fn look(&self) -> u32 {
        // Acquire: pairs with the Release in `raise`.
        self.0.load(Ordering::Acquire)
    }

    /// Lowers `bits`; returns what was raised before. Lower first and look afterwards: then nothing raised meanwhile is missed.
    pub fn lower(&self, bits: u32) -> u32 {
        // Acquire: pairs with the Release in `raise`. Release: keeps the chain for whoever looks next.
        self.0.fetch_and(!bits, Ordering::AcqRel)
    }
}

impl Default for Attention {
    fn default() -> Self {
        Self::new()
    }
}
