//! The bounded ring: many producers, one consumer, a sequence number per slot, and a CLOSED bit in the tail.
//!
//! Nothing here knows what a message is, who may consume, or how the ring is published.
//!
//! # The protocol
//! A producer claims position `p` by moving `tail` from `p` to `p + 1`, writes slot `p % capacity` and stores
//! `p + 1` into the slot's sequence. The consumer takes position `p` when it reads `p + 1` there, and gives the slot
//! back by moving `head` on. A producer that is preempted between claim and store holds back
//! the messages behind it; the consumer sees "nothing yet" and goes on with its life.
//!
//! Producers seldom read `head`: they keep how far slots are free in `free_until`, beside their own `tail`, and look at `head` when that is used up. So a message costs
//! the way of its own cache lines, there and back. (Back they go whole: the consumer writes to each slot that it has read, and to no end but that.)
//!
//! [`Ring::close`] sets a bit in `tail`. A claim is a compare-and-swap on the same word, so the bit decides for
//! each push, once and for all: claimed before (the drain will find it) or refused.
//!
//! # Why a mailbox's credit always finds a slot
//! Claims form one chain of Release compare-and-swaps, read with Acquire: who claims after another has seen every slot free that the other saw
//! free. A producer whose view of the consumer is old may still report a full ring, an answer like any other; but a
//! [`Mailbox`](super::Mailbox) counts on a free slot for each of its credits, whichever thread brings it back. Of any `capacity + 1` successive claims
//! two were made with the same credit, so a message that lies no more than `capacity` back was taken before the later one; messages
//! are taken in order, so the slot of the newest claim had been given back by then (a credit is used again only when the call that took its message
//! out is over, and has given the slot back), and the chain says so to who makes that claim. (The way of its
//! own credit does not: it may have left long ago.)
//!
//! (In the same chain `head` is read after `tail`, so the newest claim's maker reads a `head` at least that new.)
//!
//! The scheme of the sequences is Dmitry Vyukov's bounded MPMC queue (2010), reduced to one consumer.

use super::distance::Distance;
use super::place::{Filled, Place, Taken};
use super::scheme::BATCH;
use super::slot::{LONGEST_RUN, Run, Slot, WRITE_AHEAD};
use crate::sync::{AtomicU64, Ordering, Protection, ordering, protected};
use crossbeam_utils::CachePadded;
use std::fmt;
use std::time::Instant;

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

/// Gives a slot back when its message was dealt with, by a panic too.
struct Return<'a> {
    head: &'a AtomicU64,
    next: u64,
}

impl Drop for Return<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `look_at_head`: the slot's next writer comes after our read.
        self.head.store(self.next, ordering(Ordering::Release, Protection::SlotReturn));
    }
}

/// As [`Return`], for what was taken of a run.
struct Lent<'a, T> {
    head: &'a AtomicU64,
    first: u64,
    run: Run<'a, T>,
}

impl<T> Drop for Lent<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        drop(Return { head: self.head, next: self.first + self.run.taken() as u64 });
    }
}

/// A bounded ring of `T` for many producers and one consumer.
///
/// Any thread may push and close. Only one thread at a time may consume, which is why [`Ring::consume`] is
/// unsafe: the publication protocol (`super::published`) decides whose turn it is.
pub struct Ring<T> {
    /// The producers' line.
    claims: CachePadded<Claims>,
    /// The consumer's: the next position to take. Atomic only so that whoever inherits the role finds it.
    head: CachePadded<AtomicU64>,
    slots: Box<[Slot<T>]>,
}

