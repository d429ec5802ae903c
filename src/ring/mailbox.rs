//! Mailboxes: a sender's window of messages in flight, whose outcomes come back by token, with no allocation and no wake-up.
//!
//! The fast way to have many messages on their way. A mailbox is another [`Ring`], from the poller to the sender. Each message takes
//! one *credit* along, a counted reference to that ring, which returns with the outcome: so an outcome always finds a free slot, no reference
//! count is touched on the way, and the ring lives until the last outcome is in. When the mailbox is dropped first, its ring is closed,
//! and later outcomes are dropped where they arise. Small outcomes share slots ([`super::parcel`]), and so need fewer than they have.
//!
//! The reference travels with the message, and not with the reply, for whoever takes that out of the ring has the ring. What delivers forgets the reference
//! ([`Arc::into_raw`]), what is at home is counted, and what sends again makes the reference anew ([`Arc::from_raw`]).

use super::mpsc::Ring;
use super::outcome::{Outcome, Responder};
use super::parcel::{Answer, Parcel, Reply, Word, Words};
use super::place::Taken;
use crate::sync::{Arc, Protection, protected, yield_now};
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};

/// The right to a slot of a mailbox, and what keeps its ring.
pub(super) type Credit<R> = Arc<Ring<Parcel<R>>>;

impl<R> Parcel<R> {
    pub(super) fn deliver(credit: Credit<R>, token: u64, outcome: Outcome<R>) {
        let parcel = ManuallyDrop::new(Self::One(Reply { token, outcome }));
        // SAFETY: it is not used as one any more, and asked for once.
        let take = |_| unsafe { std::ptr::read(&raw const *parcel) };
        // SAFETY: its credit is of this ring.
        unsafe { Self::deliver_all(Arc::into_raw(credit), 1, take) };
    }

    /// Delivers, or drops, `count` parcels, with their credits; `parcel` is asked for each of them once, by its index.
    ///
    /// # Safety
    /// As many references to `ring` as they bring replies, as [`Arc::into_raw`] gave them, were the caller's and are so no more.
    #[inline(always)]
    pub(super) unsafe fn deliver_all(
        ring: *const Ring<Self>,
        count: usize,
        mut parcel: impl FnMut(usize) -> Self,
    ) {
        // SAFETY: each parcel that is not handed over yet has a reference to the ring, which so is valid.
        let pushed = unsafe { Ring::push_owners(ring, count, |index, place| place.fill(parcel(index))) };
        let taken = pushed.unwrap_or(0);
        if taken < count {
            // SAFETY: as the caller vouches, for those that were not taken.
            unsafe { Self::drop_unwanted(ring, (taken..count).map(parcel)) };
        }
    }

    /// The mailbox was dropped: nobody wants these outcomes, nor their credits.
    ///
    /// # Safety
    /// As for [`Parcel::deliver_all`].
    #[cold]
    unsafe fn drop_unwanted(ring: *const Ring<Self>, unwanted: impl Iterator<Item = Self>) {
        for parcel in unwanted {
            for _ in 0..parcel.len() {
                // SAFETY: as the caller vouches, once for each.
                let credit = unsafe { Arc::from_raw(ring) };
                // There are as many slots as credits.
                debug_assert!(
                    credit.is_closed(),
                    "a mailbox was full though it gave out no more credits than it has slots"
                );
                drop(credit);
            }
            drop(parcel);
        }
    }
}

/// Outcomes that wait for each other at most: as many as a poll takes messages.
const OUTBOX: usize = 8;

/// Outcomes that are delivered together, since one claim of a mailbox's slots costs as much as another, and holds the deliverer up until what it wrote before is on
/// its way. Whoever fills it flushes it before it does anything else; dropping it flushes too.
pub(crate) struct Outbox<R: Answer> {
    /// For one mailbox; the first `len` are there. An array and no vector: each is written where it stays, and no call in between has it made elsewhere.
    replies: [MaybeUninit<Reply<R>>; OUTBOX],
    len: usize,
    /// The mailbox's ring, while there are any: a reference for each of them.
    ring: *const Ring<Parcel<R>>,
    /// Whether anything was delivered that somebody may sleep for.
    has_sleepers: bool,
}

