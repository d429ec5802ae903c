//! What an embedder may choose when it attaches a controller.
#![forbid(unsafe_code)]

use crate::dma::DmaOptions;
use std::time::Duration;

/// Options of one controller. `CtrlrOptions::default()` suits most.
#[derive(Clone, Debug)]
pub struct CtrlrOptions {
    /// Slots of the message ring: a power of two from 2 to 65,536. 128 bytes each.
    pub ring_slots: usize,
    /// Entries of the admin queues: 8 to 4,096. Two to five of them are kept by asynchronous event requests and internal commands.
    pub admin_queue_entries: u16,
    /// Entries of the external queue pair, on which I/O messages run: 2 to 65,535, and no more than the controller has.
    pub external_queue_entries: u16,
    /// I/O queue pairs to ask the controller for, the external one included: 1 to 1,024.
    pub io_queues: u16,
    /// The longest transfer of one command, in bytes: 4,096 to 32 MiB, as far as the controller takes it (MDTS). For each command that may be in flight,
    /// PRP lists for that much are set aside, a five-hundredth of it; memory that no transfer needed is never touched.
    pub max_transfer_bytes: usize,
    /// How long an admin command of bring-up or detach may take.
    pub admin_timeout: Duration,
    /// How often the poller looks whether the controller is still there and well (CSTS).
    pub watch_period: Duration,
    /// Where DMA memory comes from.
    pub dma: DmaOptions,
}

impl Default for CtrlrOptions {
    /// A ring of 1,024 slots, 32 admin entries, 64 external entries, up to 64 I/O queue pairs, transfers of 1 MiB, 30 s for an admin command, a look at
    /// CSTS each second.
    fn default() -> Self {
        Self {
            ring_slots: 1024,
            admin_queue_entries: 32,
            external_queue_entries: 64,
            io_queues: 64,
            max_transfer_bytes: 1 << 20,
            admin_timeout: Duration::from_secs(30),
            watch_period: Duration::from_secs(1),
            dma: DmaOptions::default(),
        }
    }
}

impl CtrlrOptions {
    /// Checks the ranges; the error says which one was left, and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.ring_slots.is_power_of_two() || !(2..=65_536).contains(&self.ring_slots) {
            return Err(format!(
                "ring_slots is {}: a power of two from 2 to 65536 is needed",
                self.ring_slots
            ));
        }
        if !(8..=4096).contains(&self.admin_queue_entries) {
            return Err(format!(
                "admin_queue_entries is {}: 8 to 4096 are allowed",
                self.admin_queue_entries
            ));
        }
        if self.external_queue_entries < 2 {
            return Err(format!(
                "external_queue_entries is {}: 2 or more are needed",
                self.external_queue_entries
            ));
        }
        if !(1..=1024).contains(&self.io_queues) {
            return Err(format!("io_queues is {}: 1 to 1024 are allowed", self.io_queues));
        }
        if !(4096..=32 << 20).contains(&self.max_transfer_bytes) {
            return Err(format!(
                "max_transfer_bytes is {}: 4096 to 33554432 are allowed",
                self.max_transfer_bytes
            ));
        }
        Ok(())
    }
}
