//! PRP entries: one, two and lists, at odd offsets and over chains; and each way in which they can be wrong.

use super::{DATA_AT, Host, LISTS_AT, pattern, small};
use crate::emulated::Config;
use crate::spec::command::Command;
use crate::spec::status::Status;

const PAGE: usize = 4096;

/// A controller without a transfer limit, 8 MiB of blocks, and one I/O queue.
fn host() -> Host {
    let mut config = Config { mdts: 0, ..small() };
    config.namespaces[0].size_bytes = 8 << 20;
    let mut host = Host::ready(config);
    host.create_pair(1, 8);
    host
}

impl Host {
    /// Puts PRP lists at `LISTS_AT`, the first one `skip` entries into its page, for the given pages of data. Lists follow each
    /// other in reverse, so that none runs on into the next by chance. Returns PRP2.
    fn put_lists(&mut self, skip: usize, pages: &[u64]) -> u64 {
        let mut left = pages;
        let mut at = LISTS_AT + 64 * PAGE + skip * 8;
        let prp2 = self.iova + at as u64;
        loop {
            let slots = (PAGE - at % PAGE) / 8;
            let last = left.len() <= slots;
            let count = if last { left.len() } else { slots - 1 };
            for (i, page) in left[..count].iter().enumerate() {
                self.block.write(at + i * 8, &page.to_le_bytes());
            }
            left = &left[count..];
            if last {
                return prp2;
            }
            let next = at / PAGE * PAGE - PAGE;
            self.block.write(at + count * 8, &(self.iova + next as u64).to_le_bytes());
            at = next;
        }
    }

    /// Writes `blocks` blocks of namespace 1 from scattered pages and reads them back into others; compares.
    fn round_trip(&mut self, first_offset: usize, blocks: u32, skip: usize) {
        let len = blocks as usize * 512;
        let pages = (first_offset + len).div_ceil(PAGE);
        let bytes = pattern(pages as u8, len);
        for command in [Command::write(1, 3, blocks), Command::read(1, 3, blocks)] {
            let write = command.opcode == Command::write(1, 0, 1).opcode;
            // Every other page, backwards: no two are neighbours. Other pages for reading than for writing.
            let base = DATA_AT + if write { 0 } else { 6 << 20 };
            let place = |page: usize| base + (pages - 1 - page) * 2 * PAGE;
            let place_of = |at: usize| place((first_offset + at) / PAGE) + (first_offset + at) % PAGE;
            let mut chunks = Vec::new();
            let mut at = 0;
            while at < len {
                let n = (PAGE - (first_offset + at) % PAGE).min(len - at);
                chunks.push((place_of(at), at, n));
                at += n;
            }
            if write {
                for &(place, at, n) in &chunks {
                    self.block.write(place, &bytes[at..at + n]);
                }
            }
            let iova = self.iova;
            let address = |page: usize| iova + place(page) as u64;
            let prp1 = address(0) + first_offset as u64;
            let prp2 = match pages {
                // Must not be looked at.
                1 => 0xdead_beef_0000_0123,
                2 => address(1),
                _ => self.put_lists(skip, &(1..pages).map(address).collect::<Vec<_>>()),
            };
            assert_eq!(self.status(1, Command { prp1, prp2, ..command }), Status::SUCCESS);
            if !write {
                for &(place, at, n) in &chunks {
                    let mut read = vec![0; n];
                    self.block.read(place, &mut read);
                    assert!(read == bytes[at..at + n], "{first_offset} {blocks} {skip}: at {at}");
                }
            }
        }
    }
}

#[test]
fn data_is_found_wherever_the_entries_point() {
    let mut host = host();
    for first_offset in [0, 4, 512, 4092] {
        for blocks in [1, 2, 8, 9, 15, 16, 17, 24, 100] {
            host.round_trip(first_offset, blocks, 0);
        }
    }
    assert!(host.violations().is_empty());
}

#[test]
fn lists_may_start_anywhere_in_a_page_and_are_chained_at_its_end() {
    let mut host = host();
    // 257 entries: the list's page is left after 1, 2, 256 and 257 entries.
    for skip in [0, 1, 255, 256, 510, 511] {
        host.round_trip(0, 258 * 8, skip);
        host.round_trip(4, 257 * 8, skip);
    }
    // Exactly as many entries as fit need no chain.
    host.round_trip(0, 3 * 8, 510);
    host.round_trip(0, 4 * 8, 510);
    assert!(host.violations().is_empty());
}

