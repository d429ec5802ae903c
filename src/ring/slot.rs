//! The slots of a ring: how one is filled, and runs of those that hold messages.

use super::place::{Filled, Place, Taken};
use super::prefetch_to_write;
use crate::sync::{AtomicU64, Ordering, Protection, UnsafeCell, ordering};
use std::fmt;
use std::mem::MaybeUninit;

/// How many slots ahead of its claim a producer asks for the next ones, at least, which lie in the consumer's cache: about as long as the way takes. What is asked
/// for sooner is lost again to a consumer that looks ahead.
pub(super) const WRITE_AHEAD: usize = 4;

/// How many slots a consumer looks at before it takes the first of them.
const READ_AHEAD: usize = 8;

/// The most messages of a [`Run`], and of a claim.
pub(super) const LONGEST_RUN: usize = 32;

/// A slot is written by the producer that claimed it and read by the consumer, in turns that `sequence` and `head` decide.
#[repr(C, align(64))]
pub(super) struct Slot<T> {
    pub(super) sequence: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Slot<T> {
    /// One without a message: none has sequence 0.
    pub(super) fn empty() -> Self {
        Self { sequence: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The slot of `position`, of a ring's `slots`: loops have these in registers, as no compiler knows that a ring's slots stay where they are.
    #[inline(always)]
    pub(super) fn of(slots: &[Self], position: u64) -> &Self {
        // SAFETY: below the length, which is a power of two.
        unsafe { slots.get_unchecked(position as usize & (slots.len() - 1)) }
    }

    /// Has `write` put the value of `position` into its `slot`, and hands it to the consumer by a store that is the last access to it.
    ///
    /// # Safety
    /// `slot` is valid until that store, and `position` was claimed by the caller.
    #[inline(always)]
    pub(super) unsafe fn fill(
        slot: *const Self,
        position: u64,
        write: impl for<'p> FnOnce(Place<'p, T>) -> Filled<'p>,
    ) {
        // SAFETY: valid; a reference to the cell alone, which others may free once the store below is done.
        let cell = unsafe { &(*slot).value };
        cell.with_mut(|cell| {
            // SAFETY: the claim found that the consumer is done with the slot: until the store below nobody else touches it.
            let place = unsafe { Place::new(cell.cast::<T>()) };
            write(place);
        });
        // SAFETY: valid until the store below has happened.
        let sequence = unsafe { &(*slot).sequence };
        // Release: pairs with the Acquire in `holds`, for who reads the value.
        sequence.store(position + 1, ordering(Ordering::Release, Protection::SlotRelease));
    }

    /// Has `write` fill the slots of `count` successive positions from `first` on, as [`Slot::fill`]; each is asked for by its index in them.
    ///
    /// From the last to the first, so that the consumer, who waits at the first, finds all of them at once and takes none of their lines away
    /// meanwhile. On the way, as many slots behind them are asked for.
    ///
    /// # Safety
    /// `slots`, so many in a row, are valid until the first position's value is handed over, and the positions were claimed by the caller.
    #[inline(always)]
    pub(super) unsafe fn fill_all(
        slots: *const Self,
        first: u64,
        count: usize,
        mut write: impl for<'p> FnMut(usize, Place<'p, T>) -> Filled<'p>,
    ) {
        // Those of the next claim, if that is as large.
        let ahead = count.max(WRITE_AHEAD);
        for index in (0..count).rev() {
            let slot = slots.wrapping_add(index);
            Self::ask_for(slot, ahead);
            // SAFETY: valid and claimed, as the caller vouches.
            unsafe { Self::fill(slot, first + index as u64, |place| write(index, place)) };
        }
    }

    /// Asks for the slot that lies `ahead` of this one, to write it soon: its first line. A second one holds the commands of messages that have one, which are too
    /// few to ask for it each time; and behind the last slot is another one's memory, or none, which costs nothing but the time that it would have saved.
    #[inline(always)]
    pub(super) fn ask_for(slot: *const Self, ahead: usize) {
        prefetch_to_write(slot.wrapping_add(ahead).cast());
    }

    /// How many messages lie ready from `position` on, of a ring's `slots`, as far as one looks ahead. Looking at all of them first has them on their way together,
    /// and not each when the one before it has been dealt with. (Always as many, so that it is unrolled: a branch for each is foretold better than one for all.)
    #[inline(always)]
    pub(super) fn ready(slots: &[Self], position: u64) -> usize {
        let is_ready = |position: &u64| Self::of(slots, *position).holds(position + 1);
        (position..position + READ_AHEAD as u64).take_while(is_ready).count()
    }

    /// Whether the message with this `sequence` lies in it.
    #[inline(always)]
    fn holds(&self, sequence: u64) -> bool {
        // Acquire: pairs with the Release in `fill`, for who reads the value.
        self.sequence.load(Ordering::Acquire) == sequence
    }

    /// Gives its message to `each`, which need not move it out.
    ///
    /// # Safety
    /// It has one ([`Slot::ready`]), which is the caller's, and is given away once.
    #[inline(always)]
    pub(super) unsafe fn take(&self, each: impl FnOnce(Taken<'_, T>)) {
        self.value.with_mut(|cell| {
            // SAFETY: as the caller vouches.
            each(unsafe { Taken::new(cell.cast::<T>()) });
        });
    }

    /// Writes to the slot whose message was taken, which nobody reads: so its line is the consumer's alone, and who asks for it ahead of the next message has it. A
    /// line that the consumer only read lies with both until the producer's next store, for which its claim after that waits.
    #[inline(always)]
    pub(super) fn keep_to_itself(&self) {
        // Relaxed: no sequence that anybody waits for; the slot's return, which comes after it, orders it before what the next producer writes.
        self.sequence.store(0, Ordering::Relaxed);
    }

    /// Where its message lies, for who has that.
    #[inline(always)]
    pub(super) fn message(&self) -> *mut T {
        self.value.with_mut(<*mut MaybeUninit<T>>::cast)
    }
}

/// Messages that lie ready in successive slots, to be taken from the first on by the ring's consumer, or by whom it lends them to. Those that are not taken stay
/// where they are.
pub struct Run<'slots, T> {
    /// From `taken` on, each has a message, which is this run's and nobody else's.
    slots: &'slots [Slot<T>],
    taken: usize,
}

impl<'slots, T> Run<'slots, T> {
    /// Those that lie ready from `position` on, of a ring's `slots`.
    ///
    /// # Safety
    /// The caller is the only consumer, and took all that was there before `position`, and nothing else.
    #[inline(always)]
    pub(super) unsafe fn ready(slots: &'slots [Slot<T>], position: u64) -> Self {
        let (_, in_a_row) = slots.split_at(position as usize & (slots.len() - 1));
        let in_a_row = &in_a_row[..in_a_row.len().min(LONGEST_RUN)];
        let is_ready = |(slot, sequence): &(&Slot<T>, u64)| slot.holds(*sequence);
        let ready =
            |slots: &'slots [Slot<T>], first: u64| slots.iter().zip(first..).take_while(is_ready).count();
        let mut count = 0;
        // As many at a time as `Slot::ready` looks at, and for its reasons.
        let (chunks, rest) = in_a_row.as_chunks::<READ_AHEAD>();
        for chunk in chunks {
            let ready = ready(chunk, position + 1 + count as u64);
            count += ready;
            if ready < READ_AHEAD {
                return Self { slots: &in_a_row[..count], taken: 0 };
            }
        }
        count += ready(rest, position + 1 + count as u64);
        Self { slots: &in_a_row[..count], taken: 0 }
    }

