//! What a pair does with a correct device.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::{CQ_DOORBELL, Device, QID, SQ_DOORBELL, config, setup, tagged};
use crate::dma::DmaSlice;
use crate::dma::prp::PrpError;
use crate::queue::{Pair, PairConfig, RejectReason, SetupError};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::transport::Doorbell;

fn submit(pair: &mut Pair<u32>, tag: u32) -> u16 {
    pair.submit(tagged(tag), None, tag).expect("room")
}

/// Everything that is to be had, as request tags.
fn drain(pair: &mut Pair<u32>) -> Vec<u32> {
    let mut tags = Vec::new();
    pair.process(usize::MAX, |tag, _, _| tags.push(tag)).expect("a correct device");
    tags
}

#[test]
fn a_command_arrives_whole_and_its_completion_too() {
    let (mut pair, mut device, _dma) = setup(4, 4);
    let cid = submit(&mut pair, 17);
    assert_eq!(pair.find(cid), Some(&17));
    assert!(device.fetch().is_none(), "not committed yet");
    pair.commit();
    assert_eq!(device.fetch(), Some(Command { cid, ..tagged(17) }));
    let posted = Completion { dw0: 0xdead, dw1: 0xbeef, status: 0x4005, cid, ..device.completion() };
    device.post(posted);
    let mut seen = None;
    let count = pair.process(8, |tag, data, completion| {
        assert!(data.is_none());
        seen = Some((tag, completion));
    });
    assert_eq!((count, seen), (Ok(1), Some((17, posted))));
    assert_eq!((pair.find(cid), pair.outstanding()), (None, 0));
}

#[test]
fn a_command_gets_its_own_identifier_whatever_it_brought_along() {
    let (mut pair, mut device, _dma) = setup(4, 4);
    for brought in [0, 1, 0x8001, 0xffff] {
        let cid = pair.submit(Command { cid: brought, ..tagged(1) }, None, 1).expect("room");
        pair.commit();
        assert_eq!(device.fetch(), Some(Command { cid, ..tagged(1) }));
        device.complete(cid);
        assert_eq!(drain(&mut pair), [1]);
    }
}

#[test]
fn queues_wrap_and_phases_flip_at_every_size() {
    for (sq, cq) in [(2, 2), (2, 3), (3, 7), (5, 5), (16, 31)] {
        let (mut pair, mut device, _dma) = setup(sq, cq);
        let mut tag = 0;
        while tag < 10 * cq {
            // A batch of every size in turn, completed backwards.
            let batch = 1 + tag % (sq - 1);
            let tags: Vec<_> = (tag..tag + batch).collect();
            let cids: Vec<_> = tags.iter().map(|&tag| submit(&mut pair, tag)).collect();
            pair.commit();
            let fetched = device.fetch_all();
            assert_eq!(fetched.iter().map(|command| command.cdw10).collect::<Vec<_>>(), tags);
            assert_eq!(fetched.iter().map(|command| command.cid).collect::<Vec<_>>(), cids);
            cids.iter().rev().for_each(|&cid| device.complete(cid));
            assert_eq!(drain(&mut pair), tags.iter().rev().copied().collect::<Vec<_>>());
            assert_eq!(drain(&mut pair), [0_u32; 0], "an old entry with the old phase is no completion");
            tag += batch;
        }
    }
}

#[test]
fn a_full_queue_is_freed_by_the_head_only() {
    let (mut pair, mut device, _dma) = setup(4, 8);
    let cids: Vec<_> = (0..3).map(|tag| submit(&mut pair, tag)).collect();
    assert!(pair.is_full());
    assert_eq!((pair.outstanding(), pair.capacity()), (3, 3));
    let rejected = pair.submit(tagged(9), None, 9).expect_err("full");
    assert_eq!((rejected.reason, rejected.request), (RejectReason::QueueFull, 9));
    pair.commit();
    assert_eq!(device.fetch_all().len(), 3);
    assert!(pair.is_full(), "fetching says nothing to the driver");
    // Completions that report an old head free trackers, but no entries.
    for &cid in &cids[..2] {
        device.post(Completion { cid, sqhd: 0, ..device.completion() });
    }
    assert_eq!(drain(&mut pair), [0, 1]);
    assert_eq!(pair.outstanding(), 1);
    assert!(pair.is_full());
    assert!(pair.submit(tagged(9), None, 9).is_err());
    device.post(Completion { cid: cids[2], sqhd: 1, ..device.completion() });
    assert_eq!(drain(&mut pair), [2]);
    submit(&mut pair, 10);
    assert!(pair.is_full(), "one entry was freed and is taken again");
}

