//! The ring: each message once, in order per producer; full is an answer; what was accepted before CLOSED is drained, and nothing comes after.

use super::{RACE, explore, must_fail};
use crate::ring::mpsc::{PushError, Ring};
use crate::ring::scheme::Sender;
use crate::sync::{Arc, Protection};
use loom::thread;

/// Takes what is there.
fn take(ring: &Ring<u32>, into: &mut Vec<u32>) {
    // SAFETY: each model consumes on one thread until that is joined, and only then on the main thread.
    unsafe { ring.consume(usize::MAX, |message| into.push(message.take())) };
}

/// A consumer that looks twice.
fn spawn_consumer(ring: &Arc<Ring<u32>>) -> thread::JoinHandle<Vec<u32>> {
    let ring = Arc::clone(ring);
    thread::spawn(move || {
        let mut taken = Vec::new();
        take(&ring, &mut taken);
        take(&ring, &mut taken);
        taken
    })
}

/// Pushes each message; returns those that were accepted.
fn push_all(ring: &Ring<u32>, messages: &[u32]) -> Vec<u32> {
    messages.iter().copied().filter(|&message| ring.push(message).is_ok()).collect()
}

fn two_producers() {
    let ring = Arc::new(Ring::new(2));
    let producer = {
        let ring = Arc::clone(&ring);
        thread::spawn(move || push_all(&ring, &[10, 11]))
    };
    let consumer = spawn_consumer(&ring);
    let second = push_all(&ring, &[20]);
    let first = producer.join().unwrap();
    let mut taken = consumer.join().unwrap();
    take(&ring, &mut taken);
    for (number, accepted) in [(1, first), (2, second)] {
        let from_it: Vec<_> = taken.iter().copied().filter(|message| message / 10 == number).collect();
        assert_eq!(from_it, accepted, "accepted by producer {number}, and taken from it");
    }
    assert!(ring.is_empty());
}

#[test]
fn each_accepted_message_is_taken_once_and_in_order() {
    explore(3, two_producers);
}

#[test]
fn without_slot_release_a_message_is_read_while_it_is_written() {
    must_fail(Protection::SlotRelease, RACE, two_producers);
}

fn reused_slots() {
    let ring = Arc::new(Ring::new(2));
    push_all(&ring, &[1, 2]);
    let consumer = spawn_consumer(&ring);
    let mut accepted = push_all(&ring, &[3]);
    thread::yield_now();
    accepted.extend(push_all(&ring, &[4]));
    let mut taken = consumer.join().unwrap();
    take(&ring, &mut taken);
    assert_eq!(taken[..2], [1, 2]);
    assert_eq!(taken[2..], accepted[..]);
}

#[test]
fn a_slot_is_written_again_only_after_it_was_read() {
    explore(3, reused_slots);
}

#[test]
fn without_slot_return_a_slot_is_written_while_it_is_read() {
    must_fail(Protection::SlotReturn, RACE, reused_slots);
}

#[test]
fn batches_are_taken_in_order_and_the_rest_stays_with_the_sender() {
    explore(3, || {
        let ring = Arc::new(Ring::new(2));
        let single = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.push(20))
        };
        let consumer = spawn_consumer(&ring);
        let mut batch = vec![10, 11, 12];
        let pushed = ring.push_from(&mut batch, 3, |message, place| place.fill(message.take())).unwrap_or(0);
        assert_eq!(batch, [10, 11, 12][pushed..]);
        let single = single.join().unwrap();
        let mut taken = consumer.join().unwrap();
        take(&ring, &mut taken);
        let from_batch: Vec<_> = taken.iter().copied().filter(|&message| message < 20).collect();
        assert_eq!(from_batch, [10, 11, 12][..pushed]);
        assert_eq!(taken.len() - pushed, usize::from(single.is_ok()));
    });
}

fn close_races_with_pushes() {
    let ring = Arc::new(Ring::new(2));
    let producers = [10, 20].map(|message| {
        let ring = Arc::clone(&ring);
        thread::spawn(move || ring.push(message))
    });
    ring.close();
    let mut drained = Vec::new();
    take(&ring, &mut drained);
    while !ring.is_empty() {
        thread::yield_now();
        take(&ring, &mut drained);
    }
    let refused =
        producers.into_iter().map(|producer| producer.join().unwrap()).filter(Result::is_err).count();
    assert_eq!(
        drained.len() + refused,
        2,
        "after the drain nothing comes: {drained:?} drained, {refused} refused"
    );
    assert!(ring.is_empty());
    assert_eq!(ring.push(30), Err(PushError::Closed(30)));
}

#[test]
fn what_was_accepted_before_closed_is_drained_and_nothing_comes_after() {
    explore(3, close_races_with_pushes);
}

#[test]
fn without_the_closed_bit_a_message_comes_after_the_drain() {
    must_fail(Protection::ClosedBit, "after the drain nothing comes", close_races_with_pushes);
}