    /// Lends `message` to `each`, as a ring would. What is not taken is dropped.
    pub(super) fn lend(message: T, each: impl FnOnce(&mut Run<'_, T>)) {
        struct DropLeft<'slots, T>(Run<'slots, T>);
        impl<T> Drop for DropLeft<'_, T> {
            fn drop(&mut self) {
                self.0.for_each(|message| drop(message));
            }
        }
        let slot = Slot { sequence: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::new(message)) };
        let mut lent = DropLeft(Run { slots: std::slice::from_ref(&slot), taken: 0 });
        each(&mut lent.0);
    }

    /// How many there were.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many were taken.
    #[inline(always)]
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes them all and gives each to `each`, which need not move it out of its slot. A panic in `each` loses nothing but the message it was given.
    #[inline(always)]
    pub fn for_each(&mut self, mut each: impl FnMut(Taken<'_, T>)) {
        while let Some(slot) = self.slots.get(self.taken) {
            self.taken += 1;
            // SAFETY: a message of this run, which says by `taken` that it is not any more.
            unsafe { slot.take(&mut each) };
        }
    }

    /// Takes them all at once: the slots of those that were not taken before, whose messages ([`Slot::message`]) are the caller's now.
    #[inline(always)]
    pub(super) fn take_all(&mut self) -> &'slots [Slot<T>] {
        let (_, left) = self.slots.split_at(self.taken);
        self.taken = self.slots.len();
        left
    }
}

impl<T> fmt::Debug for Run<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("len", &self.slots.len()).field("taken", &self.taken).finish()
    }
}
