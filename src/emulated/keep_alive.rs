//! Keep Alive: the timer that a host sets and restarts by the command of that name, and what becomes of a controller whose host does not (NVMe Base 2.0,
//! 3.9 and 5.18). Other commands do not restart it: the controller does not claim to take traffic for a sign of life (CTRATT.TBKAS is 0).
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::device::{Device, Reply};
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::status::Status;

/// KAS counts in these.
const UNIT: Duration = Duration::from_millis(100);

/// The timer, off until the host sets it.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    timeout: Duration,
    due: Option<Instant>,
}

impl KeepAlive {
    /// A controller reset: the timer is off.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_on(&self) -> bool {
        self.due.is_some()
    }
}

impl Device {
    /// Sets the timer to `kato_ms`, rounded up to the granularity, and starts it; 0 turns it off. Returns what it was set to.
    pub(super) fn set_keep_alive_timer(&mut self, kato_ms: u32) -> u32 {
        let unit_ms = u32::from(self.config.kas) * UNIT.as_millis() as u32;
        let kato_ms = kato_ms.checked_next_multiple_of(unit_ms).unwrap_or(u32::MAX);
        self.keep_alive.timeout = Duration::from_millis(kato_ms.into());
        self.keep_alive.due = (kato_ms != 0).then(|| self.now() + self.keep_alive.timeout);
        kato_ms
    }

    /// The command.
    pub(super) fn keep_alive(&mut self, command: &Command) -> Reply {
        if self.config.kas == 0 {
            return Err(Status::INVALID_OPCODE.with_dnr());
        }
        if command.nsid != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        if self.keep_alive.is_on() {
            self.keep_alive.due = Some(self.now() + self.keep_alive.timeout);
        }
        Ok(0)
    }

    /// Whether the time is over without a Keep Alive. Asked after the commands were served: one that was there in time counts.
    pub(super) fn is_given_up_by_host(&self) -> bool {
        self.keep_alive.due.is_some_and(|due| self.now() >= due)
    }

    /// The host is taken for dead: an entry in the error log, and CSTS.CFS.
    #[cold]
    pub(super) fn expire_keep_alive(&mut self) {
        let ms = self.keep_alive.timeout.as_millis();
        self.keep_alive.reset();
        let command = Command { cid: u16::MAX, ..Command::admin(AdminOpcode::KEEP_ALIVE, 0) };
        self.logs.error(u16::MAX, &command, Status::KEEP_ALIVE_TIMER_EXPIRED);
        self.fail(&format!("no Keep Alive came for {ms} ms"));
    }
}
