//! What a pair does with a device that posts what it must not: an error that says what was seen, again on the next
//! call, and everything outstanding still there to be given back.

use super::{CQ_DOORBELL, Device, QID, setup, tagged};
use crate::queue::{Pair, QueueError};
use crate::spec::completion::Completion;

/// A pair with `count` fetched commands, tagged from 0 on, and their identifiers.
fn in_flight(sq_entries: u32, count: u32) -> (Pair<u32>, Device, Vec<u16>) {
    let (mut pair, mut device, _dma) = setup(sq_entries, sq_entries);
    let cids = (0..count).map(|tag| pair.submit(tagged(tag), None, tag).expect("room")).collect();
    pair.commit();
    device.fetch_all();
    (pair, device, cids)
}

/// Posts a wrong completion behind a right one and expects the right one, the error twice, and the rest back.
fn expect_error(
    pair: &mut Pair<u32>,
    device: &mut Device,
    right: u16,
    wrong: Completion,
    expected: QueueError,
) {
    let outstanding = pair.outstanding();
    device.complete(right);
    device.post(wrong);
    let mut seen = 0;
    assert_eq!(pair.process(8, |_, _, _| seen += 1), Err(expected));
    assert_eq!(seen, 1, "what came before the error is delivered");
    assert!(device.rung(CQ_DOORBELL).is_some());
    assert_eq!(pair.process(8, |_, _, _| panic!("behind the error")), Err(expected));
    assert_eq!(device.rung(CQ_DOORBELL), None);
    let mut back = 0;
    pair.abort_all(|_, _| back += 1);
    assert_eq!(back, outstanding - 1);
}

#[test]
fn an_identifier_that_no_slot_has() {
    let (mut pair, mut device, cids) = in_flight(6, 3);
    for cid in [5, 6, 7, 0xffff] {
        let wrong = Completion { cid, ..device.completion() };
        device.post(wrong);
        assert_eq!(pair.process(8, |_, _, _| ()), Err(QueueError::UnknownCid { qid: QID, cid, slots: 5 }));
        device.cq_tail -= 1;
    }
    let wrong = Completion { cid: 0xffff, ..device.completion() };
    let error = QueueError::UnknownCid { qid: QID, cid: 0xffff, slots: 5 };
    expect_error(&mut pair, &mut device, cids[0], wrong, error);
}

#[test]
fn an_identifier_that_was_never_submitted() {
    let (mut pair, mut device, cids) = in_flight(8, 2);
    // Slots are handed out from 0 on, so slot 4 was never used.
    let wrong = Completion { cid: 4, ..device.completion() };
    let error = QueueError::NotOutstanding { qid: QID, cid: 4, last_cid: 4 };
    expect_error(&mut pair, &mut device, cids[0], wrong, error);
}

#[test]
fn a_completion_that_comes_twice() {
    let (mut pair, mut device, cids) = in_flight(8, 3);
    let wrong = Completion { cid: cids[0], ..device.completion() };
    let error = QueueError::NotOutstanding { qid: QID, cid: cids[0], last_cid: cids[0] };
    expect_error(&mut pair, &mut device, cids[0], wrong, error);
}

#[test]
fn a_completion_that_comes_again_when_its_slot_is_in_use_again() {
    let (mut pair, mut device, cids) = in_flight(8, 3);
    device.complete(cids[0]);
    assert_eq!(pair.process(8, |_, _, _| ()), Ok(1));
    let again = pair.submit(tagged(9), None, 9).expect("room");
    pair.commit();
    device.fetch_all();
    assert_eq!(again & 7, cids[0] & 7, "the slot that was used last is used first");
    let wrong = Completion { cid: cids[0], ..device.completion() };
    let error = QueueError::StaleCid { qid: QID, cid: cids[0], expected_cid: again };
    expect_error(&mut pair, &mut device, cids[1], wrong, error);
}

#[test]
fn a_completion_from_before_a_reset() {
    let (mut pair, mut device, cids) = in_flight(8, 1);
    pair.abort_all(|_, _| ());
    pair.reset();
    let mut device =
        Device::new(device.memory.clone(), std::mem::replace(&mut device.doorbells, blank()), &pair);
    let fresh = pair.submit(tagged(1), None, 1).expect("room");
    pair.commit();
    device.fetch_all();
    device.complete(cids[0]);
    let error = QueueError::StaleCid { qid: QID, cid: cids[0], expected_cid: fresh };
    assert_eq!(pair.process(8, |_, _, _| ()), Err(error));
    assert_eq!(pair.outstanding(), 1);
}

