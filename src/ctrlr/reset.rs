//! Asking for a reset and waiting for its end. What a reset does is driven by the core, see [`super::takedown`] and [`super::bring_up`].
#![forbid(unsafe_code)]

use super::hub::{Hub, attention};
use super::seat::Stalled;
use super::state::{CtrlrState, Failure};
use crate::ring::inside::is_inside_poll;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A reset that was asked for. Dropping it does not take the request back.
#[derive(Debug)]
pub struct Reset {
    hub: Arc<Hub>,
    /// How many resets of its kind are over.
    done: fn(&Hub) -> u32,
    /// How many were when it was asked for.
    before: u32,
}

/// What becomes of messages that are queued while the controller is reset. Those in flight are aborted in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queued {
    /// They wait, and run when the reset is over.
    #[default]
    Wait,
    /// They are aborted, unexecuted, and so is what is sent until the reset is over.
    Abort,
}

/// Why a reset did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The controller failed, during the reset or before.
    #[error("the controller failed: {0}")]
    Failed(Failure),
    /// The controller is detached, or being detached.
    #[error("the controller is detached")]
    Detached,
    /// The controller has no NVM subsystem reset.
    #[error("the controller has no NVM subsystem reset (CAP.NSSRS is 0); reset the controller itself")]
    NoSubsystemReset,
    /// The deadline passed; the reset goes on when the poller does.
    #[error("the reset is not over within the deadline: {0}")]
    Deadline(Stalled),
    /// Waiting from inside a message or completion would wait for the poller that runs it.
    #[error("waiting for a reset from inside a message or completion would wait for the poller that runs it")]
    InsidePoll,
}

impl Reset {
    /// Asks for a reset, or joins the one that is in progress.
    pub(super) fn ask(hub: &Arc<Hub>, queued: Queued) -> Result<Self, ResetError> {
        let reset = Self::new(hub, Hub::resets_done);
        if queued == Queued::Abort {
            // Relaxed: published by raising the bit below, or, where a reset is in progress, in time for nothing in particular.
            hub.aborts_queued.store(true, Ordering::Relaxed);
        }
        match hub.state.get() {
            CtrlrState::Failed | CtrlrState::Detaching | CtrlrState::Detached => Err(reset.refused()),
            CtrlrState::Resetting => Ok(reset),
            CtrlrState::Attaching | CtrlrState::Live => {
                hub.attention.raise(attention::RESET);
                Ok(reset)
            }
        }
    }

    /// Asks for a reset of the NVM subsystem, or joins the one that is in progress. It follows the end of a controller reset that is.
    pub(super) fn ask_subsystem(hub: &Arc<Hub>) -> Result<Self, ResetError> {
        let reset = Self::new(hub, Hub::subsystem_resets_done);
        match hub.state.get() {
            CtrlrState::Failed | CtrlrState::Detaching | CtrlrState::Detached => Err(reset.refused()),
            _ if !hub.has_subsystem_reset() => Err(ResetError::NoSubsystemReset),
            CtrlrState::Attaching | CtrlrState::Live | CtrlrState::Resetting => {
                hub.attention.raise(attention::RESET | attention::SUBSYSTEM);
                Ok(reset)
            }
        }
    }

    fn new(hub: &Arc<Hub>, done: fn(&Hub) -> u32) -> Self {
        Self { hub: Arc::clone(hub), done, before: done(hub) }
    }

    fn refused(&self) -> ResetError {
        match self.hub.state.failure() {
            Some(failure) => ResetError::Failed(failure.clone()),
            None => ResetError::Detached,
        }
    }

    /// Whether it is over, and how it ended. Never waits.
    pub fn is_over(&self) -> Option<Result<(), ResetError>> {
        match self.hub.state.get() {
            CtrlrState::Failed | CtrlrState::Detaching | CtrlrState::Detached => Some(Err(self.refused())),
            _ if (self.done)(&self.hub) != self.before => Some(Ok(())),
            _ => None,
        }
    }

    /// Waits for its end, at most for `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<(), ResetError> {
        if let Some(result) = self.is_over() {
            return result;
        }
        if is_inside_poll() {
            return Err(ResetError::InsidePoll);
        }
        let deadline = Instant::now().checked_add(timeout);
        self.hub.waiters.bell().sleep_until(deadline, || self.is_over().is_some());
        let stalled = || ResetError::Deadline(self.hub.reader.stalled(self.hub.epoch));
        self.is_over().unwrap_or_else(|| Err(stalled()))
    }
}
