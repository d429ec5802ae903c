//! `EmulatedTransport`: the driver's side of an emulated controller, and the state that both sides share. What the
//! controller does is in `device`.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::config::{Config, ConfigError};
use super::iommu::{Iommu, IommuError};
use super::registers::Registers;
use super::violations::Violations;
use crate::dma::{DmaError, DmaMap, MemoryBlock};
use crate::spec::registers::{DOORBELLS, NSSR, cq_head_doorbell};
use crate::transport::{Doorbell, Transport, TransportError};

/// Composite temperature at the start, in kelvins.
const TEMPERATURE_K: u16 = 310;

/// Connects a driver to the [`Device`](super::Device) that was made with it.
///
/// Registers, doorbells and mappings work from any thread. What they lead to happens in [`Device::step`](super::Device::step), on the
/// device's thread or wherever a test calls it.
#[derive(Debug)]
pub struct EmulatedTransport {
    pub(super) registers: Registers,
    pub(super) doorbells: Arc<MemoryBlock>,
    pub(super) iommu: Arc<Iommu>,
    pub(super) violations: Violations,
    /// Temperature in the low 16 bits, critical warnings in the next eight, and in the last eight how often firmware was activated, modulo 256.
    pub(super) health: AtomicU32,
    /// How long the last activation of firmware takes.
    pub(super) activation_ms: AtomicU32,
    /// How often each fault by description has hit.
    pub(super) faults_met: Box<[AtomicU64]>,
    /// The eventfds of the vectors that were asked for.
    pub(super) vectors: Mutex<Vec<Arc<OwnedFd>>>,
    interrupts: usize,
    bar_len: usize,
    address: String,
}

impl EmulatedTransport {
    pub(super) fn new(config: &Config) -> Result<Self, ConfigError> {
        // One past the completion doorbell of the last queue.
        let bar_len = cq_head_doorbell(config.io_queues, config.dstrd) + (4 << config.dstrd);
        let doorbells = MemoryBlock::new(bar_len - DOORBELLS, false);
        Ok(Self {
            registers: Registers::new(config),
            doorbells: doorbells.map_err(|error| ConfigError::Memory(error.to_string()))?,
            iommu: Arc::new(Iommu::new()),
            violations: Violations::default(),
            health: AtomicU32::new(TEMPERATURE_K.into()),
            activation_ms: AtomicU32::new(0),
            faults_met: config.faults.list().iter().map(|_| AtomicU64::new(0)).collect(),
            vectors: Mutex::default(),
            interrupts: config.interrupts.into(),
            bar_len,
            address: config.address.clone(),
        })
    }

    /// Every rule that the driver broke so far, in words, oldest first. Each was also traced as a warning.
    pub fn violations(&self) -> Vec<String> {
        self.violations.all()
    }

    /// Sets the composite temperature in kelvins. The device notices at one of its next steps, and reports an event when
    /// that crosses a threshold and the driver asked for it (NVMe Base 2.0, 5.2.1 and 5.27.1.3).
    pub fn set_temperature_k(&self, kelvin: u16) {
        let with = |health| Some(health & !0xffff | u32::from(kelvin));
        // Relaxed: a value of its own, ordered with nothing.
        let _ = self.health.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
    }

    /// Sets the critical warning byte of the SMART log, but for the temperature's bit, which follows the temperature.
    pub fn set_critical_warning(&self, warning: u8) {
        let with = |health| Some(health & !0x00ff_0000 | u32::from(warning) << 16);
        // Relaxed: as above.
        let _ = self.health.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
    }

