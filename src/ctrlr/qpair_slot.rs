//! The hand-over between a queue pair's thread and the controller: one slot per queue identifier, one state word each.
//!
//! The queue pair's memory, indices and trackers belong to its thread alone; the controller creates and deletes the queues on the device. Who may
//! move the word from which state:
//!
//! ```text
//!  Free ─owner─▶ Wanted ─ctrlr─▶ Creating ─ctrlr─▶ Connected ─ctrlr─▶ Quiescing ─ctrlr─▶ Stopped ─owner─▶ Wanted (again)
//!                  │                 └──ctrlr──▶ Refused                                     │
//!                  └────────────────────────────────ctrlr───────────────────────────────────▶┤
//!  Connected ─owner dropped─▶ Released ─ctrlr─▶ Deleting ─ctrlr─▶ Free                      └─ctrlr (detached)─▶ Gone
//!  Creating ─owner dropped─▶ Abandoned ─ctrlr─▶ Released, or Free when the device refused
//!  Deleting ─ctrlr: the device refused─▶ Undeleted ─ctrlr, at the next reset─▶ Free
//! ```
//! While it is Connected, the controller taps on the slot now and then (a bit beside the state): the owner's next poll takes the cold path, looks for
//! commands that take too long, and takes the bit away. So no poll has to ask what time it is.
//!
//! *Stopped* and *Gone* say that the device cannot write to the queues' memory and buffers any more: only then the owner takes its outstanding
//! requests back. What is dropped in flight waits in `left_behind` until then.
#![forbid(unsafe_code)]

use crate::ring::doorway::{Barrier, Doorway};
use crate::sync::{
    AtomicBool, AtomicU16, AtomicU32, AtomicU64, Mutex, Ordering, Protection, ordering, protected,
};
use std::fmt;
use std::sync::PoisonError;

/// Where a slot stands; see the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum SlotState {
    Free = 0,
    /// Claimed by an owner that is still filling it in.
    Claimed = 1,
    Wanted = 2,
    Creating = 3,
    Connected = 4,
    Quiescing = 5,
    Stopped = 6,
    Refused = 7,
    Released = 8,
    Deleting = 9,
    Gone = 10,
    Abandoned = 11,
    /// The device would not delete the submission queue: it may go on to fetch from it, and to write to what it fetched. So neither its memory nor its
    /// identifier is used again before the device has stopped.
    Undeleted = 12,
}

/// Beside Connected: the owner is to look at the time.
const TAPPED: u32 = 16;

impl SlotState {
    fn from_word(word: u32) -> Self {
        match word & !TAPPED {
            0 => Self::Free,
            1 => Self::Claimed,
            2 => Self::Wanted,
            3 => Self::Creating,
            4 => Self::Connected,
            5 => Self::Quiescing,
            6 => Self::Stopped,
            7 => Self::Refused,
            8 => Self::Released,
            9 => Self::Deleting,
            11 => Self::Abandoned,
            12 => Self::Undeleted,
            _ => Self::Gone,
        }
    }
}

/// What the controller needs to know to create the queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueMemory {
    pub(crate) sq_iova: u64,
    pub(crate) cq_iova: u64,
    pub(crate) sq_entries: u32,
    pub(crate) cq_entries: u32,
}

/// What an owner leaves behind: its queues, with everything in flight.
pub(crate) trait LeftBehind {
    /// Lets go of it: no device can reach it any more, and its requests' buffers may be used again.
    fn give_up(self);
}

/// One queue identifier and whoever uses it. In cache lines of its own: its owner writes to it with each doorbell.
#[repr(align(128))]
pub(crate) struct QpairSlot<Q> {
    state: AtomicU32,
    /// What the owner goes through to ring a doorbell.
    doorway: Doorway,
    qid: u16,
    sq_iova: AtomicU64,
    cq_iova: AtomicU64,
    sq_entries: AtomicU32,
    cq_entries: AtomicU32,
    /// The status of a refused creation.
    refusal: AtomicU16,
    /// Queues and trackers of an owner that was dropped while the device may still write to them. Never locked by the poller.
    left_behind: Mutex<Option<Q>>,
    /// Whether anything was left there: each registration sweeps all slots, of which hardly one has.
    has_left: AtomicBool,
}

