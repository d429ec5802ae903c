//! The controller's way into host memory: which I/O virtual addresses are mapped, and the gate that tells the host when the
//! device is inside. What is read or written there is decided by `prp`, `queues` and `namespace`.
//!
//! A real IOMMU answers an unmap only after the device's accesses in flight are over, and a function whose bus mastering was
//! switched off starts no new ones. The gate gives the same: the device passes through it once per batch of commands, at the
//! price of one fence, and `unmap` and `set_bus_master` wait until the batch that is under way has left.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_utils::Backoff;

use crate::dma::MemoryBlock;

/// The first address handed out. Not zero, so that a forgotten address is a fault and not somebody's memory.
const IOVA_FIRST: u64 = 0x1_0000_0000;
/// Mappings start at multiples of this, with at least one such unit unmapped between two of them.
const IOVA_ALIGN: u64 = 0x20_0000;
/// Addresses end here, as on a machine with a 48-bit IOMMU.
const IOVA_END: u64 = 1 << 48;

/// One mapping.
#[derive(Debug, Clone)]
pub(super) struct Region {
    iova: u64,
    pub(super) block: Arc<MemoryBlock>,
}

impl Region {
    fn end(&self) -> u64 {
        self.iova + self.block.len() as u64
    }
}

/// All mappings at one moment, sorted by address.
#[derive(Debug, Default)]
pub(super) struct Table {
    regions: Vec<Region>,
}

/// A part of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) region: u32,
    pub(super) offset: usize,
    /// How much of what was asked for lies in this mapping.
    pub(super) len: usize,
}

impl Table {
    /// Where `iova` lies, with as much of `len` as the mapping still has.
    #[inline]
    pub(super) fn find(&self, iova: u64, len: usize) -> Option<Place> {
        let after = self.regions.partition_point(|r| r.iova <= iova);
        let index = after.checked_sub(1)?;
        let region = &self.regions[index];
        let offset = (iova - region.iova) as usize;
        let left = region.block.len().checked_sub(offset).filter(|&left| left > 0)?;
        Some(Place { region: index as u32, offset, len: len.min(left) })
    }

    /// The block that holds all of `len` bytes at `iova`, and the offset in it.
    pub(super) fn whole(&self, iova: u64, len: usize) -> Option<(&Arc<MemoryBlock>, usize)> {
        let place = self.find(iova, len).filter(|place| place.len == len)?;
        Some((self.block(place), place.offset))
    }

    /// The memory of a place that `find` returned.
    #[inline]
    pub(super) fn block(&self, place: Place) -> &Arc<MemoryBlock> {
        &self.regions[place.region as usize].block
    }
}

#[derive(Debug)]
struct Mappings {
    table: Arc<Table>,
    next_iova: u64,
}

/// Why a mapping could not be made or removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IommuError {
    /// All addresses were handed out.
    Exhausted,
    /// There is no mapping with exactly this address and length.
    NotMapped,
}

/// The mappings, and the gate.
#[derive(Debug)]
pub(super) struct Iommu {
    mappings: Mutex<Mappings>,
    /// Counts changes of the table.
    generation: AtomicU64,
    bus_master: AtomicBool,
    /// Odd while the device is inside the gate. Written by the device only.
    passes: AtomicU64,
}

impl Iommu {
    pub(super) fn new() -> Self {
        Self {
            mappings: Mutex::new(Mappings { table: Arc::default(), next_iova: IOVA_FIRST }),
            generation: AtomicU64::new(0),
            bus_master: AtomicBool::new(false),
            passes: AtomicU64::new(0),
        }
    }

    fn change<T>(
        &self,
        edit: impl FnOnce(&mut Vec<Region>, &mut u64) -> Result<T, IommuError>,
    ) -> Result<T, IommuError> {
        let mut mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        let mut regions = mappings.table.regions.clone();
        let edited = edit(&mut regions, &mut mappings.next_iova)?;
        mappings.table = Arc::new(Table { regions });
        // Release: pairs with the Acquire in `Port::enter`, which then finds the new table under the mutex.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(edited)
    }

