//! The ring against an oracle, with panicking consumers, and under several producers.

use super::{Census, Counted};
use crate::ring::mpsc::{PushError, Ring};
use crate::ring::place::Taken;
use crate::ring::scheme::Sender;
use crate::ring::slot::Run;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

#[derive(Clone, Debug)]
enum Step {
    Push,
    PushBatch(usize),
    Consume(usize),
    ConsumeRuns,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Push),
        4 => (0..20_usize).prop_map(Step::PushBatch),
        6 => (0..20_usize).prop_map(Step::Consume),
        1 => Just(Step::ConsumeRuns),
        1 => Just(Step::Close),
    ]
}

/// Appends what fits, as senders of batches do.
fn push_batch(ring: &Arc<Ring<Counted>>, values: &mut Vec<Counted>) -> Result<usize, PushError<()>> {
    ring.push_from(values, values.len(), |value, place| place.fill(value.take()))
}

/// What the ring should be: a queue with a capacity that can be closed.
struct Oracle {
    queue: VecDeque<u64>,
    capacity: usize,
    is_closed: bool,
}

impl Oracle {
    fn room(&self) -> usize {
        if self.is_closed { 0 } else { self.capacity - self.queue.len() }
    }

    fn refusal<T>(&self, value: T) -> PushError<T> {
        if self.is_closed { PushError::Closed(value) } else { PushError::Full(value) }
    }
}

fn ids(values: &[Counted]) -> Vec<u64> {
    values.iter().map(|value| value.id).collect()
}

/// Takes up to `max` messages and returns their identities.
fn take(ring: &Ring<Counted>, max: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    // SAFETY: each test consumes on one thread.
    unsafe { ring.consume(max, |value| taken.push(value.get().id)) };
    taken
}

/// As [`take`], for all of them and in runs.
fn take_runs(ring: &Ring<Counted>) -> Vec<u64> {
    let mut taken = Vec::new();
    // SAFETY: each test consumes on one thread.
    unsafe { ring.consume_runs(|run| run.for_each(|value| taken.push(value.get().id))) };
    taken
}

proptest! {
    #[test]
    fn it_is_a_bounded_queue(log_capacity in 1..5_u32, steps in prop::collection::vec(step(), 0..200)) {
        let census = Census::default();
        let ring = Arc::new(Ring::new(1 << log_capacity));
        let mut oracle = Oracle { queue: VecDeque::new(), capacity: ring.capacity(), is_closed: false };
        let mut next = 0..;
        for step in steps {
            match step {
                Step::Push => {
                    let id = next.next().unwrap();
                    let expected = if oracle.room() > 0 { Ok(()) } else { Err(oracle.refusal(id)) };
                    let pushed = ring.push(census.value(id)).map_err(|refused| match refused {
                        PushError::Full(value) => PushError::Full(value.id),
                        PushError::Closed(value) => PushError::Closed(value.id),
                    });
                    prop_assert_eq!(pushed, expected);
                    oracle.queue.extend(expected.is_ok().then_some(id));
                }
                Step::PushBatch(count) => {
                    let batch: Vec<_> = next.by_ref().take(count).collect();
                    let mut values: Vec<_> = batch.iter().map(|&id| census.value(id)).collect();
                    let fitting = count.min(oracle.room());
                    let expected = if fitting > 0 || count == 0 { Ok(fitting) } else { Err(oracle.refusal(())) };
                    prop_assert_eq!(push_batch(&ring, &mut values), expected);
                    prop_assert_eq!(ids(&values), &batch[fitting..]);
                    oracle.queue.extend(&batch[..fitting]);
                }
                Step::Consume(max) => {
                    let expected: Vec<_> = oracle.queue.drain(..max.min(oracle.queue.len())).collect();
                    prop_assert_eq!(take(&ring, max), expected);
                }
                Step::ConsumeRuns => prop_assert_eq!(take_runs(&ring), Vec::from(std::mem::take(&mut oracle.queue))),
                Step::Close => {
                    ring.close();
                    oracle.is_closed = true;
                }
            }
            prop_assert_eq!(ring.len(), oracle.queue.len());
            prop_assert_eq!(ring.is_empty(), oracle.queue.is_empty());
            prop_assert_eq!(ring.has_message(), !oracle.queue.is_empty());
            prop_assert_eq!(ring.is_closed(), oracle.is_closed);
            prop_assert_eq!(census.count(), ring.len());
        }
        prop_assert_eq!(take(&ring, usize::MAX), Vec::from(oracle.queue));
        drop(ring);
        prop_assert_eq!(census.count(), 0);
    }
}

#[test]
fn a_consumer_that_panics_loses_its_own_message_only() {
    let census = Census::default();
    let ring = Ring::new(4);
    for id in 0..4 {
        ring.push(census.value(id)).unwrap();
    }
    let panicking = || {
        // SAFETY: the one consumer is this thread.
        unsafe { ring.consume(usize::MAX, |value| assert_ne!(value.get().id, 1, "on purpose")) }
    };
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    assert_eq!(take(&ring, usize::MAX), [2, 3]);
    assert_eq!(census.count(), 0);
}

