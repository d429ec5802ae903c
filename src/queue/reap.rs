//! The completion side of a [`Pair`]: what the device posted, checked on a private copy, and handed to who asked for it.

use super::QueueError;
use super::pair::Pair;
use crate::dma::DmaSlice;
use crate::spec::completion::Completion;
use std::sync::atomic::{AtomicU64, Ordering};

/// 64-bit words in a completion queue entry.
const CQE_WORDS: usize = size_of::<Completion>() / size_of::<u64>();
/// The phase tag in the second word of a completion: bit 16 of dword 3 (NVMe Base 2.0, 3.3.3.2).
pub(super) const PHASE: u64 = 1 << 48;

impl<R> Pair<R> {
    /// Whether [`process`](Self::process) would find a completion: one load and a compare.
    #[inline]
    pub fn has_completion(&self) -> bool {
        self.new_word().is_some()
    }

    /// Hands up to `max` completions to `f`, each with what its owner remembers and the data, and returns how many there
    /// were. The device is told once at the end, also when `f` panics.
    ///
    /// # Errors
    /// [`QueueError`] when the device posted what it must not. What came before was handed to `f`; the wrong completion
    /// stays where it is, so the next call finds it again. The pair is then to be emptied by
    /// [`abort_all`](Self::abort_all) once the device was stopped.
    #[inline(always)]
    pub fn process(
        &mut self,
        max: usize,
        f: impl FnMut(R, Option<DmaSlice>, Completion),
    ) -> Result<usize, QueueError> {
        if self.new_word().is_none() {
            return Ok(0);
        }
        self.process_batch(max, f)
    }

    /// As [`process`](Self::process), but the device is not told: [`acknowledge`](Self::acknowledge) does that, when the caller has made sure that the
    /// queues still exist.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    #[inline(never)]
    pub fn process_quietly(
        &mut self,
        max: usize,
        f: impl FnMut(R, Option<DmaSlice>, Completion),
    ) -> Result<usize, QueueError> {
        self.consume_batch(max, f)
    }

    /// Tells the device of the completions that were taken since the last time; does nothing if there are none.
    #[inline]
    pub fn acknowledge(&mut self) {
        if self.cq_head != self.cq_rung {
            self.cq_doorbell.ring(self.cq_head);
            self.cq_rung = self.cq_head;
        }
    }

    /// The word with the phase tag of the next completion, if there is one: one load and a compare.
    #[inline]
    fn new_word(&self) -> Option<u64> {
        // Acquire: pairs with the device's Release store of the word with the phase tag; what the device wrote before
        // (the rest of the entry, the data) is then there.
        let word = self.cq_word(1).load(Ordering::Acquire);
        (word & PHASE == self.phase).then_some(word)
    }

    /// Word `i` (0 or 1) of the next completion.
    #[inline]
    fn cq_word(&self, i: usize) -> &AtomicU64 {
        debug_assert!(i < CQE_WORDS);
        // SAFETY: `cq_memory` has `cq_entries` entries and `cq_head` is below that.
        let word = unsafe { self.cq.add(self.cq_head as usize * CQE_WORDS + i) };
        // SAFETY: inside the queue, aligned as the queue is to a page, mapped while `self` lives, and accessed
        // atomically or by a device.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    /// A private copy of the next completion, if there is one: what is checked is what is used.
    #[inline]
    fn next_completion(&self) -> Option<Completion> {
        let second = self.new_word()?;
        order_after_device();
        // Relaxed: ordered behind the phase tag by the Acquire in `new_word`.
        let first = self.cq_word(0).load(Ordering::Relaxed);
        // The phase tag is in the last part of an entry that a device writes, so the load that saw it has the other
        // fields of its word too: a 64-bit word is loaded at once.
        let words: [u64; CQE_WORDS] = [first, second];
        Some(zerocopy::transmute!(words))
    }

    #[inline(never)]
    fn process_batch(
        &mut self,
        max: usize,
        f: impl FnMut(R, Option<DmaSlice>, Completion),
    ) -> Result<usize, QueueError> {
        let batch = Batch(self);
        batch.0.consume_batch(max, f)
    }

    #[inline(always)]
    fn consume_batch(
        &mut self,
        max: usize,
        mut f: impl FnMut(R, Option<DmaSlice>, Completion),
    ) -> Result<usize, QueueError> {
        let mut count = 0;
        while count < max
            && let Some(completion) = self.next_completion()
        {
            let (request, data) = self.consume(completion)?;
            count += 1;
            f(request, data, completion);
        }
        Ok(count)
    }

    /// Checks a completion and, if it is right, moves past it.
    ///
    /// SQHD is the head "when the completion queue entry was created" (NVMe Base 2.0, 3.3.3.2), and a controller that works on several commands
    /// at once may post them in another order: then a completion tells an older head than the one before. That, and what cannot be told from it
    /// (a head beyond the tail), is no news: the known head stays, which only ever moves over what was submitted.
    #[inline]
    fn consume(&mut self, completion: Completion) -> Result<(R, Option<DmaSlice>), QueueError> {
        let sqhd = u32::from(completion.sqhd);
        let is_news = self.fetched(sqhd) <= self.fetched(self.sq_rung);
        if completion.sqid != self.qid || !is_news && sqhd >= self.sq_entries {
            return Err(self.wrong_queue(completion));
        }
        let held = self.trackers.release(self.qid, completion.cid)?;
        if is_news {
            self.sq_head = sqhd;
        }
        self.cq_head += 1;
        if self.cq_head == self.cq_entries {
            self.cq_head = 0;
            self.phase ^= PHASE;
        }
        Ok(held)
    }

    /// How far `index` is ahead of the known head; more than can be for one that is not in the queue.
    #[inline]
    fn fetched(&self, index: u32) -> u32 {
        if index >= self.sq_entries {
            u32::MAX
        } else if index >= self.sq_head {
            index - self.sq_head
        } else {
            index + self.sq_entries - self.sq_head
        }
    }

    #[cold]
    fn wrong_queue(&self, completion: Completion) -> QueueError {
        let qid = self.qid;
        if completion.sqid == qid {
            QueueError::SubmissionHead { qid, sqhd: completion.sqhd, entries: self.sq_entries }
        } else {
            QueueError::SubmissionQueue { qid, sqid: completion.sqid }
        }
    }
}

/// A batch of completions: tells the device at its end how far it got.
struct Batch<'a, R>(&'a mut Pair<R>);

impl<R> Drop for Batch<'_, R> {
    #[inline]
    fn drop(&mut self) {
        self.0.acknowledge();
    }
}

/// Orders the load of the phase tag before later loads as devices see them. Rust's Acquire reaches the inner shareable
/// domain only, and a device may be outside it.
#[cfg(target_arch = "aarch64")]
#[inline]
fn order_after_device() {
    // SAFETY: a barrier changes neither registers nor memory.
    unsafe { std::arch::asm!("dmb oshld", options(nostack, preserves_flags)) };
}

/// Nothing to do: the architecture's Acquire load orders loads from devices' writes too.
#[cfg(not(target_arch = "aarch64"))]
#[inline]
fn order_after_device() {}
