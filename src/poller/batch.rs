//! A batch of completions that a queue pair's owner takes, and of which the device is told at its end.
#![forbid(unsafe_code)]

use crate::ctrlr::QpairSlot;
use crate::queue::Pair;

/// Tells the device at its end how far it got, if the queues still exist; also when the owner's function panics.
pub(super) struct Unacknowledged<'a> {
    pub(super) pair: &'a mut Pair<u64>,
    pub(super) slot: &'a QpairSlot,
}

impl Drop for Unacknowledged<'_> {
    #[inline]
    fn drop(&mut self) {
        let pair = &mut *self.pair;
        self.slot.ring(|| pair.acknowledge());
    }
}
