//! `DmaSpace`: where a controller's DMA memory is allocated, and the books of what its device can reach.
//!
//! How a block becomes visible to the device is the transport's business, behind [`DmaMap`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::DmaError;
use super::block::{HUGE_PAGE_BYTES, MemoryBlock, PAGE_BYTES};
use super::buffer::{DmaBuffer, MappedBlock};

/// Makes memory visible to one device, at an address of the implementation's choice.
pub trait DmaMap: Send + Sync {
    /// Maps the whole block and returns its IOVA, a multiple of 4 KiB. The implementation keeps the memory alive while
    /// the device can reach it, even if the caller lets go of the block.
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError>;

    /// Ends the device's access to what `map` returned, with the block's whole length in bytes. When it returns, the
    /// device can no longer reach the block.
    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError>;
}

/// How a [`DmaSpace`] gets its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaOptions {
    /// Size of a block that is mapped at once, in bytes; larger requests get a block of their own size. Rounded up to
    /// 4 KiB.
    pub block_bytes: usize,
    /// Whether huge pages are tried, for blocks that are multiples of 2 MiB.
    pub huge_pages: bool,
}

impl Default for DmaOptions {
    /// Blocks of 2 MiB, on huge pages where there are any.
    fn default() -> Self {
        Self { block_bytes: HUGE_PAGE_BYTES, huge_pages: true }
    }
}

/// The DMA memory of one controller. Cheap to clone; any thread may allocate.
///
/// Blocks are made and mapped on demand and stay mapped until [`unmap_all`](Self::unmap_all): what is allocated again
/// and again costs no system call. Dropping the last clone unmaps nothing, as the device may be running; its mappings
/// end with the transport.
#[derive(Clone)]
pub struct DmaSpace {
    shared: Arc<Shared>,
}

struct Shared {
    mapper: Arc<dyn DmaMap>,
    options: DmaOptions,
    /// Held while a block is made and mapped; never taken when a buffer drops.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: Vec<Arena>,
    detached: bool,
}

/// One mapped block and what is free in it.
struct Arena {
    block: Arc<MappedBlock>,
    /// Offset to length of every free range, in bytes; neighbours are always merged.
    free: BTreeMap<usize, usize>,
    /// From here on the block was never handed out and is still zero.
    untouched_from: usize,
}

impl DmaSpace {
    /// A space without memory yet.
    pub fn new(mapper: Arc<dyn DmaMap>, options: DmaOptions) -> Self {
        Self { shared: Arc::new(Shared { mapper, options, state: Mutex::default() }) }
    }

    /// Allocates `len` bytes, zeroed, contiguous for the device and starting at a multiple of 4 KiB. The rest of the
    /// last 4 KiB page belongs to the buffer too, so that a device that overruns by less than a page hits nobody else.
    ///
    /// Takes a mutex, and system calls when a new block is needed: for a hot path, keep buffers.
    ///
    /// # Errors
    /// [`DmaError::Detached`] after [`unmap_all`](Self::unmap_all); [`DmaError::Empty`], [`DmaError::TooLarge`],
    /// [`DmaError::Memory`] and what the transport says about mapping.
    pub fn allocate(&self, len: usize) -> Result<DmaBuffer, DmaError> {
        self.allocate_aligned(len, PAGE_BYTES)
    }

    /// As [`allocate`](Self::allocate), with an IOVA that is a multiple of `align`: queues and PRP lists need that when
    /// the controller's page size is more than 4 KiB.
    ///
    /// # Errors
    /// As `allocate`, and [`DmaError::Unaligned`] when `align` is no power of two.
    pub fn allocate_aligned(&self, len: usize, align: usize) -> Result<DmaBuffer, DmaError> {
        if len == 0 {
            return Err(DmaError::Empty);
        }
        if !align.is_power_of_two() {
            return Err(DmaError::Unaligned { offset: align, align: align.next_power_of_two() });
        }
        let align = align.max(PAGE_BYTES);
        let pages = len.checked_next_multiple_of(PAGE_BYTES).ok_or(DmaError::TooLarge { len })?;
        let mut state = self.lock();
        if state.detached {
            return Err(DmaError::Detached);
        }
        for arena in &mut state.blocks {
            arena.reclaim();
            if let Some(offset) = arena.take(pages, align) {
                return Ok(DmaBuffer::new(Arc::clone(&arena.block), offset, len));
            }
        }
        let mut arena = self.add_block(pages, align)?;
        let taken = arena.take(pages, align);
        let block = Arc::clone(&arena.block);
        state.blocks.push(arena);
        // `add_block` asks for the slack that the alignment may cost, so a fresh block always has room.
        let offset = taken.ok_or(DmaError::TooLarge { len })?;
        Ok(DmaBuffer::new(block, offset, len))
    }