#[test]
fn trackers_limit_what_is_outstanding() {
    let (mut pair, mut device, _dma) = setup(4, 4);
    let first = submit(&mut pair, 0);
    submit(&mut pair, 1);
    submit(&mut pair, 2);
    pair.commit();
    device.fetch_all();
    device.complete(first);
    assert_eq!(drain(&mut pair), [0]);
    // The device has fetched all three, but two are still in flight.
    submit(&mut pair, 3);
    assert!(pair.is_full());
    assert!(pair.submit(tagged(4), None, 4).is_err());
}

#[test]
fn doorbells_are_rung_once_per_batch_and_never_unchanged() {
    let (mut pair, mut device, _dma) = setup(8, 8);
    pair.commit();
    assert_eq!(device.rung(SQ_DOORBELL), None);
    let cids: Vec<_> = (0..3).map(|tag| submit(&mut pair, tag)).collect();
    assert_eq!(device.rung(SQ_DOORBELL), None);
    pair.commit();
    pair.commit();
    assert_eq!(device.doorbells.load_u32(SQ_DOORBELL, Ordering::Acquire), 3);
    device.fetch_all();
    pair.commit();
    assert_eq!(device.rung(SQ_DOORBELL), None);
    assert_eq!(drain(&mut pair), [0_u32; 0]);
    assert_eq!(device.rung(CQ_DOORBELL), None);
    device.complete_all(&cids);
    assert_eq!(pair.process(0, |_, _, _| panic!("none was asked for")), Ok(0));
    assert_eq!(device.rung(CQ_DOORBELL), None);
    let during = |_, _, _| assert_eq!(device.rung(CQ_DOORBELL), None, "only at the end of a batch");
    assert_eq!(pair.process(2, during), Ok(2));
    assert_eq!(device.rung(CQ_DOORBELL), Some(2));
    assert_eq!(drain(&mut pair), [2]);
    assert_eq!(device.rung(CQ_DOORBELL), Some(3));
    assert_eq!(drain(&mut pair), [0_u32; 0]);
    assert_eq!(device.rung(CQ_DOORBELL), None);
}

#[test]
fn a_panic_in_the_callback_loses_nothing_else() {
    let (mut pair, mut device, _dma) = setup(8, 8);
    let cids: Vec<_> = (0..3).map(|tag| submit(&mut pair, tag)).collect();
    pair.commit();
    device.fetch_all();
    device.complete_all(&cids);
    let result = catch_unwind(AssertUnwindSafe(|| {
        pair.process(8, |tag, _, _| assert_ne!(tag, 1, "foreign code fails"))
    }));
    assert!(result.is_err());
    assert_eq!(device.rung(CQ_DOORBELL), Some(2));
    assert_eq!(pair.outstanding(), 1);
    assert_eq!(drain(&mut pair), [2]);
}

#[test]
fn data_is_described_travels_along_and_comes_back() {
    let (mut pair, mut device, dma) = setup(16, 16);
    let untouched = Command { prp1: 0x1111_1000, prp2: 0x2222_2000, ..tagged(0) };
    pair.submit(untouched, None, 0).expect("room");
    let mut expected = vec![(0x1111_1000, 0x2222_2000)];
    for (tag, (offset, len)) in (1..).zip([(0, 512), (4092, 8), (4092, 4096 * 3), (0, 1 << 20), (4, 1 << 20)])
    {
        let buffer = dma.allocate((1 << 20) + 4096).expect("memory");
        let iova = buffer.iova() + offset as u64;
        let slice = DmaSlice::new(buffer, offset, len).expect("inside");
        pair.submit(tagged(tag), Some(slice), tag).expect("room");
        expected.push((iova, len as u64));
    }
    pair.commit();
    let commands = device.fetch_all();
    assert_eq!((commands[0].prp1, commands[0].prp2), expected[0]);
    for (command, &(iova, len)) in commands.iter().zip(&expected).skip(1) {
        assert_eq!(command.prp1, iova);
        assert_eq!(
            pages_after_first(&device, command, len),
            pages(iova, len)[1..],
            "{len} bytes at {iova:#x}"
        );
    }
    for command in &commands {
        device.complete(command.cid);
    }
    let mut back = Vec::new();
    pair.process(usize::MAX, |_, data, _| back.push(data.map(|slice| (slice.iova(), slice.len() as u64))))
        .expect("a correct device");
    assert_eq!(back[0], None);
    assert!(back[1..].iter().zip(&expected[1..]).all(|(back, expected)| back.as_ref() == Some(expected)));
}

