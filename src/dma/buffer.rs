//! What is allocated from DMA memory: `DmaBuffer`, and `DmaSlice`, the part of one that a command transfers.
//!
//! How ranges are found and given back is `space`'s business; here a buffer only knows its own range.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_queue::SegQueue;

use super::block::{MemoryBlock, caller};
use super::{DmaError, PAGE_BYTES};

/// A block that a device can reach, and the ranges of it that their owners have dropped since the allocator last looked.
#[derive(Debug)]
pub(super) struct MappedBlock {
    pub(super) memory: Arc<MemoryBlock>,
    pub(super) iova: u64,
    /// Offset and length in bytes.
    pub(super) returned: SegQueue<(usize, usize)>,
}

/// A range of DMA memory with a known IOVA, owned by one holder at a time.
///
/// A device may write to it at any time, so it is never a slice: bytes are copied in and out with relaxed atomic words,
/// or loaded and stored word by word. Its IOVA range is contiguous and starts at a 4 KiB boundary.
///
/// Dropping it gives the range back without a lock or a system call, so it may be dropped on a polling thread. Only the
/// last buffer of a space that was unmapped releases a mapping when it drops.
#[derive(Debug)]
pub struct DmaBuffer {
    block: Arc<MappedBlock>,
    iova: u64,
    /// 0 once the buffer is abandoned, so that a flag does not make every command in flight a word larger.
    len: usize,
}

impl DmaBuffer {
    /// A buffer over `len` bytes at `offset` of `block`, which the caller (the allocator) has set aside for it.
    pub(super) fn new(block: Arc<MappedBlock>, offset: usize, len: usize) -> Self {
        debug_assert!(offset.is_multiple_of(PAGE_BYTES) && offset + len <= block.memory.len());
        Self { iova: block.iova + offset as u64, block, len }
    }

    /// Length in bytes, as it was asked for.
    #[expect(clippy::len_without_is_empty, reason = "a buffer of no bytes cannot be made")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the device finds the first byte.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The first byte. Valid for [`len`](Self::len) bytes while the buffer lives; to be accessed atomically only.
    pub fn as_ptr(&self) -> NonNull<u8> {
        // SAFETY: the buffer's offset is inside its block's mapping.
        unsafe { self.block.memory.as_ptr().add(self.offset()) }
    }

    /// Copies bytes from `offset` on out of the buffer.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) {
        self.block.memory.read(self.place(offset, bytes.len()), bytes);
    }

    /// Copies `bytes` into the buffer from `offset` on.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) {
        self.block.memory.write(self.place(offset, bytes.len()), bytes);
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        self.block.memory.fill(self.offset(), self.len, byte);
    }

    /// Loads the 32-bit word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// When the word is not inside the buffer or not aligned, or `order` is no order for a load.
    pub fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.block.memory.load_u32(self.place(offset, size_of::<u32>()), order)
    }

    /// Loads the 64-bit word at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// When the word is not inside the buffer or not aligned, or `order` is no order for a load.
    pub fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        self.block.memory.load_u64(self.place(offset, size_of::<u64>()), order)
    }

    /// Stores a 32-bit word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// When the word is not inside the buffer or not aligned, or `order` is no order for a store.
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        self.block.memory.store_u32(self.place(offset, size_of::<u32>()), value, order);
    }

    /// Stores a 64-bit word at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// When the word is not inside the buffer or not aligned, or `order` is no order for a store.
    pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        self.block.memory.store_u64(self.place(offset, size_of::<u64>()), value, order);
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read_at(0, &mut bytes);
        bytes
    }

    /// Gives the buffer up without giving its range back for reuse: for memory that a device may still write to. It stays
    /// allocated and mapped until [`DmaSpace::unmap_all`](super::DmaSpace::unmap_all). The buffer has no bytes from then
    /// on and is only good for being dropped.
    pub fn abandon(&mut self) {
        self.len = 0;
    }

    fn offset(&self) -> usize {
        (self.iova - self.block.iova) as usize
    }

    /// Where in the block the range is; panics when it is not inside the buffer.
    fn place(&self, offset: usize, len: usize) -> usize {
        caller(within(offset, len, self.len));
        self.offset() + offset
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            self.block.returned.push((self.offset(), self.len));
        }
    }
}

/// What one command transfers: a range of a buffer that travels with the command and comes back with its completion.
#[derive(Debug)]
pub struct DmaSlice {
    buffer: DmaBuffer,
    offset: usize,
    len: usize,
}

impl DmaSlice {
    /// The `len` bytes from `offset` on of `buffer`. The offset must be a multiple of 4, as that of a PRP entry (NVMe
    /// Base 2.0, 4.1.1).
    ///
    /// # Errors
    /// [`DmaError::Empty`], [`DmaError::OutOfRange`] or [`DmaError::Unaligned`], each with the buffer.
    pub fn new(buffer: DmaBuffer, offset: usize, len: usize) -> Result<Self, (DmaError, DmaBuffer)> {
        if len == 0 {
            return Err((DmaError::Empty, buffer));
        }
        if let Err(error) = within(offset, len, buffer.len()) {
            return Err((error, buffer));
        }
        if !offset.is_multiple_of(4) {
            return Err((DmaError::Unaligned { offset, align: 4 }, buffer));
        }
        Ok(Self { buffer, offset, len })
    }

    /// The whole buffer.
    pub fn buffer(&self) -> &DmaBuffer {
        &self.buffer
    }

    /// Where the slice starts in its buffer, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes to transfer.
    #[expect(clippy::len_without_is_empty, reason = "a slice of no bytes cannot be made")]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the device finds the first byte.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.buffer.iova + self.offset as u64
    }

    /// The buffer back.
    pub fn into_buffer(self) -> DmaBuffer {
        self.buffer
    }
}

impl From<DmaBuffer> for DmaSlice {
    fn from(buffer: DmaBuffer) -> Self {
        Self { offset: 0, len: buffer.len(), buffer }
    }
}

/// That `len` bytes at `offset` are inside `size` bytes.
pub(super) fn within(offset: usize, len: usize, size: usize) -> Result<(), DmaError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(DmaError::OutOfRange { offset, len, size }),
    }
}