// SAFETY: what it holds goes to whoever receives from the mailbox, on any thread; the pointer stands for as many references as there are replies.
unsafe impl<R: Answer + Send> Send for Outbox<R> {}

impl<R: Answer> Outbox<R> {
    pub(crate) fn new() -> Self {
        let replies = [const { MaybeUninit::uninit() }; OUTBOX];
        Self { replies, len: 0, ring: std::ptr::null(), has_sleepers: false }
    }

    /// Delivers `outcome` now, or, if it is for a mailbox, with the next flush at the latest.
    #[inline(always)]
    pub(crate) fn deliver(&mut self, responder: Responder<R>, outcome: Outcome<R>) {
        let (credit, token) = match responder.into_mailbox() {
            Ok(address) => address,
            Err(responder) => return self.deliver_past(responder, outcome),
        };
        if self.len == OUTBOX || self.ring != Arc::as_ptr(&credit) {
            self.flush();
            self.ring = Arc::as_ptr(&credit);
        }
        // SAFETY: below `OUTBOX`, by the flush above.
        let place = unsafe { self.replies.get_unchecked_mut(self.len) };
        place.write(Reply { token, outcome });
        self.len += 1;
        // It goes with the reply.
        std::mem::forget(credit);
    }

    #[inline(never)]
    fn deliver_past(&mut self, responder: Responder<R>, outcome: Outcome<R>) {
        self.has_sleepers = true;
        responder.deliver(outcome);
    }

    /// Something was, or will be, delivered past this outbox.
    pub(crate) fn expects_sleepers(&mut self) {
        self.has_sleepers = true;
    }

    /// Whether anything was delivered since the last call that somebody may sleep for: then the bell is to be rung.
    pub(crate) fn take_sleepers(&mut self) -> bool {
        std::mem::take(&mut self.has_sleepers)
    }

    /// Delivers what waits.
    #[inline(never)]
    pub(crate) fn flush(&mut self) {
        let count = std::mem::take(&mut self.len);
        if count == 0 {
            return;
        }
        // SAFETY: so many were written, and are read through this and no more the outbox's.
        let replies = unsafe { std::slice::from_raw_parts(self.replies.as_ptr().cast::<Reply<R>>(), count) };
        // Where each parcel begins, and the last one ends.
        let (mut ends, mut parcels) = ([0; OUTBOX + 1], 0);
        while ends[parcels] < count {
            ends[parcels + 1] = ends[parcels] + Parcel::room_for(&replies[ends[parcels]..]);
            parcels += 1;
        }
        let parcel = |index: usize| match &replies[ends[index]..ends[index + 1]] {
            // SAFETY: it was written, and is asked for once.
            [reply] => Parcel::One(unsafe { std::ptr::read(reply) }),
            // Which need not be dropped.
            words => Parcel::Words(Words::of(words)),
        };
        // SAFETY: they are for this mailbox, whose reference was forgotten with each reply.
        unsafe { Parcel::deliver_all(self.ring, parcels, parcel) };
    }
}

impl<R: Answer> Drop for Outbox<R> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<R: Answer> fmt::Debug for Outbox<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("waiting", &self.len).finish_non_exhaustive()
    }
}

/// Names a mailbox. As long as a message of it is in flight, no other mailbox has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MailboxId(usize);

impl MailboxId {
    pub(super) fn of<R>(ring: *const Ring<Parcel<R>>) -> Self {
        Self(ring.addr())
    }
}

/// A window of messages in flight and their outcomes. One owner; may move between threads.
pub struct Mailbox<R> {
    ring: Credit<R>,
    /// The credits at home, each a reference to the ring that nobody has: `window` of them less what is in flight.
    credits: usize,
    window: usize,
    /// What a panic of its receiver left of a parcel, the last one first.
    left: Vec<(u64, Word)>,
}

/// A parcel of words that is being received.
struct Unpacking<'a> {
    words: &'a Words,
    next: usize,
    /// Where they go, if the receiver panics, that it had not been given yet.
    left: &'a mut Vec<(u64, Word)>,
}

