//! Typed admin calls: SMART, Identify, features and logs, for the poller's own thread and for any other through a producer.
#![forbid(unsafe_code)]

use super::message::{Message, Refusal, Reply};
use super::producer::SendErrorReason;
use crate::dma::{DmaError, DmaSlice, DmaSpace};
use crate::ring::{Aborted, Outcome, Pending, Ticket};
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::identify::{
    Cns, CommandSets, Csi, IdentifyCtrlr, IdentifyCtrlrNvm, IdentifyNs, IdentifyNsNvm, PrimaryCtrlrCaps,
    SecondaryCtrlrList,
};
use crate::spec::log::{ChangedNsList, CommandEffectsLog, ErrorLogEntry, FirmwareSlotLog, LogId, SmartLog};
use crate::spec::status::Status;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use zerocopy::FromBytes;

/// Turns the completion's dword 0 and the data into the answer; `None` when they are too short.
pub(crate) type Parse<T> = fn(u32, &[u8]) -> Option<T>;

/// One admin command with what its answer means. Made by the functions of this module; run by a producer or a poller.
pub struct AdminCall<T> {
    command: Command,
    data_bytes: usize,
    parse: Parse<T>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<T> {
    /// The message was not accepted.
    #[error("the call was not sent: {0}")]
    NotSent(SendErrorReason),
    /// No memory for its data.
    #[error("no DMA memory for the call: {0}")]
    Memory(#[from] DmaError),
    /// The deadline passed first; the call goes on, and can be waited for again.
    #[error("no answer within the deadline: the call is still pending")]
    Pending(PendingCall<T>),
    /// The call was aborted.
    #[error("the call was {0}")]
    Aborted(Aborted),
    /// The driver refused it.
    #[error("the driver refused the call: {0}")]
    Refused(Refusal),
    /// The controller refused it.
    #[error("the controller refused the call: {0}")]
    Status(Status),
    /// The answer is shorter than what it should hold.
    #[error("the controller's answer is malformed")]
    Malformed,
    /// The controller is detached, or failed, and is not polled.
    #[error("the controller is not running: {0}")]
    NotRunning(super::state::CtrlrState),
}

impl<T> AdminCall<T> {
    /// Any admin command that reads `data_bytes` bytes (0 for none), with a function that turns dword 0 of the completion and the data
    /// into the answer.
    pub fn new(command: Command, data_bytes: usize, parse: fn(u32, &[u8]) -> Option<T>) -> Self {
        Self { command, data_bytes, parse }
    }

    pub(crate) fn into_message(self, dma: &DmaSpace) -> Result<(Message, Parse<T>), DmaError> {
        let data = match self.data_bytes {
            0 => None,
            bytes => Some(Box::new(DmaSlice::from(dma.allocate(bytes)?))),
        };
        Ok((Message::Admin { command: self.command, data }, self.parse))
    }
}

/// Identify Controller (NVMe Base 2.0, 5.17.2.1).
pub fn identify_ctrlr() -> AdminCall<Box<IdentifyCtrlr>> {
    AdminCall::new(Command::identify(Cns::CTRLR, 0, 0), 4096, |_, data| read(data))
}

/// Identify Namespace (NVM Command Set 1.0, 4.1.5.1) of `nsid`.
pub fn identify_ns(nsid: u32) -> AdminCall<Box<IdentifyNs>> {
    AdminCall::new(Command::identify(Cns::NS, nsid, 0), 4096, |_, data| read(data))
}

/// The active namespace identifiers above `after`, 1,024 at most (NVMe Base 2.0, 5.17.2.3).
pub fn active_namespaces(after: u32) -> AdminCall<Vec<u32>> {
    AdminCall::new(Command::identify(Cns::ACTIVE_NS_LIST, after, 0), 4096, |_, data| {
        let words = data.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        Some(words.take_while(|nsid| *nsid != 0).collect())
    })
}

/// The SMART / Health Information log (NVMe Base 2.0, 5.16.1.3) of the whole controller.
pub fn smart_log() -> AdminCall<Box<SmartLog>> {
    AdminCall::new(Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), 512, |_, data| read(data))
}

/// The newest entry of the Error Information log (NVMe Base 2.0, 5.16.1.2).
pub fn error_log() -> AdminCall<Box<ErrorLogEntry>> {
    AdminCall::new(Command::get_log_page(LogId::ERROR, u32::MAX, 64, 0, true), 64, |_, data| read(data))
}

/// The Firmware Slot Information log (NVMe Base 2.0, 5.16.1.4).
pub fn firmware_log() -> AdminCall<Box<FirmwareSlotLog>> {
    AdminCall::new(Command::get_log_page(LogId::FIRMWARE_SLOT, u32::MAX, 512, 0, true), 512, |_, data| {
        read(data)
    })
}

/// The Commands Supported and Effects log (NVMe Base 2.0, 5.16.1.6).
pub fn effects_log() -> AdminCall<Box<CommandEffectsLog>> {
    AdminCall::new(Command::get_log_page(LogId::COMMAND_EFFECTS, u32::MAX, 4096, 0, true), 4096, |_, data| {
        read(data)
    })
}

/// The namespaces that have changed since this log was last read (NVMe Base 2.0, 5.16.1.5). The driver reads it itself after each event, so this is often
/// empty; it is only looked at here.
pub fn changed_namespaces() -> AdminCall<Box<ChangedNsList>> {
    let command = Command::get_log_page(LogId::CHANGED_NS_LIST, u32::MAX, 4096, 0, true);
    AdminCall::new(command, 4096, |_, data| read(data))
}

/// What the controller says about blocks of `nsid` that may not be readable (NVM Command Set 1.0, 4.1.2): `bytes` bytes of descriptors, a multiple of 4, for `blocks`
/// blocks from `slba` on (0: all that follow).
pub fn lba_status(nsid: u32, slba: u64, blocks: u16, bytes: usize) -> AdminCall<Vec<u8>> {
    let command = Command::get_lba_status(nsid, slba, blocks, bytes, false);
    AdminCall::new(command, bytes, |_, data| Some(data.to_vec()))
}

/// The limits of the NVM command set (NVM Command Set 1.0, 4.1.5.4; CNS 06h).
pub fn identify_ctrlr_nvm() -> AdminCall<Box<IdentifyCtrlrNvm>> {
    AdminCall::new(Command::identify_csi(Cns::CSI_CTRLR, Csi::NVM, 0), 4096, |_, data| read(data))
}

/// What the NVM command set adds to a namespace (NVM Command Set 1.0, 4.1.5.3; CNS 05h).
pub fn identify_ns_nvm(nsid: u32) -> AdminCall<Box<IdentifyNsNvm>> {
    AdminCall::new(Command::identify_csi(Cns::CSI_NS, Csi::NVM, nsid), 4096, |_, data| read(data))
}

/// The combinations of command sets (NVMe Base 2.0, 5.17.2, CNS 1Ch).
pub fn command_sets() -> AdminCall<Box<CommandSets>> {
    AdminCall::new(Command::identify(Cns::COMMAND_SETS, 0, u16::MAX), 4096, |_, data| read(data))
}

/// What this controller has to share out, as a primary one (NVMe Base 2.0, 5.17.2, CNS 14h).
pub fn primary_ctrlr() -> AdminCall<Box<PrimaryCtrlrCaps>> {
    AdminCall::new(Command::identify(Cns::PRIMARY_CTRLR, 0, 0), 4096, |_, data| read(data))
}

/// Its secondary controllers, from identifier `from` on (NVMe Base 2.0, 5.17.2, CNS 15h).
pub fn secondary_ctrlrs(from: u16) -> AdminCall<Box<SecondaryCtrlrList>> {
    AdminCall::new(Command::identify(Cns::SECONDARY_CTRLRS, 0, from), 4096, |_, data| read(data))
}

/// `bytes` bytes of any log page, from `offset` on, both multiples of 4.
pub fn log_page(log: LogId, nsid: u32, bytes: usize, offset: u64) -> AdminCall<Vec<u8>> {
    AdminCall::new(Command::get_log_page(log, nsid, bytes, offset, true), bytes, |_, data| {
        Some(data.to_vec())
    })
}

/// The current value (dword 0) of a feature (NVMe Base 2.0, 5.27.1).
pub fn get_feature(feature: FeatureId, nsid: u32) -> AdminCall<u32> {
    AdminCall::new(Command::get_features(feature, 0, nsid), 0, |dw0, _| Some(dw0))
}

/// A value (dword 0) of a feature other than the current one (NVMe Base 2.0, 5.15): `sel` is 1 for the default, 2 for the saved value, 3 for its
/// [`crate::spec::feature::Capabilities`].
pub fn get_feature_value(feature: FeatureId, sel: u8, nsid: u32) -> AdminCall<u32> {
    AdminCall::new(Command::get_features(feature, sel, nsid), 0, |dw0, _| Some(dw0))
}

/// As [`set_feature`], and the value is kept over resets and power cycles, where the controller can.
pub fn save_feature(feature: FeatureId, nsid: u32, value: u32) -> AdminCall<u32> {
    AdminCall::new(Command::set_features(feature, true, nsid, value), 0, |dw0, _| Some(dw0))
}

/// Sets a feature to `value` (dword 11); the answer is dword 0. Not saved over a power cycle.
pub fn set_feature(feature: FeatureId, nsid: u32, value: u32) -> AdminCall<u32> {
    AdminCall::new(Command::set_features(feature, false, nsid, value), 0, |dw0, _| Some(dw0))
}

fn read<T: FromBytes>(data: &[u8]) -> Option<Box<T>> {
    T::read_from_prefix(data).ok().map(|(value, _)| Box::new(value))
}

/// A call on its way. Wait for it, await it, or drop it: the command is executed all the same.
#[must_use = "the answer comes through this"]
pub struct PendingCall<T> {
    ticket: Ticket<Reply>,
    parse: Parse<T>,
}

impl<T> PendingCall<T> {
    pub(crate) fn new(ticket: Ticket<Reply>, parse: Parse<T>) -> Self {
        Self { ticket, parse }
    }

