//! Tests of the allocator: what it reuses, what it refuses, and what it leaves behind.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use proptest::prelude::*;

use super::space;
use crate::dma::{DmaBuffer, DmaError, DmaMap, DmaSpace};

#[test]
fn nothing_is_mapped_before_it_is_needed() {
    let (space, mapper) = space(1 << 16);
    assert_eq!((space.bytes_mapped(), mapper.mapped_blocks()), (0, 0));
    let buffer = space.allocate(1).expect("memory");
    assert_eq!((space.bytes_mapped(), mapper.mapped_bytes()), (1 << 16, 1 << 16));
    assert_eq!((buffer.len(), space.bytes_allocated()), (1, 4096));
}

#[test]
fn what_was_dropped_is_used_again_and_is_zero() {
    let (space, mapper) = space(1 << 16);
    let buffer = space.allocate(8192).expect("memory");
    let iova = buffer.iova();
    buffer.fill(0xff);
    drop(buffer);
    assert_eq!(space.bytes_allocated(), 0);
    let again = space.allocate(8192).expect("memory");
    assert_eq!(again.iova(), iova);
    assert!(again.to_vec().iter().all(|&byte| byte == 0));
    drop(again);
    for _ in 0..10_000 {
        drop(space.allocate(12_288).expect("memory"));
    }
    assert_eq!((mapper.mapped_blocks(), space.bytes_allocated()), (1, 0));
}

#[test]
fn neighbours_become_one_range_again() {
    let (space, mapper) = space(1 << 16);
    let mut pages: Vec<_> = (0..16).map(|_| Some(space.allocate(4096).expect("memory"))).collect();
    // Dropped in an order in which ranges meet from below, from above, and from both sides.
    for (i, page) in [0, 2, 1, 15, 13, 14, 8, 7, 9, 5, 3, 4, 10, 12, 11, 6].into_iter().enumerate() {
        pages[page] = None;
        assert_eq!(space.bytes_allocated(), (15 - i) * 4096);
    }
    let whole = space.allocate(1 << 16).expect("memory");
    let first = *mapper.mapped.lock().unwrap().keys().next().expect("a block");
    assert_eq!((whole.iova(), mapper.mapped_blocks()), (first, 1), "the block is one free range again");
}

#[test]
fn exhausted_blocks_are_followed_by_new_ones() {
    let (space, mapper) = space(1 << 14);
    let buffers: Vec<_> = (0..9).map(|_| space.allocate(4096).expect("memory")).collect();
    assert_eq!(mapper.mapped_blocks(), 3);
    assert_eq!(space.bytes_allocated(), 9 * 4096);
    let mut iovas: Vec<_> = buffers.iter().map(DmaBuffer::iova).collect();
    iovas.sort_unstable();
    assert!(iovas.windows(2).all(|pair| pair[1] - pair[0] >= 4096), "no two share a page");
}

#[test]
fn huge_requests_get_a_block_of_their_own_or_an_error() {
    let (space, mapper) = space(1 << 14);
    let large = space.allocate((1 << 20) + 1).expect("memory");
    assert_eq!(mapper.mapped_bytes(), (1 << 20) + 4096);
    large.store_u64(1 << 20 >> 1, 1, Relaxed);
    assert!(matches!(space.allocate(0), Err(DmaError::Empty)));
    assert!(matches!(space.allocate(usize::MAX), Err(DmaError::TooLarge { .. })));
    assert!(matches!(space.allocate(usize::MAX - 4095), Err(DmaError::TooLarge { .. })));
    assert!(matches!(space.allocate(1 << 60), Err(DmaError::Memory { .. })));
    assert_eq!(mapper.mapped_blocks(), 1, "a refused request maps nothing");
    space.allocate(64).expect("still works");
}

#[test]
fn alignment_holds_wherever_the_block_lies() {
    let (space, _mapper) = space(1 << 16);
    let odd = space.allocate(4096).expect("memory");
    for shift in 12..20 {
        let buffer = space.allocate_aligned(8192, 1 << shift).expect("memory");
        assert!(buffer.iova().is_multiple_of(1 << shift), "{:#x} for {shift}", buffer.iova());
    }
    assert!(matches!(space.allocate_aligned(4096, 12_288), Err(DmaError::Unaligned { .. })));
    drop(odd);
    assert_eq!(space.bytes_allocated(), 0);
}

#[test]
fn a_refused_mapping_is_an_error_and_no_loss() {
    let (space, mapper) = space(1 << 14);
    mapper.refuse_map.store(true, Relaxed);
    assert!(matches!(space.allocate(4096), Err(DmaError::Map { len: 16_384, .. })));
    mapper.refuse_map.store(false, Relaxed);
    assert!(space.allocate(4096).is_ok());
    assert_eq!(space.bytes_mapped(), 1 << 14);
}

