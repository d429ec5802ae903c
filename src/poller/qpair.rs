//! Queue pairs: I/O by one owner at a time, with user tokens, batched doorbells, and every request back exactly once.
#![forbid(unsafe_code)]

use super::ctrlr_poller::PollError;
use crate::ctrlr::{
    Ctrlr, Failure, Hub, Limits, Namespace, Pause, Producer, QpairSlot, QueueMemory, Refusal, Reply,
    SendErrorReason, SlotState, attention, io_pair,
};
use crate::dma::{DmaError, DmaSlice};
use crate::queue::{Pair, RejectReason};
use crate::ring::inside::InsidePoll;
use crate::ring::{AbortReason, Aborted, Outcome, Pending, Scheme};
use crate::spec::command::{Command, DsmRange};
use crate::spec::completion::Completion;
use crate::spec::status::Status;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::IntoBytes;

/// Options of one queue pair.
#[derive(Clone, Debug)]
pub struct QpairOptions {
    /// Entries of its queues: 2 to 65,536, and no more than [`Limits::max_queue_entries`]. One less may be in flight.
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

/// Counters of one queue pair; plain fields of its owner.
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
}

/// One I/O queue pair. One owner at a time; may move between threads. Polled by its owner, independently of the controller's poller.
///
/// Dropping it while requests are in flight keeps their buffers until the device can no longer write to them; they are not reported.
pub struct QueuePair {
    /// `None` only while being dropped.
    pair: Option<Box<Pair<u64>>>,
    slot: Arc<QpairSlot>,
    hub: Arc<Hub>,
    /// Requests that a stop of the device took from the queues and that the owner has not been given yet.
    returned: VecDeque<IoCompletion>,
    statistics: QpairStatistics,
}

impl QueuePair {
    /// Makes a queue pair and asks the controller's poller to connect it. Never waits: poll until [`QueuePair::is_connected`].
    pub fn request<S: Scheme>(ctrlr: &Ctrlr<S>, options: &QpairOptions) -> Result<Self, QpairError> {
        let qpair = Self::make(&ctrlr.0.hub, options)?;
        ctrlr.0.hub.attention.raise(attention::QPAIR);
        Ok(qpair)
    }

    /// Makes a queue pair by a message, and waits until it is connected, at most for `timeout`.
    pub fn create<S: Scheme>(
        producer: &Producer<S>,
        options: &QpairOptions,
        timeout: Duration,
    ) -> Result<Self, QpairError> {
        let mut qpair = Self::make(producer.hub(), options)?;
        let ticket = producer.connect(&qpair.slot).map_err(|error| QpairError::NotSent(error.reason))?;
        match ticket.wait(timeout) {
            Ok(Outcome::Completed(Reply::Connected)) => {}
            Ok(Outcome::Completed(Reply::Refused(Refusal::Status(status)))) => {
                return Err(QpairError::Refused(status));
            }
            Ok(Outcome::Completed(_)) => {
                return Err(QpairError::Host("the request was answered as another".into()));
            }
            Ok(Outcome::Aborted(aborted)) => return Err(QpairError::Aborted(aborted)),
            Err(Pending(_)) => return Err(QpairError::Deadline),
        }
        // A reset may have come in between; then it connects while it is polled.
        qpair.connected()?;
        Ok(qpair)
    }

    fn make(hub: &Arc<Hub>, options: &QpairOptions) -> Result<Self, QpairError> {
        let gone = || QpairError::Gone(hub.state.failure().cloned());
        if hub.is_over() || hub.state.failure().is_some() {
            return Err(gone());
        }
        let limits = hub.limits.load_full().ok_or_else(gone)?;
        if !(2..=limits.max_queue_entries).contains(&options.entries) {
            return Err(QpairError::Entries { entries: options.entries, limit: limits.max_queue_entries });
        }
        let slot = hub.claim_slot().ok_or(QpairError::NoneFree { io_queues: limits.io_queues })?;
        match Self::fill(hub, &limits, &slot, options.entries) {
            Ok(pair) => Ok(Self {
                pair: Some(pair),
                returned: VecDeque::new(),
                slot,
                hub: Arc::clone(hub),
                statistics: QpairStatistics::default(),
            }),
            Err(error) => {
                slot.change(SlotState::Claimed, SlotState::Free);
                Err(error)
            }
        }
    }