    /// Waits for the answer, at most for `timeout`; past it the call comes back in [`CallError::Pending`].
    pub fn wait(self, timeout: Duration) -> Result<T, CallError<T>> {
        match self.ticket.wait(timeout) {
            Ok(outcome) => parse_outcome(outcome, self.parse),
            Err(Pending(ticket)) => Err(CallError::Pending(Self { ticket, parse: self.parse })),
        }
    }

    /// Whether the answer has arrived.
    pub fn is_ready(&self) -> bool {
        self.ticket.is_ready()
    }
}

impl<T> Future for PendingCall<T> {
    type Output = Result<T, CallError<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let parse = self.parse;
        Pin::new(&mut self.ticket).poll(context).map(|outcome| parse_outcome(outcome, parse))
    }
}

fn parse_outcome<T>(outcome: Outcome<Reply>, parse: Parse<T>) -> Result<T, CallError<T>> {
    match outcome {
        Outcome::Aborted(aborted) => Err(CallError::Aborted(aborted)),
        Outcome::Completed(Reply::Refused { why: refusal, .. }) => Err(CallError::Refused(refusal)),
        Outcome::Completed(Reply::Command { status, result, data }) if status.is_success() => {
            let bytes = data.map(|data| data.buffer().to_vec()).unwrap_or_default();
            parse(result as u32, &bytes).ok_or(CallError::Malformed)
        }
        Outcome::Completed(Reply::Command { status, .. }) => Err(CallError::Status(status)),
        Outcome::Completed(_) => Err(CallError::Malformed),
    }
}

impl<T> fmt::Debug for AdminCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminCall")
            .field("command", &self.command)
            .field("data_bytes", &self.data_bytes)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for PendingCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingCall").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
