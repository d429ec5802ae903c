//! The end of a world, and what must be true then: nothing lost, nothing kept, nobody writing where it must not, no rule broken.
#![forbid(unsafe_code)]

use super::setup::{Setup, may_refuse};
use super::world::{ROUNDS, World, pace, was_met};
use slipring::ctrlr::CtrlrState;
use slipring::emulated::{Effect, EmulatedTransport, OnQueue};

impl World {
    /// The end of the world: what must be true then.
    pub(super) fn end(&mut self) -> Result<(), String> {
        if !self.is_detaching && !self.is_removed && !self.was_met(may_refuse) {
            self.settle()?;
        }
        let is_dropped = self.random.below(6) == 0;
        self.note(|| format!("the end, {}", if is_dropped { "by a drop" } else { "by a detach" }));
        if is_dropped || self.random.below(3) == 0 {
            self.poller = None;
        }
        self.is_detaching = true;
        if is_dropped {
            self.detach = None;
            self.handle = None;
        } else {
            self.finish_detach()?;
        }
        self.finish_lanes()?;
        self.finish_messages()?;
        if let Some((id, request)) = self.oracle.unanswered().first() {
            return Err(format!("request {id} has no outcome after the end: {request:?}"));
        }
        if self.resets.iter().any(|reset| reset.is_over().is_none()) {
            return Err("a reset is neither over nor refused after the end".to_owned());
        }
        for _ in 0..8 {
            self.device.step_at(self.now);
        }
        while !self.watched.is_empty() {
            self.unwatch()?;
        }
        let how = match (is_dropped, self.counts.failed_controllers) {
            (true, _) => How::Dropped,
            (false, 0) => How::Detached,
            (false, _) => How::Failed,
        };
        no_violations(&self.setup, &self.transport, how)
    }

    /// Detaches to the end, whatever it takes.
    fn finish_detach(&mut self) -> Result<(), String> {
        let mut round = 0;
        while !self.step_detach()? {
            round += 1;
            if round == ROUNDS {
                return Err(format!("not detached after {ROUNDS} rounds: {:?}", self.ctrlr()));
            }
            self.now += pace(&mut self.random, round);
            self.device.step_at(self.now);
            if self.poller.is_some() && self.random.below(2) == 0 {
                self.poll()?;
            }
        }
        self.counts.detaches = 1;
        self.detach = None;
        if self.ctrlr().state() != CtrlrState::Detached || self.ctrlr().dma_bytes() != (0, 0) {
            let bytes = self.ctrlr().dma_bytes();
            return Err(format!(
                "after the detach it is {}, with {bytes:?} bytes of DMA memory",
                self.ctrlr().state()
            ));
        }
        Ok(())
    }

    /// With a device that is well everything comes to its end.
    fn settle(&mut self) -> Result<(), String> {
        self.note(|| "settling".to_owned());
        for round in 0..ROUNDS {
            self.round(round)?;
            if round % 64 == 63 {
                // What was accepted by a ring on its way out is answered by the next registration.
                self.change_registrations()?;
            }
            if self.was_met(may_refuse) {
                return Ok(());
            }
            let is_live = self.ctrlr().state() == CtrlrState::Live && self.poller.is_some();
            if is_live && self.oracle.unanswered().is_empty() && self.correspondence.is_answered() {
                return Ok(());
            }
        }
        Err(format!(
            "not settled after {ROUNDS} rounds with a device that is well: {:?}, requests {:?}, messages {:?}",
            self.ctrlr(),
            self.oracle.unanswered(),
            self.correspondence
        ))
    }
}

/// How a controller ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Detached,
    /// It failed before, or was never attached.
    Failed,
    /// Nobody detached it.
    Dropped,
}

/// The driver broke no rule, but for what it could not know or help.
pub(super) fn no_violations(setup: &Setup, transport: &EmulatedTransport, how: How) -> Result<(), String> {
    let met = transport.faults_met();
    // What a device's limits are, when it lied about them.
    let lied = was_met(setup, &met, |fault| matches!(fault.effect, Effect::Corrupt(_)));
    // Where the deletion of a submission queue was refused, that of its completion queue is tried all the same.
    let refused = was_met(setup, &met, |fault| {
        matches!(fault.effect, Effect::Status(_)) && fault.queue == OnQueue::Admin
    });
    let vanished =
        was_met(setup, &met, |fault| matches!(fault.effect, Effect::RegistersOnes | Effect::RegistersZero));
    let is_excused = |violation: &&String| {
        let says = |words: &str| violation.contains(words);
        lied || refused && says("still uses it and comes first")
            // No goodbye to a device that failed, nor from a driver that is dropped, which does not wait either.
            || how != How::Detached && says("was closed without a shutdown notification")
            || how == How::Dropped && says("was cleared before CSTS.RDY had risen")
            // The device may find too late that a doorbell was rung before it was stopped.
            || (how != How::Detached || vanished) && says("while bus mastering is off")
    };
    match transport.violations().iter().find(|violation| !is_excused(violation)) {
        Some(violation) => Err(format!("the driver broke a rule: {violation}")),
        None => Ok(()),
    }
}