    /// Maps all of `block` and returns its address. Addresses are never used twice, so that a stale one is noticed.
    pub(super) fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, IommuError> {
        self.change(|regions, next_iova| {
            let iova = *next_iova;
            let end = iova.checked_add(block.len() as u64).filter(|&end| end < IOVA_END);
            let end = end.ok_or(IommuError::Exhausted)?;
            *next_iova = end.next_multiple_of(IOVA_ALIGN) + IOVA_ALIGN;
            regions.push(Region { iova, block: block.clone() });
            Ok(iova)
        })
    }

    /// Removes a mapping, and returns when the device can no longer be using it.
    pub(super) fn unmap(&self, iova: u64, len: usize) -> Result<(), IommuError> {
        self.change(|regions, _| {
            let index = regions
                .iter()
                .position(|r| r.iova == iova && r.end() == iova + len as u64)
                .ok_or(IommuError::NotMapped)?;
            regions.remove(index);
            Ok(())
        })?;
        self.wait_for_device();
        Ok(())
    }

    /// Lets the device into memory, or returns when it is out and stays out.
    pub(super) fn set_bus_master(&self, on: bool) {
        // Release: what the driver prepared before is visible to a device that reads `true` in `Port::enter`.
        self.bus_master.store(on, Ordering::Release);
        if !on {
            self.wait_for_device();
        }
    }

    pub(super) fn is_bus_master(&self) -> bool {
        // Relaxed: it only decides about a complaint.
        self.bus_master.load(Ordering::Relaxed)
    }

    /// Returns when the device has left the gate since the last change of the table or of bus mastering.
    fn wait_for_device(&self) {
        // SeqCst: pairs with the fence in `Port::enter`. Either the device sees the change made before this fence, or the
        // load below sees that it is inside.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `Port::leave`; the device's accesses are over.
        let seen = self.passes.load(Ordering::Acquire);
        if seen.is_multiple_of(2) {
            return;
        }
        let backoff = Backoff::new();
        // Acquire: as above.
        while self.passes.load(Ordering::Acquire) == seen {
            backoff.snooze();
        }
    }
}

/// The device's side of the gate.
#[derive(Debug)]
pub(super) struct Port {
    iommu: Arc<Iommu>,
    /// The mappings as of the last `enter`.
    pub(super) table: Arc<Table>,
    /// Counts the changes that `table` contains.
    pub(super) generation: u64,
}

impl Port {
    pub(super) fn new(iommu: Arc<Iommu>) -> Self {
        Self { iommu, table: Arc::default(), generation: 0 }
    }

    /// Begins a batch of accesses with the mappings of this moment; false while bus mastering is off. To be called after
    /// the doorbell was read: what the driver mapped before it rang is then in the table.
    #[inline]
    pub(super) fn enter(&mut self) -> bool {
        let iommu = &*self.iommu;
        // Relaxed: only the device writes it, and the fence orders it before the loads below.
        let passes = iommu.passes.load(Ordering::Relaxed);
        iommu.passes.store(passes | 1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `wait_for_device`.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `set_bus_master`.
        if !iommu.bus_master.load(Ordering::Acquire) {
            self.leave();
            return false;
        }
        // Acquire: pairs with the Release in `change`.
        if iommu.generation.load(Ordering::Acquire) != self.generation {
            self.refresh();
        }
        true
    }

    /// Looks the mappings up anew.
    #[cold]
    pub(super) fn refresh(&mut self) {
        let mappings = self.iommu.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        self.table = mappings.table.clone();
        // Relaxed: it is only written under the mutex.
        self.generation = self.iommu.generation.load(Ordering::Relaxed);
    }

    /// Ends the batch. No access to host memory until the next `enter`.
    #[inline]
    pub(super) fn leave(&self) {
        // Relaxed: only the device writes it.
        let passes = self.iommu.passes.load(Ordering::Relaxed);
        if passes % 2 == 1 {
            // Release: pairs with the Acquire in `wait_for_device`.
            self.iommu.passes.store(passes + 1, Ordering::Release);
        }
    }
}

impl Drop for Port {
    /// A device that panicked in the middle of a batch must not keep the driver waiting.
    fn drop(&mut self) {
        self.leave();
    }
}