#[test]
fn buffers_may_be_dropped_on_other_threads() {
    let (space, mapper) = space(1 << 18);
    let rounds = 2000;
    let (sender, receiver) = std::sync::mpsc::sync_channel::<DmaBuffer>(8);
    let dropper = thread::spawn(move || receiver.into_iter().map(|buffer| buffer.len()).sum::<usize>());
    for i in 0..rounds {
        let buffer = space.allocate(4096 * (1 + i % 3)).expect("memory");
        assert_eq!(buffer.load_u64(0, Relaxed), 0, "handed out while somebody else still wrote to it");
        buffer.store_u64(0, i as u64 + 1, Relaxed);
        sender.send(buffer).expect("the other thread runs");
    }
    drop(sender);
    assert!(dropper.join().expect("no panic") >= rounds * 4096);
    assert_eq!(space.bytes_allocated(), 0);
    assert_eq!(mapper.mapped_blocks(), 1, "at most ten buffers of three pages were out at once");
}

#[test]
fn an_abandoned_range_is_not_used_again() {
    let (space, _mapper) = space(1 << 14);
    let mut buffer = space.allocate(4096).expect("memory");
    let iova = buffer.iova();
    buffer.abandon();
    drop(buffer);
    assert_eq!(space.bytes_allocated(), 4096);
    let others: Vec<_> = (0..8).map(|_| space.allocate(4096).expect("memory")).collect();
    assert!(others.iter().all(|other| other.iova() != iova));
}

#[test]
fn unmap_all_ends_access_and_allocation_but_not_the_memory() {
    let (space, mapper) = space(1 << 14);
    let other_handle = space.clone();
    let buffer = space.allocate(4096).expect("memory");
    let second = space.allocate(1 << 14).expect("memory");
    let weak = Arc::downgrade(mapper.mapped.lock().unwrap().values().next().expect("a block"));
    space.unmap_all().expect("unmapped");
    assert_eq!((mapper.mapped_blocks(), space.bytes_mapped()), (0, 0));
    assert!(matches!(other_handle.allocate(4096), Err(DmaError::Detached)));
    assert!(matches!(space.allocate(0), Err(DmaError::Empty)));
    buffer.store_u64(8, 5, Relaxed);
    assert_eq!(buffer.load_u64(8, Relaxed), 5);
    assert!(weak.upgrade().is_some());
    drop(buffer);
    assert!(weak.upgrade().is_none(), "the last buffer releases the memory");
    other_handle.unmap_all().expect("a second time does nothing");
    drop((space, other_handle));
    second.fill(1);
}

#[test]
fn what_cannot_be_unmapped_is_never_freed() {
    let (space, mapper) = space(1 << 14);
    drop(space.allocate(4096).expect("memory"));
    let weak = Arc::downgrade(mapper.mapped.lock().unwrap().values().next().expect("a block"));
    mapper.refuse_unmap.store(true, Relaxed);
    assert!(matches!(space.unmap_all(), Err(DmaError::NotMapped { len: 16_384, .. })));
    mapper.mapped.lock().unwrap().clear();
    drop(space);
    assert!(weak.upgrade().is_some());
}

#[test]
fn a_mapper_that_lies_is_caught() {
    #[derive(Debug)]
    struct Liar(u64);
    impl DmaMap for Liar {
        fn map(&self, _: &Arc<crate::dma::MemoryBlock>) -> Result<u64, DmaError> {
            Ok(self.0)
        }
        fn unmap(&self, _: u64, _: usize) -> Result<(), DmaError> {
            Ok(())
        }
    }
    for iova in [0x1004, u64::MAX - 4095] {
        let space = DmaSpace::new(Arc::new(Liar(iova)), crate::dma::DmaOptions::default());
        assert!(matches!(space.allocate(4096), Err(DmaError::Map { .. })), "{iova:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    /// Whatever is allocated and dropped in whatever order: live buffers never overlap, start zeroed, keep what was
    /// written to them, and the books are right.
    #[test]
    fn live_buffers_never_overlap(steps in prop::collection::vec((1usize..40_000, 0usize..12, 12u32..15), 1..40)) {
        let (space, _mapper) = space(1 << 16);
        let mut live: Vec<(DmaBuffer, u8)> = Vec::new();
        for (i, (len, victim, shift)) in steps.into_iter().enumerate() {
            if victim < live.len() {
                let (buffer, tag) = live.swap_remove(victim);
                prop_assert!(buffer.to_vec().iter().all(|&byte| byte == tag));
            }
            let buffer = space.allocate_aligned(len, 1 << shift).unwrap();
            prop_assert!(buffer.iova().is_multiple_of(1 << shift));
            prop_assert!(buffer.to_vec().iter().all(|&byte| byte == 0));
            let tag = i as u8 | 1;
            buffer.fill(tag);
            live.push((buffer, tag));
            let expected: usize = live.iter().map(|(buffer, _)| buffer.len().next_multiple_of(4096)).sum();
            prop_assert_eq!(space.bytes_allocated(), expected);
        }
        for (buffer, tag) in live {
            prop_assert!(buffer.to_vec().iter().all(|&byte| byte == tag));
        }
    }
}