impl<Q: LeftBehind> QpairSlot<Q> {
    pub(crate) fn new(qid: u16, barrier: Barrier) -> Self {
        Self {
            state: AtomicU32::new(SlotState::Free as u32),
            doorway: Doorway::new(barrier),
            qid,
            sq_iova: AtomicU64::new(0),
            cq_iova: AtomicU64::new(0),
            sq_entries: AtomicU32::new(0),
            cq_entries: AtomicU32::new(0),
            refusal: AtomicU16::new(0),
            left_behind: Mutex::new(None),
            has_left: AtomicBool::new(false),
        }
    }

    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    pub(crate) fn state(&self) -> SlotState {
        // Acquire: pairs with the Release in `change`: who sees a state sees what led to it.
        SlotState::from_word(self.state.load(ordering(Ordering::Acquire, Protection::SlotHandOver)))
    }

    /// Whether the queues exist.
    #[inline(always)]
    pub(crate) fn is_connected(&self) -> bool {
        // Acquire: pairs with the Release in `change`; on x86 a plain load.
        self.state.load(Ordering::Acquire) & !TAPPED == SlotState::Connected as u32
    }

    /// The hot path's question, whether there is nothing to do but I/O: one load and a compare.
    #[inline(always)]
    pub(crate) fn is_calm(&self) -> bool {
        // Acquire: as above.
        self.state.load(Ordering::Acquire) == SlotState::Connected as u32
    }

    /// For the controller: has the owner look at the time with its next poll.
    pub(crate) fn tap(&self) {
        let (calm, tapped) = (SlotState::Connected as u32, SlotState::Connected as u32 | TAPPED);
        // Release: pairs with the Acquire in `is_tapped`: the time was written before. Fails where nobody is connected, or has not looked since.
        let _ = self.state.compare_exchange(calm, tapped, Ordering::Release, Ordering::Relaxed);
    }

