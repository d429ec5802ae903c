//! The device's side of submission and completion queues: doorbell cells, fetching, posting, and commands that are held until
//! they are due. What commands do is not known here.
#![forbid(unsafe_code)]

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use zerocopy::{FromBytes, IntoBytes};

use super::faults::Mischief;
use super::iommu::Table;
use crate::dma::MemoryBlock;
use crate::spec::command::Command;
use crate::spec::status::Status;

/// Bytes of a submission queue entry.
pub(super) const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry.
pub(super) const CQE_BYTES: usize = 16;

/// Set in a doorbell's cell by the device once it has seen the value. Whatever the driver writes next has it clear, so that
/// a doorbell that is rung with an unchanged value is noticed too.
const SEEN: u32 = 1 << 31;

/// A doorbell as the device sees it.
#[derive(Debug)]
pub(super) struct Bell {
    offset: usize,
    /// What the cell held when it was last looked at.
    cell: u32,
    /// The last value that was taken for good.
    value: u32,
}

impl Bell {
    /// A doorbell of a queue that begins to exist.
    pub(super) fn new(cells: &MemoryBlock, offset: usize) -> Self {
        reset_cell(cells, offset);
        Self { offset, cell: SEEN, value: 0 }
    }

    /// Whether it was rung since `take`.
    #[inline]
    pub(super) fn is_rung(&self, cells: &MemoryBlock) -> bool {
        // Relaxed: `take` loads it again.
        cells.load_u32(self.offset, Ordering::Relaxed) != self.cell
    }

    /// The value that was written since the last call, if any.
    #[inline]
    pub(super) fn take(&mut self, cells: &MemoryBlock) -> Option<u32> {
        // Acquire: pairs with the Release of `Doorbell::ring`: the entries were written before.
        let cell = cells.load_u32(self.offset, Ordering::Acquire);
        if cell == self.cell {
            return None;
        }
        self.cell = cell;
        Some(cell)
    }

    /// Takes a value for good.
    #[inline]
    pub(super) fn accept(&mut self, value: u32) {
        self.value = value;
    }

    /// Marks the cell as seen, unless it was rung again. Apart from `take`, and after the commands are served, because it
    /// takes the cache line from the driver.
    #[inline]
    pub(super) fn mark(&mut self, cells: &MemoryBlock) {
        let marked = SEEN | self.value;
        // Relaxed: the mark carries nothing; a value that comes in between stays and is taken with Acquire.
        let relaxed = Ordering::Relaxed;
        if self.cell != marked
            && cells.compare_exchange_u32(self.offset, self.cell, marked, relaxed, relaxed).is_ok()
        {
            self.cell = marked;
        }
    }
}

/// Makes the cell of a queue that does not exist, or does not exist yet, look untouched.
pub(super) fn reset_cell(cells: &MemoryBlock, offset: usize) {
    // Relaxed: the driver rings only after a completion or CSTS.RDY, both stored with Release, told it that it may.
    cells.store_u32(offset, SEEN, Ordering::Relaxed);
}

/// Whether the cell of a queue that does not exist was written.
#[inline]
pub(super) fn is_cell_touched(cells: &MemoryBlock, offset: usize) -> bool {
    // Relaxed: the value is of no interest.
    cells.load_u32(offset, Ordering::Relaxed) != SEEN
}

/// The entries of a queue in host memory.
#[derive(Debug)]
pub(super) struct Entries {
    iova: u64,
    bytes: usize,
    block: Arc<MemoryBlock>,
    base: usize,
}

impl Entries {
    /// `None` when not all of it is mapped.
    pub(super) fn find(table: &Table, iova: u64, bytes: usize) -> Option<Self> {
        let (block, base) = table.whole(iova, bytes)?;
        Some(Self { iova, bytes, block: block.clone(), base })
    }

    /// Looks itself up again after the mappings changed; false when it is no longer mapped.
    pub(super) fn is_found_again(&mut self, table: &Table) -> bool {
        let found = Self::find(table, self.iova, self.bytes);
        found.map(|entries| *self = entries).is_some()
    }
}

/// A command whose time has not come.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) due: Instant,
    /// Keeps commands with the same due time in the order of their fetch.
    pub(super) sequence: u64,
    /// An Abort came in the meantime.
    pub(super) aborted: bool,
    pub(super) command: Command,
    /// What goes wrong with it.
    pub(super) mischief: Option<Mischief>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    /// The one due first is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

/// What is wrong with a value written to a doorbell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadValue {
    Unchanged,
    OutOfRange,
    /// A tail that runs over entries that the driver does not know to be free, or a head beyond what was posted.
    TooFar,
}

impl BadValue {
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Unchanged => "is what it was: an unchanged doorbell must not be written",
            Self::OutOfRange => "is not below the queue's size",
            Self::TooFar => "goes further than there are entries for it",
        }
    }
}

/// A submission queue.
#[derive(Debug)]
pub(super) struct Sq {
    pub(super) qid: u16,
    pub(super) cqid: u16,
    pub(super) entries: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// SQHD of the last completion: what is before it is known to the driver to be free.
    reported_head: u32,
    pub(super) bell: Bell,
    pub(super) memory: Entries,
    /// Commands that wait for their latency to pass.
    pub(super) held: BinaryHeap<Held>,
}

