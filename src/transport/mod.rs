//! `transport`: how a device is reached. The trait, its errors, and the doorbell, which is the only thing of it that a
//! hot path ever touches. What the registers mean is `spec`'s and `ctrlr`'s business.

mod doorbell;
pub mod vfio;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;

use thiserror::Error;

pub use doorbell::Doorbell;

use crate::dma::DmaMap;

/// A device as a driver reaches it: registers, doorbells, DMA mappings and interrupts.
///
/// Everything here is for bring-up, reset and teardown, may be slow and may be called from any thread; it is held as
/// `Arc<dyn Transport>`. What I/O needs is taken out once, as [`Doorbell`]s and mapped memory.
pub trait Transport: DmaMap + Debug + 'static {
    /// The address that the user gave, for messages.
    fn address(&self) -> String;

    /// Reads the 32-bit register at `offset` (below 0x1000). All ones when the device is gone or closed.
    fn read_u32(&self, offset: usize) -> u32;

    /// Reads the 64-bit register at `offset` (below 0x1000). All ones when the device is gone or closed.
    fn read_u64(&self, offset: usize) -> u64;

    /// Writes the 32-bit register at `offset` (below 0x1000). Does nothing when the device is gone or closed.
    fn write_u32(&self, offset: usize, value: u32);

    /// Writes the 64-bit register at `offset` (below 0x1000). Does nothing when the device is gone or closed.
    fn write_u64(&self, offset: usize, value: u64);

    /// The doorbell register at `offset` (from 0x1000 on), checked against the length of the register space. It stays
    /// mapped as long as the doorbell lives, also after [`close`](Self::close).
    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError>;

    /// Allows the device to reach memory, or forbids it. When forbidding returns, no access is in progress.
    fn set_bus_master(&self, on: bool) -> Result<(), TransportError>;

    /// Whether the device was pulled out or is otherwise out of reach for good.
    fn is_gone(&self) -> bool;

    /// How many interrupt vectors the device has; 0 when it can only be polled.
    fn interrupt_count(&self) -> usize;

    /// Connects the first `count` vectors to eventfds. To be called once, before the controller is enabled: a set of
    /// vectors cannot grow.
    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError>;

    /// Sets up again what a reset of the device itself (an NVM subsystem reset) undoes beside its registers: that they are decoded, bus mastering, and the
    /// interrupts, which go on signalling the same eventfds. Fails while the device cannot be reached. Never waits for it.
    fn restore(&self) -> Result<(), TransportError> {
        self.set_bus_master(true)
    }

    /// What the system says about the device since the last call: somebody wants it back, or its bus failed. Never waits.
    fn take_events(&self) -> DeviceEvents {
        DeviceEvents::default()
    }

    /// Ends the use of the device, after it has stopped. Later register reads give all ones, writes do nothing.
    fn close(&self);
}

/// What the system says about a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceEvents {
    /// The device is to be given up: an orderly removal waits for it.
    pub remove_requested: bool,
    /// The bus reported an error that cannot be recovered from.
    pub bus_error: bool,
}

/// Why a device could not be reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A register or doorbell beyond what the device has mapped.
    #[error("register offset {offset:#x} is outside the device's {bar_len:#x} bytes of registers")]
    OutOfRange {
        /// Offset of the register in bytes.
        offset: usize,
        /// Length of the register space in bytes.
        bar_len: usize,
    },
    /// A register or doorbell offset between two registers.
    #[error("register offset {offset:#x} is not a multiple of {align} bytes")]
    Unaligned {
        /// Offset of the register in bytes.
        offset: usize,
        /// What it must be a multiple of, in bytes.
        align: usize,
    },
    /// More interrupt vectors were asked for than there are, or for the second time.
    #[error(
        "{asked} interrupt vectors were asked for and {available} are to be had; ask once, for at most that many"
    )]
    Interrupts {
        /// Vectors that were asked for.
        asked: usize,
        /// Vectors that there are.
        available: usize,
    },
    /// The device was pulled out, or its transport closed.
    #[error("{address} is gone: it was removed or closed; attach again once it is back")]
    Gone {
        /// The address that the user gave.
        address: String,
    },
    /// The operating system refused.
    #[error("could not {what} of {address}: {source}")]
    Io {
        /// The address that the user gave.
        address: String,
        /// What was tried.
        what: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
}
