//! PRP entries: for any offset, length and page size they cover exactly the buffer, as a device walks them that was written from the specification (NVMe Base 2.0,
//! 4.1.1) and shares nothing with the driver; the list stays in the memory that it was given.

use crate::dice::{Dice, fuzz};
use slipring::dma::prp::{self, PrpError, PrpList};
use slipring::dma::{DmaBuffer, DmaError, DmaMap, DmaOptions, DmaSpace, MemoryBlock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is in list memory that nobody has written to.
const UNTOUCHED: u8 = 0xa5;

/// Gives out addresses, and maps nothing: no device runs here.
struct Addresses(AtomicU64);

impl DmaMap for Addresses {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        // Relaxed: a number of its own.
        Ok(self.0.fetch_add(block.len() as u64, Ordering::Relaxed))
    }

    fn unmap(&self, _iova: u64, _len: usize) -> Result<(), DmaError> {
        Ok(())
    }
}

/// One transfer to describe, and where its list may be.
#[derive(Debug)]
struct Transfer {
    iova: u64,
    len: usize,
    page: usize,
    list_offset: usize,
    list_bytes: usize,
}

impl Transfer {
    fn draw(dice: &mut Dice, list_memory: usize) -> Self {
        let page = 4096 << dice.below(5);
        // Around whole pages, where the mistakes are.
        let pages = dice.choose(&[0, 1, 1, 2, 3, 8, 510, 511, 512, 513, 1023, 1024, 1100]);
        let around = dice.choose(&[0, 4, 8, page / 2, page - 4]) + dice.below(3);
        let len = pages * page + around;
        let offset = match dice.below(4) {
            0 => 0,
            1 => page - 4,
            2 => dice.below(page) & !3,
            _ => dice.below(page),
        };
        let base = match dice.below(16) {
            // The end of the address space.
            0 => (u64::MAX - len as u64) & !(page as u64 - 1),
            _ => (dice.next() >> dice.below(40)) & !(page as u64 - 1) & (u64::MAX >> 1),
        };
        let exact = prp::list_bytes(len, page);
        let list_bytes = if dice.one_in(4) { dice.below(exact + 64) & !7 } else { exact };
        // A list of one page may start in the middle of it if it does not cross its end, a longer one at a page.
        let room = list_memory / page;
        let start = dice.below(room.min(4)) * page;
        let within = if exact <= page && exact > 0 { dice.below(page / exact) * exact } else { 0 };
        Self {
            iova: base.wrapping_add(offset as u64),
            len,
            page,
            list_offset: start + within,
            list_bytes: list_bytes.min(list_memory - start - within),
        }
    }
}

/// What a device reaches by PRP1 and PRP2: ranges of addresses, in order. An error for what a device would refuse, or where it would read a list outside of
/// `list`, whose memory `word` reads.
fn walk(
    (prp1, prp2): (u64, u64),
    len: usize,
    page: u64,
    list: std::ops::Range<u64>,
    word: impl Fn(u64) -> u64,
) -> Result<Vec<(u64, u64)>, String> {
    let mut left = len as u64;
    let mut ranges = Vec::new();
    let mut take = |at: u64, left: &mut u64| {
        let room = page - at % page;
        let taken = room.min(*left);
        ranges.push((at, taken));
        *left -= taken;
    };
    if !prp1.is_multiple_of(4) {
        return Err(format!("PRP1 {prp1:#x} is not a multiple of 4"));
    }
    take(prp1, &mut left);
    if left == 0 {
        return if prp2 == 0 { Ok(ranges) } else { Err(format!("PRP2 {prp2:#x} is not needed")) };
    }
    if left <= page {
        if !prp2.is_multiple_of(page) {
            return Err(format!("PRP2 {prp2:#x} has an offset"));
        }
        take(prp2, &mut left);
        return Ok(ranges);
    }
    if !prp2.is_multiple_of(8) {
        return Err(format!("the list at {prp2:#x} is not on a multiple of 8"));
    }
    let mut at = prp2;
    while left > 0 {
        if !list.contains(&at) || at + 8 > list.end {
            return Err(format!("the device reads the list at {at:#x}, which is outside {list:#x?}"));
        }
        let entry = word(at);
        // The last entry of a page is the next page of the list, unless it is enough for the rest.
        if (at + 8).is_multiple_of(page) && left > page {
            if !entry.is_multiple_of(page) {
                return Err(format!("the chain leads to {entry:#x}, which has an offset"));
            }
            at = entry;
            continue;
        }
        if !entry.is_multiple_of(page) {
            return Err(format!("entry {entry:#x} of the list has an offset"));
        }
        take(entry, &mut left);
        at += 8;
    }
    Ok(ranges)
}

/// Whether the ranges are the buffer: all of it, in order, and nothing else.
fn check(ranges: &[(u64, u64)], iova: u64, len: usize) -> Result<(), String> {
    let mut at = iova;
    for &(start, taken) in ranges {
        if start != at {
            return Err(format!("{taken} bytes at {start:#x}, where {at:#x} was to come"));
        }
        at = at.wrapping_add(taken);
    }
    let covered = at.wrapping_sub(iova);
    if covered == len as u64 { Ok(()) } else { Err(format!("{covered} bytes of {len}")) }
}

/// Memory for lists.
struct Lists {
    buffer: DmaBuffer,
    _space: DmaSpace,
}

impl Lists {
    const BYTES: usize = 512 << 10;

    fn new() -> Self {
        let options = DmaOptions { huge_pages: false, ..DmaOptions::default() };
        let space = DmaSpace::new(Arc::new(Addresses(AtomicU64::new(1 << 40))), options);
        let buffer = space.allocate_aligned(Self::BYTES, 64 << 10).expect("memory");
        buffer.fill(UNTOUCHED);
        Self { buffer, _space: space }
    }

