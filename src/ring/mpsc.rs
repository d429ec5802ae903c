//! The bounded ring: many producers, one consumer, a sequence number per slot, and a CLOSED bit in the tail.
//!
//! Nothing here knows what a message is, who may consume, or how the ring is published.
//!
//! # The protocol
//! A producer claims position `p` by moving `tail` from `p` to `p + 1`, writes slot `p & mask` and stores
//! `p + 1` into the slot's sequence. The consumer takes position `p` when it reads `p + 1` there, and gives the slot
//! back by storing `p + capacity`. A producer that is preempted between claim and store holds back
//! the messages behind it; the consumer sees "nothing yet" and goes on with its life.
//!
//! [`Ring::close`] sets a bit in `tail`. A claim is a compare-and-swap on the same word, so the bit decides for
//! each push, once and for all: claimed before (the drain will find it) or refused.
//!
//! # Why a mailbox's credit always finds a slot
//! Claims form one chain of Release compare-and-swaps, read with Acquire: who claims after another has seen every slot free that the other saw
//! free. A producer whose view of the consumer is old may still report a full ring, an answer like any other; but a
//! [`Mailbox`](super::Mailbox) counts on a free slot for each of its credits, whichever thread brings it back. Of any `capacity + 1` successive claims
//! two were made with the same credit, so a message that lies no more than `capacity` back was taken before the later one; messages
//! are taken in order, so the slot of the newest claim had been given back by then, and the chain says so to who makes that claim. (The way of its
//! own credit does not: it may have left long ago.)
//!
//! The scheme of the sequences is Dmitry Vyukov's bounded MPMC queue (2010), reduced to one consumer.

use super::{CACHE_LINE, prefetch};
use crate::sync::{AtomicU64, Ordering, Protection, UnsafeCell, ordering, protected};
use crossbeam_utils::CachePadded;
use std::fmt;
use std::mem::MaybeUninit;

/// Set in `tail` when the ring is closed. Positions are below it for 29,000 years of a message per 100 ns.
const CLOSED: u64 = 1 << 63;

/// Why a push was refused; the value comes back in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError<T> {
    /// All slots hold messages, or are claimed by producers that have not written theirs yet.
    Full(T),
    /// The ring was closed and never opens again.
    Closed(T),
}

/// A slot is written by the producer that claimed it and read by the consumer, in turns that `sequence` decides.
#[repr(C, align(64))]
struct Slot<T> {
    sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    /// Writes the slot of `position` and hands it to the consumer, by a store that is the last access to the slot.
    ///
    /// # Safety
    /// `slot` is valid until that store, and `position` was claimed by the caller.
    #[inline]
    unsafe fn fill(slot: *const Self, position: u64, value: T) {
        // SAFETY: valid; a reference to the cell alone, which others may free once the store below is done.
        let cell = unsafe { &(*slot).value };
        cell.with_mut(|cell| {
            // SAFETY: the claim found that the consumer is done with the slot: until the store below nobody else touches it.
            unsafe { (*cell).write(value) };
        });
        // SAFETY: valid until the store below has happened.
        let sequence = unsafe { &(*slot).sequence };
        // Release: pairs with the Acquire in `consume`, which reads the value.
        sequence.store(position + 1, ordering(Ordering::Release, Protection::SlotRelease));
    }
}

/// A bounded ring of `T` for many producers and one consumer.
///
/// Any thread may push and close. Only one thread at a time may consume, which is why [`Ring::consume`] is
/// unsafe: the publication protocol (`super::published`) decides whose turn it is.
pub struct Ring<T> {
    /// Producers: the next position to claim, and [`CLOSED`].
    tail: CachePadded<AtomicU64>,
    /// The consumer's: the next position to take. Atomic only so that whoever inherits the role finds it.
    head: CachePadded<AtomicU64>,
    slots: Box<[Slot<T>]>,
    mask: u64,
}

