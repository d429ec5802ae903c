//! A device as an emulated one, but for what a test puts between it and the driver.
#![allow(unreachable_pub, reason = "a test target exports nothing")]

use slipring::dma::{DmaError, DmaMap, MemoryBlock};
use slipring::emulated::EmulatedTransport;
use slipring::transport::{DeviceEvents, Doorbell, Transport, TransportError};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What is between them; nothing by default.
pub struct Hooks {
    /// What a register of this offset reads as, of the value that is in it. Not asked while the device is away.
    pub reads_as: Box<dyn Fn(usize, u64) -> u64 + Send + Sync>,
    /// Called when a doorbell was asked for.
    pub at_doorbell: Box<dyn Fn() + Send + Sync>,
    /// Whether the bus can be set up again. Not asked while the device is away.
    pub can_be_restored: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether the system wants the device back.
    pub is_wanted_back: Box<dyn Fn() -> bool + Send + Sync>,
    /// Called before the device is closed.
    pub before_close: Box<dyn Fn() + Send + Sync>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            reads_as: Box::new(|_, value| value),
            at_doorbell: Box::new(|| ()),
            can_be_restored: Box::new(|| true),
            is_wanted_back: Box::new(|| false),
            before_close: Box::new(|| ()),
        }
    }
}

/// See the module.
pub struct Meddled {
    device: Arc<EmulatedTransport>,
    hooks: Hooks,
}

impl Meddled {
    pub fn new(device: Arc<EmulatedTransport>, hooks: Hooks) -> Arc<Self> {
        Arc::new(Self { device, hooks })
    }
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meddled").field(&self.device).finish()
    }
}

impl DmaMap for Meddled {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        self.device.map(block)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        self.device.unmap(iova, len)
    }
}

impl Transport for Meddled {
    fn address(&self) -> String {
        self.device.address()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        match self.device.read_u32(offset) {
            u32::MAX => u32::MAX,
            value => (self.hooks.reads_as)(offset, value.into()) as u32,
        }
    }

    fn read_u64(&self, offset: usize) -> u64 {
        match self.device.read_u64(offset) {
            u64::MAX => u64::MAX,
            value => (self.hooks.reads_as)(offset, value),
        }
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.device.write_u32(offset, value);
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.device.write_u64(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError> {
        let doorbell = self.device.doorbell(offset);
        (self.hooks.at_doorbell)();
        doorbell
    }

    fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        self.device.set_bus_master(on)
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn interrupt_count(&self) -> usize {
        self.device.interrupt_count()
    }

    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError> {
        self.device.enable_interrupts(count)
    }

    fn restore(&self) -> Result<(), TransportError> {
        self.device.restore()?;
        if (self.hooks.can_be_restored)() {
            Ok(())
        } else {
            Err(TransportError::Gone { address: self.address() })
        }
    }

    fn take_events(&self) -> DeviceEvents {
        DeviceEvents { remove_requested: (self.hooks.is_wanted_back)(), bus_error: false }
    }

    fn close(&self) {
        (self.hooks.before_close)();
        self.device.close();
    }
}
