//! A queue pair whose requests are sent again when they fail: the pair itself, what is kept of each request, and those that wait for their next try.
//!
//! With retries off there is none of it: [`super::QueuePair`] then has the pair to itself, and asks for this one where it finds none. Time is what the
//! controller's poller wrote down last, so nothing here reads a clock.
#![forbid(unsafe_code)]

use super::batch::Unacknowledged;
use super::io::{IoCompletion, QpairError, SubmitError, SubmitReason};
use super::qpair::{QueuePair, outcome_of, refused};
use crate::ctrlr::{Hub, Keeper, Kept, Late, Policy, QpairSlot, Watchdog};
use crate::dma::DmaSlice;
use crate::queue::{Pair, QueueError, RejectReason, Rejected};
use crate::ring::inside::InsidePoll;
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A request that waits for its next try.
struct Waiting {
    kept: Kept,
    token: u64,
    data: Option<DmaSlice>,
    /// What it came to last.
    completion: Completion,
    /// The clock when it failed, and how long it waits from the clock's next move on.
    failed_ms: u32,
    delay: Duration,
    due_ms: Option<u32>,
}

/// See the module.
pub(super) struct Retrying {
    pub(super) pair: Box<Pair<u64>>,
    keeper: Keeper,
    waiting: Vec<Waiting>,
    /// Times that a request was sent again.
    pub(super) count: u64,
}

impl Retrying {
    pub(super) fn new(pair: Box<Pair<u64>>) -> Self {
        Self { keeper: Keeper::new(&pair), pair, waiting: Vec::new(), count: 0 }
    }

    /// Requests that wait for their next try: in flight, as far as their owner can tell.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn submit(&mut self, command: Command, data: Option<DmaSlice>, token: u64) -> Result<u16, Rejected<u64>> {
        if self.pair.outstanding() + self.waiting.len() >= self.pair.capacity() {
            return Err(Rejected { reason: RejectReason::QueueFull, data, request: token });
        }
        let cid = self.pair.submit(command, data, token)?;
        self.keeper.keep(cid, Kept::new(command));
        Ok(cid)
    }

    /// Takes a completion; gives it back as one for the owner unless it is sent again.
    fn settle(
        keeper: &Keeper,
        waiting: &mut Vec<Waiting>,
        hub: &Hub,
        watchdog: &Watchdog,
        (token, data, completion): (u64, Option<DmaSlice>, Completion),
    ) -> Option<(u64, Option<DmaSlice>, Completion)> {
        let status = completion.status();
        let kept = if status.is_success() { None } else { keeper.kept(completion.cid) };
        let Some(kept) = kept else { return Some((token, data, completion)) };
        let identity = hub.identity.load();
        let policy = Policy {
            retries: hub.options.retries,
            is_admin: false,
            identity: identity.as_deref(),
            limit: hub.options.timeouts.io,
            watchdog,
        };
        let Some(delay) = policy.delay(&kept, status) else { return Some((token, data, completion)) };
        tracing::debug!(qid = completion.sqid, %status, ?delay, tries = kept.tries, "a request is sent again");
        let failed_ms = clock_ms(hub);
        waiting.push(Waiting { kept, token, data, completion, failed_ms, delay, due_ms: None });
        None
    }

    /// Takes `max` completions at most and gives those that are not sent again to `each`.
    fn process(
        &mut self,
        max: usize,
        hub: &Hub,
        slot: &QpairSlot,
        watchdog: &Watchdog,
        each: &mut dyn FnMut(u64, Option<DmaSlice>, Completion),
    ) -> Result<usize, QueueError> {
        let Self { pair, keeper, waiting, .. } = self;
        let mut given = 0;
        // Not while `each` runs, for which no take-down is to wait.
        let batch = Unacknowledged { pair, slot };
        batch.pair.process_quietly(max, |token, data, completion| {
            let settled = Self::settle(keeper, waiting, hub, watchdog, (token, data, completion));
            if let Some((token, data, completion)) = settled {
                given += 1;
                each(token, data, completion);
            }
        })?;
        Ok(given)
    }

    /// Sends again what is due, as far as there is room; the doorbell is the caller's. Returns what can no longer be sent, or has found no room until its
    /// time was over, with what it came to before.
    fn send_again(&mut self, hub: &Hub, watchdog: &Watchdog) -> Vec<IoCompletion> {
        let clock_ms = clock_ms(hub);
        let is_due = |waiting: &mut Waiting| {
            if waiting.due_ms.is_none() && (waiting.delay.is_zero() || clock_ms != waiting.failed_ms) {
                let delay_ms = u32::try_from(waiting.delay.as_millis()).unwrap_or(u32::MAX / 2);
                waiting.due_ms = Some(clock_ms.wrapping_add(delay_ms));
            }
            // The clock wraps: what is due lies in the half behind it.
            waiting.due_ms.is_some_and(|due| clock_ms.wrapping_sub(due) <= u32::MAX / 2)
        };
        let due: Vec<Waiting> = self.waiting.extract_if(.., is_due).collect();
        let mut over = Vec::new();
        for waiting in due {
            let Waiting { kept, token, data, completion, .. } = waiting;
            if kept.waited(watchdog) >= hub.options.timeouts.io {
                over.push(IoCompletion { token, outcome: outcome_of(completion), data });
                continue;
            }
            match self.pair.submit(kept.command, data, token) {
                Ok(cid) => {
                    self.count += 1;
                    self.keeper.keep(cid, kept.again());
                }
                Err(Rejected { reason: RejectReason::QueueFull, data, .. }) => {
                    self.waiting.push(Waiting { data, ..waiting });
                }
                Err(Rejected { data, .. }) => {
                    over.push(IoCompletion { token, outcome: outcome_of(completion), data });
                }
            }
        }
        over
    }

    /// The device has stopped, or the queue is gone: what waits is given back.
    pub(super) fn abort_waiting(&mut self, mut each: impl FnMut(u64, Option<DmaSlice>)) {
        self.waiting.drain(..).for_each(|waiting| each(waiting.token, waiting.data));
    }

    /// Its watchdog looks, by `look`; requests that it finds late are not sent again.
    pub(super) fn look(
        &mut self,
        watchdog: &mut Watchdog,
        look: impl FnOnce(&mut Watchdog, &mut Pair<u64>) -> Vec<Late>,
    ) -> Vec<Late> {
        self.keeper.keep_times(&mut self.pair);
        let late = look(watchdog, &mut self.pair);
        self.keeper.keep_times(&mut self.pair);
        for late in &late {
            self.keeper.forbid(late.cid);
        }
        for waiting in &mut self.waiting {
            waiting.kept.is_seen(watchdog.time());
        }
        late
    }
}

