//! Trackers: what is remembered about each command in flight, found again by its command identifier.
//!
//! All of them are made with the queue pair; nothing is allocated later. The queues themselves are not known here.

use super::QueueError;
use crate::dma::DmaSlice;

/// A command in flight: what its owner remembers, and the data that the device may access.
type Held<R> = (R, Option<DmaSlice>);

#[derive(Debug)]
struct Tracker<R> {
    /// The identifier of the command in flight, or of the last one that was.
    cid: u16,
    /// What the pair's owner will want to know if it takes long, in one word: see [`Outstanding`].
    stamp: u32,
    held: Option<Held<R>>,
}

/// A command in flight, as its pair's owner sees it when it looks for those that take too long.
#[derive(Debug)]
pub struct Outstanding<'a, R> {
    /// Its identifier.
    pub cid: u16,
    /// What its owner remembers.
    pub request: &'a R,
    stamp: &'a mut u32,
}

impl<R> Outstanding<'_, R> {
    /// Its opcode.
    pub fn opcode(&self) -> u8 {
        *self.stamp as u8
    }

    /// The time that the owner gave it, or `None` before that.
    pub fn time(&self) -> Option<u32> {
        Some(*self.stamp >> 8).filter(|time| *time != FRESH >> 8)
    }

    /// Gives it a time, in any unit; 23 bits of it count.
    pub fn set_time(&mut self, time: u32) {
        *self.stamp = (time & TIME_MASK) << 8 | u32::from(self.opcode());
    }
}

/// How much of a time counts.
pub const TIME_MASK: u32 = (1 << 23) - 1;
/// The time of a command that was not given one, above its opcode.
const FRESH: u32 = 0xffff_ff00;

/// The trackers of one queue pair.
///
/// A command identifier has the slot's index in its low bits and counts the slot's uses in the others, so that a
/// completion that comes twice, or late, does not hit the command that has the slot by then.
#[derive(Debug)]
pub(super) struct Trackers<R> {
    slots: Box<[Tracker<R>]>,
    /// Free slots, the last used on top: it is still in the cache.
    free: Vec<u16>,
    index_mask: u16,
    /// What one more use of a slot adds to its identifier; 0 when the index needs all the bits.
    sequence_step: u16,
}

impl<R> Trackers<R> {
    /// Makes `capacity` trackers, 1 to 65535. Identifier 0xffff is never used, since the error log means "no command" by
    /// it (NVMe Base 2.0, 3.3.3.1): there are bits for at least one index more than there are slots.
    pub(super) fn new(capacity: u16) -> Self {
        let index_bits = (u32::from(capacity) + 1).next_power_of_two().trailing_zeros();
        Self {
            slots: (0..capacity).map(|cid| Tracker { cid, stamp: 0, held: None }).collect(),
            free: (0..capacity).rev().collect(),
            index_mask: ((1u32 << index_bits) - 1) as u16,
            sequence_step: (1u32 << index_bits) as u16,
        }
    }

    /// Commands that may be in flight at once.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn index_mask(&self) -> u16 {
        self.index_mask
    }

    /// Commands in flight.
    pub(super) fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot that the next [`hold`](Self::hold) takes; `None` when all are in use.
    #[inline]
    pub(super) fn next_slot(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Takes the next slot for a command and returns its identifier; gives the command back when all are in use.
    #[inline]
    pub(super) fn hold(&mut self, request: R, data: Option<DmaSlice>, opcode: u8) -> Result<u16, Held<R>> {
        let Some(slot) = self.free.pop() else { return Err((request, data)) };
        let tracker = &mut self.slots[usize::from(slot)];
        tracker.cid = tracker.cid.wrapping_add(self.sequence_step);
        tracker.stamp = FRESH | u32::from(opcode);
        tracker.held = Some((request, data));
        Ok(tracker.cid)
    }

    /// Ends the command that a completion names.
    #[inline]
    pub(super) fn release(&mut self, qid: u16, cid: u16) -> Result<Held<R>, QueueError> {
        let slot = cid & self.index_mask;
        let slots = self.slots.len();
        let Some(tracker) = self.slots.get_mut(usize::from(slot)) else {
            return Err(QueueError::UnknownCid { qid, cid, slots });
        };
        if tracker.cid == cid
            && let Some(held) = tracker.held.take()
        {
            self.free.push(slot);
            return Ok(held);
        }
        Err(wrong_cid(qid, cid, tracker))
    }

    /// What the owner of a command in flight remembers about it.
    pub(super) fn find(&self, cid: u16) -> Option<&R> {
        let tracker =
            self.slots.get(usize::from(cid & self.index_mask)).filter(|tracker| tracker.cid == cid)?;
        tracker.held.as_ref().map(|(request, _)| request)
    }

    /// The identifier of the first command in flight of which the owner remembers such a thing.
    pub(super) fn find_cid(&self, mut is_wanted: impl FnMut(&R) -> bool) -> Option<u16> {
        let wanted =
            |tracker: &&Tracker<R>| tracker.held.as_ref().is_some_and(|(request, _)| is_wanted(request));
        self.slots.iter().find(wanted).map(|tracker| tracker.cid)
    }

    /// Shows every command in flight.
    pub(super) fn for_each(&mut self, mut f: impl FnMut(Outstanding<'_, R>)) {
        for Tracker { cid, stamp, held } in &mut self.slots {
            if let Some((request, _)) = held {
                f(Outstanding { cid: *cid, request, stamp });
            }
        }
    }

    /// Ends every command in flight. Its slot is free before `f` sees it, so that each is seen once even if `f` panics.
    pub(super) fn release_all(&mut self, mut f: impl FnMut(R, Option<DmaSlice>)) {
        for (slot, tracker) in (0..).zip(&mut self.slots) {
            if let Some((request, data)) = tracker.held.take() {
                self.free.push(slot);
                f(request, data);
            }
        }
    }
}

#[cold]
fn wrong_cid<R>(qid: u16, cid: u16, tracker: &Tracker<R>) -> QueueError {
    if tracker.held.is_some() {
        QueueError::StaleCid { qid, cid, expected_cid: tracker.cid }
    } else {
        QueueError::NotOutstanding { qid, cid, last_cid: tracker.cid }
    }
}
