//! The way of one command through the device: doorbell, fetch, hold, execute, complete; and the doorbells that nobody should
//! have rung. Commands that a fault hits take a way of their own (`faults`), which ends in `execute` and `complete` as well.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::device::{Device, Reply};
use super::events::Event;
use super::faults::Mischief;
use super::queues::{BadValue, Cq, Held, is_cell_touched, reset_cell};
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::status::Status;

impl Device {
    /// Moves the tail of a submission queue; whether its doorbell was rung.
    #[inline]
    pub(super) fn take_tail(&mut self, index: usize) -> bool {
        let sq = &mut self.sqs[index];
        let Some(value) = sq.bell.take(&self.transport.doorbells) else { return false };
        if let Err(bad) = sq.set_tail(value) {
            let qid = sq.qid;
            self.bad_doorbell("tail", "submission", qid, value, &bad);
        }
        true
    }

    /// Moves the head of a completion queue; whether its doorbell was rung.
    #[inline]
    pub(super) fn take_head(&mut self, qid: u16) -> bool {
        let Some(cq) = &mut self.cqs[usize::from(qid)] else { return false };
        let Some(value) = cq.bell.take(&self.transport.doorbells) else { return false };
        if let Err(bad) = cq.set_head(value) {
            self.bad_doorbell("head", "completion", qid, value, &bad);
        }
        true
    }

    #[cold]
    fn bad_doorbell(&mut self, what: &str, kind: &str, qid: u16, value: u32, bad: &BadValue) {
        let why = bad.words();
        self.transport.violations.record(format!("{what} {value} of {kind} queue {qid} {why}"));
        // An unchanged value is a waste, and no error to a real controller.
        if *bad != BadValue::Unchanged {
            self.events.raise(Event::INVALID_DOORBELL_VALUE);
        }
    }

    /// Looks at one more doorbell that no submission brings to attention: completion heads, and queues that do not exist.
    #[inline]
    pub(super) fn patrol(&mut self) -> usize {
        let qid = self.patrol / 2;
        let is_sq = self.patrol.is_multiple_of(2);
        self.patrol = if self.patrol == self.config.io_queues * 2 + 1 { 0 } else { self.patrol + 1 };
        let exists =
            if is_sq { self.sq_exists[usize::from(qid)] } else { self.cqs[usize::from(qid)].is_some() };
        if exists {
            return if is_sq { self.watch_health() } else { self.patrol_head(qid) };
        }
        let offset = if is_sq { self.sq_cell(qid) } else { self.cq_cell(qid) };
        if is_cell_touched(&self.transport.doorbells, offset) {
            self.stray_doorbell(is_sq, qid, offset);
            return 1;
        }
        0
    }

    fn patrol_head(&mut self, qid: u16) -> usize {
        if !self.take_head(qid) {
            return 0;
        }
        if let Some(cq) = &mut self.cqs[usize::from(qid)] {
            cq.bell.mark(&self.transport.doorbells);
        }
        1
    }

    #[cold]
    fn stray_doorbell(&mut self, is_sq: bool, qid: u16, offset: usize) {
        reset_cell(&self.transport.doorbells, offset);
        let kind = if is_sq { "submission" } else { "completion" };
        self.transport
            .violations
            .record(format!("the doorbell of {kind} queue {qid} was rung, and there is no such queue"));
        self.events.raise(Event::INVALID_DOORBELL_REGISTER);
    }

    /// Says once that nothing can be fetched.
    #[cold]
    pub(super) fn stall_without_bus_master(&mut self, rung: bool) -> usize {
        // A device that is pulled out in the middle of a step is out of memory too, and nobody's fault.
        let is_gone = self.transport.registers.control().is_closed();
        if !is_gone && !std::mem::replace(&mut self.stalled_bus_master, true) {
            self.transport.violations.record(
                "a doorbell was rung while bus mastering is off: the controller cannot fetch the command"
                    .into(),
            );
        }
        rung.into()
    }

    /// After the mappings changed: finds the memory of all queues again, or fails.
    #[cold]
    pub(super) fn find_queues_again(&mut self) -> bool {
        let table = &*self.memory.port.table;
        let lost_submission =
            self.sqs.iter_mut().find_map(|sq| (!sq.memory.is_found_again(table)).then_some(sq.qid));
        let mut cqs = self.cqs.iter_mut().flatten();
        let lost_completion = cqs.find_map(|cq| (!cq.memory.is_found_again(table)).then_some(cq.qid));
        let lost =
            lost_submission.map(|qid| ("submission", qid)).or(lost_completion.map(|qid| ("completion", qid)));
        if let Some((kind, qid)) = lost {
            self.fail(&format!("the memory of {kind} queue {qid} was unmapped while the queue exists"));
            return false;
        }
        self.queues_generation = self.memory.port.generation;
        true
    }