impl Drop for Unpacking<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.next < self.words.len() {
            self.left.extend((self.next..self.words.len()).rev().map(|index| self.words.get(index)));
        }
    }
}

impl<R> Mailbox<R> {
    /// A mailbox for up to `window` messages in flight at a time (1 or more).
    ///
    /// # Panics
    /// If `window` is 0.
    pub fn new(window: usize) -> Self {
        assert!(window > 0, "a mailbox needs a window of 1 or more messages");
        let ring = Arc::new(Ring::new(window.next_power_of_two().max(2)));
        (0..window).for_each(|_| std::mem::forget(Arc::clone(&ring)));
        Self { ring, credits: window, window, left: Vec::new() }
    }

    /// What tells this mailbox from every other one, for those who are asked about messages of it.
    pub fn id(&self) -> MailboxId {
        MailboxId::of(Arc::as_ptr(&self.ring))
    }

    /// How many messages may be in flight at a time.
    pub fn window(&self) -> usize {
        self.window
    }

    /// How many outcomes are still to come or to be received.
    pub fn in_flight(&self) -> usize {
        self.window - self.credits
    }

    /// Gives each outcome that has arrived, with its message's token, to `each`; returns how many. Never waits.
    pub fn receive(&mut self, mut each: impl FnMut(u64, Outcome<R>)) -> usize
    where
        R: Answer,
    {
        let Self { ring, credits, left, .. } = self;
        let mut count = 0;
        let mut receive = |token, outcome| {
            *credits += 1;
            count += 1;
            each(token, outcome);
        };
        while let Some((token, word)) = left.pop() {
            receive(token, Outcome::Completed(R::of_word(word)));
        }
        let unpack = |parcel: Taken<'_, Parcel<R>>| {
            if let Parcel::Words(words) = parcel.get() {
                let mut unpacking = Unpacking { words, next: 0, left };
                while unpacking.next < words.len() {
                    let (token, word) = words.get(unpacking.next);
                    unpacking.next += 1;
                    receive(token, Outcome::Completed(R::of_word(word)));
                }
            } else if let Parcel::One(reply) = parcel.take() {
                receive(reply.token, reply.outcome);
            }
        };
        // SAFETY: `&mut self` is the one consumer of this ring, which nobody else has as a mailbox.
        unsafe { ring.consume(usize::MAX, unpack) };
        count
    }

    /// Drops each outcome that has arrived.
    fn discard(&mut self) {
        let Self { ring, credits, left, .. } = self;
        *credits += left.drain(..).count();
        // SAFETY: as in `receive`.
        unsafe { ring.consume(usize::MAX, |parcel| *credits += parcel.get().len()) };
    }

    /// A responder for one more message, or `None` when the window is used up.
    #[inline]
    pub(crate) fn responder(&mut self, token: u64) -> Option<Responder<R>> {
        self.credit().map(|credit| Responder::to_mailbox(credit, token))
    }

    /// Takes back the credit of a message that was not accepted.
    pub(crate) fn take_back(&mut self, responder: Responder<R>) {
        if let Some(credit) = responder.disarm() {
            debug_assert!(Arc::ptr_eq(&credit, &self.ring), "a credit of another mailbox");
            std::mem::forget(credit);
            self.credits += 1;
        }
    }

    #[inline]
    fn credit(&mut self) -> Option<Credit<R>> {
        self.credits = self.credits.checked_sub(1)?;
        // SAFETY: a reference that was forgotten when it came home, or was made, and that nobody else makes anew: it is not at home any more.
        Some(unsafe { Arc::from_raw(Arc::as_ptr(&self.ring)) })
    }
}

impl<R> Drop for Mailbox<R> {
    fn drop(&mut self) {
        self.ring.close();
        // What arrived before the bit is dropped here; what comes after it is refused, and dropped by its deliverer. A reply whose slot is
        // claimed and not yet written would keep the ring alive in its own slot, for ever: so wait the moment that its deliverer needs.
        self.discard();
        while !self.ring.is_empty() && protected(Protection::MailboxWait) {
            yield_now();
            self.discard();
        }
        while let Some(credit) = self.credit() {
            drop(credit);
        }
    }
}

impl<R> fmt::Debug for Mailbox<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("window", &self.window)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
