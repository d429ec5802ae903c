//! PCI devices through the kernel's VFIO (type 1), with all of `vfio-ioctls` in this folder.
//!
//! | file | what |
//! |---|---|
//! | [`address`] | PCI addresses |
//! | [`sysfs`] | which controllers there are, what keeps one from being used, bind and unbind |
//! | [`device`] | opening, DMA mappings, interrupts, removal events, closing: the transport |
//! | [`bar`] | the mapped registers, and the SIGBUS guard |
//! | [`iova`] | I/O virtual addresses |
//!
//! What really works, and the traps, was found by trying: the order of teardown lets the kernel go of the device (registers withdrawn, device dropped, container
//! dropped), the group is found through a private directory so that a vanished sysfs entry cannot panic, and every answer is checked since the
//! crate drops some.

pub mod address;
mod bar;
mod device;
mod iova;
pub mod sysfs;
#[cfg(test)]
mod tests;

pub use address::PciAddress;
pub use bar::install_sigbus_guard;
pub use device::{VfioError, VfioTransport};
pub use sysfs::{BindError, NotReady, PciController, Sysfs};
