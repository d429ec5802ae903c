//! Slipring: a user-space NVMe driver whose controllers can be messaged, reset and detached while they are polled.

#[cfg(not(loom))]
pub mod ctrlr;
#[cfg(not(loom))]
pub mod dma;
#[cfg(not(loom))]
pub mod emulated;
#[cfg(not(loom))]
pub mod poller;
#[cfg(not(loom))]
pub mod queue;
pub mod ring;
#[cfg(not(loom))]
pub mod spec;
mod sync;
#[cfg(not(loom))]
pub mod transport;
