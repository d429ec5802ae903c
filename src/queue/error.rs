//! What a queue pair refuses, and what it catches a device at. No behaviour lives here.

use std::fmt;

use thiserror::Error;

use crate::dma::prp::PrpError;
use crate::dma::{DmaError, DmaSlice};

/// Why a queue pair could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A queue size that no controller can be given.
    #[error("queue pair {qid}: {entries} entries; a queue has 2 to 65536 (admin queues to 4096)")]
    Entries {
        /// Queue identifier; 0 is the admin queue.
        qid: u16,
        /// Entries that were asked for.
        entries: u32,
    },
    /// The completion queue could overflow.
    #[error(
        "queue pair {qid}: {cq_entries} completion entries for {sq_entries} submission entries; use at least as many"
    )]
    CompletionQueueTooSmall {
        /// Queue identifier; 0 is the admin queue.
        qid: u16,
        /// Submission queue entries that were asked for.
        sq_entries: u32,
        /// Completion queue entries that were asked for.
        cq_entries: u32,
    },
    /// A page size that CC.MPS cannot say.
    #[error("queue pair {qid}: page size {page_size}; use a power of two from 4096 to 128 MiB")]
    PageSize {
        /// Queue identifier; 0 is the admin queue.
        qid: u16,
        /// The page size in bytes.
        page_size: usize,
    },
    /// There is no memory for the queues or their PRP lists.
    #[error("queue pair {qid}: {source}")]
    Memory {
        /// Queue identifier; 0 is the admin queue.
        qid: u16,
        /// What the allocator says.
        source: DmaError,
    },
}

/// A command that was not submitted, with everything that the caller put into it.
pub struct Rejected<R> {
    /// Why.
    pub reason: RejectReason,
    /// The data that was to be transferred.
    pub data: Option<DmaSlice>,
    /// What the caller wanted to remember.
    pub request: R,
}

impl<R> fmt::Debug for Rejected<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("reason", &self.reason)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// Why a command was not submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// As many commands are outstanding as the queue holds, or the controller has not fetched what the queue holds.
    #[error("the queue is full; process completions and submit again")]
    QueueFull,
    /// The transfer is longer than the controller takes at once.
    #[error("a transfer of {len} bytes is more than the limit of {limit}; split it")]
    TooLarge {
        /// Bytes of the transfer.
        len: usize,
        /// The largest transfer in bytes.
        limit: usize,
    },
    /// The data cannot be described to the controller.
    #[error(transparent)]
    Data(#[from] PrpError),
}

/// A completion that a correct controller cannot post. Nothing behind it in the queue can be trusted, so it is not
/// consumed: the controller has failed and is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QueueError {
    /// A command identifier that no command of this pair can have.
    #[error(
        "queue pair {qid}: completion of CID {cid:#06x}, but there are only {slots} slots; reset the controller"
    )]
    UnknownCid {
        /// Queue identifier.
        qid: u16,
        /// Command identifier in the completion.
        cid: u16,
        /// Commands that may be outstanding.
        slots: usize,
    },
    /// A command identifier that is not in flight: it was completed before, or never submitted.
    #[error(
        "queue pair {qid}: completion of CID {cid:#06x}, which is not in flight (the last in its slot was \
         {last_cid:#06x}); reset the controller"
    )]
    NotOutstanding {
        /// Queue identifier.
        qid: u16,
        /// Command identifier in the completion.
        cid: u16,
        /// The last command identifier that its slot had.
        last_cid: u16,
    },
    /// A command identifier of the past, whose slot has another command now.
    #[error(
        "queue pair {qid}: completion of CID {cid:#06x}, whose slot now has {expected_cid:#06x} in flight; reset the \
         controller"
    )]
    StaleCid {
        /// Queue identifier.
        qid: u16,
        /// Command identifier in the completion.
        cid: u16,
        /// The command identifier that is in flight.
        expected_cid: u16,
    },
    /// A submission queue head outside the queue.
    #[error(
        "queue pair {qid}: completion with SQ head {sqhd}, but the queue has only {entries} entries; reset the \
         controller"
    )]
    SubmissionHead {
        /// Queue identifier.
        qid: u16,
        /// The head in the completion.
        sqhd: u16,
        /// Submission queue entries.
        entries: u32,
    },
    /// A completion for a submission queue that does not use this completion queue.
    #[error("queue pair {qid}: completion for submission queue {sqid}; reset the controller")]
    SubmissionQueue {
        /// Queue identifier.
        qid: u16,
        /// The submission queue identifier in the completion.
        sqid: u16,
    },
}
