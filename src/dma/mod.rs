//! `dma`: memory that a device may write at any time. Blocks of it, a space to allocate buffers from, and PRP entries
//! that describe a buffer to a controller.
//!
//! The bytes are never behind a Rust reference: they are reached by atomic loads and stores, so that a device that
//! writes at the wrong moment is wrong data and not undefined behaviour. How a device is made to see a block is the
//! transport's business, behind [`DmaMap`]; queues and commands are not known here.

mod block;
mod buffer;
mod error;
pub mod prp;
mod space;

#[cfg(test)]
mod tests;

pub use block::{HUGE_PAGE_BYTES, MemoryBlock, PAGE_BYTES};
pub use buffer::{DmaBuffer, DmaSlice};
pub use error::DmaError;
pub use space::{DmaMap, DmaOptions, DmaSpace};
