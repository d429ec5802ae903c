//! `Pair`: a submission queue, its completion queue and the trackers of what is in flight between them; here are its memory and the submission side, the completion
//! side is in [`super::reap`].
//!
//! Creating the queues at the controller, deciding when a command took too long, and what a status means, are the
//! owner's business.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::reap::PHASE;
use super::tracker::{Outstanding, Trackers};
use super::{RejectReason, Rejected, SetupError};
use crate::dma::prp::{self, PrpList};
use crate::dma::{DmaBuffer, DmaSlice, DmaSpace};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::transport::Doorbell;

/// 64-bit words in a submission queue entry.
const SQE_WORDS: usize = size_of::<Command>() / size_of::<u64>();
/// Where the command identifier is in the first word of a submission queue entry (NVMe Base 2.0, 3.3.3.1).
const CID_SHIFT: u32 = 16;
const CID_BITS: u64 = 0xffff << CID_SHIFT;
/// The largest CC.MPS there is, in bytes.
const MAX_PAGE_BYTES: usize = 4096 << 15;

/// What a [`Pair`] is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairConfig {
    /// Queue identifier of both queues; 0 for the admin queues.
    pub qid: u16,
    /// Submission queue entries, 2 to 65536; one less can be outstanding.
    pub sq_entries: u32,
    /// Completion queue entries, at least as many.
    pub cq_entries: u32,
    /// The controller's page size (CC.MPS) in bytes, a power of two of at least 4096.
    pub page_size: usize,
    /// The longest transfer of one command in bytes (MDTS, or a limit of the driver's own). PRP lists are reserved for
    /// it, one per command.
    pub max_transfer_bytes: usize,
}

/// One submission queue and one completion queue, as admin and I/O queues both are; `R` is what the owner remembers per
/// command.
///
/// One thread at a time uses a pair. Nothing here allocates, locks or waits after [`new`](Self::new).
///
/// Drop a pair only when the device can no longer write to it: its queues are deleted or the controller is disabled. If
/// commands are outstanding all the same, its memory and theirs is not used again before
/// [`DmaSpace::unmap_all`].
pub struct Pair<R> {
    /// First word of the submission queue, in `sq_memory`.
    sq: NonNull<u64>,
    /// First word of the completion queue, in `cq_memory`.
    pub(super) cq: NonNull<u64>,
    pub(super) sq_entries: u32,
    /// Where the next command goes; below `sq_entries`.
    sq_tail: u32,
    /// The tail that the device knows.
    pub(super) sq_rung: u32,
    /// Up to where the device said that it fetched; below `sq_entries`.
    pub(super) sq_head: u32,
    pub(super) cq_entries: u32,
    /// Where the next completion comes; below `cq_entries`.
    pub(super) cq_head: u32,
    /// The head that the device knows.
    pub(super) cq_rung: u32,
    /// The phase tag of a new completion: `PHASE` or 0.
    pub(super) phase: u64,
    pub(super) trackers: Trackers<R>,
    sq_doorbell: Doorbell,
    pub(super) cq_doorbell: Doorbell,
    pub(super) qid: u16,
    page_size: usize,
    max_transfer_bytes: usize,
    /// Bytes of PRP list memory per tracker.
    list_bytes: usize,
    lists: Option<DmaBuffer>,
    sq_memory: DmaBuffer,
    cq_memory: DmaBuffer,
}

// SAFETY: the two pointers go to memory that the pair owns and that is accessed atomically, on any thread; everything
// else is `Send` by itself.
unsafe impl<R: Send> Send for Pair<R> {}

