//! Physical Region Pages: how a contiguous range of IOVAs is described to a controller (NVMe Base 2.0, 4.1.1).
//!
//! One entry for a range that stays in a page, two for one that touches two pages, and else a list in memory of its own
//! whose pages are chained by their last entries. Which memory the lists use is the caller's choice.

use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

use super::DmaBuffer;
use super::buffer::within;

const ENTRY_BYTES: usize = size_of::<u64>();

/// Why a range could not be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrpError {
    /// There is nothing to describe.
    #[error("a transfer of zero bytes has no PRP entries; transfer at least one byte")]
    Empty,
    /// A PRP entry cannot hold the two lowest bits of an address.
    #[error("IOVA {iova:#x} is not a multiple of 4; a transfer must start at one")]
    Unaligned {
        /// Where the transfer was to start.
        iova: u64,
    },
    /// The range ends beyond the address space.
    #[error("{len} bytes at IOVA {iova:#x} run past the end of the address space")]
    Overflow {
        /// Where the transfer was to start.
        iova: u64,
        /// Its length in bytes.
        len: usize,
    },
    /// The memory for the list holds fewer entries than the range needs.
    #[error("the PRP list needs {entries} entries and has {list_bytes} bytes; transfer less at once")]
    ListTooSmall {
        /// List entries that the range needs, chain entries not counted.
        entries: usize,
        /// Bytes that there are.
        list_bytes: usize,
    },
}

/// Memory for the PRP list of one command: a range of a DMA buffer, on multiples of 8 bytes. A list that is to be
/// chained must start at a controller page.
#[derive(Debug, Clone, Copy)]
pub struct PrpList<'a> {
    buffer: &'a DmaBuffer,
    offset: usize,
    len: usize,
}

impl<'a> PrpList<'a> {
    /// The `len` bytes of `buffer` from `offset` on; `None` when they are not inside or not on multiples of 8.
    pub fn new(buffer: &'a DmaBuffer, offset: usize, len: usize) -> Option<Self> {
        within(offset, len, buffer.len()).ok()?;
        (offset.is_multiple_of(ENTRY_BYTES) && len.is_multiple_of(ENTRY_BYTES)).then_some(Self {
            buffer,
            offset,
            len,
        })
    }
}

/// Bytes of list memory that any transfer of up to `max_transfer_bytes` needs, wherever it starts: 0 when two entries in
/// the command always do, a power of two when the list fits in a page (so that several share one without crossing its
/// end), and else a number of whole pages.
pub fn list_bytes(max_transfer_bytes: usize, page_size: usize) -> usize {
    // In the worst case the first page holds but one dword.
    let entries = max_transfer_bytes.saturating_sub(4).div_ceil(page_size);
    let per_page = page_size / ENTRY_BYTES;
    match entries {
        0 | 1 => 0,
        2.. if entries <= per_page => (entries * ENTRY_BYTES).next_power_of_two(),
        // Every page but the last gives one entry to the chain.
        _ => (entries - 1).div_ceil(per_page - 1) * page_size,
    }
}

/// Describes `len` bytes at `iova` and returns PRP1 and PRP2. `page_size` is the controller's (CC.MPS): a power of two
/// of at least 4096. `list` is written to when the range touches more than two pages.
///
/// # Errors
/// [`PrpError`]; nothing that was written to the list matters then.
#[inline]
pub fn describe(
    iova: u64,
    len: usize,
    page_size: usize,
    list: Option<PrpList<'_>>,
) -> Result<(u64, u64), PrpError> {
    debug_assert!(page_size.is_power_of_two() && page_size >= 4096, "{page_size} is no NVMe page size");
    if len == 0 {
        return Err(PrpError::Empty);
    }
    if !iova.is_multiple_of(4) {
        return Err(PrpError::Unaligned { iova });
    }
    if iova.checked_add(len as u64).is_none() {
        return Err(PrpError::Overflow { iova, len });
    }
    let first = page_size - (iova as usize & (page_size - 1));
    if len <= first {
        return Ok((iova, 0));
    }
    let second = iova + first as u64;
    if len - first <= page_size {
        return Ok((iova, second));
    }
    // Pages are powers of two: a shift and a mask instead of divisions, which cost more than all the rest.
    let entries = (len - first + page_size - 1) >> page_size.trailing_zeros();
    let prp2 = write_list(second, entries, page_size, list)?;
    Ok((iova, prp2))
}

/// Lists `entries` pages from `page` on and returns where the list starts. An entry is never written past the end of a
/// page: the last one points to the next page of the list, unless it is the last of all.
fn write_list(
    mut page: u64,
    entries: usize,
    page_size: usize,
    list: Option<PrpList<'_>>,
) -> Result<u64, PrpError> {
    let list_bytes = list.map_or(0, |list| list.len);
    let too_small = PrpError::ListTooSmall { entries, list_bytes };
    let Some(list) = list else { return Err(too_small) };
    let start = list.buffer.iova() + list.offset as u64;
    // SAFETY: `PrpList::new` found the list inside its buffer.
    let words = unsafe { list.buffer.as_ptr().add(list.offset) }.cast::<u64>();
    let put = |at: usize, value: u64| {
        if at >= list.len {
            return None;
        }
        // SAFETY: `at` is inside the list, which `PrpList::new` found inside its buffer.
        let word = unsafe { words.byte_add(at) };
        // SAFETY: inside the buffer, which outlives `list`; aligned, as the buffer is to a page and the offset of the
        // list, like `at`, to eight bytes; and accessed atomically or by a device.
        let word = unsafe { AtomicU64::from_ptr(word.as_ptr()) };
        // Relaxed: the doorbell's Release store publishes the list with the command that points to it.
        word.store(value, Ordering::Relaxed);
        Some(())
    };
    let mut at = 0;
    for left in (1..=entries).rev() {
        let after = start + (at + ENTRY_BYTES) as u64;
        let is_last_of_page = after & (page_size as u64 - 1) == 0;
        if is_last_of_page && left > 1 {
            put(at, after).ok_or(too_small)?;
            at += ENTRY_BYTES;
        }
        put(at, page).ok_or(too_small)?;
        at += ENTRY_BYTES;
        // Wraps only after the last entry of a range that ends with the address space.
        page = page.wrapping_add(page_size as u64);
    }
    Ok(start)
}