impl Sq {
    pub(super) fn new(qid: u16, cqid: u16, entries: u32, bell: Bell, memory: Entries) -> Self {
        let held = BinaryHeap::new();
        Self { qid, cqid, entries, head: 0, tail: 0, reported_head: 0, bell, memory, held }
    }

    /// Whether there are entries to fetch.
    #[inline]
    pub(super) fn has_entries(&self) -> bool {
        self.head != self.tail
    }

    /// Moves the tail to what was written to the doorbell.
    #[inline]
    pub(super) fn set_tail(&mut self, value: u32) -> Result<(), BadValue> {
        if value >= self.entries {
            return Err(BadValue::OutOfRange);
        }
        if value == self.tail {
            return Err(BadValue::Unchanged);
        }
        let used = distance(self.reported_head, self.tail, self.entries);
        let added = distance(self.tail, value, self.entries);
        if used + added >= self.entries {
            return Err(BadValue::TooFar);
        }
        self.tail = value;
        self.bell.accept(value);
        Ok(())
    }

    /// Takes the next entry. The caller has seen that there is one.
    #[inline]
    pub(super) fn fetch(&mut self) -> Command {
        let mut bytes = [0; SQE_BYTES];
        self.memory.block.read(self.memory.base + self.head as usize * SQE_BYTES, &mut bytes);
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
        }
        Command::read_from_bytes(&bytes).unwrap_or_default()
    }

    /// SQHD for a completion.
    #[inline]
    fn report_head(&mut self) -> u16 {
        self.reported_head = self.head;
        self.head as u16
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Cq {
    pub(super) qid: u16,
    pub(super) entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
    pub(super) bell: Bell,
    pub(super) memory: Entries,
    /// The eventfd of its vector, when interrupts are enabled for it.
    interrupt: Option<Arc<OwnedFd>>,
    /// Something was posted since the last interrupt.
    pending_interrupt: bool,
    /// Entries of the submission queues that use it.
    pub(super) submission_entries: u32,
}

impl Cq {
    pub(super) fn new(
        qid: u16,
        entries: u32,
        bell: Bell,
        memory: Entries,
        interrupt: Option<Arc<OwnedFd>>,
    ) -> Self {
        Self {
            qid,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            bell,
            memory,
            interrupt,
            pending_interrupt: false,
            submission_entries: 0,
        }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        distance(self.head, self.tail, self.entries) + 1 == self.entries
    }

    /// Moves the head to what was written to the doorbell.
    #[inline]
    pub(super) fn set_head(&mut self, value: u32) -> Result<(), BadValue> {
        if value >= self.entries {
            return Err(BadValue::OutOfRange);
        }
        if value == self.head {
            return Err(BadValue::Unchanged);
        }
        let posted = distance(self.head, self.tail, self.entries);
        if distance(self.head, value, self.entries) > posted {
            return Err(BadValue::TooFar);
        }
        self.head = value;
        self.bell.accept(value);
        Ok(())
    }

    /// Posts a completion. The caller has seen that it is not full.
    #[inline]
    pub(super) fn post(&mut self, sq: &mut Sq, cid: u16, dw0: u32, status: Status) {
        self.post_with_head(sq.qid, sq.report_head(), cid, dw0, status);
    }

    /// Posts a completion that this round of the driver cannot see.
    #[cold]
    pub(super) fn post_stale(&mut self, sq: &mut Sq, cid: u16, dw0: u32, status: Status) {
        self.phase = !self.phase;
        self.post(sq, cid, dw0, status);
        self.phase = !self.phase;
    }

    /// As `post`, with an SQHD of the caller's.
    #[inline]
    pub(super) fn post_with_head(&mut self, qid: u16, head: u16, cid: u16, dw0: u32, status: Status) {
        let offset = self.memory.base + self.tail as usize * CQE_BYTES;
        let status = u64::from(status.0) << 1 | u64::from(self.phase);
        let high = u64::from(head) | u64::from(qid) << 16 | u64::from(cid) << 32 | status << 48;
        let block = &self.memory.block;
        // Relaxed: published by the store of the phase.
        block.store_u64(offset, u64::from(dw0), Ordering::Relaxed);
        // Release: pairs with the driver's Acquire load of the phase; the data was written before.
        block.store_u64(offset + 8, high, Ordering::Release);
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
        self.pending_interrupt = true;
    }

    /// Signals the vector if anything was posted.
    #[inline]
    pub(super) fn interrupt(&mut self) {
        let pending = std::mem::take(&mut self.pending_interrupt);
        if let Some(fd) = self.interrupt.as_ref().filter(|_| pending) {
            // It fails only when nobody has read 2^64 - 2 interrupts; the one that is pending then will do.
            let _ = rustix::io::write(fd, 1_u64.as_bytes());
        }
    }
}

/// How many entries lie between two indices of a ring.
#[inline]
fn distance(from: u32, to: u32, entries: u32) -> u32 {
    if to >= from { to - from } else { to + entries - from }
}
