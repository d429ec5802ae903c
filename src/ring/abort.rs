//! Aborting what is left in a ring, run by run: outcomes for one mailbox go there together.

use super::inside::contain_panic;
use super::mpsc::Ring;
use super::outcome::{AbortReason, Aborted, Envelope, Outcome, Responder};
use super::parcel::{Parcel, Reply};
use super::place::Taken;
use super::slot::{LONGEST_RUN, Run, Slot};

impl<M, R> Run<'_, Envelope<M, R>> {
    /// Answers all of them: aborted for `reason`, and not executed. `discard` drops each message before its sender hears of it, so that what it holds is free by
    /// then.
    #[inline(always)]
    pub(crate) fn abort_all(&mut self, reason: AbortReason, mut discard: impl FnMut(Taken<'_, M>)) {
        let mut left = self.take_all();
        for slot in left {
            // SAFETY: an envelope that is ours, within which this part is.
            let message = unsafe { &raw mut (*slot.message()).message };
            // SAFETY: as above, and moved on as what it is, once.
            let message = unsafe { Taken::new(message) };
            // Foreign: a closure drops what it captured, and all messages are to be answered all the same.
            if contain_panic(|| discard(message)).is_none() {
                tracing::error!("a message that was not executed panicked when it was dropped");
            }
        }
        while let Some(first) = left.first() {
            let responder = responder_in(first);
            // SAFETY: ours, and still there, as all that is answered is left behind below.
            let address = unsafe { &*responder }.address();
            let answered = if let Some((mailbox, _)) = address {
                // SAFETY: as above, of all that are left.
                unsafe { abort_together(mailbox, left, reason) }
            } else {
                // SAFETY: as above, and moved out once.
                let responder = unsafe { responder.read() };
                responder.deliver(Outcome::Aborted(Aborted::unexecuted(reason)));
                1
            };
            (_, left) = left.split_at(answered);
        }
    }
}

/// Aborts as many of the `envelopes`, from the first on, as are to be answered to `mailbox`; returns how many.
///
/// # Safety
/// The responders of the envelopes are the caller's; those that are answered here are so no more.
#[inline(always)]
unsafe fn abort_together<M, R>(
    mailbox: *const Ring<Parcel<R>>,
    envelopes: &[Slot<Envelope<M, R>>],
    reason: AbortReason,
) -> usize {
    let mut tokens = [0; LONGEST_RUN];
    let mut count = 0;
    for (slot, place) in envelopes.iter().zip(&mut tokens) {
        // SAFETY: the caller's, and not answered yet.
        match unsafe { &*responder_in(slot) }.address() {
            Some((other, token)) if other == mailbox => *place = token,
            _ => break,
        }
        count += 1;
    }
    let parcel = |index: usize| {
        // SAFETY: below `count`.
        let token = unsafe { *tokens.get_unchecked(index) };
        Parcel::One(Reply { token, outcome: Outcome::Aborted(Aborted::unexecuted(reason)) })
    };
    // SAFETY: each of these responders has its reference to the mailbox, and is not looked at any more.
    unsafe { Parcel::deliver_all(mailbox, count, parcel) };
    count
}

/// Where the responder of the envelope in `slot` lies.
#[inline(always)]
fn responder_in<M, R>(slot: &Slot<Envelope<M, R>>) -> *const Responder<R> {
    // SAFETY: in the slot, and not looked at here.
    unsafe { &raw const (*slot.message()).responder }
}
