//! From phase to phase: what was raised is attended to, a take-down ends, a bring-up ends, and what becomes of everything in flight. Whatever drives a
//! core (a poller, a detacher, an attach) does it through here, in steps that never wait.
#![forbid(unsafe_code)]

use super::bring_up::BringUp;
use super::core::{Core, Owner, Phase, Purpose};
use super::hub::attention;
use super::message::Reply;
use super::options::ControllerEvent;
use super::state::{CtrlrState, Failure};
use super::takedown::{Takedown, Why};
use crate::dma::DmaSlice;
use crate::ring::{AbortReason, Aborted, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Core {
    /// The cold path of a poll: what was raised, and the next step of what is in progress. Never waits.
    #[cold]
    pub(crate) fn attend(&mut self, now: Instant) {
        let hub = Arc::clone(&self.hub);
        let bits = hub.attention.look();
        if bits & attention::FAIL != 0 {
            hub.attention.lower(attention::FAIL);
            self.take_down(Why::Failure, now);
        }
        if bits & attention::PLEA != 0 {
            hub.attention.lower(attention::PLEA);
            self.hear_pleas(now);
        }
        if bits & attention::RESET != 0 && matches!(self.phase, Phase::Running | Phase::Stopped) {
            let lowered = hub.attention.lower(attention::RESET | attention::SUBSYSTEM);
            let is_subsystem = lowered & attention::SUBSYSTEM != 0;
            if hub.state.advance(CtrlrState::Resetting) {
                self.take_down(if is_subsystem { Why::SubsystemReset } else { Why::Reset }, now);
            }
        }
        if bits & attention::QPAIR != 0 {
            hub.attention.lower(attention::QPAIR);
            self.serve_slots();
        }
        if hub.state.get() == CtrlrState::Resetting {
            // Relaxed: ordered by the Acquire of the look at the bits.
            self.aborts_queued |= hub.aborts_queued.load(Ordering::Relaxed);
        }
        self.advance(now);
        // What was held for the queue pairs' sake has nothing in flight to wait for.
        self.submit_held();
        self.commit();
    }

    pub(super) fn take_down(&mut self, why: Why, now: Instant) {
        self.hub.attention.raise(attention::BUSY);
        self.resets_subsystem |= why == Why::SubsystemReset;
        let takedown = Takedown::start(self, why, now);
        self.phase = Phase::TakingDown(takedown);
        self.give_up_retries();
    }

    /// Drives what is in progress one step on. True when nothing is (any more).
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Running => return true,
            Phase::Stopped => {
                self.phase = Phase::Stopped;
                return true;
            }
            Phase::TakingDown(mut takedown) => match takedown.step(self, now) {
                None => self.phase = Phase::TakingDown(takedown),
                Some(stopped) => self.taken_down(takedown.why(), &stopped, now),
            },
            Phase::BringingUp(mut bring_up) => match bring_up.step(self, now) {
                Ok(false) => self.phase = Phase::BringingUp(bring_up),
                Ok(true) => self.brought_up(now),
                Err(failure) if self.may_reset_subsystem(&failure) => {
                    self.take_down(Why::SubsystemReset, now);
                }
                Err(failure) => {
                    self.phase = Phase::BringingUp(bring_up);
                    self.hub.count_reset();
                    self.hub.fail(failure);
                }
            },
        }
        self.commit();
        matches!(self.phase, Phase::Running | Phase::Stopped)
    }

    fn taken_down(&mut self, why: Why, stopped: &Result<(), Failure>, now: Instant) {
        match (why, stopped) {
            (Why::Reset | Why::SubsystemReset, Ok(())) => {
                self.device_stopped(AbortReason::Reset);
                self.phase = Phase::BringingUp(BringUp::start(&self.hub, now));
            }
            (Why::Reset, Err(failure)) if self.may_reset_subsystem(failure) => {
                self.take_down(Why::SubsystemReset, now);
            }
            (Why::Reset | Why::SubsystemReset, Err(failure)) => {
                // It would not stop: it cannot be trusted with memory. The take-down for the failure takes that away; it begins now, so that no
                // message of this poll is submitted to a device that is half stopped.
                self.hub.count_reset();
                self.hub.fail(failure.clone());
                self.hub.attention.lower(attention::FAIL);
                self.take_down(Why::Failure, now);
            }
            (Why::Failure | Why::Detach, _) => {
                let reason = if why == Why::Detach { AbortReason::Detached } else { self.stop_reason() };
                self.phase = Phase::Stopped;
                self.device_stopped(reason);
                // `BUSY` stays raised: each further poll says that the controller failed.
                if why == Why::Failure {
                    self.give_up_device();
                }
            }
        }
        self.hub.waiters.bell().ring();
    }

    /// A device that failed and has stopped is given back to the system without waiting for a detach: a removal may be waiting for that.
    fn give_up_device(&mut self) {
        if !self.is_attached {
            // The attach that failed does it, at once.
            return;
        }
        if let Some(failure) = self.hub.state.failure() {
            self.hub.options.tell(&ControllerEvent::Failed(failure.clone()));
        }
        let hub = Arc::clone(&self.hub);
        let thread = std::thread::Builder::new().name("slipring-give-up".into());
        // On a thread of its own: the system may take its time to let go, and the poller waits for nobody. Without a thread to be had,
        // detach does it.
        let spawned = thread.spawn(move || {
            if let Err(error) = hub.dma.unmap_all() {
                tracing::error!(%error, "DMA memory of a failed controller could not be unmapped");
            }
            hub.transport.close();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to give a failed device up; detach will");
        }
    }

    fn brought_up(&mut self, now: Instant) {
        self.phase = Phase::Running;
        self.watch_at = now + self.hub.options.watch_period;
        self.hub.attention.lower(attention::BUSY);
        // Before the state says Live: from then on, who asks means the next reset. Relaxed: published by that.
        self.hub.aborts_queued.store(false, Ordering::Relaxed);
        if self.hub.state.get() == CtrlrState::Resetting {
            self.hub.state.advance(CtrlrState::Live);
            if std::mem::take(&mut self.resets_subsystem) {
                // Who asked for one meanwhile has it with this. Before it is counted: who asks after that means the next one.
                self.hub.attention.lower(attention::RESET | attention::SUBSYSTEM);
                self.hub.count_subsystem_reset();
            }
            self.hub.count_reset();
        }
        self.aborts_queued = false;
        // One of the subsystem that was asked for meanwhile is still to come, and they wait for that.
        if self.hub.attention.bits() & attention::SUBSYSTEM == 0 {
            for responder in self.reset_waiters.drain(..) {
                responder.deliver(Outcome::Completed(Reply::WasReset));
            }
        }
        self.keep_alive.begin(now);
        // Of those who asked since the bring-up's own reading had ended: it did not answer them.
        if !self.rescan_waiters.is_empty() {
            self.start_rescan();
        }
        self.configure_events();
        self.arm_events();
        self.serve_slots();
        self.submit_held();
        self.hub.waiters.bell().ring();
    }

    /// Why messages are aborted once the device has stopped for good.
    pub(super) fn stop_reason(&self) -> AbortReason {
        match (self.hub.state.get(), self.hub.state.failure()) {
            (CtrlrState::Detaching | CtrlrState::Detached, _) => AbortReason::Detached,
            (_, Some(Failure::Removed { .. })) => AbortReason::Removed,
            _ => AbortReason::Failed,
        }
    }

    /// The device can write to no memory any more: everything in flight gets its outcome.
    fn device_stopped(&mut self, reason: AbortReason) {
        let aborted = Outcome::Aborted(Aborted::maybe_executed(reason));
        let failed = self.take_failed();
        let (scratch, events) = (&mut self.scratch, &mut self.events);
        let mut abort = |owner, data: Option<DmaSlice>| match owner {
            Owner::Message(responder) | Owner::Abort(responder) => responder.deliver(copy_of(&aborted)),
            Owner::Driver(Purpose::EventLog) => {
                data.map(DmaSlice::into_buffer).into_iter().for_each(|buffer| events.put_back(buffer));
            }
            Owner::Driver(_) => *scratch = scratch.take().or(data.map(DmaSlice::into_buffer)),
        };
        for failed in failed {
            abort(failed.owner, failed.data);
        }
        self.admin.abort_all(abort);
        self.admin.reset();
        if let Some(mut external) = self.external.take() {
            external.abort_all(|responder, _| responder.deliver(copy_of(&aborted)));
            external.reset();
            self.external = Some(external);
        }
        self.queue_commands = 0;
        self.events.forget();
        self.recovery.forget();
        self.keep_alive.forget();
        self.rescan = None;
        let unexecuted = Aborted::unexecuted(reason);
        if matches!(self.phase, Phase::Stopped) || self.aborts_queued {
            for held in self.held.drain(..) {
                held.responder.deliver(Outcome::Aborted(unexecuted));
            }
        }
        if matches!(self.phase, Phase::Stopped) {
            let waiters = self.rescan_waiters.drain(..).chain(self.reset_waiters.drain(..));
            for responder in waiters {
                responder.deliver(Outcome::Aborted(unexecuted));
            }
            for (_, responder) in self.connect_waiters.drain(..) {
                responder.deliver(Outcome::Aborted(unexecuted));
            }
        }
        self.stop_slots(matches!(self.phase, Phase::Stopped));
    }
}

