//! Tests of `MemoryBlock`.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use crate::dma::{DmaError, HUGE_PAGE_BYTES, MemoryBlock};

#[test]
fn a_block_is_zeroed_and_rounded_up_to_pages() {
    let block = MemoryBlock::new(5000, false).expect("memory");
    assert_eq!(block.len(), 8192);
    assert!(block.as_ptr().as_ptr().addr().is_multiple_of(4096));
    let mut bytes = vec![1; 8192];
    block.read(0, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == 0));
}

#[test]
fn the_memfd_shows_what_was_stored() {
    let block = MemoryBlock::new(4096, false).expect("memory");
    block.store_u64(16, 0x0102_0304_0506_0708, Relaxed);
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::pread(block.fd(), &mut bytes, 16).expect("read"), 8);
    assert_eq!(u64::from_ne_bytes(bytes), 0x0102_0304_0506_0708);
}

#[test]
fn asking_for_huge_pages_works_with_and_without_any() {
    let block = MemoryBlock::new(HUGE_PAGE_BYTES, true).expect("huge pages or ordinary memory");
    block.store_u32(HUGE_PAGE_BYTES - 4, 7, Relaxed);
    assert_eq!(block.load_u32(HUGE_PAGE_BYTES - 4, Relaxed), 7);
    let odd = MemoryBlock::new(HUGE_PAGE_BYTES + 4096, true).expect("ordinary memory");
    assert!(!odd.is_huge());
}

#[test]
fn impossible_sizes_are_refused() {
    assert!(matches!(MemoryBlock::new(0, false), Err(DmaError::Empty)));
    assert!(matches!(MemoryBlock::new(usize::MAX, false), Err(DmaError::TooLarge { len: usize::MAX })));
    let len = 1 << 60;
    assert!(matches!(MemoryBlock::new(len, false), Err(DmaError::Memory { len: l, .. }) if l == len));
}

#[test]
fn words_outside_or_between_are_refused() {
    let block = MemoryBlock::new(4096, false).expect("memory");
    assert!(matches!(block.try_load_u64(4096, Relaxed), Err(DmaError::OutOfRange { .. })));
    assert!(matches!(block.try_load_u64(4092, Relaxed), Err(DmaError::OutOfRange { .. })));
    assert!(matches!(block.try_load_u32(usize::MAX - 3, Relaxed), Err(DmaError::OutOfRange { .. })));
    assert!(matches!(block.try_store_u32(2, 1, Relaxed), Err(DmaError::Unaligned { offset: 2, align: 4 })));
    assert!(matches!(block.try_store_u64(4, 1, Relaxed), Err(DmaError::Unaligned { offset: 4, align: 8 })));
    assert!(matches!(
        block.try_write(4090, &[1; 7]),
        Err(DmaError::OutOfRange { offset: 4090, len: 7, size: 4096 })
    ));
    assert!(matches!(block.try_fill(usize::MAX, 2, 1), Err(DmaError::OutOfRange { .. })));
    assert!(block.try_read(4096, &mut []).is_ok(), "nothing at the very end is inside");
    let mut bytes = [0; 4096];
    block.read(0, &mut bytes);
    assert_eq!(bytes, [0; 4096], "a refused store must not store");
}

#[test]
#[should_panic(expected = "1 bytes at offset 4096 run past the end of 4096")]
fn a_callers_bug_panics_and_says_where() {
    MemoryBlock::new(4096, false).expect("memory").write(4096, &[1]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Copies in, out and fills agree with a plain vector at any alignment, and touch nothing beside their range.
    #[test]
    fn copies_agree_with_a_vector(
        writes in prop::collection::vec((0usize..64, prop::collection::vec(any::<u8>(), 0..64)), 1..8),
        fill in (0usize..64, 0usize..64, any::<u8>()),
        read in (0usize..64, 0usize..64),
    ) {
        let block = MemoryBlock::new(4096, false).unwrap();
        let mut model = vec![0; 4096];
        for (offset, bytes) in &writes {
            block.write(*offset, bytes);
            model[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        let (offset, len, byte) = fill;
        block.fill(offset, len, byte);
        model[offset..offset + len].fill(byte);
        let mut all = vec![0; 4096];
        block.read(0, &mut all);
        prop_assert_eq!(&all, &model);
        let (offset, len) = read;
        let mut part = vec![0; len];
        block.read(offset, &mut part);
        prop_assert_eq!(&part[..], &model[offset..offset + len]);
    }
}