impl QueuePair {
    /// As [`QueuePair::submit`], of requests that may be sent again.
    #[cold]
    pub(super) fn submit_retrying(
        &mut self,
        command: Command,
        data: Option<DmaSlice>,
        token: u64,
    ) -> Result<(), SubmitError> {
        if !self.slot.is_connected() {
            return Err(SubmitError { reason: self.not_connected(), data });
        }
        let Some(retrying) = &mut self.retrying else {
            return Err(SubmitError { reason: SubmitReason::Gone, data });
        };
        retrying.submit(command, data, token).map_err(refused)?;
        self.statistics.submitted += 1;
        Ok(())
    }

    /// As [`QueuePair::commit`].
    #[cold]
    pub(super) fn commit_retrying(&mut self) {
        if let Some(Retrying { pair, .. }) = self.retrying.as_deref_mut()
            && pair.has_uncommitted()
        {
            self.slot.ring(|| pair.commit());
        }
    }

    /// As a poll of a pair whose requests are not sent again.
    #[cold]
    pub(super) fn poll_retrying(
        &mut self,
        max: usize,
        each: &mut dyn FnMut(IoCompletion),
    ) -> Result<usize, QpairError> {
        self.send_again();
        let mut count = self.give_returned(max, each);
        if let Some(retrying) = &mut self.retrying
            && retrying.pair.has_completion()
        {
            let inside = InsidePoll::enter();
            let processed = retrying.process(
                max - count,
                &self.hub,
                &self.slot,
                &self.watchdog,
                &mut |token, data, completion| {
                    each(IoCompletion { token, outcome: outcome_of(completion), data });
                },
            );
            drop(inside);
            count += processed.map_err(|error| self.protocol_error(&error))?;
            // What is not to wait goes out in this poll.
            self.send_again();
        }
        Ok(count)
    }

    /// Sends again what is due, and rings the doorbell.
    fn send_again(&mut self) {
        if let Some(retrying) = &mut self.retrying
            && !retrying.waiting.is_empty()
        {
            self.returned.extend(retrying.send_again(&self.hub, &self.watchdog));
        }
        self.commit_retrying();
    }
}

fn clock_ms(hub: &Hub) -> u32 {
    // Relaxed: a time; nothing else is concluded from it.
    hub.clock_ms.load(Ordering::Relaxed)
}