#[test]
fn several_lists_are_followed() {
    let mut host = host();
    // 640 pages take two lists.
    host.round_trip(0, 640 * 8, 0);
    host.round_trip(8, 640 * 8, 500);
    assert!(host.violations().is_empty());
}

#[test]
fn larger_memory_pages_are_used_when_chosen() {
    let mut host = Host::new(Config { mdts: 0, ..small() });
    host.set_admin_queues();
    let (sq, _) = host.queue_iovas(0);
    // Two pages of 4 KiB for the queues: move ACQ to a multiple of 8 KiB.
    host.pair(0).cq_at = 2 << 20;
    host.set_admin_queues();
    assert_eq!(sq % 8192, 0);
    host.write_cc(Host::cc().with_mps(1));
    assert!(host.csts().rdy(), "{:?}", host.violations());
    host.next_queue = (2 << 20) + 8192;
    host.add_pair(1, 128);
    host.pair(1).cq_at = (2 << 20) + 65536;
    let (sq, cq) = host.queue_iovas(1);
    host.admin_ok(Command { prp1: cq, ..Command::create_io_cq(1, 4, None) });
    host.admin_ok(Command { prp1: sq, ..Command::create_io_sq(1, 1, 4, 0) });
    // Within one page of 8 KiB, PRP2 is not looked at.
    let prp1 = host.iova + DATA_AT as u64;
    let status = host.status(1, Command { prp1, prp2: 1, ..Command::read(1, 0, 16) });
    assert_eq!(status, Status::SUCCESS);
    assert!(host.violations().is_empty());
}

#[test]
fn each_wrong_entry_is_refused() {
    let mut host = host();
    let data = host.iova + DATA_AT as u64;
    let list = host.iova + LISTS_AT as u64;
    let unmapped = host.iova - PAGE as u64;
    let offset = Status::INVALID_PRP_OFFSET.with_dnr();
    let transfer = Status::DATA_TRANSFER_ERROR;
    let one = Command::read(1, 0, 1);
    let two = Command::read(1, 0, 16);
    let three = Command::read(1, 0, 24);
    host.block.write(LISTS_AT, &(data + 8192).to_le_bytes());
    host.block.write(LISTS_AT + 8, &(data + 4).to_le_bytes());
    host.block.write(LISTS_AT + 16, &unmapped.to_le_bytes());
    host.block.write(LISTS_AT + 4088, &(list + 8).to_le_bytes());
    let cases = [
        (Command { prp1: data + 2, ..one }, offset, "PRP1"),
        (Command { prp1: data, prp2: data + 4100, ..two }, offset, "PRP2"),
        (Command { prp1: data, prp2: list + 4, ..three }, offset, "list pointer"),
        (Command { prp1: data, prp2: list, ..three }, offset, "an entry of a PRP list"),
        // The last entry of a page leads to the next list, which must begin a page.
        (Command { prp1: data, prp2: list + 4088, ..three }, offset, "an entry of a PRP list"),
        (Command { prp1: unmapped, ..one }, transfer, "data at"),
        (Command { prp1: data, prp2: unmapped, ..two }, transfer, "data at"),
        (Command { prp1: data, prp2: unmapped, ..three }, transfer, "PRP list at"),
        (Command { prp1: data, prp2: list + 16, ..three }, transfer, "data at"),
        (Command { prp1: !4095, prp2: 0, ..two }, transfer, "data at"),
        // Over the end of the mapping.
        (
            Command { prp1: host.iova + host.block.len() as u64 - 512, prp2: 0, ..Command::read(1, 0, 2) },
            transfer,
            "data at",
        ),
    ];
    for (i, (command, status, words)) in cases.into_iter().enumerate() {
        assert_eq!(host.status(1, command), status, "{words} {i}");
        let all = host.violations();
        assert!(all.len() == i + 1 && all[i].contains(words), "{i} {words}: {all:?}");
    }
}

#[test]
fn nothing_is_transferred_when_a_later_entry_is_wrong() {
    let mut host = host();
    let data = host.iova + DATA_AT as u64;
    host.block.fill(DATA_AT, PAGE, 0x77);
    let status = host.status(1, Command { prp1: data, prp2: 0, ..Command::read(1, 0, 16) });
    assert_eq!(status, Status::DATA_TRANSFER_ERROR);
    assert_eq!(host.data(PAGE), [0x77; PAGE]);
}
