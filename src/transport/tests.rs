//! Tests of the doorbell.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Doorbell, TransportError};
use crate::dma::MemoryBlock;

#[test]
fn a_doorbell_writes_its_register_and_no_other() {
    let block = MemoryBlock::new(4096, false).expect("memory");
    let doorbell = Doorbell::in_block(Arc::clone(&block), 8).expect("inside");
    doorbell.ring(0xdead_beef);
    assert_eq!(block.load_u32(8, Ordering::Acquire), 0xdead_beef);
    assert_eq!(block.load_u32(4, Ordering::Acquire), 0);
    assert_eq!(block.load_u32(12, Ordering::Acquire), 0);
}

#[test]
fn a_doorbell_keeps_its_block_mapped() {
    let block = MemoryBlock::new(4096, false).expect("memory");
    let weak = Arc::downgrade(&block);
    let doorbell = Doorbell::in_block(block, 0).expect("inside");
    doorbell.ring(7);
    assert_eq!(weak.upgrade().expect("kept").load_u32(0, Ordering::Acquire), 7);
    drop(doorbell);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_doorbell_outside_or_between_registers_is_refused() {
    let block = MemoryBlock::new(4096, false).expect("memory");
    let at = |offset| Doorbell::in_block(Arc::clone(&block), offset);
    assert!(at(4092).is_ok());
    assert!(matches!(at(4096), Err(TransportError::OutOfRange { offset: 4096, bar_len: 4096 })));
    assert!(matches!(at(usize::MAX - 3), Err(TransportError::OutOfRange { .. })));
    assert!(matches!(at(4090), Err(TransportError::Unaligned { offset: 4090, align: 4 })));
}
