//! PRP construction against a walk of the entries as a controller does it, and as it is strict about it.

use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;

use super::space;
use crate::dma::DmaBuffer;
use crate::dma::prp::{PrpError, PrpList, describe, list_bytes};

/// What a controller makes of PRP1 and PRP2: the fragments of a transfer of `len` bytes, or what it would punish.
fn walk(prp1: u64, prp2: u64, len: usize, page: u64, memory: &DmaBuffer) -> Result<Vec<(u64, u64)>, String> {
    let mut left = len as u64;
    let mut fragments = Vec::new();
    let mut fragment = |at: u64, left: &mut u64| {
        let part = (page - at % page).min(*left);
        fragments.push((at, part));
        *left -= part;
    };
    fragment(prp1, &mut left);
    if left == 0 {
        return if prp2 == 0 { Ok(fragments) } else { Err(format!("PRP2 is {prp2:#x} and not needed")) };
    }
    if left <= page {
        if !prp2.is_multiple_of(page) {
            return Err(format!("PRP2 {prp2:#x} has an offset"));
        }
        fragment(prp2, &mut left);
        return Ok(fragments);
    }
    let mut list = prp2;
    while left > 0 {
        let offset = list.checked_sub(memory.iova()).ok_or("the list is not in its memory")?;
        if offset + 8 > memory.len() as u64 || !list.is_multiple_of(8) {
            return Err(format!("list entry at {list:#x} is outside its memory or unaligned"));
        }
        let entry = memory.load_u64(offset as usize, Relaxed);
        if !entry.is_multiple_of(page) {
            return Err(format!("list entry {entry:#x} has an offset"));
        }
        if (list + 8).is_multiple_of(page) && left > page {
            list = entry;
            continue;
        }
        fragment(entry, &mut left);
        list += 8;
    }
    Ok(fragments)
}

/// The same without any PRPs.
fn naive(iova: u64, len: usize, page: u64) -> Vec<(u64, u64)> {
    let end = iova + len as u64;
    let mut at = iova;
    let mut fragments = Vec::new();
    while at < end {
        let next = (at / page + 1) * page;
        fragments.push((at, next.min(end) - at));
        at = next;
    }
    fragments
}

fn check(iova: u64, len: usize, page: usize, list_offset: usize, memory: &DmaBuffer) -> Result<(), String> {
    memory.fill(0xff);
    let room = if list_offset > 0 { page - list_offset } else { list_bytes(len, page) };
    let list = PrpList::new(memory, list_offset, room).expect("inside");
    let (prp1, prp2) = describe(iova, len, page, Some(list)).map_err(|error| error.to_string())?;
    let seen = walk(prp1, prp2, len, page as u64, memory)?;
    if seen == naive(iova, len, page as u64) {
        Ok(())
    } else {
        Err(format!("{len} bytes at {iova:#x}: {seen:x?}"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Any offset and length up to three chained lists: the controller finds exactly the bytes that were meant, with the
    /// list memory that `list_bytes` says is enough.
    #[test]
    fn a_controller_finds_the_bytes_that_were_meant(
        page_shift in 12usize..15,
        first_page in 1u64..1 << 30,
        dword in 0u64..4096,
        pages in 0usize..1600,
        rest in 1usize..4096,
    ) {
        let page = 1 << page_shift;
        let (space, _mapper) = space(1 << 16);
        let memory = space.allocate_aligned(4 * page, page).unwrap();
        let iova = first_page * page as u64 + dword * 4 % page as u64;
        prop_assert_eq!(check(iova, pages * 4096 + rest, page, 0, &memory), Ok(()));
    }

    /// A list that starts inside a page ends with it.
    #[test]
    fn a_list_that_starts_inside_a_page_stays_in_it(start in 1usize..512, dword in 0u64..1024, fill in 0usize..512) {
        let (space, _mapper) = space(1 << 16);
        let memory = space.allocate(4096).unwrap();
        let entries = fill.min(512 - start);
        let offset = dword * 4;
        // Ends with the last byte of the last page, so that there are exactly so many entries.
        let len = (entries + 1) * 4096 - offset as usize;
        prop_assert_eq!(check(0x4000_0000 + offset, len, 4096, start * 8, &memory), Ok(()));
    }
}

#[test]
fn every_length_around_a_page_end_is_right() {
    let (space, _mapper) = space(1 << 16);
    let memory = space.allocate(16_384).expect("memory");
    for pages in [1, 2, 3, 256, 511, 512, 513, 514, 1022, 1023, 1024, 1025] {
        for less in [0, 1, 4, 4095] {
            for offset in [0, 4, 2048, 4092] {
                let len = pages * 4096 - less;
                check(0x10_0000 + offset, len, 4096, 0, &memory)
                    .unwrap_or_else(|error| panic!("{len}: {error}"));
            }
        }
    }
}

#[test]
fn list_memory_is_as_little_as_will_do() {
    for (transfer, bytes) in [
        (0, 0),
        (4096, 0),
        (8192, 16),
        (128 * 1024, 256),
        (1 << 20, 2048),
        (2 << 20, 4096),
        ((2 << 20) + 4, 4096),
        ((2 << 20) + 8, 8192),
        (4 << 20, 3 * 4096),
    ] {
        assert_eq!(list_bytes(transfer, 4096), bytes, "{transfer}");
    }
}

#[test]
fn what_cannot_be_described_is_refused() {
    let (space, _mapper) = space(1 << 16);
    let memory = space.allocate(4096).expect("memory");
    assert_eq!(describe(0x1000, 0, 4096, None), Err(PrpError::Empty));
    assert_eq!(describe(0x1002, 4, 4096, None), Err(PrpError::Unaligned { iova: 0x1002 }));
    let iova = u64::MAX - 3;
    assert_eq!(describe(iova, 8, 4096, None), Err(PrpError::Overflow { iova, len: 8 }));
    let too_small = |entries, list_bytes| Err(PrpError::ListTooSmall { entries, list_bytes });
    assert_eq!(describe(0x1000, 3 * 4096, 4096, None), too_small(2, 0));
    let list = PrpList::new(&memory, 0, 16);
    assert!(describe(0x1000, 3 * 4096, 4096, list).is_ok());
    assert_eq!(describe(0x1000, 4 * 4096, 4096, list), too_small(3, 16));
    assert!(PrpList::new(&memory, 4096, 8).is_none());
    assert!(PrpList::new(&memory, 4, 8).is_none());
}