fn blank() -> std::sync::Arc<crate::dma::MemoryBlock> {
    crate::dma::MemoryBlock::new(4096, false).expect("memory")
}

#[test]
fn a_head_outside_the_queue() {
    for sqhd in [8, 9, 0xffff] {
        let (mut pair, mut device, cids) = in_flight(8, 3);
        let wrong = Completion { cid: cids[1], sqhd, ..device.completion() };
        let error = QueueError::SubmissionHead { qid: QID, sqhd, entries: 8 };
        expect_error(&mut pair, &mut device, cids[0], wrong, error);
    }
}

/// Completions that a controller posts in another order than it made them tell older heads; no entry is given back by one, and none is taken
/// twice.
#[test]
fn a_head_that_goes_backwards_is_no_news() {
    let (mut pair, mut device, cids) = in_flight(4, 3);
    for (cid, sqhd) in cids.into_iter().zip([3, 1, 2]) {
        device.post(Completion { sqhd, cid, ..device.completion() });
        assert_eq!(pair.process(8, |_, _, _| ()), Ok(1), "head {sqhd}");
    }
    for tag in 0..3 {
        pair.submit(tagged(tag), None, tag).expect("the newest head counts: all entries are free");
    }
    assert!(pair.is_full(), "and no more than that");
}

/// What the device cannot have fetched gives no entry back, and takes none.
#[test]
fn a_head_ahead_of_the_tail_is_no_news() {
    let (mut pair, mut device, cids) = in_flight(4, 3);
    for (cid, sqhd) in cids.into_iter().zip([1, 1, 0]) {
        device.post(Completion { sqhd, cid, ..device.completion() });
        assert_eq!(pair.process(8, |_, _, _| ()), Ok(1), "head {sqhd}");
    }
    let fitted = (0..3).take_while(|tag| pair.submit(tagged(*tag), None, *tag).is_ok()).count();
    assert_eq!(fitted, 1, "entry 3 was never used, and one stays free");
}

#[test]
fn a_head_in_what_was_submitted_across_the_wrap() {
    let (mut pair, mut device, cids) = in_flight(4, 3);
    device.complete_all(&cids);
    assert_eq!(pair.process(8, |_, _, _| ()), Ok(3));
    // Entries 3, 0 and 1 now: heads 3, 0, 1 and 2 are right, in this order.
    let cids: Vec<_> = (0..3).map(|tag| pair.submit(tagged(tag), None, tag).expect("room")).collect();
    pair.commit();
    device.fetch_all();
    for (cid, sqhd) in cids.into_iter().zip([3, 0, 2]) {
        device.post(Completion { sqhd, cid, ..device.completion() });
        assert_eq!(pair.process(8, |_, _, _| ()), Ok(1), "head {sqhd}");
    }
}

/// The head reaches the end of the queue before it wraps, while the tail has wrapped already: what it says there counts too.
#[test]
fn a_head_short_of_the_wrap_gives_entries_back() {
    let (mut pair, mut device, cids) = in_flight(8, 3);
    device.complete_all(&cids);
    assert_eq!(pair.process(8, |_, _, _| ()), Ok(3));
    let cids: Vec<_> = (0..5).map(|tag| pair.submit(tagged(tag), None, tag).expect("room")).collect();
    pair.commit();
    device.post(Completion { sqhd: 7, cid: cids[0], ..device.completion() });
    assert_eq!(pair.process(8, |_, _, _| ()), Ok(1));
    let fitted = (0..8).take_while(|tag| pair.submit(tagged(*tag), None, *tag).is_ok()).count();
    assert_eq!(fitted, 3, "of seven trackers four are in use, and there are entries for all");
}

#[test]
fn a_completion_for_another_queue() {
    let (mut pair, mut device, cids) = in_flight(8, 3);
    let wrong = Completion { cid: cids[1], sqid: 4, ..device.completion() };
    expect_error(&mut pair, &mut device, cids[0], wrong, QueueError::SubmissionQueue { qid: QID, sqid: 4 });
}

#[test]
fn errors_say_what_was_seen() {
    let error = QueueError::StaleCid { qid: 3, cid: 0x105, expected_cid: 0x205 };
    assert_eq!(
        error.to_string(),
        "queue pair 3: completion of CID 0x0105, whose slot now has 0x0205 in flight; reset the controller"
    );
}