#[test]
fn a_run_that_is_not_taken_to_its_end_stays() {
    let census = Census::default();
    let ring = Ring::new(128);
    for id in 0..100 {
        ring.push(census.value(id)).unwrap();
    }
    assert_eq!(take(&ring, 90).len(), 90);
    for id in 100..200 {
        ring.push(census.value(id)).unwrap();
    }
    let panicking = || {
        // SAFETY: the one consumer is this thread.
        unsafe { ring.consume_runs(|run| run.for_each(|value| assert_ne!(value.get().id, 95, "on purpose"))) }
    };
    assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    // SAFETY: as above.
    unsafe { ring.consume_runs(|_run| ()) };
    assert_eq!(ring.len(), 104);
    assert_eq!(take_runs(&ring), (96..200).collect::<Vec<_>>());
    assert_eq!(census.count(), 0);
}

#[test]
fn a_message_that_is_lent_and_not_taken_is_dropped() {
    let census = Census::default();
    let mut taken = Vec::new();
    Run::lend(census.value(1), |run| run.for_each(|value| taken.push(value.get().id)));
    Run::lend(census.value(2), |run| assert_eq!(run.len(), 1));
    assert_eq!((taken, census.count()), (vec![1], 0));
}

#[test]
fn a_message_is_looked_at_moved_out_or_dropped_where_it_lies_and_once() {
    let census = Census::default();
    let ring = Ring::new(4);
    for id in 0..4 {
        ring.push(Some(census.value(id))).unwrap();
    }
    let mut kept = Vec::new();
    let mut each = |message: Taken<'_, Option<Counted>>| match message.get().as_ref().unwrap().id {
        0 => kept.push(message.take().unwrap()),
        1 => drop(message),
        2 => kept.push(message.part(Option::as_mut).unwrap().take()),
        // What is not found comes back whole.
        _ => kept.push(message.part(|_| None::<&mut u32>).unwrap_err().take().unwrap()),
    };
    // SAFETY: the one consumer is this thread.
    assert_eq!(unsafe { ring.consume(usize::MAX, &mut each) }, 4);
    assert_eq!(ids(&kept), [0, 2, 3]);
    assert_eq!(census.count(), 3);
}

#[test]
fn dropping_a_ring_that_was_not_drained_is_a_bug_and_leaks_nothing() {
    let census = Census::default();
    let ring = Ring::new(4);
    ring.push(census.value(0)).unwrap();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(ring)));
    assert_eq!(dropped.is_err(), cfg!(debug_assertions), "asserted in debug builds");
    assert_eq!(census.count(), 0);
}

#[test]
fn capacities_that_are_no_power_of_two_are_refused() {
    for capacity in [0, 1, 3, 100] {
        assert!(catch_unwind(|| Ring::<u32>::new(capacity)).is_err(), "capacity {capacity}");
    }
}

/// The consumer may take what was there before while a batch is being written: the room is for others.
#[test]
fn a_batch_that_goes_on_where_room_was_made_asks_for_no_more_than_it_has() {
    let ring = Ring::new(4);
    ring.push(10).unwrap();
    ring.push(11).unwrap();
    let mut asked = Vec::new();
    let pushed = ring.push_with(3, |index, place| {
        // SAFETY: the one consumer is this thread.
        unsafe { ring.consume(usize::MAX, |message| drop(message)) };
        asked.push(index);
        place.fill(index)
    });
    assert_eq!(pushed, Ok(3));
    assert_eq!(asked, [1, 0, 2]);
    // SAFETY: as above.
    assert_eq!(unsafe { ring.consume(usize::MAX, |message| assert_eq!(message.take(), 2)) }, 1);
}

#[test]
fn what_producers_were_told_was_accepted_is_what_the_consumer_takes() {
    const PRODUCERS: u64 = 3;
    let census = Census::default();
    let ring = Arc::new(Ring::new(64));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (ring, census) = (Arc::clone(&ring), census.clone());
            thread::spawn(move || produce_until_closed(&ring, &census, producer << 32))
        })
        .collect();
    let mut taken = Vec::new();
    while taken.len() < 100_000 {
        let before = taken.len();
        taken.extend(take(&ring, 32));
        if taken.len() == before {
            thread::yield_now();
        }
    }
    ring.close();
    while !ring.is_empty() {
        taken.extend(take(&ring, usize::MAX));
    }
    let accepted: Vec<_> = producers.into_iter().map(|producer| producer.join().unwrap()).collect();
    assert_eq!(take(&ring, usize::MAX), [0; 0], "nothing comes after the drain");
    for (producer, accepted) in (0..).zip(accepted) {
        let from_it = taken.iter().filter(|&&id| id >> 32 == producer).copied();
        assert!(from_it.eq(accepted), "each message of producer {producer} once, in order");
    }
    assert_eq!(census.count(), 0);
}

/// Pushes messages, one by one and in batches, until the ring is closed; returns what was accepted.
fn produce_until_closed(ring: &Arc<Ring<Counted>>, census: &Census, first: u64) -> Vec<u64> {
    let mut accepted = Vec::new();
    let mut id = first;
    loop {
        let closed = if id.is_multiple_of(3) {
            let mut batch: Vec<_> = (id..id + 5).map(|id| census.value(id)).collect();
            let pushed = push_batch(ring, &mut batch);
            let count = pushed.unwrap_or(0) as u64;
            accepted.extend(id..id + count);
            id += count;
            pushed == Err(PushError::Closed(()))
        } else {
            let pushed = ring.push(census.value(id));
            if pushed.is_ok() {
                accepted.push(id);
                id += 1;
            }
            matches!(pushed, Err(PushError::Closed(_)))
        };
        if closed {
            return accepted;
        }
        if ring.len() == ring.capacity() {
            thread::yield_now();
        }
    }
}