/// The page addresses that the device finds behind PRP2.
fn pages_after_first(device: &Device, command: &Command, len: u64) -> Vec<u64> {
    let first = 4096 - command.prp1 % 4096;
    let count = len.saturating_sub(first).div_ceil(4096);
    match count {
        0 => vec![],
        1 => vec![command.prp2],
        _ => {
            let (block, offset) = device.memory.at(command.prp2);
            let entry = |i| block.load_u64(offset + i * 8, Ordering::Relaxed);
            (0..count as usize).map(entry).collect()
        }
    }
}

/// The addresses of the pages that a range touches, the first with its offset.
fn pages(iova: u64, len: u64) -> Vec<u64> {
    (iova / 4096..(iova + len).div_ceil(4096)).map(|page| (page * 4096).max(iova)).collect()
}

#[test]
fn data_that_is_too_large_comes_back_with_the_limit() {
    let (mut pair, mut device, dma) = setup(4, 4);
    let data = DmaSlice::from(dma.allocate((1 << 20) + 1).expect("memory"));
    let iova = data.iova();
    let rejected = pair.submit(tagged(1), Some(data), 5).expect_err("too large");
    assert_eq!(rejected.reason, RejectReason::TooLarge { len: (1 << 20) + 1, limit: 1 << 20 });
    assert_eq!((rejected.request, rejected.data.map(|data| data.iova())), (5, Some(iova)));
    assert_eq!(pair.outstanding(), 0);
    pair.commit();
    assert!(device.fetch().is_none());
}

#[test]
fn the_longest_transfer_is_lowered_to_what_the_controller_takes_and_never_raised() {
    let (mut pair, _device, dma) = setup::<u32>(4, 4);
    for (told, limit) in [(1 << 21, 1 << 20), (8192, 8192), (1 << 20, 8192)] {
        pair.limit_transfer_bytes(told);
        assert_eq!(pair.max_transfer_bytes(), limit);
    }
    for (len, fits) in [(8192, true), (8193, false)] {
        let data = DmaSlice::from(dma.allocate(len).expect("memory"));
        assert_eq!(pair.submit(tagged(0), Some(data), 0).is_ok(), fits, "{len}");
    }
    assert_eq!(pair.qid(), QID);
    pair.abort_all(|_, _| ());
}

/// It is asked before a thread goes to sleep: wrong either way, that thread sleeps through a completion or never sleeps.
#[test]
fn whether_there_is_a_completion_is_known_without_taking_it() {
    let (mut pair, mut device, _dma) = setup(4, 4);
    let cid = submit(&mut pair, 0);
    pair.commit();
    device.fetch_all();
    assert!(!pair.has_completion());
    device.complete(cid);
    assert!(pair.has_completion());
    assert_eq!(drain(&mut pair), [0]);
    assert!(!pair.has_completion());
}

#[test]
fn abort_all_gives_everything_back_once() {
    let (mut pair, mut device, dma) = setup(8, 8);
    let cids: Vec<_> = (0..6)
        .map(|tag| {
            let data = (tag % 2 == 0).then(|| DmaSlice::from(dma.allocate(4096).expect("memory")));
            pair.submit(tagged(tag), data, tag).expect("room")
        })
        .collect();
    pair.commit();
    device.fetch_all();
    device.complete(cids[1]);
    assert_eq!(drain(&mut pair), [1]);
    device.complete(cids[2]);
    let mut back = Vec::new();
    pair.abort_all(|tag, data| back.push((tag, data.is_some())));
    back.sort_unstable();
    assert_eq!(back, [(0, true), (2, true), (3, false), (4, true), (5, false)]);
    assert_eq!(pair.outstanding(), 0);
    pair.abort_all(|tag, _| panic!("{tag} came back twice"));
}

