//! Detach: from any state to nothing left; blocking with a deadline, or in steps, from any thread, as often as it takes.
#![forbid(unsafe_code)]

use super::control::{Pause, Shared};
use super::core::{Core, Phase};
use super::hub::attention;
use super::seat::{Seated, Stalled};
use super::state::CtrlrState;
use super::takedown::Why;
use crate::ring::Scheme;
use crate::ring::inside::is_inside_poll;
use crate::ring::scheme::Receiver;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a device is given for its goodbye: far beyond what any wait in it takes.
const LONGEST_GOODBYE: Duration = Duration::from_secs(3600);

/// Why a detach did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DetachError {
    /// Called from inside a message or completion: the poller would wait for itself.
    #[error(
        "detaching from inside a message or completion would wait for the poller that runs it; use Poller::detach outside"
    )]
    InsidePoll,
    /// The deadline passed. Nothing is lost; detach can be called again and goes on where this one stopped.
    #[error("not detached within the deadline: {waits_for}; call detach again")]
    Deadline {
        /// What it still waits for.
        waits_for: WaitsFor,
    },
}

/// What holds a detach up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// A poller that has not come by.
    Poller(Stalled),
    /// A producer in the middle of a send (preempted between claiming a slot and filling it).
    Producer,
    /// The device, which is being stopped.
    Device,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poller(stalled) => stalled.fmt(f),
            Self::Producer => f.write_str("a producer is in the middle of a send"),
            Self::Device => f.write_str("the device is being stopped"),
        }
    }
}

/// A detach on its way, for those who must not wait. Dropping it leaves the rest to the next one.
#[must_use = "a detach goes on with each step"]
pub struct Detach<S: Scheme> {
    shared: Arc<Shared<S>>,
    /// Whoever has it does the work; others wait for it, and take over when it gives up.
    seated: Option<Box<Seated<S>>>,
    /// For how long the device is given time for a goodbye, and until when, from the first step on.
    goodbye: Duration,
    patience: Option<Instant>,
}

impl<S: Scheme> Detach<S> {
    /// Closes the ring and asks the poller to leave.
    pub(super) fn begin(shared: &Arc<Shared<S>>, timeout: Duration) -> Result<Self, DetachError> {
        if is_inside_poll() {
            return Err(DetachError::InsidePoll);
        }
        let hub = &shared.hub;
        hub.state.advance(CtrlrState::Detaching);
        if hub.state.get() == CtrlrState::Detaching {
            shared.close_for_detach();
            hub.attention.raise(attention::DETACH);
        }
        let goodbye = (timeout / 2).min(LONGEST_GOODBYE);
        Ok(Self { shared: Arc::clone(shared), seated: None, goodbye, patience: None })
    }

    /// One step on; true at the end. Never waits.
    pub fn step(&mut self, now: Instant) -> bool {
        if self.shared.hub.state.get() == CtrlrState::Detached {
            return true;
        }
        let patience = *self.patience.get_or_insert(now + self.goodbye);
        self.take_seat(now, patience);
        let is_drained = self.shared.settle(None);
        let is_stopped = self.seated.as_mut().is_some_and(|seated| drive(&mut seated.core, now));
        if !is_drained || !is_stopped {
            return false;
        }
        if let Some(seated) = self.seated.take() {
            let Seated { core, receiver } = *seated;
            drop(receiver);
            core.release();
        }
        self.shared.hub.state.advance(CtrlrState::Detached);
        self.shared.hub.waiters.bell().ring();
        true
    }

    /// Takes the core, once the poller has deposited it, and begins to take the device down.
    fn take_seat(&mut self, now: Instant, patience: Instant) {
        if self.seated.is_some() {
            return;
        }
        self.seated = self.shared.seat.take();
        if let Some(seated) = &mut self.seated {
            seated.receiver.offline();
            let core = &mut seated.core;
            match &mut core.phase {
                Phase::Stopped => {}
                Phase::TakingDown(takedown) if takedown.why() == Why::Detach => takedown.hurry(patience),
                _ => {
                    core.take_down(Why::Detach, now);
                    if let Phase::TakingDown(takedown) = &mut core.phase {
                        takedown.hurry(patience);
                    }
                    core.commit();
                }
            }
        }
    }

    fn waits_for(&self) -> WaitsFor {
        match &self.seated {
            None => WaitsFor::Poller(self.shared.hub.reader.stalled(self.shared.hub.epoch)),
            Some(seated) if matches!(seated.core.phase, Phase::Stopped) => WaitsFor::Producer,
            Some(_) => WaitsFor::Device,
        }
    }

    pub(super) fn wait(mut self, timeout: Duration) -> Result<(), DetachError> {
        let mut pause = Pause::new(timeout);
        while !self.step(Instant::now()) {
            if !pause.take() {
                return Err(DetachError::Deadline { waits_for: self.waits_for() });
            }
        }
        Ok(())
    }
}

/// One step of the device's take-down; true when it has stopped.
fn drive(core: &mut Core, now: Instant) -> bool {
    match core.try_poll_queues() {
        Ok(0) => {}
        Ok(_) => core.after_work(),
        // The device breaks the protocol while it is being stopped: all the more reason to go on.
        Err(error) => {
            tracing::warn!(%error, "during detach");
            core.deliver_outcomes();
        }
    }
    core.advance(now)
}

impl<S: Scheme> Drop for Detach<S> {
    fn drop(&mut self) {
        if let Some(seated) = self.seated.take() {
            self.shared.seat.deposit(seated);
        }
    }
}

impl<S: Scheme> fmt::Debug for Detach<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detach").field("seated", &self.seated.is_some()).finish_non_exhaustive()
    }
}