    /// For the owner: whether it is to look at the time; asked once for each tap.
    pub(crate) fn is_tapped(&self) -> bool {
        let (calm, tapped) = (SlotState::Connected as u32, SlotState::Connected as u32 | TAPPED);
        // Acquire: pairs with the Release in `tap`.
        self.state.compare_exchange(tapped, calm, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Rings a doorbell, if the queues exist. For the owner alone. While it is in there, no take-down removes the queues.
    #[inline(always)]
    pub(crate) fn ring(&self, ring: impl FnOnce()) {
        self.doorway.pass(|| self.is_connected(), ring);
    }

    /// Whether the owner is at its doorbell. Once the slot has left Connected and [`Barrier::heavy`] has passed, one that is not there will not be.
    pub(crate) fn is_ringing(&self) -> bool {
        !self.doorway.is_empty()
    }

    /// Moves from `from` to `to`; says whether the word was at `from`.
    pub(crate) fn change(&self, from: SlotState, to: SlotState) -> bool {
        self.change_with(|state| (state == from).then_some(to)).is_some()
    }

    /// Moves any state to what `next` says, or leaves it where that is `None`; returns the state it moved from.
    pub(crate) fn change_with(&self, next: impl Fn(SlotState) -> Option<SlotState>) -> Option<SlotState> {
        // Release: pairs with the Acquire in `state`. Acquire: we build on what the previous mover did.
        self.state
            .fetch_update(
                ordering(Ordering::AcqRel, Protection::SlotHandOver),
                ordering(Ordering::Acquire, Protection::SlotHandOver),
                |word| next(SlotState::from_word(word)).map(|state| state as u32),
            )
            .ok()
            .map(SlotState::from_word)
    }

    /// Fills a claimed slot in and asks for its queues. False when the controller was detached meanwhile.
    pub(crate) fn want(&self, memory: QueueMemory) -> bool {
        // Relaxed, all four: published by the Release of the change to Wanted, read after its Acquire.
        self.sq_iova.store(memory.sq_iova, Ordering::Relaxed);
        self.cq_iova.store(memory.cq_iova, Ordering::Relaxed);
        self.sq_entries.store(memory.sq_entries, Ordering::Relaxed);
        self.cq_entries.store(memory.cq_entries, Ordering::Relaxed);
        self.change(SlotState::Claimed, SlotState::Wanted)
    }

    pub(crate) fn memory(&self) -> QueueMemory {
        // Relaxed, all four: see `want`.
        QueueMemory {
            sq_iova: self.sq_iova.load(Ordering::Relaxed),
            cq_iova: self.cq_iova.load(Ordering::Relaxed),
            sq_entries: self.sq_entries.load(Ordering::Relaxed),
            cq_entries: self.cq_entries.load(Ordering::Relaxed),
        }
    }

    /// Notes with what status the device refused the queues, before that is said.
    pub(crate) fn will_be_refused(&self, status: u16) {
        // Relaxed: published by the change to Refused.
        self.refusal.store(status, Ordering::Relaxed);
    }

    /// Says that the device refused the queues, with its status, and has none of them.
    pub(crate) fn refuse(&self, status: u16) {
        self.will_be_refused(status);
        if !self.change(SlotState::Creating, SlotState::Refused) {
            self.change(SlotState::Abandoned, SlotState::Free);
        }
    }

    pub(crate) fn refusal(&self) -> u16 {
        // Relaxed: read after the Acquire of the Refused state.
        self.refusal.load(Ordering::Relaxed)
    }

    /// The owner is going, and leaves its queues with everything in flight behind. True when the device may still know them.
    pub(crate) fn release(&self, queues: Q) -> bool {
        let next = |state| match state {
            SlotState::Connected | SlotState::Quiescing => Some(SlotState::Released),
            SlotState::Creating => Some(SlotState::Abandoned),
            SlotState::Claimed | SlotState::Wanted | SlotState::Stopped | SlotState::Refused => {
                Some(SlotState::Free)
            }
            _ => None,
        };
        // First the memory, then the word: once it is Released, the controller may make it Free, and a sweep drops the memory.
        let from = if protected(Protection::MemoryFirst) {
            self.leave_behind(queues);
            self.change_with(next)
        } else {
            let from = self.change_with(next);
            self.leave_behind(queues);
            from
        };
        matches!(from, Some(SlotState::Connected | SlotState::Quiescing | SlotState::Creating))
    }

    /// Takes a free slot.
    pub(crate) fn claim(&self) -> bool {
        let is_mine = self.change(SlotState::Free, SlotState::Claimed);
        if is_mine {
            // What the last owner left must not be found in the place of what this one leaves. The slot was Free: no device writes there.
            let left = self.left_behind.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(queues) = left {
                queues.give_up();
            }
        }
        is_mine
    }

    /// Leaves what the device may still write to behind, to be dropped by [`QpairSlot::sweep`].
    fn leave_behind(&self, queues: Q) {
        *self.left_behind.lock().unwrap_or_else(PoisonError::into_inner) = Some(queues);
        // Relaxed: a hint, before the change of state that lets it be swept. A sweep that misses it leaves it to the next, or to who claims the slot.
        self.has_left.store(true, Ordering::Relaxed);
    }

    /// Drops what was left behind. For control threads, once the slot is Free or Gone.
    pub(crate) fn sweep(&self) {
        // Relaxed: see `leave_behind`.
        if !self.has_left.load(Ordering::Relaxed)
            || !matches!(self.state(), SlotState::Free | SlotState::Gone)
        {
            return;
        }
        let mut left_behind = self.left_behind.lock().unwrap_or_else(PoisonError::into_inner);
        // Once more, under the lock: a whole life of another owner may have passed since the first look, and the queues that it left may still be
        // written to. Whatever lies here was put here under the lock, before the slot was released; so the state is no older than that.
        let state = if protected(Protection::SweepAgain) { self.state() } else { SlotState::Free };
        let left = match state {
            SlotState::Free | SlotState::Gone => {
                // Relaxed: under the lock; whoever leaves something later raises it again.
                self.has_left.store(false, Ordering::Relaxed);
                left_behind.take()
            }
            _ => None,
        };
        drop(left_behind);
        if let Some(queues) = left {
            queues.give_up();
        }
    }
}

impl<Q> fmt::Debug for QpairSlot<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QpairSlot")
            .field("qid", &self.qid)
            .field("state", &SlotState::from_word(self.state.load(Ordering::Relaxed)))
            .finish_non_exhaustive()
    }
}
