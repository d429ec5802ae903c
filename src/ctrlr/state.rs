//! The controller's state machine: one word, every transition in this file.
//!
//! ```text
//!  Attaching ─▶ Live ◀──▶ Resetting
//!      │         │            │
//!      │         ├────────────┴──▶ Failed ──┐
//!      ▼         ▼                          ▼
//!      └─────────┴────────────────────▶ Detaching ─▶ Detached
//! ```
//! *Stalled* is not a state: it is an observation about the poller.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// What a controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CtrlrState {
    /// Being brought up for the first time.
    Attaching = 0,
    /// Ready for commands.
    Live = 1,
    /// Being stopped and brought up again; messages wait.
    Resetting = 2,
    /// Given up; see [`super::Ctrlr::failure`]. Only detaching is left.
    Failed = 3,
    /// Being taken down for good.
    Detaching = 4,
    /// Stopped, its memory unmapped.
    Detached = 5,
}

impl fmt::Display for CtrlrState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attaching => "attaching",
            Self::Live => "live",
            Self::Resetting => "resetting",
            Self::Failed => "failed",
            Self::Detaching => "detaching",
            Self::Detached => "detached",
        })
    }
}

/// Why a controller failed. The first reason stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Registers read as a device that is not there.
    #[error("the device is gone: {register} reads {value:#x}")]
    Removed {
        /// What was read.
        register: &'static str,
        /// What it said.
        value: u64,
    },
    /// CSTS.CFS is set.
    #[error("the controller reports a fatal status (CSTS {csts:#x})")]
    Fatal {
        /// The whole register.
        csts: u32,
    },
    /// A wait for the controller took longer than it said it could.
    #[error("the controller did not reach {what} within {waited_ms} ms (CSTS {csts:#x})")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        waited_ms: u64,
        /// The last status seen.
        csts: u32,
    },
    /// A command that was not answered in time, and could not be aborted, or was not to be.
    #[error("command {cid:#06x} of queue {qid} ({what}) was not answered for {waited_ms} ms")]
    Stuck {
        /// The queue.
        qid: u16,
        /// The command's identifier.
        cid: u16,
        /// What it was for, or what was tried.
        what: String,
        /// For how long it was waited, since it was submitted or its Abort was asked for.
        waited_ms: u64,
    },
    /// A completion that answers nothing that was asked.
    #[error("the controller broke the queue protocol: {0}")]
    Protocol(String),
    /// A command that bring-up needs was refused.
    #[error("the controller refused {what}: {status}")]
    Refused {
        /// The command.
        what: &'static str,
        /// Its answer.
        status: crate::spec::status::Status,
    },
    /// Something the controller says of itself cannot be.
    #[error("the controller is not usable: {0}")]
    Unusable(String),
    /// DMA memory or the transport failed.
    #[error("{0}")]
    Host(String),
}

/// The state word of one controller.
#[derive(Debug)]
pub(crate) struct StateCell {
    word: AtomicU8,
    failure: OnceLock<Failure>,
}

impl StateCell {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU8::new(CtrlrState::Attaching as u8), failure: OnceLock::new() }
    }

    pub(crate) fn get(&self) -> CtrlrState {
        // Acquire: pairs with the Release in `advance`; who sees Detached sees the teardown done.
        match self.word.load(Ordering::Acquire) {
            0 => CtrlrState::Attaching,
            1 => CtrlrState::Live,
            2 => CtrlrState::Resetting,
            3 => CtrlrState::Failed,
            4 => CtrlrState::Detaching,
            _ => CtrlrState::Detached,
        }
    }

    /// Moves to `to` if the picture above has that arrow; says whether it did.
    pub(crate) fn advance(&self, to: CtrlrState) -> bool {
        // Release: pairs with the Acquire in `get`. Acquire: the new state builds on what the old one's owner did.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |from| {
                may_follow(from, to).then_some(to as u8)
            })
            .is_ok()
    }

    /// Moves to Failed for `failure`, unless the controller is already there or beyond.
    pub(crate) fn fail(&self, failure: Failure) -> bool {
        // The reason first: who sees Failed finds one. The first one stands.
        let _ = self.failure.set(failure);
        self.advance(CtrlrState::Failed)
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }
}

const fn may_follow(from: u8, to: CtrlrState) -> bool {
    const ATTACHING: u8 = CtrlrState::Attaching as u8;
    const LIVE: u8 = CtrlrState::Live as u8;
    const RESETTING: u8 = CtrlrState::Resetting as u8;
    const FAILED: u8 = CtrlrState::Failed as u8;
    const DETACHING: u8 = CtrlrState::Detaching as u8;
    match to {
        CtrlrState::Attaching => false,
        CtrlrState::Live => matches!(from, ATTACHING | RESETTING),
        CtrlrState::Resetting => matches!(from, LIVE),
        CtrlrState::Failed => matches!(from, ATTACHING | LIVE | RESETTING),
        CtrlrState::Detaching => matches!(from, ATTACHING | LIVE | RESETTING | FAILED),
        CtrlrState::Detached => matches!(from, DETACHING),
    }
}