    fn word(&self, iova: u64) -> u64 {
        // Relaxed: this thread wrote it.
        self.buffer.load_u64((iova - self.buffer.iova()) as usize, Ordering::Relaxed)
    }

    /// That nothing was written around a list; and puts back what was before.
    fn assert_untouched_around(&self, transfer: &Transfer) {
        let (start, end) = (transfer.list_offset, transfer.list_offset + transfer.list_bytes);
        let mut around = [0; 64];
        let before = start.saturating_sub(64);
        self.buffer.read_at(before, &mut around[..start - before]);
        assert!(
            around[..start - before].iter().all(|byte| *byte == UNTOUCHED),
            "before the list of {transfer:?}"
        );
        let after = (end + 64).min(Self::BYTES);
        self.buffer.read_at(end, &mut around[..after - end]);
        assert!(
            around[..after - end].iter().all(|byte| *byte == UNTOUCHED),
            "behind the list of {transfer:?}"
        );
        self.buffer.write_at(start, &vec![UNTOUCHED; end - start]);
    }
}

/// How a transfer is described: the driver's way, or a wrong one.
type Describe = fn(&Transfer, &Lists) -> Result<(u64, u64), PrpError>;

fn by_the_driver(transfer: &Transfer, lists: &Lists) -> Result<(u64, u64), PrpError> {
    let list = PrpList::new(&lists.buffer, transfer.list_offset, transfer.list_bytes);
    prp::describe(transfer.iova, transfer.len, transfer.page, list)
}

/// Describes one drawn transfer, and has the device walk it. Whether it was described at all.
fn try_one(seed: u64, lists: &Lists, describe: Describe) -> Result<bool, String> {
    let transfer = Transfer::draw(&mut Dice::new(seed), Lists::BYTES);
    let described = describe(&transfer, lists);
    let Transfer { iova, len, page, .. } = transfer;
    let needed = prp::list_bytes(len, page);
    let verdict = match described {
        Ok(entries) => {
            let start = lists.buffer.iova() + transfer.list_offset as u64;
            let list = start..start + transfer.list_bytes as u64;
            let ranges = walk(entries, len, page as u64, list, |iova| lists.word(iova));
            ranges.and_then(|ranges| check(&ranges, iova, len)).map(|()| true)
        }
        Err(PrpError::Empty) if len == 0 => Ok(false),
        Err(PrpError::Unaligned { .. }) if !iova.is_multiple_of(4) => Ok(false),
        Err(PrpError::Overflow { .. }) if iova.checked_add(len as u64).is_none() => Ok(false),
        Err(PrpError::ListTooSmall { .. }) if transfer.list_bytes < needed => Ok(false),
        Err(error) => Err(format!("refused: {error}")),
    };
    lists.assert_untouched_around(&transfer);
    verdict.map_err(|what| format!("{transfer:?}: {what}"))
}

#[test]
fn prp_entries_cover_exactly_the_buffer() {
    let lists = Lists::new();
    let mut described = 0;
    fuzz("prp", 12_000, |seed| match try_one(seed, &lists, by_the_driver) {
        Ok(is_described) => described += u64::from(is_described),
        Err(what) => panic!("{what}"),
    });
    assert!(described > 0 || std::env::var_os("SLIPRING_FUZZ_ONLY").is_some());
}

/// The first of many drawn transfers that the device finds wrong.
fn first_found(describe: Describe) -> String {
    let lists = Lists::new();
    (0..20_000).find_map(|seed| try_one(seed, &lists, describe).err()).expect("the walk finds it")
}

/// The list without its chain: the page's last entry names a page of the buffer where the device expects the next page of the list.
fn without_the_chain(transfer: &Transfer, lists: &Lists) -> Result<(u64, u64), PrpError> {
    let (prp1, prp2) = by_the_driver(transfer, lists)?;
    let page = transfer.page;
    let first = page - transfer.iova as usize % page;
    if prp2 == 0 || transfer.len - first <= page {
        return Ok((prp1, prp2));
    }
    let entries = (transfer.len - first).div_ceil(page).min(transfer.list_bytes / 8);
    for entry in 0..entries {
        let iova = transfer.iova + (first + entry * page) as u64;
        lists.buffer.store_u64(transfer.list_offset + entry * 8, iova, Ordering::Relaxed);
    }
    Ok((prp1, prp2))
}

#[test]
fn a_list_without_its_chain_is_found() {
    let what = first_found(without_the_chain);
    assert!(what.contains("where") || what.contains("outside"), "{what}");
}

/// Two pages' worth described by two entries although the start has an offset, so that three are touched.
fn without_the_offset(transfer: &Transfer, lists: &Lists) -> Result<(u64, u64), PrpError> {
    let (prp1, prp2) = by_the_driver(transfer, lists)?;
    let aligned = prp1 & !(transfer.page as u64 - 1);
    Ok(if transfer.len <= 2 * transfer.page && transfer.len > transfer.page {
        (prp1, aligned + transfer.page as u64)
    } else {
        (prp1, prp2)
    })
}

#[test]
fn a_third_page_that_is_not_listed_is_found() {
    let what = first_found(without_the_offset);
    assert!(what.contains("outside"), "{what}");
}

/// A last entry that is not written.
fn without_the_last_entry(transfer: &Transfer, lists: &Lists) -> Result<(u64, u64), PrpError> {
    by_the_driver(&Transfer { len: transfer.len.saturating_sub(transfer.page).max(1), ..*transfer }, lists)
}

#[test]
fn a_page_that_is_left_out_is_found() {
    first_found(without_the_last_entry);
}