impl Core {
    /// The end of a core whose device has stopped: its memory is unmapped, the transport closed.
    pub(super) fn release(self) {
        debug_assert!(matches!(self.phase, Phase::Stopped), "memory is given up once the device has stopped");
        let hub = Arc::clone(&self.hub);
        drop(self);
        if let Err(error) = hub.dma.unmap_all() {
            tracing::error!(%error, "DMA memory could not be unmapped; it stays allocated");
        }
        hub.transport.close();
        hub.sweep();
    }

    /// The end of a core that nobody detaches: stops the device without a goodbye and without a wait, by taking its right to memory.
    pub(super) fn abandon(mut self) {
        if !matches!(self.phase, Phase::Stopped) {
            let transport = &*self.hub.transport;
            let cc = super::registers::read_cc(transport);
            super::registers::write_cc(transport, cc.with_en(false));
            if let Err(error) = transport.set_bus_master(false) {
                tracing::error!(%error, "bus mastering could not be switched off");
            }
            self.hub.state.advance(CtrlrState::Detaching);
            self.phase = Phase::Stopped;
            self.device_stopped(AbortReason::Detached);
        }
        let hub = Arc::clone(&self.hub);
        self.release();
        hub.state.advance(CtrlrState::Detaching);
        hub.state.advance(CtrlrState::Detached);
        hub.waiters.bell().ring();
    }
}

/// An abort, which carries no answer and so can be delivered many times.
fn copy_of(outcome: &Outcome<Reply>) -> Outcome<Reply> {
    match outcome {
        Outcome::Aborted(aborted) => Outcome::Aborted(*aborted),
        Outcome::Completed(_) => unreachable!("only aborts are copied"),
    }
}
