//! `dma`: memory that a device may write.