// SAFETY: a value is moved in by one thread and out by another, so `T: Send` is needed and enough: no reference
// to a value in a slot is ever shared.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above; `sequence` gives each slot to one thread at a time.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    /// A ring of `capacity` slots.
    ///
    /// # Panics
    /// If `capacity` is not a power of two, or less than 2.
    pub fn new(capacity: usize) -> Self {
        assert!(
            capacity.is_power_of_two() && capacity >= 2,
            "ring capacity {capacity}: a power of two, 2 or more"
        );
        let slots = (0..capacity as u64)
            .map(|index| Slot {
                sequence: AtomicU64::new(index),
                value: UnsafeCell::new(MaybeUninit::uninit()),
            })
            .collect();
        Self {
            tail: CachePadded::new(AtomicU64::new(0)),
            head: CachePadded::new(AtomicU64::new(0)),
            slots,
            mask: capacity as u64 - 1,
        }
    }

    /// How many messages fit.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many positions are claimed and not yet taken; a snapshot, exact only while nobody pushes or takes.
    pub fn len(&self) -> usize {
        // Relaxed: a statistic; nothing is read through these positions.
        let tail = self.tail.load(Ordering::Relaxed) & !CLOSED;
        // Relaxed: as above.
        tail.saturating_sub(self.head.load(Ordering::Relaxed)) as usize
    }

    /// Whether no position is claimed; a snapshot, as [`Ring::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn slot(&self, position: u64) -> &Slot<T> {
        let index = (position & self.mask) as usize;
        // SAFETY: `mask` is `slots.len() - 1` with a power-of-two length, so `index < slots.len()`.
        unsafe { self.slots.get_unchecked(index) }
    }

    /// Appends `value`. Never waits: a full ring or a closed one gives it back.
    #[inline]
    pub fn push(&self, value: T) -> Result<(), PushError<T>> {
        match self.claim(1) {
            Ok((position, _)) => {
                self.fill(position, value);
                Ok(())
            }
            Err(ClaimError::Full) => Err(PushError::Full(value)),
            Err(ClaimError::Closed) => Err(PushError::Closed(value)),
        }
    }

    /// Appends values from the front of `values` while there is room, many with one claim, and removes from the vector what was
    /// appended. Returns how many; `Err` when none could be.
    pub fn push_batch(&self, values: &mut Vec<T>) -> Result<usize, PushError<()>> {
        let mut pushed = 0;
        while !values.is_empty() {
            match self.claim(values.len().min(self.slots.len())) {
                Ok((first, count)) => {
                    for (position, value) in (first..).zip(values.drain(..count)) {
                        self.fill(position, value);
                    }
                    pushed += count;
                }
                Err(_) if pushed > 0 => break,
                Err(ClaimError::Full) => return Err(PushError::Full(())),
                Err(ClaimError::Closed) => return Err(PushError::Closed(())),
            }
        }
        Ok(pushed)
    }

    /// Claims up to `wanted` successive positions: the first one, and how many.
    #[inline]
    fn claim(&self, wanted: usize) -> Result<(u64, usize), ClaimError> {
        // Acquire: pairs with the Release of earlier claims: the slots that they found free are free for us. As for the
        // position itself it is only a guess, which the compare-and-swap below checks.
        let acquire = ordering(Ordering::Acquire, Protection::ClaimOrder);
        let mut tail = self.tail.load(acquire);
        loop {
            if tail & CLOSED != 0 && protected(Protection::ClosedBit) {
                return Err(ClaimError::Closed);
            }
            let position = tail & !CLOSED;
            let mut count = wanted as u64;
            // The consumer gives slots back in order: if the last of a stretch is free, so are those before it.
            let free = loop {
                // Acquire: pairs with the Release in `consume`, so that our write comes after its read.
                let sequence = self.slot(position + count - 1).sequence.load(Ordering::Acquire);
                let ahead = sequence.wrapping_sub(position + count - 1).cast_signed();
                if ahead == 0 {
                    break true;
                }
                if ahead > 0 || count == 1 {
                    break false;
                }
                count /= 2;
            };
            if free {
                // Release: pairs with the Acquires of later claims. Who owns a position, and what came before CLOSED, is decided by the
                // word's own modification order; the message is published by the slot's sequence.
                let release = ordering(Ordering::Release, Protection::ClaimOrder);
                match self.tail.compare_exchange_weak(tail, tail + count, release, acquire) {
                    Ok(_) => return Ok((position, count as usize)),
                    Err(now) => tail = now,
                }
            } else {
                // Acquire: as above. Full only if nobody moved the tail meanwhile; else try again with the new one.
                let now = self.tail.load(acquire);
                if now == tail {
                    return Err(ClaimError::Full);
                }
                tail = now;
            }
        }
    }

    /// Appends a `value` that keeps the ring alive: as [`Ring::push`], for a caller without another reference to it.
    ///
    /// # Safety
    /// `ring` is valid, and stays so while `value` (which the consumer may take, and drop, before this returns) is in the ring or
    /// in this call.
    #[inline]
    pub(super) unsafe fn push_owner(ring: *const Self, value: T) -> Result<(), PushError<T>> {
        // SAFETY: `value` is still in this call.
        let claimed = unsafe { &*ring }.claim(1);
        match claimed {
            Ok((position, _)) => {
                // SAFETY: as above; the reference ends before the value is handed over.
                let slot: *const Slot<T> = unsafe { &*ring }.slot(position);
                // SAFETY: claimed by us. Its last access is the store that hands the value over.
                unsafe { Slot::fill(slot, position, value) };
                Ok(())
            }
            Err(ClaimError::Full) => Err(PushError::Full(value)),
            Err(ClaimError::Closed) => Err(PushError::Closed(value)),
        }
    }

    /// Writes a claimed slot and hands it to the consumer.
    #[inline]
    fn fill(&self, position: u64, value: T) {
        // SAFETY: `position` was claimed by this thread, in a ring that `self` keeps alive.
        unsafe { Slot::fill(self.slot(position), position, value) };
    }

    /// Whether a message lies ready at the consumer's position. One load of the head and one of a sequence.
    #[inline]
    pub fn has_message(&self) -> bool {
        // Relaxed: the consumer's own word.
        let head = self.head.load(Ordering::Relaxed);
        // Relaxed: only a hint; `consume` looks again with Acquire before it reads the slot.
        self.slot(head).sequence.load(Ordering::Relaxed) == head + 1
    }

    /// Takes up to `max` messages in order and gives each to `each`; returns how many. Stops early at a slot that is claimed but
    /// not written yet. A panic in `each` loses nothing but the message it was given.
    ///
    /// # Safety
    /// The caller is the only consumer: no other call of `consume` on this ring overlaps with this one, and one that came before
    /// happens-before this one.
    #[inline]
    pub unsafe fn consume(&self, max: usize, mut each: impl FnMut(T)) -> usize {
        // Relaxed: the consumer's own word; a new consumer sees it by the happens-before that the caller vouches for.
        let mut head = self.head.load(Ordering::Relaxed);
        let mut taken = 0;
        while taken < max {
            let slot = self.slot(head);
            // Acquire: pairs with the Release in `fill`.
            if slot.sequence.load(Ordering::Acquire) != head + 1 {
                break;
            }
            prefetch(std::ptr::from_ref(self.slot(head + 1)).cast());
            if size_of::<Slot<T>>() > CACHE_LINE {
                prefetch(std::ptr::from_ref(self.slot(head + 1)).cast::<u8>().wrapping_add(CACHE_LINE));
            }
            let value = slot.value.with_mut(|cell| {
                // SAFETY: the sequence says that the slot holds the message of position `head`, written before the Release that we
                // acquired; we are the only consumer, and moving `head` on makes sure that it is read only once.
                unsafe { cell.cast::<T>().read() }
            });
            // Release: pairs with the Acquire in `claim`: the slot's next writer comes after our read.
            let release = ordering(Ordering::Release, Protection::SlotReturn);
            slot.sequence.store(head + self.slots.len() as u64, release);
            head += 1;
            taken += 1;
            // Relaxed: see above.
            self.head.store(head, Ordering::Relaxed);
            each(value);
        }
        taken
    }

    /// Closes the ring: from now on every push is refused. What was claimed before stays to be consumed. Idempotent.
    pub fn close(&self) {
        // Relaxed: see `claim`; the modification order of this one word decides.
        self.tail.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Whether [`Ring::close`] was called.
    pub fn is_closed(&self) -> bool {
        // Relaxed: a closed ring stays closed; nothing else is concluded from it.
        self.tail.load(Ordering::Relaxed) & CLOSED != 0
    }
}

enum ClaimError {
    Full,
    Closed,
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .field("closed", &self.is_closed())
            .finish()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else can consume, or push.
        let left = unsafe { self.consume(usize::MAX, drop) };
        // Messages are answered by the drain, in order and with a reason; here they could only be dropped.
        debug_assert!(left == 0 || std::thread::panicking(), "a ring was dropped with {left} messages in it");
    }
}