    /// Activates firmware without a reset, as when it was told to through another port than the driver's. The device notices at one of its next steps: the
    /// driver is told if it asked for that, and then no command is processed for `time`, in whole milliseconds, which CSTS.PP says (NVMe Base 2.0, 3.1.3.6 and 3.11).
    pub fn activate_firmware(&self, time: Duration) {
        // Relaxed: published by the Release below.
        self.activation_ms.store(u32::try_from(time.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
        let once_more = |health: u32| Some(health.wrapping_add(1 << 24));
        // Release: pairs with the Acquire in `watch_health`.
        let _ = self.health.fetch_update(Ordering::Release, Ordering::Relaxed, once_more);
    }

    /// Pulls the device out, without a word: registers read as all ones, and when this returns the device is no longer in
    /// the host's memory and never will be.
    pub fn remove(&self) {
        tracing::info!(address = self.address, "the device was pulled out");
        self.registers.close();
        self.iommu.set_bus_master(false);
    }

    /// An NVM subsystem reset takes along what PCI configuration space says of bus mastering and MSI-X.
    fn reset_subsystem(&self) {
        self.registers.reset_subsystem();
        self.iommu.set_bus_master(false);
        self.registers.set_interrupts_enabled(false);
    }

    fn may_enable_interrupts(&self) {
        if self.registers.is_enabled() {
            self.violations.record(
                "interrupts were enabled while CC.EN is 1: MSI-X comes before, or vector 0 may never fire"
                    .into(),
            );
        }
    }

    fn gone(&self) -> TransportError {
        TransportError::Gone { address: self.address() }
    }
}

impl DmaMap for EmulatedTransport {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        let reason = "all I/O virtual addresses are used up; attach again".to_owned();
        self.iommu.map(block).map_err(|_| DmaError::Map { len: block.len(), reason })
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        self.iommu.unmap(iova, len).map_err(|error| {
            debug_assert_eq!(error, IommuError::NotMapped, "unmapping needs no addresses");
            self.violations.record(format!("unmap of {len} bytes at {iova:#x}, which is no mapping"));
            DmaError::NotMapped { iova, len }
        })
    }
}

impl Transport for EmulatedTransport {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.registers.read_u32(offset, &self.violations)
    }

    fn read_u64(&self, offset: usize) -> u64 {
        self.registers.read_u64(offset, &self.violations)
    }

    fn write_u32(&self, offset: usize, value: u32) {
        if offset == NSSR && self.registers.resets_subsystem(value) {
            return self.reset_subsystem();
        }
        self.registers.write_u32(offset, value, &self.violations);
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.registers.write_u64(offset, value, &self.violations);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError> {
        if self.is_gone() {
            return Err(self.gone());
        }
        let out_of_range = || TransportError::OutOfRange { offset, bar_len: self.bar_len };
        let within = offset.checked_sub(DOORBELLS).ok_or_else(out_of_range)?;
        if offset >= self.bar_len {
            return Err(out_of_range());
        }
        Doorbell::in_block(self.doorbells.clone(), within)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        if on && self.is_gone() {
            return Err(self.gone());
        }
        self.iommu.set_bus_master(on);
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.registers.control().is_closed()
    }

    fn interrupt_count(&self) -> usize {
        self.interrupts
    }

    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError> {
        if self.is_gone() {
            return Err(self.gone());
        }
        let mut vectors = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        if count > self.interrupts || !vectors.is_empty() {
            let available = if vectors.is_empty() { self.interrupts } else { 0 };
            return Err(TransportError::Interrupts { asked: count, available });
        }
        self.may_enable_interrupts();
        let io = |source: std::io::Error| TransportError::Io {
            address: self.address(),
            what: "make the interrupt eventfds",
            source,
        };
        let mut ours = Vec::with_capacity(count);
        let mut theirs = Vec::with_capacity(count);
        for _ in 0..count {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| io(e.into()))?;
            theirs.push(fd.as_fd().try_clone_to_owned().map_err(io)?);
            ours.push(Arc::new(fd));
        }
        *vectors = ours;
        self.registers.set_interrupts_enabled(true);
        Ok(theirs)
    }

    fn restore(&self) -> Result<(), TransportError> {
        if self.registers.is_out_of_reach() {
            return Err(self.gone());
        }
        self.iommu.set_bus_master(true);
        let has_vectors = !self.vectors.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if has_vectors && !self.registers.are_interrupts_enabled() {
            self.may_enable_interrupts();
            self.registers.set_interrupts_enabled(true);
        }
        Ok(())
    }

    fn close(&self) {
        if !self.is_gone() {
            if self.iommu.is_bus_master() {
                let rdy = u8::from(self.registers.csts().rdy());
                self.violations.record(format!(
                    "the transport was closed while bus mastering is on (CSTS.RDY is {rdy}): both end before"
                ));
            }
            if self.registers.is_shutdown_due() {
                self.violations.record(
                    "the transport was closed without a shutdown notification: set CC.SHN and wait for SHST"
                        .into(),
                );
            }
        }
        self.registers.close();
        // Nothing may be written to memory after this returns, whether the driver stopped the device or not.
        self.iommu.set_bus_master(false);
    }
}
