//! `Doorbell`: one 32-bit doorbell register that is reached without a call through the transport.
//!
//! What values are rung, and when, is the queue's business.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::TransportError;
use crate::dma::MemoryBlock;

/// A mapped doorbell register (NVMe Base 2.0, 3.1.3.10 and 3.1.3.11), owned by whoever owns the queue.
pub struct Doorbell {
    register: NonNull<u32>,
    /// What maps the register, alive as long as the doorbell: a doorbell must never be rung into unmapped memory.
    _mapping: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the register is only accessed atomically and stays mapped as long as the doorbell lives, on any thread.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// A doorbell in ordinary memory that a device in this or another process watches.
    ///
    /// # Errors
    /// [`TransportError::OutOfRange`] or [`TransportError::Unaligned`] when no 32-bit word of the block is at `offset`.
    pub fn in_block(block: Arc<MemoryBlock>, offset: usize) -> Result<Self, TransportError> {
        if !offset.is_multiple_of(size_of::<u32>()) {
            return Err(TransportError::Unaligned { offset, align: size_of::<u32>() });
        }
        if offset.checked_add(size_of::<u32>()).is_none_or(|end| end > block.len()) {
            return Err(TransportError::OutOfRange { offset, bar_len: block.len() });
        }
        // SAFETY: the offset was just found to be inside the block.
        let register = unsafe { block.as_ptr().add(offset) }.cast::<u32>();
        Ok(Self { register, _mapping: block })
    }

    /// A doorbell at `register`, which `mapping` keeps mapped.
    ///
    /// # Safety
    /// `register` is aligned, and stays mapped as long as `mapping` lives.
    pub(super) unsafe fn in_mapping(register: NonNull<u32>, mapping: Arc<dyn Any + Send + Sync>) -> Self {
        Self { register, _mapping: mapping }
    }

    /// Rings: tells the device the new tail or head. Everything that this thread wrote before is visible to a device
    /// that sees the value.
    #[inline]
    pub fn ring(&self, value: u32) {
        order_before_device();
        // SAFETY: aligned, and mapped as long as `self._mapping` lives; nobody accesses it but by atomics or by device.
        let register = unsafe { AtomicU32::from_ptr(self.register.as_ptr()) };
        // Release: pairs with the device's Acquire load of the doorbell, after which it reads queue entries. A PCI device
        // sees them too: on x86 stores become visible in order, uncached ones included, so no fence is needed there.
        register.store(value, Ordering::Release);
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("register", &self.register).finish_non_exhaustive()
    }
}

/// Orders earlier stores before later ones as devices see them. Rust's Release reaches the inner shareable domain only,
/// and a device may be outside it.
#[cfg(target_arch = "aarch64")]
#[inline]
fn order_before_device() {
    // SAFETY: a barrier changes neither registers nor memory.
    unsafe { std::arch::asm!("dmb oshst", options(nostack, preserves_flags)) };
}

/// Nothing to do: the architecture's Release store orders stores for devices too.
#[cfg(not(target_arch = "aarch64"))]
#[inline]
fn order_before_device() {}
