//! Slipring: a user-space NVMe driver whose controllers can be messaged, reset and detached while they are being polled,
//! without a lock and with nothing lost.
//!
//! One thread polls a controller and owns it; everyone else sends it messages through a ring that is published (arc-swap)
//! and, at the end, retired (a closed bit decides what was accepted, an epoch says when the poller has left).
//!
//! # What it promises
//! 1. *Exactly once.* A message that `send` accepted gets exactly one [`ring::Outcome`].
//! 2. *The poller never waits*, for no producer, no detacher, no registration. An idle poll is a few loads.
//! 3. *Detach is final and bounded.* Past its deadline it says who is still inside; nothing is lost and it can be called again.
//! 4. *Full is an answer.* A message that finds no room comes back to its sender.
//! 5. *Thread rules are types.* What would deadlock is refused with an error.
//! 6. *The device is not trusted.* What it says is checked; what is wrong fails the controller, not the process.
//! 7. *DMA memory outlives DMA.* Buffers in flight are kept until the device can no longer write to them.
//! 8. *Every wait has a deadline.*
//!
//! # What it does not do (yet)
//! Per-command timeouts and aborts, SGLs, metadata, zoned namespaces, fabrics. It spawns no threads of its own, but for one helper when
//! tickets are awaited with an executor, and one that gives a device up that was asked back or has failed.
//!
//! # Where things are
//! | module | what |
//! |---|---|
//! | [`spec`] | NVMe on the wire |
//! | [`dma`] | memory that a device may write |
//! | [`transport`] | how a device is reached |
//! | [`emulated`] | a whole controller in the process |
//! | [`queue`] | submission and completion queues |
//! | [`ring`] | the message ring, its publication and retirement, outcomes |
//! | [`ctrlr`] | the controller: attach, messages, admin calls, reset, detach |
//! | [`poller`] | what a polling thread calls: the poller, queue pairs, groups |
//! | [`cuse`] | controllers as character devices, for `nvme-cli` and its like |
//!
//! Start with [`ctrlr::Ctrlr::attach`] and [`poller::Poller`]; `examples/embed.rs` is a whole program.

#[cfg(not(loom))]
pub mod ctrlr;
#[cfg(not(loom))]
pub mod cuse;
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

/// The README's example is compiled and run with the documentation tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