/// What producers share among themselves.
struct Claims {
    /// The next position to claim, and [`CLOSED`].
    tail: AtomicU64,
    /// Positions below it are free, or were when they were claimed. Behind the truth, never ahead of it.
    free_until: AtomicU64,
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
        let slots = (0..capacity).map(|_| Slot::empty()).collect();
        let claims = Claims { tail: AtomicU64::new(0), free_until: AtomicU64::new(capacity as u64) };
        Self { claims: CachePadded::new(claims), head: CachePadded::new(AtomicU64::new(0)), slots }
    }

    /// How many messages fit.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// How many positions are claimed and not yet taken; a snapshot, exact only while nobody pushes or takes.
    pub fn len(&self) -> usize {
        // Relaxed: a statistic; nothing is read through these positions.
        let tail = self.claims.tail.load(Ordering::Relaxed) & !CLOSED;
        // Relaxed: as above.
        tail.saturating_sub(self.head.load(Ordering::Relaxed)) as usize
    }

    /// Whether no position is claimed; a snapshot, as [`Ring::len`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn slot(&self, position: u64) -> &Slot<T> {
        Slot::of(&self.slots, position)
    }

    /// Appends `value`. Never waits: a full ring or a closed one gives it back.
    // Inlined, so that what is known of the value where it is made is known where it is written.
    #[inline(always)]
    pub fn push(&self, value: T) -> Result<(), PushError<T>> {
        match self.claim(1) {
            Ok((position, _)) => {
                let slot = self.slot(position);
                Slot::ask_for(slot, WRITE_AHEAD);
                // SAFETY: claimed by this thread, in a ring that `self` keeps alive.
                unsafe { Slot::fill(slot, position, |place| place.fill(value)) };
                Ok(())
            }
            Err(ClaimError::Full) => Err(PushError::Full(value)),
            Err(ClaimError::Closed) => Err(PushError::Closed(value)),
        }
    }

    /// Appends up to `wanted` values, many with one claim: `write` puts the one of an index, each below the number that is returned once, where it
    /// stays, and is asked only when there is a slot. `Err` when there was none.
    ///
    /// `write` must not panic: its slot is claimed, and all behind it wait.
    #[inline(always)]
    pub(super) fn push_with(
        &self,
        wanted: usize,
        write: impl for<'p> FnMut(usize, Place<'p, T>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        // SAFETY: valid as long as `self` is borrowed.
        unsafe { Self::push_owners(self, wanted, write) }
    }

    /// Claims up to `wanted` (1 or more) successive positions whose slots lie in a row: the first one, and how many.
    #[inline]
    fn claim(&self, wanted: usize) -> Result<(u64, usize), ClaimError> {
        // Acquire: pairs with the Release of earlier claims: the slots that they found free are free for us. As for the
        // position itself it is only a guess, which the compare-and-swap below checks.
        let acquire = ordering(Ordering::Acquire, Protection::ClaimOrder);
        let mut tail = self.claims.tail.load(acquire);
        loop {
            if tail & CLOSED != 0 && protected(Protection::ClosedBit) {
                return Err(ClaimError::Closed);
            }
            let position = tail & !CLOSED;
            let in_a_row = self.slots.len() - (position as usize & (self.slots.len() - 1));
            // One is there in any case, and who wants one is told nothing new.
            let wanted = if wanted > 1 { wanted.min(in_a_row) as u64 } else { 1 };
            let free = self.free_until(position + wanted).saturating_sub(position);
            let count = free.min(wanted);
            if count > 0 {
                // Release: pairs with the Acquires of later claims. Who owns a position, and what came before CLOSED, is decided by the
                // word's own modification order; the message is published by the slot's sequence.
                let release = ordering(Ordering::Release, Protection::ClaimOrder);
                match self.claims.tail.compare_exchange_weak(tail, tail + count, release, acquire) {
                    Ok(_) => return Ok((position, count as usize)),
                    Err(now) => tail = now,
                }
            } else {
                // Acquire: as above. Full only if nobody moved the tail meanwhile; else try again with the new one.
                let now = self.claims.tail.load(acquire);
                if now == tail {
                    return Err(ClaimError::Full);
                }
                tail = now;
            }
        }
    }

    /// Up to where positions are free; looks at the consumer's head only when what is known does not reach to `wanted`.
    #[inline]
    fn free_until(&self, wanted: u64) -> u64 {
        // Acquire: pairs with the Release in `look_at_head`, by whichever producer: so our write comes after the consumer's read.
        let known = self.claims.free_until.load(Ordering::Acquire);
        if known >= wanted { known } else { self.look_at_head() }
    }

    #[cold]
    fn look_at_head(&self) -> u64 {
        // Acquire: pairs with the Release in `consume`, so that our write comes after its read.
        let free_until = self.head.load(Ordering::Acquire) + self.slots.len() as u64;
        // Release: pairs with the Acquire in `free_until`. An older value may overwrite a newer one, and is as true.
        self.claims.free_until.store(free_until, Ordering::Release);
        free_until
    }

    /// As [`Ring::push_with`], for a caller without a reference to the ring: each value that it writes stands for one.
    ///
    /// # Safety
    /// `ring` is valid, and stays so until the last of the values is handed over. (Then the consumer may have taken them all, with their references.)
    #[inline(always)]
    pub(super) unsafe fn push_owners(
        ring: *const Self,
        wanted: usize,
        mut write: impl for<'p> FnMut(usize, Place<'p, T>) -> Filled<'p>,
    ) -> Result<usize, PushError<()>> {
        let mut pushed = 0;
        while pushed < wanted {
            // SAFETY: there are values left; the reference ends with the statement.
            match unsafe { &*ring }.claim((wanted - pushed).min(LONGEST_RUN)) {
                Ok((first, count)) => {
                    // SAFETY: as above. Raw, as the slots may be freed with the last value that is handed over.
                    let slots: *const [Slot<T>] = unsafe { &raw const *(*ring).slots };
                    let slot = slots.cast::<Slot<T>>().wrapping_add(first as usize & (slots.len() - 1));
                    // SAFETY: claimed by this thread, and valid until the first of these values is handed over, which is the last of them.
                    unsafe {
                        Slot::fill_all(slot, first, count, |index, place| write(pushed + index, place));
                    };
                    pushed += count;
                }
                Err(_) if pushed > 0 => break,
                Err(ClaimError::Full) => return Err(PushError::Full(())),
                Err(ClaimError::Closed) => return Err(PushError::Closed(())),
            }
        }
        Ok(pushed)
    }

    /// Whether a message lies ready at the consumer's position. One load of the head and one of a sequence.
    #[inline(always)]
    pub fn has_message(&self) -> bool {
        self.has_message_after(0)
    }

    /// As [`Ring::has_message`], for the position that is so many behind the consumer's.
    #[inline(always)]
    fn has_message_after(&self, others: usize) -> bool {
        // Relaxed: the consumer's own word.
        let position = self.head.load(Ordering::Relaxed) + others as u64;
        // Relaxed: only a hint; `consume` looks again with Acquire before it reads the slot.
        self.slot(position).sequence.load(Ordering::Relaxed) == position + 1
    }

    /// Where the consumer's next message will appear.
    pub(super) fn lookout(&self) -> Lookout {
        // Relaxed: the consumer's own word.
        let head = self.head.load(Ordering::Relaxed);
        Lookout { sequence: &raw const self.slot(head).sequence, awaited: head + 1 }
    }

    /// Takes up to `max` messages in order and gives each to `each`; returns how many. Stops early at a slot that is claimed but
    /// not written yet. A panic in `each` loses nothing but the message it was given.
    ///
    /// A slot is given back when `each` is done with its message, which need not be moved out of it.
    ///
    /// # Safety
    /// The caller is the only consumer: no other call of `consume` on this ring overlaps with this one, and one that came before
    /// happens-before this one.
    // Not inlined: the look that finds nothing is, and this is what follows when it finds something.
    #[inline(never)]
    pub unsafe fn consume(&self, max: usize, mut each: impl FnMut(Taken<'_, T>)) -> usize {
        // Relaxed: the consumer's own word; a new consumer sees it by the happens-before that the caller vouches for.
        let mut head = self.head.load(Ordering::Relaxed);
        let slots = &*self.slots;
        let mut taken = 0;
        while taken < max {
            let ready = Slot::ready(slots, head).min(max - taken);
            if ready == 0 {
                break;
            }
            for _ in 0..ready {
                let slot = Slot::of(slots, head);
                head += 1;
                let _returned = Return { head: &self.head, next: head };
                // SAFETY: `ready` says that the slot holds this position's message, written before the Release that it acquired; we are
                // the only consumer, and moving `head` on, after this, makes sure that it is taken only once.
                unsafe { slot.take(&mut each) };
                slot.keep_to_itself();
            }
            taken += ready;
        }
        taken
    }

    /// As [`Ring::consume`], a batch of up to `max` at a time, and at a [`Distance`] from a stream's producers: messages may be left to a later call. Not so where
    /// `now`, the time of this call, is `None`.
    ///
    /// # Safety
    /// As for [`Ring::consume`].
    #[inline(always)]
    pub(super) unsafe fn consume_batch(
        &self,
        max: usize,
        distance: &mut Distance,
        now: Option<Instant>,
        each: impl FnMut(Taken<'_, T>),
    ) -> usize {
        if distance.holds_back(now, |others| self.has_message_after(others)) {
            return 0;
        }
        // SAFETY: as the caller vouches.
        let taken = unsafe { self.consume(max.min(BATCH), each) };
        distance.took(taken);
        taken
    }

    /// Gives all messages to `each`, in order and in runs; as [`Ring::consume`], for a ring that is drained: the slots of a run are given back when `each` is done
    /// with it, and what it does not take ends the call.
    ///
    /// # Safety
    /// As for [`Ring::consume`].
    #[inline(always)]
    pub(super) unsafe fn consume_runs(&self, mut each: impl FnMut(&mut Run<'_, T>)) {
        // Relaxed: as in `consume`.
        let mut head = self.head.load(Ordering::Relaxed);
        let slots = &*self.slots;
        loop {
            // SAFETY: the caller is the only consumer, and all before `head` was taken, and nothing else.
            let run = unsafe { Run::ready(slots, head) };
            let wanted = run.len();
            if wanted == 0 {
                break;
            }
            let mut lent = Lent { head: &self.head, first: head, run };
            each(&mut lent.run);
            head += lent.run.taken() as u64;
            if lent.run.taken() < wanted {
                break;
            }
        }
    }

    /// Closes the ring: from now on every push is refused. What was claimed before stays to be consumed. Idempotent.
    pub fn close(&self) {
        // Relaxed: see `claim`; the modification order of this one word decides.
        self.claims.tail.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Whether [`Ring::close`] was called.
    pub fn is_closed(&self) -> bool {
        // Relaxed: a closed ring stays closed; nothing else is concluded from it.
        self.claims.tail.load(Ordering::Relaxed) & CLOSED != 0
    }
}

enum ClaimError {
    Full,
    Closed,
}

/// Where a ring's next message will appear, for its consumer, who so looks for it without a look at the ring: two words of its own and one of the ring's.
#[derive(Debug)]
pub(super) struct Lookout {
    sequence: *const AtomicU64,
    awaited: u64,
}

// SAFETY: only read through, by whoever vouches for the ring, on any thread.
unsafe impl Send for Lookout {}

impl Lookout {
    /// For a consumer without a ring: at a word that is always 0, where no message appears.
    pub(super) fn nowhere(zero: &AtomicU64) -> Self {
        Self { sequence: zero, awaited: 1 }
    }

    /// As [`Ring::has_message`], as long as no message was taken since this was made.
    ///
    /// # Safety
    /// The ring, or the word that is always 0, is still there.
    #[inline(always)]
    pub(super) unsafe fn has_message(&self) -> bool {
        // SAFETY: as the caller vouches.
        let sequence = unsafe { &*self.sequence };
        // Relaxed: only a hint, as in `Ring::has_message`.
        sequence.load(Ordering::Relaxed) == self.awaited
    }
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
        let left = unsafe { self.consume(usize::MAX, |message| drop(message)) };
        // Messages are answered by the drain, in order and with a reason; here they could only be dropped.
        debug_assert!(left == 0 || std::thread::panicking(), "a ring was dropped with {left} messages in it");
    }
}
