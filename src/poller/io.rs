//! The words of I/O: what a queue pair is made with, what it refuses and why, what comes back.
#![forbid(unsafe_code)]

use super::ctrlr_poller::PollError;
use crate::ctrlr::{Failure, SendErrorReason};
use crate::dma::DmaSlice;
use crate::ring::{Aborted, Outcome};
use crate::spec::completion::Completion;
use crate::spec::status::Status;

/// Options of one queue pair.
#[derive(Clone, Debug)]
pub struct QpairOptions {
    /// Entries of its queues: 2 to 65,536, and no more than [`crate::ctrlr::Limits::max_queue_entries`]. One less may be in flight.
    pub entries: u32,
}

impl Default for QpairOptions {
    /// 256 entries.
    fn default() -> Self {
        Self { entries: 256 }
    }
}

/// Why there is no queue pair, or why it cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QpairError {
    /// The number of entries is out of range.
    #[error("{entries} queue entries: this controller takes 2 to {limit}")]
    Entries {
        /// What was asked for.
        entries: u32,
        /// The most that the controller takes.
        limit: u32,
    },
    /// All of the controller's I/O queue pairs are in use.
    #[error(
        "all {io_queues} I/O queue pairs that the controller granted are in use, one of them for messages; drop one first"
    )]
    NoneFree {
        /// How many there are.
        io_queues: u16,
    },
    /// No memory, or the transport failed.
    #[error("{0}")]
    Host(String),
    /// The device refused to create the queues.
    #[error("the controller refused the queues: {0}")]
    Refused(Status),
    /// The request was not accepted.
    #[error("the request was not sent: {0}")]
    NotSent(SendErrorReason),
    /// The request was aborted.
    #[error("the request was {0}")]
    Aborted(Aborted),
    /// Not connected within the deadline.
    #[error("not connected within the deadline; is the controller being polled?")]
    Deadline,
    /// Waiting from inside a message or completion would wait for the poller that runs it.
    #[error("waiting from inside a message or completion would wait for the poller that runs it")]
    InsidePoll,
    /// The controller is detached or has failed; all requests have been given back.
    #[error("the controller is {}", if let Some(failure) = .0 { format!("failed: {failure}") } else { "detached".to_owned() })]
    Gone(Option<Failure>),
    /// The device broke the queue protocol; the controller is being stopped, and requests come back when it has.
    #[error("the controller broke the queue protocol: {0}")]
    Protocol(String),
}

impl From<PollError> for QpairError {
    fn from(error: PollError) -> Self {
        match error {
            PollError::Detached => Self::Gone(None),
            PollError::Failed(failure) => Self::Gone(Some(failure)),
        }
    }
}

/// A request that was not submitted, with its data.
#[derive(Debug, thiserror::Error)]
#[error("the request was not submitted: {reason}")]
pub struct SubmitError {
    /// Why.
    pub reason: SubmitReason,
    /// What it would have transferred.
    pub data: Option<DmaSlice>,
}

/// Why a request was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitReason {
    /// The queue is full: poll, and submit again.
    #[error("the queue is full; poll, then submit again")]
    QueueFull,
    /// The transfer is longer than the controller takes.
    #[error("the transfer is longer than the controller's limit of {limit_bytes} bytes; split it")]
    TooLarge {
        /// The limit (MDTS).
        limit_bytes: usize,
    },
    /// The data do not suit the command.
    #[error("the data do not suit the command: {why}")]
    BadData {
        /// What is wrong.
        why: &'static str,
    },
    /// The block range is empty, too long for one command, or past the end of the namespace.
    #[error("the block range is empty, longer than 65536 blocks, or past the end of the namespace")]
    Range,
    /// The controller is being reset, or the queues are being created: poll until it is connected again.
    #[error(
        "not connected now (a reset is in progress, or the queues are being created); poll, then submit again"
    )]
    NotConnected,
    /// The controller is detached or has failed.
    #[error("the controller is detached or has failed")]
    Gone,
}

/// What became of one request.
#[derive(Debug)]
pub struct IoCompletion {
    /// The token that it was submitted with.
    pub token: u64,
    /// The device's answer (whose status may be an error), or why there is none.
    pub outcome: Outcome<Completion>,
    /// What it transferred, back.
    pub data: Option<DmaSlice>,
}

impl IoCompletion {
    /// Whether the device answered with success.
    pub fn is_success(&self) -> bool {
        matches!(&self.outcome, Outcome::Completed(completion) if completion.status().is_success())
    }
}

/// Counters of one queue pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QpairStatistics {
    /// Requests submitted.
    pub submitted: u64,
    /// Requests that the device answered.
    pub completed: u64,
    /// Requests that were given back without an answer.
    pub aborted: u64,
    /// Times that it was connected again after a reset.
    pub reconnects: u64,
    /// Times that a request was sent again after it failed (see [`crate::ctrlr::CtrlrOptions::retries`]).
    pub retries: u64,
}
