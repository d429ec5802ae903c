//! `MemoryBlock`: one mapping of shared memory that the driver and a device may touch at the same time.
//!
//! Nothing here knows of IOVAs or of who allocates what from a block; that is `space`. There is no way to get a Rust
//! reference to the bytes: every access is an atomic one, so that a device's write in the middle of it is a surprising
//! value and never undefined behaviour.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::DmaError;

/// Granularity of blocks and of allocations from them, in bytes: the smallest NVMe memory page.
pub const PAGE_BYTES: usize = 4096;
/// Size of the huge pages that are tried, in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

const WORD: usize = size_of::<u64>();

/// Page-aligned, zeroed memory behind a memfd, shared by the driver, the device and, through [`MemoryBlock::fd`], other
/// processes.
///
/// Any thread may call anything at any time. Reads and writes of byte ranges are made of relaxed atomic words (64-bit
/// ones where the offset is aligned): they order nothing and a range may be seen half changed. What orders them is a
/// doorbell or a phase bit.
///
/// The plain accessors panic when they are given a range outside the block, which is a bug of the caller; whoever was
/// given the range by the other side uses the `try_` forms.
#[derive(Debug)]
pub struct MemoryBlock {
    ptr: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
    huge: bool,
}

// SAFETY: the mapping belongs to the block until it drops, and every access to it is atomic.
unsafe impl Send for MemoryBlock {}
// SAFETY: as above; `&MemoryBlock` gives out nothing but atomic accesses and a raw pointer.
unsafe impl Sync for MemoryBlock {}

impl MemoryBlock {
    /// Makes a block of `len` bytes, rounded up to whole pages of 4 KiB, all zero.
    ///
    /// Huge pages are tried when `huge` is asked for and `len` is a multiple of 2 MiB; where there are none, ordinary
    /// memory does.
    ///
    /// # Errors
    /// [`DmaError::Empty`] for no bytes, [`DmaError::TooLarge`] when rounding up overflows, [`DmaError::Memory`] when
    /// the operating system refuses.
    pub fn new(len: usize, huge: bool) -> Result<Arc<Self>, DmaError> {
        if len == 0 {
            return Err(DmaError::Empty);
        }
        let len = len
            .checked_next_multiple_of(PAGE_BYTES)
            .filter(|&len| isize::try_from(len).is_ok())
            .ok_or(DmaError::TooLarge { len })?;
        if huge && len.is_multiple_of(HUGE_PAGE_BYTES) {
            match Self::map(len, true) {
                Ok(block) => return Ok(Arc::new(block)),
                Err(error) => tracing::debug!(len, %error, "no huge pages, taking ordinary memory"),
            }
        }
        Self::map(len, false).map(Arc::new)
    }

    fn map(len: usize, huge: bool) -> Result<Self, DmaError> {
        let memory =
            |what| move |errno: rustix::io::Errno| DmaError::Memory { what, len, source: errno.into() };
        let mut flags = MemfdFlags::CLOEXEC;
        if huge {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = memfd_create("slipring-dma", flags).map_err(memory("create a memfd"))?;
        ftruncate(&fd, len as u64).map_err(memory("size a memfd"))?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice aliases nothing.
        let mapped = unsafe {
            mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)
        }
        .map_err(memory("map a memfd"))?;
        let ptr = NonNull::new(mapped.cast::<u8>())
            .ok_or_else(|| memory("map a memfd away from address zero")(rustix::io::Errno::FAULT))?;
        Ok(Self { ptr, len, fd, huge })
    }

