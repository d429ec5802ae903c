//! What can go wrong with DMA memory, in words that name the number that was wrong. No behaviour lives here.

use std::io;

use thiserror::Error;

/// Why DMA memory could not be had, mapped or accessed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DmaError {
    /// A block or buffer of no bytes was asked for, or a transfer of none described.
    #[error("zero bytes of DMA memory were asked for; ask for at least one")]
    Empty,
    /// The size overflows once it is rounded up to pages.
    #[error("{len} bytes of DMA memory are more than an address space holds; ask for less")]
    TooLarge {
        /// Bytes that were asked for.
        len: usize,
    },
    /// The memory was unmapped from the device for good: its controller was detached or its transport closed.
    #[error(
        "the device's DMA memory was unmapped for good (it was detached); attach again to get new memory"
    )]
    Detached,
    /// The operating system gave no memory.
    #[error("could not {what} for {len} bytes of DMA memory: {source}")]
    Memory {
        /// The step that failed.
        what: &'static str,
        /// Bytes that were asked for.
        len: usize,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The transport could not make the memory visible to the device.
    #[error("could not map {len} bytes for the device: {reason}")]
    Map {
        /// Length of the block in bytes.
        len: usize,
        /// What the transport says, and what to do about it.
        reason: String,
    },
    /// Unmapping, or a device's access, named a range that is not mapped.
    #[error("{len} bytes at IOVA {iova:#x} are not mapped; unmap exactly what `map` returned")]
    NotMapped {
        /// The I/O virtual address.
        iova: u64,
        /// Bytes from there on.
        len: usize,
    },
    /// An access past the end of a block or buffer.
    #[error("{len} bytes at offset {offset} run past the end of {size} bytes of DMA memory")]
    OutOfRange {
        /// Where the access starts, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
        /// What there is, in bytes.
        size: usize,
    },
    /// An access or a transfer that starts between two words.
    #[error("offset {offset} is not a multiple of {align} bytes")]
    Unaligned {
        /// Where the access starts, in bytes.
        offset: usize,
        /// What it must be a multiple of, in bytes.
        align: usize,
    },
}