    /// Keeps a command until its latency has passed.
    pub(super) fn hold(
        &mut self,
        index: usize,
        command: Command,
        delay: Duration,
        mischief: Option<Mischief>,
    ) {
        if self.is_cid_in_use(index, command.cid) {
            self.conflict(index, &command);
            return;
        }
        if index == 0 && command.opcode == AdminOpcode::ABORT.0 && self.is_abort_limit_reached() {
            self.complete(index, &command, Err(Status::ABORT_LIMIT_EXCEEDED));
            return;
        }
        self.held_sequence += 1;
        let (due, sequence) = (self.now() + delay, self.held_sequence);
        self.sqs[index].held.push(Held { due, sequence, aborted: false, command, mischief });
    }

    /// Executes the held commands that are due.
    #[inline]
    pub(super) fn serve_held(&mut self, index: usize) -> usize {
        if self.sqs[index].held.is_empty() {
            return 0;
        }
        let now = self.now();
        let mut done = 0;
        loop {
            let sq = &mut self.sqs[index];
            let cq = &self.cqs[usize::from(sq.cqid)];
            if cq.as_ref().is_none_or(Cq::is_full) || sq.held.peek().is_none_or(|held| held.due > now) {
                return done;
            }
            let Some(Held { aborted, command, mischief, .. }) = sq.held.pop() else { return done };
            done += 1;
            if aborted {
                self.complete(index, &command, Err(Status::ABORTED_BY_REQUEST));
            } else if mischief.is_some() {
                self.execute_with(index, &command, mischief);
            } else {
                self.execute(index, &command);
            }
        }
    }

    fn is_cid_in_use(&self, index: usize, cid: u16) -> bool {
        let sq = &self.sqs[index];
        let held = !sq.held.is_empty() && sq.held.iter().any(|held| held.command.cid == cid);
        held || sq.qid == 0 && self.events.is_requested_by(cid)
    }

    #[cold]
    fn conflict(&mut self, index: usize, command: &Command) {
        let (cid, qid) = (command.cid, self.sqs[index].qid);
        self.transport
            .violations
            .record(format!("CID {cid:#06x} of queue {qid} was used again while its command is outstanding"));
        self.complete(index, command, Err(Status::COMMAND_ID_CONFLICT));
    }

    /// Executes a command, and completes it unless it stays outstanding.
    #[inline]
    pub(super) fn execute(&mut self, index: usize, command: &Command) {
        if self.is_cid_in_use(index, command.cid) {
            return self.conflict(index, command);
        }
        // Neither fused operations nor SGLs are supported.
        if command.flags != 0 {
            return self.complete(index, command, Err(Status::INVALID_FIELD.with_dnr()));
        }
        if self.sqs[index].qid != 0 {
            let reply = self.io(command);
            self.complete(index, command, reply);
        } else if let Some(reply) = self.admin(command) {
            self.complete(index, command, reply);
        }
    }

    /// Posts the completion of a command. There is room for it.
    #[inline]
    pub(super) fn complete(&mut self, index: usize, command: &Command, reply: Reply) {
        let (dw0, status) = match reply {
            Ok(dw0) => (dw0, Status::SUCCESS),
            Err(status) => {
                self.logs.error(self.sqs[index].qid, command, status);
                (0, status)
            }
        };
        if self.mischief.is_some() && self.complete_with_mischief(index, command, dw0, status) {
            return;
        }
        let sq = &mut self.sqs[index];
        if let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] {
            cq.post(sq, command.cid, dw0, status);
        }
    }

    /// Completes async event requests for the events that there are.
    #[cold]
    pub(super) fn deliver_events(&mut self) -> usize {
        if !self.memory.port.enter() {
            return 0;
        }
        let mut done = 0;
        while self.cqs[0].as_ref().is_some_and(|cq| !cq.is_full()) {
            let Some((cid, dw0, mischief)) = self.events.deliver() else { break };
            self.mischief = mischief;
            self.complete(0, &Command { cid, ..Command::default() }, Ok(dw0));
            self.mischief = None;
            done += 1;
        }
        self.memory.port.leave();
        if let Some(cq) = &mut self.cqs[0] {
            cq.interrupt();
        }
        done
    }
}
