//! Keep-alive: tells the controller that the driver is still there, before it takes it for dead (NVMe Base 2.0, 3.9 and 5.18).
//!
//! After each bring-up the timer is set anew, by the first poll: until somebody polls, nobody could keep it. From then on a Keep Alive is sent each half of
//! the timeout, never two at once. One that is not answered within that half is a stuck command of the driver's own, and escalates as those do.
#![forbid(unsafe_code)]

use super::core::{Core, Phase, Purpose};
use super::state::Failure;
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::feature::FeatureId;
use std::time::{Duration, Instant};

/// What the timer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The controller has stopped, or was not asked to watch.
    Off,
    /// The timer is to be set.
    Unset,
    /// A command of ours is at the controller, since then.
    Asked(Instant),
    /// The timer runs.
    Kept,
}

/// The state of it.
#[derive(Debug)]
pub(super) struct KeepAlive {
    timeout: Option<Duration>,
    stage: Stage,
    /// Whether the timer was set since the last bring-up.
    is_set: bool,
    /// When to send the next command, unless one is at the controller.
    due: Instant,
}

impl KeepAlive {
    pub(super) fn new(timeout: Option<Duration>, now: Instant) -> Self {
        Self { timeout, stage: Stage::Off, is_set: false, due: now }
    }

    /// The controller was brought up.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.timeout.is_some() {
            (self.stage, self.due) = (Stage::Unset, now);
        }
    }

    /// The controller has stopped.
    pub(super) fn forget(&mut self) {
        (self.stage, self.is_set) = (Stage::Off, false);
    }

    /// Admin queue entries that it may still ask for.
    pub(super) fn entries_needed(&self) -> usize {
        usize::from(self.timeout.is_some() && !matches!(self.stage, Stage::Asked(_)))
    }

    /// When the next command is to be sent, if one is.
    pub(super) fn due(&self) -> Option<Instant> {
        matches!(self.stage, Stage::Unset | Stage::Kept).then_some(self.due)
    }

    /// How often a Keep Alive is sent, which is also how long one may take.
    pub(super) fn interval(&self) -> Duration {
        self.timeout.unwrap_or_default() / 2
    }
}

impl Core {
    /// Sends the next command if it is time to.
    pub(super) fn keep_alive(&mut self, now: Instant) {
        if self.keep_alive.due().is_none_or(|due| now < due) || !matches!(self.phase, Phase::Running) {
            return;
        }
        let command = match self.keep_alive.timeout {
            Some(timeout) if !self.keep_alive.is_set => {
                let kato_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
                Command::set_features(FeatureId::KEEP_ALIVE_TIMER, false, 0, kato_ms)
            }
            _ => Command::keep_alive(),
        };
        if !self.admin.is_full() && self.start_driver(Purpose::KeepAlive, command, None) {
            self.keep_alive.stage = Stage::Asked(now);
            // The poll's own doorbells were rung before.
            self.commit();
        }
    }

    /// The timer was set, or started anew, when the command was executed: after it was sent, so the next one is counted from there.
    pub(super) fn keep_alive_answered(&mut self, completion: Completion) {
        let Stage::Asked(sent) = self.keep_alive.stage else { return };
        let status = completion.status();
        let interval = self.keep_alive.interval();
        self.keep_alive.stage = Stage::Kept;
        self.keep_alive.due = sent + interval;
        if status.is_success() {
            self.keep_alive.is_set = true;
        } else if self.keep_alive.is_set {
            tracing::warn!(%status, "a Keep Alive failed; there is time for another one");
            self.keep_alive.due = sent + interval / 2;
        } else {
            self.hub.fail(Failure::Refused { what: "Set Features (Keep Alive Timer)", status });
        }
    }
}
