//! Faults by description: what an emulated controller is to do wrong, to which commands, and when. `text` reads and writes the form that files have,
//! `plan` decides while the device runs and does it.
//!
//! Nothing here is drawn but from the seeds that are given: the same commands in the same order meet the same faults. A controller without faults pays one
//! comparison a command for them.
#![forbid(unsafe_code)]

mod plan;
mod text;

use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) use plan::{Mischief, Plan};
pub use text::FaultsError;

use crate::spec::status::Status;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// The command is fetched and never executed. An Abort, the deletion of its queue or a reset ends it.
    Hang,
    /// The command is executed, and its completion never posted. Of an Async Event Request: the event is lost.
    Drop,
    /// The command is executed that much later. Of an Async Event Request: events before that wait.
    Delay(Duration),
    /// The completion has the CID of no command that is outstanding (but for a queue of 32,768 entries and more).
    WrongCid,
    /// The completion is posted twice, if there is room.
    Repeat,
    /// The completion is posted with the phase of the round before, so that it and all that follow it are not seen.
    StalePhase,
    /// The completion's SQHD is 65,535.
    WrongSqHead,
    /// The command is not executed, and answered with this status.
    Status(Status),
    /// The byte at this offset of the data is inverted: of data to the host in the host's memory, of a Write on the medium.
    Corrupt(u32),
    /// CSTS.CFS is set, and the command not executed.
    Fatal,
    /// The device is pulled out when it meets the command.
    Remove,
    /// From the command on, every register reads as all ones. The device goes on.
    RegistersOnes,
    /// From the command on, every register reads as zero. The device goes on.
    RegistersZero,
    /// CSTS.RDY stays 0 when the controller is enabled; counted by `nth` from its first enabling.
    NeverReady,
    /// CSTS.RDY stays 1 when the controller is disabled, or reset with its subsystem; counted by `nth`.
    NeverStops,
    /// CSTS.SHST stays at 01b after a shutdown notification; counted by `nth`.
    NeverShutsDown,
    /// Each access to a register takes that long, in real time, from the beginning.
    SlowRegisters(Duration),
}

impl Effect {
    /// Whether it is about single commands, so that their fields can choose.
    fn is_about_commands(self) -> bool {
        !matches!(self, Self::NeverReady | Self::NeverStops | Self::NeverShutsDown | Self::SlowRegisters(_))
    }
}

/// Which queues a fault is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnQueue {
    /// All.
    #[default]
    Any,
    /// The admin queue.
    Admin,
    /// All I/O queues.
    Io,
    /// The queue with this identifier; 0 is the admin queue.
    Id(u16),
}

/// One fault: an effect, and which commands meet it. All conditions must hold.
///
/// ```
/// use slipring::emulated::{Effect, Fault, OnQueue};
/// use slipring::spec::command::NvmOpcode;
/// // The third read of any I/O queue is not answered.
/// let fault =
///     Fault { queue: OnQueue::Io, opcode: Some(NvmOpcode::READ.0), nth: 3..=3, ..Fault::new(Effect::Drop) };
/// assert_eq!(fault.to_string(), "drop queue=io opcode=read nth=3");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub effect: Effect,
    /// In which queues.
    pub queue: OnQueue,
    /// Only commands with this opcode.
    pub opcode: Option<u8>,
    /// Only commands for this namespace.
    pub nsid: Option<u32>,
    /// Only reads, writes, compares and the like that touch one of these blocks.
    pub lbas: Option<RangeInclusive<u64>>,
    /// Of those commands, only these, counted from 1 and since the controller was made.
    pub nth: RangeInclusive<u64>,
    /// Of those, each with this chance, in millionths.
    pub chance_ppm: u32,
    /// Seed of the chance.
    pub seed: u64,
}

impl Fault {
    /// An effect that every command meets.
    pub fn new(effect: Effect) -> Self {
        Self {
            effect,
            queue: OnQueue::Any,
            opcode: None,
            nsid: None,
            lbas: None,
            nth: 1..=u64::MAX,
            chance_ppm: CERTAIN_PPM,
            seed: 0,
        }
    }
}

/// A chance that always comes true.
pub(super) const CERTAIN_PPM: u32 = 1_000_000;

/// The faults of a controller. `Faults::default()` is none.
///
/// Each counts by itself what it matches. Of several that hit the same command, delays add up, and of other effects the last one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.0.push(fault);
        self
    }

    /// All of them, in order.
    pub fn list(&self) -> &[Fault] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much slower than free each access to a register is.
    pub(super) fn register_delay(&self) -> Option<Duration> {
        let slow = self.0.iter().filter_map(|fault| match fault.effect {
            Effect::SlowRegisters(delay) => Some(delay),
            _ => None,
        });
        Some(slow.sum::<Duration>()).filter(|delay| !delay.is_zero())
    }
}

impl From<Vec<Fault>> for Faults {
    fn from(faults: Vec<Fault>) -> Self {
        Self(faults)
    }
}
