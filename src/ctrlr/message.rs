//! What other threads may ask of a polled controller, and what they are answered.
#![forbid(unsafe_code)]

use super::connect::QpairSlot;
use super::turn::Turn;
use crate::dma::DmaSlice;
use crate::ring::parcel::Parcel;
use crate::ring::place::Taken;
use crate::ring::{self, Answer, MailboxId, Word};
use crate::spec::command::Command;
use crate::spec::status::Status;
use std::fmt;
use std::sync::Arc;

/// A closure that a message runs on the polling thread. Its result comes back as [`Reply::Called`].
pub type Call = Box<dyn FnOnce(&mut Turn<'_>) -> u64 + Send>;

/// One request to a polled controller. Fits a slot of the ring: nothing is allocated on the way.
pub enum Message {
    /// An admin command. Its PRPs and CID are filled in by the driver; commands that would pull the ground from under the driver are refused
    /// (see [`super::passthru`]).
    Admin {
        /// The command.
        command: Command,
        /// What it transfers, which comes back with the answer. Boxed, so that messages without data stay small.
        data: Option<Box<DmaSlice>>,
    },
    /// An I/O command, run on the external queue pair that the poller keeps for messages.
    Io {
        /// The command.
        command: Command,
        /// What it transfers, which comes back with the answer.
        data: Option<Box<DmaSlice>>,
    },
    /// Reads the list of namespaces and their sizes anew.
    Rescan,
    /// Resets the controller; answered when that is over.
    Reset,
    /// Resets the NVM subsystem, and with it the controller; answered when that is over. See [`super::Ctrlr::reset_subsystem`].
    ResetSubsystem,
    /// Creates the queues of a queue pair; made by [`crate::poller::QueuePair::create`].
    Connect(ConnectRequest),
    /// Aborts a message that was sent before to a mailbox ([`crate::ring::Mailbox::id`]) under this token, and is still under way. Its own outcome says
    /// what became of it, and when its buffer is free. This one's answer: [`Reply::Command`] as the controller answered the Abort command (which may
    /// well be that it did nothing); [`Reply::Called`] with 1 if the message had not reached the device and never will (or failed there, and will not be sent again), with 0 if it is not under way, or
    /// there is no room for an Abort now.
    Abort {
        /// The mailbox that the message answers to.
        mailbox: MailboxId,
        /// The token that it was sent under.
        token: u64,
    },
    /// The sender's own time for a message is over that it sent before to a mailbox under this token: its command is treated as if its time by
    /// [`super::Timeouts`] were over, with all that follows by their action and by what the embedder's handler answers. Answer: [`Reply::Called`] with 1 if
    /// that will end the message, whose own outcome says how; with 0 if it is not under way, or is left alone.
    TimedOut {
        /// The mailbox that the message answers to.
        mailbox: MailboxId,
        /// The token that it was sent under.
        token: u64,
    },
    /// Runs a closure on the polling thread. A closure that captures nothing is not allocated either.
    Call(Call),
}

/// The request to create one queue pair's queues on the device.
pub struct ConnectRequest(pub(crate) Arc<QpairSlot>);

impl Message {
    /// A message that runs `call` on the polling thread, where it must not wait for anything.
    pub fn call(call: impl FnOnce(&mut Turn<'_>) -> u64 + Send + 'static) -> Self {
        Self::Call(Box::new(call))
    }

    /// Drops it where it lies. Closures are told apart here, as there may be many: what drops messages of all kinds is a call.
    #[inline(always)]
    pub(super) fn discard(this: Taken<'_, Self>) {
        if !matches!(this.get(), Self::Call(_)) {
            return drop(this);
        }
        if let Ok(call) = this.part(Self::as_call) {
            drop(call);
        }
    }

    /// The closure, if it is one.
    #[inline(always)]
    pub(super) fn as_call(&mut self) -> Option<&mut Call> {
        match self {
            Self::Call(call) => Some(call),
            _ => None,
        }
    }
}

/// The answer to a message that was executed.
// Whole words: halves that are stored one by one and then copied as one word hold the processor up, once per message.
#[repr(u64)]
#[derive(Debug)]
pub enum Reply {
    /// What the controller answered to an admin or I/O command.
    Command {
        /// Its status; anything but success is the device's own word.
        status: Status,
        /// Dwords 0 (low) and 1 (high) of the completion.
        result: u64,
        /// What the command transferred.
        data: Option<Box<DmaSlice>>,
    },
    /// The namespaces were read anew.
    Rescanned,
    /// The controller was reset.
    WasReset,
    /// The queue pair is connected.
    Connected,
    /// What the closure returned.
    Called(u64),
    /// The driver refused to run the message; nothing was done.
    Refused {
        /// Why.
        why: Refusal,
        /// What the message would have transferred, untouched.
        data: Option<Box<DmaSlice>>,
    },
}

/// With its sequence, what brings it back fills one cache line.
const _: () = assert!(size_of::<Parcel<Reply>>() == 56);

/// The code of what a closure returned, which no status is.
const CALLED: u16 = u16::MAX;

/// Closures and commands that bring no data with them share a cache line on their way back.
impl Answer for Reply {
    #[inline(always)]
    fn to_word(&self) -> Option<Word> {
        match self {
            Self::Called(value) => Some(Word { code: CALLED, value: *value }),
            Self::Command { status, result, data: None } if status.0 != CALLED => {
                Some(Word { code: status.0, value: *result })
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn of_word(word: Word) -> Self {
        match word {
            Word { code: CALLED, value } => Self::Called(value),
            Word { code, value } => Self::Command { status: Status(code), result: value, data: None },
        }
    }
}

impl Reply {
    /// The refusal of a message that has no data, or whose data are gone.
    pub(super) fn refused(why: Refusal) -> Self {
        Self::Refused { why, data: None }
    }
}

/// Why the driver refused to run a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The command belongs to the driver.
    #[error(
        "opcode {opcode:#04x} is the driver's own (queues, events, keep-alive, host memory): not allowed from outside"
    )]
    DriverOwned {
        /// The refused opcode.
        opcode: u8,
    },
    /// The transfer is longer than the controller takes.
    #[error("the transfer is longer than the controller's limit of {limit_bytes} bytes; split it")]
    TooLarge {
        /// The limit (MDTS).
        limit_bytes: usize,
    },
    /// The command and its data do not fit together.
    #[error(
        "the command's data are not as the controller needs them: dword aligned, and no transfer without data"
    )]
    BadData,
    /// The controller has no NVM subsystem reset.
    #[error("the controller has no NVM subsystem reset (CAP.NSSRS is 0); reset the controller itself")]
    NoSubsystemReset,
    /// The controller has no I/O queues.
    #[error("the controller has no external I/O queue pair; admin commands still work")]
    NoIoQueue,
    /// The device refused to create or read what the message needs.
    #[error("the controller refused: {0}")]
    Status(Status),
}

pub(crate) type Envelope = ring::Envelope<Message, Reply>;
pub(crate) type Responder = ring::Responder<Reply>;

const _: () = assert!(size_of::<Envelope>() <= 120, "a message with its responder fits a slot of 128 bytes");

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin { command, .. } => f.debug_tuple("Admin").field(command).finish(),
            Self::Io { command, .. } => f.debug_tuple("Io").field(command).finish(),
            Self::Rescan => f.write_str("Rescan"),
            Self::Reset => f.write_str("Reset"),
            Self::ResetSubsystem => f.write_str("ResetSubsystem"),
            Self::Connect(request) => request.fmt(f),
            Self::Abort { token, .. } => f.debug_tuple("Abort").field(token).finish(),
            Self::TimedOut { token, .. } => f.debug_tuple("TimedOut").field(token).finish(),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connect").field(&self.0.qid()).finish()
    }
}
