//! Queue pairs: I/O by one owner at a time, with user tokens, batched doorbells, and every request back exactly once.
#![forbid(unsafe_code)]

use super::batch::Unacknowledged;
use super::io::{IoCompletion, QpairError, QpairOptions, QpairStatistics, SubmitError, SubmitReason};
use super::retrying::Retrying;
use crate::ctrlr::{
    Ctrlr, Failure, Hub, Limits, Pause, Plea, Producer, QpairSlot, QueueMemory, Refusal, Reply, SlotState,
    Watchdog, attention, io_pair, verdict,
};
use crate::dma::{DmaBuffer, DmaError, DmaSlice};
use crate::queue::{Pair, QueueError, RejectReason, Rejected};
use crate::ring::inside::InsidePoll;
use crate::ring::{AbortReason, Aborted, Outcome, Pending, Scheme};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::status::Status;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a queue pair without interrupts sleeps at a time.
const NAP: Duration = Duration::from_micros(50);

/// One I/O queue pair. One owner at a time; may move between threads. Polled by its owner, independently of the controller's poller.
///
/// Dropping it while requests are in flight keeps their buffers until the device can no longer write to them; they are not reported.
pub struct QueuePair {
    /// `None` while being dropped, and with retries.
    pair: Option<Box<Pair<u64>>>,
    /// With retries, what has the pair.
    pub(super) retrying: Option<Box<Retrying>>,
    pub(super) slot: Arc<QpairSlot>,
    pub(super) hub: Arc<Hub>,
    /// Requests that a stop of the device took from the queues and that the owner has not been given yet.
    pub(super) returned: VecDeque<IoCompletion>,
    pub(super) watchdog: Watchdog,
    pub(super) statistics: QpairStatistics,
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
            Ok(Outcome::Completed(Reply::Refused { why: Refusal::Status(status), .. })) => {
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
        let gone = || {
            let failure = hub.state.failure().cloned();
            (hub.is_over() || failure.is_some()).then_some(QpairError::Gone(failure))
        };
        if let Some(gone) = gone() {
            return Err(gone);
        }
        let limits = hub.limits.load_full().ok_or(QpairError::Gone(None))?;
        if !(2..=limits.max_queue_entries).contains(&options.entries) {
            return Err(QpairError::Entries { entries: options.entries, limit: limits.max_queue_entries });
        }
        let slot = hub.claim_slot().ok_or(QpairError::NoneFree { io_queues: limits.io_queues })?;
        match Self::fill(hub, &limits, &slot, options.entries) {
            Ok(pair) => Ok(Self {
                retrying: None,
                pair: Some(pair),
                returned: VecDeque::new(),
                slot,
                watchdog: Watchdog::new(hub.options.timeouts.period()),
                hub: Arc::clone(hub),
                statistics: QpairStatistics::default(),
            }
            .with_retries()),
            Err(error) => {
                slot.change(SlotState::Claimed, SlotState::Free);
                // The memory, or the doorbells, may have gone because the controller went meanwhile: then that is the reason.
                Err(gone().unwrap_or(error))
            }
        }
    }

    /// Hands the pair over to what sends requests again, if that is wanted.
    fn with_retries(mut self) -> Self {
        if self.hub.options.retries != 0 {
            self.retrying = self.pair.take().map(|pair| Box::new(Retrying::new(pair)));
        }
        self
    }

    /// The pair, wherever it is.
    fn queues(&self) -> Option<&Pair<u64>> {
        self.pair.as_deref().or(self.retrying.as_ref().map(|retrying| &*retrying.pair))
    }

