//! Tests of `DmaBuffer` and `DmaSlice`.

use std::sync::atomic::Ordering::Relaxed;

use super::space;
use crate::dma::{DmaError, DmaSlice};

#[test]
fn a_buffer_reads_and_writes_its_own_range_only() {
    let (space, mapper) = space(1 << 16);
    let before = space.allocate(4096).expect("memory");
    let buffer = space.allocate(8192).expect("memory");
    let after = space.allocate(4096).expect("memory");
    buffer.fill(0xa5);
    buffer.write_at(3, &[1, 2, 3]);
    buffer.store_u64(8184, 0x1122_3344_5566_7788, Relaxed);
    let mut bytes = [0; 5];
    buffer.read_at(2, &mut bytes);
    assert_eq!(bytes, [0xa5, 1, 2, 3, 0xa5]);
    assert_eq!(buffer.load_u32(8184, Relaxed), 0x5566_7788);
    assert_eq!(buffer.to_vec().len(), 8192);
    assert!(before.to_vec().iter().chain(&after.to_vec()).all(|&byte| byte == 0));
    // The device finds at the IOVA what the driver wrote.
    let blocks = mapper.mapped.lock().unwrap();
    let (&iova, block) = blocks.range(..=buffer.iova()).next_back().expect("a block");
    assert_eq!(block.load_u64((buffer.iova() - iova) as usize + 8184, Relaxed), 0x1122_3344_5566_7788);
    block.store_u32((buffer.iova() - iova) as usize, 99, Relaxed);
    assert_eq!(buffer.load_u32(0, Relaxed), 99);
}

#[test]
#[should_panic(expected = "2 bytes at offset 99 run past the end of 100")]
fn a_buffer_ends_where_it_was_asked_to_end() {
    let (space, _mapper) = space(1 << 16);
    space.allocate(100).expect("memory").write_at(99, &[0; 2]);
}

#[test]
fn a_slice_must_be_inside_aligned_and_not_empty() {
    let (space, _mapper) = space(1 << 16);
    let buffer = space.allocate(1000).expect("memory");
    let iova = buffer.iova();
    let (error, buffer) = DmaSlice::new(buffer, 0, 0).expect_err("empty");
    assert!(matches!(error, DmaError::Empty));
    let (error, buffer) = DmaSlice::new(buffer, 996, 5).expect_err("too long");
    assert!(matches!(error, DmaError::OutOfRange { offset: 996, len: 5, size: 1000 }));
    let (error, buffer) = DmaSlice::new(buffer, usize::MAX, 2).expect_err("overflow");
    assert!(matches!(error, DmaError::OutOfRange { .. }));
    let (error, buffer) = DmaSlice::new(buffer, 6, 4).expect_err("unaligned");
    assert!(matches!(error, DmaError::Unaligned { offset: 6, align: 4 }));
    let slice = DmaSlice::new(buffer, 8, 992).expect("to the end");
    assert_eq!((slice.iova(), slice.len()), (iova + 8, 992));
    let whole = DmaSlice::from(slice.into_buffer());
    assert_eq!((whole.iova(), whole.offset(), whole.len()), (iova, 0, 1000));
}
