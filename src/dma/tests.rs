//! Tests of DMA memory, its allocator and PRP construction.