    fn queues_mut(&mut self) -> Option<&mut Pair<u64>> {
        self.pair.as_deref_mut().or(self.retrying.as_mut().map(|retrying| &mut *retrying.pair))
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

    /// DMA memory of the controller, zeroed. See [`crate::dma::DmaSpace::allocate`].
    pub fn allocate(&self, len: usize) -> Result<DmaBuffer, DmaError> {
        self.hub.dma.allocate(len)
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
        let waiting = self.retrying.as_ref().map_or(0, |retrying| retrying.waiting());
        self.queues().map_or(0, Pair::outstanding) + waiting + self.returned.len()
    }

    /// How many requests may be in flight: one less than there are entries.
    pub fn capacity(&self) -> usize {
        self.queues().map_or(0, Pair::capacity)
    }

    /// The counters.
    pub fn statistics(&self) -> QpairStatistics {
        let QpairStatistics { submitted, aborted, .. } = self.statistics;
        QpairStatistics {
            // What was answered is not counted as it comes: it is what is neither outstanding nor was given back, also when a batch ended in an error.
            completed: submitted - aborted - self.outstanding() as u64,
            retries: self.retrying.as_ref().map_or(0, |retrying| retrying.count),
            ..self.statistics
        }
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
        let Some(pair) = &mut self.pair else { return self.submit_retrying(command, data, token) };
        if !self.slot.is_connected() {
            return Err(SubmitError { reason: self.not_connected(), data });
        }
        match pair.submit(command, data, token) {
            Ok(_) => {
                self.statistics.submitted += 1;
                Ok(())
            }
            Err(rejected) => Err(refused(rejected)),
        }
    }

    #[cold]
    pub(super) fn not_connected(&self) -> SubmitReason {
        match self.slot.state() {
            SlotState::Gone | SlotState::Refused => SubmitReason::Gone,
            _ => SubmitReason::NotConnected,
        }
    }

    /// Rings the submission doorbell, if there is anything new. [`QueuePair::poll`] does it too.
    #[inline]
    pub fn commit(&mut self) {
        let Some(pair) = &mut self.pair else { return self.commit_retrying() };
        if pair.has_uncommitted() {
            self.slot.ring(|| pair.commit());
        }
    }

    /// Rings the doorbell and gives each request that has come to its end to `each`, `max` at most; returns how many. Never waits.
    ///
    /// After a reset it gives all requests back once the device has stopped, and connects again by itself. The error comes after the last request.
    #[inline]
    pub fn poll(&mut self, max: usize, mut each: impl FnMut(IoCompletion)) -> Result<usize, QpairError> {
        if !self.slot.is_calm() {
            return self.poll_attentive(max, &mut each);
        }
        self.poll_connected(max, each)
    }

    #[inline(always)]
    fn poll_connected(
        &mut self,
        max: usize,
        mut each: impl FnMut(IoCompletion),
    ) -> Result<usize, QpairError> {
        let Some(pair) = &mut self.pair else { return self.poll_retrying(max, &mut each) };
        if pair.has_uncommitted() {
            self.slot.ring(|| pair.commit());
        }
        if !pair.has_completion() {
            return Ok(0);
        }
        let inside = InsidePoll::enter();
        // Not while `each` runs, for which no take-down is to wait.
        let batch = Unacknowledged { pair, slot: &self.slot };
        let processed = batch.pair.process_quietly(max, |token, data, completion| {
            each(IoCompletion { token, outcome: outcome_of(completion), data });
        });
        drop(batch);
        drop(inside);
        processed.map_err(|error| self.protocol_error(&error))
    }

    #[cold]
    pub(super) fn protocol_error(&self, error: &QueueError) -> QpairError {
        self.hub.fail(Failure::Protocol(error.to_string()));
        QpairError::Protocol(error.to_string())
    }

    /// As [`QueuePair::poll`], into `places` from the start; returns how many were filled.
    pub fn poll_into(&mut self, places: &mut [Option<IoCompletion>]) -> Result<usize, QpairError> {
        let mut filled = 0;
        self.poll(places.len(), |completion| {
            places[filled] = Some(completion);
            filled += 1;
        })
    }

    /// Sleeps until a completion comes, at most for `timeout` and at most for a tenth of a second, so that resets and detaches are noticed. Poll after it.
    ///
    /// Needs [`crate::ctrlr::CtrlrOptions::interrupts`]; without them, or when the controller has too few vectors to give this queue pair its own, it sleeps
    /// in short naps. Any mix of waiting and polling loses nothing.
    pub fn wait(&mut self, timeout: Duration) {
        const AT_MOST: Duration = Duration::from_millis(100);
        self.commit();
        let has_any = !self.returned.is_empty() || self.queues().is_some_and(Pair::has_completion);
        if has_any || !self.is_connected() {
            return;
        }
        let timeout = timeout.min(AT_MOST);
        let Some(interrupts) = self.hub.interrupts() else {
            std::thread::sleep(timeout.min(NAP));
            return;
        };
        if let Err(error) = interrupts.sleep_as_qpair(self.slot.qid(), timeout) {
            tracing::error!(%error, "a queue pair could not sleep; it is polled");
        }
    }

    /// The descriptor that this queue pair's completions signal, for those who wait for many things at once. Clear it (by reading 8 bytes) before
    /// polling. `None` without interrupts, or when the controller has too few vectors.
    pub fn interrupt_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.hub.interrupts()?.descriptor(self.slot.qid())
    }

