//! `emulated`: a whole NVMe controller in the process, behind the same trait as a real one.
//!
//! [`new`] makes two ends: an [`EmulatedTransport`] for the driver, and the [`Device`] behind it, which either runs on a
//! thread of its own ([`Device::spawn`]) or is stepped by a test ([`Device::step`]), so that everything happens in a known
//! order. Namespaces live in RAM or in raw image files.
//!
//! # Strictness
//! It does what a real controller may do to a driver that breaks a rule: it refuses with a status, raises an error event,
//! or sets CSTS.CFS. Whatever it noticed is also kept in words ([`EmulatedTransport::violations`]) and traced as a warning.
//! DMA goes through an IOMMU: addresses are never used twice, what is not mapped cannot be reached, and an unmap returns
//! only when the device is no longer using the memory.
//!
//! # What is not there
//! SGLs, fused commands, metadata and protection information, shadow doorbells, controller memory, several controllers in
//! a subsystem, weighted arbitration, pin-based interrupts, firmware download, sanitize, self-test. The commands that belong
//! to them are refused as unknown.
//!
//! # Map
//! `config`, `address`: what a controller is made from. `transport`, `registers`, `iommu`, `violations`: shared with the driver.
//! `device`, `control`, `serve`, `queues`, `prp`, `thread`: the machine. `admin`, `identify`, `features`, `logs`, `events`, `io`,
//! `copy`, `keep_alive`, `namespace`: the commands. `faults`: what goes wrong with them on purpose. Nothing here knows the driver's `queue` or `ctrlr`.
#![forbid(unsafe_code)]

pub mod address;
mod admin;
mod config;
mod control;
mod copy;
mod device;
mod events;
mod faults;
mod features;
mod identify;
mod io;
mod iommu;
mod keep_alive;
mod logs;
mod namespace;
mod prp;
mod queues;
mod registers;
mod serve;
mod thread;
mod transport;
mod violations;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use config::{Backing, Config, ConfigError, Latency, NamespaceConfig, QueueKind};
pub use device::Device;
pub use faults::{Effect, Fault, Faults, FaultsError, OnQueue};
pub use thread::DeviceThread;
pub use transport::EmulatedTransport;

/// Makes a controller, and the transport to reach it. Bus mastering is off and CC.EN is 0, as after power-on.
///
/// # Errors
/// [`ConfigError`] for a value out of its range, or an image that is missing, of the wrong kind or of the wrong size.
pub fn new(config: Config) -> Result<(Arc<EmulatedTransport>, Device), ConfigError> {
    config.validate()?;
    let transport = Arc::new(EmulatedTransport::new(&config)?);
    let device = Device::new(transport.clone(), config)?;
    Ok((transport, device))
}