    /// Length in bytes, a multiple of 4 KiB.
    #[expect(clippy::len_without_is_empty, reason = "a block of no bytes cannot be made")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the block sits on huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The first byte, for whoever maps the block for a device. It is valid for [`len`](Self::len) bytes as long as the
    /// block lives; it must only be accessed atomically.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// The memfd, for whoever shares the block with another process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Loads the 32-bit word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// When the word is not inside the block or not aligned, or `order` is no order for a load.
    pub fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        caller(self.try_load_u32(offset, order))
    }

    /// Loads the 64-bit word at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// When the word is not inside the block or not aligned, or `order` is no order for a load.
    pub fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        caller(self.try_load_u64(offset, order))
    }

    /// Stores a 32-bit word at `offset`, a multiple of 4.
    ///
    /// # Panics
    /// When the word is not inside the block or not aligned, or `order` is no order for a store.
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) {
        caller(self.try_store_u32(offset, value, order));
    }

    /// Stores a 64-bit word at `offset`, a multiple of 8.
    ///
    /// # Panics
    /// When the word is not inside the block or not aligned, or `order` is no order for a store.
    pub fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        caller(self.try_store_u64(offset, value, order));
    }

    /// Replaces the 32-bit word at `offset`, a multiple of 4, with `new` if it is `old`; otherwise says what it is.
    ///
    /// # Panics
    /// When the word is not inside the block or not aligned, or `failure` is no order for a load.
    pub fn compare_exchange_u32(
        &self,
        offset: usize,
        old: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        caller(self.word32(offset)).compare_exchange(old, new, success, failure)
    }

    /// Copies `bytes.len()` bytes from `offset` on out of the block.
    ///
    /// # Panics
    /// When the range is not inside the block.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        caller(self.try_read(offset, bytes));
    }

    /// Copies `bytes` into the block from `offset` on.
    ///
    /// # Panics
    /// When the range is not inside the block.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        caller(self.try_write(offset, bytes));
    }

    /// Sets `len` bytes from `offset` on to `byte`.
    ///
    /// # Panics
    /// When the range is not inside the block.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        caller(self.try_fill(offset, len, byte));
    }

    /// As [`load_u32`](Self::load_u32), for an offset that is not trusted.
    pub fn try_load_u32(&self, offset: usize, order: Ordering) -> Result<u32, DmaError> {
        Ok(self.word32(offset)?.load(order))
    }

    /// As [`load_u64`](Self::load_u64), for an offset that is not trusted.
    pub fn try_load_u64(&self, offset: usize, order: Ordering) -> Result<u64, DmaError> {
        Ok(self.word64(offset)?.load(order))
    }

    /// As [`store_u32`](Self::store_u32), for an offset that is not trusted.
    pub fn try_store_u32(&self, offset: usize, value: u32, order: Ordering) -> Result<(), DmaError> {
        self.word32(offset)?.store(value, order);
        Ok(())
    }

    /// As [`store_u64`](Self::store_u64), for an offset that is not trusted.
    pub fn try_store_u64(&self, offset: usize, value: u64, order: Ordering) -> Result<(), DmaError> {
        self.word64(offset)?.store(value, order);
        Ok(())
    }

    /// As [`read`](Self::read), for a range that is not trusted.
    pub fn try_read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), DmaError> {
        self.check(offset, bytes.len())?;
        let (head, body) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at_mut(head);
        for (i, byte) in first.iter_mut().enumerate() {
            // SAFETY: `check` found the whole range inside the block.
            *byte = unsafe { self.byte(offset + i) }.load(Ordering::Relaxed);
        }
        let (words, last) = rest.split_at_mut(body);
        let mut at = offset + head;
        // Arrays, not slices: no call for each word where the compiler does not see through one.
        for word in words.as_chunks_mut().0 {
            // SAFETY: inside the block as above, and `split` makes `at` start at a multiple of 8.
            let value = unsafe { self.word(at) }.load(Ordering::Relaxed);
            *word = value.to_ne_bytes();
            at += WORD;
        }
        for (i, byte) in last.iter_mut().enumerate() {
            // SAFETY: `check` found the whole range inside the block.
            *byte = unsafe { self.byte(at + i) }.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`write`](Self::write), for a range that is not trusted.
    pub fn try_write(&self, offset: usize, bytes: &[u8]) -> Result<(), DmaError> {
        self.check(offset, bytes.len())?;
        let (head, body) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at(head);
        for (i, &byte) in first.iter().enumerate() {
            // SAFETY: `check` found the whole range inside the block.
            unsafe { self.byte(offset + i) }.store(byte, Ordering::Relaxed);
        }
        let (words, last) = rest.split_at(body);
        let mut at = offset + head;
        for word in words.as_chunks().0 {
            // SAFETY: inside the block as above, and `split` makes `at` start at a multiple of 8.
            unsafe { self.word(at) }.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
            at += WORD;
        }
        for (i, &byte) in last.iter().enumerate() {
            // SAFETY: `check` found the whole range inside the block.
            unsafe { self.byte(at + i) }.store(byte, Ordering::Relaxed);
        }
        Ok(())
    }

    /// As [`fill`](Self::fill), for a range that is not trusted.
    pub fn try_fill(&self, offset: usize, len: usize, byte: u8) -> Result<(), DmaError> {
        self.check(offset, len)?;
        let (head, body) = split(offset, len);
        let words = offset + head;
        let tail = words + body;
        for at in (offset..words).chain(tail..offset + len) {
            // SAFETY: `check` found the whole range inside the block.
            unsafe { self.byte(at) }.store(byte, Ordering::Relaxed);
        }
        let value = u64::from_ne_bytes([byte; WORD]);
        for at in (words..tail).step_by(WORD) {
            // SAFETY: inside the block as above, and `split` makes `words` a multiple of 8.
            unsafe { self.word(at) }.store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), DmaError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(DmaError::OutOfRange { offset, len, size: self.len }),
        }
    }

    fn check_word(&self, offset: usize, align: usize) -> Result<(), DmaError> {
        self.check(offset, align)?;
        if offset.is_multiple_of(align) { Ok(()) } else { Err(DmaError::Unaligned { offset, align }) }
    }

    fn word32(&self, offset: usize) -> Result<&AtomicU32, DmaError> {
        self.check_word(offset, size_of::<u32>())?;
        // SAFETY: `check_word` found the offset inside the mapping.
        let word = unsafe { self.ptr.add(offset) }.cast::<u32>();
        // SAFETY: aligned and inside as just checked, mapped as long as `self` lives, and accessed atomically by all.
        Ok(unsafe { AtomicU32::from_ptr(word.as_ptr()) })
    }

    fn word64(&self, offset: usize) -> Result<&AtomicU64, DmaError> {
        self.check_word(offset, WORD)?;
        // SAFETY: `check_word` found the offset aligned and inside the mapping.
        Ok(unsafe { self.word(offset) })
    }

    /// # Safety
    /// `offset` is a multiple of 8 and the eight bytes there are inside the block.
    unsafe fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the caller promises that the offset is inside the mapping.
        let word = unsafe { self.ptr.add(offset) }.cast::<u64>();
        // SAFETY: aligned (the mapping is, to a page), mapped as long as `self` lives, and accessed atomically by all.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    /// # Safety
    /// `offset` is inside the block.
    unsafe fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: the caller promises that the offset is inside the mapping.
        let byte = unsafe { self.ptr.add(offset) };
        // SAFETY: mapped as long as `self` lives, and accessed atomically by all.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }
}

impl Drop for MemoryBlock {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length by `map` and nobody else unmaps it. Accesses borrow the block.
        let unmapped = unsafe { munmap(self.ptr.as_ptr().cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::warn!(len = self.len, %error, "could not unmap DMA memory");
        }
    }
}

/// How many bytes come before the first aligned word of a range, and how many are in whole words after that.
fn split(offset: usize, len: usize) -> (usize, usize) {
    let head = (offset.wrapping_neg() % WORD).min(len);
    (head, (len - head) / WORD * WORD)
}

/// Turns an access outside the block into a panic that names it.
pub(super) fn caller<T>(result: Result<T, DmaError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