    /// Polling while the queues do not exist, or are going, or when it is time to look for late commands.
    #[cold]
    fn poll_attentive(
        &mut self,
        max: usize,
        each: &mut dyn FnMut(IoCompletion),
    ) -> Result<usize, QpairError> {
        match self.slot.state() {
            SlotState::Connected => {
                let polled = self.poll_connected(max, &mut *each);
                // After the poll: what was answered is not late.
                if self.slot.is_tapped() {
                    self.look_for_late();
                }
                polled
            }
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
        let mut give = |token, data| {
            let outcome = Outcome::Aborted(Aborted::maybe_executed(reason));
            returned.push_back(IoCompletion { token, outcome, data });
        };
        if let Some(pair) = &mut self.pair {
            pair.abort_all(give);
        } else if let Some(retrying) = &mut self.retrying {
            retrying.pair.abort_all(&mut give);
            retrying.abort_waiting(give);
        }
        let count = self.give_returned(max, each);
        self.statistics.aborted += count as u64;
        count
    }

    /// Gives `max` at most of the requests that the queues no longer hold. One by one, so that none is lost where `each` panics.
    pub(super) fn give_returned(&mut self, max: usize, each: &mut dyn FnMut(IoCompletion)) -> usize {
        let count = self.returned.len().min(max);
        let _inside = InsidePoll::enter();
        (0..count).map_while(|_| self.returned.pop_front()).for_each(each);
        count
    }

    /// Looks for commands that take too long, and asks the controller's poller for what is to be done about them.
    fn look_for_late(&mut self) {
        let options = &self.hub.options;
        // Relaxed: ordered by the Acquire of the tap.
        let clock_ms = self.hub.clock_ms.load(Ordering::Relaxed);
        let (io, abort) = (options.timeouts.io, options.timeouts.abort);
        let look = |watchdog: &mut Watchdog, pair: &mut Pair<u64>| {
            watchdog.look(pair, clock_ms, |_, _| Some(io), abort)
        };
        let late = match (&mut self.pair, &mut self.retrying) {
            (Some(pair), _) => look(&mut self.watchdog, pair),
            (None, Some(retrying)) => retrying.look(&mut self.watchdog, look),
            (None, None) => return,
        };
        for late in late {
            let Some(plea) = verdict(options, self.slot.qid(), late) else { continue };
            if matches!(plea, Plea::Abort { .. }) {
                self.watchdog.abort_asked(late.cid);
            }
            self.hub.plead(plea);
        }
    }

    fn reconnect(&mut self) {
        self.watchdog.forget();
        let Some(pair) = self.queues_mut() else { return };
        pair.reset();
        let memory = memory_of(pair);
        if self.slot.change(SlotState::Stopped, SlotState::Claimed) && self.slot.want(memory) {
            self.statistics.reconnects += 1;
            self.hub.attention.raise(attention::QPAIR);
        }
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

pub(super) fn refused(rejected: Rejected<u64>) -> SubmitError {
    let reason = match rejected.reason {
        RejectReason::QueueFull => SubmitReason::QueueFull,
        RejectReason::TooLarge { limit, .. } => SubmitReason::TooLarge { limit_bytes: limit },
        _ => SubmitReason::BadData { why: "its address is not a multiple of 4" },
    };
    SubmitError { reason, data: rejected.data }
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
pub(super) fn outcome_of(completion: Completion) -> Outcome<Completion> {
    if completion.status().without_dnr() == Status::ABORTED_SQ_DELETION {
        Outcome::Aborted(Aborted::maybe_executed(AbortReason::Detached))
    } else {
        Outcome::Completed(completion)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let pair = self.pair.take().or_else(|| self.retrying.take().map(|retrying| retrying.pair));
        let Some(pair) = pair else { return };
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