    fn fill(
        hub: &Hub,
        limits: &Limits,
        slot: &QpairSlot,
        entries: u32,
    ) -> Result<Box<Pair<u64>>, QpairError> {
        let pair = io_pair::<u64>(hub, limits, slot.qid(), entries);
        let pair = Box::new(pair.map_err(|failure| QpairError::Host(failure.to_string()))?);
        slot.want(memory_of(&pair));
        Ok(pair)
    }

    /// The queue's identifier.
    pub fn qid(&self) -> u16 {
        self.slot.qid()
    }

    /// Whether requests can be submitted now.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        self.slot.is_connected()
    }

    /// Whether it is connected, or the error that says that it never will be.
    pub fn connected(&mut self) -> Result<bool, QpairError> {
        match self.slot.state() {
            SlotState::Connected => Ok(true),
            SlotState::Refused => Err(QpairError::Refused(Status(self.slot.refusal()))),
            SlotState::Gone => Err(QpairError::Gone(self.hub.state.failure().cloned())),
            _ => Ok(false),
        }
    }

    /// How many requests are in flight.
    pub fn outstanding(&self) -> usize {
        self.pair.as_ref().map_or(0, |pair| pair.outstanding()) + self.returned.len()
    }

    /// How many requests may be in flight: one less than there are entries.
    pub fn capacity(&self) -> usize {
        self.pair.as_ref().map_or(0, |pair| pair.capacity())
    }

    /// The counters.
    pub fn statistics(&self) -> QpairStatistics {
        self.statistics
    }

    /// Submits any I/O command; its completion carries `token`. The PRPs and the CID are filled in; the doorbell is rung by the next [`QueuePair::poll`] or
    /// [`QueuePair::commit`]. On error the data come back.
    #[inline]
    pub fn submit(
        &mut self,
        command: Command,
        data: Option<DmaSlice>,
        token: u64,
    ) -> Result<(), SubmitError> {
        let Some(pair) = &mut self.pair else { return Err(SubmitError { reason: SubmitReason::Gone, data }) };
        if !self.slot.is_connected() {
            return Err(SubmitError { reason: self.not_connected(), data });
        }
        match pair.submit(command, data, token) {
            Ok(_) => {
                self.statistics.submitted += 1;
                Ok(())
            }
            Err(rejected) => {
                let reason = match rejected.reason {
                    RejectReason::QueueFull => SubmitReason::QueueFull,
                    RejectReason::TooLarge { limit, .. } => SubmitReason::TooLarge { limit_bytes: limit },
                    _ => SubmitReason::BadData { why: "its address is not a multiple of 4" },
                };
                Err(SubmitError { reason, data: rejected.data })
            }
        }
    }

    #[cold]
    fn not_connected(&self) -> SubmitReason {
        match self.slot.state() {
            SlotState::Gone | SlotState::Refused => SubmitReason::Gone,
            _ => SubmitReason::NotConnected,
        }
    }

    /// Rings the submission doorbell, if there is anything new. [`QueuePair::poll`] does it too.
    #[inline]
    pub fn commit(&mut self) {
        if let Some(pair) = &mut self.pair
            && self.slot.is_connected()
        {
            pair.commit();
        }
    }

    /// Rings the doorbell and gives each request that has come to its end to `each`, `max` at most; returns how many. Never waits.
    ///
    /// After a reset it gives all requests back once the device has stopped, and connects again by itself. The error comes after the last request.
    #[inline]
    pub fn poll(&mut self, max: usize, mut each: impl FnMut(IoCompletion)) -> Result<usize, QpairError> {
        if !self.slot.is_connected() {
            return self.poll_disconnected(max, &mut each);
        }
        let Some(pair) = &mut self.pair else { return Err(QpairError::Gone(None)) };
        pair.commit();
        if !pair.has_completion() {
            return Ok(0);
        }
        let inside = InsidePoll::enter();
        let processed = pair.process(max, |token, data, completion| {
            each(IoCompletion { token, outcome: outcome_of(completion), data });
        });
        drop(inside);
        match processed {
            Ok(count) => {
                self.statistics.completed += count as u64;
                Ok(count)
            }
            Err(error) => {
                self.hub.fail(Failure::Protocol(error.to_string()));
                Err(QpairError::Protocol(error.to_string()))
            }
        }
    }

    /// As [`QueuePair::poll`], into `places` from the start; returns how many were filled.
    pub fn poll_into(&mut self, places: &mut [Option<IoCompletion>]) -> Result<usize, QpairError> {
        let mut filled = 0;
        self.poll(places.len(), |completion| {
            places[filled] = Some(completion);
            filled += 1;
        })
    }

    /// Polling while the queues do not exist, or are going.
    #[cold]
    fn poll_disconnected(
        &mut self,
        max: usize,
        each: &mut dyn FnMut(IoCompletion),
    ) -> Result<usize, QpairError> {
        match self.slot.state() {
            SlotState::Stopped => {
                let count = self.give_back(max, each);
                if self.returned.is_empty() {
                    self.reconnect();
                }
                Ok(count)
            }
            SlotState::Gone => match self.give_back(max, each) {
                0 if max != 0 => Err(QpairError::Gone(self.hub.state.failure().cloned())),
                count => Ok(count),
            },
            SlotState::Refused => Err(QpairError::Refused(Status(self.slot.refusal()))),
            // On its way up or down; what is in flight comes back once the device has stopped.
            _ => Ok(0),
        }
    }

    /// Gives `max` of the requests in flight back: the device has stopped.
    fn give_back(&mut self, max: usize, each: &mut dyn FnMut(IoCompletion)) -> usize {
        let reason = match self.hub.state.failure() {
            Some(Failure::Removed { .. }) => AbortReason::Removed,
            Some(_) => AbortReason::Failed,
            None if self.hub.is_over() => AbortReason::Detached,
            None => AbortReason::Reset,
        };
        let returned = &mut self.returned;
        if let Some(pair) = &mut self.pair {
            pair.abort_all(|token, data| {
                let outcome = Outcome::Aborted(Aborted::maybe_executed(reason));
                returned.push_back(IoCompletion { token, outcome, data });
            });
        }
        let count = returned.len().min(max);
        let inside = InsidePoll::enter();
        returned.drain(..count).for_each(each);
        drop(inside);
        self.statistics.aborted += count as u64;
        count
    }

    fn reconnect(&mut self) {
        let Some(pair) = &mut self.pair else { return };
        pair.reset();
        if self.slot.change(SlotState::Stopped, SlotState::Claimed) && self.slot.want(memory_of(pair)) {
            self.statistics.reconnects += 1;
            self.hub.attention.raise(attention::QPAIR);
        }
    }

    /// Reads `data.len()` bytes from block `lba` of `namespace` on.
    #[inline]
    pub fn read(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::read, namespace, lba, data, token)
    }

    /// Writes `data` to block `lba` of `namespace` on.
    #[inline]
    pub fn write(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::write, namespace, lba, data, token)
    }

    /// Compares `data` with block `lba` of `namespace` on; a difference is status [`Status::COMPARE_FAILURE`].
    #[inline]
    pub fn compare(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::compare, namespace, lba, data, token)
    }

    #[inline(always)]
    fn transfer(
        &mut self,
        command: fn(u32, u64, u32) -> Command,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        let block_bytes = namespace.block_bytes as usize;
        let blocks = data.len() >> block_bytes.trailing_zeros();
        if namespace.unsupported.is_some() || data.len() & (block_bytes - 1) != 0 {
            let why = "its length is no multiple of the block size, or the namespace is not supported";
            return Err(SubmitError { reason: SubmitReason::BadData { why }, data: Some(data) });
        }
        if !in_range(namespace, lba, blocks as u64) {
            return Err(SubmitError { reason: SubmitReason::Range, data: Some(data) });
        }
        self.submit(command(namespace.nsid, lba, blocks as u32), Some(data), token)
    }

    /// Makes what was written durable.
    pub fn flush(&mut self, namespace: &Namespace, token: u64) -> Result<(), SubmitError> {
        self.submit(Command::flush(namespace.nsid), None, token)
    }

    /// Writes zeroes to `blocks` (1 to 65,536) blocks, deallocating them if asked to.
    pub fn write_zeroes(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        blocks: u32,
        deallocate: bool,
        token: u64,
    ) -> Result<(), SubmitError> {
        if !in_range(namespace, lba, blocks.into()) {
            return Err(SubmitError { reason: SubmitReason::Range, data: None });
        }
        self.submit(Command::write_zeroes(namespace.nsid, lba, blocks, deallocate), None, token)
    }

    /// Says that the data of `ranges` (1 to 256; first block and number of blocks) are no longer needed.
    pub fn deallocate(
        &mut self,
        namespace: &Namespace,
        ranges: &[(u64, u32)],
        token: u64,
    ) -> Result<(), SubmitError> {
        if ranges.is_empty() || ranges.len() > 256 {
            let why = "1 to 256 ranges fit one command";
            return Err(SubmitError { reason: SubmitReason::BadData { why }, data: None });
        }
        let buffer = self.hub.dma.allocate(size_of_val(ranges)).map_err(|_: DmaError| SubmitError {
            reason: SubmitReason::BadData { why: "there is no DMA memory for its list" },
            data: None,
        })?;
        for (index, (slba, nlb)) in ranges.iter().enumerate() {
            let range = DsmRange { cattr: 0, nlb: *nlb, slba: *slba };
            buffer.write_at(index * size_of::<DsmRange>(), range.as_bytes());
        }
        let command = Command::dataset_management(namespace.nsid, ranges.len() as u32, true);
        self.submit(command, Some(buffer.into()), token)
    }

    /// Polls until nothing is in flight, at most for `timeout`; returns whether that came true.
    pub fn drain(
        &mut self,
        timeout: Duration,
        mut each: impl FnMut(IoCompletion),
    ) -> Result<bool, QpairError> {
        let mut pause = Pause::new(timeout);
        while self.outstanding() > 0 {
            if self.poll(usize::MAX, &mut each)? == 0 && !pause.take() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether `blocks` (1 to 65,536) blocks from `lba` on lie inside.
#[inline(always)]
fn in_range(namespace: &Namespace, lba: u64, blocks: u64) -> bool {
    blocks.wrapping_sub(1) < 65_536 && lba.checked_add(blocks).is_some_and(|end| end <= namespace.size_blocks)
}

fn memory_of(pair: &Pair<u64>) -> QueueMemory {
    QueueMemory {
        sq_iova: pair.sq_iova(),
        cq_iova: pair.cq_iova(),
        sq_entries: pair.sq_entries(),
        cq_entries: pair.cq_entries(),
    }
}

/// A request whose queue was deleted under it was not answered by the device.
#[inline(always)]
fn outcome_of(completion: Completion) -> Outcome<Completion> {
    if completion.status().without_dnr() == Status::ABORTED_SQ_DELETION {
        Outcome::Aborted(Aborted::maybe_executed(AbortReason::Detached))
    } else {
        Outcome::Completed(completion)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let Some(pair) = self.pair.take() else { return };
        if self.slot.release(pair) {
            self.hub.attention.raise(attention::QPAIR);
        } else {
            self.slot.sweep();
        }
    }
}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("qid", &self.slot.qid())
            .field("state", &self.slot.state())
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}