impl<R> Pair<R> {
    /// Reserves the memory of a pair. The queues are then to be created at the controller, at [`sq_iova`](Self::sq_iova)
    /// and [`cq_iova`](Self::cq_iova), before anything is committed.
    ///
    /// # Errors
    /// [`SetupError`] for sizes out of range, or when there is no memory.
    pub fn new(
        dma: &DmaSpace,
        config: PairConfig,
        sq_doorbell: Doorbell,
        cq_doorbell: Doorbell,
    ) -> Result<Self, SetupError> {
        let PairConfig { qid, sq_entries, cq_entries, page_size, max_transfer_bytes } = config;
        for entries in [sq_entries, cq_entries] {
            if !(2..=65536).contains(&entries) {
                return Err(SetupError::Entries { qid, entries });
            }
        }
        if cq_entries < sq_entries {
            return Err(SetupError::CompletionQueueTooSmall { qid, sq_entries, cq_entries });
        }
        if !page_size.is_power_of_two() || !(4096..=MAX_PAGE_BYTES).contains(&page_size) {
            return Err(SetupError::PageSize { qid, page_size });
        }
        let capacity = (sq_entries - 1) as u16;
        let memory = |entries: usize, bytes: usize| {
            let len = entries.saturating_mul(bytes);
            dma.allocate_aligned(len, page_size).map_err(|source| SetupError::Memory { qid, source })
        };
        let sq_memory = memory(sq_entries as usize, size_of::<Command>())?;
        let cq_memory = memory(cq_entries as usize, size_of::<Completion>())?;
        let list_bytes = prp::list_bytes(max_transfer_bytes, page_size);
        let lists = match list_bytes {
            0 => None,
            bytes => Some(memory(usize::from(capacity), bytes)?),
        };
        Ok(Self {
            sq: sq_memory.as_ptr().cast(),
            cq: cq_memory.as_ptr().cast(),
            sq_entries,
            sq_tail: 0,
            sq_rung: 0,
            sq_head: 0,
            cq_entries,
            cq_head: 0,
            cq_rung: 0,
            phase: PHASE,
            trackers: Trackers::new(capacity),
            sq_doorbell,
            cq_doorbell,
            qid,
            page_size,
            max_transfer_bytes,
            list_bytes,
            lists,
            sq_memory,
            cq_memory,
        })
    }

    /// Queue identifier; 0 for the admin queues.
    pub fn qid(&self) -> u16 {
        self.qid
    }

    /// Where the device finds the submission queue: a multiple of the page size.
    pub fn sq_iova(&self) -> u64 {
        self.sq_memory.iova()
    }

    /// Where the device finds the completion queue: a multiple of the page size.
    pub fn cq_iova(&self) -> u64 {
        self.cq_memory.iova()
    }

    /// Submission queue entries.
    pub fn sq_entries(&self) -> u32 {
        self.sq_entries
    }

    /// Completion queue entries.
    pub fn cq_entries(&self) -> u32 {
        self.cq_entries
    }

    /// The longest transfer of one command in bytes.
    pub fn max_transfer_bytes(&self) -> usize {
        self.max_transfer_bytes
    }

    /// Lowers the longest transfer to what the controller turns out to take. A higher value changes nothing, as the PRP lists are reserved.
    pub fn limit_transfer_bytes(&mut self, max_transfer_bytes: usize) {
        self.max_transfer_bytes = self.max_transfer_bytes.min(max_transfer_bytes);
    }

    /// Commands that may be outstanding at once: one less than there are submission queue entries.
    pub fn capacity(&self) -> usize {
        self.trackers.capacity()
    }

    /// The bits of a command identifier that say its slot, below [`capacity`](Self::capacity), which no other command in flight has.
    pub fn slot_mask(&self) -> u16 {
        self.trackers.index_mask()
    }

    /// Commands that were submitted and have not come back to their owners.
    pub fn outstanding(&self) -> usize {
        self.trackers.outstanding()
    }

    /// Whether [`submit`](Self::submit) would answer [`RejectReason::QueueFull`].
    pub fn is_full(&self) -> bool {
        self.trackers.next_slot().is_none() || self.next_tail() == self.sq_head
    }

    /// What the owner remembers about an outstanding command.
    pub fn find(&self, cid: u16) -> Option<&R> {
        self.trackers.find(cid)
    }

    /// The identifier of an outstanding command, by what its owner remembers about it. Looks through all of them.
    pub fn find_cid(&self, is_wanted: impl FnMut(&R) -> bool) -> Option<u16> {
        self.trackers.find_cid(is_wanted)
    }