#[test]
fn a_reset_pair_is_as_new() {
    let (mut pair, mut device, dma) = setup(4, 5);
    for tag in 0..7 {
        let cid = submit(&mut pair, tag);
        pair.commit();
        device.fetch_all();
        device.complete(cid);
        assert_eq!(drain(&mut pair), [tag]);
    }
    submit(&mut pair, 100);
    pair.abort_all(|_, _| ());
    pair.reset();
    let before = dma.bytes_allocated();
    let mut device = Device::new(device.memory, device.doorbells, &pair);
    assert_eq!(drain(&mut pair), [0_u32; 0], "old completions are gone");
    for tag in 0..20 {
        let cid = submit(&mut pair, tag);
        pair.commit();
        assert_eq!(device.fetch_all(), [Command { cid, ..tagged(tag) }]);
        device.complete(cid);
        assert_eq!(drain(&mut pair), [tag]);
    }
    assert_eq!(dma.bytes_allocated(), before);
}

#[test]
#[should_panic(expected = "queue pair 3 is reset with commands outstanding")]
fn a_reset_with_commands_outstanding_is_a_bug() {
    let (mut pair, _device, _dma) = setup(4, 4);
    submit(&mut pair, 1);
    pair.reset();
}

#[test]
fn memory_comes_back_unless_something_is_in_flight() {
    let (mut pair, mut device, dma) = setup(64, 64);
    let cid = submit(&mut pair, 1);
    pair.commit();
    device.fetch_all();
    device.complete(cid);
    drain(&mut pair);
    drop(pair);
    assert_eq!(dma.bytes_allocated(), 0);

    let (mut pair, _device, dma) = setup(64, 64);
    let data = DmaSlice::from(dma.allocate(4096).expect("memory"));
    pair.submit(tagged(1), Some(data), 1).expect("room");
    let in_use = dma.bytes_allocated();
    drop(pair);
    assert_eq!(dma.bytes_allocated(), in_use, "a device may still write there");
    dma.unmap_all().expect("unmapped");
    assert_eq!(dma.bytes_mapped(), 0);
}

#[test]
fn identifiers_are_unique_and_never_all_ones() {
    for entries in [2, 3, 256, 257, 32768, 65536] {
        let (mut pair, mut device, _dma) = setup(entries, entries);
        let uses = 100_000 / entries + 2;
        for _ in 0..uses {
            let cids: HashSet<_> = (1..entries).map(|tag| submit(&mut pair, tag)).collect();
            assert_eq!(cids.len(), entries as usize - 1);
            assert!(!cids.contains(&0xffff));
            pair.commit();
            device.fetch_all().iter().for_each(|command| device.complete(command.cid));
            assert_eq!(drain(&mut pair).len(), entries as usize - 1);
        }
    }
}

#[test]
fn impossible_sizes_are_refused() {
    let (_pair, device, dma) = setup::<u32>(2, 2);
    let new = |config: PairConfig| {
        let doorbell = |offset| Doorbell::in_block(device.doorbells.clone(), offset).expect("inside");
        Pair::<u32>::new(&dma, config, doorbell(SQ_DOORBELL), doorbell(CQ_DOORBELL))
    };
    for entries in [0, 1, 65537, u32::MAX] {
        let wrong = SetupError::Entries { qid: QID, entries }.to_string();
        assert_eq!(new(config(entries, 16)).map(|_| ()).map_err(|error| error.to_string()), Err(wrong));
    }
    assert!(matches!(new(config(16, 0)), Err(SetupError::Entries { entries: 0, .. })));
    let small = new(config(16, 15));
    assert!(matches!(small, Err(SetupError::CompletionQueueTooSmall { sq_entries: 16, cq_entries: 15, .. })));
    for page_size in [0, 2048, 5000, 1 << 28] {
        let refused = new(PairConfig { page_size, ..config(16, 16) });
        assert!(matches!(refused, Err(SetupError::PageSize { page_size: p, .. }) if p == page_size));
    }
    let large = new(PairConfig { max_transfer_bytes: usize::MAX, ..config(16, 16) });
    assert!(matches!(large, Err(SetupError::Memory { .. })));
    let pair = new(PairConfig { page_size: 1 << 16, ..config(16, 16) }).expect("64 KiB pages");
    assert!(pair.sq_iova().is_multiple_of(1 << 16) && pair.cq_iova().is_multiple_of(1 << 16));
    let empty = RejectReason::from(PrpError::Empty);
    assert_eq!(empty.to_string(), PrpError::Empty.to_string());
}