    /// Ends the device's access to everything. To be called once the device has stopped; later allocations fail with
    /// [`DmaError::Detached`]. The memory itself lives until the last buffer in it drops. A second call does nothing.
    ///
    /// # Errors
    /// The first failure to unmap; the other blocks are unmapped all the same, and the blocks that failed are kept for
    /// ever, as the device may reach them.
    pub fn unmap_all(&self) -> Result<(), DmaError> {
        let mut state = self.lock();
        state.detached = true;
        let mut result = Ok(());
        for arena in state.blocks.drain(..) {
            let unmapped = self.shared.mapper.unmap(arena.block.iova, arena.block.memory.len());
            if let Err(error) = unmapped {
                tracing::warn!(iova = arena.block.iova, %error, "could not unmap DMA memory, leaking it");
                std::mem::forget(arena.block);
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Bytes that are handed out at the moment, in whole pages; none after [`unmap_all`](Self::unmap_all).
    pub fn bytes_allocated(&self) -> usize {
        let mut state = self.lock();
        let in_use = |arena: &mut Arena| {
            arena.reclaim();
            arena.block.memory.len() - arena.free.values().sum::<usize>()
        };
        state.blocks.iter_mut().map(in_use).sum()
    }

    /// Bytes that the device can reach at the moment.
    pub fn bytes_mapped(&self) -> usize {
        self.lock().blocks.iter().map(|arena| arena.block.memory.len()).sum()
    }

    fn add_block(&self, pages: usize, align: usize) -> Result<Arena, DmaError> {
        let options = self.shared.options;
        let too_large = DmaError::TooLarge { len: pages };
        // Wherever the mapper puts the block, a multiple of `align` comes within `align` less one page.
        let Some(wanted) = pages.checked_add(align - PAGE_BYTES) else { return Err(too_large) };
        let mut len = wanted.max(options.block_bytes);
        if options.huge_pages && len > HUGE_PAGE_BYTES {
            let Some(whole) = len.checked_next_multiple_of(HUGE_PAGE_BYTES) else { return Err(too_large) };
            len = whole;
        }
        let memory = MemoryBlock::new(len, options.huge_pages)?;
        let iova = self.shared.mapper.map(&memory)?;
        if !iova.is_multiple_of(PAGE_BYTES as u64) || iova.checked_add(memory.len() as u64).is_none() {
            let reason = format!(
                "IOVA {iova:#x} is no multiple of 4 KiB or too high; a transport must give one that is"
            );
            return Err(DmaError::Map { len: memory.len(), reason });
        }
        let free = BTreeMap::from([(0, memory.len())]);
        let block = MappedBlock { memory, iova, returned: crossbeam_queue::SegQueue::new() };
        Ok(Arena { block: Arc::new(block), free, untouched_from: 0 })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The books are whole between any two statements that could panic, so a poisoned lock is as good as another.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DmaSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("DmaSpace")
            .field("options", &self.shared.options)
            .field("blocks", &state.blocks.len())
            .field("detached", &state.detached)
            .finish()
    }
}

impl Arena {
    /// Sets aside `pages` bytes (whole pages), zeroed, at an IOVA that is a multiple of `align`: the first that fits.
    fn take(&mut self, pages: usize, align: usize) -> Option<usize> {
        let iova = self.block.iova;
        let (start, free_len, offset) = self.free.iter().find_map(|(&start, &free_len)| {
            let skip = ((iova + start as u64).wrapping_neg() % align as u64) as usize;
            (skip.checked_add(pages)? <= free_len).then_some((start, free_len, start + skip))
        })?;
        self.free.remove(&start);
        if offset > start {
            self.free.insert(start, offset - start);
        }
        let end = offset + pages;
        if end < start + free_len {
            self.free.insert(end, start + free_len - end);
        }
        // Memory that was never handed out is zero as the kernel gave it, and stays unpopulated until it is used.
        let used_end = end.min(self.untouched_from);
        if offset < used_end {
            self.block.memory.fill(offset, used_end - offset, 0);
        }
        self.untouched_from = self.untouched_from.max(end);
        Some(offset)
    }

    /// Books what was dropped since the last look as free.
    fn reclaim(&mut self) {
        while let Some((offset, len)) = self.block.returned.pop() {
            let mut start = offset;
            let mut end = offset + len.next_multiple_of(PAGE_BYTES);
            if let Some((&before, &before_len)) = self.free.range(..start).next_back()
                && before + before_len == start
            {
                start = before;
            }
            if let Some(after_len) = self.free.remove(&end) {
                end += after_len;
            }
            self.free.insert(start, end - start);
        }
    }
}