    /// Shows every outstanding command to `f`.
    pub fn for_each_outstanding(&mut self, f: impl FnMut(Outstanding<'_, R>)) {
        self.trackers.for_each(f);
    }

    /// Writes `command` into the submission queue and returns the command identifier that it was given. The device
    /// learns of it by [`commit`](Self::commit).
    ///
    /// `data` belongs to the command until it completes, and its PRP entries are filled in. Without data PRP1 and PRP2
    /// are sent as they are. The command must not transfer more than `data` is long; whatever it does transfer, the
    /// device reaches DMA memory only.
    ///
    /// # Errors
    /// [`Rejected`] with the reason, the data and the request.
    #[inline]
    pub fn submit(
        &mut self,
        command: Command,
        data: Option<DmaSlice>,
        request: R,
    ) -> Result<u16, Rejected<R>> {
        let mut command = command;
        let next_tail = self.next_tail();
        let slot = match self.trackers.next_slot() {
            Some(slot) if next_tail != self.sq_head => slot,
            _ => return Err(Rejected { reason: RejectReason::QueueFull, data, request }),
        };
        if let Some(slice) = &data {
            match self.describe(slot, slice) {
                Ok((prp1, prp2)) => (command.prp1, command.prp2) = (prp1, prp2),
                Err(reason) => return Err(Rejected { reason, data, request }),
            }
        }
        let cid = match self.trackers.hold(request, data, command.opcode) {
            Ok(cid) => cid,
            Err((request, data)) => return Err(Rejected { reason: RejectReason::QueueFull, data, request }),
        };
        self.write_entry(command, cid);
        self.sq_tail = next_tail;
        Ok(cid)
    }

    /// Tells the device of everything that was submitted since the last time; does nothing if there is nothing.
    #[inline]
    pub fn commit(&mut self) {
        if self.has_uncommitted() {
            self.sq_doorbell.ring(self.sq_tail);
            self.sq_rung = self.sq_tail;
        }
    }

    /// Whether [`commit`](Self::commit) would ring.
    #[inline]
    pub fn has_uncommitted(&self) -> bool {
        self.sq_tail != self.sq_rung
    }

    /// Gives every outstanding command back to its owner, in no particular order. Only when the device has stopped, as
    /// it could otherwise still write to the data.
    pub fn abort_all(&mut self, f: impl FnMut(R, Option<DmaSlice>)) {
        self.trackers.release_all(f);
    }

    /// Makes the pair as new, for queues that are created anew after a controller reset. The sequence bits of command
    /// identifiers go on, so that a completion from before the reset is still found out.
    ///
    /// # Panics
    /// When commands are outstanding: [`abort_all`](Self::abort_all) comes first.
    pub fn reset(&mut self) {
        assert_eq!(self.outstanding(), 0, "queue pair {} is reset with commands outstanding", self.qid);
        self.sq_memory.fill(0);
        self.cq_memory.fill(0);
        (self.sq_tail, self.sq_rung, self.sq_head) = (0, 0, 0);
        (self.cq_head, self.cq_rung, self.phase) = (0, 0, PHASE);
    }

    #[inline]
    fn next_tail(&self) -> u32 {
        let next = self.sq_tail + 1;
        if next == self.sq_entries { 0 } else { next }
    }

    /// PRP1 and PRP2 for `slice`, with the list memory of `slot`.
    #[inline]
    fn describe(&self, slot: u16, slice: &DmaSlice) -> Result<(u64, u64), RejectReason> {
        let len = slice.len();
        if len > self.max_transfer_bytes {
            return Err(RejectReason::TooLarge { len, limit: self.max_transfer_bytes });
        }
        let list = self
            .lists
            .as_ref()
            .and_then(|lists| PrpList::new(lists, usize::from(slot) * self.list_bytes, self.list_bytes));
        Ok(prp::describe(slice.iova(), len, self.page_size, list)?)
    }

    #[inline]
    fn write_entry(&mut self, command: Command, cid: u16) {
        let mut words: [u64; SQE_WORDS] = zerocopy::transmute!(command);
        // Into the word and not into the command: a 16-bit store that is loaded again as part of a 64-bit word at once
        // stalls for longer than all the rest of this function takes.
        words[0] = words[0] & !CID_BITS | u64::from(cid) << CID_SHIFT;
        let first = self.sq_tail as usize * SQE_WORDS;
        for (i, value) in words.into_iter().enumerate() {
            // SAFETY: `sq_memory` has `sq_entries` entries and `sq_tail` is below that.
            let word = unsafe { self.sq.add(first + i) };
            // SAFETY: inside the queue, aligned as the queue is to a page, and accessed atomically or by a device.
            let word = unsafe { AtomicU64::from_ptr(word.as_ptr()) };
            // Relaxed: the Release store of the doorbell in `commit` orders the entry before the new tail.
            word.store(value, Ordering::Relaxed);
        }
    }
}

impl<R> Drop for Pair<R> {
    fn drop(&mut self) {
        if self.outstanding() == 0 {
            return;
        }
        tracing::warn!(
            qid = self.qid,
            outstanding = self.outstanding(),
            "queue pair dropped with commands in flight"
        );
        self.sq_memory.abandon();
        self.cq_memory.abandon();
        if let Some(lists) = &mut self.lists {
            lists.abandon();
        }
        self.trackers.release_all(|_, data| {
            if let Some(data) = data {
                data.into_buffer().abandon();
            }
        });
    }
}

impl<R> fmt::Debug for Pair<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("qid", &self.qid)
            .field("sq_entries", &self.sq_entries)
            .field("sq_head", &self.sq_head)
            .field("sq_tail", &self.sq_tail)
            .field("cq_entries", &self.cq_entries)
            .field("cq_head", &self.cq_head)
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}
